"""Channels in one SQLite file: the embedded default, nothing to install, several processes.

All work is done by one thread that owns the connection, so the event loop never waits for a disk.
Verbs that arrive while a transaction is being written travel together in the next one (*group
commit*): a hundred requests share one `fsync`. When nothing is being written, the first verb waits
for the others of the same turn of the event loop: alone it would make them wait for a commit of its
own. Answers are handed back once per batch and only after the commit returned, so a voucher is on
disk before its request runs.

Verbs of one event loop happen in the order in which they were called. A caller that is cancelled
while it waits loses only the answer: its verb happens all the same, so a `release` after it does
what it should.
"""

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import cast
from urllib.parse import parse_qsl, unquote, urlsplit

from paywall.clock import steady_time
from paywall.protocol.channel import Channel
from paywall.protocol.errors import ConfigurationError, StoreUnavailable
from paywall.protocol.ledger import Row
from paywall.protocol.limits import MAX_BATCH_VERBS, STORE_BUSY_SECONDS
from paywall.stores.rules import Rule, RuleStore, Slot
from paywall.stores.sqlite_file import ChannelFile, Step

_Query = Callable[[ChannelFile], object]
"""A question over many records, or about the ledger."""


_Job = tuple[Step | _Query, "asyncio.Future[object]"]
"""A verb or a question, and who waits for its answer."""

_Settled = tuple["asyncio.Future[object]", object]


class SqliteStore(RuleStore):
    """`sqlite:///relative.db` or `sqlite:////absolute.db`, with `?timeout=` seconds to wait.

    To be opened, used and closed in one event loop. `clock` gives Unix seconds.
    """

    def __init__(
        self,
        path: str | Path,
        busy_seconds: float = STORE_BUSY_SECONDS,
        clock: Callable[[], float] = steady_time,
    ) -> None:
        self._path = Path(path)
        self._busy_seconds = busy_seconds
        self._clock = clock
        self._writer: _Writer | None = None

    @classmethod
    def from_url(cls, url: str) -> "SqliteStore":
        parts = urlsplit(url)
        path = unquote(parts.path[1:])
        if parts.netloc or not path or path == ":memory:" or parts.fragment:
            raise ConfigurationError(
                f"{url!r} names no file; write sqlite:///relative.db or sqlite:////absolute.db"
            )
        return cls(path, _timeout(parts.query))

    async def open(self) -> None:
        assert self._writer is None, "this store is open already"
        writer = _Writer(asyncio.get_running_loop())
        await writer.start(lambda: ChannelFile(self._path, self._busy_seconds, self._clock))
        self._writer = writer

    async def close(self) -> None:
        """Finishes what was asked for before, then closes the file. Safe to repeat."""
        writer, self._writer = self._writer, None
        if writer is not None:
            await writer.stop()

    async def _apply(self, channel_id: bytes, rule: Rule, payment_id: str = "") -> Slot:
        # The answer is what this very rule returned, or what it raised.
        return cast(Slot, await self._ask(Step(channel_id, rule, payment_id)))

    async def channels(self, after: bytes = b"", limit: int = 1000) -> list[Channel]:
        return cast(list[Channel], await self._ask(lambda file: file.page(after, limit)))

    async def claimable(self, limit: int = 1000) -> list[Channel]:
        return cast(list[Channel], await self._ask(lambda file: file.claimable(limit)))

    async def ledger(self, after: str, until_ms: int, limit: int = 1000) -> list[Row]:
        return cast(list[Row], await self._ask(lambda file: file.ledger(after, until_ms, limit)))

    async def trim_ledger(self, through: str) -> int:
        return cast(int, await self._ask(lambda file: file.trim_ledger(through)))

    def _ask(self, work: Step | _Query) -> "asyncio.Future[object]":
        if self._writer is None:
            raise StoreUnavailable("the store is not open")
        return self._writer.ask(work)


class _Writer:
    """The thread that owns the file, and the jobs in front of it. One event loop asks it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: list[_Job] = []
        self._batches: SimpleQueue[list[_Job]] = SimpleQueue()
        self._is_busy = False
        self._stopped: asyncio.Future[object] = loop.create_future()

    async def start(self, connect: Callable[[], ChannelFile]) -> None:
        opened: asyncio.Future[object] = self._loop.create_future()
        # A daemon: an interpreter that ends without close() must not hang; SQLite recovers.
        threading.Thread(
            target=self._live, args=(connect, opened), name="paywall-sqlite", daemon=True
        ).start()
        try:
            await opened
        except BaseException:
            self._batches.put([])  # a caller that was cancelled leaves no thread behind
            raise

    async def stop(self) -> None:
        while self._waiting:
            self._hand_over()
        self._batches.put([])
        await self._stopped

    def ask(self, work: Step | _Query) -> "asyncio.Future[object]":
        answer: asyncio.Future[object] = self._loop.create_future()
        if not self._waiting and not self._is_busy:
            self._loop.call_soon(self._hand_over)
        self._waiting.append((work, answer))
        return answer

    def _hand_over(self) -> None:
        """Gives the thread what waits; an empty batch would tell it to stop."""
        if self._waiting:
            self._is_busy = True
            self._batches.put(self._waiting[:MAX_BATCH_VERBS])
            del self._waiting[:MAX_BATCH_VERBS]

    def _answered(self, settled: list[_Settled]) -> None:
        """Hands the answers back, once the thread has its next batch."""
        self._is_busy = False
        self._hand_over()
        for answer, outcome in settled:
            _settle(answer, outcome)

    # -- In the thread ---------------------------------------------------------------------------

    def _live(self, connect: Callable[[], ChannelFile], opened: "asyncio.Future[object]") -> None:
        try:
            file = connect()
        except Exception as error:
            self._call(_settle, opened, error)
            return
        self._call(_settle, opened, None)
        try:
            while batch := self._batches.get():
                self._call(self._answered, _work(file, batch))
        finally:
            file.close()
            self._call(_settle, self._stopped, None)

    def _call(self, function: Callable[..., None], *args: object) -> None:
        with suppress(RuntimeError):  # the loop ended without waiting for its answers
            self._loop.call_soon_threadsafe(function, *args)


def _work(file: ChannelFile, batch: list[_Job]) -> list[_Settled]:
    """Questions first: each sees what was committed before it was asked, as it must."""
    steps: list[Step] = []
    waiting: list[asyncio.Future[object]] = []
    settled: list[_Settled] = []
    for work, answer in batch:
        if isinstance(work, Step):
            steps.append(work)
            waiting.append(answer)
        else:
            settled.append((answer, _answer(file, work)))
    if steps:
        settled += zip(waiting, _outcomes(file, steps), strict=True)
    return settled


def _outcomes(file: ChannelFile, steps: list[Step]) -> Sequence[object]:
    try:
        return file.run(steps)
    except Exception as error:  # whatever it is, it belongs to those who wait, not to this thread
        return [error] * len(steps)


def _answer(file: ChannelFile, query: _Query) -> object:
    try:
        return query(file)
    except Exception as error:
        return error


# -- Back in the event loop ----------------------------------------------------------------------


def _settle(answer: "asyncio.Future[object]", outcome: object) -> None:
    if answer.done():  # its caller was cancelled
        return
    if isinstance(outcome, BaseException):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)


def _timeout(query: str) -> float:
    """The one option there is, in seconds."""
    options = dict(parse_qsl(query, keep_blank_values=True))
    text = options.pop("timeout", str(STORE_BUSY_SECONDS))
    if options:
        raise ConfigurationError(f"SQLite has no option {next(iter(options))!r}; known is timeout")
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3600:
        raise ConfigurationError(f"timeout={text} is not a number of seconds up to 3600")
    return seconds
