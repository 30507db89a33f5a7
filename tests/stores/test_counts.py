"""Workers' counts in every store: each writes its own beside the others', at the same time."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from helpers.stores import STORES, Time

from paywall import counts
from paywall.notices import NOBODY
from paywall.sights import Sights
from paywall.stores import Store
from paywall.stores.slips import slips_of


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    store = STORES[request.param](tmp_path, Time())
    await store.open()
    yield store
    await store.close()


async def test_workers_that_write_at_once_are_all_counted_and_nothing_twice(store: Store) -> None:
    slips = slips_of(store)
    workers = [Sights(NOBODY, lambda: 1_234_567.0) for _ in range(8)]
    for worker in workers * 2:
        worker.of("GET /a").count(counts.SERVED, 700)
        await asyncio.gather(*(one.flush(slips) for one in workers))
    told = await counts.read(slips, counts.period_of(1_234_567.0))
    assert told.routes["GET /a"].outcomes == {counts.SERVED: 16}
    assert told.routes["GET /a"].latency_us == 16 * 700
    assert (await counts.read(slips, 1)).routes == {}
    assert await store.channels() == []
