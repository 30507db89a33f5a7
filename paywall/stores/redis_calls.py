"""Calls that outlast what happens to Redis servers: every verb is safe to repeat, so it is.

A call that fails for a reason that may pass (the connection broke, the server is loading, was
demoted, its slots move) waits with all others that failed, a little longer each time; then the
masters are looked for again and all of them are sent again, in the order in which they came. That
ends `timeout` seconds after the call was made, and for all calls `timeout` seconds after an outage
began: from then on a call is tried once, so that nobody queues behind a server that is gone.
Whatever remains is StoreUnavailable, with one sentence.
"""

import asyncio
import random
from collections.abc import Sequence
from typing import Final

import hiredis
from redis.exceptions import AuthenticationError, BusyLoadingError, RedisError

from paywall.protocol.errors import PaymentError, StoreUnavailable
from paywall.protocol.limits import MAX_WAITING_CALLS
from paywall.stores.redis_lane import Lane
from paywall.stores.redis_nodes import nodes_of
from paywall.stores.redis_scripts import Script
from paywall.stores.redis_url import Place, RedisUrl
from paywall.stores.redis_wire import FAILURES, Call, Reply, pack

_MAX_MOVES: Final = 8
_FIRST_PAUSE_SECONDS: Final = 0.01
_LONGEST_PAUSE_SECONDS: Final = 0.5
_QUIET_SECONDS: Final = 2.0
"""A failure after so long without one begins a new outage."""

_PASSING: Final = {
    "LOADING": "it is still loading its data",
    "BUSY": "a script keeps it busy",
    "READONLY": "it is a read-only replica",
    "CLUSTERDOWN": "the cluster is down",
    "MASTERDOWN": "its master is down",
    "TRYAGAIN": "its slots are being moved",
    "MOVED": "the cluster's slots keep moving",
    "ASK": "the cluster's slots keep moving",
    "NOREPLICAS": "too few replicas are connected to it",
}
_LASTING: Final = {
    "OOM": "it has reached its maxmemory",
    "MISCONF": "it cannot write to its disk",
    "WRONGTYPE": "a key of ours is of another type, or was written by a newer version",
    "NOAUTH": "it asks for a password",
    "WRONGPASS": "it does not accept the password",
    "NOPERM": "its user may not do this",
    "NOSCRIPT": "it does not keep scripts",
}
"""Failures of which trying again within seconds is no cure."""


def code_of(error: Exception) -> str:
    """The first word of what a server refused with, wherever older servers put it."""
    text = str(error)
    if "@user_script" in text and ": -" in text:
        text = text.rpartition(": -")[2]
    return text.partition(" ")[0]


def sentence(error: Exception) -> str:
    """What went wrong, for people; never with what was sent."""
    if isinstance(error, hiredis.ReplyError):
        code = code_of(error)
        return _PASSING.get(code) or _LASTING.get(code) or f"it refused: {error}"
    if isinstance(error, BusyLoadingError):
        return _PASSING["LOADING"]
    if isinstance(error, AuthenticationError):
        return "it does not accept the user or password"
    if isinstance(error, TimeoutError):
        return "it does not answer in time"
    return str(error).rstrip(".") or type(error).__name__


def _may_pass(error: Exception) -> bool:
    if isinstance(error, hiredis.ReplyError):
        return code_of(error) in _PASSING
    return isinstance(error, RedisError | OSError)


class Calls:
    """The servers of one URL, and every call that is under way to them."""

    def __init__(self, url: RedisUrl, scripts: dict[str, Script]) -> None:
        self._url = url
        self._loop = asyncio.get_running_loop()
        self.nodes = nodes_of(url, lambda place: Lane(url, place, scripts, self._failed))
        self._again: list[Call] = []
        self._recovery: asyncio.Task[None] | None = None
        self._pause_seconds = _FIRST_PAUSE_SECONDS
        self._failed_at = self._outage_at = -_QUIET_SECONDS
        self._closed = False

    def run(
        self,
        script: Script,
        slot: int,
        keys: Sequence[bytes],
        arguments: Sequence[str | bytes | int],
    ) -> "asyncio.Future[Reply]":
        """Runs a script on the master of a slot."""
        command = pack("EVALSHA", script.sha, len(keys), *keys, *arguments)
        return self.send(command, slot, script)

    def ask(self, slot: int, *words: str | bytes | int) -> "asyncio.Future[Reply]":
        """Sends a command to the master of a slot."""
        return self.send(pack(*words), slot)

    def send(
        self, command: bytes, slot: int, script: Script | None = None
    ) -> "asyncio.Future[Reply]":
        """Sends a command, as it is written, to the master of a slot."""
        if self._closed:
            raise StoreUnavailable("the store is not open")
        lane = self.nodes.lane(slot)
        if lane.waiting + len(self._again) >= MAX_WAITING_CALLS:
            raise StoreUnavailable(f"{self._url.show()}: too many verbs wait for an answer")
        reply: asyncio.Future[Reply] = self._loop.create_future()
        give_up_at = self._loop.time() + self._url.timeout_seconds
        lane.submit(Call(command, reply, script, slot, give_up_at))
        return reply

    async def close(self) -> None:
        """Waits a moment for what is under way, and hangs up."""
        self._closed = True
        if self._recovery:
            self._recovery.cancel()
            await asyncio.wait([self._recovery])
        for lane in list(self.nodes.all()):
            await lane.close()
        self._give_up(self._again, StoreUnavailable("the store was closed"))

    # -- Failures --------------------------------------------------------------------------------

    def _failed(self, call: Call, error: Exception) -> None:
        if call.reply.done():  # its caller was cancelled: nobody waits for another try
            return
        if not call.give_up_at:
            call.reply.set_exception(error)
            return
        if isinstance(error, hiredis.ReplyError) and self._redirected(call, str(error).split()):
            return
        now = self._loop.time()
        if now - self._failed_at > _QUIET_SECONDS:
            self._outage_at, self._pause_seconds = now, _FIRST_PAUSE_SECONDS
        self._failed_at = now
        outlasted = now >= self._outage_at + self._url.timeout_seconds
        if self._closed or outlasted or now >= call.give_up_at or not _may_pass(error):
            self._give_up([call], error)
            return
        self._again.append(call)
        if self._recovery is None:
            self._recovery = self._loop.create_task(self._recover())

    def _give_up(self, calls: list[Call], error: Exception) -> None:
        for call in calls:
            if not call.reply.done():
                call.reply.set_exception(self.unavailable(error))

    def unavailable(self, error: Exception) -> PaymentError:
        if isinstance(error, PaymentError):
            return error
        failure = StoreUnavailable(f"{self._url.show()}: {sentence(error)}")
        failure.__cause__ = error
        return failure

    def _redirected(self, call: Call, words: list[str]) -> bool:
        """Follows a cluster's node that knows better."""
        if words[0] not in ("MOVED", "ASK") or call.moves >= _MAX_MOVES or self._closed:
            return False
        if self._url.kind != "cluster":
            return False
        call.moves += 1
        host, _, port = words[2].rpartition(":")
        place: Place = (host or self.nodes.lane(call.slot).place[0], int(port))
        lane = self.nodes.at(place)
        if words[0] == "ASK":  # for this call only
            lane.tell("ASKING")
        else:
            self.nodes.moved(call.slot, place)
        lane.submit(call)
        return True

    async def _recover(self) -> None:
        """Sends again what failed, when the masters have been found."""
        try:
            while self._again:
                await asyncio.sleep(self._pause_seconds * (0.5 + random.random() / 2))
                self._pause_seconds = min(2 * self._pause_seconds, _LONGEST_PAUSE_SECONDS)
                try:
                    await self.nodes.find()
                except FAILURES as error:
                    self._retire(error)
                else:
                    self._send_again()
        finally:
            self._recovery = None

    def _send_again(self) -> None:
        calls, self._again = self._again, []
        for call in calls:
            if not call.reply.done():
                self.nodes.lane(call.slot).submit(call)

    def _retire(self, error: Exception) -> None:
        """Without masters: only who has time left goes on waiting."""
        calls, self._again = self._again, []
        for call in calls:
            self._failed(call, error)
