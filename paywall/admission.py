"""What a payment has brought: a request that may be served, or the answer of before.

An admission is made by the gate of its scheme and handed on until the request is charged or let go.
It knows what it may cost and who pays it, how its charge stands in the ledger, and under which name
its answer is kept for a client that loses it. It acts on nothing.
"""

import asyncio
from dataclasses import dataclass

import msgspec

from paywall.chain import Mined
from paywall.protocol import ledger
from paywall.protocol.channel import Standing
from paywall.protocol.ledger import Line
from paywall.protocol.money import ZERO_ADDRESS, Address
from paywall.protocol.once import Answer, Ticket
from paywall.protocol.schemes.batch import VoucherPayment
from paywall.protocol.schemes.exact import ExactPayment
from paywall.protocol.x402 import show_bytes

Headers = list[tuple[bytes, bytes]]
Funding = asyncio.Task[Mined | None]
"""The deposit of a request that is served before it is mined."""


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


def has_failed(funding: Funding | None) -> bool:
    """Whether it is known by now that a deposit will not be there."""
    if funding is None or not funding.done():
        return False
    return funding.exception() is not None
