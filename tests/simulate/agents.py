"""Agents: a wallet, a few tasks that pay with it, and an owner who meddles with its channels.

What pays is the product's own transport over the simulated wire. An agent's process is killed like
a worker's and comes back with the same wallet file, with one that lacks the last rows after a power
cut, or with an empty one: then it looks for its channels on chain, or lets their providers correct
it. Its owner asks for refunds, and takes deposits
back on chain while the agent goes on spending them: that is the cheat that claims must outrun.
"""

import asyncio
from collections import Counter
from contextlib import suppress
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Final

import httpx
from coincurve import PrivateKey
from msgspec import Raw

from paywall.client import AsyncTransport
from paywall.protocol import eip712
from paywall.protocol.channel import ChannelConfig
from paywall.protocol.errors import (
    AgentError,
    ChainUnavailable,
    PaymentRefused,
    ProviderMisbehaved,
    Reason,
)
from paywall.protocol.schemes.batch import channel_of
from paywall.recovery import recover
from paywall.wallet import Wallet
from simulate.chain import EPOCH, Chain
from simulate.cheap import Disk
from simulate.contract import ASSET, NETWORK
from simulate.faults import Faults
from simulate.links import OwnersLink
from simulate.loop import Loop, Process
from simulate.network import Network, Wire
from simulate.oracle import Oracle
from simulate.shop import DELAY_SECONDS, Shop

GOAL: Final[ContextVar[int]] = ContextVar("goal", default=0)
_parsed: Final = lru_cache(maxsize=None)(httpx.URL)
FUNDS: Final = 100_000_000
RESTART_SECONDS: Final = 5.0
BACK_OFF_SECONDS: Final = {
    "OverBudget": 60.0,
    "503": 2.0,
    "ConnectError": 0.5,
    f"refused: {Reason.CHANNEL_BUSY.code}": 10.0,
    f"refused: {Reason.EXACT_EXPIRED.code}": 10.0,
    f"refused: {Reason.DEPOSIT_EXPIRED.code}": 10.0,
}
"""How long an agent waits after what it cannot help."""

TOTALS: Final = (Reason.CUMULATIVE_MISMATCH.code, Reason.BELOW_CLAIMED.code)
"""Refusals that two honest parties come to terms over."""

FINISHED_AFTER_SECONDS: Final = (30.0, 150.0, 450.0)
"""Who withdraws looks again: a reorganisation may drop the end of a withdrawal, and then nobody is
served in a channel that is half withdrawn."""


async def buy(
    transport: AsyncTransport,
    oracle: Oracle,
    url: str,
    patience_seconds: float | None = None,
    is_behind: bool = False,
) -> str:
    """One request, and in a word what became of it. An agent `is_behind` whose file lacks rows."""
    try:
        async with asyncio.timeout(patience_seconds):
            answer = await transport.handle_async_request(httpx.Request("GET", _parsed(url)))
            await answer.aread()
        return str(answer.status_code)
    except TimeoutError:
        return "hung up"
    except ProviderMisbehaved as error:
        oracle.violated(b"", f"an honest provider is blamed: {error}")
        return "blamed"
    except PaymentRefused as error:
        if error.reason in TOTALS and not is_behind:
            oracle.unpaid(GOAL.get(), error.reason)
        return f"refused: {error.reason}"
    except (AgentError, httpx.TransportError) as error:
        return type(error).__name__


class Agent:
    """One payer with one key; `total` is its budget in units."""

    def __init__(
        self,
        number: int,
        loop: Loop,
        chain: Chain,
        network: Network,
        shops: list[Shop],
        oracle: Oracle,
        faults: Faults,
        random: Random,
        folder: Path,
        disks: dict[str, Disk],
    ) -> None:
        self.loop, self.chain, self.network = loop, chain, network
        self.shops, self.oracle, self.faults, self.random = shops, oracle, faults, random
        self.key = PrivateKey(random.randbytes(32))
        self.address = eip712.address_of(self.key)
        self.total = random.choice((50_000, 400_000, *(20_000_000,) * 6))
        self.deposit = random.choice(("$0.02", "$0.05", "$1", "$5"))
        self.tasks = random.choice((1, 1, 4, 16))
        self.lanes = random.choice((1, 1, 2))
        self._expect_more = random.choice((True, True, False))
        self.outcomes: Counter[str] = Counter()
        self.stepped = 0.0
        self.withdrawn_at = 0.0
        self.resting = False
        self.number = number
        self.lost_files = 0
        self.is_behind = False
        """Whether its file lacks rows that it once had."""
        self._folder, self._disks = folder, disks
        self._pause = random.choice((0.0, 0.0, 0.2, 2.0))
        chain.contract.fund(self.address, FUNDS)
        self.begin()

    def begin(self) -> None:
        """A process with the wallet's file, as after a start of the machine."""
        self.process = Process(f"agent-{self.number}", self._life())
        self.wallet = Wallet(
            self.key.secret,
            per_request="$0.005",
            total=f"${self.total / 10**6:.6f}",
            deposit=self.deposit,
            lanes=self.lanes,
            expect_more=self._expect_more,
            assets=[ASSET],
            state=self._file,
            clock=lambda: EPOCH + self.loop.time() + self.stepped,
        )
        wallet = self.wallet
        self.process.on_death[self] = lambda: self._died(wallet)
        self.transport = AsyncTransport(wallet, Wire(self.network, self.process, GOAL.get))
        self.process.spawn(self._start())

    @property
    def _file(self) -> Path:
        return self._folder / f"wallet-{self.number}-{self.lost_files}.db"

    async def _start(self) -> None:
        """With a file that was lost, or lacks rows, half of the agents ask the chain first."""
        if self.is_behind and self.random.random() < 0.5:
            await self.recover()
        for _ in range(self.tasks):
            self.process.spawn(self._spend())

    def step(self, seconds: float) -> None:
        """Steps the clock of the wallet."""
        self.stepped += seconds

    def _life(self) -> int:
        rate = self.faults.rates["agent killed"]
        return 1 + int(self.random.expovariate(rate / 12_000)) if rate else 0

    def _died(self, wallet: Wallet) -> None:
        self.faults.note("agent killed")
        wallet.close()
        disk = self._disks.get(str(self._file))
        if self.faults.strikes("wallet file lost"):
            self.lost_files += 1
            self.is_behind = True
        elif disk and self.faults.strikes("power cut"):
            self.is_behind |= disk.cut_power(self.random) > 0
        self.loop.call_later(RESTART_SECONDS * self.random.random(), self.begin)

    # -- Spending --------------------------------------------------------------------------------

    async def _spend(self) -> None:
        while not self.resting:
            if self._pause:
                await self.loop.pause(self._pause * self.random.random())
            shop = self.random.choice(self.shops)
            route = self.random.choice(shop.routes)
            outcome = await self.buy(f"https://{shop.host}/{route}/{self.random.randrange(5)}")
            await self.loop.pause(BACK_OFF_SECONDS.get(outcome, 0.0))

    async def buy(self, url: str) -> str:
        """One request, and in a word what became of it."""
        GOAL.set(self.oracle.next_goal())
        patience = self.random.random() if self.faults.strikes("client hangs up") else None
        outcome = await buy(self.transport, self.oracle, url, patience, self.is_behind)
        self.outcomes[outcome] += 1
        return outcome

    async def recover(self) -> None:
        """Looks for its channels on chain."""
        origins = self.random.choice(((), [f"https://{shop.host}:443" for shop in self.shops]))
        with suppress(ChainUnavailable):
            await recover(self.wallet, OwnersLink(self.chain, self.faults), origins)

    # -- The owner -------------------------------------------------------------------------------

    async def refund(self, host: str) -> None:
        """Asks for what is left, in the middle of everything."""
        amount = self.random.choice((None, None, 1_000))
        request = httpx.Request("GET", f"https://{host}/item/0")
        try:
            with self.oracle.totals.asked_back(self.wallet):
                lane = self.random.randrange(self.lanes)
                await self.transport.refund(request, amount, lane)
            outcome = "refunded"
        except ProviderMisbehaved as error:
            self.oracle.violated(b"", f"an honest provider is blamed: {error}")
            outcome = "blamed"
        except (AgentError, httpx.TransportError) as error:
            outcome = f"refund: {type(error).__name__}"
        self.outcomes[outcome] += 1

    def configs(self) -> list[ChannelConfig]:
        """Every channel that the wallet knows."""
        rows = self.wallet.file.accounts()
        return [channel_of(Raw(account.config), NETWORK)[0] for account in rows]

    def withdraw(self, config: ChannelConfig) -> None:
        """Begins to take a deposit back, and does so when the delay is over."""
        contract, channel_id = self.chain.contract, config.channel_id(NETWORK)
        balance, claimed = contract.pair("channel", channel_id)
        if balance <= claimed:
            return
        self.faults.note("withdrawal")
        self.oracle.note(channel_id, "withdrawal begins", balance - claimed)
        amount, self.withdrawn_at = balance - claimed, self.loop.time()
        begun = self.chain.sign(lambda c: c.begin_withdrawal(config, amount))
        self.chain.send(begun)

        def finish() -> None:
            if contract.pair("withdrawal", channel_id)[1]:
                self.oracle.note(channel_id, "withdrawal ends")
                self.chain.send(self.chain.sign(lambda c: c.end_withdrawal(config)))

        for seconds in FINISHED_AFTER_SECONDS:
            self.loop.call_later(DELAY_SECONDS + seconds, finish)
