"""The wire between a server and a facilitator: `/verify`, `/settle`, `/supported`. Both sides.

A facilitator looks at payments for servers that do not read the chain, and carries them there. It
gets the payment as the payer sent it with the terms that the server offered, or what the server
itself wants done with its channels: `claim` and `settle`, and `refund` completed with what the
chain must know.

Sources: x402 v2 §7; batch-settlement EVM specification, "Facilitator Interface".
"""

from typing import Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from paywall.protocol.channel import Channel
from paywall.protocol.claims import claimable_total
from paywall.protocol.schemes.batch import DepositPayload, VoucherWire, config_wire
from paywall.protocol.x402 import (
    VERSION,
    PaymentPayload,
    PaymentRequirements,
    encode_json,
    show_bytes,
)

SETTLEMENT_PENDING: Final = "settlement_pending"
"""Sent and not seen mined: ask again with the same payment, and it is not sent twice."""
UNEXPECTED_VERIFY: Final = "unexpected_verify_error"
UNEXPECTED_SETTLE: Final = "unexpected_settle_error"
INVALID_PAYLOAD: Final = "invalid_payload"
INVALID_VERSION: Final = "invalid_x402_version"
INVALID_NETWORK: Final = "invalid_network"
UNSUPPORTED_SCHEME: Final = "unsupported_scheme"

# The words of batch-settlement that a facilitator says and a provider does not.
_EVM: Final = "invalid_batch_settlement_evm_"
AUTHORIZER_MISMATCH: Final = _EVM + "authorizer_address_mismatch"
AUTHORIZER_MISSING: Final = _EVM + "authorizer_not_configured"
CLAIM_PAYLOAD: Final = _EVM + "claim_payload"
CLAIM_FAILED: Final = _EVM + "claim_transaction_failed"
CLAIM_SIMULATION: Final = _EVM + "claim_simulation_failed"
DEPOSIT_SIMULATION: Final = _EVM + "deposit_simulation_failed"
DELAY_OUT_OF_RANGE: Final = _EVM + "withdraw_delay_out_of_range"
NOTHING_TO_SETTLE: Final = _EVM + "nothing_to_settle"
REFUND_FAILED: Final = _EVM + "refund_transaction_failed"
REFUND_SIMULATION: Final = _EVM + "refund_simulation_failed"
SETTLE_PAYLOAD: Final = _EVM + "settle_payload"
SETTLE_FAILED: Final = _EVM + "settle_transaction_failed"
SETTLE_SIMULATION: Final = _EVM + "settle_simulation_failed"


# -- Questions -----------------------------------------------------------------------------------


class Question(msgspec.Struct, rename="camel", frozen=True):
    """What `/verify` and `/settle` are asked."""

    payment_payload: PaymentPayload
    payment_requirements: PaymentRequirements
    x402_version: int = msgspec.field(name="x402Version", default=VERSION)


class ClaimVoucherWire(msgspec.Struct, rename="camel", frozen=True):
    channel: Raw
    max_claimable_amount: str


class ClaimWire(msgspec.Struct, rename="camel", frozen=True):
    """One voucher, and up to which total it is claimed."""

    voucher: ClaimVoucherWire
    signature: str
    total_claimed: str


class _Action(msgspec.Struct, rename="camel", tag_field="type", frozen=True, kw_only=True):
    pass


class ClaimAction(_Action, tag="claim", omit_defaults=True, frozen=True, kw_only=True):
    """Claims; without the signature it is the facilitator's to sign."""

    claims: list[ClaimWire]
    claim_authorizer_signature: str | UnsetType | None = UNSET


class SettleAction(_Action, tag="settle", frozen=True, kw_only=True):
    receiver: str
    token: str


class RefundAction(_Action, tag="refund", omit_defaults=True, frozen=True, kw_only=True):
    """A payer's wish for a refund, completed; without signatures they are the facilitator's."""

    channel_config: Raw
    voucher: VoucherWire
    amount: str
    refund_nonce: str
    claims: list[ClaimWire]
    refund_authorizer_signature: str | UnsetType | None = UNSET
    claim_authorizer_signature: str | UnsetType | None = UNSET


Action = DepositPayload | ClaimAction | SettleAction | RefundAction


# -- Answers -------------------------------------------------------------------------------------


class VerifyAnswer(msgspec.Struct, rename="camel", omit_defaults=True, frozen=True):
    """`extra` shows the channel, where there is one."""

    is_valid: bool
    invalid_reason: str | UnsetType | None = UNSET
    invalid_message: str | UnsetType | None = UNSET
    payer: str | UnsetType | None = UNSET
    extra: Raw | UnsetType = UNSET


class SettleAnswer(msgspec.Struct, rename="camel", omit_defaults=True, frozen=True):
    """`transaction` is empty when nothing was sent."""

    success: bool
    transaction: str
    network: str
    error_reason: str | UnsetType | None = UNSET
    error_message: str | UnsetType | None = UNSET
    payer: str | UnsetType | None = UNSET
    amount: str | UnsetType | None = UNSET
    extra: Raw | UnsetType = UNSET


class KindExtra(msgspec.Struct, rename="camel", omit_defaults=True, frozen=True):
    receiver_authorizer: str | UnsetType | None = UNSET


class Kind(msgspec.Struct, rename="camel", omit_defaults=True, frozen=True):
    x402_version: int = msgspec.field(name="x402Version")
    scheme: str
    network: str
    extra: KindExtra | UnsetType | None = UNSET


class Supported(msgspec.Struct, frozen=True):
    kinds: list[Kind]
    extensions: list[str] = []
    signers: dict[str, list[str]] = {}


# -- What a server asks --------------------------------------------------------------------------


def question(requirements: PaymentRequirements, payload: Raw) -> bytes:
    """The body of a request, under terms that payer and server agree on."""
    accepted = Raw(encode_json(requirements))
    return encode_json(Question(PaymentPayload(VERSION, accepted, payload), requirements))


def claim_wire(channel: Channel) -> ClaimWire:
    """What a channel owes, as far as it can pay, under the payer's highest voucher."""
    voucher = channel.voucher
    assert voucher is not None, "a claim needs the payer's signature"
    return ClaimWire(
        ClaimVoucherWire(config_wire(channel.config), str(voucher.amount)),
        show_bytes(voucher.signature),
        str(claimable_total(channel)),
    )
