"""Servers for tests: any ASGI app under real uvicorn, and a small provider of ours to buy from.

A server runs in a thread with a loop of its own, on a free loopback port; what happens between it
and a test happens over sockets. The thread is joined at the end, so that nothing outlives a test.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from helpers.chain import ASSET, NETWORK, new_address
from paywall import Node, Paywall, open_store, payment_of, upto
from paywall.chain import claimer
from paywall.chain.devnet import Devnet
from paywall.protocol.channel import Channel
from paywall.protocol.x402 import show_address

START_SECONDS: Final = 10
PRICE: Final = 1_000
"""Atomic units that every fixed route of the provider costs."""
CEILING: Final = 10_000
"""The most that a metered route of the provider costs."""
WORD: Final = 100
"""What one word of a metered answer costs."""
MIN_DEPOSIT: Final = 100_000
ONCE_PRICE: Final = 10_000
"""What /once costs, which may also be paid by a single transfer."""
SLOW_SECONDS: Final = 0.02


@contextmanager
def served(app: ASGIApp, http: Literal["auto", "h11", "httptools"] = "auto") -> Iterator[str]:
    """Runs an app, lifespan included; gives its base URL."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", ws="none", http=http)
    server = uvicorn.Server(config)
    socket = config.bind_socket()
    thread = threading.Thread(target=server.run, args=([socket],), name="uvicorn", daemon=True)
    thread.start()
    try:
        _await_start(server, thread)
        yield f"http://127.0.0.1:{socket.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(START_SECONDS)
        socket.close()
        assert not thread.is_alive(), "the server did not stop"


def _await_start(server: uvicorn.Server, thread: threading.Thread) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not server.started:
        assert thread.is_alive(), "the server died at its start"
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.005)


class Counted:
    """Counts the requests that reach an app, and how many of them carried a payment."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.paid = 0
        self.unpaid = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if any(name == b"payment-signature" for name, _ in scope["headers"]):
                self.paid += 1
            else:
                self.unpaid += 1
        await self._app(scope, receive, send)


# -- A provider of ours --------------------------------------------------------------------------


@dataclass(frozen=True)
class Provider:
    """A running provider, and what it and the chain know."""

    url: str
    receiver: str
    store_url: str
    node: Node
    requests: Counted

    async def channel(self) -> Channel:
        """The record of the one channel that this provider has."""
        store = open_store(self.store_url)
        await store.open()
        try:
            (channel,) = await store.channels()
            return channel
        finally:
            await store.close()

    async def collect(self) -> tuple[int, int]:
        """Claims and settles; how many claims and how many settlements were mined."""
        store = open_store(self.store_url)
        await store.open()
        try:
            claims = await claimer.claim(store, self.node)
            settlements = await claimer.settle(store, self.node)
            return len(claims), len(settlements)
        finally:
            await store.close()


@asynccontextmanager
async def provider(devnet: Devnet, folder: Path) -> AsyncIterator[Provider]:
    """A provider with routes of every kind, a receiver of its own, and SQLite in `folder`."""
    store_url, receiver = f"sqlite:///{folder}/provider.db", show_address(new_address())
    key = devnet.accounts[0].key
    paywall = Paywall(
        api(),
        prices={
            "GET /item": "$0.001",
            "GET /slow": "$0.001",
            "GET /once": "$0.01",
            "GET /status/{code}": "$0.001",
            "GET /words/{count}": upto("$0.01"),
            "GET /counted/{count}": upto("$0.01"),
        },
        pay_to=receiver,
        asset=ASSET,
        chain=Node(devnet.url, key, network=NETWORK),
        store=store_url,
    )
    counted = Counted(paywall)
    node = Node(devnet.url, key, network=NETWORK)
    await node.open()
    try:
        with served(counted) as url:
            yield Provider(url, receiver, store_url, node, counted)
    finally:
        await node.close()


def api() -> Starlette:
    return Starlette(
        routes=[
            Route("/item", _item),
            Route("/slow", _slow),
            Route("/once", _item),
            Route("/status/{code:int}", _status),
            Route("/words/{count:int}", _words),
            Route("/counted/{count:int}", _counted),
        ]
    )


async def _item(request: Request) -> JSONResponse:
    return JSONResponse({"paid_by": payment_of(request).payer})


async def _slow(request: Request) -> JSONResponse:
    """Long enough for requests of the same moment to meet."""
    await asyncio.sleep(SLOW_SECONDS)
    return await _item(request)


async def _status(request: Request) -> Response:
    return Response(status_code=request.path_params["code"])


async def _words(request: Request) -> StreamingResponse:
    """Metered while it streams."""
    payment = payment_of(request)

    async def words() -> AsyncIterator[bytes]:
        for _ in range(request.path_params["count"]):
            payment.charge(WORD)
            yield b"word "

    return StreamingResponse(words())


async def _counted(request: Request) -> JSONResponse:
    """Metered, and known before the answer begins."""
    count = request.path_params["count"]
    payment_of(request).charge(count * WORD)
    return JSONResponse({"words": count})
