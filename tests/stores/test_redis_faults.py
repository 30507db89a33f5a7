"""What can happen to Redis servers, by CASES: bounded loss that is known, never free, never double.

A fault is real: a process killed, a file cut or put back, a demoted master, an answer thrown away.
What is lost is what the server had not kept, and the payer's own next voucher restores it where
the record is gone; where it is only old, the charges since are lost, and nobody pays them twice.
"""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from helpers.channels import NETWORK, config, voucher
from helpers.redis_proxy import Proxy, proxy_to
from helpers.redis_server import RedisServer, running
from helpers.redis_store import (
    chain_now,
    charge_next,
    open_channel,
    payers,
    record_of,
    store_at,
)

from paywall.protocol.channel import Channel, NeedsChain, RefusedByChannel
from paywall.protocol.errors import HoldLost, StoreUnavailable
from paywall.protocol.once import AnsweredBefore, Ticket
from paywall.stores import Store
from paywall.stores.redis_scripts import scripts

TICKET = Ticket("payment-id-of-16-and-more", bytes(32))


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with running() as server:
        yield server


@pytest.fixture
async def store(server: RedisServer) -> AsyncIterator[Store]:
    async with store_at(server.url) as store:
        yield store


async def restore_by_evidence(store: Store, number: int, total: int, price: int = 1) -> Channel:
    """What the gate does with a payment on a channel that the store does not know."""
    terms = config(number)
    with pytest.raises(NeedsChain):
        await store.reserve(terms.channel_id(NETWORK), voucher(total), price, "unknown")
    return await store.record(terms.channel_id(NETWORK), NETWORK, terms, chain_now(), total - price)


# -- Killed, and what the disk has ---------------------------------------------------------------


@pytest.mark.parametrize("fsync", ["always", "everysec", "no"])
async def test_case_41_a_server_killed_under_traffic_loses_and_doubles_nothing(fsync: str) -> None:
    """The machine lives on, and with it what the process had written, whatever `appendfsync` is.

    Callers notice a pause: their verbs are sent again, and no payer's count is off by one.
    """
    with running(fsync=fsync) as server:
        async with store_at(server.url) as store:
            them = await payers(store)
            async with them.paying():
                for _ in range(3):
                    server.kill()
                    await asyncio.to_thread(server.start)
                    await asyncio.sleep(0.2)
            await them.check(store)
            assert them.turned_away == 0


async def test_case_41_a_power_cut_loses_what_was_not_on_disk_yet(server: RedisServer) -> None:
    """`everysec`: the file ends where the last `fsync` was, at most two seconds ago.

    The record is old: what was charged since is lost, and only that. The payer goes on with its
    next voucher; one that it used in those seconds is good once more, and charged once more, so
    what it signed is never exceeded.
    """
    log = server.folder / "appendonlydir" / "appendonly.aof.1.incr.aof"
    async with store_at(server.url) as store:
        channel_id = await open_channel(store)
        for total in range(1, 11):
            await charge_next(store, channel_id, total)
        on_disk = log.stat().st_size
        for total in range(11, 16):
            await charge_next(store, channel_id, total)
        server.kill()
        with log.open("r+b") as file:
            file.truncate(on_disk)
        await asyncio.to_thread(server.start)
        old = await record_of(store, channel_id)
        assert 15 - old.charged == 5, "the loss is what was charged since"
        assert (await charge_next(store, channel_id, 16)).charged == 11
        assert (await charge_next(store, channel_id, 12)).charged == 12
        with pytest.raises(RefusedByChannel):
            await store.reserve(channel_id, voucher(12), 1, "once more")
        record = await record_of(store, channel_id)
        assert record.charged <= record.signed == 16


async def test_case_41_without_a_file_evidence_restores_every_payer_that_comes_again() -> None:
    """`appendonly no`: the record is gone, and the payer's next voucher says what was charged."""
    with running("--appendonly", "no") as server:
        async with store_at(server.url) as store:
            for number in range(2):
                channel_id = await open_channel(store, number)
                for total in range(1, 6):
                    await charge_next(store, channel_id, total)
            await store.reserve(channel_id, voucher(6), 1, "running")
            server.kill()
            await asyncio.to_thread(server.start)
            with pytest.raises(HoldLost):
                await store.charge(channel_id, "running", 1)
            restored = await restore_by_evidence(store, 1, 7)
            assert restored.charged == 6, "nothing is lost, not even the request that was running"
            assert (await charge_next(store, channel_id, 7)).charged == 7
            with pytest.raises(RefusedByChannel):
                await store.reserve(channel_id, voucher(5), 1, "an old one")
            # The other payer does not come again: its five units are what was lost.
            assert [one.channel_id for one in await store.claimable()] == [channel_id]


async def test_case_41_flushed_is_as_gone(server: RedisServer, store: Store) -> None:
    channel_id = await open_channel(store)
    await charge_next(store, channel_id, 5, 5)
    server.command("FLUSHALL")
    assert await store.channel(channel_id) is None
    assert await store.claimable() == await store.channels() == []
    assert (await restore_by_evidence(store, 0, 9, 4)).charged == 5
    assert (await charge_next(store, channel_id, 9, 4)).charged == 9


async def test_case_41_an_old_snapshot_loses_the_charges_since() -> None:
    with running("--appendonly", "no") as server:
        async with store_at(server.url) as store:
            channel_id = await open_channel(store)
            await charge_next(store, channel_id, 100, 100)
            server.command("SAVE")
            snapshot = shutil.copy(server.folder / "dump.rdb", server.folder / "old.rdb")
            for total in (200, 300, 400):
                await charge_next(store, channel_id, total, 100)
            server.command("SAVE")
            server.kill()
            shutil.move(snapshot, server.folder / "dump.rdb")
            await asyncio.to_thread(server.start)
            assert (await record_of(store, channel_id)).charged == 100
            assert (await charge_next(store, channel_id, 500, 100)).charged == 200
            # What the chain has seen meanwhile is never forgotten again.
            claimed = chain_now(10**9, claimed=400, block=2)
            restored = await store.record(channel_id, NETWORK, config(0), claimed, 0)
            assert (restored.charged, restored.unclaimed) == (400, 0)


# -- Lost answers --------------------------------------------------------------------------------


@pytest.fixture
async def proxy(server: RedisServer) -> AsyncIterator[Proxy]:
    async with proxy_to(server.port) as proxy:
        yield proxy


Spoil = Callable[[Proxy], None]


def lose_one(proxy: Proxy) -> None:
    proxy.lose_answers = 1


def lose_three(proxy: Proxy) -> None:
    proxy.lose_answers = 3


@pytest.mark.parametrize("spoil", [lose_one, lose_three])
@pytest.mark.parametrize("ticket", [None, TICKET])
async def test_case_41_a_verb_whose_answer_was_lost_gives_the_same_decision(
    server: RedisServer, proxy: Proxy, spoil: Spoil, ticket: Ticket | None
) -> None:
    async with store_at(proxy.url) as store:
        channel_id = await open_channel(store)
        spoil(proxy)
        assert (await store.reserve(channel_id, voucher(9), 9, "a", ticket)).held == 9
        spoil(proxy)
        assert (await store.charge(channel_id, "a", 6, ticket, b"answer")).charged == 6
        spoil(proxy)
        await store.reserve(channel_id, voucher(12), 6, "b")
        spoil(proxy)
        await store.release(channel_id, "b")
        spoil(proxy)
        assert await store.spend(b"nonce", "owner", 60_000)
        assert proxy.lost >= 5
        record = await record_of(store, channel_id)
        assert (record.charged, record.held) == (6, 0)
        if ticket:
            with pytest.raises(AnsweredBefore) as before:
                await store.look_up(channel_id, ticket)
            assert (before.value.answer, before.value.total) == (b"answer", 6)


async def test_case_41_a_whole_batch_whose_answers_were_lost_is_charged_once(
    proxy: Proxy,
) -> None:
    async with store_at(proxy.url) as store:
        ids = [await open_channel(store, number) for number in range(50)]
        lose_one(proxy)
        await asyncio.gather(*(store.reserve(one, voucher(5), 5, "a") for one in ids))
        lose_one(proxy)
        standings = await asyncio.gather(*(store.charge(one, "a", 5) for one in ids))
        assert {(standing.charged, standing.held) for standing in standings} == {(5, 0)}
        assert proxy.lost == 2


async def test_case_41_a_server_that_goes_silent_is_given_up_and_asked_again(
    proxy: Proxy,
) -> None:
    async with store_at(f"{proxy.url}?timeout=2") as store:
        channel_id = await open_channel(store)
        proxy.silent = True
        reserving = asyncio.create_task(store.reserve(channel_id, voucher(5), 5, "a"))
        await asyncio.sleep(0.2)
        proxy.silent = False
        assert (await reserving).held == 5
        assert proxy.connections == 2


async def test_case_12_a_server_that_stays_away_is_one_sentence_in_time(
    server: RedisServer, store: Store
) -> None:
    async with store_at(f"{server.url}?timeout=0.5") as hasty:
        channel_id = await open_channel(hasty)
        server.kill()
        began = asyncio.get_running_loop().time()
        verbs = (hasty.reserve(channel_id, voucher(n), 1, f"{n}") for n in range(1, 200))
        failures = await asyncio.gather(*verbs, return_exceptions=True)
        assert asyncio.get_running_loop().time() - began < 2
        assert {type(failure) for failure in failures} == {StoreUnavailable}
        assert str(failures[0]).startswith(f"{server.url}: ")
        # The outage has outlasted its time: nobody waits for it again.
        began = asyncio.get_running_loop().time()
        with pytest.raises(StoreUnavailable):
            await hasty.reserve(channel_id, voucher(5), 5, "a")
        assert asyncio.get_running_loop().time() - began < 0.3
        await asyncio.to_thread(server.start)
        assert (await hasty.reserve(channel_id, voucher(5), 5, "a")).held == 5


async def test_a_cancelled_verb_is_not_sent_again(server: RedisServer, proxy: Proxy) -> None:
    async with store_at(f"{proxy.url}?timeout=1") as store:
        channel_id = await open_channel(store)
        server.command("CONFIG", "RESETSTAT")
        proxy.silent = True
        reserving = asyncio.create_task(store.reserve(channel_id, voucher(5), 5, "a"))
        await asyncio.sleep(0.1)
        reserving.cancel()
        await asyncio.sleep(0.6)
        proxy.silent = False
        assert (await record_of(store, channel_id)).held == 5, "it was on its way already"
    with server.client() as admin:
        assert admin.info("commandstats")["cmdstat_evalsha"]["calls"] == 2


async def test_a_cancelled_verb_is_not_sent_again_behind_what_undoes_it(
    server: RedisServer, store: Store
) -> None:
    """Its script was gone, and that of the release was not."""
    channel_id = await open_channel(store)
    server.command("SCRIPT", "FLUSH")
    server.command("SCRIPT", "LOAD", scripts()["release"].text)
    reserving = asyncio.ensure_future(store.reserve(channel_id, voucher(5), 5, "given up"))
    await asyncio.sleep(0)
    reserving.cancel()
    await store.release(channel_id, "given up")
    for _ in range(20):  # whatever would be sent again is answered before these
        record = await record_of(store, channel_id)
        await asyncio.sleep(0)
    assert record.holds == {}
