"""The ledger in every store: a row for every charge, once, in order, in the step that charges."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from helpers.channels import CHANNEL_ID, CONFIG, NETWORK, chain, config, voucher
from helpers.stores import STORES, Time

from paywall.protocol import ledger
from paywall.protocol.errors import HoldLost
from paywall.protocol.ledger import ADOPTED, CHARGE, TRANSFER, Line, Row
from paywall.protocol.once import Ticket
from paywall.stores import Store, open_store
from paywall.stores.slips import slips_of
from paywall.stores.sqlite import SqliteStore

FOREVER = 2**53
TICKET = Ticket("payment-0123456789ab", b"f" * 32)
BALANCE = 10_000


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path, time: Time) -> AsyncIterator[Store]:
    store = STORES[request.param](tmp_path, time)
    await store.open()
    yield store
    await store.close()


def line(amount: int, request: str = "a", channel_id: bytes = CHANNEL_ID) -> bytes:
    return ledger.encode(Line(CHARGE, str(amount), channel_id, CONFIG.payer, "GET /a", request))


async def opened(store: Store, number: int | None = None, evidence: int = 0) -> bytes:
    one = CONFIG if number is None else config(number)
    channel_id = one.channel_id(NETWORK)
    await store.record(channel_id, NETWORK, one, chain(BALANCE), evidence)
    return channel_id


async def every(store: Store, limit: int = 1000) -> list[Row]:
    rows: list[Row] = []
    while page := await store.ledger(rows[-1].position if rows else "", FOREVER, limit):
        rows += page
    return rows


def told(rows: list[Row]) -> list[tuple[str, int, str]]:
    return [(row.kind, row.amount, row.request) for row in rows]


async def test_a_charge_has_a_row_and_repeating_it_has_none(store: Store) -> None:
    await opened(store)
    await store.reserve(CHANNEL_ID, voucher(5), 5, "a")
    for _ in range(2):
        await store.charge(CHANNEL_ID, "a", 4, None, b"", line(4))
    (row,) = await every(store)
    assert (row.kind, row.amount, row.channel_id) == (CHARGE, 4, CHANNEL_ID)
    assert (row.payer, row.route, row.request) == (CONFIG.payer, "GET /a", "a")
    assert row.at_ms > 0


async def test_a_charge_under_a_payments_id_has_one_row(store: Store) -> None:
    await opened(store)
    await store.reserve(CHANNEL_ID, voucher(5), 5, "a", TICKET)
    for _ in range(2):
        await store.charge(CHANNEL_ID, "a", 5, TICKET, b"answer", line(5))
    assert told(await every(store)) == [(CHARGE, 5, "a")]


async def test_what_costs_nothing_or_is_released_or_lost_has_no_row(store: Store) -> None:
    await opened(store)
    for request in ("free", "released"):
        await store.reserve(CHANNEL_ID, voucher(5), 5, request)
        if request == "free":
            await store.charge(CHANNEL_ID, request, 0, None, b"", line(0, request))
        else:
            await store.release(CHANNEL_ID, request)
    with pytest.raises(HoldLost):
        await store.charge(CHANNEL_ID, "nobody", 5, None, b"", line(5, "nobody"))
    assert await every(store) == []


async def test_a_total_that_rises_without_a_request_has_a_row(store: Store) -> None:
    await opened(store, evidence=300)
    assert told(await every(store)) == [(ADOPTED, 300, "")]
    await store.record(CHANNEL_ID, NETWORK, CONFIG, chain(BALANCE, 450, block=2), 0)
    rows = await every(store)
    assert told(rows) == [(ADOPTED, 300, ""), (ADOPTED, 150, "")]
    assert {row.channel_id for row in rows} == {CHANNEL_ID}


async def test_what_is_mined_with_a_refund_has_a_row(store: Store) -> None:
    await opened(store)
    await store.begin_refund(CHANNEL_ID, voucher(0), None, "refund")
    await store.end_refund(CHANNEL_ID, "refund", chain(BALANCE, 70, block=2))
    assert told(await every(store)) == [(ADOPTED, 70, "")]


async def test_a_slip_writes_its_row_when_it_is_swapped_and_only_then(store: Store) -> None:
    slips = slips_of(store)
    paid = ledger.encode(Line(TRANSFER, "20000", b"", CONFIG.payer, "GET /b", "b"))
    await slips.swap(b"key", None, b"sent", 60_000)
    await slips.swap(b"key", b"other", b"settled", 60_000, paid)
    assert await every(store) == []
    for _ in range(2):
        await slips.swap(b"key", b"sent", b"settled", 60_000, paid)
    assert told(await every(store)) == [(TRANSFER, 20_000, "b")]


@pytest.mark.parametrize("limit", [1, 7, 1000])
async def test_pages_bring_every_row_once_and_in_order(store: Store, limit: int) -> None:
    channels = [await opened(store, number) for number in range(40)]

    async def spend(channel_id: bytes, number: int) -> None:
        request = f"r{number}"
        await store.reserve(channel_id, voucher(number + 1), 1, request)
        await store.charge(channel_id, request, 1, None, b"", line(1, request, channel_id))

    for number in range(3):
        await asyncio.gather(*(spend(channel_id, number) for channel_id in channels))
    rows = await every(store, limit)
    assert len(rows) == 120
    assert len({row.position for row in rows}) == 120
    assert [row.at_ms for row in rows] == sorted(row.at_ms for row in rows)
    per_channel = {one: [row.request for row in rows if row.channel_id == one] for one in channels}
    assert all(requests == ["r0", "r1", "r2"] for requests in per_channel.values())


async def test_rows_of_a_time_that_is_not_over_are_left(store: Store) -> None:
    await opened(store, evidence=5)
    (row,) = await every(store)
    assert await store.ledger("", row.at_ms, 10) == []
    assert len(await store.ledger("", row.at_ms + 1, 10)) == 1


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_case_40_a_row_from_a_clock_that_was_ahead_is_not_passed_over(
    kind: str, tmp_path: Path, time: Time
) -> None:
    store = STORES[kind](tmp_path, time)
    await store.open()
    await opened(store)
    for number, step in enumerate((100, -100), start=1):
        time.seconds += step
        await store.reserve(CHANNEL_ID, voucher(number), 1, f"r{number}")
        await store.charge(CHANNEL_ID, f"r{number}", 1, line=line(1, f"r{number}"))
    assert await store.ledger("", time.ms() + 50_000) == []
    rows = await store.ledger("", time.ms() + 100_001)
    assert [row.request for row in rows] == ["r1", "r2"]
    await store.close()


async def test_trimming_drops_what_is_before_a_position_and_nothing_else(store: Store) -> None:
    channels = [await opened(store, number, evidence=number + 1) for number in range(30)]
    rows = await every(store)
    assert len(rows) == len(channels)
    assert await store.trim_ledger(rows[9].position) == 10
    assert await every(store) == rows[10:]
    assert await store.trim_ledger(rows[9].position) == 0
    await opened(store, 99, evidence=7)
    assert (await every(store))[-1].amount == 7


async def test_amounts_of_128_bits_are_kept(store: Store) -> None:
    amount = 2**128 - 1
    await store.record(CHANNEL_ID, NETWORK, CONFIG, chain(amount), amount)
    (row,) = await every(store)
    assert row.amount == amount


async def test_case_43_a_file_of_before_the_ledger_begins_it_with_what_was_charged(
    tmp_path: Path, time: Time
) -> None:
    old = SqliteStore(tmp_path / "store.db", clock=time)
    await old.open()
    await opened(old, evidence=300)
    await opened(old, 1)
    await old.close()
    with sqlite3.connect(tmp_path / "store.db") as db:
        db.execute("DROP TABLE ledger")
    db.close()
    store = open_store(f"sqlite:///{tmp_path}/store.db")
    await store.open()
    try:
        assert told(await every(store)) == [(ADOPTED, 300, "")]
    finally:
        await store.close()
