"""Many payments in flight on one channel, and every step of every party in any order.

The provider, the agent and the oracle are those of the simulator. But nothing happens by itself: a
message waits until it is drawn, a handler until it is told how it ends, and time stands until it is
moved. The window and the number of payments in flight are small, so that what takes hundreds of
payments in the world takes ten here: a copy that comes after more others than the window remembers,
a hold that runs out under a payment that was killed, a receipt that overtakes a refusal. Two
processes share the agent's wallet. Nobody lies, so whatever `Oracle` sees is a mistake.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

import httpx
from coincurve import PrivateKey
from helpers.provider import Ledger

from paywall import exchange, offers
from paywall.asgi import Paywall
from paywall.client import AsyncTransport
from paywall.protocol import channel, eip712, window
from paywall.protocol.channel import Channel
from paywall.protocol.errors import AgentError
from paywall.protocol.limits import HOLD_SECONDS
from paywall.protocol.schemes import batch
from paywall.protocol.x402 import show_address
from paywall.wallet import Wallet
from paywall.walletrows import Account
from simulate.agents import GOAL, buy
from simulate.calls import Call, Worker
from simulate.chain import EPOCH
from simulate.cheap import Disk, cheaply
from simulate.contract import ASSET
from simulate.crowd_rest import MOMENT_SECONDS, rest
from simulate.faults import Faults
from simulate.loop import Loop, Process
from simulate.oracle import Oracle
from simulate.post import HOST, Kitchen, Line, Post
from simulate.run import listening, seeded
from simulate.shop import PRICES
from simulate.store import Server, StoreLink

WINDOW: Final = 8
IN_FLIGHT: Final = 4
PLACES: Final = ("item", "item", "item", "dear", "stream")
STEPS: Final = 600
CROWD: Final = 10
"""How many requests are under way at most: some wait for their turn."""


@dataclass
class Payer:
    """One process with the wallet that all of them share."""

    wallet: Wallet
    process: Process
    transport: AsyncTransport
    tasks: list[asyncio.Task[str]] = field(default_factory=list)


class Crowd:
    """One channel and everybody around it. `random` draws what happens."""

    def __init__(self, loop: Loop, random: Random, disks: dict[str, Disk]) -> None:
        self.loop, self.random = loop, random
        self.oracle = Oracle(loop.time)
        self.faults = Faults(random)
        strangers, forgets = random.random() < 0.3, random.random() < 0.3
        self.faults.only(
            {
                "connection refused": 0.01,
                "request duplicated": random.choice((0.0, 0.05)),
                "gateway error": random.choice((0.0, 0.02)),
                "replayed by a stranger": 0.03 * strangers,
            }
        )
        self.post = Post(loop, self.faults, self.oracle, random)
        self.server = Server(HOST, self.oracle, loop, self.now)
        self.kitchen = Kitchen(loop, self.oracle)
        self.chain = Ledger(self.now)
        self.workers = self.post.workers[HOST] = []
        self.payers: list[Payer] = []
        self.outcomes: Counter[str] = Counter()
        self.steps: dict[Callable[[], None], float] = {
            self.ask: 6,
            self.deliver: 14,
            self.end: 7,
            self.lose: 0.5,
            self.hang_up: 0.3,
            self.kill_worker: random.choice((0.0, 0.1, 0.3)),
            self.kill_payer: random.choice((0.0, 0.05)),
            self.refund: random.choice((0.0, 0.3)),
            self.fail_over: 0.1 * forgets,
            self.server.flush: 0.02 * forgets,
        }

    def now(self) -> float:
        return EPOCH + self.loop.time()

    # -- Who is there ----------------------------------------------------------------------------

    def hire(self) -> None:
        process = Process(HOST)
        paywall = Paywall(
            self.kitchen,
            prices=PRICES,
            pay_to=show_address(_address(2)),
            asset=ASSET,
            chain=self.chain,
            store=StoreLink(self.server, self.faults),
            min_deposit="$0.02",
            withdraw_delay_seconds=86_400,
            schemes=("batch-settlement",),
            collect=None,
            clock=self.now,
        )
        self.workers.append(Worker(process, paywall))
        process.spawn(paywall.open())

    def enter(self) -> None:
        wallet = Wallet(
            _KEY, total="$1000", deposit="$5", assets=[ASSET], state="one", clock=self.now
        )
        process = Process("payer")
        wire = Line(self.post, process, GOAL.get)
        self.payers.append(Payer(wallet, process, AsyncTransport(wallet, wire)))

    # -- What may happen -------------------------------------------------------------------------

    async def live(self, steps: int) -> None:
        for _ in range(2):
            self.hire()
            self.enter()
        draws, weights = list(self.steps), list(self.steps.values())
        for _ in range(steps):
            if self.oracle.violations:
                return
            await self.loop.pause(self._while())
            self.random.choices(draws, weights)[0]()
            await self.loop.pause(MOMENT_SECONDS)
            self.judge()

    def _while(self) -> float:
        """Mostly a moment; at times so long that a client looks again, or that a hold runs out."""
        if self.random.random() < 0.98:
            return self.random.choice((0.0, 0.0, 0.01))
        return self.random.choice((0.3, 2.0, 5.0, 5.0, HOLD_SECONDS + 1.0))

    def ask(self) -> None:
        payer = self.random.choice(self.payers)
        payer.tasks = [task for task in payer.tasks if not task.done()]
        if sum(len(payer.tasks) for payer in self.payers) < CROWD:
            self.begin(payer, self.random.choice(PLACES))

    def begin(self, payer: Payer, place: str) -> asyncio.Task[str]:
        GOAL.set(self.oracle.next_goal())
        task = payer.process.spawn(self._buy(payer, place, GOAL.get()))
        payer.tasks.append(task)
        return task

    async def _buy(self, payer: Payer, place: str, goal: int) -> str:
        GOAL.set(goal)
        outcome = await buy(payer.transport, self.oracle, f"https://{HOST}/{place}/1")
        self.outcomes[outcome] += 1
        return outcome

    def refund(self) -> None:
        """The owner asks for what is left, in the middle of everything."""
        payer = self.random.choice(self.payers)
        payer.process.spawn(self._refund(payer, self.random.choice((None, 1_000))))

    async def _refund(self, payer: Payer, amount: int | None) -> None:
        with (
            self.oracle.totals.asked_back(payer.wallet),
            suppress(AgentError, httpx.TransportError),
        ):
            request = httpx.Request("GET", f"https://{HOST}/item/1")
            await payer.transport.refund(request, amount, lane=0)
            self.outcomes["refunded"] += 1

    def deliver(self) -> None:
        if self.post.mail:
            self.post.deliver(self.random.randrange(len(self.post.mail)))

    def lose(self) -> None:
        """A connection breaks: its client hears so, and its server nothing."""
        sent = [
            n for n, (_, told) in enumerate(self.post.mail) if told and isinstance(told[0], Call)
        ]
        if sent:
            _, (call, _) = self.post.mail.pop(self.random.choice(sent))
            call.give_up(httpx.ReadError("connection reset"))

    def end(self) -> None:
        waiting = self.kitchen.waiting
        if waiting:
            told = waiting.pop(self.random.randrange(len(waiting)))
            told.set_result(
                self.random.choice(("whole",) * 12 + ("less", "free", "fails", "fails"))
            )

    def hang_up(self) -> None:
        tasks = [task for payer in self.payers for task in payer.tasks if not task.done()]
        if tasks:
            self.random.choice(tasks).cancel()

    def kill_worker(self) -> None:
        worker = self.random.choice(self.workers)
        self.workers.remove(worker)
        self.loop.kill(worker.process)
        self.hire()

    def kill_payer(self) -> None:
        payer = self.payers.pop(self.random.randrange(len(self.payers)))
        self.loop.kill(payer.process)
        self.enter()

    def fail_over(self) -> None:
        self.server.fail_over(self.random.choice((0.01, 0.5, 2.0)))

    def heard(self, told: dict[str, Any]) -> None:
        """What nobody has caught. Connections may break when nobody waits for them any more."""
        error = told.get("exception")
        if not isinstance(error, httpx.TransportError):
            self.oracle.violated(b"", f"unexpected: {told.get('message')}: {error!r}")

    # -- What must hold --------------------------------------------------------------------------

    def account(self) -> Account | None:
        return next(iter(self.payers[0].wallet.file.accounts()), None)

    def record(self) -> Channel | None:
        return next(iter(self.server.memory._records.values()), None)

    def judge(self) -> None:
        account = self.account()
        if account is None:
            return
        channel_id, seen = account.channel_id, self.oracle.book(account.channel_id).signed
        what = f"{seen} was signed, and the books say {account.signed}"
        self.oracle.expect(seen <= account.signed, channel_id, what)


_KEY: Final = bytes([0x71]) * 32


def _address(number: int) -> Any:
    return eip712.address_of(PrivateKey(bytes([number]) * 32))


def crowd(seed: str, steps: int = STEPS) -> Crowd:
    """One world, from its seed to its end."""
    loop, disks = Loop(), dict[str, Disk]()
    with ExitStack() as stack:
        stack.enter_context(seeded(seed))
        stack.enter_context(cheaply(seed.encode()[:64], disks))
        for owner, name, small in (
            (window, "WINDOW_VOUCHERS", WINDOW),
            (channel, "WINDOW_VOUCHERS", WINDOW),
            (offers, "MAX_HOLDS", IN_FLIGHT),
            (batch, "MAX_HOLDS", IN_FLIGHT),
        ):
            stack.callback(setattr, owner, name, vars(owner)[name])
            setattr(owner, name, small)
        world = Crowd(loop, Random(seed), disks)
        loop.set_exception_handler(lambda _, told: world.heard(told))
        stack.enter_context(listening(world.oracle))
        try:
            loop.run_until_complete(_life(world, steps))
        finally:
            world.oracle.close()
            exchange._PENDING.clear()
            loop.bury()
    return world


async def _life(world: Crowd, steps: int) -> None:
    await world.live(steps)
    if not world.oracle.violations:
        await rest(world)
