"""The books that a test keeps beside the rules, to notice when they contradict themselves."""

from dataclasses import dataclass, field

from paywall.protocol.limits import ANSWER_SECONDS, HOLD_SECONDS
from paywall.protocol.once import Ticket


@dataclass(frozen=True)
class Payment:
    """A payment with an id, as its client sends it, once or more often."""

    ticket: Ticket
    amount: int
    price: int


@dataclass(frozen=True)
class Known:
    """What a provider owes to whoever comes with this id, until it may forget it."""

    payment: Payment
    request: str
    forgotten_at: int
    answer: bytes | None = None
    total: int = 0


@dataclass
class Books:
    """What the rules must never contradict, kept apart from them."""

    granted: set[int] = field(default_factory=set)
    """Voucher amounts that bought something, or may have, and were not released since."""
    sold: set[int] = field(default_factory=set)
    """Voucher amounts for which something was charged."""
    signed: set[int] = field(default_factory=set)
    charged: int = 0
    floor: int = 0
    grants: dict[str, int] = field(default_factory=dict)
    """The voucher amount of every request that was ever admitted."""
    payments: dict[str, Payment] = field(default_factory=dict)
    """The payment of every request that came with an id."""
    known: dict[str, Known] = field(default_factory=dict)
    """By payment id, what is remembered of it."""
    ended: list[str] = field(default_factory=list)
    """Requests that were charged or released, in that order."""
    remembered: list[str] = field(default_factory=list)
    """Those of them that were charged, without an id or nothing at all, in that order."""

    def admitted(self, name: str, amount: int, payment: Payment | None, now: int) -> None:
        self.granted.add(amount)
        self.grants[name] = amount
        if payment:
            until = now + ANSWER_SECONDS + HOLD_SECONDS
            self.payments[name] = payment
            self.known[payment.ticket.payment_id] = Known(payment, name, until)

    def worker_died(self, name: str) -> None:
        """Nothing was charged, so its voucher may buy something; its id stays what it was."""
        self.granted.discard(self.grants[name])

    def paid(self, name: str, amount: int, answer: bytes, now: int) -> None:
        payment = self.payments.get(name)
        self.charged += amount
        self.ended.append(name)
        if amount:
            self.sold.add(self.grants[name])
        if payment is None or amount == 0:
            self.remembered.append(name)
        if amount == 0:
            self._forgiven(name)
        elif payment:
            known = Known(payment, name, now + ANSWER_SECONDS, answer, self.charged)
            self.known[payment.ticket.payment_id] = known

    def released(self, name: str) -> None:
        self.ended.append(name)
        self._forgiven(name)

    def _forgiven(self, name: str) -> None:
        self.granted.discard(self.grants[name])
        if payment := self.payments.get(name):
            self.known.pop(payment.ticket.payment_id, None)

    def still_known(self, payment_id: str, now: int) -> Known | None:
        known = self.known.get(payment_id)
        return known if known and now < known.forgotten_at else None
