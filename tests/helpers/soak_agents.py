"""The agents of the soak: our real client over a network that breaks, and users who hang up.

Each agent has a wallet, a channel and a client of its own. What it sent and what it got is written
down here, on its own side, and never read from the provider.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final

import httpx

from helpers.worker_app import digest_of
from paywall import AgentError, AsyncClient, PaymentLost, Wallet

_CUT_RATE: Final = 0.03
"""Answers that a cut connection loses on their way; the client sends the payment again."""
_HANG_UP_RATE: Final = 0.03
"""Users who do not wait for their answer."""
_IMPATIENCE: Final = 1.5
"""Connections end and users leave at any time up to this much of what an answer usually takes."""
_PAYMENT: Final = "payment-signature"


@dataclass
class Sent:
    """A payment that left, for which call, and the run whose answer came back for it."""

    header: str
    call: str
    times: int = 0
    got: str | None = None


class Wire(httpx.AsyncBaseTransport):
    """Below the paying transport: it sees every payment that leaves, and loses some answers."""

    def __init__(self, luck: random.Random) -> None:
        self._inner = httpx.AsyncHTTPTransport(
            verify=False, limits=httpx.Limits(max_connections=None, max_keepalive_connections=64)
        )
        self._luck = luck
        self.payments: dict[str, Sent] = {}
        self.last: dict[str, Sent] = {}
        """By path, the payment that left last."""
        self.usual_seconds = 0.05
        self.honest = True

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        header = request.headers.get(_PAYMENT)
        if header is None:
            return await self._inner.handle_async_request(request)
        path = request.url.raw_path.decode()
        payment = self.payments.setdefault(digest_of(header.encode()), Sent(header, path))
        payment.times += 1
        self.last[path] = payment
        if self.honest or self._luck.random() >= _CUT_RATE:
            return await self._usual(request)
        await self._lose(request)
        raise httpx.ReadError("the connection was cut", request=request)

    async def _usual(self, request: httpx.Request) -> httpx.Response:
        began = time.monotonic()
        response = await self._inner.handle_async_request(request)
        self.usual_seconds += (time.monotonic() - began - self.usual_seconds) / 16
        return response

    def patience(self) -> float:
        """How long somebody waits who does not wait for the answer."""
        return self._luck.uniform(0, _IMPATIENCE * self.usual_seconds)

    async def _lose(self, request: httpx.Request) -> None:
        """The request leaves; the connection ends some time later, or when the answer is there."""
        sending = asyncio.ensure_future(self._inner.handle_async_request(request))
        patience = None if self._luck.random() < 0.5 else self.patience()
        try:
            await asyncio.wait((sending,), timeout=patience)
        finally:
            sending.cancel()
            (outcome,) = await asyncio.gather(sending, return_exceptions=True)
            if isinstance(outcome, httpx.Response):
                await outcome.aclose()

    async def aclose(self) -> None:
        await self._inner.aclose()


@dataclass
class Agent:
    """One payer, and what became of its calls."""

    url: str
    number: int
    folder: Path
    seed: int
    deposit: int
    outcomes: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        key = sha256(f"soak {self.seed} {self.number}".encode()).digest()
        self.luck = random.Random(key)
        self.wallet = Wallet(
            key,
            total=f"${2 * self.deposit}",
            deposit=f"${self.deposit}",
            state=self.folder / f"wallet-{self.number}.db",
        )
        self.wire = Wire(self.luck)
        self.client = AsyncClient(wallet=self.wallet, transport=self.wire, timeout=30)

    async def close(self) -> None:
        await self.client.aclose()
        self.wallet.close()

    async def first(self) -> None:
        """The deposit, while all is well."""
        await self._call("first")

    async def storm(self, calls: int, in_flight: int, done: Callable[[], None]) -> None:
        """So many calls, some in flight at once, through whatever happens."""
        self.wire.honest = False
        names = iter(range(calls))
        async with asyncio.TaskGroup() as group:
            for _ in range(in_flight):
                group.create_task(self._one_after_the_other(names, done))
        self.wire.honest = True

    async def last(self) -> bool:
        """Whether the channel serves another request."""
        for attempt in range(20):  # the handler fails now and then
            if await self._call(f"last-{attempt}") == "got":
                return True
        return False

    async def _one_after_the_other(self, names: Iterator[int], done: Callable[[], None]) -> None:
        for name in names:
            if self.luck.random() < _HANG_UP_RATE:
                await self._hang_up(str(name))
            else:
                await self._call(str(name))
            done()

    async def _hang_up(self, name: str) -> None:
        calling = asyncio.ensure_future(self._call(name))
        try:
            await asyncio.wait((calling,), timeout=self.wire.patience())
        finally:
            if calling.cancel():
                self.outcomes["hung up"] += 1
            await asyncio.gather(calling, return_exceptions=True)

    async def _call(self, name: str) -> str:
        outcome = await self._outcome(f"/chaos/{self.number}-{name}")
        self.outcomes[outcome] += 1
        return outcome

    async def _outcome(self, path: str) -> str:
        try:
            response = await self.client.get(self.url + path)
        except PaymentLost:
            return "lost"
        except AgentError as error:
            return f"{type(error).__name__}: {error}"
        except httpx.TransportError as error:
            return type(error).__name__
        if response.status_code != 200:
            return str(response.status_code)
        self.wire.last[path].got = response.json()["run"]
        return "got"
