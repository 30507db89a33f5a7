"""What happened to a provider's money, as values, for whoever wants to hear of it at once.

    Paywall(app, on_event=print, ...)

Each notice is frozen and holds no secret: amounts in atomic units, addresses, channels and
transactions in hex. It is told in the process in which it happened, once, right after it did. That
is news and not the books: a process that dies between the two tells nobody, and the ledger
(`paywall.ledger`) has every unit all the same. A listener that raises is logged and otherwise
forgotten; nothing that it does can touch a request.
"""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from paywall.alarms import Alarm

log = logging.getLogger("paywall")


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that happened, at `time` in Unix seconds."""

    time: float


@dataclass(frozen=True, slots=True)
class Charged(Notice):
    """A request was charged. `channel` is "" where a transfer of its own (`transaction`) paid."""

    route: str
    payer: str
    amount: int
    request: str
    channel: str = ""
    transaction: str = ""


@dataclass(frozen=True, slots=True)
class Refused(Notice):
    """A payment was refused; `reason` is the code that its payer got. Nothing was charged."""

    route: str
    reason: str


@dataclass(frozen=True, slots=True)
class Deposited(Notice):
    """A payer has filled a channel. Without a `transaction` it is trusted and still being mined."""

    payer: str
    channel: str
    amount: int
    transaction: str = ""


@dataclass(frozen=True, slots=True)
class Claimed(Notice):
    """A claim was mined: the contract has recorded `amount` more, of so many channels."""

    channels: int
    amount: int
    transaction: str
    fee_wei: int


@dataclass(frozen=True, slots=True)
class Settled(Notice):
    """What was claimed has come home to `receiver`."""

    receiver: str
    amount: int
    transaction: str
    fee_wei: int


@dataclass(frozen=True, slots=True)
class Refunded(Notice):
    """A payer has got back what was left of its deposit, or a part of it, as it asked."""

    channel: str


@dataclass(frozen=True, slots=True)
class Rang(Notice):
    """An alarm (`paywall.alarms`), by its name; `over` when it is lifted."""

    name: str
    subject: str
    text: str
    over: bool


OnEvent = Callable[[Notice], object]


class Courier(ABC):
    """A listener that carries notices elsewhere and has something to finish when the app ends."""

    @abstractmethod
    def __call__(self, notice: Notice) -> None:
        """Takes a notice at once, without waiting for anybody."""

    @abstractmethod
    async def close(self) -> None:
        """Hands on what it still has, within reason. Safe to repeat."""


class News:
    """Tells one listener, if there is one. `clock` gives Unix seconds."""

    def __init__(
        self, on_event: OnEvent | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._on_event: Final = on_event
        self._clock = clock
        self.wanted: Final = on_event is not None
        """Whether anybody listens: where nobody does, no notice need be made."""

    @property
    def now(self) -> float:
        return self._clock()

    def tell(self, notice: Notice) -> None:
        if self._on_event is None:
            return
        try:
            self._on_event(notice)
        except Exception:
            log.exception("the listener for events failed")

    def alarm(self, alarm: Alarm) -> None:
        name = type(alarm).__name__
        self.tell(Rang(self.now, name, alarm.subject, alarm.text, alarm.over))

    async def close(self) -> None:
        if isinstance(self._on_event, Courier):
            await self._on_event.close()


NOBODY: Final = News()
