"""A provider: an app behind the paywall, in several workers over one store, killed and restarted.

The app is small and honest. Most of its answers come whole; some fail, some raise, some take longer
than a hold lasts, some cost less than their price, and one route streams and meters.
"""

from collections.abc import Callable
from itertools import count
from random import Random
from typing import Final

from coincurve import PrivateKey
from starlette.types import ASGIApp, Receive, Scope, Send

from paywall.asgi import Paywall
from paywall.kinds import upto
from paywall.payment import Payment
from paywall.protocol import eip712
from paywall.protocol.claims import ClaimPolicy
from paywall.protocol.limits import ANSWER_SECONDS
from paywall.protocol.x402 import show_address
from simulate.book import Run
from simulate.calls import Worker
from simulate.chain import EPOCH, Chain
from simulate.contract import ASSET
from simulate.faults import Faults
from simulate.links import ChainLink
from simulate.loop import Loop, Process
from simulate.network import Network
from simulate.oracle import Oracle
from simulate.store import CALL, Server, StoreLink

PRICE: Final = 1000
DEARER: Final = 2500
CEILING: Final = 4000
WORD: Final = 700
DELAY_SECONDS: Final = 900
RESTART_SECONDS: Final = 3.0
SLOW_SECONDS: Final = 75.0

PRICES: Final = {
    "GET /item/*": "$0.001",
    "GET /dear/*": "$0.0025",
    "GET /stream/*": upto("$0.004"),
}
ROUTES: Final = ("item", "item", "item", "dear", "stream")
"""How often each is asked for; what is metered is not paid by single transfers."""
BATCH: Final = "batch-settlement"
SCHEMES: Final = ((BATCH,), (BATCH,), (BATCH, "exact"), ("exact",))


class App:
    """What is sold. It tells the oracle of every run."""

    def __init__(
        self, host: str, loop: Loop, oracle: Oracle, faults: Faults, random: Random
    ) -> None:
        self._loop = loop
        self._host = host
        self._oracle = oracle
        self._faults = faults
        self._random = random
        self._runs = count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = CALL.get()
        assert asked is not None
        run = f"{self._host}/{next(self._runs)}"
        told = self._oracle.ran(run, asked)
        await self._loop.pause(self._faults.delay("network"))
        if self._faults.strikes("handler slow"):
            await self._loop.pause(SLOW_SECONDS)
        if self._faults.strikes("handler fails"):
            return await self._fail(send)
        if scope["path"].startswith("/stream"):
            return await self._stream(run, told, scope["payment"], send)
        if self._random.random() < 0.05:
            scope["payment"].charge(self._random.choice((0, 1, WORD)))
        told.due = scope["payment"].charged
        await answer(send, 200, run.encode(), run)

    async def _fail(self, send: Send) -> None:
        if self._random.random() < 0.3:
            raise ConnectionError("the handler's own trouble")
        await answer(send, self._random.choice((400, 404, 500)), b"no", "")

    async def _stream(self, run: str, told: Run, payment: Payment, send: Send) -> None:
        headers = [(b"x-run", run.encode()), (b"x-metered", b"1")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for _ in range(self._random.randrange(1, 8)):
            await self._loop.pause(self._faults.delay("network"))
            try:
                left = payment.charge(WORD)
            except RuntimeError:  # the client has hung up, and nothing can be charged any more
                return
            told.due = payment.charged
            if left == 0:
                break
            await send({"type": "http.response.body", "body": b"word ", "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def answer(send: Send, status: int, body: bytes, run: str) -> None:
    headers = [(b"content-length", str(len(body)).encode())]
    if run:
        headers.append((b"x-run", run.encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Shop:
    """One provider. Its workers come back after they were killed, until `stop`."""

    def __init__(
        self,
        host: str,
        loop: Loop,
        chain: Chain,
        network: Network,
        oracle: Oracle,
        faults: Faults,
        random: Random,
    ) -> None:
        self.host = host
        self.loop = loop
        self.chain = chain
        self.network = network
        self.oracle = oracle
        self.faults = faults
        self.random = random
        self.receiver = eip712.address_of(PrivateKey(random.randbytes(32)))
        self.authorizer = eip712.address_of(PrivateKey(random.randbytes(32)))
        self.stepped = self.ahead_seconds = self.fell_seconds = 0.0
        self.server = Server(host, oracle, loop, lambda: EPOCH + loop.time() + self.stepped)
        self.app: ASGIApp = App(host, loop, oracle, faults, random)
        self.policy = ClaimPolicy(
            max_at_risk=random.choice(("$0.05", "$10")),
            max_age_seconds=random.choice((60, 600)),
            fee_share_ppm=random.choice((10_000, 1_000_000)),
            native_price=random.choice(("$1", "$3000")),
            refund_idle_seconds=random.choice((None, None, 120)),
            poll_seconds=random.choice((10, 30)),
        )
        self.schemes = random.choice(SCHEMES)
        self.routes = ROUTES if BATCH in self.schemes else ROUTES[:-1]
        self._settle_first = random.choice((False, True))
        self._numbers = count(1)
        self.workers = network.workers[host] = []
        for _ in range(random.randrange(1, 4)):
            self.hire()

    def step(self, seconds: float) -> None:
        """Steps the clock of the store's server: how far was it ahead, and how far did it fall?

        What the store keeps for minutes is forgotten when they seem to have passed.
        """
        if seconds >= ANSWER_SECONDS:
            self.oracle.jumped(self.host)
        self.stepped += seconds
        self.ahead_seconds = max(self.ahead_seconds, self.stepped)
        self.fell_seconds = max(self.fell_seconds, self.ahead_seconds - self.stepped)

    @property
    def patience_seconds(self) -> float:
        """After how long everything is claimed. A lease that was taken while the store's clock was
        ahead, by a worker that died, ends when the true time comes there.
        """
        return self.ahead_seconds + self.policy.max_age_seconds

    def hire(self) -> None:
        """One more worker."""
        process = Process(f"{self.host}/{next(self._numbers)}", self._life())
        skew = self.random.uniform(-5.0, 5.0)
        paywall = self.open_paywall(lambda: EPOCH + self.loop.time() + skew)
        worker = Worker(process, paywall)
        process.on_death[self] = lambda: self._died(worker)
        self.workers.append(worker)
        process.spawn(self._begin(worker, paywall))

    async def _begin(self, worker: Worker, paywall: Paywall) -> None:
        await paywall.open()

    def open_paywall(self, clock: Callable[[], float]) -> Paywall:
        return Paywall(
            self.app,
            prices={place: PRICES[place] for place in PRICES if place.split("/")[1] in self.routes},
            pay_to=show_address(self.receiver),
            asset=ASSET,
            chain=ChainLink(self.chain, self.faults, self.authorizer, clock),
            store=StoreLink(self.server, self.faults),
            min_deposit="$0.02",
            max_deposit="$100",
            withdraw_delay_seconds=DELAY_SECONDS,
            schemes=self.schemes,
            exact_minimum="$0.001",
            settle_first=self._settle_first,
            collect=self.policy,
            clock=clock,
        )

    def _life(self) -> int:
        """After how many steps the next worker is killed; about one payment is twenty of them."""
        rate = self.faults.rates["worker killed"]
        if not rate:
            return 0
        return 1 + int(self.random.expovariate(rate / 20_000))

    def _died(self, worker: Worker) -> None:
        self.faults.note("worker killed")
        self.workers.remove(worker)
        self.loop.call_later(RESTART_SECONDS * self.random.random(), self.hire)
