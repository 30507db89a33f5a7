"""What a worker process serves: routes that fail, wait and stream as they are told, and a journal.

The journal is what happened on this side, in files that survive `kill -9`; one line each:

    run <payment> <run>             a handler began; `run` is drawn by lot each time
    left <payment> <run> <status>   the head of an answer with a receipt was handed to the server
    refused <payment> - <status>    any other head

`payment` is the digest of a payment header, the same each time that the header is sent.
"""

import asyncio
import os
import random
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from secrets import token_hex
from typing import Final

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from helpers.channels import ASSET, TERMS
from helpers.file_chain import FileChain
from helpers.worker import Settings
from paywall import Paywall, free_first, pass_for
from paywall.protocol.x402 import show_address

PRICE: Final = 1_000
PASS_PRICE: Final = 2_000
FREE: Final = 10
"""How many requests to /some are free to each payer."""
_POLL_SECONDS: Final = 0.005
_PATIENCE_SECONDS: Final = 30
_FAILURE_RATE: Final = 0.04
_EXCEPTION_RATE: Final = 0.02


def digest_of(header: bytes) -> str:
    return blake2b(header, digest_size=8).hexdigest()


def _payment(scope: Scope) -> str:
    headers = scope["headers"]
    return next((digest_of(value) for name, value in headers if name == b"payment-signature"), "")


@dataclass(frozen=True)
class Event:
    """A line of a journal, and the process that wrote it."""

    kind: str
    payment: str
    run: str
    pid: int
    status: int = 0


class Journal:
    def __init__(self, folder: Path) -> None:
        flags = os.O_CREAT | os.O_APPEND | os.O_WRONLY
        self._file = os.open(folder / f"journal-{os.getpid()}", flags)

    def write(self, *words: str) -> None:
        """One write to the system: whole or not at all, whatever becomes of this process."""
        os.write(self._file, (" ".join(words) + "\n").encode())


def read_journals(folder: Path) -> list[Event]:
    """What all workers, dead or alive, have written down."""
    events = []
    for path in folder.glob("journal-*"):
        pid = int(path.name.rpartition("-")[2])
        for line in path.read_text().splitlines():
            kind, payment, run, *rest = line.split(" ")
            events.append(Event(kind, payment, run, pid, *map(int, rest)))
    return events


class _Edge:
    """Stands between the server and the paywall, and notes which paid answers leave."""

    def __init__(self, app: ASGIApp, journal: Journal) -> None:
        self._app = app
        self._journal = journal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        payment = _payment(scope) if scope["type"] == "http" else ""

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._note(payment, message)
            await send(message)

        await self._app(scope, receive, noting if payment else send)

    def _note(self, payment: str, head: Message) -> None:
        headers, status = dict(head["headers"]), head["status"]
        if status < 400 and b"payment-response" in headers:
            run = headers.get(b"x-run", b"-").decode()
            self._journal.write("left", payment, run, str(status))
        else:
            self._journal.write("refused", payment, "-", str(status))


class _Routes:
    """The app behind the paywall."""

    def __init__(self, settings: Settings, journal: Journal) -> None:
        self._folder = Path(settings.folder)
        self._handler_seconds = settings.handler_seconds
        self._journal = journal

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/item/{name}", self.item),
                Route("/chaos/{name}", self.chaos),
                Route("/pass/{name}", self.item),
                Route("/some/{name}", self.item),
                Route("/once/{name}", self.item),
                Route("/free", self.free),
            ]
        )

    async def item(self, request: Request) -> Response:
        """`?held=file` waits for a file, `?failing=file` answers 500 while there is one, `?bytes=n`
        says how long the answer is, `?stream=1` sends it in parts."""
        run, told = self._begin(request), request.query_params
        if "held" in told:
            await self._until(self._folder / told["held"])
        if "failing" in told and (self._folder / told["failing"]).exists():
            return PlainTextResponse("failed", 500)
        if "stream" in told:
            return StreamingResponse(self._parts(run), headers={"x-run": run})
        body = {"name": request.path_params["name"], "run": run}
        return JSONResponse(
            body | {"more": "." * int(told.get("bytes", 0))}, headers={"x-run": run}
        )

    async def chaos(self, request: Request) -> Response:
        """Takes some time, sometimes a long one, and fails now and then."""
        run = self._begin(request)
        await asyncio.sleep(random.expovariate(1 / self._handler_seconds))
        fate = random.random()
        if fate < _FAILURE_RATE:
            return PlainTextResponse("failed", 500)
        if fate < _FAILURE_RATE + _EXCEPTION_RATE:
            raise RuntimeError("a bug in the handler")
        body = {"name": request.path_params["name"], "run": run}
        return JSONResponse(body, headers={"x-run": run})

    async def free(self, request: Request) -> Response:
        return JSONResponse({"pid": os.getpid()})

    def _begin(self, request: Request) -> str:
        run = token_hex(6)
        self._journal.write("run", _payment(request.scope), run)
        return run

    async def _until(self, path: Path) -> None:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while not path.exists():  # noqa: ASYNC110, ASYNC240 - another process makes it
                await asyncio.sleep(_POLL_SECONDS)

    async def _parts(self, run: str) -> AsyncIterator[str]:
        for _ in range(3):
            yield run
            await asyncio.sleep(0)


def app_of(settings: Settings) -> ASGIApp:
    folder = Path(settings.folder)
    journal = Journal(folder)
    wall = Paywall(
        _Routes(settings, journal).app(),
        prices={
            "GET /item/{name}": "$0.001",
            "GET /chaos/{name}": "$0.001",
            "GET /once/{name}": "$0.02",
            "GET /pass/{name}": pass_for("$0.002", seconds=settings.pass_seconds),
            "GET /some/{name}": free_first(FREE, then="$0.001"),
        },
        public_url=f"http://127.0.0.1:{settings.port}",
        pay_to=show_address(TERMS.pay_to),
        asset=ASSET,
        chain=FileChain(folder / "chain.db"),
        store=settings.store,
        min_deposit="$0.01",
        max_deposit="$1000",
        withdraw_delay_seconds=TERMS.withdraw_delay_seconds,
    )
    return _Edge(wall, journal)


class _Server(uvicorn.Server):
    """Says when it listens."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print("listening", flush=True)


def serve(settings: Settings) -> None:
    """Listens on a port that other workers listen on too; the kernel shares out the connections."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", settings.port))
    config = uvicorn.Config(
        app_of(settings), log_level="critical", access_log=False, ws="none", backlog=2048
    )
    _Server(config).run([listener])
