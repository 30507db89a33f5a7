"""What a worker collects while requests go on: many channels, many vouchers, every unit arrives.

Requests are payment headers that a gate admits and charges; beside them runs the background task of
an app, with its watcher, claims and settlements, on the embedded chain. The policy claims when more
than a part of the whole is at risk, so that each channel is claimed a few times in all.
"""

import asyncio
import time
from dataclasses import dataclass, field
from random import Random
from typing import Final

from helpers.chain import ASSET, DOMAIN, NETWORK, Payer, rich_payer
from helpers.collecting import ChainClock
from helpers.shop import PRICE, Shop, open_shop

from paywall.chain.claimer import Claimer, Done
from paywall.chain.devnet import Devnet
from paywall.collector import Collector
from paywall.protocol.channel import ChannelConfig
from paywall.protocol.claims import ClaimPolicy
from paywall.protocol.schemes.batch import sign_voucher

ROUNDS: Final = 4
"""How often the limit of what is at risk is reached, about."""
INTERVAL_SECONDS: Final = 0.1
AT_ONCE: Final = 16
CHANNELS_PER_SECOND: Final = 10
"""How long requests go on at least, and in any case until something was claimed."""
PATIENCE_SECONDS: Final = 120


@dataclass
class Customer:
    """A payer's channel, and how far it has signed."""

    payer: Payer
    config: ChannelConfig
    signed: int = 0

    def header(self, shop: Shop) -> str:
        self.signed += PRICE
        channel_id = self.config.channel_id(NETWORK)
        voucher = sign_voucher(self.payer.key, DOMAIN, channel_id, self.signed)
        return shop.header(self.config, voucher)


@dataclass
class Collected:
    """What came of it. Amounts are atomic units, times seconds."""

    served: int = 0
    earned: int = 0
    seconds: float = 0.0
    claims: list[int] = field(default_factory=list)
    """Rows of each claim."""
    settlements: int = 0
    meanwhile: int = 0
    """Claims that were mined before the last request was charged."""
    gas: int = 0

    def figures(self) -> dict[str, int]:
        requests = self.served // PRICE
        return {
            "requests": requests,
            "seconds": round(self.seconds),
            "served": self.served,
            "arrived": self.earned,
            "claims": len(self.claims),
            "claims_while_serving": self.meanwhile,
            "rows": sum(self.claims),
            "settlements": self.settlements,
            "gas_per_request": round(self.gas / requests),
        }


class _Noted(Claimer):
    """A claimer whose rounds are added up."""

    def __init__(self, shop: Shop, policy: ClaimPolicy, collected: Collected) -> None:
        super().__init__(shop.store, shop.node, policy, clock=shop.clock)
        self._collected = collected

    async def run_once(self) -> Done | None:
        done = await super().run_once()
        if done:
            found = self._collected
            found.claims += [len(one.batch.channels) for one in done.claimed]
            found.settlements += len(done.settled)
            found.gas += sum(one.mined.gas for one in (*done.claimed, *done.settled))
        return done


async def collect(channels: int, vouchers: int) -> Collected:
    """Everything is served, everything arrives; an assertion says otherwise."""
    found, luck = Collected(), Random(channels)
    total = channels * vouchers * PRICE
    policy = ClaimPolicy(max_at_risk=ASSET.show(total // ROUNDS))
    with Devnet(port=0) as devnet:
        clock = ChainClock(devnet)
        async with open_shop(devnet, clock) as shop:
            customers = await _customers(devnet, shop, channels, vouchers)
            clock.travel(0)  # each deposit was a block, and so a second of the chain's time
            collector = Collector(_Noted(shop, policy, found), INTERVAL_SECONDS)
            collector.start()
            began = time.monotonic()
            requests = luck.sample(customers * vouchers, channels * vouchers)
            await _serve(shop, requests, channels / CHANNELS_PER_SECOND, found)
            found.seconds = time.monotonic() - began
            found.meanwhile = len(found.claims)
            await collector.close()
            await _sweep(shop, found)
            found.earned = await shop.earned()
    assert found.served == found.earned == total, "every unit arrives"
    return found


async def _customers(devnet: Devnet, shop: Shop, channels: int, vouchers: int) -> list[Customer]:
    payer = rich_payer(devnet)
    devnet.fund_usdc("0x" + payer.address.hex(), channels * vouchers * PRICE)
    customers = []
    for _ in range(channels):
        config = payer.config(shop.node.receiver_authorizer, shop.receiver)
        await shop.node.deposit(payer.deposit(config, vouchers * PRICE))
        state = await shop.node.channel(config.channel_id(NETWORK))
        await shop.store.record(config.channel_id(NETWORK), NETWORK, config, state, 0)
        customers.append(Customer(payer, config))
    return customers


async def _serve(shop: Shop, requests: list[Customer], seconds: float, found: Collected) -> None:
    *most, last = requests
    waiting, pause = (
        iter(most),
        seconds * AT_ONCE / len(requests),
    )

    async def one(customer: Customer) -> None:
        admission = await shop.admit(customer.header(shop))
        await shop.gate.charge(admission, PRICE)
        found.served += PRICE

    async def some() -> None:
        for customer in waiting:
            await one(customer)
            await asyncio.sleep(pause)

    await asyncio.gather(*(some() for _ in range(AT_ONCE)))
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not found.claims:  # noqa: ASYNC110 - a count, that a round of the worker adds to
            await asyncio.sleep(pause)
    await one(last)


async def _sweep(shop: Shop, found: Collected) -> None:
    """The rest, which is not worth its fee by the policy: as if it had become old."""
    policy = ClaimPolicy(fee_share_ppm=1_000_000, native_price="$1")
    last = _Noted(shop, policy, found)
    await last.run_once()
    await last.close()


def figures(channels: int, vouchers: int = 20) -> dict[str, int]:
    return asyncio.run(collect(channels, vouchers)).figures()
