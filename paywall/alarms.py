"""What an owner must hear of: typed, told once when it begins and once when it is over.

A job that runs every few seconds meets the same trouble every few seconds. So an alarm stands until
it is lifted, and only a change is told: to the log, and to whatever the owner passes as `alarms`.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final

log = logging.getLogger("paywall.alarms")


@dataclass(frozen=True, slots=True)
class Alarm:
    """`subject` is what it is about (a channel, a wallet, a network); `text` is for people."""

    level: ClassVar[int] = logging.ERROR

    subject: str
    text: str
    over: bool = False
    """True when it is lifted."""


class GasWalletEmpty(Alarm):
    """Nothing can be claimed until the gas wallet is filled."""


class GasTooDear(Alarm):
    """What is owed waits for cheaper gas, or for the owner to allow a higher fee."""

    level = logging.WARNING


class PoisonRow(Alarm):
    """The contract will not take one channel's claim; it was set aside."""


class ClaimFailed(Alarm):
    """A claim that was rehearsed well is said to be mined, and the contract does not show it.

    The endpoint lies, or somebody moved a channel meanwhile. It is tried again.
    """


class ClaimLate(Alarm):
    """A payer is withdrawing, the safety margin has begun, and its channel is not claimed yet."""


class MoneyLost(Alarm):
    """More was charged than the channel holds: a withdrawal was finished before a claim."""


class DepositLost(Alarm):
    """A request was served before its deposit was mined, and the deposit has failed."""


class DepositsUsedUp(Alarm):
    """New payers are turned away: deposits of who bought little have used up what all may make."""

    level = logging.WARNING


class TransactionStuck(Alarm):
    """A transaction was sent and is not mined in time."""

    level = logging.WARNING


class WatcherBehind(Alarm):
    """Withdrawals may have begun that we have not seen."""


class ClockBehind(Alarm):
    """Our clock is behind the chain's, so the margins of withdrawals begin too late: set it."""


class ChainUnreachable(Alarm):
    """The chain, or the store, did not answer; nothing is collected meanwhile."""

    level = logging.WARNING


class JobFailed(Alarm):
    """A mistake of ours: the job goes on with its next round."""


Listener = Callable[[Alarm], None]


def to_log(alarm: Alarm) -> None:
    """The listener of those who name none."""


def both(one: Listener, other: Listener) -> Listener:
    """A listener that tells two. One that raises keeps nothing from the other."""

    def tell(alarm: Alarm) -> None:
        try:
            one(alarm)
        finally:
            other(alarm)

    return tell


class Board:
    """The alarms that stand. Each change goes to the log and to the owner's listener.

    Who may ring the same alarms shares a board: then each is told once.
    """

    @classmethod
    def of(cls, told: "Listener | Board") -> "Board":
        """That of somebody else, or one of its own."""
        return told if isinstance(told, Board) else cls(told)

    def __init__(self, listener: Listener = to_log) -> None:
        self._listener: Final = listener
        self._standing: dict[tuple[type[Alarm], str], str] = {}

    @property
    def standing(self) -> list[Alarm]:
        return [kind(subject, text) for (kind, subject), text in self._standing.items()]

    def ring(self, kind: type[Alarm], subject: str, text: str) -> None:
        """Tells it, unless it stands already."""
        if (kind, subject) not in self._standing:
            self._standing[kind, subject] = text
            self.tell(kind(subject, text))

    def lift(self, kind: type[Alarm], subject: str) -> None:
        """Tells that it is over, if it stood."""
        text = self._standing.pop((kind, subject), None)
        if text is not None:
            self.tell(kind(subject, text, over=True))

    def lift_all_but(self, kind: type[Alarm], subjects: set[str]) -> None:
        """For alarms that are found anew each time."""
        for standing, subject in list(self._standing):
            if standing is kind and subject not in subjects:
                self.lift(kind, subject)

    def tell(self, alarm: Alarm) -> None:
        """For a change that somebody else keeps: which alarm stands for all workers of a store."""
        level = logging.INFO if alarm.over else alarm.level
        name = type(alarm).__name__
        log.log(level, "%s%s: %s", "over: " if alarm.over else "", name, alarm.text)
        try:
            self._listener(alarm)
        except Exception:  # an owner's mistake must not keep us from collecting
            log.exception("a listener failed at %s", name)
