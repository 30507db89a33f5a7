"""A world from its seed: built, run until enough was paid, brought to rest, and counted.

    seed -> faults, providers, agents -> payments under faults -> calm -> everybody is served once
    more -> all is claimed and settled -> the books of store, chain and oracle are the same

A world is small (some thousands of payments) and whole: a long run is many of them, each with its
own seed, so that a failure is replayed in seconds.
"""

import gc
import logging
import secrets
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, Final

from paywall.chain.claimer import claim, settle
from paywall.protocol.channel import Channel
from paywall.protocol.claims import Terms
from paywall.protocol.limits import REFUND_HOLD_SECONDS
from simulate.agents import FUNDS, Agent
from simulate.chain import EPOCH, Chain, ChainLink
from simulate.cheap import Disk, cheaply
from simulate.contract import ASSET
from simulate.faults import RARE, Faults
from simulate.loop import Loop
from simulate.network import Network
from simulate.oracle import Oracle
from simulate.shop import DELAY_SECONDS, Shop
from simulate.store import StoreLink
from simulate.transfers import Transfers

TICK_SECONDS: Final = 1.0
STEPS_SECONDS: Final = (-3600.0, -30.0, 30.0, 3600.0)
"""By how much a clock jumps."""
IDLE_SECONDS: Final = DELAY_SECONDS + 300.0
"""A world in which nobody has paid for so long, although withdrawals have ended, is at its end."""
SERVED: Final = ("200", "OverBudget", "429")
"""Also who has spent what it may, or has made as many deposits as a provider pays for."""
REAL_SHARE: Final = 0.05
"""In so many worlds every signature is one of the curve, and every wallet has its SQLite file."""
_SHM: Final = Path("/dev/shm")


@dataclass
class Result:
    """What one world came to. `violations` should be empty."""

    seed: str
    payments: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    outcomes: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    digest: int = 0
    steps: int = 0
    virtual_seconds: float = 0.0
    real: bool = False


class World:
    """Everybody and everything that one seed makes."""

    def __init__(
        self, seed: str, payments: int, folder: Path, disks: dict[str, Disk], loop: Loop
    ) -> None:
        self.seed = seed
        self.loop = loop
        self.payments = payments
        self.random = Random(f"{seed}/world")
        self.oracle = Oracle(loop.time)
        self.faults = Faults(Random(f"{seed}/faults"))
        self.chain = Chain(loop, self.faults, Random(f"{seed}/chain"))
        self.transfers = Transfers(self.oracle, self.chain.contract)
        self.chain.on_transfer = self.transfers.sent
        around = loop, self.faults, self.oracle, self.transfers
        self.network = Network(*around, Random(f"{seed}/network"))
        self._folder, self._disks = folder, disks
        self._wrong: list[tuple[Callable[[float], None], float]] = []
        self.shops: list[Shop] = []
        self.agents: list[Agent] = []

    def populate(self) -> None:
        self.chain.start()
        for number in range(self.random.randrange(1, 3)):
            around = self.loop, self.chain, self.network, self.oracle, self.faults
            shop = Shop(f"shop-{number}.example", *around, Random(f"{self.seed}/shop-{number}"))
            self.shops.append(shop)
        for number in range(self.random.randrange(2, 9)):
            mind = Random(f"{self.seed}/agent-{number}")
            parts = self.loop, self.chain, self.network, self.shops, self.oracle, self.faults
            self.agents.append(Agent(number, *parts, mind, self._folder, self._disks))

    # -- The busy time ---------------------------------------------------------------------------

    async def run(self) -> None:
        self.populate()
        paid, paid_at = 0, 0.0
        while self.oracle.counts["payments"] < self.payments and not self.oracle.violations:
            await self.loop.pause(TICK_SECONDS)
            more = self.oracle.counts["payments"] - paid
            self._meddle(more)
            paid += more
            self._judge()
            paid_at = self.loop.time() if more else paid_at
            if self.loop.time() > paid_at + IDLE_SECONDS:
                break  # nobody may pay any more
        if not self.oracle.violations:
            await self._rest()

    def _meddle(self, payments: int) -> None:
        """The rare faults, by how much was paid in the meantime."""
        for kind in RARE:
            if kind.endswith("killed"):
                continue
            if self.random.random() < self.faults.rates[kind] * payments / 1000:
                self._strike(kind)

    def _strike(self, kind: str) -> None:
        shop, agent = self.random.choice(self.shops), self.random.choice(self.agents)
        if kind == "withdrawal":
            configs = agent.configs() if agent.process.alive else []
            if configs:
                agent.withdraw(self.random.choice(configs))
            return
        self.faults.note(kind)
        if kind == "store fails over":
            shop.server.fail_over(self.random.choice((0.05, 0.5, 2.0)))
        elif kind == "store flushed":
            shop.server.flush()
        elif kind == "store outage":
            shop.server.down_until = self.loop.time() + 10.0 * self.random.random()
        elif kind == "store clock steps":
            self._for_a_while(shop.step, self.random.choice(STEPS_SECONDS))
        elif kind == "wallet clock steps":
            self._for_a_while(agent.step, self.random.choice(STEPS_SECONDS))
        elif kind == "refund" and agent.process.alive:
            agent.process.spawn(agent.refund(shop.host))

    def _for_a_while(self, step: Callable[[float], None], seconds: float) -> None:
        """A clock is wrong, until somebody sets it right."""
        step(seconds)
        self._wrong.append((step, seconds))
        self.loop.call_later(600.0 * self.random.random(), self._set_right, step, seconds)

    def _set_right(self, step: Callable[[float], None], seconds: float) -> None:
        if (step, seconds) in self._wrong:
            self._wrong.remove((step, seconds))
            step(-seconds)

    def _judge(self) -> None:
        """What must hold at every moment on chain."""
        contract, nobody = self.chain.contract, b""
        for agent in self.agents:
            out = FUNDS - contract.amount("token", agent.address)
            most = agent.total * (1 + agent.lost_files)  # what is spent stands in the file
            what = f"agent {agent.number} is {out} out of pocket, of {most}"
            self.oracle.expect(out <= most, nobody, what)
        self.oracle.expect(contract.money() == contract.minted, nobody, "money was made or lost")

    # -- Rest ------------------------------------------------------------------------------------

    async def _rest(self) -> None:
        """No more faults. What is under way ends, what is owed is claimed, and all is counted."""
        self.faults.calm()
        for wrong in list(self._wrong):
            self._set_right(*wrong)
        for agent in self.agents:
            agent.resting = True
            agent.process.steps = 0
        for shop in self.shops:
            for worker in shop.workers:
                worker.process.steps = 0
        await self.loop.pause(100.0)
        await self._what_was_paid()
        await self.loop.pause(self._until_quiet())
        await self._everybody_once_more()
        await self.loop.pause(100.0 + max(shop.patience_seconds for shop in self.shops))
        self._judge()
        for shop in self.shops:
            await self._count(shop)
        self.transfers.count()
        self._count_streams()

    async def _what_was_paid(self) -> None:
        """A transfer that was made buys its answer, at the third try at most."""
        for transfer in self.transfers.unanswered(EPOCH + int(self.loop.time())):
            for _ in range(3):
                status = await self.network.again(transfer)
                if transfer.runs:
                    break
                await self.loop.pause(10.0)
            self.transfers.asked_again(transfer, status)

    def _until_quiet(self) -> float:
        """Until withdrawals have ended, and holds, leases and refunds that nobody finishes have

        expired: what a worker took while the store's clock was ahead, when the true time is there.
        """
        ends = [agent.withdrawn_at + DELAY_SECONDS for agent in self.agents]
        ahead = max(shop.ahead_seconds for shop in self.shops)
        left = max(0.0, *(end - self.loop.time() for end in ends))
        return 100.0 + max(REFUND_HOLD_SECONDS + ahead, left)

    async def _everybody_once_more(self) -> None:
        """Nobody may be left stuck: whoever may still spend is served, at the third try at most."""
        for agent in self.agents:
            for shop in self.shops:
                outcome = ""
                for _ in range(3):
                    if outcome not in SERVED:
                        outcome = await agent.process.spawn(
                            agent.buy(f"https://{shop.host}/item/0")
                        )
                        await self.loop.pause(10.0)
                if outcome not in SERVED:
                    what = f"agent {agent.number} is not served at {shop.host} any more: {outcome}"
                    self.oracle.violated(b"", what)

    async def _count(self, shop: Shop) -> None:
        store = StoreLink(shop.server, self.faults)
        clock = lambda: EPOCH + self.loop.time()  # noqa: E731
        link = ChainLink(self.chain, self.faults, shop.authorizer, clock)
        terms = shop.policy.of(ASSET)
        for channel in await store.channels():
            left = channel.unclaimed - self._withdrawn(shop, channel)
            late = left > _dust(terms, self.faults)
            self.oracle.expect(not late, channel.channel_id, f"the claimer leaves {left} units")
        await claim(store, link)
        await settle(store, link)
        for channel in await store.channels():
            book, channel_id = self.oracle.book(channel.channel_id), channel.channel_id
            balance, claimed = self.chain.contract.pair("channel", channel_id)
            self.oracle.expect(channel.charged == book.charged, channel_id, "the books differ")
            what = f"{claimed} was claimed of {channel.charged}, and {balance} is there"
            lost = self._withdrawn(shop, channel)
            self.oracle.counts["units withdrawn before a lease ended"] += lost
            self.oracle.expect(claimed == channel.charged - lost, channel_id, what)
            self.oracle.settled(channel_id)
        earned = self.chain.contract.amount("token", shop.receiver)
        earned -= self.chain.contract.amount("exact", shop.receiver)
        pot = self.chain.contract.pair("pot", shop.receiver)
        self.oracle.expect(pot == (earned, earned), b"", "what was claimed was not settled")

    def _withdrawn(self, shop: Shop, channel: Channel) -> int:
        """What a payer has withdrawn before it was claimed. That may be where a lease lasted too

        long, as `paywall.stores.leases` says: its worker died, and the store's clock stepped back.
        """
        balance, _ = self.chain.contract.pair("channel", channel.channel_id)
        excused = shop.fell_seconds >= DELAY_SECONDS
        return max(0, channel.charged - balance) if excused else 0

    def _count_streams(self) -> None:
        for run in self.oracle.streams:
            owed = self.oracle.owed(run)
            if owed:
                self.oracle.counts["streams not charged"] += 1
                self.oracle.counts["units of streams not charged"] += owed


def _dust(terms: Terms, faults: Faults) -> int:
    """What is not worth a row of a claim, at the highest price of gas in calm."""
    return max(terms.min_amount, terms.fee(5 * 39_000 * 10**6) * 10)


@contextmanager
def seeded(seed: str) -> Iterator[None]:
    """All that asks the operating system for randomness gets it from the seed."""
    real = secrets._sysrand  # type: ignore[attr-defined]
    secrets._sysrand = Random(f"{seed}/secrets")  # type: ignore[attr-defined]
    try:
        yield
    finally:
        secrets._sysrand = real  # type: ignore[attr-defined]


@contextmanager
def _uncollected() -> Iterator[None]:
    """A world is small and over soon: its garbage is collected with it."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class _Alarm(logging.Handler):
    """Tells the oracle of every exception that the product did not expect."""

    def __init__(self, oracle: Oracle) -> None:
        super().__init__()
        self._oracle = oracle

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            self._oracle.violated(b"", f"unexpected in {record.name}: {error!r}")


@contextmanager
def _listening(oracle: Oracle) -> Iterator[None]:
    log, alarm = logging.getLogger("paywall"), _Alarm(oracle)
    kept = log.propagate, log.level
    log.propagate = False
    log.setLevel(logging.ERROR)
    log.addHandler(alarm)
    try:
        yield
    finally:
        log.removeHandler(alarm)
        log.propagate, log.level = kept


def simulate(seed: str, payments: int, real: bool | None = None) -> Result:
    """One world. The same seed and number make the same result, to the last event.

    `real`: with the curve under its signatures and files under its wallets; None: as is drawn.
    """
    where = str(_SHM) if _SHM.is_dir() else None
    loop = Loop()
    if real is None:
        real = Random(f"{seed}/real").random() < REAL_SHARE
    disks: dict[str, Disk] = {}
    with (
        TemporaryDirectory(prefix="paywall-simulate-", dir=where) as name,
        seeded(seed),
        nullcontext() if real else cheaply(seed.encode()[:64], disks),
        _uncollected(),
    ):
        world = World(seed, payments, Path(name), disks, loop)
        loop.set_exception_handler(lambda _, told: _unexpected(world.oracle, told))
        with _listening(world.oracle):
            try:
                loop.run_until_complete(world.run())
            finally:
                world.oracle.close()
                loop.bury()
                for agent in world.agents:
                    agent.wallet.close()
    return _result(world, real)


def _unexpected(oracle: Oracle, told: dict[str, Any]) -> None:
    error = told.get("exception")
    if isinstance(error, ConnectionError):
        return  # the app's own, which the server logs
    where = traceback.format_exception(error)[-6:] if error else []
    oracle.violated(b"", f"unexpected: {told.get('message')}: {error!r} {''.join(where)}")


def _result(world: World, real: bool) -> Result:
    oracle = world.oracle
    outcomes: dict[str, int] = {}
    for agent in world.agents:
        for outcome, times in agent.outcomes.items():
            outcomes[outcome] = outcomes.get(outcome, 0) + times
    fault = oracle.at_fault
    trace = oracle.books[fault].trace if fault is not None else ()
    return Result(
        seed=world.seed,
        payments=oracle.counts["payments"],
        counts=dict(oracle.counts),
        faults=dict(world.faults.struck),
        outcomes=outcomes,
        violations=oracle.violations,
        trace=[" ".join(map(str, event)) for event in trace],
        digest=oracle.digest,
        steps=world.loop.steps,
        virtual_seconds=round(world.loop.time(), 1),
        real=real,
    )


__all__ = ["Result", "World", "simulate"]
