"""An agent that means to be served and to take its money back before the provider claims it.

The provider is whole: a gate that reads real payment headers, a store, a node on the devnet, and a
claimer with its watcher, all by one clock that travels with the chain's. A thief signs, is served,
initiates a withdrawal, goes on asking as long as anybody serves it, finalizes as soon as the
contract lets it, and perhaps comes back to the same channel. What it has in mind is drawn by lot
from a seed. In the end everything is claimed and settled, and what arrived is compared with what
was served.
"""

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Final

from msgspec.structs import replace

from helpers.chain import DOMAIN, NETWORK, Payer, rich_payer, send_as
from helpers.collecting import EAGER, LAZY, Bell, ChainClock
from helpers.shop import DELAY_SECONDS, PRICE, Shop, open_shop
from paywall.admission import Admission
from paywall.alarms import JobFailed, MoneyLost
from paywall.chain import contract
from paywall.chain.claimer import Claimer
from paywall.chain.devnet import Devnet
from paywall.protocol.channel import ChannelConfig, RefusedByChannel, Voucher, agreeable_total
from paywall.protocol.claims import ClaimPolicy
from paywall.protocol.errors import HoldLost, Refused, Reverted
from paywall.protocol.schemes.batch import sign_voucher
from paywall.protocol.x402 import show_address

TICK_SECONDS: Final = 60
WAYS: Final = ("at once", "some time", "outage")


@dataclass(frozen=True)
class Plot:
    """What a thief has in mind, and how lucky it is with the worker. Times are seconds from the
    first request."""

    way: str
    withdraws_at: int
    amount: int
    deposit: int
    outage: range
    policy: ClaimPolicy
    acts: int

    @classmethod
    def of(cls, seed: int) -> "Plot":
        luck = Random(seed)
        way = WAYS[seed % len(WAYS)]
        at = 0 if way == "at once" else luck.randrange(DELAY_SECONDS)
        outage = range(0)
        if way == "outage":
            begins = at + luck.randrange(-DELAY_SECONDS // 2, DELAY_SECONDS // 2)
            outage = range(begins, begins + DELAY_SECONDS // 2)
        deposit = luck.randrange(20, 120) * PRICE + 1  # something is left to withdraw in any case
        return cls(
            way=way,
            withdraws_at=at,
            amount=luck.choice((deposit, deposit, 1, deposit // 2)),
            deposit=deposit,
            outage=outage,
            policy=luck.choice((LAZY, EAGER, ClaimPolicy())),
            acts=luck.choice((1, 1, 2)),
        )


@dataclass
class Loot:
    """How a run ended. Amounts are atomic units."""

    seed: int
    way: str
    served: int = 0
    earned: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    @property
    def lost(self) -> int:
        return self.served - self.earned


class Thief:
    """One payer, one channel, and whatever headers it likes to send."""

    def __init__(self, devnet: Devnet, shop: Shop, luck: Random, loot: Loot) -> None:
        self._devnet = devnet
        self._shop = shop
        self._luck = luck
        self._loot = loot
        self._payer: Payer = rich_payer(devnet)
        devnet.fund_eth(show_address(self._payer.address), 10**17)
        self.config: ChannelConfig = replace(
            self._payer.config(shop.node.receiver_authorizer, shop.receiver),
            withdraw_delay_seconds=DELAY_SECONDS,
        )
        self._channel_id = self.config.channel_id(NETWORK)
        self._total = 0
        self._sent: list[str] = []
        self._slow: list[Admission] = []

    async def fill(self, amount: int) -> None:
        """Its first request, which brings a deposit along."""
        total = self._total + PRICE
        deposit = self._payer.deposit(self.config, amount)
        await self._send(self._shop.filling(self.config, self._sign(total), deposit), total)

    async def ask(self, times: int) -> None:
        for _ in range(times):
            total = self._total + PRICE
            await self._send(self._shop.header(self.config, self._sign(total)), total)

    async def replay(self) -> None:
        """One of its old payments once more."""
        if not self._sent:
            return
        try:
            admission = await self._shop.admit(self._luck.choice(self._sent))
        except Refused:
            self._loot.outcomes["replay refused"] += 1
        else:
            self._loot.problems.append("a payment bought something twice")
            await self._finish(admission)

    async def finish_slow_ones(self) -> None:
        """Requests whose handlers took until now."""
        slow, self._slow = self._slow, []
        for admission in slow:
            await self._finish(admission)

    async def withdraw(self, amount: int) -> None:
        """As much of that as the contract lets it ask for."""
        state = await self._shop.node.channel(self._channel_id)
        amount = min(amount, state.balance - state.claimed)
        await self._transact(contract.encode_initiate_withdraw(self.config, amount), "initiated")

    async def finalize(self) -> None:
        await self._transact(contract.encode_finalize_withdraw(self.config), "finalized")

    async def _transact(self, call: bytes, outcome: str) -> None:
        key = "0x" + self._payer.key.secret.hex()
        try:
            await send_as(self._devnet, key, call)
        except Reverted:
            self._loot.outcomes[f"not {outcome}"] += 1
        else:
            self._loot.outcomes[outcome] += 1

    def _sign(self, total: int) -> Voucher:
        return sign_voucher(self._payer.key, DOMAIN, self._channel_id, total)

    async def _send(self, header: str, total: int) -> None:
        try:
            admission = await self._shop.admit(header)
        except RefusedByChannel as refusal:
            self._total = agreeable_total(refusal.channel, PRICE)
            self._loot.outcomes[refusal.reason.name.lower()] += 1
        except Refused as refusal:
            self._loot.outcomes[refusal.reason.name.lower()] += 1
        else:
            self._total = total
            if self._luck.random() < 0.2:
                self._slow.append(admission)
                return
            if await self._finish(admission):
                self._sent.append(header)

    async def _finish(self, admission: Admission) -> bool:
        """The head of the answer leaves, if the charge is good."""
        with suppress(HoldLost):
            await self._shop.gate.charge(admission, PRICE)
            self._loot.served += PRICE
            self._loot.outcomes["served"] += 1
            return True
        self._loot.outcomes["too slow"] += 1
        return False


async def rob(devnet: Devnet, clock: ChainClock, seed: int) -> Loot:
    """One run, from the first request to the last unit."""
    plot, luck = Plot.of(seed), Random(f"moves {seed}")
    loot = Loot(seed, plot.way)
    bell = Bell()
    async with open_shop(devnet, clock) as shop:
        worker = Claimer(shop.store, shop.node, plot.policy, bell, clock=clock)
        thief = Thief(devnet, shop, luck, loot)
        for _ in range(plot.acts):
            await thief.fill(plot.deposit)
            await _act(shop, worker, thief, plot, luck)
        await worker.run_once()
        loot.earned = await shop.collect()
    for alarm in (*bell.rung(MoneyLost), *bell.rung(JobFailed)):
        loot.problems.append(alarm.text)
    if loot.lost:
        loot.problems.append(f"{loot.served} were served and {loot.earned} came home")
    if loot.outcomes["finalized"] != plot.acts:
        loot.problems.append("a withdrawal was never finalized, so not all was tried")
    loot.problems = [f"seed {seed} ({plot.way}): {problem}" for problem in loot.problems]
    return loot


async def _act(shop: Shop, worker: Claimer, thief: Thief, plot: Plot, luck: Random) -> None:
    """From a deposit to the end of the withdrawal, a minute at a time."""
    for now in range(0, plot.withdraws_at + DELAY_SECONDS + 2 * TICK_SECONDS, TICK_SECONDS):
        begins = plot.withdraws_at <= now < plot.withdraws_at + TICK_SECONDS
        moves = [_moves(thief, plot, luck, begins), _work(worker, now not in plot.outage)]
        luck.shuffle(moves)
        for move in moves:
            await move
        if now >= plot.withdraws_at + DELAY_SECONDS - TICK_SECONDS:
            await thief.finalize()
        shop.clock.travel(TICK_SECONDS)


async def _moves(thief: Thief, plot: Plot, luck: Random, begins: bool) -> None:
    await thief.finish_slow_ones()
    before, after = luck.sample(range(6), 2) if luck.random() < 0.8 else (0, 40)
    await thief.ask(before)
    if begins:
        await thief.withdraw(plot.amount)
    await thief.ask(after)
    if luck.random() < 0.3:
        await thief.replay()


async def _work(worker: Claimer, is_up: bool) -> None:
    if is_up:
        await worker.run_once()
