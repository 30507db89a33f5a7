"""Counting in every store: exact at once, repeated without harm, for so long and no longer."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from helpers.stores import STORES, Time

from paywall.protocol.limits import REMEMBERED_TAKES
from paywall.stores import Store

DAY_MS = 86_400_000


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path, time: Time) -> AsyncIterator[Store]:
    store = STORES[request.param](tmp_path, time)
    await store.open()
    yield store
    await store.close()


async def taken(store: Store, names: str, limit: int = 3, key: bytes = b"key") -> list[bool]:
    return [await store.take(key, name, limit, DAY_MS) for name in names.split()]


async def test_so_many_are_taken_and_no_more(store: Store) -> None:
    assert await taken(store, "a b c d e") == [True, True, True, False, False]
    assert await taken(store, "a b", key=b"other") == [True, True]
    assert await taken(store, "f", limit=4) == [True]


async def test_a_request_is_counted_once_however_often_it_asks(store: Store) -> None:
    assert await taken(store, "a a a b c a d") == [True] * 6 + [False]


async def test_what_is_given_back_may_be_taken_again(store: Store) -> None:
    await taken(store, "a b c")
    for _ in range(2):
        await store.give_back(b"key", "b")
    assert await taken(store, "d e") == [True, False]
    await store.give_back(b"key", "nobody")
    await store.give_back(b"never", "a")
    assert await taken(store, "f") == [False]


async def test_names_are_not_mistaken_for_parts_of_others(store: Store) -> None:
    assert await taken(store, "abc", limit=1) == [True]
    assert await taken(store, "ab bc b", limit=1) == [False] * 3
    await store.give_back(b"key", "b")
    assert await taken(store, "d", limit=1) == [False]


async def test_the_first_begins_a_count_that_ends_on_time(store: Store, time: Time) -> None:
    assert await taken(store, "a b", limit=1) == [True, False]
    time.seconds += DAY_MS / 1000 - 0.001
    assert await taken(store, "c", limit=1) == [False]
    time.seconds += 0.001
    assert await taken(store, "d e", limit=1) == [True, False]
    await store.give_back(b"key", "a")
    assert await taken(store, "f", limit=1) == [False]


async def test_of_64_at_once_exactly_the_limit_is_taken(store: Store) -> None:
    asked = (store.take(b"key", f"r{number}", 10, DAY_MS) for number in range(64))
    assert sum(await asyncio.gather(*asked)) == 10


async def test_only_so_many_are_remembered_and_all_are_counted(store: Store) -> None:
    names = [f"r{number}" for number in range(REMEMBERED_TAKES + 10)]
    for name in names:
        assert await store.take(b"key", name, len(names), DAY_MS)
    assert not await store.take(b"key", "and-more", len(names), DAY_MS)
    await store.give_back(b"key", names[0])
    assert not await store.take(b"key", "one-more", len(names), DAY_MS)
    await store.give_back(b"key", names[-1])
    assert await store.take(b"key", "one-more", len(names), DAY_MS)


async def test_any_bytes_are_a_key_and_a_count_is_nothing_else(store: Store) -> None:
    for key in (b"", b"\0{}", b"a b\r\n", bytes(range(256))):
        assert await store.take(key, "a", 1, DAY_MS)
        assert not await store.take(key, "b", 1, DAY_MS)
    assert await store.spend(b"", "somebody", DAY_MS)
    assert await store.channels() == []
