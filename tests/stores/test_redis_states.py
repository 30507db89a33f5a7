"""Redis servers in a bad state: without memory, demoted, busy, spoilt, with a clock that steps."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest
import redis
from helpers.channels import NETWORK, NOW, chain, config, voucher
from helpers.redis_server import RedisServer, running
from helpers.redis_store import (
    TimedRedisStore,
    chain_now,
    charge_next,
    open_channel,
    payers,
    record_of,
    store_at,
)
from helpers.stores import Time

from paywall.protocol.channel import NeedsChain, RefusedByChannel
from paywall.protocol.errors import HoldLost, StoreUnavailable
from paywall.protocol.limits import MAX_HOLDS
from paywall.protocol.once import AnsweredBefore, Ticket
from paywall.stores import Store

TICKET = Ticket("payment-id-of-16-and-more", bytes(32))


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with running() as server:
        yield server


@pytest.fixture
async def store(server: RedisServer) -> AsyncIterator[Store]:
    async with store_at(server.url) as store:
        yield store


async def test_case_41_out_of_memory_admits_nobody_and_still_charges(
    server: RedisServer, store: Store
) -> None:
    channel_id = await open_channel(store)
    await store.reserve(channel_id, voucher(5), 5, "running")
    before = await record_of(store, channel_id)
    server.command("CONFIG", "SET", "maxmemory", 1)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="maxmemory"):
            await store.reserve(channel_id, voucher(9), 4, "next", TICKET)
        with pytest.raises(StoreUnavailable, match="maxmemory"):
            await open_channel(store, 1)
    assert await record_of(store, channel_id) == before
    assert await store.channels() == [before], "nothing half-written"
    # Who is being served pays: that frees more than it takes.
    assert (await store.charge(channel_id, "running", 5)).charged == 5
    server.command("CONFIG", "SET", "maxmemory", 0)
    assert (await store.reserve(channel_id, voucher(9), 4, "next", TICKET)).held == 4


async def test_case_41_out_of_memory_keeps_and_ends_every_hold(
    server: RedisServer, store: Store
) -> None:
    """In the record and beside it. One that was not kept would be dropped by who comes next."""
    channel_id = await open_channel(store)
    names = ("inside", "beside", "given up", "beside too")
    for total, name in enumerate(names, 1):
        await store.reserve(channel_id, voucher(total), 1, name, TICKET if total == 2 else None)
    before = (await record_of(store, channel_id)).holds
    server.command("CONFIG", "SET", "maxmemory", 1)
    await asyncio.sleep(0.01)
    await store.renew([(channel_id, name) for name in names])
    after = (await record_of(store, channel_id)).holds
    assert all(after[name].deadline_ms > before[name].deadline_ms for name in names)
    await store.release(channel_id, "given up")
    assert (await store.charge(channel_id, "beside", 1, TICKET, b"an answer")).held == 2
    assert (await store.charge(channel_id, "inside", 0)).held == 1
    assert (await store.charge(channel_id, "beside too", 1)).charged == 2
    server.command("CONFIG", "SET", "maxmemory", 0)
    assert (await store.reserve(channel_id, voucher(5), 3, "next")).held == 3
    with pytest.raises(AnsweredBefore):
        await store.look_up(channel_id, TICKET)


@pytest.mark.parametrize("broken", ["record", "holds", "due", "all", "entry"])
@pytest.mark.parametrize("verb", ["reserve", "charge", "record", "begin_refund", "end_refund"])
async def test_case_41_a_key_of_another_type_fails_a_verb_whole(
    server: RedisServer, store: Store, broken: str, verb: str
) -> None:
    channel_id = await open_channel(store)
    await charge_next(store, channel_id, 1)
    if verb == "charge":
        await store.reserve(channel_id, voucher(5), 2, "held", TICKET)
    before = await record_of(store, channel_id)
    mined = chain_now(10**9, claimed=1, block=2)
    verbs = {
        "reserve": lambda: store.reserve(channel_id, voucher(9), 4, "next", TICKET),
        "charge": lambda: store.charge(channel_id, "held", 2, TICKET),
        "record": lambda: store.record(channel_id, NETWORK, config(0), mined, 0),
        "begin_refund": lambda: store.begin_refund(channel_id, voucher(1), None, "refund"),
        "end_refund": lambda: store.end_refund(channel_id, "refund", mined),
    }
    bucket = f"paywall:{{{channel_id[0]:02x}}}:"
    name = bucket + channel_id.hex()
    entry = f"{name}:a:{TICKET.payment_id}"
    keys = {"record": name, "holds": f"{name}:h", "due": f"{bucket}due", "all": f"{bucket}all"}
    with server.client() as admin, spoilt(admin, keys.get(broken, entry)):
        (failure,) = await asyncio.gather(verbs[verb](), return_exceptions=True)
    if isinstance(failure, StoreUnavailable):
        assert "of another type" in str(failure)
        assert await record_of(store, channel_id) == before
    await verbs[verb]()
    after = await record_of(store, channel_id)
    assert (after.charged, after.held) == (3 if verb == "charge" else 1, 4 * (verb == "reserve"))
    owing = 0 if mined == after.chain else after.charged
    assert [one.unclaimed for one in await store.claimable()] == ([owing] if owing else [])


@contextmanager
def spoilt(admin: redis.Redis, key: str) -> Iterator[None]:
    """The key is somebody else's for a while."""
    kept = bool(admin.exists(key))
    if kept:
        admin.rename(key, "kept")
    admin.set(key, "somebody else's")
    yield
    admin.delete(key)
    if kept:
        admin.rename("kept", key)


async def test_case_41_a_demoted_master_is_named_and_outlasted(server: RedisServer) -> None:
    async with (
        store_at(f"{server.url}?timeout=0.3") as hasty,
        store_at(f"{server.url}?timeout=8") as patient,
    ):
        channel_id = await open_channel(patient)
        server.command("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(StoreUnavailable, match="read-only replica"):
            await hasty.reserve(channel_id, voucher(5), 5, "a")
        waiting = asyncio.create_task(patient.reserve(channel_id, voucher(5), 5, "a"))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        server.command("REPLICAOF", "NO", "ONE")
        assert (await waiting).held == 5


REFUSING_WRITES = {
    "demoted": (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
    "without its replicas": (
        ("CONFIG", "SET", "min-replicas-to-write", "1"),
        ("CONFIG", "SET", "min-replicas-to-write", "0"),
    ),
}


@pytest.mark.parametrize("state", REFUSING_WRITES)
async def test_case_41_who_is_served_meanwhile_is_charged_and_let_go_afterwards(
    server: RedisServer, state: str
) -> None:
    begin, end = REFUSING_WRITES[state]
    async with store_at(f"{server.url}?timeout=8") as store:
        channel_id = await open_channel(store)
        for total in (5, 10, 15):
            await store.reserve(channel_id, voucher(total), 5, f"request-{total}")
        server.command(*begin)
        verbs = asyncio.gather(
            store.charge(channel_id, "request-5", 5),
            store.release(channel_id, "request-10"),
            store.renew([(channel_id, "request-15")]),
        )
        await asyncio.sleep(0.3)
        assert not verbs.done()
        server.command(*end)
        await verbs
        record = await record_of(store, channel_id)
        assert (record.charged, [*record.holds]) == (5, ["request-15"])


async def test_case_41_a_server_kept_busy_by_a_script_is_waited_for(
    server: RedisServer, store: Store
) -> None:
    channel_id = await open_channel(store)
    server.command("CONFIG", "SET", "busy-reply-threshold", 20)
    loop = "local t = redis.call('TIME') local e = t[1] * 1e6 + t[2] + 500000 "
    loop += "repeat t = redis.call('TIME') until t[1] * 1e6 + t[2] > e"
    with server.client() as admin:
        other = asyncio.create_task(asyncio.to_thread(admin.eval, loop, 0))
        await asyncio.sleep(0.1)
        assert (await charge_next(store, channel_id, 5)).charged == 1
        await other
        turned_away = admin.info("errorstats")["errorstat_BUSY"]["count"]
    assert turned_away > 0


async def test_case_41_a_server_that_stops_for_a_moment_is_waited_for(
    server: RedisServer, store: Store
) -> None:
    them = await payers(store)
    async with them.paying():
        with server.paused():
            await asyncio.sleep(0.7)
    await them.check(store)
    assert them.turned_away == 0


# -- Deadlines -----------------------------------------------------------------------------------


async def test_case_39_a_hold_that_a_restart_outlived_is_fenced(
    server: RedisServer, store: Store
) -> None:
    channel_id = await open_channel(store)
    await store.reserve(channel_id, voucher(5), 5, "a")
    server.kill()
    await asyncio.to_thread(server.start)
    assert (await store.charge(channel_id, "a", 5)).charged == 5, "its hold was kept"
    await store.reserve(channel_id, voucher(9), 4, "b")
    server.command("FLUSHALL")
    for _ in range(2):
        with pytest.raises(HoldLost):
            await store.charge(channel_id, "b", 4)
    assert await store.channel(channel_id) is None


@pytest.mark.parametrize("step_seconds", [3600, -3600])
async def test_case_40_a_clock_that_steps_by_an_hour_ends_no_request(
    server: RedisServer, step_seconds: int
) -> None:
    """Redis's clock; workers' clocks decide nothing here. Forth: the chain is asked first."""
    time = Time()
    store = TimedRedisStore(server.url, time)
    await store.open()
    channel_id = config(0).channel_id(NETWORK)
    await store.record(channel_id, NETWORK, config(0), chain(10**6), 0)
    for number in range(1, MAX_HOLDS + 1):
        await store.reserve(channel_id, voucher(number), 1, f"r{number}")
    time.seconds = NOW + step_seconds
    with pytest.raises(NeedsChain if step_seconds > 0 else RefusedByChannel):
        await store.reserve(channel_id, voucher(100), 1, "one more")
    await store.renew([(channel_id, f"r{number}") for number in range(1, 11)])
    for number in range(1, MAX_HOLDS + 1):
        standing = await store.charge(channel_id, f"r{number}", 1)
    assert (standing.charged, standing.held) == (MAX_HOLDS, 0)
    await store.close()
