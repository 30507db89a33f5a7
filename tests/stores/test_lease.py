"""A job that many offer to do is done by one; whoever lost it cannot write about it any more."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from helpers.channels import NETWORK, chain, config
from helpers.stores import STORES, Time
from hypothesis import given
from hypothesis import strategies as st

from paywall.protocol import lease as rules
from paywall.protocol.lease import Lease, LeaseLost
from paywall.stores import Store

TTL_MS = 30_000


@pytest.fixture
def now() -> Time:
    return Time()


@pytest.fixture(params=STORES)
async def store(request: Any, tmp_path: Path, now: Time) -> AsyncIterator[Store]:
    made = STORES[request.param](tmp_path, now)
    await made.open()
    yield made
    await made.close()


async def test_case_35_one_of_many_gets_a_job(store: Store) -> None:
    offers = [store.lease("claims", f"process-{number}", TTL_MS) for number in range(20)]
    tokens = await asyncio.gather(*offers)
    assert sorted(token for token in tokens if token) == [1]


async def test_its_owner_renews_a_lease_under_the_same_token(store: Store, now: Time) -> None:
    assert await store.lease("claims", "one", TTL_MS) == 1
    now.seconds += 20
    assert await store.lease("claims", "one", TTL_MS) == 1
    now.seconds += 20
    assert await store.lease("claims", "two", TTL_MS) is None


async def test_a_lease_that_ran_out_goes_to_the_next_with_a_higher_token(
    store: Store, now: Time
) -> None:
    assert await store.lease("claims", "one", TTL_MS) == 1
    now.seconds += TTL_MS / 1000 - 0.001
    assert await store.lease("claims", "two", TTL_MS) is None
    now.seconds += 0.001
    assert await store.lease("claims", "two", TTL_MS) == 2
    assert await store.lease("claims", "one", TTL_MS) is None
    now.seconds += 3600
    assert await store.lease("claims", "one", TTL_MS) == 3


async def test_a_lease_that_is_given_back_goes_to_the_next_at_once(store: Store) -> None:
    assert await store.lease("claims", "one", TTL_MS) == 1
    assert await store.lease("claims", "one", 0) == 1
    assert await store.lease("claims", "two", TTL_MS) == 2


async def test_a_token_never_comes_again_however_long_nobody_asked(store: Store, now: Time) -> None:
    await store.lease("claims", "one", 0)
    await store.spend(b"something else", "x", 1000)
    now.seconds += 10 * 365 * 86_400
    for number in range(5):
        await store.spend(b"%d" % number, "x", 1000)
    assert await store.lease("claims", "two", TTL_MS) == 2


async def test_leases_of_different_names_have_nothing_to_do_with_each_other(store: Store) -> None:
    assert await store.lease("claims:eip155:1", "one", TTL_MS) == 1
    assert await store.lease("claims:eip155:10", "two", TTL_MS) == 1
    await store.put_note("claims:eip155:1/cursor", b"7", 1)
    assert await store.note("claims:eip155:10/cursor") is None


async def test_a_note_is_read_as_it_was_written_and_outlives_its_owner(
    store: Store, now: Time
) -> None:
    token = await store.lease("claims", "one", TTL_MS) or 0
    assert await store.note("claims/cursor") is None
    value = bytes(range(256)) * 400
    await store.put_note("claims/cursor", value, token)
    await store.put_note("claims/sent", b"", token)
    now.seconds += 3600
    await store.lease("claims", "two", TTL_MS)
    assert await store.note("claims/cursor") == value
    assert await store.note("claims/sent") == b""


async def test_a_note_can_be_written_over_and_dropped(store: Store) -> None:
    token = await store.lease("claims", "one", TTL_MS) or 0
    await store.put_note("claims/cursor", b"1", token)
    await store.put_note("claims/cursor", b"2", token)
    assert await store.note("claims/cursor") == b"2"
    await store.put_note("claims/cursor", None, token)
    assert await store.note("claims/cursor") is None


async def test_case_35_a_note_under_an_older_token_is_refused(store: Store, now: Time) -> None:
    old = await store.lease("claims", "sleeper", TTL_MS) or 0
    await store.put_note("claims/cursor", b"old", old)
    now.seconds += 3600
    new = await store.lease("claims", "other", TTL_MS) or 0
    with pytest.raises(LeaseLost):
        await store.put_note("claims/cursor", b"late", old)
    with pytest.raises(LeaseLost):
        await store.put_note("claims/cursor", None, old)
    assert await store.note("claims/cursor") == b"old"
    await store.put_note("claims/cursor", b"new", new)
    assert await store.note("claims/cursor") == b"new"


async def test_a_note_without_a_lease_is_refused(store: Store) -> None:
    with pytest.raises(LeaseLost):
        await store.put_note("claims/cursor", b"x", 1)


async def test_leases_are_no_channels(store: Store) -> None:
    terms = config(1)
    await store.record(terms.channel_id(NETWORK), NETWORK, terms, chain(), 0)
    token = await store.lease("claims", "one", TTL_MS) or 0
    await store.put_note("claims/cursor", b"x", token)
    assert [c.channel_id for c in await store.channels()] == [terms.channel_id(NETWORK)]
    assert await store.claimable() == []


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 50), st.integers(0, 60)), max_size=30)
)
def test_one_owner_at_a_time_and_tokens_only_grow(offers: list[tuple[str, int, int]]) -> None:
    lease: Lease | None = None
    now = 0
    for owner, ttl, pause in offers:
        now += pause
        taken = rules.take(lease, owner, ttl, now)
        if lease and lease.owner != owner:
            assert (taken is None) == (now < lease.deadline_ms)
            assert taken is None or taken.token == lease.token + 1
        elif lease:
            assert taken is not None
            assert taken.token == lease.token
        lease = taken or lease
