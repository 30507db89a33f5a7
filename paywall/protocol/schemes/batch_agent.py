"""The agent's side of `batch-settlement`: payloads are made here, and receipts read."""

from coincurve import PrivateKey
from msgspec import UNSET, Raw

from paywall.protocol import eip712
from paywall.protocol.channel import ChannelConfig, Voucher
from paywall.protocol.money import parse_amount
from paywall.protocol.schemes.batch_payments import Deposit
from paywall.protocol.schemes.batch_wire import (
    EXTRA,
    RECEIPT_EXTRA,
    AuthorizationWire,
    BatchExtra,
    ConfigWire,
    DepositPayload,
    DepositWire,
    Erc3009Wire,
    ReceiptExtra,
    RefundPayload,
    VoucherPayload,
    VoucherWire,
)
from paywall.protocol.x402 import (
    PaymentRequirements,
    decode_json,
    encode_json,
    show_address,
    show_bytes,
)


def decode_extra(requirements: PaymentRequirements) -> BatchExtra:
    """`extra` of somebody's offer. Raises Malformed."""
    return decode_json(EXTRA, bytes(requirements.extra))


def decode_receipt_extra(extra: Raw) -> ReceiptExtra:
    """`extra` of somebody's receipt. Raises Malformed."""
    return decode_json(RECEIPT_EXTRA, bytes(extra))


def receipt_total(extra: ReceiptExtra) -> int | None:
    """What a receipt says the channel owes in all, if it says. Raises ValueError."""
    total = extra.charged_total or extra.channel_state.charged_cumulative_amount
    return parse_amount(total) if total else None


def sign_voucher(key: PrivateKey, network_domain: bytes, channel_id: bytes, amount: int) -> Voucher:
    digest = eip712.voucher_digest(network_domain, channel_id, amount)
    return Voucher(amount, eip712.sign(key, digest))


def config_wire(config: ChannelConfig) -> Raw:
    """The config as it is sent with every payment of its channel."""
    return Raw(
        encode_json(
            ConfigWire(
                payer=show_address(config.payer),
                payer_authorizer=show_address(config.payer_authorizer),
                receiver=show_address(config.receiver),
                receiver_authorizer=show_address(config.receiver_authorizer),
                token=show_address(config.token),
                withdraw_delay=config.withdraw_delay_seconds,
                salt=show_bytes(config.salt),
            )
        )
    )


def _voucher_wire(channel_id: bytes, voucher: Voucher) -> VoucherWire:
    return VoucherWire(show_bytes(channel_id), str(voucher.amount), show_bytes(voucher.signature))


def voucher_payload(config: Raw, channel_id: bytes, voucher: Voucher) -> Raw:
    return Raw(
        encode_json(
            VoucherPayload(channel_config=config, voucher=_voucher_wire(channel_id, voucher))
        )
    )


def deposit_payload(config: Raw, voucher: Voucher, deposit: Deposit) -> Raw:
    erc3009 = Erc3009Wire(
        valid_after=str(deposit.valid_after),
        valid_before=str(deposit.valid_before),
        salt=show_bytes(eip712.word(deposit.salt)),
        signature=show_bytes(deposit.signature),
    )
    return Raw(
        encode_json(
            DepositPayload(
                channel_config=config,
                voucher=_voucher_wire(deposit.channel_id, voucher),
                deposit=DepositWire(str(deposit.amount), AuthorizationWire(erc3009)),
            )
        )
    )


def refund_payload(config: Raw, channel_id: bytes, voucher: Voucher, amount: int | None) -> Raw:
    return Raw(
        encode_json(
            RefundPayload(
                channel_config=config,
                voucher=_voucher_wire(channel_id, voucher),
                amount=UNSET if amount is None else str(amount),
            )
        )
    )
