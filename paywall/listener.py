"""The app's `receive`, which can also tell, without waiting, whether the client has hung up.

To ask is to listen. Of most servers a task listens: it hears what the server says next, and what it
hears is kept for the app. It stops where one more message would have to be kept, and when the app
listens itself. A task costs a tenth of a paid request, so it begins when an answer is about to
leave, or when a request takes its time: a server that lives in another thread says that a client is
gone too late for who asks only then. Of uvicorn the request's own cycle says it, so that is asked,
and the app listens to uvicorn alone. Of a server that is not known nobody can say that, nor of what
else stands in between.

Before an answer leaves, the event loop turns once: so the answers of all who are served then leave
together, which is fair to each connection and cheaper than to write between two pieces of work.
What has arrived while the app kept the processor is found in one turn and read in the next, so a
late answer waits for both. uvicorn does not read on behind an upload that nobody takes, nor behind
a second request; then it is told to, once.
"""

import asyncio
from time import perf_counter
from types import MethodType
from typing import Final, Protocol, cast, runtime_checkable

from starlette.types import Message, Receive

_SAY_SO: Final = frozenset(
    ("uvicorn.protocols.http.httptools_impl", "uvicorn.protocols.http.h11_impl")
)
"""By name, because a provider need not have uvicorn."""
_AT_ONCE_SECONDS: Final = 0.001
_TURNS: Final = 2
_TURNS_BETWEEN: Final = 16
"""Starlette's `BaseHTTPMiddleware` takes up to nine turns, two of them thirteen."""


class Flow(Protocol):
    """Whether a server reads on."""

    def resume_reading(self) -> None: ...


@runtime_checkable
class Cycle(Protocol):
    """One request and its answer, as its server sees them."""

    disconnected: bool
    flow: "Flow"
    transport: asyncio.Transport


_is_cycle: Final[dict[type, bool]] = {}
"""Of the kinds that were met; a server has one."""


def _cycle_of(receive: Receive) -> Cycle | None:
    if not isinstance(receive, MethodType):
        return None
    cycle, kind = receive.__self__, type(receive.__self__)
    known = _is_cycle.get(kind)
    if known is None:
        known = _is_cycle[kind] = kind.__module__ in _SAY_SO and isinstance(cycle, Cycle)
    return cast("Cycle", cycle) if known else None


def _is_over(cycle: Cycle) -> bool:
    """Whether nobody can be answered: of several requests at once only the last is told."""
    return cycle.disconnected or cycle.transport.is_closing()


class Listener:
    """What the app listens to, for one request: `receive`."""

    __slots__ = (
        "_began",
        "_cycle",
        "_ended",
        "_gone",
        "_kept",
        "_now",
        "_receive",
        "_task",
        "_timer",
        "_uploaded",
        "_waiting",
    )

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._cycle = _cycle_of(receive)
        # A loop's time may stand still while the app keeps the processor, or be a simulated one.
        self._now = perf_counter if self._cycle else asyncio.get_running_loop().time
        self._began = self._now()
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._kept: Message | None = None
        self._uploaded = False
        self._gone = False
        self._ended = False
        self._waiting = 0
        self._listen_soon()

    @property
    def receive(self) -> Receive:
        return self._receive if self._cycle else self._hear

    async def _hear(self) -> Message:
        self._waiting += 1
        try:
            while self._kept is None and not self._gone:
                if self._task is None:
                    return self._note(await self._receive())
                # An app that stops listening does not stop the task: its message would be lost.
                await asyncio.shield(self._task)
                self._task = None
        finally:
            self._waiting -= 1
        message, self._kept = self._kept, None
        return message or {"type": "http.disconnect"}

    def _note(self, message: Message) -> Message:
        if message["type"] == "http.disconnect":
            self._gone = True
        elif not message.get("more_body", False):
            self._uploaded = True
            self._listen_soon()
        return message

    def _listen_soon(self) -> None:
        """A request that takes its time is listened to while it runs."""
        if self._cycle is None and self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(_AT_ONCE_SECONDS, self._listen_now)

    def _listen_now(self) -> None:
        self._timer = None
        self._listening()

    def _listening(self) -> asyncio.Task[None] | None:
        """The task that listens; None where the app does, or no more can be kept."""
        if not self._may_hear_more():
            return None
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._listen())
        return self._task

    async def hung_up(self) -> bool:
        """Whether the server has said so already, or says so when asked this instant."""
        if cycle := self._cycle:
            late = self._is_late()
            await asyncio.sleep(0)
            if late and not _is_over(cycle):
                cycle.flow.resume_reading()
                for _ in range(_TURNS):  # so that the server hears what has arrived meanwhile
                    await asyncio.sleep(0)
            return _is_over(cycle)
        if listening := self._listening():
            await self._hear_out(listening)
        return self._gone

    async def _hear_out(self, listening: asyncio.Task[None]) -> None:
        """What stands in between hands a hang-up on from task to task, each in a turn."""
        for _ in range(_TURNS_BETWEEN if self._is_late() else 1):
            await asyncio.sleep(0)
            if listening.done():
                break
        if listening.done() and not listening.cancelled():
            listening.result()

    def _is_late(self) -> bool:
        return self._now() - self._began > _AT_ONCE_SECONDS

    def _may_hear_more(self) -> bool:
        over = self._gone or self._ended or self._waiting
        return not over and (self._kept is None or self._uploaded)

    async def _listen(self) -> None:
        """The last message of an upload is kept, and then only a hang-up can come."""
        while self._may_hear_more():
            message = self._note(await self._receive())
            if not self._gone:
                self._kept = message

    def close(self) -> None:
        """Nobody listens any more. Who was cancelled keeps where it was, and that is in here: so
        this lets go of it, and what remains is no cycle for the collector to find."""
        self._ended = True
        task, self._task = self._task, None
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        if task is not None and not task.cancel() and not task.cancelled():
            task.exception()  # whoever asked was told of it
