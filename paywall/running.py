"""The requests of channels that one worker serves: whose holds are renewed, and for how long.

A payer that withdraws is served for a third of its delay. A request of then must not be charged
when the money is gone, however slowly its client sends or reads: so none lives longer than a sixth
of the delay, and half of it is left to claim what it came to. Who serves a metered request says how
it is ended and charged (`Cut`); of others the hold is dropped, and a late answer is withheld.

A hold of which nobody knows whether it is there is dropped too, as soon as the store answers again.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from itertools import takewhile

from paywall.chores import Chores
from paywall.mirror import PAUSES_SECONDS
from paywall.protocol.errors import Unavailable
from paywall.protocol.limits import REQUEST_DELAY_SHARE
from paywall.protocol.once import Ticket
from paywall.stores import Store

log = logging.getLogger("paywall.gate")

Key = tuple[bytes, str]
"""A channel's id, and the request among those of its channel."""
Cut = Callable[[], None]


class Running:
    """What one gate has let in. `clock` gives Unix seconds."""

    def __init__(
        self,
        store: Store,
        chores: Chores,
        withdraw_delay_seconds: int,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._chores = chores
        self._longest_seconds = withdraw_delay_seconds / REQUEST_DELAY_SHARE
        self._clock = clock
        self._since: dict[Key, float] = {}
        self._cuts: dict[Key, Cut] = {}

    def __len__(self) -> int:
        return len(self._since)

    def begin(self, key: Key) -> None:
        self._since[key] = self._clock()

    def cut_by(self, key: Key, cut: Cut) -> None:
        """How a request is ended that takes too long; called once at most, never after `end`."""
        self._cuts[key] = cut

    def end(self, key: Key) -> None:
        self._since.pop(key, None)
        if self._cuts:
            self._cuts.pop(key, None)

    def keys(self) -> set[Key]:
        return set(self._since)

    async def renew(self, keys: set[Key]) -> None:
        """Keeps the holds of those that still run. Raises Unavailable."""
        held = [*(keys & self._since.keys())]
        if held:
            await self._store.renew(held)

    def end_overdue(self) -> None:
        """A request that its client can draw out is not charged when its channel is empty."""
        for (channel_id, request), cut in self._overdue():
            log.warning("a request of channel %s took too long", channel_id.hex())
            if cut:
                cut()
            else:
                self.drop(channel_id, request)

    def _overdue(self) -> list[tuple[Key, Cut | None]]:
        """Takes out what has run for too long; the oldest stand first."""
        latest = self._clock() - self._longest_seconds
        keys = [key for key, _ in takewhile(lambda one: one[1] <= latest, self._since.items())]
        for key in keys:
            del self._since[key]
        return [(key, self._cuts.pop(key, None)) for key in keys]

    def drop(self, channel_id: bytes, request: str, ticket: Ticket | None = None) -> None:
        """Drops, in the background, a hold of which nobody knows whether it is there.

        So that the same payment is good again when the store is.
        """
        self._chores.behind(self._drop(channel_id, request, ticket))

    async def _drop(self, channel_id: bytes, request: str, ticket: Ticket | None) -> None:
        for pause_seconds in (0.0, *PAUSES_SECONDS):
            await asyncio.sleep(pause_seconds)
            with suppress(Unavailable):
                return await self._store.release(channel_id, request, ticket)
        log.warning("a hold is left to expire: the store does not answer")
