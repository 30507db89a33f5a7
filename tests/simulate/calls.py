"""One sending of one request to one worker, as ASGI sees it and as httpx does.

What a worker has sent leaves even if it dies then. `Lines` is what lies between the two ends.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import httpx
from starlette.types import ASGIApp, Message, Scope

from simulate.book import Asked
from simulate.loop import Loop, Process
from simulate.store import CALL


class Lines(Protocol):
    """What a call needs of the network."""

    loop: Loop

    def later(self, act: Callable[..., Any], *told: Any) -> None: ...

    def left(self, start: Message, asked: Asked) -> None: ...

    def fate_of_answer(self) -> httpx.Response | httpx.TransportError | None: ...


class Worker:
    """A process that serves an app. `app` is None until it has started."""

    def __init__(self, process: Process, app: ASGIApp) -> None:
        self.process = process
        self.app = app

    @property
    def alive(self) -> bool:
        return self.process.alive


class Call:
    """One sending, seen from both ends. The client waits for `head`, then for chunks."""

    def __init__(self, network: Lines, request: httpx.Request, asked: Asked) -> None:
        self.request = request
        self.asked = asked
        self.head: asyncio.Future[httpx.Response] = network.loop.create_future()
        self._network = network
        self._gone = asyncio.Event()
        self._uploaded = False
        self._start: Message | None = None
        self._chunks: list[bytes] = []
        self._more = asyncio.Event()
        self._over = False
        self._broken: httpx.TransportError | None = None

    # -- The worker's end ------------------------------------------------------------------------

    async def serve(self, worker: Worker) -> None:
        """Runs in the worker's process."""
        CALL.set(self.asked)
        worker.process.on_death[self] = self._cut
        try:
            await worker.app(self._scope(), self.receive, self.send)
        finally:
            worker.process.on_death.pop(self, None)
        if self._start is None:
            self._network.later(self._fail, httpx.RemoteProtocolError("nothing was answered"))

    def _scope(self) -> Scope:
        url = self.request.url
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": self.request.method,
            "scheme": url.scheme,
            "path": url.path,
            "raw_path": url.raw_path.partition(b"?")[0],
            "query_string": url.query,
            "root_path": "",
            "headers": [(name.lower(), value) for name, value in self.request.headers.raw],
            "server": (url.host, url.port or 443),
            "client": ("agent", 1),
        }

    async def receive(self) -> Message:
        if not self._uploaded:
            self._uploaded = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self._gone.is_set():
            return
        if message["type"] == "http.response.start":
            self._start = message
            self._network.left(message, self.asked)
            return
        assert self._start is not None
        chunk, over = message.get("body", b""), not message.get("more_body", False)
        self._network.later(self._arrive, self._start, chunk, over)

    def _cut(self) -> None:
        """The worker has died."""
        self._network.later(self._fail, httpx.ReadError("connection reset"))

    # -- The client's end ------------------------------------------------------------------------

    def hang_up(self) -> None:
        """The client is gone; the worker hears of it."""
        self._network.later(self._gone.set)

    def _arrive(self, start: Message, chunk: bytes, over: bool) -> None:
        self._chunks.append(chunk)
        self._over = self._over or over
        self._more.set()
        if self.head.done():
            return
        fate = self._network.fate_of_answer()
        if fate is None:
            body = chunk if over else None
            stream = None if over else Stream(self)
            headers = start["headers"]
            answer = httpx.Response(start["status"], headers=headers, content=body, stream=stream)
            self.head.set_result(answer)
        elif isinstance(fate, httpx.Response):
            self.head.set_result(fate)
        else:
            self.head.set_exception(fate)

    def _fail(self, error: httpx.TransportError) -> None:
        self._broken = error
        self._more.set()
        self.give_up(error)

    def give_up(self, error: httpx.TransportError) -> None:
        if not self.head.done():
            self.head.set_exception(error)

    async def chunks(self) -> AsyncIterator[bytes]:
        while True:
            while self._chunks:
                yield self._chunks.pop(0)
            if self._over:
                return
            if self._broken:
                raise self._broken
            self._more.clear()
            await self._more.wait()


class Stream(httpx.AsyncByteStream):
    """A body that comes in pieces."""

    def __init__(self, call: Call) -> None:
        self._call = call

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._call.chunks()

    async def aclose(self) -> None:
        self._call.hang_up()
