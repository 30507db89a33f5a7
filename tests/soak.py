"""The soak: agents without number against killed workers, and not a unit may be missing.

    python -m soak [--requests 50000] [--agents 64] [--workers 4] [--store redis|sqlite] [--json]

Real uvicorn workers share a real store. Our own clients pay them, through handlers that fail,
connections that are cut, users who hang up, and workers that are killed and replaced. In the end
`helpers.soak_audit` compares three books, and the store's ledger is reconciled with its channels.
The chain is a double: this is about the store.

Progress goes to stderr; the last line on stdout is one JSON object. The exit status is 1 when
anything is off.
"""

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from helpers.channels import NETWORK
from helpers.fleet import Fleet
from helpers.long_run import shown
from helpers.redis_server import running
from helpers.soak_agents import Agent, Sent
from helpers.soak_audit import Audit, audit
from helpers.worker_app import PRICE

from paywall import open_store
from paywall.ledger import Sums, reconcile
from paywall.stores import Store

HOLD_SECONDS: Final = 3
"""So short that the client's own resending outlives the hold of a worker that was killed."""
ANSWER_SECONDS: Final = 3600
"""So long that the audit finds what is remembered of the first payment too."""
REQUESTS_PER_KILL: Final = 6_000
QUIET_SECONDS: Final = 30
BENIGN: Final = (
    "got",
    "500",
    "hung up",
    "lost",
    "ConnectError",
    "ReadError",
    "RemoteProtocolError",
)
"""What may become of a call while connections are cut and workers killed: a worker that dies
refuses who was connecting to it."""


@dataclass(frozen=True)
class Plan:
    requests: int = 50_000
    agents: int = 64
    workers: int = 4
    in_flight: int = 16
    store: str = "redis"
    seed: int = 1
    kills: int | None = None

    def storm_calls(self, agent: int) -> int:
        """Of one agent; a first and a last call are made in peace."""
        return self.requests // self.agents - 2 + (agent < self.requests % self.agents)

    @property
    def handler_seconds(self) -> float:
        """So long that most of what is in flight is in a handler, and not in our own clients."""
        return self.agents * self.in_flight / 800

    @property
    def deaths(self) -> int:
        return self.requests // REQUESTS_PER_KILL + 1 if self.kills is None else self.kills

    @property
    def deposit(self) -> int:
        """Dollars that pay for all that an agent can ever promise."""
        return 1 + 2 * PRICE * self.requests // self.agents // 1_000_000


class Soak:
    """One run. `step` is called for each call that is over."""

    def __init__(self, plan: Plan, fleet: Fleet, store: Store, step: Callable[[], None]) -> None:
        self._plan = plan
        self._fleet = fleet
        self._store = store
        self._step = step
        self._done = 0
        self._luck = random.Random(plan.seed)
        self._agents = [
            Agent(fleet.url, number, fleet.folder, plan.seed, plan.deposit)
            for number in range(plan.agents)
        ]
        self._milestone = asyncio.Event()

    async def run(self) -> dict[str, Any]:
        try:
            return await self._run()
        finally:
            for agent in self._agents:
                await agent.close()

    async def _run(self) -> dict[str, Any]:
        await asyncio.gather(*(self._first(agent) for agent in self._agents))
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            reaper = group.create_task(self._kill_and_replace())
            for agent in self._agents:
                calls = self._plan.storm_calls(agent.number)
                group.create_task(agent.storm(calls, self._plan.in_flight, self._count))
        seconds = time.monotonic() - began
        assert reaper.done()
        problems = await self._quiet()
        busy = await self._busy()
        found = await audit(
            self._store, self._fleet.url, NETWORK, self._payments(), self._fleet.events()
        )
        found.problems += problems
        found.expect(not busy, f"{busy} channels are busy")
        books = await reconcile(self._store)
        found.problems += [f"{one.where}: {one.what}: {one.amount}" for one in books.differences]
        found.expect(
            books.charged == found.charged,
            f"{books.charged} in the ledger, {found.charged} charged",
        )
        return self._report(found, books, busy, seconds)

    async def _first(self, agent: Agent) -> None:
        await agent.first()
        self._count()

    def _count(self) -> None:
        self._done += 1
        self._step()
        self._milestone.set()

    def _payments(self) -> dict[str, Sent]:
        return {key: sent for agent in self._agents for key, sent in agent.wire.payments.items()}

    async def _kill_and_replace(self) -> None:
        """Spread over the run, each in the middle of whatever its worker is doing."""
        deaths, total = self._plan.deaths, self._plan.requests - 2 * self._plan.agents
        for number in range(1, deaths + 1):
            while self._done < total * number // (deaths + 1):
                self._milestone.clear()
                await self._milestone.wait()
            self._fleet.kill(self._luck.choice(self._fleet.pids))
            await asyncio.to_thread(self._fleet.add)

    # -- Afterwards ------------------------------------------------------------------------------

    async def _quiet(self) -> list[str]:
        """Waits until every hold has ended or expired; what is left then is a problem."""
        async with asyncio.timeout(QUIET_SECONDS):
            while True:
                channels = await self._store.channels()
                now_ms = time.time() * 1000
                deadlines = [h.deadline_ms for one in channels for h in one.holds.values()]
                if all(deadline < now_ms for deadline in deadlines):
                    break
                await asyncio.sleep(0.1)
        if max(deadlines, default=0) > now_ms + HOLD_SECONDS * 1000:
            return ["a hold outlives its time"]
        return []

    async def _busy(self) -> int:
        """Channels that do not serve another request, or still hold something after it."""
        served = await asyncio.gather(*(agent.last() for agent in self._agents))
        for _ in served:
            self._count()
        holding = sum(bool(channel.holds) for channel in await self._store.channels())
        return max(served.count(False), holding)

    def _report(self, found: Audit, books: Sums, busy: int, seconds: float) -> dict[str, Any]:
        outcomes: Counter[str] = Counter()
        for agent in self._agents:
            outcomes += agent.outcomes
        strange = {what: times for what, times in outcomes.items() if what not in BENIGN}
        found.expect(not strange, f"unexpected outcomes: {strange}")
        payments = self._payments()
        return {
            "requests": self._done,
            "delivered": found.delivered,
            "charged": found.charged,
            "price": PRICE,
            "difference": found.difference,
            "double_grants": found.double_grants,
            "busy_channels": busy,
            "ledger_rows": books.rows,
            "ledger_differences": len(books.differences),
            "store": self._plan.store,
            "workers_killed": self._plan.deaths,
            "payments": len(payments),
            "sent_again": sum(payment.times - 1 for payment in payments.values()),
            "came_back": found.came_back,
            "outcomes": dict(outcomes.most_common()),
            "seconds": round(seconds, 1),
            "requests_per_second": round(self._plan.requests / seconds),
            "problems": found.problems[:20],
        }


@contextmanager
def _store_of(plan: Plan, folder: Path) -> Iterator[str]:
    if plan.store == "sqlite":
        yield f"sqlite:///{folder}/store.db"
    else:
        with running(fsync="everysec") as server:
            yield server.url


async def _soak(plan: Plan, fleet: Fleet, step: Callable[[], None]) -> dict[str, Any]:
    store = open_store(fleet.store)
    await store.open()
    try:
        return await Soak(plan, fleet, store, step).run()
    finally:
        await store.close()


def soak(plan: Plan, step: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Runs a plan and returns its figures; `problems` is empty when all is well."""
    with TemporaryDirectory(prefix="paywall-soak-") as name:
        folder = Path(name)
        bounds = {
            "hold_seconds": HOLD_SECONDS,
            "answer_seconds": ANSWER_SECONDS,
            "handler_seconds": plan.handler_seconds,
        }
        with (
            _store_of(plan, folder) as url,
            Fleet(folder, url, plan.workers, **bounds) as fleet,
        ):
            return asyncio.run(_soak(plan, fleet, step))


# -- The command ---------------------------------------------------------------------------------


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="soak", description="agents against killed workers")
    for name, value in (
        ("requests", Plan.requests),
        ("agents", Plan.agents),
        ("workers", Plan.workers),
        ("in-flight", Plan.in_flight),
        ("seed", Plan.seed),
    ):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--store", choices=("redis", "sqlite"), default=Plan.store)
    parser.add_argument("--json", action="store_true", help="no progress bar")
    return parser.parse_args()


def main() -> int:
    told = _arguments()
    plan = Plan(told.requests, told.agents, told.workers, told.in_flight, told.store, told.seed)
    return shown("soak", plan.requests, told.json, partial(soak, plan))


if __name__ == "__main__":
    sys.exit(main())
