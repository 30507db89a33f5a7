"""The words of `batch-settlement` on the wire: what stands in `extra` and in a payload.

It knows shapes and spellings, and nothing of what they are worth.
"""

from typing import Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from paywall.protocol.channel import ChainState
from paywall.protocol.x402 import show_bytes


class BatchExtra(msgspec.Struct, rename="camel", omit_defaults=True, frozen=True, gc=False):
    """`extra` of an offer. `in_flight` is ours: how many vouchers may be under way at once."""

    name: str
    version: str
    receiver_authorizer: str
    withdraw_delay: int
    min_deposit: str | UnsetType | None = UNSET
    asset_transfer_method: str | UnsetType | None = UNSET
    in_flight: int | UnsetType | None = UNSET
    channel_state: "ChannelStateWire | UnsetType | None" = UNSET
    voucher_state: "VoucherStateWire | UnsetType | None" = UNSET


class ChannelStateWire(msgspec.Struct, rename="camel", omit_defaults=True, frozen=True, gc=False):
    """What the provider knows of a channel."""

    channel_id: str
    balance: str
    total_claimed: str
    withdraw_requested_at: int
    refund_nonce: str
    charged_cumulative_amount: str | UnsetType | None = UNSET


class VoucherStateWire(msgspec.Struct, rename="camel", frozen=True, gc=False):
    """The proof: the payer's own highest signature."""

    signed_max_claimable: str
    signature: str


class ReceiptExtra(msgspec.Struct, rename="camel", omit_defaults=True, frozen=True, gc=False):
    """`extra` of a receipt. `charged_total` is ours: the provider's count, whoever reads it."""

    channel_state: ChannelStateWire
    charged_amount: str | UnsetType | None = UNSET
    charged_total: str | UnsetType | None = UNSET


class ConfigWire(msgspec.Struct, rename="camel", frozen=True, gc=False):
    payer: str
    payer_authorizer: str
    receiver: str
    receiver_authorizer: str
    token: str
    withdraw_delay: int
    salt: str


class VoucherWire(msgspec.Struct, rename="camel", frozen=True, gc=False):
    channel_id: str
    max_claimable_amount: str
    signature: str


class Erc3009Wire(msgspec.Struct, rename="camel", frozen=True, gc=False):
    valid_after: str
    valid_before: str
    salt: str
    signature: str


class AuthorizationWire(msgspec.Struct, frozen=True, gc=False):
    erc3009: Erc3009Wire | UnsetType | None = msgspec.field(
        name="erc3009Authorization", default=UNSET
    )


class DepositWire(msgspec.Struct, frozen=True, gc=False):
    amount: str
    authorization: AuthorizationWire


class _Payload(
    msgspec.Struct, rename="camel", tag_field="type", frozen=True, kw_only=True, gc=False
):
    channel_config: Raw
    voucher: VoucherWire


class VoucherPayload(_Payload, tag="voucher", frozen=True, kw_only=True, gc=False):
    pass


class DepositPayload(_Payload, tag="deposit", frozen=True, kw_only=True, gc=False):
    deposit: DepositWire


class RefundPayload(
    _Payload, tag="refund", omit_defaults=True, frozen=True, kw_only=True, gc=False
):
    amount: str | UnsetType | None = UNSET


Parsed = VoucherPayload | DepositPayload | RefundPayload
PAYLOADS: "Final[msgspec.json.Decoder[Parsed]]" = msgspec.json.Decoder(Parsed)
CONFIG: "Final[msgspec.json.Decoder[ConfigWire]]" = msgspec.json.Decoder(ConfigWire)
EXTRA: "Final[msgspec.json.Decoder[BatchExtra]]" = msgspec.json.Decoder(BatchExtra)
RECEIPT_EXTRA: "Final[msgspec.json.Decoder[ReceiptExtra]]" = msgspec.json.Decoder(ReceiptExtra)
KIND: "Final[msgspec.json.Decoder[dict[str, Raw]]]" = msgspec.json.Decoder(dict[str, Raw])


def channel_state(channel_id: bytes, chain: ChainState, total: int | UnsetType) -> ChannelStateWire:
    """The channel on the wire, with `total` as what it owes, when it is named."""
    return ChannelStateWire(
        channel_id=show_bytes(channel_id),
        balance=str(chain.balance),
        total_claimed=str(chain.claimed),
        withdraw_requested_at=chain.withdraw_requested_at,
        refund_nonce=str(chain.refund_nonce),
        charged_cumulative_amount=UNSET if total is UNSET else str(total),
    )
