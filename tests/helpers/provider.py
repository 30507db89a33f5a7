"""A provider to attack: a chain in memory, an agent that signs anything, and ASGI by hand.

Nothing here has a socket. `Ledger` is a `Chain` whose faults are switched on by a test; `Agent`
makes payment headers, honest or not; `ask` plays the server for one request and returns all that
the app sent. Prices in these tests are `PRICE` unless a test says otherwise.
"""

import asyncio
import base64
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

import msgspec
from coincurve import PrivateKey
from msgspec import Raw
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from helpers.channels import ASSET, CONFIG, DELEGATE, DOMAIN, NETWORK, PAYER, TERMS
from paywall.asgi import Paywall
from paywall.chain import Mined
from paywall.gate import Gate
from paywall.prices import Price
from paywall.protocol import eip712
from paywall.protocol.channel import ChainState, Channel, ChannelConfig, Voucher
from paywall.protocol.claims import Batch
from paywall.protocol.errors import ChainUnavailable, Reverted, StoreUnavailable
from paywall.protocol.money import Address
from paywall.protocol.schemes import batch
from paywall.protocol.x402 import (
    VERSION,
    PaymentPayload,
    encode_header,
    encode_json,
    show_address,
)
from paywall.stores.memory import MemoryStore

PRICE: Final = 1_000
PRICED: Final = "$0.001"
HOST: Final = (b"host", b"api.example")

Headers = list[tuple[bytes, bytes]]


@dataclass
class Clock:
    """Unix seconds that move when a test says so."""

    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


async def turns(number: int = 5) -> None:
    """Lets everybody else go on for a few steps."""
    for _ in range(number):
        await asyncio.sleep(0)


async def until(holds: Callable[[], object]) -> None:
    """Lets everybody else go on until something is so."""
    for _ in range(200):
        if holds():
            return
        await asyncio.sleep(0)
    raise AssertionError("it did not come to that")


# -- Chain and store -----------------------------------------------------------------------------


class Ledger:
    """A chain in a dict. `faults` maps a verb to the exception that it raises; `gates` to an event
    that it waits for; `lag` is how many readings still show the chain as it was before."""

    network = NETWORK
    receiver_authorizer = TERMS.receiver_authorizer

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.block = 1
        self.states: dict[bytes, ChainState] = {}
        self.faults: dict[str, Exception] = {}
        self.gates: dict[str, asyncio.Event] = {}
        self.calls: list[str] = []
        self.lag = 0
        self._before: tuple[int, dict[bytes, ChainState]] = (1, {})
        self._used: set[bytes] = set()

    def fund(self, channel_id: bytes, amount: int) -> None:
        """Somebody fills a channel and tells nobody."""
        known = self.states.get(channel_id, _EMPTY)
        self.change(channel_id, balance=known.balance + amount)

    def change(self, channel_id: bytes, **fields: int) -> None:
        self._before = (self.block, dict(self.states))
        self.block += 1
        known = self.states.get(channel_id, _EMPTY)
        self.states[channel_id] = msgspec.structs.replace(known, **fields)

    async def _called(self, verb: str) -> None:
        self.calls.append(verb)
        if verb in self.gates:
            await self.gates[verb].wait()
        await asyncio.sleep(0)
        if verb in self.faults:
            raise self.faults[verb]

    async def open(self) -> None:
        await self._called("open")

    async def close(self) -> None:
        self.calls.append("close")

    async def channel(self, channel_id: bytes) -> ChainState:
        await self._called("channel")
        block, states = self.block, self.states
        if self.lag:
            self.lag -= 1
            block, states = self._before
        return msgspec.structs.replace(
            states.get(channel_id, _EMPTY), block=block, read_at_ms=int(self.clock() * 1000)
        )

    async def deposit(self, deposit: batch.Deposit) -> Mined | None:
        await self._called("deposit")
        nonce = deposit.authorization().authorization_nonce
        if nonce in self._used:
            return None
        self._used.add(nonce)
        self.fund(deposit.channel_id, deposit.amount)
        return self._mined()

    async def refund(self, channel: Channel, amount: int) -> Mined:
        """Uses the nonce up, also where less is left, and then does as a node does."""
        await self._called("refund")
        state = self.states[channel.channel_id]
        claimed = max(state.claimed, channel.charged)
        if claimed > state.balance:
            raise Reverted("more is claimed than there is")
        moved = min(amount, state.balance - claimed)
        self.change(
            channel.channel_id,
            balance=state.balance - moved,
            claimed=claimed,
            refund_nonce=state.refund_nonce + 1,
        )
        if moved != amount:
            raise ChainUnavailable("it did not move what it should have")
        return self._mined()

    def _mined(self) -> Mined:
        return Mined(self.block.to_bytes(32, "big"), self.block, 1, 1)

    async def claim(self, batch: Batch) -> Mined:
        raise NotImplementedError

    async def settle(self, receiver: Address, token: Address) -> Mined | None:
        raise NotImplementedError

    async def token_balance(self, token: Address, holder: Address) -> int:
        raise NotImplementedError


_EMPTY: Final = ChainState(0, 0, 0, 0, 0, 0, 0)


class FaultyStore(MemoryStore):
    """A store whose verbs can be switched off: before they act, or (`lost`) after they have."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        super().__init__(clock)
        self.down: set[str] = set()
        self.lost: set[str] = set()

    async def _through(self, verb: str, work: Callable[[], Awaitable[Any]]) -> Any:
        """Takes its time before and after, as a store over a network does."""
        await asyncio.sleep(0)
        if verb in self.down:
            raise StoreUnavailable(f"redis://:hunter2@db.internal:6379 does not {verb}")
        result = await work()
        await asyncio.sleep(0)
        if verb in self.lost:
            raise StoreUnavailable(f"redis://:hunter2@db.internal:6379 lost its answer to {verb}")
        return result

    async def channel(self, *args: Any) -> Any:
        return await self._through("channel", partial(super().channel, *args))

    async def reserve(self, *args: Any) -> Any:
        return await self._through("reserve", partial(super().reserve, *args))

    async def charge(self, *args: Any) -> Any:
        return await self._through("charge", partial(super().charge, *args))

    async def release(self, *args: Any) -> Any:
        return await self._through("release", partial(super().release, *args))

    async def renew(self, *args: Any) -> Any:
        return await self._through("renew", partial(super().renew, *args))

    async def take(self, *args: Any) -> Any:
        return await self._through("take", partial(super().take, *args))

    async def record(self, *args: Any) -> Any:
        return await self._through("record", partial(super().record, *args))

    async def begin_refund(self, *args: Any) -> Any:
        return await self._through("begin_refund", partial(super().begin_refund, *args))

    async def end_refund(self, *args: Any) -> Any:
        return await self._through("end_refund", partial(super().end_refund, *args))


# -- The agent -----------------------------------------------------------------------------------


@dataclass
class Agent:
    """Somebody with a channel. `clock` dates its deposits; everything else it is told to sign."""

    config: ChannelConfig = CONFIG
    clock: Callable[[], float] = time.time
    key: PrivateKey = DELEGATE
    payer_key: PrivateKey = PAYER
    channel_id: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.channel_id = self.config.channel_id(NETWORK)

    def sign(self, total: int) -> Voucher:
        return batch.sign_voucher(self.key, DOMAIN, self.channel_id, total)

    def deposit(self, amount: int, salt: int = 1) -> batch.Deposit:
        before = int(self.clock()) + 300
        unsigned = batch.Deposit(self.channel_id, self.config, amount, 0, before, salt, b"")
        digest = unsigned.authorization().receive_digest(TERMS.token_domain())
        return replace(unsigned, signature=eip712.sign(self.payer_key, digest))

    def pay(self, total: int, price: int = PRICE) -> str:
        """A payment header with a voucher."""
        wire = batch.config_wire(self.config)
        return _header(price, batch.voucher_payload(wire, self.channel_id, self.sign(total)))

    def fill(self, total: int, amount: int = 50_000, price: int = PRICE, salt: int = 1) -> str:
        """A payment header with a deposit and the voucher that it is to save."""
        wire = batch.config_wire(self.config)
        deposit = self.deposit(amount, salt)
        return _header(price, batch.deposit_payload(wire, self.sign(total), deposit))

    def refund(self, total: int, amount: int | None = None, price: int = PRICE) -> str:
        """A payment header that asks for money back."""
        wire = batch.config_wire(self.config)
        voucher = self.sign(total)
        return _header(price, batch.refund_payload(wire, self.channel_id, voucher, amount))


def _header(price: int, payload: Raw) -> str:
    accepted = Raw(encode_json(TERMS.offer(price).requirements))
    return encode_header(PaymentPayload(x402_version=VERSION, accepted=accepted, payload=payload))


def paying(header: str) -> Headers:
    return [(b"payment-signature", header.encode())]


def decoded(header: str) -> dict[str, Any]:
    """A payment header of ours as JSON."""
    value: dict[str, Any] = json.loads(base64.b64decode(header, validate=True))
    return value


def header_of(message: Mapping[str, Any]) -> str:
    """The opposite of `decoded`."""
    return base64.b64encode(json.dumps(message).encode()).decode()


# -- The provider --------------------------------------------------------------------------------


def gate_of(store: MemoryStore, ledger: Ledger, clock: Callable[[], float]) -> Gate:
    return Gate(TERMS, store, ledger, clock)


def provider(app: ASGIApp, prices: Mapping[str, Price] | None = None, **options: Any) -> Paywall:
    """The app behind a paywall with the terms of these tests; the agent's channel is funded."""
    ledger = options.pop("chain", None) or Ledger()
    store = options.pop("store", None) or FaultyStore()
    wall = Paywall(
        app,
        prices=prices if prices is not None else {"/priced": PRICED},
        pay_to=show_address(TERMS.pay_to),
        asset=ASSET,
        chain=ledger,
        store=store,
        min_deposit="$0.01",
        max_deposit="$1",
        withdraw_delay_seconds=TERMS.withdraw_delay_seconds,
        **options,
    )
    if not ledger.states:
        ledger.fund(Agent().channel_id, 50_000)
    return wall


async def record_of(wall: Paywall, agent: Agent | None = None) -> Channel:
    """What the provider has written down of a channel."""
    store = wall.gate.store
    assert isinstance(store, MemoryStore)
    return store._records[(agent or Agent()).channel_id]


def answering(
    status: int = 200, body: bytes = b"served", headers: Iterable[tuple[bytes, bytes]] = ()
) -> ASGIApp:
    """An app with one answer for everything, which never looks at the request."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": list(headers)})
        await send({"type": "http.response.body", "body": body})

    return app


# -- ASGI by hand --------------------------------------------------------------------------------


@dataclass
class Answer:
    """What an app sent in one request, message by message."""

    messages: list[Message] = field(default_factory=list)

    @property
    def status(self) -> int:
        status: int = self.messages[0]["status"]
        return status

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages[1:])

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def all(self, name: str) -> list[str]:
        wanted = name.lower().encode()
        return [v.decode() for k, v in self.messages[0]["headers"] if k.lower() == wanted]

    def header(self, name: str) -> str | None:
        found = self.all(name)
        assert len(found) < 2, f"{name} is there more than once"
        return found[0] if found else None

    @property
    def quote(self) -> dict[str, Any]:
        return decoded(self.header("payment-required") or "")

    @property
    def receipt(self) -> dict[str, Any]:
        return decoded(self.header("payment-response") or "")


class Client:
    """The other end of one request: what it has sent, and when it hangs up.

    `uploads` are the messages that it sends; after them `receive` waits until `hang_up`. A server
    with `forgetful` says that the client is gone once only, and before that gives the upload.
    """

    def __init__(self, uploads: Iterable[Message] | None = None, forgetful: bool = False) -> None:
        default: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]
        self.uploads = list(default if uploads is None else uploads)
        self.answer = Answer()
        self.reads = 0
        self.arrived = asyncio.Event()
        self._gone = asyncio.Event()
        self._forgetful = forgetful

    def hang_up(self) -> None:
        self._gone.set()

    async def receive(self) -> Message:
        self.reads += 1
        if self._gone.is_set() and not self._forgetful:
            return {"type": "http.disconnect"}
        if self.uploads:
            return self.uploads.pop(0)
        await self._gone.wait()
        if self._forgetful:
            self._gone.clear()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.answer.messages.append(message)
        self.arrived.set()


def scope_of(
    path: str = "/priced",
    method: str = "GET",
    headers: Iterable[tuple[bytes, bytes]] = (),
    **fields: Any,
) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": fields.pop("raw_path", path.encode("utf-8", "surrogatepass")),
        "root_path": "",
        "query_string": b"",
        "scheme": "http",
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 5),
        "headers": [HOST, *headers],
        "state": {},
        **fields,
    }


async def ask(
    app: ASGIApp,
    path: str = "/priced",
    method: str = "GET",
    headers: Iterable[tuple[bytes, bytes]] = (),
    client: Client | None = None,
    body: bytes = b"",
    **fields: Any,
) -> Answer:
    """One request from its beginning to its end."""
    client = client or Client([{"type": "http.request", "body": body, "more_body": False}])
    await app(scope_of(path, method, headers, **fields), client.receive, client.send)
    return client.answer


async def buy(app: ASGIApp, total: int, path: str = "/priced", **fields: Any) -> Answer:
    """One request that is paid with a voucher for `total`."""
    return await ask(app, path, headers=paying(Agent().pay(total)), **fields)
