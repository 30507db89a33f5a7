"""Watching: from the contract's log to the store, so that no withdrawal begins unseen.

A *look* reads the log from the cursor to the newest block, and the last `depth_blocks` before it
once more, because a reorganisation may have put other lines there. A line is never believed: it
only says which channel to read anew, and what is read is recorded. So a line that is read twice
does nothing, and one that has vanished is reason to read its channel again. Who did not look last
does not know which lines have vanished, and reads every channel that was read in those blocks. The
cursor moves after the records are written: who comes after a crash reads the same lines again.

Where the gap is too wide to be read line by line, and at the very first look, every channel with
money in it is read instead. An endpoint that hides lines does not hide a withdrawal for long: a
channel that owes is read anyway when its last reading is a third of its withdraw delay old.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final, TypeVar

from paywall.alarms import Board, ClockBehind, WatcherBehind
from paywall.chain import Chain
from paywall.chain.desk import Cursor, Desk
from paywall.chain.own import Head, OwnChain, Seen
from paywall.clock import steady_time
from paywall.protocol.channel import Channel
from paywall.protocol.errors import ChainUnavailable, ConfigurationError
from paywall.protocol.limits import MAX_CLOCK_SKEW_SECONDS
from paywall.stores import Store

log = logging.getLogger("paywall.watcher")

T = TypeVar("T")

AT_ONCE: Final = 8
"""How many channels are read at a time."""


@dataclass(frozen=True, slots=True)
class Watch:
    """How the log is followed.

    `depth_blocks` is how deep a reorganisation may go; `range_blocks` how many blocks are asked for
    at once; a gap of more than `max_gap_blocks` is not read line by line. `behind_seconds` without
    a complete look, or without a new block, are an alarm.
    """

    depth_blocks: int = 64
    range_blocks: int = 1_000
    max_gap_blocks: int = 50_000
    behind_seconds: int = 300

    def __post_init__(self) -> None:
        if self.depth_blocks < 0 or min(self.range_blocks, self.behind_seconds) <= 0:
            raise ConfigurationError("a watch counts blocks and seconds, above zero")


class Watcher:
    """Follows one network's log for one store. One look at a time."""

    def __init__(
        self,
        store: Store,
        chain: OwnChain,
        board: Board,
        watch: Watch,
        clock: Callable[[], float] = steady_time,
    ) -> None:
        self._store = store
        self._chain = chain
        self._board = board
        self._watch = watch
        self._clock = clock
        self._known: dict[tuple[bytes, int], Seen] = {}
        self._again: dict[bytes, int] = {}
        """Channels to be read again, until a reading is of this block or later."""
        self._head = (0, 0.0)
        self._cursor_left: Cursor | None = None

    async def look(self, desk: Desk) -> None:
        """Records every channel of which the log tells something new. Raises ChainUnavailable."""
        cursor = await desk.cursor()
        try:
            head = await self._chain.head()
            await self._follow(desk, cursor, head)
        except ChainUnavailable as error:
            self.judge(cursor, str(error))
            raise
        self._judge_clock(head)
        if self._is_stalled(head):
            self._ring(f"the endpoint shows no block after {head.number}")
        else:
            self._board.lift(WatcherBehind, self._chain.network)

    def judge(self, cursor: Cursor | None, why: str) -> None:
        """Rings when the last complete look is too long ago, whoever made it."""
        read_at = cursor.read_at_ms / 1000 if cursor else self._clock()
        if self._clock() - read_at > self._watch.behind_seconds:
            self._ring(f"nothing was read of the log since {int(read_at)} (Unix time): {why}")

    def _judge_clock(self, head: Head) -> None:
        """A block that seems to be from the future was mined by clocks that are right."""
        behind = int(head.mined_at - self._clock())
        if behind > MAX_CLOCK_SKEW_SECONDS:
            text = f"our clock is {behind} s behind the newest block of {self._chain.network}"
            self._board.ring(ClockBehind, self._chain.network, text)
        else:
            self._board.lift(ClockBehind, self._chain.network)

    def _ring(self, text: str) -> None:
        self._board.ring(WatcherBehind, self._chain.network, text)

    def _is_stalled(self, head: Head) -> bool:
        number, since = self._head
        if head.number != number:
            self._head = (head.number, self._clock())
            return False
        return self._clock() - since > self._watch.behind_seconds

    # -- From the cursor to the head -------------------------------------------------------------

    async def _follow(self, desk: Desk, cursor: Cursor | None, head: Head) -> None:
        if cursor is not None:
            self.judge(cursor, "nobody was watching")
        if cursor is None or abs(head.number - cursor.block) > self._watch.max_gap_blocks:
            await self._read_all(desk)
        elif head.number < cursor.block - self._watch.depth_blocks:
            raise ChainUnavailable(f"the endpoint is at block {head.number}, behind {cursor.block}")
        else:
            await self._read_log(desk, cursor, head)
        await self._refresh(desk, dict.fromkeys([*self._again, *await desk.withdrawing()]))
        await self._move(desk, head.number)

    async def _move(self, desk: Desk, block: int) -> None:
        cursor = Cursor(block, int(self._clock() * 1000))
        await desk.put_cursor(cursor)
        self._cursor_left = cursor

    async def _read_log(self, desk: Desk, cursor: Cursor, head: Head) -> None:
        first = max(0, min(cursor.block, head.number) + 1 - self._watch.depth_blocks)
        if cursor != self._cursor_left:
            self._known.clear()
            await self._read_all(desk, first)
        self._known = {place: line for place, line in self._known.items() if line.block >= first}
        for start in range(first, head.number + 1, self._watch.range_blocks):
            end = min(head.number, start + self._watch.range_blocks - 1)
            lines = {line.place: line for line in await self._chain.log(start, end)}
            await self._compare(desk, lines, start, end)
            if end > cursor.block:
                await self._move(desk, end)

    async def _compare(
        self, desk: Desk, lines: dict[tuple[bytes, int], Seen], start: int, end: int
    ) -> None:
        """Reads the channels of new lines, and of lines that are not there any more."""
        before = {p: line for p, line in self._known.items() if start <= line.block <= end}
        new = [line for place, line in lines.items() if place not in before]
        gone = [line for place, line in before.items() if place not in lines]
        for line in (*new, *gone):
            self._again[line.channel_id] = max(line.block, self._again.get(line.channel_id, 0))
        await self._refresh(desk, dict.fromkeys(line.channel_id for line in (*new, *gone)))
        for line in gone:
            del self._known[line.place]
        self._known.update(lines)

    # -- Reading channels ------------------------------------------------------------------------

    async def _read_all(self, desk: Desk, since: int | None = None) -> None:
        """Reads every channel of this network with money in it, as far as its last reading is of
        the block `since` or later.
        """
        log.info("reading all channels on %s since block %s", self._chain.network, since or 0)
        after = b""
        while page := await self._store.channels(after):
            live = [c for c in page if c.network == self._chain.network and c.balance > c.claimed]
            recent = {c.channel_id: c.chain.block for c in live if c.chain.block >= (since or 0)}
            self._again |= {} if since is None else recent
            await self._refresh(desk, recent)
            after = page[-1].channel_id

    async def _refresh(self, desk: Desk, channel_ids: Iterable[bytes]) -> None:
        """Reads these channels, as far as the store knows them, and records what they say."""
        found = await in_turns(self._read, channel_ids)
        await note_withdrawals(desk, [channel for channel in found if channel])

    async def _read(self, channel_id: bytes) -> Channel | None:
        known = await self._store.channel(channel_id)
        if known is None or known.network != self._chain.network:
            self._again.pop(channel_id, None)
            return None
        channel = await reread(self._store, self._chain, known)
        if channel.chain.block >= max(known.chain.block, self._again.get(channel_id, 0)):
            self._again.pop(channel_id, None)
        return channel


async def reread(store: Store, chain: Chain, channel: Channel) -> Channel:
    """Brings one record up to date with the chain."""
    state = await chain.channel(channel.channel_id)
    return await store.record(channel.channel_id, channel.network, channel.config, state, 0)


async def note_withdrawals(desk: Desk, channels: Iterable[Channel]) -> None:
    """Keeps the list of those who withdraw, and when their channels were claimed since."""
    before = await desk.withdrawing()
    after = dict(before)
    for channel in channels:
        if channel.chain.withdraw_requested_at:
            after.setdefault(channel.channel_id, 0)
        else:
            after.pop(channel.channel_id, None)
    if after != before:
        await desk.put_withdrawing(after)


async def in_turns(
    work: Callable[[T], Awaitable[Channel | None]], items: Iterable[T]
) -> list[Channel | None]:
    """Does it for all items, a few at a time. When one fails, the others are over too."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(item: T) -> Channel | None:
        async with room:
            return await work(item)

    found: list[Channel | None] = []
    for result in await asyncio.gather(*map(one, items), return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
        found.append(result)
    return found
