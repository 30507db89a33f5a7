"""Questions to the owner that are open in this process, so that nobody asks the same one meanwhile.

Many tasks that meet a new provider at once all need its channel's first deposit, and one deposit
serves them all. The first of them asks; the others wait until the owner has answered and the
deposit, if it may be made, is written down. Then they find it on its way, and need nobody's word;
or they hear the same no. A price is asked for by each request, for each is paid by itself.

An owner's callback that pays at that very provider would wait for its own answer. What is paid in
it, or in a task that it starts, knows which questions it is a part of (a context variable).
"""

import threading
from collections.abc import Generator, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from paywall.asking import Approval
from paywall.protocol.money import Asset
from paywall.turns import Turn

QUESTION_SECONDS: Final = 60.0
"""How often who waits for another's answer looks whether it is there."""
_Subject = tuple[str, str, str, Asset]


class Question:
    """One payment's question. It is open from when it is put until that payment has begun, or not.

    `denied` is the amount that the owner did not allow.
    """

    def __init__(self) -> None:
        self.denied: int | None = None
        self.over: Future[None] = Future()
        self.over.set_running_or_notify_cancel()  # many wait for it, and none of them may end it

    @contextmanager
    def asking(self) -> Iterator[None]:
        """What happens in here is a part of the owner's answer."""
        outside = _ASKING.set(_ASKING.get() | {self})
        try:
            yield
        finally:
            _ASKING.reset(outside)

    @property
    def is_being_answered_here(self) -> bool:
        """Whether to wait for it would be to wait for oneself."""
        return self in _ASKING.get()

    def denies(self, approval: Approval) -> bool:
        return self.denied is not None and self.denied <= approval.amount

    def wait(self) -> Generator[Turn, None, None]:
        """Until it is over, whoever asked it."""
        while not self.over.done():
            yield Turn(self.over, QUESTION_SECONDS)


_ASKING: Final[ContextVar[frozenset[Question]]] = ContextVar("asking", default=frozenset())


class Questions:
    """The open questions of one wallet."""

    def __init__(self) -> None:
        self._open: dict[_Subject, Question] = {}
        self._lock = threading.Lock()

    def put(self, approval: Approval, mine: Question) -> Question:
        """The question that is open about this: `mine`, unless somebody else asks already."""
        if approval.kind != "deposit":
            return mine
        subject = (approval.kind, approval.origin, approval.scheme, approval.asset)
        with self._lock:
            return self._open.setdefault(subject, mine)

    def end(self, mine: Question) -> None:
        """Whoever waited for it goes on."""
        with self._lock:
            self._open = {what: one for what, one in self._open.items() if one is not mine}
        mine.over.set_result(None)
