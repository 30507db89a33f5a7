"""The network between agents and workers: HTTP as httpx and ASGI see it, without sockets.

One *call* is one sending of one request to one worker. It may be refused, lost, late, doubled or
recorded by a stranger on its way; its answer may be lost, cut or replaced by a gateway's; its
client may hang up, and either side may die. What a worker has sent leaves even if it dies then.
"""

import asyncio
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any, Final
from zlib import crc32

import httpx
import msgspec
from starlette.types import Message

from paywall.protocol.money import Address
from paywall.protocol.x402 import PAYMENT_SIGNATURE
from simulate.book import Asked
from simulate.calls import Call, Worker
from simulate.faults import Faults
from simulate.loop import Loop, Process, empty_context
from simulate.oracle import Oracle
from simulate.transfers import Authorized, Transfer, Transfers

PATIENCE_SECONDS: Final = 20.0
GATEWAY: Final = (502, 504)
_RUN: Final = b"x-run"
_METERED: Final = b"x-metered"


class Network:
    """All ways of a world. `workers` are those of the provider whose host is named."""

    def __init__(
        self, loop: Loop, faults: Faults, oracle: Oracle, transfers: Transfers, random: Random
    ) -> None:
        self.loop = loop
        self.faults = faults
        self.workers: dict[str, list[Worker]] = {}
        self._oracle = oracle
        self._transfers = transfers
        self._random = random
        self.context = empty_context()

    def later(self, act: Callable[..., Any], *told: Any) -> None:
        """Something arrives after a while, whoever is alive then."""
        self.loop.call_later(self.faults.delay("network"), act, *told, context=self.context)

    def left(self, start: Message, asked: Asked) -> None:
        """The head of an answer leaves a worker; a run and a receipt mean that it was paid."""
        if start["status"] == 402:
            self._oracle.refuses(asked)
        if start["status"] >= 400:
            return
        headers = dict(start["headers"])
        if _RUN in headers and b"payment-response" in headers:
            run = headers[_RUN].decode()
            if asked.transfer:
                self._transfers.left(run, asked)
            else:
                self._oracle.left(run, _METERED in headers)

    def fate_of_answer(self) -> httpx.Response | httpx.TransportError | None:
        if self.faults.strikes("answer lost"):
            return httpx.ReadError("connection reset")
        if self.faults.strikes("gateway error"):
            return httpx.Response(self._random.choice(GATEWAY), content=b"gateway")
        return None

    def worker_of(self, host: str) -> Worker | None:
        alive = [worker for worker in self.workers[host] if worker.alive]
        return self._random.choice(alive) if alive else None

    def dispatch(self, call: Call, host: str) -> None:
        """The sending reaches a worker, if one is there."""
        worker = self.worker_of(host)
        if worker is None:
            call.give_up(httpx.ReadError("nobody is there"))
        else:
            worker.process.spawn(call.serve(worker))

    def watch(self, request: httpx.Request, asked: Asked) -> None:
        """Sees what is paid, and may let a stranger send it again, with its id or without."""
        header = request.headers.get(PAYMENT_SIGNATURE)
        if header is None:
            return
        payload = _seen.decode(b64decode(header)).payload
        if voucher := payload.voucher:
            channel_id = bytes.fromhex(voucher.channel_id[2:])
            self._oracle.signed(channel_id, int(voucher.max_claimable_amount), asked)
        else:
            assert payload.authorization
            self._transfers.signed(payload.authorization.understood(), asked, request)
        if self.faults.strikes("replayed by a stranger"):
            self._oracle.totals.stolen(asked.goal)
            stolen = self._random.choice((header, _without_id(header)))
            copy = httpx.Request(request.method, request.url, headers={PAYMENT_SIGNATURE: stolen})
            seconds = self._random.choice((0.01, 1.0, 30.0, 400.0)) * self._random.random()
            self.loop.call_later(seconds, self._replay, copy, asked.transfer, context=self.context)

    def _replay(self, request: httpx.Request, transfer: bytes) -> None:
        call = Call(self, request, Asked(0, transfer=transfer))
        call.head.add_done_callback(_forget)
        self.dispatch(call, request.url.host)

    async def again(self, transfer: Transfer) -> int:
        """Sends a transfer once more, as its payer would, and returns the answer's status."""
        call = Call(self, transfer.request, Asked(0, transfer=transfer.told.nonce))
        self.dispatch(call, transfer.request.url.host)
        return (await call.head).status_code


class _Voucher(msgspec.Struct, rename="camel"):
    channel_id: str
    max_claimable_amount: str


class _Authorization(msgspec.Struct, rename={"payer": "from", "valid_before": "validBefore"}):
    payer: str
    nonce: str
    valid_before: str

    def understood(self) -> Authorized:
        payer = Address(bytes.fromhex(self.payer[2:]))
        return Authorized(payer, bytes.fromhex(self.nonce[2:]), int(self.valid_before))


class _Payload(msgspec.Struct):
    voucher: _Voucher | None = None
    authorization: _Authorization | None = None


class _Payment(msgspec.Struct):
    payload: _Payload


_seen = msgspec.json.Decoder(_Payment)


def _without_id(header: str) -> str:
    """The payment without what names it: nobody has signed that."""
    payment = msgspec.json.decode(b64decode(header))
    payment.pop("extensions", None)
    return b64encode(msgspec.json.encode(payment)).decode()


def _forget(head: "asyncio.Future[httpx.Response]") -> None:
    head.exception()


class Wire(httpx.AsyncBaseTransport):
    """What the agent's paying transport stands on, in place of a connection pool."""

    def __init__(self, network: Network, process: Process, goal: Callable[[], int]) -> None:
        self._network = network
        self._process = process
        self._goal = goal

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        network, faults = self._network, self._network.faults
        if faults.strikes("connection refused") or not network.worker_of(request.url.host):
            await network.loop.pause(faults.delay("network"))
            raise httpx.ConnectError("connection refused")
        name = crc32(request.headers.get(PAYMENT_SIGNATURE, "").encode())
        call = Call(network, request, Asked(self._goal(), name))
        self._process.on_death[call] = call.hang_up
        network.watch(request, call.asked)
        if not faults.strikes("request lost"):
            self._send(call)
        if faults.strikes("request duplicated"):
            twin = Call(network, request, replace(call.asked, copy=True))
            twin.head.add_done_callback(_forget)
            self._send(twin)
        timer = network.loop.call_later(
            PATIENCE_SECONDS, call.give_up, httpx.ReadTimeout("no answer came")
        )
        try:
            return await call.head
        except (httpx.TransportError, asyncio.CancelledError):
            call.hang_up()
            raise
        finally:
            timer.cancel()
            self._process.on_death.pop(call, None)

    def _send(self, call: Call) -> None:
        seconds = self._network.faults.delay("network")
        if self._network.faults.strikes("request delayed"):
            seconds += 5.0
        self._network.loop.call_later(
            seconds,
            self._network.dispatch,
            call,
            call.request.url.host,
            context=self._network.context,
        )
