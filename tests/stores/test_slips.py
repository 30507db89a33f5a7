"""Slips in every store: one writer wins, and repeating a swap changes nothing."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from helpers.stores import STORES, Time

from paywall.stores import Slips, Store
from paywall.stores.slips import slips_of

TTL_MS = 60_000


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path, time: Time) -> AsyncIterator[Store]:
    store = STORES[request.param](tmp_path, time)
    await store.open()
    yield store
    await store.close()


@pytest.fixture
def slips(store: Store) -> Slips:
    return slips_of(store)


async def there(slips: Slips, key: bytes = b"key") -> bytes | None:
    return (await slips.read(key))[0]


async def swap(slips: Slips, before: bytes | None, after: bytes | None) -> bytes | None:
    return (await slips.swap(b"key", before, after, TTL_MS))[0]


async def test_a_slip_is_written_changed_and_dropped(slips: Slips) -> None:
    assert await there(slips) is None
    assert await swap(slips, None, b"one") == b"one" == await there(slips)
    assert await swap(slips, b"one", b"two") == b"two" == await there(slips)
    assert await swap(slips, b"two", None) is None
    assert await there(slips) is None


async def test_who_comes_late_changes_nothing_and_learns_what_is_there(slips: Slips) -> None:
    assert await swap(slips, None, b"one") == b"one"
    assert await swap(slips, None, b"other") == b"one"
    assert await swap(slips, b"zero", b"other") == b"one"
    assert await swap(slips, b"zero", None) == b"one"
    assert await there(slips) == b"one"


async def test_a_swap_may_be_repeated(slips: Slips) -> None:
    for _ in range(2):
        assert await swap(slips, None, b"one") == b"one"
    for _ in range(2):
        assert await swap(slips, b"one", b"two") == b"two"
    for _ in range(2):
        assert await swap(slips, b"two", None) is None


async def test_any_bytes_are_a_key_and_a_value(slips: Slips) -> None:
    for data in (b"\0", b"a b\r\nc", bytes(range(256)), b"\xff" * 5000):
        found, _ = await slips.swap(data, None, data, TTL_MS)
        assert found == data == await there(slips, data)


async def test_case_17_of_many_at_once_one_wins(slips: Slips) -> None:
    names = [f"{number}".encode() for number in range(100)]
    found = await asyncio.gather(*(swap(slips, None, name) for name in names))
    assert len(set(found)) == 1
    assert await there(slips) in names


async def test_case_26_a_slip_is_kept_as_long_as_it_should_be(
    slips: Slips, store: Store, time: Time
) -> None:
    told = (await slips.swap(b"key", None, b"one", 200))[1]
    assert told > 1_600_000_000_000, "milliseconds"
    if type(store).__name__ == "TimedRedisStore":  # its slips keep the server's own time
        await asyncio.sleep(0.1)
        assert await there(slips) == b"one"
        await asyncio.sleep(0.2)
    else:
        time.seconds += 0.199
        assert await there(slips) == b"one"
        time.seconds += 0.002
    assert await there(slips) is None
    assert await swap(slips, None, b"two") == b"two"


async def test_a_slip_is_no_channel_and_no_spent_key(slips: Slips, store: Store) -> None:
    key = bytes(32)
    await slips.swap(key, None, b"one", TTL_MS)
    assert await store.channel(key) is None
    assert await store.channels() == await store.claimable() == []
    assert await store.spend(key, "somebody", TTL_MS)
    assert (await slips.read(key))[0] == b"one"
