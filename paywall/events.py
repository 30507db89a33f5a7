"""What happened to an agent's money, as values: to the log, and to whoever wants to know.

    wallet = paywall.Wallet(on_event=print)

Each event is frozen and holds no secret: origins and paths without their query, amounts in atomic
units, channel ids in hex. The log `paywall.wallet` is quiet unless the owner sets it up. A callback
that raises is logged and otherwise forgotten: nothing that it does can break a payment.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

log = logging.getLogger("paywall.wallet")
log.addHandler(logging.NullHandler())


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, at `time` in Unix seconds, with a provider."""

    time: float
    origin: str


@dataclass(frozen=True, slots=True)
class PaymentEvent(Event):
    """The end of one payment. `amount` is what it cost; `channel` is "" for a single transfer."""

    path: str
    payment_id: str
    scheme: str
    amount: int
    channel: str = ""
    transaction: str = ""


@dataclass(frozen=True, slots=True)
class Paid(PaymentEvent):
    """The provider confirmed that it charged `amount`."""


@dataclass(frozen=True, slots=True)
class Refused(PaymentEvent):
    """The provider did not take the payment; `amount` is free again."""


@dataclass(frozen=True, slots=True)
class Lost(PaymentEvent):
    """Nobody knows whether the payment was taken: `amount` counts as spent."""


@dataclass(frozen=True, slots=True)
class Unsent(PaymentEvent):
    """The payment never left; `amount` is free again."""


@dataclass(frozen=True, slots=True)
class Denied(Event):
    """The wallet's own policy did not allow a payment; `limit` is the setting, or ""."""

    limit: str
    why: str


@dataclass(frozen=True, slots=True)
class Deposited(Event):
    """A deposit of `amount` was confirmed."""

    channel: str
    amount: int
    transaction: str = ""


@dataclass(frozen=True, slots=True)
class Corrected(Event):
    """The provider's total was adopted, on our own signature."""

    channel: str
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Stopped(Event):
    """The provider broke the agreement: it is not paid any more, and its channel is withdrawn."""

    channel: str
    why: str


OnEvent = Callable[[Event], object]

_LOUD: Final = (Lost, Stopped)


class Events:
    """Tells the log and one callback."""

    def __init__(self, on_event: OnEvent | None = None) -> None:
        self._on_event = on_event

    def tell(self, event: Event) -> None:
        level = logging.WARNING if isinstance(event, _LOUD) else logging.INFO
        if log.isEnabledFor(level):
            log.log(level, "%s", event)
        if self._on_event is None:
            return
        try:
            self._on_event(event)
        except Exception:
            log.exception("the callback for events failed")
