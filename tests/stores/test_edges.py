"""Amounts at the edges: where Lua's numbers, limbs, SQLite's and MessagePack's integers end.

Random verbs are played to the memory store and to another one: the same answers, the same refusals
with the same channel in them, and the same record after each. The totals begin just below an edge
and cross it. In Redis the record is put back into an older version now and then, as a worker finds
it whose predecessors wrote it.
"""

import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Final

import pytest
from helpers.channels import CHANNEL_ID, CONFIG, NETWORK, voucher
from helpers.model import Move, essence
from helpers.redis_records import downgraded
from helpers.stores import STORES, Time

from paywall.protocol.channel import ChainState, Channel, RefusedByChannel
from paywall.protocol.limits import UINT128_MAX
from paywall.protocol.once import Ticket
from paywall.stores import Store
from paywall.stores.memory import MemoryStore
from paywall.stores.redis import RedisStore

SEEDS: Final = int(os.environ.get("PAYWALL_EDGE_SEEDS", "1"))
STEPS: Final = 120
EDGES: Final = (1, 10**13, 10**14, 2**53, 10**15, 2**63, 2**64, 10**28, UINT128_MAX - 15_000)
PAUSES: Final = (0.5, 19.0, 60.0, 61.0, 301.0)


class Walk:
    """What a payer, its provider and the chain do next, by lot."""

    def __init__(self, seed: int, edge: int, clock: Time) -> None:
        self.random = Random(f"{seed} {edge}")
        self.clock = clock
        self.balance = min(edge + self.random.randrange(500, 15_000), UINT128_MAX)
        self.claimed = self.nonce = 0
        self.block = 5
        self.requests: list[tuple[str, Ticket | None]] = []
        self.tickets: list[Ticket] = []
        self.refunds = ["none"]
        self.number = 0

    def chain(self) -> ChainState:
        now_ms = self.clock.ms()
        return ChainState(self.balance, self.claimed, 0, 0, self.nonce, self.block, now_ms)

    def read(self, evidence: int = 0) -> Move:
        chain = self.chain()
        return lambda store: store.record(CHANNEL_ID, NETWORK, CONFIG, chain, evidence)

    def next(self, record: Channel) -> Move:
        self.number += 1
        kinds: list[Callable[[Channel], Move]] = [
            *[self._reserve] * 6,
            *[self._charge] * 5,
            *[self._begin_refund] * 2,
            *(self._release, self._renew, self._look_up, self._refuse),
            *(self._time_passes, self._chain_moves, self._end_refund),
        ]
        return self.random.choice(kinds)(record)

    def _reserve(self, record: Channel) -> Move:
        price = self.random.choice((1, 2, self.random.randrange(1, 2_000)))
        total = self.random.choice(
            (
                *(record.committed + price, record.signed + price, record.signed + 7),
                *(max(1, record.signed - 5), record.floor + 1, *record.seen[-1:]),
                *(self.balance, self.balance + 1),
            )
        )
        ticket = self.random.choice((None, self._ticket()))
        request = f"request-{self.number}" if self.number % 3 else f"{self.number}"
        self.requests.append((request, ticket))
        shown = voucher(min(total, UINT128_MAX))
        return lambda store: store.reserve(CHANNEL_ID, shown, price, request, ticket)

    def _ticket(self) -> Ticket:
        name = f"payment-{self.number:012}"
        self.tickets.append(Ticket(name, name.encode().ljust(32, b"\n")))
        return self.random.choice(self.tickets[-6:])

    def _request(self) -> tuple[str, Ticket | None]:
        return self.random.choice(self.requests[-10:] or [("unknown", None)])

    def _charge(self, record: Channel) -> Move:
        request, ticket = self._request()
        hold = record.holds.get(request)
        most = hold.price if hold else 1
        amount = self.random.choice((most, most, most // 2, 0))
        return lambda store: store.charge(CHANNEL_ID, request, amount, ticket, b"\r\n $1", b"line")

    def _release(self, record: Channel) -> Move:
        request, ticket = self._request()
        return lambda store: store.release(CHANNEL_ID, request, ticket)

    def _renew(self, record: Channel) -> Move:
        holds = [(CHANNEL_ID, request) for request, _ in self.requests[-5:]]
        return lambda store: store.renew(holds)

    def _look_up(self, record: Channel) -> Move:
        ticket = self._ticket()
        return lambda store: store.look_up(CHANNEL_ID, ticket)

    def _refuse(self, record: Channel) -> Move:
        ticket = self._ticket()
        return lambda store: store.refuse(CHANNEL_ID, ticket)

    def _time_passes(self, record: Channel) -> Move:
        self.clock.seconds += self.random.choice(PAUSES)
        return self.read()

    def _chain_moves(self, record: Channel) -> Move:
        self.block += self.random.choice((0, 1))
        if self.random.random() < 0.5:
            self.claimed = max(self.claimed, min(record.charged, record.signed))
        else:
            self.balance = min(self.balance + self.random.randrange(3_000), UINT128_MAX)
        return self.read()

    def _begin_refund(self, record: Channel) -> Move:
        shown = self.random.choice((voucher(record.charged), None))
        amount = self.random.choice((None, 1, record.refundable, record.refundable + 1))
        request = f"refund-{self.number}"
        self.refunds.append(request)
        return lambda store: store.begin_refund(CHANNEL_ID, shown, amount, request)

    def _end_refund(self, record: Channel) -> Move:
        refunding = record.refunding
        request = refunding.request if refunding else self.refunds[-1]
        if self.random.random() < 0.3:
            return lambda store: store.end_refund(CHANNEL_ID, request, None)
        self.nonce, self.block = self.nonce + 1, self.block + 1
        chain = self.chain()
        return lambda store: store.end_refund(CHANNEL_ID, request, chain)


async def outcome_of(move: Move, store: Store) -> object:
    try:
        return await move(store)
    except AssertionError:
        raise
    except Exception as error:
        return error


async def same(move: Move, model: Store, store: Store) -> Channel:
    """The move, played to both; the record that both have then."""
    expected, found = await outcome_of(move, model), await outcome_of(move, store)
    assert essence(found) == essence(expected)
    if isinstance(expected, RefusedByChannel):
        assert isinstance(found, RefusedByChannel)
        assert found.channel == expected.channel
    record = await model.channel(CHANNEL_ID)
    assert record is not None
    assert await store.channel(CHANNEL_ID) == record
    owing = [channel.channel_id for channel in await model.claimable()]
    assert [channel.channel_id for channel in await store.claimable()] == owing
    return record


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("name", [name for name in STORES if name != "memory"])
async def test_stores_agree_at_the_edges_of_numbers(
    name: str, edge: int, seed: int, tmp_path: Path
) -> None:
    clock = Time()
    walk, model = Walk(seed, edge, clock), MemoryStore(clock)
    store = STORES[name](tmp_path, clock)
    await store.open()
    try:
        record = await same(walk.read(evidence=edge - 1), model, store)
        for _ in range(STEPS):
            if isinstance(store, RedisStore) and walk.random.random() < 0.1:
                await downgraded(store, CHANNEL_ID, walk.random.choice((0, 1)))
            record = await same(walk.next(record), model, store)
    finally:
        await store.close()
