"""One at a time for each channel, over all workers of a store: the turn to put a deposit on chain.

Two workers that each put a first deposit of one channel on chain would lock twice what the payer
meant to, and pay gas for nothing. So a deposit is made in a turn: a small record in the store,
renewed while its worker lives. A worker that dies leaves a turn that expires; one whose transaction
is pending leaves it to expire too, for nobody else knows what was sent.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from secrets import token_bytes
from typing import Final
from weakref import WeakValueDictionary

from paywall.protocol.eip712 import keccak
from paywall.protocol.errors import ChainUnavailable, TransactionPending, Unavailable
from paywall.protocol.limits import (
    CHAIN_TIMEOUT_SECONDS,
    HOLD_RENEW_SECONDS,
    HOLD_SECONDS,
    TURN_WAIT_SECONDS,
)
from paywall.stores import Store
from paywall.stores.slips import slips_of

log = logging.getLogger("paywall.gate")

_TTL_MS: Final = HOLD_SECONDS * 1000
_LOOK_SECONDS: Final = (0.05, 0.1, 0.2, 0.4, 0.8)


class Turns:
    """The turns of one worker."""

    def __init__(self, store: Store) -> None:
        self._slips = slips_of(store)
        self._me = token_bytes(16)
        self._mine: dict[bytes, bytes] = {}
        self._locks: WeakValueDictionary[bytes, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def of(self, channel_id: bytes) -> AsyncIterator[None]:
        """Waits for the turn of a channel and has it inside. Raises Unavailable."""
        async with self._queue(channel_id):
            key = _key(channel_id)
            await self._take(key)
            keeper = asyncio.create_task(self._keep(key))
            try:
                yield
            except TransactionPending:
                self._mine.pop(key, None)
                raise
            finally:
                keeper.cancel()
                with suppress(Unavailable):  # it expires by itself
                    await self._give_back(key)

    async def over(self, channel_id: bytes) -> bool:
        """Waits a while until nobody has the turn; False when somebody still has it."""
        key = _key(channel_id)
        for pause_seconds in self._pauses():
            if (await self._slips.read(key))[0] is None:
                return True
            await asyncio.sleep(pause_seconds)
        return False

    @asynccontextmanager
    async def _queue(self, channel_id: bytes) -> AsyncIterator[None]:
        """This worker's own requests stand in line, and nobody for ever."""
        lock = self._locks.setdefault(channel_id, asyncio.Lock())
        try:
            async with asyncio.timeout(2 * CHAIN_TIMEOUT_SECONDS):
                await lock.acquire()
        except TimeoutError:
            raise ChainUnavailable("a deposit of this channel is still under way") from None
        try:
            yield
        finally:
            lock.release()

    async def _take(self, key: bytes) -> None:
        mine = self._me + token_bytes(8)
        for pause_seconds in self._pauses():
            if await self._swap(key, None, mine) == mine:
                self._mine[key] = mine
                return
            await asyncio.sleep(pause_seconds)
        raise ChainUnavailable("another worker is putting a deposit of this channel on chain")

    def _pauses(self) -> list[float]:
        last = _LOOK_SECONDS[-1]
        rest = int((TURN_WAIT_SECONDS - sum(_LOOK_SECONDS)) / last)
        return [*_LOOK_SECONDS, *[last] * rest]

    async def _keep(self, key: bytes) -> None:
        """Renews a turn for as long as it takes."""
        while True:
            await asyncio.sleep(HOLD_RENEW_SECONDS)
            before, after = self._mine[key], self._me + token_bytes(8)
            try:
                found = await self._swap(key, before, after)
            except Unavailable:
                continue
            if found != after:
                return log.warning("the turn to deposit has passed to another worker")
            self._mine[key] = after

    async def _give_back(self, key: bytes) -> None:
        mine = self._mine.pop(key, None)
        if mine is not None:
            await self._swap(key, mine, None)

    async def _swap(self, key: bytes, before: bytes | None, after: bytes | None) -> bytes | None:
        """What is there then. What else is found of ours is taken over: a turn whose deposit is
        pending, or one that was written although the store did not say so.
        """
        found, _ = await self._slips.swap(key, before, after, _TTL_MS)
        if found is not None and found != after and found.startswith(self._me):
            found, _ = await self._slips.swap(key, found, after, _TTL_MS)
        return found


def _key(channel_id: bytes) -> bytes:
    return keccak(b"paywall:deposit:" + channel_id)
