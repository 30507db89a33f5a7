"""Races for one budget: a thousand tasks in one process, and processes that share one wallet.

Providers keep their own books in plain Python and write down what they charged, and when the
payment for it arrived. Those books are the truth that a run is held against: no ceiling is exceeded
by one unit, and the wallet has spent what the providers charged.
"""

import asyncio
import multiprocessing
import random
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import httpx

from helpers.agent import KEY, FakeProvider, Sent, encode, receipt_json
from paywall.client import AsyncClient
from paywall.protocol.errors import AgentError, OverBudget
from paywall.wallet import Wallet

MINUTE_SECONDS: Final = 60.0
DAY_SECONDS: Final = 86_400.0
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["helpers.budget_race"])


class Clock:
    """A clock that tasks move on."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Racer(FakeProvider):
    """A provider that charges, charges less, fails, and loses answers, as its dice fall."""

    def __init__(
        self, dice: random.Random, clock: Clock, price: int, window: int | None, losses: bool
    ) -> None:
        super().__init__(price, window)
        self._dice = dice
        self._losses = losses
        self._clock = clock
        self._arrived: dict[int, float] = {}
        self.charges: list[tuple[float, int]] = []
        self.uncharged = 0
        """What was lost on the way and never charged: nobody can tell the payer."""

    def _admit(self, payment: Sent) -> "httpx.Response | tuple[Sent, int]":
        answer = super()._admit(payment)
        if not isinstance(answer, httpx.Response):
            self._arrived[answer[1]] = self._clock()
        return answer

    def _finish(self, payment: Sent, number: int) -> httpx.Response:
        with self._lock:
            ledger = self.ledgers[payment.channel]
            held, at = ledger.holds.pop(number), self._arrived.pop(number)
            fate = self._dice.random()
            if fate < 0.1:
                return httpx.Response(500)
            if self._losses and fate < 0.15:
                self.uncharged += held
                raise httpx.ReadTimeout("lost before it was charged")
            charged = self._dice.randint(0, held) if fate < 0.3 else held
            ledger.charged += charged
            self.charges.append((at, charged))
            if self._losses and fate < 0.35:
                self.uncharged += held - charged
                raise httpx.ReadTimeout("lost after it was charged")
            told = receipt_json(charged, ledger.charged, payment.channel, ledger.balance)
            return httpx.Response(200, headers={"payment-response": encode(told)}, json={})


def limits_of(dice: random.Random) -> dict[str, str]:
    """Ceilings of which another one binds each time."""
    limits = {"total": "$0.9", "deposit": "$0.3", "per_request": "$0.0019"}
    tight = dice.choice(("total", "per_host", "per_minute", "per_day", "all"))
    if tight in ("total", "all"):
        limits |= {"total": f"$0.{dice.randint(250_000, 400_000)}", "deposit": "$0.1"}
    for name in ("per_host", "per_minute", "per_day"):
        if tight in (name, "all"):
            limits[name] = f"$0.{dice.randint(100_000, 300_000)}"
    return limits


@dataclass
class Outcome:
    """What a run came to; `wrong` are sentences about money."""

    served: int = 0
    denied: int = 0
    spent: int = 0
    charged: int = 0
    limits: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)


def judged(wallet: Wallet, racers: list[Racer], denials: list[str]) -> Outcome:
    """Holds the wallet against what its providers charged."""
    policy, spent = wallet.policy, wallet.spent()
    charges = sorted(charge for racer in racers for charge in racer.charges)
    deposited = sum(one.balance for racer in racers for one in racer.ledgers.values())
    charged, unknown = sum(c for _, c in charges), sum(racer.uncharged for racer in racers)
    outcome = Outcome(
        served=len(charges),
        denied=len(denials),
        spent=spent,
        charged=charged,
        limits=set(denials),
    )
    bounds = [
        ("total", policy.total, spent),
        ("total deposited", policy.total, deposited),
        ("total by the wallet's own count", policy.total, wallet.file.totals().outlay),
        ("total charged", policy.total, charged),
        ("per_minute", policy.per_minute, most_within(charges, MINUTE_SECONDS)),
        ("per_day", policy.per_day, most_within(charges, DAY_SECONDS)),
    ]
    hosts = {wallet.file.host_promised(account.origin) for account in wallet.file.accounts()}
    bounds.append(("per_host", policy.per_host, max(hosts, default=0)))
    for name, ceiling, found in bounds:
        if ceiling is not None and found > ceiling:
            outcome.wrong.append(f"{name}: {found} of {ceiling}")
    if not charged <= spent <= charged + unknown:
        outcome.wrong.append(f"spent {spent}, charged {charged}, lost {unknown}")
    if any(account.flying or account.flight for account in wallet.file.accounts()):
        outcome.wrong.append("something is still in flight")
    return outcome


def most_within(charges: list[tuple[float, int]], seconds: float) -> int:
    """The largest sum of any stretch of time."""
    most, first, within = 0, 0, 0
    for at, amount in charges:
        within += amount
        while charges[first][0] < at - seconds:
            within -= charges[first][1]
            first += 1
        most = max(most, within)
    return most


async def one_process(seed: int, tasks: int, state: str) -> Outcome:
    """So many tasks of one process, at providers with and without a window, over six minutes."""
    dice, clock = random.Random(seed), Clock()
    racers = {
        f"{number}.example": Racer(dice, clock, 900 + number, window, losses=seed % 2 == 1)
        for number, window in enumerate((64, 64, None))
    }
    wallet = Wallet(KEY, state=state, clock=clock, **limits_of(dice))  # type: ignore[arg-type]
    denials: list[str] = []

    async def serve(request: httpx.Request) -> httpx.Response:
        racer = racers[request.url.host]
        return await racer.later(request)

    async def task(client: AsyncClient, number: int) -> None:
        await asyncio.sleep(dice.random() / 5)
        clock.now += dice.random() * 360 * 2 / tasks
        host = list(racers)[2 if number % 10 == 0 else number % 2]
        denials.extend(await tried(client, f"https://{host}/{number % 7}"))

    async with AsyncClient(wallet=wallet, transport=httpx.MockTransport(serve)) as client:
        await asyncio.gather(*(task(client, number) for number in range(tasks)))
    outcome = judged(wallet, list(racers.values()), denials)
    wallet.close()
    return outcome


async def tried(client: AsyncClient, url: str) -> list[str]:
    """The limit that stood in the way of a request, if one did."""
    try:
        await client.get(url)
    except OverBudget as error:
        return [error.limit]
    except AgentError:
        return []
    return []


# -- Processes -----------------------------------------------------------------------------------


def several_processes(seed: int, tasks: int, state: str, processes: int = 4) -> Outcome:
    """Processes that share one wallet, and the channels of two providers behind real sockets."""
    dice, clock = random.Random(seed), Clock()
    limits = limits_of(dice)
    racers = [
        Racer(random.Random(seed + 1), clock, 990, 64, losses=seed % 2 == 1),
        Racer(random.Random(seed + 2), clock, 991, None, losses=seed % 2 == 1),
    ]
    with ExitStack() as stack:
        urls = [stack.enter_context(served(racer)) for racer in racers]
        wallet = Wallet(KEY, state=state, **limits)  # type: ignore[arg-type]
        stack.callback(wallet.close)
        results = _forks.Queue()
        running = [
            _forks.Process(target=_run, args=(number, tasks, state, urls, limits, results))
            for number in range(processes)
        ]
        for process in running:
            process.start()
        denials = [limit for _ in running for limit in results.get(timeout=120)]
        for process in running:
            process.join(30)
        return judged(wallet, racers, denials)


def _run(
    number: int, tasks: int, state: str, urls: list[str], limits: dict[str, str], results: Any
) -> None:
    results.put(asyncio.run(_tasks(number, tasks, state, urls, limits)))


async def _tasks(
    number: int, tasks: int, state: str, urls: list[str], limits: dict[str, str]
) -> list[str]:
    wallet = Wallet(KEY, state=state, **limits)  # type: ignore[arg-type]
    room = asyncio.Semaphore(16)
    denials: list[str] = []

    async def task(client: AsyncClient, each: int) -> None:
        async with room:
            url = urls[1 if each % 60 == number else 0]
            denials.extend(await tried(client, f"{url}/{each % 7}"))

    async with AsyncClient(wallet=wallet, timeout=60) as client:
        await asyncio.gather(*(task(client, each) for each in range(tasks)))
    wallet.close()
    return denials


@contextmanager
def served(racer: Racer) -> Iterator[str]:
    """A provider on a port of its own; an answer that is lost closes the connection."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            request = httpx.Request(
                "GET", f"http://127.0.0.1{self.path}", headers=self.headers.items()
            )
            try:
                answer = racer(request)
            except httpx.ReadTimeout:
                self.close_connection = True
                return
            self.send_response(answer.status_code)
            for name in ("payment-required", "payment-response"):
                if name in answer.headers:
                    self.send_header(name, answer.headers[name])
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Nobody reads it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.request_queue_size = 128
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def fresh(folder: Path, seed: int, name: str) -> str:
    return str(folder / f"{name}-{seed}.db")
