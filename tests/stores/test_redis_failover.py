"""Masters that change: a cluster's node that dies, slots that move, sentinels that name another."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from hashlib import sha256

import pytest
from helpers.channels import voucher
from helpers.redis_server import RedisCluster, RedisServer, running, until
from helpers.redis_store import charge_next, open_channel, payers, record_of, store_at

from paywall.protocol.channel import RefusedByChannel
from paywall.protocol.errors import Reason, StoreUnavailable
from paywall.protocol.once import Ticket
from paywall.stores import Store, open_store
from paywall.stores.redis_nodes import slot_of
from paywall.stores.redis_scripts import STRICT
from paywall.stores.slips import slips_of


@pytest.fixture(scope="module")
def three_masters() -> Iterator[RedisCluster]:
    cluster = RedisCluster()
    try:
        yield cluster.start()
    finally:
        cluster.stop()


@pytest.fixture
def cluster(three_masters: RedisCluster) -> RedisCluster:
    three_masters.mend()
    return three_masters


@pytest.fixture
async def store(cluster: RedisCluster) -> AsyncIterator[Store]:
    async with store_at(cluster.url) as store:
        yield store


def slot_for(channel_id: bytes) -> int:
    return slot_of(b"%02x" % channel_id[0])


# -- A cluster's slots move ----------------------------------------------------------------------


@contextmanager
def migrating(slot: int, source: RedisServer, target: RedisServer) -> Iterator[None]:
    """The slot is on its way, and has arrived at the end."""
    source_id, target_id = (str(one.command("CLUSTER", "MYID")) for one in (source, target))
    target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
    source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
    yield
    with source.client() as admin:
        for key in admin.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 10_000):
            admin.migrate("127.0.0.1", target.port, key, 0, 5000)
    for one in (target, source):
        one.command("CLUSTER", "SETSLOT", slot, "NODE", target_id)


async def test_case_41_requests_go_on_while_their_slot_moves(
    cluster: RedisCluster, store: Store
) -> None:
    """ASK for what is not there yet, TRYAGAIN for what is half there, MOVED when it is done."""
    channel_id = await open_channel(store)
    await charge_next(store, channel_id, 1)
    slot = slot_for(channel_id)
    source = cluster.master_of(slot)
    target = next(one for one in cluster.masters() if one is not source)
    async with store_at(cluster.url) as unaware:
        with migrating(slot, source, target):
            # Some of its keys are there and some do not exist: it has to wait for the end.
            waiting = asyncio.create_task(charge_next(store, channel_id, 2))
            await asyncio.sleep(0.3)
            assert not waiting.done()
        assert (await waiting).charged == 2
        assert (await charge_next(unaware, channel_id, 3)).charged == 3
    errors = source.info("errorstats").keys() | target.info("errorstats").keys()
    assert errors >= {"errorstat_TRYAGAIN", "errorstat_MOVED"}
    assert [one.channel_id for one in await store.channels()] == [channel_id]


async def test_case_41_what_needs_one_key_moves_unnoticed(
    cluster: RedisCluster, store: Store
) -> None:
    slot = slot_for(sha256(b"nonce").digest())
    source = cluster.master_of(slot)
    target = next(one for one in cluster.masters() if one is not source)
    with migrating(slot, source, target):
        assert await store.spend(b"nonce", "a", 60_000)
        assert not await store.spend(b"nonce", "b", 60_000)
    assert "errorstat_ASK" in source.info("errorstats")
    assert not await store.spend(b"nonce", "b", 60_000)


# -- A cluster's master dies ---------------------------------------------------------------------


async def test_case_41_a_masters_replica_takes_its_place(
    cluster: RedisCluster, store: Store
) -> None:
    """With `replicas=1` nothing that was acknowledged is lost, whenever the master dies.

    Its replica is alone then, so nobody new is admitted there until it has one again.
    """
    async with store_at(f"{cluster.url}?replicas=1&wait_ms=500&timeout=20") as careful:
        them = await payers(careful, 12)
        slot = slot_for(next(iter(them.acknowledged)))
        victim = cluster.master_of(slot)
        async with them.paying():
            victim.kill()
            await asyncio.to_thread(until, lambda: cluster.master_of(slot))
        await them.check(store)
        alone = next(one for one in them.acknowledged if slot_for(one) == slot)
        with pytest.raises(StoreUnavailable, match="too few replicas"):
            await careful.reserve(alone, voucher(10**6), 1, "nobody new")
        await careful.release(alone, "nobody new")
        await asyncio.to_thread(victim.start)
        await asyncio.to_thread(cluster.wait_until_whole)
        for channel_id in them.acknowledged:
            await careful.release(channel_id, f"request-{them.acknowledged[channel_id] + 1}")
        them.turned_away = 0
        async with them.paying():
            pass
        await them.check(store)
        assert them.turned_away == 0
    async with store_at(cluster.url) as late:
        assert len(await late.claimable()) == len(await store.channels()) == 12


async def test_case_41_a_promotion_is_waited_for(cluster: RedisCluster) -> None:
    async with store_at(f"{cluster.url}?timeout=20") as store:
        them = await payers(store, 12)
        async with them.paying():
            them.enough = True
        await asyncio.sleep(0.2)
        victim = cluster.master_of(slot_for(next(iter(them.acknowledged))))
        victim.kill()
        async with them.paying():
            pass
        await them.check(store)
        assert them.turned_away == 0
    other = next(f"127.0.0.1:{one.port}" for one in cluster.servers if one.is_running)
    # Who starts now finds its way, whichever of the servers it was told of is dead.
    async with store_at(f"redis+cluster://127.0.0.1:{victim.port},{other}") as late:
        assert len(await late.claimable()) == 12


async def test_case_41_while_a_part_is_down_the_others_serve(cluster: RedisCluster) -> None:
    for server in cluster.servers:
        server.command("CONFIG", "SET", "cluster-require-full-coverage", "no")
    async with store_at(f"{cluster.url}?timeout=1") as store:
        ids = [await open_channel(store, number) for number in range(30)]
        victim = cluster.master_of(slot_for(ids[0]))
        with victim.paused():
            outcomes = await asyncio.gather(
                *(store.reserve(one, voucher(5), 5, "a") for one in ids), return_exceptions=True
            )
        down = [one for one in outcomes if isinstance(one, StoreUnavailable)]
        assert 0 < len(down) < len(ids)
        assert len(down) + sum(not isinstance(one, Exception) for one in outcomes) == len(ids)


# -- A replica that lags -------------------------------------------------------------------------


@contextmanager
def master_and_replica() -> Iterator[tuple[RedisServer, RedisServer]]:
    with running() as first, running("--replicaof", "127.0.0.1", str(first.port)) as second:
        until(lambda: first.info("replication").get("slave0", {}).get("state") == "online")
        yield first, second


def careful(server: RedisServer, wait_ms: int = 2_000) -> str:
    return f"{server.url}?replicas=1&wait_ms={wait_ms}"


async def test_case_38_a_refund_that_is_set_aside_outlives_its_master() -> None:
    """It may be on its way to the chain: the next master serves nothing of what it returns."""
    with master_and_replica() as (first, second):
        async with store_at(careful(first)) as store:
            channel_id = await open_channel(store)
            await charge_next(store, channel_id, 5, 5)
            await store.begin_refund(channel_id, voucher(5), None, "refund")
            first.kill()
        second.command("REPLICAOF", "NO", "ONE")
        async with store_at(second.url) as store:
            refunding = (await record_of(store, channel_id)).refunding
            assert refunding
            assert refunding.amount == 10**9 - 5
            with pytest.raises(RefusedByChannel) as refused:
                await store.reserve(channel_id, voucher(10), 5, "next")
            assert refused.value.reason is Reason.EXCEEDS_BALANCE


async def test_case_38_a_refund_that_a_fail_over_could_forget_does_not_begin() -> None:
    """The replica that will take over is cut off: nobody is told to send anything."""
    with master_and_replica() as (first, second):
        async with store_at(careful(first)) as store:
            channel_id = await open_channel(store)
            await charge_next(store, channel_id, 5, 5)
        second.command("REPLICAOF", "NO", "ONE")
        async with store_at(careful(first, wait_ms=20)) as store:
            with pytest.raises(StoreUnavailable, match="too few replicas"):
                await store.begin_refund(channel_id, voucher(5), None, "refund")
            await store.end_refund(channel_id, "refund", None)
            assert (await record_of(store, channel_id)).refunding is None
            first.kill()
        async with store_at(second.url) as store:
            assert (await charge_next(store, channel_id, 10, 5)).charged == 10


async def test_case_41_what_would_cost_money_if_it_was_forgotten_needs_its_replica() -> None:
    with master_and_replica() as (first, second):
        async with store_at(careful(first)) as store:
            running_on, channel_id = [await open_channel(store, number) for number in range(2)]
            await store.reserve(running_on, voucher(7), 7, "a")
            token = await store.lease("job", "me", 60_000)
            assert token
        second.command("REPLICAOF", "NO", "ONE")
        async with store_at(careful(first, wait_ms=20)) as store:
            refused = {
                "reserve": store.reserve(channel_id, voucher(5), 5, "a"),
                "refuse": store.refuse(channel_id, Ticket("payment-id-of-16-and-more", bytes(32))),
                "begin_refund": store.begin_refund(channel_id, None, None, "b"),
                "spend": store.spend(b"nonce", "a", 60_000),
                "take": store.take(b"free", "a", 1, 60_000),
                "slip": slips_of(store).swap(b"slip", None, b"paid", 60_000),
                "lease": store.lease("job", "me", 60_000),
                "put_note": store.put_note("job/note", b"sent", token),
            }
            assert set(refused) == {*STRICT, "slip"}
            outcomes = await asyncio.gather(*refused.values(), return_exceptions=True)
            assert [str(outcome) for outcome in outcomes] == ["too few replicas have it"] * 8
            assert (await slips_of(store).read(b"slip"))[0] == b"paid", "who looks may look"
            await store.renew([(running_on, "a")])
            assert (await store.charge(running_on, "a", 7)).charged == 7, "it was let in before"
            await store.release(channel_id, "a")
            await store.give_back(b"free", "a")
            await store.end_refund(channel_id, "b", None)
            await open_channel(store)


# -- Sentinels -----------------------------------------------------------------------------------


@contextmanager
def sentinel_of(master: RedisServer) -> Iterator[RedisServer]:
    settings = (
        f"sentinel monitor main 127.0.0.1 {master.port} 1\n"
        "sentinel down-after-milliseconds main 300\n"
        "sentinel failover-timeout main 2000\n"
    )
    with running(sentinel=settings) as sentinel:
        yield sentinel


async def test_case_41_sentinels_name_the_next_master() -> None:
    with (
        running() as first,
        running("--replicaof", "127.0.0.1", str(first.port)) as second,
        sentinel_of(first) as sentinel,
    ):
        await asyncio.to_thread(until, lambda: sentinel.info("sentinel")["master0"]["slaves"] == 1)
        url = f"redis+sentinel://127.0.0.1:1,127.0.0.1:{sentinel.port}/main"
        async with store_at(f"{url}?timeout=20") as store:
            them = await payers(store, 4)
            async with them.paying():
                them.enough = True
            await asyncio.to_thread(until, lambda: first.is_copied)
            first.kill()
            async with them.paying():
                pass
            assert second.info("replication")["role"] == "master"
            await them.check(store)
            assert them.turned_away == 0
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            await open_store(f"{url}x").open()
