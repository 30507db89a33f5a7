"""Channels in a dict: for tests and for trying things out.

It lives and dies with its process, so a restart forgets what was charged; a provider that earns
money wants `sqlite` or `redis`. One event loop, no thread, no lock: a rule runs without awaiting.
"""

from collections import OrderedDict
from collections.abc import Callable
from heapq import nsmallest
from itertools import islice, takewhile
from urllib.parse import urlsplit

from paywall.clock import steady_time
from paywall.protocol.channel import Channel
from paywall.protocol.errors import ConfigurationError
from paywall.protocol.ledger import Row, row_of
from paywall.protocol.once import Entry
from paywall.stores.rules import Rule, RuleStore, Slot, owed

Key = tuple[bytes, str]
"""Channel id and payment id."""


class MemoryStore(RuleStore):
    """`memory://`. `clock` gives Unix seconds."""

    def __init__(self, clock: Callable[[], float] = steady_time) -> None:
        self._clock = clock
        self._records: dict[bytes, Channel] = {}
        # In a plain dict the first entry is found by walking past all that were dropped before it.
        self._entries: OrderedDict[Key, Entry] = OrderedDict()
        self._lines: dict[int, tuple[int, bytes]] = {}
        self._written = 0

    @classmethod
    def from_url(cls, url: str) -> "MemoryStore":
        if any(urlsplit(url)[1:]):
            raise ConfigurationError("a memory store has no name and no options: memory://")
        return cls()

    async def open(self) -> None:
        """Nothing to connect to."""

    async def close(self) -> None:
        """Nothing to give back; the records stay as long as this object."""

    async def _apply(self, channel_id: bytes, rule: Rule, payment_id: str = "") -> Slot:
        now_ms = int(self._clock() * 1000)
        before = Slot(self._records.get(channel_id))
        if payment_id:
            before = Slot(before.record, self._entries.get((channel_id, payment_id)))
        after = rule(before, now_ms)
        if after.record is not None:
            self._records[channel_id] = after.record
        if after.entry is not before.entry:
            self._remember((channel_id, payment_id), after.entry, now_ms)
        if after.line:
            self._written += 1
            self._lines[self._written] = (now_ms, after.line)
        return after

    def _remember(self, key: Key, entry: Entry | None, now_ms: int) -> None:
        """Writes an entry, and drops two that have expired; the oldest stand first.

        One that outlives the newcomer goes to the end: it would keep those behind it.
        """
        entries = self._entries
        if entry is None:
            del entries[key]
            return
        entries[key] = entry
        entries.move_to_end(key)
        for first in list(islice(entries, 2)):
            if entries[first].expires_ms <= now_ms:
                del entries[first]
            elif entries[first].expires_ms > entry.expires_ms:
                entries.move_to_end(first)

    async def channels(self, after: bytes = b"", limit: int = 1000) -> list[Channel]:
        ids = nsmallest(limit, (channel_id for channel_id in self._records if channel_id > after))
        return [self._records[channel_id] for channel_id in ids]

    async def claimable(self, limit: int = 1000) -> list[Channel]:
        due = (channel for channel in self._records.values() if owed(channel) > 0)
        return nsmallest(limit, due, key=lambda channel: (-owed(channel), channel.channel_id))

    async def ledger(self, after: str, until_ms: int, limit: int = 1000) -> list[Row]:
        oldest = next(iter(self._lines), self._written + 1)
        numbers = range(max(int(after or 0) + 1, oldest), self._written + 1)
        rows = (row_of(str(number), *self._lines[number]) for number in numbers)
        return list(islice(takewhile(lambda row: row.at_ms < until_ms, rows), limit))

    async def trim_ledger(self, through: str) -> int:
        gone = [number for number in self._lines if number <= int(through)]
        for number in gone:
            del self._lines[number]
        return len(gone)
