"""Receipts: what a provider confirms in the PAYMENT-RESPONSE header. Pure.

An official client takes over a receipt only when its total is the client's own total plus what was
charged, and keeps counting from `chargedAmount` when no total is named. So the total is named only
to a client that counts as we do; ours reads it from a field of our own, which is always there.

Source: batch-settlement EVM specification, "Payment Response Contract".
"""

from binascii import b2a_base64
from dataclasses import dataclass
from functools import lru_cache

import msgspec
from msgspec import UNSET, Raw
from msgspec.structs import replace

from paywall.deposit_gate import Funding
from paywall.protocol import ledger
from paywall.protocol.channel import ChainState, Channel, Standing
from paywall.protocol.errors import Refused
from paywall.protocol.ledger import Line
from paywall.protocol.money import ZERO_ADDRESS, Address
from paywall.protocol.once import Answer, Ticket
from paywall.protocol.schemes.batch import ReceiptExtra, VoucherPayment, channel_state
from paywall.protocol.schemes.exact import ExactPayment
from paywall.protocol.x402 import (
    SettlementResponse,
    encode_header,
    encode_json,
    show_address,
    show_bytes,
)

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Repeated:
    """The answer to a payment that was charged before, with its receipt."""

    answer: Answer
    receipt: str


class Admission(msgspec.Struct, frozen=True, eq=False):
    """A request that may be served: its hold, and what the chain has taken for it.

    With `funding`, what the chain is to take is on its way.
    """

    request: str
    price: int
    payment: VoucherPayment
    standing: Standing
    network: str
    ticket: Ticket | None = None
    deposited: int = 0
    transaction: bytes = b""
    funding: Funding | None = None
    route: str = ""

    @property
    def payer(self) -> Address:
        return self.payment.config.payer

    @property
    def channel(self) -> str | None:
        return show_bytes(self.payment.channel_id)

    def fits(self, amount: int) -> int:
        """What can be charged where this much is to be: a channel is charged to the unit."""
        return amount

    def answer(self, status: int, headers: Headers, body: bytes, amount: int) -> Answer | None:
        """The answer as it leaves, for a client that loses it; None where it has no name."""
        if self.ticket is None:
            return None
        total = self.payment.voucher.amount - self.price + amount
        return Answer(status, headers, body, amount, total, self.deposited, self.transaction)

    def line(self, amount: int) -> bytes:
        """What the ledger says of its charge."""
        payment, ticket = self.payment, self.ticket
        return ledger.encode(
            Line(
                ledger.CHARGE,
                str(amount),
                payment.channel_id,
                payment.config.payer,
                self.route,
                self.request,
                str(payment.voucher.amount),
                self.network,
                payment.config.token,
                ticket.payment_id if ticket else "",
            )
        )


@dataclass(slots=True, eq=False)
class ExactAdmission:
    """A request that may be served for one transfer; `transaction` is there once it is mined.

    `key` is the name under which the payment is remembered.
    """

    request: str
    price: int
    payment: ExactPayment
    network: str
    key: bytes
    transaction: bytes = b""
    route: str = ""

    @property
    def payer(self) -> Address:
        return self.payment.payer

    @property
    def channel(self) -> str | None:
        return None

    def fits(self, amount: int) -> int:
        """A transfer is the whole price or nothing; one that was made stays made."""
        return self.price if amount or self.transaction else 0

    def answer(self, status: int, headers: Headers, body: bytes, amount: int) -> Answer | None:
        """The answer as it leaves: every authorization is a name of its own."""
        return Answer(status, headers, body, amount, 0, 0, b"")

    def line(self, transaction: bytes) -> bytes:
        """What the ledger says of its transfer."""
        payment = self.payment
        return ledger.encode(
            Line(
                ledger.TRANSFER,
                str(self.price),
                b"",
                payment.payer,
                self.route,
                self.request,
                "0",
                self.network,
                payment.token,
                transaction=transaction,
            )
        )


Admitted = Admission | ExactAdmission


@dataclass(frozen=True, slots=True)
class FreeAdmission:
    """A request that is served and not charged; `payer` is the zero address when nobody is known.

    `price` is what it would cost others.
    """

    price: int
    payer: Address = ZERO_ADDRESS

    @property
    def channel(self) -> str | None:
        return None

    def fits(self, amount: int) -> int:
        return 0


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
