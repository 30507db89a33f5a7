"""An agent that is killed -9 again and again, at a live provider on an embedded chain.

Each life of the agent is a process of its own with the same wallet file. It dies before or after
one of its writes, before or after one of its requests, or at any moment. Each life begins some
minutes after the last by its own clock, and the last one when everything in flight is forgotten; it
pays in turn. Then the books are compared to the unit: the agent's, the provider's store and the
rows of its ledger, and the chain: the contract's record and what has left the payer's address.
"""

import asyncio
import base64
import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
from coincurve import PrivateKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from helpers.chain import ASSET, FUNDS, NETWORK, new_address, node_of
from helpers.servers import served
from paywall import AsyncClient, Node, Paywall, Wallet, open_store
from paywall.chain.devnet import Devnet
from paywall.deposits import DEPOSIT_WAIT_SECONDS
from paywall.ledger import reconcile
from paywall.protocol.channel import ChainState, Channel
from paywall.protocol.errors import AgentError
from paywall.protocol.x402 import show_address
from paywall.walletfile import FileRows
from paywall.walletstate import FORGOTTEN_SECONDS

PRICE: Final = 1_000
REQUESTS: Final = 20
LIVES: Final = 3
BETWEEN_SECONDS: Final = DEPOSIT_WAIT_SECONDS + 1
LATER_SECONDS: Final = FORGOTTEN_SECONDS + LIVES * BETWEEN_SECONDS
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["helpers.agent_kills"])


@dataclass
class Provider:
    """A provider that writes down which vouchers its handler ran for."""

    url: str = ""
    store_url: str = ""
    receiver: str = ""
    vouchers: list[int] = field(default_factory=list)

    async def item(self, request: Request) -> JSONResponse:
        message = json.loads(base64.b64decode(request.headers["payment-signature"]))
        self.vouchers.append(int(message["payload"]["voucher"]["maxClaimableAmount"]))
        await asyncio.sleep(0.002)
        return JSONResponse({})

    async def books(self, devnet: Devnet) -> "Books":
        """Its channels, what its ledger's rows say against them, and what the contract records."""
        store = open_store(self.store_url)
        await store.open()
        try:
            async with node_of(devnet) as node:
                channels = await store.channels()
                sums = await reconcile(store)
                return Books(
                    channels,
                    [str(each) for each in sums.differences],
                    [await node.channel(channel.channel_id) for channel in channels],
                )
        finally:
            await store.close()


@dataclass(frozen=True)
class Books:
    """What a provider and the chain know."""

    channels: list[Channel]
    differences: list[str]
    chain: list[ChainState]


@contextmanager
def live_provider(devnet: Devnet, folder: Path) -> Iterator[Provider]:
    found = Provider(
        store_url=f"sqlite:///{folder}/provider.db", receiver=show_address(new_address())
    )
    app = Paywall(
        Starlette(routes=[Route("/{name}", found.item)]),
        prices={"GET /{name}": "$0.001"},
        pay_to=found.receiver,
        asset=ASSET,
        chain=Node(devnet.url, devnet.accounts[0].key, network=NETWORK),
        store=found.store_url,
    )
    with served(app) as url:
        found.url = url
        yield found


@dataclass(frozen=True)
class Fate:
    """Where a life ends: at the n-th write or request, before or after it; or by the clock."""

    place: str
    number: int
    after: bool

    @classmethod
    def cast(cls, dice: random.Random) -> "Fate":
        place = dice.choice(("commit", "commit", "send", "clock"))
        return cls(place, dice.randint(1, 40), dice.random() < 0.5)


def run(devnet: Devnet, folder: Path, seed: int) -> list[str]:
    """Lives and deaths of one agent; returns what is wrong in the end."""
    dice, key = random.Random(seed), PrivateKey()
    secret = key.secret
    state = str(folder / "agent.db")
    devnet.fund_usdc(Wallet(secret, state=":memory:").address, FUNDS)
    with live_provider(devnet, folder) as provider:
        for life in range(LIVES):
            _live(secret, state, provider.url, Fate.cast(dice), life, seed)
        return asyncio.run(_last_life(secret, state, provider, devnet))


def _live(key: bytes, state: str, url: str, fate: Fate, life: int, seed: int) -> None:
    arguments = (key, state, url, fate, life, seed)
    process = _forks.Process(target=_agent, args=arguments)
    process.start()
    if fate.place == "clock":
        time.sleep(0.02 + fate.number / 100)
        process.kill()
    process.join(60)
    assert process.exitcode in (-signal.SIGKILL, 0), "it did not die as it should"


def _agent(key: bytes, state: str, url: str, fate: Fate, life: int, seed: int) -> None:
    if fate.place == "commit":
        _die_at_commits(fate)
    clock = _later(life * BETWEEN_SECONDS)
    wallet = Wallet(key, state=state, deposit="$0.1", total="$1", clock=clock)
    asyncio.run(_buy(wallet, url, fate, random.Random(seed * LIVES + life)))
    wallet.close()


def _later(seconds: float) -> Callable[[], float]:
    return lambda: time.time() + seconds


class _Counter:
    def __init__(self, fate: Fate) -> None:
        self._fate = fate
        self._count = 0

    def reached(self, after: bool) -> None:
        """Dies here, if this is the place."""
        self._count += not after
        if (self._count, after) == (self._fate.number, self._fate.after):
            os.kill(os.getpid(), signal.SIGKILL)


def _die_at_commits(fate: Fate) -> None:
    counter, commit = _Counter(fate), FileRows.commit

    def committed(self: FileRows, rows: Any, entries: Any) -> None:
        counter.reached(after=False)
        commit(self, rows, entries)
        counter.reached(after=True)

    FileRows.commit = committed  # type: ignore[method-assign]


class _Transport(httpx.AsyncHTTPTransport):
    def __init__(self, fate: Fate) -> None:
        super().__init__()
        self._counter = _Counter(fate) if fate.place == "send" else None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self._counter:
            self._counter.reached(after=False)
        answer = await super().handle_async_request(request)
        if self._counter:
            self._counter.reached(after=True)
        return answer


async def _buy(wallet: Wallet, url: str, fate: Fate, dice: random.Random) -> None:
    room = asyncio.Semaphore(dice.choice((1, 4, 8)))

    async def buy(client: AsyncClient, number: int) -> None:
        async with room:
            await client.get(f"{url}/item-{number}")

    async with AsyncClient(wallet=wallet, transport=_Transport(fate), timeout=30) as client:
        tasks = (buy(client, number) for number in range(REQUESTS))
        await asyncio.gather(*tasks, return_exceptions=True)


async def _last_life(key: bytes, state: str, provider: Provider, devnet: Devnet) -> list[str]:
    """Pays a few times alone, after the time of all that was in flight, and compares."""
    wallet = Wallet(key, state=state, deposit="$0.1", total="$1", clock=_later(LATER_SECONDS))
    async with AsyncClient(wallet=wallet, timeout=30) as client:
        for _ in range(3):
            try:
                await client.get(f"{provider.url}/last")
            except AgentError as error:
                return [f"the last life cannot pay: {error}"]
    gone = FUNDS - devnet.usdc_balance(wallet.address)
    wrong = _compared(wallet, provider, await provider.books(devnet), gone)
    wallet.close()
    return wrong


def _compared(wallet: Wallet, provider: Provider, books: Books, gone: int) -> list[str]:
    """What is wrong, in sentences; `gone` is what has left the payer's address on chain."""
    ours, theirs = wallet.file.accounts(), books.channels
    if [one.channel_id for one in ours] != [one.channel_id for one in theirs] or len(ours) != 1:
        return [f"{len(ours)} channels here, {len(theirs)} there"]
    account, channel, chain = ours[0], theirs[0], books.chain[0]
    wrong = list(books.differences)
    served = len(provider.vouchers)
    facts = [
        ("charged", account.charged, channel.charged),
        ("balance", account.balance, channel.balance),
        ("deposited", account.deposited, channel.balance),
        ("balance on chain", account.balance, chain.balance),
        ("gone from the address", account.deposited, gone),
        ("spent", wallet.spent(), channel.charged),
        ("vouchers used once", len(set(provider.vouchers)), served),
        ("in flight", (account.flight, account.flying), (0, 0)),
        ("holds", dict(channel.holds), {}),
    ]
    wrong += [f"{name}: {here} and {there}" for name, here, there in facts if here != there]
    if served * PRICE < channel.charged:  # who dies before the answer begins is not charged
        wrong.append(f"charged {channel.charged} for {served} answers")
    if not channel.charged <= channel.signed <= account.signed <= account.balance:
        wrong.append(f"signed {channel.signed} there, {account.signed} here")
    return wrong
