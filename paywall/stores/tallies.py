"""Counting requests in a store that applies Python's rules: free ones, and the calls of a pass.

A count lasts so long from its first request. The requests counted last are remembered by name, so
that a verb may be repeated: what is counted once is not counted again, and what is given back once
is not given back again.
"""

from abc import ABC, abstractmethod
from typing import Final

from paywall.protocol.limits import REMEMBERED_TAKES
from paywall.protocol.once import Entry, live
from paywall.stores.leases import EntryRule

TALLY: Final = "tally"
"""A count is kept as an entry, under a name that is too short for a payment's id."""


class RuleTallies(ABC):
    """The counting verbs of `paywall.stores.Store`."""

    @abstractmethod
    async def _entry(self, key: bytes, name: str, rule: EntryRule) -> Entry | None:
        """Applies a rule to an entry, atomically, and returns what it returned."""

    async def take(self, key: bytes, request: str, limit: int, ttl_ms: int) -> bool:
        taken = False

        def rule(entry: Entry | None, now_ms: int) -> Entry | None:
            nonlocal taken
            count = live(entry, now_ms) or Entry(b"", "", now_ms + ttl_ms)
            names = count.request.split()
            taken = request in names or count.total < limit
            if request in names or not taken:
                return entry
            kept = " ".join([*names, request][-REMEMBERED_TAKES:])
            return Entry(b"", kept, count.expires_ms, total=count.total + 1)

        await self._entry(key, TALLY, rule)
        return taken

    async def give_back(self, key: bytes, request: str) -> None:
        def rule(entry: Entry | None, now_ms: int) -> Entry | None:
            count = live(entry, now_ms)
            names = count.request.split() if count else []
            if count is None or request not in names:
                return entry
            names.remove(request)
            return Entry(b"", " ".join(names), count.expires_ms, total=count.total - 1)

        await self._entry(key, TALLY, rule)
