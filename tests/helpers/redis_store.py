"""Redis stores for tests: one whose time a test moves by hand, and one as a provider has it."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import lru_cache
from secrets import token_hex

from helpers.channels import NETWORK, chain, config, voucher
from helpers.redis_server import PATIENCE_SECONDS
from paywall.protocol.channel import ChainState, Channel, Standing
from paywall.protocol.errors import StoreUnavailable
from paywall.stores import Store, open_store
from paywall.stores.redis import RedisStore
from paywall.stores.redis_scripts import Script, make, prelude, whole_text
from paywall.stores.redis_url import parse_redis_url


@lru_cache(maxsize=64)
def _script_at(name: str, now_ms: int) -> Script:
    clock = f"local function now_ms() return {now_ms} end\n".encode()
    return make(name, whole_text(name, {**prelude(), "now_ms": clock}))


class TimedRedisStore(RedisStore):
    """Under a prefix of its own. `clock` gives Unix seconds.

    The scripts are the real ones, but for the one function that asks the server's clock.
    """

    def __init__(self, url: str, clock: Callable[[], float]) -> None:
        super().__init__(parse_redis_url(f"{url}?prefix=t{token_hex(8)}"))
        self._clock = clock

    def _script(self, name: str) -> Script:
        return _script_at(name, int(self._clock() * 1000))


@asynccontextmanager
async def store_at(url: str) -> AsyncIterator[Store]:
    """A store that is opened by its URL, as a provider does."""
    store = open_store(url)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def chain_now(balance: int = 10**9, claimed: int = 0, **fields: int) -> ChainState:
    """What the contract says, read at this moment: a server's own clock decides."""
    return chain(balance, claimed, read_at_ms=int(time.time() * 1000), **fields)


async def open_channel(store: Store, number: int = 0) -> bytes:
    """A channel with plenty of balance."""
    terms = config(number)
    channel_id = terms.channel_id(NETWORK)
    await store.record(channel_id, NETWORK, terms, chain_now(), 0)
    return channel_id


async def charge_next(store: Store, channel_id: bytes, total: int, price: int = 1) -> Standing:
    """A whole request under a voucher of `total`."""
    request = f"request-{total}"
    await store.reserve(channel_id, voucher(total), price, request)
    return await store.charge(channel_id, request, price)


async def record_of(store: Store, channel_id: bytes) -> Channel:
    record = await store.channel(channel_id)
    assert record is not None
    return record


class Payers:
    """Some channels under steady traffic; each remembers what it was told is charged."""

    def __init__(self, store: Store, channels: list[bytes]) -> None:
        self.store = store
        self.acknowledged = dict.fromkeys(channels, 0)
        self.enough = False
        self.turned_away = 0

    async def pay(self, channel_id: bytes) -> None:
        while not self.enough:
            total = self.acknowledged[channel_id] + 1
            try:
                standing = await charge_next(self.store, channel_id, total)
            except StoreUnavailable:
                self.turned_away += 1
                return
            assert standing.charged == total, "charged twice, or forgotten"
            self.acknowledged[channel_id] = total

    async def check(self, store: Store) -> None:
        """Every payer is charged what it was told, to the unit."""
        for channel_id, acknowledged in self.acknowledged.items():
            assert (await record_of(store, channel_id)).charged == acknowledged
            assert acknowledged > 3

    @asynccontextmanager
    async def paying(self) -> AsyncIterator[None]:
        self.enough = False
        async with asyncio.TaskGroup() as group:
            for channel_id in self.acknowledged:
                group.create_task(self.pay(channel_id))
            await self._all_go_on()
            yield
            await self._all_go_on()
            self.enough = True

    async def _all_go_on(self) -> None:
        """A while, and until every channel has served some more, unless payers were turned away."""
        before = dict(self.acknowledged)
        await asyncio.sleep(0.2)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not self.turned_away and not self.enough:
                if all(now > before[one] + 3 for one, now in self.acknowledged.items()):
                    break
                await asyncio.sleep(0.02)


async def payers(store: Store, count: int = 8) -> Payers:
    return Payers(store, [await open_channel(store, number) for number in range(count)])
