"""Counting requests: what is counted, where it is kept, and that nothing depends on it."""

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest
from helpers.exact import Signer, shop
from helpers.provider import Agent, FaultyStore, answering, ask, buy, paying, provider
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from paywall import counts
from paywall.asgi import Paywall
from paywall.counts import BOUNDS_US, Counts, RouteCounts, quantile_us
from paywall.notices import Charged, Deposited, Notice, Refused
from paywall.protocol.errors import Reason, StoreUnavailable
from paywall.sights import Sights
from paywall.stores import Slips
from paywall.stores.memory import MemoryStore
from paywall.stores.slips import slips_of

NEWS = provider(answering(200)).news


def outcomes(wall: Paywall, route: str = "/priced") -> dict[str, int]:
    return wall.sights.total.routes[route].outcomes


async def test_requests_are_counted_by_what_became_of_them() -> None:
    wall = provider(answering(200))
    await ask(wall)
    await buy(wall, 1_000)
    await buy(wall, 1_000)  # a replay
    assert outcomes(wall) == {"quoted": 1, "served": 1, "refused": 1}
    assert wall.sights.total.reasons == {Reason.CUMULATIVE_MISMATCH.code: 1}
    assert sum(wall.sights.total.routes["/priced"].latency) == 1
    await wall.close()


async def test_an_answer_that_is_not_charged_has_failed() -> None:
    wall = provider(answering(500))
    await buy(wall, 1_000)
    assert outcomes(wall) == {"failed": 1}
    await wall.close()


async def test_a_handler_that_dies_has_failed() -> None:
    async def dying(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("a mistake")

    wall = provider(dying)
    with pytest.raises(RuntimeError):
        await buy(wall, 1_000)
    assert outcomes(wall) == {"failed": 1}
    await wall.close()


async def test_what_is_free_is_counted_apart() -> None:
    async def known(request: Request) -> bool:
        return True

    wall = provider(answering(200), exempt=known)
    await ask(wall)
    assert outcomes(wall) == {"free": 1}
    await wall.close()


async def test_a_store_that_is_down_is_our_own_fault() -> None:
    store = FaultyStore()
    wall = provider(answering(200), store=store)
    store.down = {"reserve"}
    assert (await buy(wall, 1_000)).status == 503
    assert outcomes(wall) == {"unavailable": 1}
    await wall.close()


async def read_all(slips: Slips, periods: Iterable[int]) -> Counts:
    return counts.sum_of([await counts.read(slips, period) for period in periods])


async def test_workers_write_beside_each_other_and_what_is_written_twice_counts_once() -> None:
    slips, now = slips_of(MemoryStore()), [600.0]
    workers = [Sights(NEWS, lambda: now[0]) for _ in range(8)]
    for number, worker in enumerate(workers):
        for _ in range(number):
            worker.of("GET /a").count(counts.SERVED, 1_500)
            worker.refused("GET /a", Reason.CHANNEL_BUSY)
    await asyncio.gather(*(worker.flush(slips) for worker in workers * 2))
    workers[1].of("GET /a").count(counts.SERVED, 1_500)
    await workers[1].flush(slips)
    told = await counts.read(slips, 1)
    assert told.routes["GET /a"].outcomes == {"served": 29}
    assert told.reasons == {Reason.CHANNEL_BUSY.code: 28}


async def test_a_period_ends_and_its_counts_stay_with_it() -> None:
    slips, now = slips_of(MemoryStore()), [600.0]
    worker = Sights(NEWS, lambda: now[0])
    worker.of("a").count(counts.QUOTED, 1)
    now[0] = 1_200.0
    await worker.flush(slips)
    worker.of("a").count(counts.QUOTED, 1)
    await worker.flush(slips)
    assert [(await counts.read(slips, period)).routes["a"].outcomes for period in (1, 2)] == [
        {"quoted": 1},
        {"quoted": 1},
    ]
    assert worker.total.routes["a"].outcomes == {"quoted": 2}


class Down:
    """Slips of a store that does not answer."""

    async def read(self, key: bytes) -> Any:
        raise StoreUnavailable("down")

    async def swap(self, *words: Any) -> Any:
        raise StoreUnavailable("down")


async def test_counts_wait_for_a_store_that_is_down() -> None:
    slips, now = slips_of(MemoryStore()), [600.0]
    worker = Sights(NEWS, lambda: now[0])
    for period in range(1, 10):
        now[0] = 600.0 * period
        worker.of("a").count(counts.QUOTED, 1)
        with pytest.raises(StoreUnavailable):
            await worker.flush(Down())
    await worker.flush(slips)
    told = await read_all(slips, range(20))
    assert told.routes["a"].outcomes == {"quoted": 6}, "the oldest are forgotten"
    assert worker.total.routes["a"].outcomes == {"quoted": 9}


def test_the_histogram_and_its_quantiles() -> None:
    route = RouteCounts()
    for elapsed_us in (1, 500, 501, 10**9):
        route.count(counts.SERVED, elapsed_us)
    assert route.latency[:2] == [2, 1]
    assert route.latency[-1] == 1
    assert quantile_us(route.latency, 0.5) == 500
    assert quantile_us(route.latency, 0.75) == BOUNDS_US[1]
    assert quantile_us(route.latency, 0.99) is None
    assert quantile_us([0] * 15, 0.5) is None


# -- Notices -------------------------------------------------------------------------------------


async def test_a_listener_hears_of_charges_and_refusals() -> None:
    heard: list[Notice] = []
    wall = provider(answering(200), on_event=heard.append)
    await buy(wall, 1_000)
    await buy(wall, 1_000)
    one, other = heard
    assert isinstance(one, Charged)
    assert (one.route, one.amount, one.transaction) == ("/priced", 1_000, "")
    assert one.channel == "0x" + Agent().channel_id.hex()
    assert isinstance(other, Refused)
    assert (other.route, other.reason) == ("/priced", Reason.CUMULATIVE_MISMATCH.code)
    await wall.close()


async def test_a_transfer_is_heard_of_with_its_transaction() -> None:
    heard: list[Notice] = []
    wall = shop(answering(200), on_event=heard.append)
    await ask(wall, headers=paying(Signer().pay()))
    (one,) = heard
    assert isinstance(one, Charged)
    assert (one.amount, one.channel) == (20_000, "")
    assert one.transaction.startswith("0x")
    await wall.close()


async def test_a_listener_that_raises_touches_no_request() -> None:
    def listener(notice: Notice) -> None:
        raise RuntimeError("a mistake of the owner's")

    wall = provider(answering(200), on_event=listener)
    assert (await buy(wall, 1_000)).status == 200
    await wall.close()


def test_notices_do_not_change() -> None:
    notice = Deposited(1.0, "0xa", "0xb", 5)
    with pytest.raises(AttributeError):
        notice.amount = 6  # type: ignore[misc]
