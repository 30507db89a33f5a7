"""A hostile provider for tests of the agent, and an audit of all that left it.

A trick is a function of the villain and of the request that it answers. `Timing` says when it
begins: at first sight, in answer to the first payment, or after one good purchase. From then on
every answer is the trick's. The villain is honest otherwise, in both schemes, and keeps everything
that it is sent. The audit reads no word of the wallet's books: it counts what was signed.
"""

import base64
import io
import json
import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

import httpx
from msgspec import Raw

from helpers.agent import (
    ASSET,
    KEY,
    NOW,
    ORIGIN,
    PRICE,
    Json,
    Sent,
    encode,
    header_of,
    make_wallet,
    offer,
    read_json,
    read_payment,
    receipt_json,
    required,
)
from paywall.client import Client
from paywall.protocol import sign_in
from paywall.protocol.errors import AgentError
from paywall.protocol.limits import DEFAULT_TIMEOUT_SECONDS
from paywall.protocol.schemes import exact
from paywall.wallet import Wallet

URL: Final = f"{ORIGIN}/x"
PER_REQUEST: Final = 10_000
TOTAL: Final = 900_000
MAX_DEPOSIT: Final = 500_000
WEEK_SECONDS: Final = 7 * 86_400
IDS: Final = {"payment-identifier": {"info": {"required": False}}}

PAYING: Final = ("payment-signature", "x-payment", sign_in.HEADER)
"""Headers that are for one origin, and for nobody else to see."""

BATCH: Final = "batch-settlement"
EXACT: Final = "exact"


class Timing(Enum):
    """When the trick begins."""

    FIRST = "first"
    AFTER_PAYMENT = "after_payment"
    AFTER_A_GOOD_ONE = "after_a_good_one"


Trick = Callable[["Villain", httpx.Request], httpx.Response]


@dataclass
class Villain:
    """A provider at ORIGIN; elsewhere, somebody who only listens."""

    scheme: str
    timing: Timing
    trick: Trick
    payments: list["Paid"] = field(default_factory=list)
    unpaid: int = 0
    elsewhere: list[httpx.Request] = field(default_factory=list)
    proofs: list[str] = field(default_factory=list)
    """What was signed to sign in."""
    call: int = 0
    """The number of the caller's own request, kept by who calls."""
    asked: int = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if str(request.url.copy_with(path="/", query=None)) != f"{ORIGIN}/":
            self.elsewhere.append(request)
            return httpx.Response(200)
        self.asked += 1
        self.proofs += request.headers.get_list(sign_in.HEADER)
        header = header_of(request)
        began = self._began(header)
        if header:
            self.payments.append(read(header, self.call))
        else:
            self.unpaid += 1
        return self.trick(self, request) if began else self.honest(request)

    def _began(self, header: str | None) -> bool:
        if self.timing is Timing.FIRST:
            return True
        if self.timing is Timing.AFTER_PAYMENT:
            return bool(self.payments) or header is not None
        return len(self.payments) > 0 and (self.call > 0)

    # -- Being honest ------------------------------------------------------------------------------

    def offer(self, price: int = PRICE, **changes: object) -> Json:
        """One way to pay, in the villain's scheme; of `extra` only what the scheme has."""
        if self.scheme == BATCH:
            return offer(price, **changes)
        extra = {"name": ASSET.name, "version": ASSET.version} | changes.pop("extra", {})  # type: ignore[operator]
        return offer(price, scheme=EXACT) | {"extra": extra} | changes

    def quote(self, *offers: Json, **changes: object) -> httpx.Response:
        return required(*(offers or (self.offer(),)), **{"extensions": IDS, **changes})  # type: ignore[arg-type]

    def honest(self, request: httpx.Request) -> httpx.Response:
        return self.served() if header_of(request) else self.quote()

    def receipt(self, charged: int | None = None, total: int | None = None, **more: object) -> Json:
        """A receipt for the last payment; by default a true one."""
        last = self.payments[-1]
        if last.sent is None:
            told = {"success": True, "transaction": "0x" + "ab" * 32, "network": ASSET.network}
            return told | more
        price = last.price if charged is None else charged
        return receipt_json(price, last.amount if total is None else total, last.channel, **more)

    def served(self, told: Json | None = None, status: int = 200) -> httpx.Response:
        header = encode(self.receipt() if told is None else told)
        return httpx.Response(status, headers={"payment-response": header}, json={"paid": True})


@dataclass(frozen=True)
class Paid:
    """A payment as the villain has it: every signature good, or the test fails here."""

    call: int
    header: str
    accepted: Json
    sent: Sent | None
    transfer: exact.ExactPayment | None

    @property
    def price(self) -> int:
        return int(self.accepted["amount"])

    @property
    def amount(self) -> int:
        return self.sent.amount if self.sent else self.price

    @property
    def channel(self) -> str:
        return self.sent.channel if self.sent else ""


def read(header: str, call: int) -> Paid:
    message = json.loads(base64.b64decode(header, validate=True))
    accepted = message["accepted"]
    if accepted["scheme"] == BATCH:
        return Paid(call, header, accepted, read_payment(header), None)
    payment = exact.parse(Raw(json.dumps(message["payload"]).encode()), ASSET.address)
    exact.refuse_unsigned(payment, ASSET)
    return Paid(call, header, accepted, None, payment)


def challenge(origin: str) -> Json:
    """What asks an agent to sign in."""
    info = {"domain": origin.partition("://")[2], "uri": f"{origin}/x", "version": "1"}
    info |= {"nonce": "a" * 16, "issuedAt": "2027-01-15T08:00:00.000Z"}
    chains = [{"chainId": ASSET.network, "type": "eip191"}]
    return {sign_in.EXTENSION: {"info": info, "supportedChains": chains, "schema": {}}}


# -- The scene ---------------------------------------------------------------------------------


@dataclass
class Scene:
    """What happened: what the callers saw, and everything that was written anywhere."""

    villain: Villain
    wallet: Wallet
    errors: list[Exception] = field(default_factory=list)
    answers: list[httpx.Response] = field(default_factory=list)
    written: str = ""


class Wire(httpx.BaseTransport):
    """Sends a body away as a socket does, so that it cannot be sent again."""

    def __init__(self, villain: Villain) -> None:
        self._villain = villain

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.SyncByteStream)
        try:
            body = b"".join(request.stream)
        except httpx.StreamConsumed:
            assert header_of(request) is None, "paid for a body that is gone"
            raise
        assert body == b"once" or request.method == "GET"
        return self._villain(request)


def _chunks() -> Iterator[bytes]:
    yield b"once"


def play(villain: Villain, calls: int = 4, upload: bool = False) -> Scene:
    """So many requests of an agent that goes on whatever happens."""
    wallet = make_wallet(per_request="$0.01", total="$0.9", deposit="$0.5")
    scene = Scene(villain, wallet)
    transport = Wire(villain) if upload else httpx.MockTransport(villain)
    with (
        _everything_written() as log,
        Client(
            wallet=wallet, transport=transport, follow_redirects=True, max_redirects=3
        ) as client,
    ):
        for villain.call in range(calls):
            try:
                body = {"content": _chunks()} if upload else {}
                scene.answers.append(client.request("POST" if upload else "GET", URL, **body))
            except Exception as error:
                scene.errors.append(error)
                log.write(repr(error))
        if scene.errors:  # with all its frames, which is slow: the others are like it
            traceback.print_exception(scene.errors[-1], file=log)
        log.write(f"{wallet!r} {wallet.policy!r} {wallet.books!r} {scene.errors!r}")
    scene.written = log.getvalue()
    return scene


@contextmanager
def _everything_written() -> Iterator[io.StringIO]:
    """All that anybody logs, at the lowest level."""
    log = io.StringIO()
    handler, root = logging.StreamHandler(log), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield log
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


# -- The audit ---------------------------------------------------------------------------------


def audit(scene: Scene) -> None:
    """Nothing above policy was signed, nothing was signed twice, and nothing leaked."""
    _terms_are_allowed(scene.villain)
    _one_price_a_request(scene.villain)
    _no_more_than_the_budget(scene)
    _nothing_leaked(scene)
    _errors_are_ours(scene)


def _terms_are_allowed(villain: Villain) -> None:
    for paid in villain.payments:
        assert 0 < paid.price <= PER_REQUEST
        accepted = paid.accepted
        known = (ASSET.network, "0x" + ASSET.address.hex())
        assert (accepted["network"], accepted["asset"].lower()) == known
        if paid.sent:
            assert 900 <= accepted["extra"]["withdrawDelay"] <= WEEK_SECONDS
            assert paid.sent.deposit <= MAX_DEPOSIT
        if paid.transfer:
            told = paid.transfer.authorization
            assert told.value == paid.price
            assert told.valid_before <= NOW + DEFAULT_TIMEOUT_SECONDS


def _one_price_a_request(villain: Villain) -> None:
    """Of what it holds, the villain can take one price for each call at most.

    Between two signatures a total moves by one unit at least, so that each is a voucher of its own.
    """
    calls = {paid.call for paid in villain.payments}
    dearest = sum(max(p.price for p in villain.payments if p.call == call) for call in calls)
    totals: dict[str, int] = {}
    for paid in villain.payments:
        totals[paid.channel] = max(totals.get(paid.channel, 0), paid.amount)
    transfers = {
        p.transfer.authorization.authorization_nonce: p for p in villain.payments if p.transfer
    }
    by_call = [paid.call for paid in transfers.values()]
    assert len(by_call) == len(set(by_call)), "two transfers for one request"
    taken = sum(amount for channel, amount in totals.items() if channel)
    taken += sum(paid.price for paid in transfers.values())
    assert taken <= dearest + len(villain.payments)


def _no_more_than_the_budget(scene: Scene) -> None:
    villain = scene.villain
    deposits = {p.sent.deposit_key: p.sent.deposit for p in villain.payments if p.sent}
    values = {
        p.transfer.authorization.authorization_nonce: p.price
        for p in villain.payments
        if p.transfer
    }
    could_move = sum(deposits.values()) + sum(values.values())
    assert could_move <= scene.wallet.file.totals().outlay <= TOTAL


def _nothing_leaked(scene: Scene) -> None:
    villain = scene.villain
    for request in villain.elsewhere:
        assert not [name for name in PAYING if name in request.headers]
    for proof in villain.proofs:
        told = read_json(proof)
        assert told["domain"] == ORIGIN.removeprefix("https://")
        assert told["uri"].startswith(f"{ORIGIN}/")
    secret = KEY.hex()
    forms = (
        secret,
        secret.upper(),
        str(int(secret, 16)),
        repr(KEY),
        base64.b64encode(KEY).decode(),
    )
    sent = [f"{r.method} {r.url} {r.headers.raw!r} {r.content!r}" for r in villain.elsewhere]
    sent += [base64.b64decode(paid.header).decode() for paid in villain.payments]
    for text in (scene.written, *sent):
        assert not [form for form in forms if form in text], "the key has leaked"
    for paid in villain.payments:
        assert paid.header not in scene.written, "a payment is in a log or an exception"
        for answer in scene.answers:
            assert not [name for name in PAYING if name in answer.request.headers]
    for request in villain.elsewhere:
        assert not [p for p in villain.payments if p.header in f"{request.url}{request.headers!r}"]


def _errors_are_ours(scene: Scene) -> None:
    """What a caller sees is an error that it can expect, in one printable line of a fair length."""
    for error in scene.errors:
        expected = AgentError | httpx.HTTPError | httpx.InvalidURL | httpx.StreamConsumed
        assert isinstance(error, expected), repr(error)
        if isinstance(error, AgentError):
            assert str(error).isprintable()
            assert len(str(error)) < 2_000
