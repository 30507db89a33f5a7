"""A JSON-RPC endpoint that misbehaves: it stands before a real one and spoils chosen answers.

A *fault* belongs to a method name (or "*" for all) and makes the HTTP answer; it may forward the
question and change what comes back. Everything that was asked is written down.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

from aiohttp import ClientSession, web

Answer = dict[str, Any]
Forward = Callable[[], Awaitable[Answer]]
Fault = Callable[[Forward], Awaitable[web.StreamResponse]]


class RpcProxy:
    """An async context manager; `faults` may be changed while it runs."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self.faults: dict[str, Fault] = {}
        self.asked: list[str] = []
        self.answered: list[str] = []
        self._closing = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._session = ClientSession()
        application = web.Application()
        application.router.add_post("/{path:.*}", self._answer)
        self._runner = web.AppRunner(application, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.set()
        await self._runner.cleanup()
        await self._session.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    async def ask(self, method: str, *params: object) -> Any:
        """Asks the real endpoint, past all faults."""
        question = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        async with self._session.post(self._upstream, json=question) as answer:
            return json.loads(await answer.read())["result"]

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        question = await request.json()
        method = question["method"]
        self.asked.append(method)

        async def forward() -> Answer:
            async with self._session.post(self._upstream, json=question) as answer:
                return json.loads(await answer.read())

        fault = self.faults.get(method) or self.faults.get("*") or honest
        answer = await fault(forward)
        self.answered.append(method)
        return answer

    async def stall(self, forward: Forward) -> web.StreamResponse:
        """Answers when the proxy closes, which is later than anybody waits."""
        await self._closing.wait()
        return web.json_response(await forward())


async def honest(forward: Forward) -> web.StreamResponse:
    return web.json_response(await forward())


async def deaf(forward: Forward) -> web.StreamResponse:
    """Passes the question on and loses the reply."""
    await forward()
    return web.Response(status=502, text="bad gateway")


def says(body: str | bytes, status: int = 200, **headers: str) -> Fault:
    """Answers this, whatever was asked."""

    async def fault(forward: Forward) -> web.StreamResponse:
        data = body if isinstance(body, bytes) else body.encode()
        return web.Response(body=data, status=status, headers=headers)

    return fault


def result(value: object) -> Fault:
    """Answers every question with this result."""
    return says(json.dumps({"jsonrpc": "2.0", "id": 1, "result": value}))


def error(code: int, message: str, data: object = None) -> Fault:
    """Refuses every question so."""
    body = {"code": code, "message": message, "data": data}
    return says(json.dumps({"jsonrpc": "2.0", "id": 1, "error": body}))


def edited(change: Callable[[Any], Any]) -> Fault:
    """Forwards, and lies about a result that is not null."""

    async def fault(forward: Forward) -> web.StreamResponse:
        answer = await forward()
        if answer.get("result") is not None:
            answer["result"] = change(answer["result"])
        return web.json_response(answer)

    return fault


def once(fault: Fault, then: Fault = honest) -> Fault:
    """The fault for the first question, and `then` for all later ones."""
    faults = iter([fault])

    async def first(forward: Forward) -> web.StreamResponse:
        return await next(faults, then)(forward)

    return first
