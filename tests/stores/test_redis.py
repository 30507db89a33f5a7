"""What is Redis's own: amounts in Lua, one round trip for many verbs, scripts, replicas."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis
from helpers.channels import voucher
from helpers.redis_server import RedisServer, running, shared_cluster
from helpers.redis_store import charge_next, open_channel, store_at
from hypothesis import given, settings
from hypothesis import strategies as st

from paywall.protocol.channel import RefusedByChannel
from paywall.protocol.errors import StoreUnavailable
from paywall.stores import Store
from paywall.stores.redis_scripts import source

amounts = st.integers(0, 2**128 - 1) | st.sampled_from(
    [0, 1, 10**14 - 1, 10**14, 2**53, 2**53 + 1, 10**28 - 1, 10**28, 2**127, 2**128 - 1]
)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with running(fsync="no") as server:
        yield server


@pytest.fixture
async def store(server: RedisServer) -> AsyncIterator[Store]:
    server.command("FLUSHALL")
    async with store_at(server.url) as store:
        yield store


class Counts:
    """What the server has done since, apart from answering this question."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._before = self._now()

    def _now(self) -> tuple[int, int]:
        stats = self._client.info("everything")
        runs = stats.get("cmdstat_evalsha", {"calls": 0})["calls"]
        return stats["total_reads_processed"], runs

    def since(self) -> tuple[int, int]:
        """Reads from connections, and scripts run."""
        reads, runs = self._now()
        return reads - self._before[0] - 1, runs - self._before[1]


@pytest.fixture
def admin(server: RedisServer) -> Iterator[redis.Redis]:
    with server.client() as client:
        client.ping()
        yield client


# -- Amounts -------------------------------------------------------------------------------------


@settings(max_examples=500, deadline=None)
@given(a=amounts, b=amounts)
def test_amounts_in_lua_are_pythons_integers(server: RedisServer, a: int, b: int) -> None:
    large, small = max(a, b), min(a, b)
    script = source("prelude").decode() + (
        "return {add(ARGV[1], ARGV[2]), sub(ARGV[3], ARGV[4]),"
        " max(ARGV[1], ARGV[2]), less(ARGV[1], ARGV[2]) and 1 or 0}"
    )
    answer = server.command("EVAL", script, 0, a, b, large, small)
    assert answer == [str(a + b), str(large - small), str(large), int(a < b)]


# -- Round trips ---------------------------------------------------------------------------------


async def test_verbs_of_one_turn_travel_together(admin: redis.Redis, store: Store) -> None:
    ids = [await open_channel(store, number) for number in range(100)]
    counts = Counts(admin)
    await asyncio.gather(*(store.reserve(one, voucher(5), 5, "a") for one in ids))
    reads, runs = counts.since()
    assert runs == 100
    assert reads <= 6, "one write, which the server takes in pieces of 16 KiB"


async def test_a_verb_is_one_round_trip(admin: redis.Redis, store: Store) -> None:
    channel_id = await open_channel(store)
    counts = Counts(admin)
    for total in range(1, 26):
        await charge_next(store, channel_id, total)
    for total in range(1, 6):
        with pytest.raises(RefusedByChannel):
            await store.reserve(channel_id, voucher(total), 1, "refused")
    assert counts.since() == (55, 55)


async def test_one_connection_serves_all(server: RedisServer, store: Store) -> None:
    ids = [await open_channel(store, number) for number in range(20)]
    await asyncio.gather(*(charge_next(store, one, 7) for one in ids))
    assert str(server.command("CLIENT", "LIST")).count("paywall") == 1


async def test_a_cancelled_caller_does_not_break_its_batch(store: Store) -> None:
    ids = [await open_channel(store, number) for number in range(3)]
    tasks = [asyncio.create_task(store.reserve(one, voucher(5), 5, "a")) for one in ids]
    await asyncio.sleep(0)
    tasks[1].cancel()
    standings = await asyncio.gather(*tasks, return_exceptions=True)
    assert [getattr(one, "held", None) for one in standings] == [5, None, 5]
    # Its verb happened all the same, as for every store, so a release after it does what it should.
    await store.release(ids[1], "a")
    assert (await store.reserve(ids[1], voucher(5), 5, "b")).held == 5


async def test_verbs_of_one_caller_happen_in_their_order(store: Store) -> None:
    channel_id = await open_channel(store)
    verbs = [store.reserve(channel_id, voucher(9), 9, "a"), store.release(channel_id, "a")]
    verbs += [store.reserve(channel_id, voucher(9), 9, "b"), store.charge(channel_id, "b", 4)]
    *_, charged = await asyncio.gather(*verbs)
    assert (charged.charged, charged.held) == (4, 0)


async def test_a_closed_store_says_so(server: RedisServer, store: Store) -> None:
    channel_id = await open_channel(store)
    last = asyncio.gather(*(charge_next(store, channel_id, 1) for _ in range(1)))
    await asyncio.sleep(0)
    await store.close()
    await store.close()
    with pytest.raises(StoreUnavailable):
        await last
    with pytest.raises(StoreUnavailable, match="not open"):
        await store.channel(channel_id)


# -- Scripts -------------------------------------------------------------------------------------


async def test_case_41_scripts_that_are_gone_are_loaded_again(
    server: RedisServer, store: Store
) -> None:
    ids = [await open_channel(store, number) for number in range(50)]
    server.command("SCRIPT", "FLUSH")
    standings = await asyncio.gather(*(charge_next(store, one, 3, 3) for one in ids))
    assert {standing.charged for standing in standings} == {3}


async def test_every_script_is_loaded_once(server: RedisServer, store: Store) -> None:
    server.command("CONFIG", "RESETSTAT")
    channel_id = await open_channel(store)
    for total in range(1, 11):
        await charge_next(store, channel_id, total)
    with server.client() as client:
        assert "cmdstat_script|load" not in client.info("commandstats")


# -- Keys ----------------------------------------------------------------------------------------


async def test_case_42_every_key_of_a_channel_carries_its_bucket(
    server: RedisServer, store: Store
) -> None:
    channel_id = await open_channel(store)
    await charge_next(store, channel_id, 5)
    for total, request in ((9, "held"), (10, "held too")):
        await store.reserve(channel_id, voucher(total), 1, request)
    bucket, name = f"paywall:{{{channel_id[0]:02x}}}:", channel_id.hex()
    with server.client() as client:
        keys = set(client.keys("*")) - {"paywall:schema"}
    assert keys == {bucket + key for key in (name, f"{name}:h", "due", "all")}


async def test_stores_under_different_prefixes_do_not_meet(server: RedisServer) -> None:
    async with (
        store_at(f"{server.url}?prefix=one") as one,
        store_at(f"{server.url}/3?prefix=one") as elsewhere,
        store_at(f"{server.url}?prefix=two:") as two,
    ):
        await open_channel(one)
        assert [len(await store.channels()) for store in (one, elsewhere, two)] == [1, 0, 0]


# -- Many channels -------------------------------------------------------------------------------


async def test_the_largest_sums_are_found_wherever_they_are(store: Store) -> None:
    ids = [await open_channel(store, number) for number in range(300)]
    await asyncio.gather(
        *(charge_next(store, one, 1 + n * 7 % 301, 1 + n * 7 % 301) for n, one in enumerate(ids))
    )
    everything = await store.claimable()
    assert len(everything) == 300
    sums = [channel.unclaimed for channel in everything]
    assert sums == sorted(sums, reverse=True)
    for limit in (1, 10, 299, 1000):
        assert await store.claimable(limit) == everything[:limit]


async def test_equal_sums_come_in_the_order_of_their_ids(store: Store) -> None:
    ids = [await open_channel(store, number) for number in range(40)]
    await asyncio.gather(*(charge_next(store, one, 5, 5) for one in ids))
    assert [channel.channel_id for channel in await store.claimable(25)] == sorted(ids)[:25]


# -- Sockets and replicas ------------------------------------------------------------------------


async def test_a_unix_socket_is_as_good(tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    with running("--unixsocket", str(path)):
        for url in (f"redis+unix://{path}", f"unix://{path}?database=2"):
            async with store_at(url) as store:
                assert (await charge_next(store, await open_channel(store), 5)).charged == 1


async def test_case_41_a_payment_waits_for_the_replicas_that_are_asked_for(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    with running("--replicaof", "127.0.0.1", str(server.port)) as replica:
        async with store_at(f"{server.url}?replicas=1&wait_ms=5000&prefix=wait") as store:
            channel_id = await open_channel(store)
            await charge_next(store, channel_id, 5)
            replica.kill()
        async with store_at(f"{server.url}?replicas=1&wait_ms=20&prefix=wait") as store:
            assert "fewer than 1 replicas" in caplog.text
            with pytest.raises(StoreUnavailable, match="too few replicas"):
                await store.reserve(channel_id, voucher(9), 4, "a")
            # It is held nevertheless, so whoever gave up on it lets it go; a charge goes through.
            caplog.clear()
            assert (await store.charge(channel_id, "a", 4)).charged == 5
            assert "only 0 of 1 replicas" in caplog.text


async def test_a_cluster_spreads_channels_over_its_masters() -> None:
    cluster = shared_cluster()
    async with store_at(f"{cluster.url}?prefix=spread") as store:
        ids = [await open_channel(store, number) for number in range(60)]
        await asyncio.gather(*(charge_next(store, one, 2, 2) for one in ids))
        assert len(await store.claimable()) == 60
        first = await store.channels(limit=25)
        rest = await store.channels(after=first[-1].channel_id)
        assert [channel.channel_id for channel in first + rest] == sorted(ids)
    counts = []
    for node in cluster.servers:
        with node.client() as client:
            if client.info("replication")["role"] == "master":
                counts.append(len(client.keys("spread:*")))
    assert len([count for count in counts if count]) == 3


# -- Packaging -----------------------------------------------------------------------------------


def python(code: str) -> str:
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return run.stdout


def test_stores_are_imported_without_redis() -> None:
    code = "import sys, paywall.stores; print({'redis', 'hiredis'} & set(sys.modules))"
    assert python(code) == "set()\n"


def test_a_missing_package_is_a_configuration_error() -> None:
    code = (
        "import sys; sys.modules['redis'] = None; sys.modules['hiredis'] = None\n"
        "from paywall.stores import open_store\n"
        "try: open_store('redis://host')\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    assert python(code).startswith("ConfigurationError redis:// needs")
