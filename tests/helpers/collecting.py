"""A provider that collects: a store with channels that owe, a claimer, and the alarms that rang.

Nothing here has HTTP: a request is `charge`, as a gate would do it. The devnet's gas costs 0.02
gwei, so one row costs about half a cent; `EAGER` claims whatever brings more than its own fee.
"""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from helpers.chain import DOMAIN, NETWORK, Payer, new_address, node_of
from paywall.alarms import Alarm
from paywall.chain.claimer import Claimer
from paywall.chain.devnet import Devnet
from paywall.chain.node import Node
from paywall.protocol.channel import Channel, ChannelConfig
from paywall.protocol.claims import ClaimPolicy
from paywall.protocol.money import Address
from paywall.protocol.schemes.batch import sign_voucher
from paywall.stores import Store
from paywall.stores.memory import MemoryStore

EAGER: Final = ClaimPolicy(fee_share_ppm=1_000_000, native_price="$1")
"""Claims at once: gas costs next to nothing."""
LAZY: Final = ClaimPolicy(max_at_risk="$1000", native_price="$100000")
"""Claims only what cannot wait: gas is dear."""


@dataclass
class Bell:
    """Every alarm that was told."""

    alarms: list[Alarm] = field(default_factory=list)

    def __call__(self, alarm: Alarm) -> None:
        self.alarms.append(alarm)

    def rung(self, kind: type[Alarm]) -> list[Alarm]:
        return [alarm for alarm in self.alarms if type(alarm) is kind]

    def standing(self, kind: type[Alarm]) -> set[str]:
        names: set[str] = set()
        for alarm in self.rung(kind):
            (names.discard if alarm.over else names.add)(alarm.subject)
        return names


@dataclass
class ChainClock:
    """Unix seconds that run on by themselves, and jump to the devnet's when these do.

    A burst of blocks runs ahead of the wall, and the chain with it: two clocks that only jump by as
    much would part for good.
    """

    devnet: Devnet
    jumped: float = 0.0

    def __call__(self) -> float:
        return time.time() + self.jumped

    def travel(self, seconds: int) -> None:
        self.devnet.travel(seconds)
        ahead = self.devnet._chain.head.timestamp - time.time()
        self.jumped = max(self.jumped + seconds, ahead)


@dataclass
class Customer:
    """A payer's channel with this provider, and what it has signed."""

    payer: Payer
    config: ChannelConfig
    signed: int = 0
    served: int = 0

    @property
    def channel_id(self) -> bytes:
        return self.config.channel_id(NETWORK)


@dataclass
class Provider:
    """A store, a node, and the receiver that earns."""

    store: Store
    node: Node
    receiver: Address = field(default_factory=new_address)

    async def customer(self, payer: Payer, deposit: int = 1_000_000) -> Customer:
        """A channel with money on chain, known to the store."""
        customer = Customer(payer, payer.config(self.node.receiver_authorizer, self.receiver))
        await self.node.deposit(payer.deposit(customer.config, deposit))
        state = await self.node.channel(customer.channel_id)
        await self.store.record(customer.channel_id, NETWORK, customer.config, state, 0)
        return customer

    async def serve(self, customer: Customer, price: int, times: int = 1) -> None:
        """Paid requests: each signs on, is held, and is charged. Raises as the store does."""
        for _ in range(times):
            total = customer.signed + price
            voucher = sign_voucher(customer.payer.key, DOMAIN, customer.channel_id, total)
            request = f"request-{total}"
            await self.store.reserve(customer.channel_id, voucher, price, request)
            customer.signed = total
            await self.store.charge(customer.channel_id, request, price)
            customer.served += price

    async def record(self, customer: Customer) -> Channel:
        channel = await self.store.channel(customer.channel_id)
        assert channel is not None
        return channel

    async def claimed(self, customer: Customer) -> int:
        return (await self.node.channel(customer.channel_id)).claimed


@asynccontextmanager
async def providing(
    devnet: Devnet,
    url: str | None = None,
    store: Store | None = None,
    clock: Callable[[], float] = time.time,
    **options: Any,
) -> AsyncIterator[Provider]:
    store = store or MemoryStore(clock=clock)
    await store.open()
    try:
        async with node_of(devnet, url, clock=clock, **options) as node:
            yield Provider(store, node)
    finally:
        await store.close()


def claimer_of(
    provider: Provider, bell: Bell | None = None, policy: ClaimPolicy = EAGER, **options: Any
) -> Claimer:
    return Claimer(provider.store, provider.node, policy, bell or Bell(), **options)
