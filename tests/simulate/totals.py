"""Whether an agent may be refused for a total where all are honest: each excuse, by its name.

Two honest parties come to terms about a total at the first correction, whatever was lost, late or
killed in between. Who is refused again meets one of these, or there is a mistake in the product:

    its payment is counted, and nobody answered it, so the same price again would be a second one:
      a stranger used it up, or another payment restored the record of a store that forgot
    a stranger used up another payment of its channel, in whose place its request paid anew, or its
      record was restored with units that were promised for nothing: one is refused for it, and
      explains it from then on
    the payment that took the place of a refused one got no answer either, and came late again
    a fail-over brought back holds of requests that were answered, which nobody will charge
    its owner asked for a refund: it is the end of what was signed before, and stays set aside when
      nobody hears of its end

An agent that has lost rows of its file knows less than it signed, and is not asked here.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from typing import Final

from paywall.protocol.limits import HOLD_SECONDS, REFUND_HOLD_SECONDS
from paywall.sending import PATIENCE_SECONDS
from paywall.wallet import Wallet
from simulate.book import Asked


@dataclass(frozen=True)
class Paid:
    """The first payment that was sent for something that an agent wanted once."""

    channel_id: bytes
    payment: int
    since: float


NOTHING: Final = Paid(b"", 0, 0.0)


class Totals:
    """What excuses a refusal. `now` is the world's time."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._paid: dict[int, Paid] = {}
        self._stolen: set[int] = set()
        self._unexplained: Counter[bytes] = Counter()
        self._anew: set[int] = set()
        self._late: set[int] = set()
        self._restored: dict[bytes, float] = {}
        self._brought_back: dict[bytes, float] = {}
        self._refunds: Counter[bytes] = Counter()
        self._refunded: dict[bytes, float] = {}

    def paid(self, channel_id: bytes, asked: Asked) -> None:
        """A payment was seen on the network."""
        first = self._paid.setdefault(asked.goal, Paid(channel_id, asked.payment, self._now()))
        if asked.payment in self._anew:
            self._late.add(asked.goal)
        elif asked.payment != first.payment:
            self._anew.add(asked.payment)

    def stolen(self, goal: int) -> None:
        """A stranger will send the payment too."""
        self._stolen.add(goal)
        self._unexplained[self.channel_of(goal)] += 1

    def restored(self, channel_id: bytes) -> None:
        """A payment has restored a lost record, with what was promised before it."""
        self._restored[channel_id] = self._now()
        self._unexplained[channel_id] += 1

    def brought_back(self, channel_id: bytes) -> None:
        """A fail-over has made a charge a hold again."""
        self._brought_back[channel_id] = self._now()

    @contextmanager
    def asked_back(self, wallet: Wallet) -> Iterator[None]:
        """Its owner asks for a refund, of one of its channels."""
        channels = [account.channel_id for account in wallet.file.accounts()]
        self._refunds.update(channels)
        try:
            yield
        finally:
            self._refunds.subtract(channels)
            self._refunded |= dict.fromkeys(channels, self._now())

    def channel_of(self, goal: int) -> bytes:
        return self._paid.get(goal, NOTHING).channel_id

    def excuse(self, goal: int) -> str | None:
        """Why a request may be refused for its total; None where it may not."""
        now, paid = self._now(), self._paid.get(goal, NOTHING)
        if goal in self._stolen:
            return "payments that a stranger used up"
        if goal in self._late:
            return "payments refused that came too late for the second time"
        if paid.since <= self._restored.get(paid.channel_id, -inf) + PATIENCE_SECONDS:
            return "payments refused that a restored record counts"
        asked_back = self._refunded.get(paid.channel_id, -inf)
        if self._refunds[paid.channel_id] > 0 or paid.since <= asked_back + REFUND_HOLD_SECONDS:
            return "payments refused for a refund that their owner asked for"
        if now <= self._brought_back.get(paid.channel_id, -inf) + HOLD_SECONDS:
            return "payments refused for holds that a fail-over brought back"
        if self._unexplained[paid.channel_id] > 0:
            self._unexplained[paid.channel_id] -= 1
            return "payments refused for what a stranger or a lost record left unexplained"
        return None
