"""What a provider confirms, as an agent reads it from an answer. Pure, but for httpx's shapes."""

from dataclasses import dataclass

import httpx
from msgspec import Raw

from paywall.protocol.errors import PaymentRefused
from paywall.protocol.limits import MAX_QUOTE_HEADER_BYTES
from paywall.protocol.money import parse_amount
from paywall.protocol.schemes import batch
from paywall.protocol.x402 import (
    PAYMENT_RESPONSE,
    Malformed,
    SettlementResponse,
    decode_response,
    printable,
)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a provider confirms: `charged` in atomic units (None on a refund), the channel's total,
    and for a deposit or a refund its transaction and amount. Of a single transfer it is the
    transaction that counts; what moved is what was signed."""

    success: bool
    charged: int | None
    total: int | None
    channel: str | None
    transaction: str
    amount: int | None
    network: str
    reason: str | None = None


def receipt(response: httpx.Response) -> Receipt | None:
    """The receipt that a response carries, or None when it was free. Raises PaymentRefused when
    it cannot be read."""
    settled = settlement(response)
    if settled is None:
        return None
    try:
        # Of a single transfer it holds nothing, or what somebody else has added.
        told = settled.extra or Raw(b"")
        extra = batch.decode_receipt_extra(told) if b'"channelState"' in bytes(told) else None
        charged = extra.charged_amount if extra else None
        return Receipt(
            success=settled.success,
            charged=parse_amount(charged) if charged else None,
            total=batch.receipt_total(extra) if extra else None,
            channel=extra.channel_state.channel_id if extra else None,
            transaction=settled.transaction,
            amount=parse_amount(settled.amount) if settled.amount else None,
            network=settled.network,
            reason=printable(settled.error_reason) if settled.error_reason else None,
        )
    except ValueError as error:
        raise PaymentRefused(f"the receipt cannot be read: {error}", "malformed") from error


def settlement(response: httpx.Response) -> SettlementResponse | None:
    """The same, as it was spelled. Raises PaymentRefused."""
    header = response.headers.get(PAYMENT_RESPONSE)
    if header is None:
        return None
    try:
        return decode_response(header[:MAX_QUOTE_HEADER_BYTES])
    except Malformed as error:
        raise PaymentRefused(f"the receipt cannot be read: {error}", "malformed") from error


def moved(settled: SettlementResponse) -> int:
    """The amount of a refund, in atomic units. Raises PaymentRefused."""
    try:
        return parse_amount(settled.amount or "")
    except ValueError as error:
        raise PaymentRefused(f"the receipt cannot be read: {error}", "malformed") from error
