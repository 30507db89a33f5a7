"""One connection to a Redis server, once it is made: what was sent, and who gets which answer.

A server answers in order, so an answer belongs to the oldest call that has none. hiredis parses
what arrives in the protocol's own callback, with no task in between: a task per command, or
redis-py's own way from a command to its answer, costs several times what is left then.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol

import hiredis
from redis.exceptions import RedisError

from paywall.protocol.errors import StoreUnavailable
from paywall.stores.redis_scripts import Script

log = logging.getLogger("paywall.stores")

_MAX_RELOADS: Final = 3
"""How often a call may find its script gone before it is told so."""

FAILURES: Final = (RedisError, OSError, hiredis.HiredisError)
"""Whatever can happen on the way to a server, and what it may say instead of an answer."""

Reply = bytes | int | list[bytes] | list[object] | None


def pack(*words: str | bytes | int) -> bytes:
    """A command as it is sent."""
    packed: bytes = hiredis.pack_command(words)  # type: ignore[arg-type]  # it takes any number
    return packed


class Call:
    """One command, and who waits for its answer."""

    __slots__ = ("give_up_at", "moves", "packed", "reloads", "reply", "script", "slot")

    def __init__(
        self,
        packed: bytes,
        reply: "asyncio.Future[Reply]",
        script: Script | None = None,
        slot: int = 0,
        give_up_at: float = 0.0,
    ) -> None:
        self.packed = packed
        self.reply = reply
        self.script = script
        self.slot = slot
        self.give_up_at = give_up_at
        """Until when the call is tried again; 0 when it is not."""
        self.reloads = 0
        self.moves = 0


class Lendable(Protocol):
    """A connection of redis-py whose transport can be taken over."""

    async def connect(self) -> None: ...
    def lend(self, reader: asyncio.Protocol) -> asyncio.WriteTransport: ...
    def _close(self) -> None: ...


class Owner(Protocol):
    """What a wire tells about its calls."""

    def submit(self, call: Call) -> None: ...
    def failed(self, call: Call, error: Exception) -> None: ...
    def lost(self, calls: list[Call], error: Exception) -> None: ...


class Wire(asyncio.Protocol):
    """One connection, from its first command to its end."""

    def __init__(
        self, owner: Owner, connection: Lendable, seconds: float, replicas: int, wait_ms: int
    ) -> None:
        """A server that says nothing for so many `seconds` is given up."""
        self._owner = owner
        self._connection = connection
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader()
        self.sent: deque[Call | None] = deque()
        """What awaits an answer, oldest first; None stands for a WAIT."""
        self._withheld: list[tuple[Call, Reply]] = []
        """Answers that wait for replicas."""
        self._answered = 0
        self._timer: asyncio.TimerHandle | None = None
        self._loading: set[bytes] = set()
        self._replicas, self._wait_ms = replicas, wait_ms
        self._wait = pack("WAIT", self._replicas, self._wait_ms)
        self._ended = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._transport = connection.lend(self)

    def send(self, calls: list[Call]) -> None:
        packed = [call.packed for call in calls]
        self.sent.extend(calls)
        if self._replicas and any(call.script and call.script.writes for call in calls):
            packed.append(self._wait)
            self.sent.append(None)
        self._transport.write(b"".join(packed))
        self._watch()

    def load(self, scripts: Sequence[Script]) -> None:
        """Makes scripts known to the server, before whatever is sent next."""
        wanted = [script for script in scripts if script.sha not in self._loading]
        if wanted:
            self.send([self._load(script) for script in wanted])

    def _load(self, script: Script) -> Call:
        def settled(loaded: "asyncio.Future[Reply]") -> None:
            self._loading.discard(script.sha)
            loaded.exception()  # if it failed, so will the calls that need it

        self._loading.add(script.sha)
        loaded: asyncio.Future[Reply] = self._loop.create_future()
        loaded.add_done_callback(settled)
        return Call(pack("SCRIPT", "LOAD", script.text), loaded)

    # -- What arrives ----------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not False:
                self._take(reply)
        except (hiredis.ProtocolError, IndexError) as error:
            self._end(ConnectionError(f"it does not speak Redis ({error})"))
        if not self.sent:
            self._idle.set()

    def _take(self, reply: Reply | hiredis.ReplyError) -> None:
        self._answered += 1
        call = self.sent.popleft()
        if call is None:
            self._acknowledge(reply)
        elif isinstance(reply, hiredis.ReplyError):
            self._refuse(call, reply)
        elif self._replicas and call.script and call.script.writes:
            self._withheld.append((call, reply))
        elif not call.reply.done():
            call.reply.set_result(reply)

    def _refuse(self, call: Call, error: Exception) -> None:
        if call.reply.done():  # its caller was cancelled, and may have undone it meanwhile
            return
        if call.script and call.reloads < _MAX_RELOADS and str(error).startswith("NOSCRIPT"):
            call.reloads += 1
            self.load([call.script])
            self._owner.submit(call)
        else:
            self._owner.failed(call, error)

    def _acknowledge(self, replicas: object) -> None:
        """So many replicas have what was written before."""
        withheld, self._withheld = self._withheld, []
        enough = isinstance(replicas, int) and replicas >= self._replicas
        if not enough:
            log.warning(
                "only %s of %d replicas have %d writes after %d ms",
                *(replicas, self._replicas, len(withheld), self._wait_ms),
            )
        for call, reply in withheld:
            if call.reply.done():
                continue
            if call.script and call.script.strict and not enough:
                call.reply.set_exception(StoreUnavailable("too few replicas have it"))
            else:
                call.reply.set_result(reply)

    # -- The end ---------------------------------------------------------------------------------

    def _watch(self) -> None:
        self._idle.clear()
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._overdue, self._answered)

    def _overdue(self, answered: int) -> None:
        """Gives the server up when nothing at all has arrived since then."""
        self._timer = None
        if self.sent:
            if self._answered == answered:
                self._end(TimeoutError("it does not answer in time"))
            else:
                self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc or ConnectionError("it closed the connection"))

    def _end(self, error: Exception) -> None:
        if self._ended:
            return
        self._ended = True
        self._transport.abort()
        self._connection._close()
        if self._timer:
            self._timer.cancel()
        calls = [call for call, _ in self._withheld] + [call for call in self.sent if call]
        self._withheld.clear()
        self.sent.clear()
        self._idle.set()
        self._owner.lost(calls, error)

    async def finish(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            log.warning("hung up on a Redis server that does not answer")
        self._end(StoreUnavailable("the store was closed"))
