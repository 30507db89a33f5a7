"""A world from its seed: everybody in it, and the busy time until enough was paid.

Faults strike meanwhile: most where a message passes, by chance; the rare ones by how much was paid.
How a world comes to rest and is counted stands in `simulate.rest`.
"""

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Final

from simulate.agents import FUNDS, Agent
from simulate.chain import Chain
from simulate.cheap import Disk
from simulate.faults import RARE, Faults
from simulate.loop import Loop
from simulate.network import Network
from simulate.oracle import Oracle
from simulate.shop import DELAY_SECONDS, Shop
from simulate.transfers import Transfers

TICK_SECONDS: Final = 1.0
STEPS_SECONDS: Final = (-3600.0, -30.0, 30.0, 3600.0)
"""By how much a clock jumps."""
IDLE_SECONDS: Final = DELAY_SECONDS + 300.0
"""A world in which nobody has paid for so long, although withdrawals have ended, is at its end."""


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
        self.wrong: list[tuple[Callable[[float], None], float]] = []
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
        """Until enough was paid, nobody may pay any more, or something went wrong."""
        self.populate()
        paid, paid_at = 0, 0.0
        while self.oracle.counts["payments"] < self.payments and not self.oracle.violations:
            await self.loop.pause(TICK_SECONDS)
            more = self.oracle.counts["payments"] - paid
            self._meddle(more)
            paid += more
            self.judge()
            paid_at = self.loop.time() if more else paid_at
            if self.loop.time() > paid_at + IDLE_SECONDS:
                break  # nobody may pay any more

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
        self.wrong.append((step, seconds))
        self.loop.call_later(600.0 * self.random.random(), self.set_right, step, seconds)

    def set_right(self, step: Callable[[float], None], seconds: float) -> None:
        """Unless somebody has done so before."""
        if (step, seconds) in self.wrong:
            self.wrong.remove((step, seconds))
            step(-seconds)

    def judge(self) -> None:
        """What must hold at every moment on chain."""
        contract, nobody = self.chain.contract, b""
        for agent in self.agents:
            out = FUNDS - contract.amount("token", agent.address)
            most = agent.total * (1 + agent.lost_files)  # what is spent stands in the file
            what = f"agent {agent.number} is {out} out of pocket, of {most}"
            self.oracle.expect(out <= most, nobody, what)
        self.oracle.expect(contract.money() == contract.minted, nobody, "money was made or lost")
