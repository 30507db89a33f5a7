"""Receipts: what a provider confirms in the PAYMENT-RESPONSE header. Pure.

An official client takes over a receipt only when its total is the client's own total plus what was
charged, and keeps counting from `chargedAmount` when no total is named. So the total is named only
to a client that counts as we do; ours reads it from a field of our own, which is always there.

Source: batch-settlement EVM specification, "Payment Response Contract".
"""

from binascii import b2a_base64
from functools import lru_cache

from msgspec import UNSET, Raw
from msgspec.structs import replace

from paywall.admission import Admission, ExactAdmission
from paywall.protocol.channel import ChainState, Channel
from paywall.protocol.errors import Refused
from paywall.protocol.once import Answer
from paywall.protocol.schemes.batch import ReceiptExtra, channel_state
from paywall.protocol.x402 import (
    SettlementResponse,
    encode_header,
    encode_json,
    show_address,
    show_bytes,
)


def paid(admission: Admission, chain: ChainState, amount: int, total: int) -> str:
    """`amount` was charged, and `total` in all."""
    payment = admission.payment
    named = total_is_named(admission, amount, total)
    payer, network = show_address(payment.config.payer), admission.network
    if not admission.deposited:
        return _by_voucher(payment.channel_id, payer, network, chain, amount, total, named)
    if admission.funding and chain.block == 0:
        # The payer counts on all of its deposit, and so do we.
        chain = replace(chain, balance=admission.deposited)
    extra = _extra(payment.channel_id, chain, total, amount, named)
    return _deposit_or_voucher(payer, network, admission.deposited, admission.transaction, extra)


def _by_voucher(
    channel_id: bytes,
    payer: str,
    network: str,
    chain: ChainState,
    amount: int,
    total: int,
    named: bool,
) -> str:
    """What `_deposit_or_voucher` would say, of which all but three numbers was said before."""
    said = b',"chargedCumulativeAmount":"%d"' % total if named else b""
    return b2a_base64(
        b'%b%b},"chargedAmount":"%d","chargedTotal":"%d"}}'
        % (_before_totals(channel_id, payer, network, chain), said, amount, total),
        newline=False,
    ).decode("ascii")


@lru_cache(maxsize=8192)
def _before_totals(channel_id: bytes, payer: str, network: str, chain: ChainState) -> bytes:
    """A receipt up to the totals; they come last, and the three objects around them end there."""
    extra = Raw(encode_json(ReceiptExtra(channel_state(channel_id, chain, UNSET))))
    whole = encode_json(
        SettlementResponse(
            success=True, payer=payer, transaction="", network=network, amount="", extra=extra
        )
    )
    assert whole.endswith(b'"}}}')
    return whole[:-3]


def repeated(channel: Channel, answer: Answer, total: int) -> str:
    """The receipt of an answer that is given again; its total is the one of then."""
    named = answer.expected_total == total
    return _deposit_or_voucher(
        show_address(channel.config.payer),
        channel.network,
        answer.deposited,
        answer.transaction,
        _extra(channel.channel_id, channel.chain, total, answer.charged, named),
    )


def _deposit_or_voucher(
    payer: str, network: str, deposited: int, transaction: bytes, extra: Raw
) -> str:
    return encode_header(
        SettlementResponse(
            success=True,
            payer=payer,
            transaction=show_bytes(transaction) if transaction else "",
            network=network,
            amount=str(deposited) if deposited else "",
            extra=extra,
        )
    )


def refunded(channel: Channel, transaction: bytes, amount: int) -> str:
    state = channel_state(channel.channel_id, channel.chain, channel.charged)
    return encode_header(
        SettlementResponse(
            success=True,
            payer=show_address(channel.config.payer),
            transaction=show_bytes(transaction),
            network=channel.network,
            amount=str(amount),
            extra=Raw(encode_json(ReceiptExtra(state))),
        )
    )


def transferred(admission: ExactAdmission) -> str:
    """The transfer was made; without a transaction, the request turned out to cost nothing."""
    transaction = admission.transaction
    return encode_header(
        SettlementResponse(
            success=True,
            payer=show_address(admission.payer),
            transaction=show_bytes(transaction) if transaction else "",
            network=admission.network,
            amount=UNSET if transaction else "0",
        )
    )


def failed(refusal: Refused, network: str) -> str:
    """The receipt of a payment that was refused."""
    return encode_header(
        SettlementResponse(
            success=False, transaction="", network=network, error_reason=refusal.reason.code
        )
    )


def total_is_named(admission: Admission, amount: int, total: int) -> bool:
    """Whether the client counts as we do, so that the receipt may name the total."""
    return admission.payment.voucher.amount - admission.price + amount == total


def _extra(channel_id: bytes, chain: ChainState, total: int, amount: int, named: bool) -> Raw:
    state = channel_state(channel_id, chain, total if named else UNSET)
    return Raw(encode_json(ReceiptExtra(state, str(amount), str(total))))
