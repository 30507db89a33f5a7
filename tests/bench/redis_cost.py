"""What a paid request costs in Redis: commands, bytes, processor time; and what many channels do.

A paid request is what the gate asks of its store: `reserve` and `charge`, with a payment's id and
an answer that is kept. The same work is done in three ways:

    one at a time              each verb waits for the one before: the round trip decides
    at once, each by itself    as many as `IN_FLIGHT`, and each command is written alone
    at once, coalesced         as the store does it: what is ready together is written together
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from random import Random
from statistics import median
from typing import Final
from unittest.mock import patch

from helpers.channels import CONFIG, NETWORK, config, voucher
from helpers.redis_server import RedisServer, running

from bench.cells import Cell, Clock, measure
from bench.findings import Findings
from paywall.protocol.channel import ChainState
from paywall.protocol.once import Answer, Ticket, encode_answer
from paywall.stores.redis import RedisStore
from paywall.stores.redis_lane import Lane
from paywall.stores.redis_url import parse_redis_url
from paywall.stores.redis_wire import Call

IN_FLIGHT: Final = 64
PRICE: Final = 1_000
BALANCE: Final = 10**12
FEW: Final = 1_000
FILL_AT_ONCE: Final = 1_000
_HEADERS: Final = [(b"content-type", b"application/json"), (b"content-length", b"300")]
ANSWER: Final = encode_answer(Answer(200, _HEADERS, b"x" * 300, PRICE, PRICE, 0, b""))

_CLONE: Final = """
local record = redis.call('DUMP', KEYS[1])
for at = 1, #ARGV, 3 do
  local id, tag = ARGV[at], ARGV[at + 2]
  redis.call('RESTORE', ARGV[at + 1], 0, record)
  redis.call('ZADD', tag .. 'all', 0, id)
  redis.call('ZADD', tag .. 'due', -1000, id)
end
"""
"""Channels like the first one, in whatever form the store keeps them."""


@dataclass
class Account:
    """A channel, and how much of it was promised."""

    channel_id: bytes
    total: int = 0


@contextmanager
def _alone() -> Iterator[None]:
    """Each command is written by itself."""

    def submit(lane: Lane, call: Call) -> None:
        lane._queue.append(call)
        lane._flush()

    with patch.object(Lane, "submit", submit):
        yield


@asynccontextmanager
async def _opened(server: RedisServer) -> AsyncIterator[RedisStore]:
    store = RedisStore(parse_redis_url(server.url))
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def _open_channel(store: RedisStore, number: int) -> Account:
    """A channel that has served once and is idle now."""
    account = Account(config(number).channel_id(NETWORK))
    chain = ChainState(BALANCE, 0, 0, 0, 0, 1, int(time.time() * 1000))
    await store.record(account.channel_id, NETWORK, CONFIG, chain, 0)
    await _pay(store, account, f"first-{number}")
    return account


async def _pay(
    store: RedisStore, account: Account, name: str, ticket: Ticket | None = None
) -> None:
    account.total += PRICE
    signed = voucher(account.total)
    await store.reserve(account.channel_id, signed, PRICE, name, ticket)
    await store.charge(account.channel_id, name, PRICE, ticket, ANSWER if ticket else b"")


# -- A paid request ------------------------------------------------------------------------------


class PaidRequests:
    """Paid requests against one server, by one store."""

    def __init__(self, server: RedisServer, store: RedisStore, accounts: list[Account]) -> None:
        self._server = server
        self._store = store
        self._accounts = accounts
        self._made = 0

    async def serve(self, requests: int, at_once: int) -> None:
        names = iter(range(self._made, self._made + requests))
        self._made += requests
        await asyncio.gather(*(self._serve(account, names) for account in self._accounts[:at_once]))

    async def _serve(self, account: Account, names: Iterator[int]) -> None:
        for name in names:
            ticket = Ticket(f"payment-{name:012}", name.to_bytes(32, "big"))
            await _pay(self._store, account, f"{name:016x}", ticket)

    def traffic(self) -> dict[str, int]:
        """Counters of the server, so far."""
        with self._server.client() as client:
            stats, commands = client.info("stats"), client.info("commandstats")
        return {
            "commands": commands.get("cmdstat_evalsha", {}).get("calls", 0),
            "bytes": stats["total_net_input_bytes"] + stats["total_net_output_bytes"],
            "reads": stats["total_reads_processed"],
        }


async def store_requests(found: Findings, requests: int, rounds: int) -> None:
    """The three ways, taking turns."""
    ways = {
        "redis: one at a time": (1, False),
        "redis: at once, each by itself": (IN_FLIGHT, True),
        "redis: at once, coalesced": (IN_FLIGHT, False),
    }
    cells = {name: Cell(name) for name in ways}
    traffic: dict[str, dict[str, int]] = {}
    with running(fsync="everysec") as server:
        clocks: dict[str, Clock] = {"worker": time.process_time, "redis": redis_cpu(server)}
        async with _opened(server) as store:
            accounts = [await _open_channel(store, number) for number in range(IN_FLIGHT)]
            work = PaidRequests(server, store, accounts)
            for _ in range(rounds):
                for name, (at_once, alone) in ways.items():
                    before = work.traffic()
                    number = requests if at_once > 1 else requests // 4
                    await _round(cells[name], clocks, work, number, at_once, alone)
                    after = work.traffic()
                    traffic[name] = {key: after[key] - before[key] for key in after}
                    cells[name].more |= {
                        f"{key}_per_request": value / number for key, value in traffic[name].items()
                    }
    found.cells += cells.values()
    coalesced = cells["redis: at once, coalesced"]
    alone_cell = cells["redis: at once, each by itself"]
    found.figures |= {
        "redis_round_trips_per_paid_request": coalesced.more["commands_per_request"],
        "redis_bytes_per_paid_request": coalesced.more["bytes_per_request"],
        "redis_reads_per_paid_request": coalesced.more["reads_per_request"],
    }
    found.ratios["coalesced_of_alone"] = round(
        coalesced.requests_per_second / alone_cell.requests_per_second, 3
    )


async def _round(
    cell: Cell,
    clocks: dict[str, Clock],
    work: PaidRequests,
    requests: int,
    at_once: int,
    alone: bool,
) -> None:
    if not alone:
        return await measure(cell, clocks, requests, lambda: work.serve(requests, at_once))
    with _alone():
        await measure(cell, clocks, requests, lambda: work.serve(requests, at_once))


def redis_cpu(server: RedisServer) -> Clock:
    def spent() -> float:
        with server.client() as client:
            used = client.info("cpu")
        return float(used["used_cpu_sys"] + used["used_cpu_user"])

    return spent


# -- Many channels -------------------------------------------------------------------------------


class Crowd:
    """A server with so many channels, all alike."""

    def __init__(self, server: RedisServer, store: RedisStore, channels: int) -> None:
        self._server = server
        self._store = store
        self._luck = Random(channels)
        self._ids = [self._luck.randbytes(32) for _ in range(channels)]
        self._round = 0
        self.seconds: list[float] = []
        self.server_us: list[float] = []
        self.bytes_per_channel = 0.0

    async def fill(self) -> None:
        """Clones of one channel: a million of them by `record` would take minutes."""
        first = await _open_channel(self._store, 0)
        before = self._used()
        with self._server.client() as client:
            clone = client.register_script(_CLONE)
            for start in range(0, len(self._ids), FILL_AT_ONCE):
                some = self._ids[start : start + FILL_AT_ONCE]
                places = [(one, self._store._key(one), self._store._tags[one[0]]) for one in some]
                words = [word for place in places for word in place]
                clone(keys=[self._store._key(first.channel_id)], args=words)
        self.bytes_per_channel = (self._used() - before) / len(self._ids)

    def _used(self) -> int:
        with self._server.client() as client:
            return int(client.info("memory")["used_memory"])

    async def reserve(self, reserves: int) -> None:
        """One round: as many channels, by lot, reserve; then they let go again, unmeasured."""
        self._round += 1
        some = self._luck.sample(self._ids, reserves)
        signed, name = voucher(2 * PRICE), f"round-{self._round}"
        before, began = self._evalsha(), time.perf_counter()
        await asyncio.gather(*(self._store.reserve(one, signed, PRICE, name) for one in some))
        self.seconds.append((time.perf_counter() - began) / reserves)
        usec, calls = (b - a for a, b in zip(before, self._evalsha(), strict=True))
        assert calls == reserves
        self.server_us.append(usec / calls)
        await asyncio.gather(*(self._store.release(one, name) for one in some))

    def _evalsha(self) -> tuple[int, int]:
        with self._server.client() as client:
            stats = client.info("commandstats")["cmdstat_evalsha"]
        return stats["usec"], stats["calls"]


async def many_channels(found: Findings, channels: int, rounds: int) -> None:
    """`reserve` with few channels and with many, taking turns."""
    # A rewrite of the log in the background would be measured too: it copies every page we touch.
    options = ("--auto-aof-rewrite-percentage", "0")
    with running(*options, fsync="no") as small, running(*options, fsync="no") as large:
        async with _opened(small) as few_store, _opened(large) as many_store:
            few, many = Crowd(small, few_store, FEW), Crowd(large, many_store, channels)
            for crowd in (few, many):
                await crowd.fill()
                await crowd.reserve(FEW // 2)  # warm
                crowd.seconds.clear()
                crowd.server_us.clear()
            for _ in range(rounds):
                await few.reserve(FEW // 2)
                await many.reserve(FEW // 2)
    found.figures["redis_bytes_per_channel"] = round(many.bytes_per_channel)
    found.figures["reserve_us"] = {
        str(FEW): _reserve_figures(few),
        str(channels): _reserve_figures(many),
    }
    found.ratios["reserve_1e6_of_1e3"] = round(median(many.seconds) / median(few.seconds), 3)
    found.ratios["reserve_1e6_of_1e3_in_server"] = round(
        median(many.server_us) / median(few.server_us), 3
    )


def _reserve_figures(crowd: Crowd) -> dict[str, float]:
    return {
        "seen_by_worker": round(median(crowd.seconds) * 1e6, 2),
        "in_server": round(median(crowd.server_us), 2),
    }
