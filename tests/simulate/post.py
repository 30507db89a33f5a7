"""What stands still in a crowd: messages, until somebody takes one, and requests in a kitchen,
until they are told how they end. See `simulate.crowd`.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any, Final

from starlette.types import Receive, Scope, Send

from simulate.calls import Call
from simulate.contract import Contract
from simulate.faults import Faults
from simulate.loop import Loop
from simulate.network import Network, Wire
from simulate.oracle import Oracle
from simulate.shop import WORD, answer
from simulate.store import CALL
from simulate.transfers import Transfers

HOST: Final = "shop.example"


class Post(Network):
    """A network whose messages lie until somebody takes one."""

    def __init__(self, loop: Loop, faults: Faults, oracle: Oracle, random: Random) -> None:
        super().__init__(loop, faults, oracle, Transfers(oracle, Contract(loop.time)), random)
        self.mail: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []

    def later(self, act: Callable[..., Any], *told: Any) -> None:
        self.mail.append((act, told))

    def deliver(self, at: int) -> None:
        """One message; of those of one connection the first, for they keep their order."""
        act, told = self.take(at)
        self.context.run(act, *told)

    def take(self, at: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        sender = _sender(self.mail[at][0])
        if isinstance(sender, Call):
            at = next(n for n, (act, _) in enumerate(self.mail) if _sender(act) is sender)
        return self.mail.pop(at)


def _sender(act: Callable[..., Any]) -> object:
    return act.__self__  # type: ignore[attr-defined]


class Line(Wire):
    """The agent's end of it."""

    def _send(self, call: Call) -> None:
        self._network.later(self._network.dispatch, call, call.request.url.host)


class Kitchen:
    """The app. Each request waits to be told how it ends."""

    def __init__(self, loop: Loop, oracle: Oracle) -> None:
        self._loop, self._oracle = loop, oracle
        self._runs = 0
        self.waiting: list[asyncio.Future[str]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = CALL.get()
        assert asked is not None
        self._runs += 1
        name, payment = f"{HOST}/{self._runs}", scope["payment"]
        run = self._oracle.ran(name, asked)
        is_stream = scope["path"].startswith("/stream")
        if is_stream:
            headers = [(b"x-run", name.encode()), (b"x-metered", b"1")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
        end = await self._told()
        if is_stream:
            with suppress(RuntimeError):  # the client has hung up: nothing is charged any more
                payment.charge(WORD if end == "less" else 0 if end == "free" else 4 * WORD)
                run.due = payment.charged
            return await send({"type": "http.response.body", "body": b"", "more_body": False})
        if end == "fails":
            return await answer(send, 500, b"no", "")
        if end != "whole":
            payment.charge(WORD if end == "less" else 0)
        run.due = payment.charged
        await answer(send, 200, b"yes", name)

    async def _told(self) -> str:
        told = self._loop.create_future()
        self.waiting.append(told)
        try:
            return str(await told)
        finally:
            if told in self.waiting:
                self.waiting.remove(told)
