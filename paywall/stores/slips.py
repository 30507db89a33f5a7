"""Slips in whatever store a provider has: one small record under a key, swapped in one step.

The rule of a slip is pure (`paywall.protocol.slip`), so a store needs one verb for it: write this
if what is there is still that. Who loses the race reads what the winner wrote and decides again.
The store's own clock is told with every answer, for deadlines are measured by it.
"""

from collections.abc import Callable
from importlib import import_module

from paywall.protocol.errors import ConfigurationError
from paywall.protocol.once import Entry, live
from paywall.stores import Found, Slips, Store
from paywall.stores.rules import RuleStore, Slot

_NAME = "slip"
"""A slip is kept as an entry, under a name that is too short for a payment's id."""


async def change(
    slips: Slips, key: bytes, rule: Callable[[bytes | None, int], bytes | None], ttl_ms: int
) -> bytes | None:
    """Puts what a pure rule makes of (what is there, now in ms) in its place, and returns it.

    Whoever loses a race decides again. What the rule raises is raised, and nothing has changed.
    """
    before, now_ms = await slips.read(key)
    while (after := rule(before, now_ms)) != before:
        found, now_ms = await slips.swap(key, before, after, ttl_ms)
        if found == after:
            break
        before = found
    return after


def slips_of(store: Store) -> Slips:
    """The slips of a store. Raises ConfigurationError for one that cannot keep any."""
    if isinstance(store, RuleStore):
        return RuleSlips(store)
    # Loaded by name, so that a provider without Redis does not load its client.
    open_redis: Callable[[Store], Slips | None]
    open_redis = import_module("paywall.stores.redis_slips").slips_of
    slips = open_redis(store)
    if slips is None:
        raise ConfigurationError(
            f"{type(store).__name__} keeps no slips, the small records beside channels:"
            " deposits and payments of the scheme exact need them"
        )
    return slips


class RuleSlips:
    """In a store that applies Python's rules to a record."""

    def __init__(self, store: RuleStore) -> None:
        self._store = store

    async def read(self, key: bytes) -> Found:
        return await self._step(key, lambda entry, now_ms: entry)

    async def swap(
        self,
        key: bytes,
        before: bytes | None,
        after: bytes | None,
        ttl_ms: int,
        line: bytes = b"",
    ) -> Found:
        def rule(entry: Entry | None, now_ms: int) -> Entry | None:
            if _data(entry) != before:
                return entry
            return None if after is None else Entry(b"", "", now_ms + ttl_ms, after)

        return await self._step(key, rule, line)

    async def _step(
        self, key: bytes, rule: Callable[[Entry | None, int], Entry | None], line: bytes = b""
    ) -> Found:
        told = 0

        def apply(slot: Slot, now_ms: int) -> Slot:
            nonlocal told
            told = now_ms
            before = live(slot.entry, now_ms)
            after = rule(before, now_ms)
            row = line if _data(after) != _data(before) else b""
            return Slot(slot.record, after, row)

        slot = await self._store._apply(key, apply, _NAME)
        return _data(slot.entry), told


def _data(entry: Entry | None) -> bytes | None:
    return entry.answer if entry else None
