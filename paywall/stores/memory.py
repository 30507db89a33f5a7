"""Channels in a dict: for tests and for trying things out.

It lives and dies with its process, so a restart forgets what was charged; a provider that earns
money wants `sqlite` or `redis`. One event loop, no thread, no lock: a rule runs without awaiting.
"""

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


class MemoryStore(RuleStore):
    """`memory://`. `clock` gives Unix seconds."""

    def __init__(self, clock: Callable[[], float] = steady_time) -> None:
        self._clock = clock
        self._records: dict[bytes, Channel] = {}
        self._entries: dict[tuple[bytes, str], Entry] = {}
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
        now_ms, key = int(self._clock() * 1000), (channel_id, payment_id)
        after = rule(Slot(self._records.get(channel_id), self._entries.get(key)), now_ms)
        if after.record is not None:
            self._records[channel_id] = after.record
        self._entries.pop(key, None)
        if after.entry is not None:
            self._entries[key] = after.entry
            self._forget(now_ms)
        if after.line:
            self._written += 1
            self._lines[self._written] = (now_ms, after.line)
        return after

    def _forget(self, now_ms: int) -> None:
        """Drops entries that have expired, two for each that comes; the oldest stand first."""
        for key in list(islice(self._entries, 2)):
            if self._entries[key].expires_ms <= now_ms:
                del self._entries[key]

    async def channels(self, after: bytes = b"", limit: int = 1000) -> list[Channel]:
        ids = nsmallest(limit, (channel_id for channel_id in self._records if channel_id > after))
        return [self._records[channel_id] for channel_id in ids]

    async def claimable(self, limit: int = 1000) -> list[Channel]:
        due = (channel for channel in self._records.values() if owed(channel) > 0)
        return nsmallest(limit, due, key=lambda channel: (-owed(channel), channel.channel_id))

    async def ledger(self, after: str, until_ms: int, limit: int = 1000) -> list[Row]:
        rows = (
            row_of(str(number), at_ms, line)
            for number, (at_ms, line) in self._lines.items()
            if number > int(after or 0)
        )
        return list(islice(takewhile(lambda row: row.at_ms < until_ms, rows), limit))

    async def trim_ledger(self, through: str) -> int:
        gone = [number for number in self._lines if number <= int(through)]
        for number in gone:
            del self._lines[number]
        return len(gone)
