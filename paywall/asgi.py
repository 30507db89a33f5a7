"""The middleware: put it around any ASGI app and the priced routes cost money.

Pure ASGI. An answer is never buffered: the head is touched, the body goes through. One object
holds the configuration (`Paywall`), another one request's state (`_Exchange`). The charging rule:

    an answer below 400               charged when its head leaves, and the head has the receipt
    any other answer, an exception,   released
    or a client that hung up before the answer began
    a metered route (`upto`)          the head says the ceiling; what the handler has charged is
                                      charged when the stream ends, or breaks

Our own fault is 503 with `Retry-After`, never a fresh 402. A WebSocket on a priced path is refused.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import quote as quote_path

from starlette.datastructures import URL
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from paywall.alarms import Listener, to_log
from paywall.answers import (
    quote_headers,
    refusal_headers,
    send_quote,
    send_refund,
    send_refusal,
    send_repeated,
    send_unavailable,
)
from paywall.chain import Chain
from paywall.collector import collector_of
from paywall.exact_gate import ExactRules
from paywall.exchange import Exchange, Payment, send_withheld
from paywall.gate import Gate
from paywall.prices import ANY, FixedPrice, Price, PriceTable, Rule, UpTo
from paywall.protocol.channel import RefusedByChannel
from paywall.protocol.claims import ClaimPolicy
from paywall.protocol.errors import ConfigurationError, PaymentError, Reason, Refused, Unavailable
from paywall.protocol.limits import MAX_HEADERS, MAX_PAYMENT_HEADER_BYTES, MAX_PRICED_BODY_BYTES
from paywall.protocol.money import USDC, Address, Asset, parse_address
from paywall.protocol.schemes import SCHEMES, batch, exact
from paywall.protocol.schemes.batch import BatchTerms
from paywall.protocol.x402 import Resource, show_bytes
from paywall.quote import Quote
from paywall.receipts import Repeated
from paywall.refunds import Refunded
from paywall.stores import DEFAULT_STORE, Store, open_store

log = logging.getLogger("paywall")

_COLLECT: Final = ClaimPolicy()
_SIGNATURE: Final = b"payment-signature"
_V1: Final = b"x-payment"
_PATH_SIGNS: Final = "/:@!$&'()*+,;=~"
_UNREADABLE: Final = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RecursionError,
    ClientDisconnect,
)
"""What an owner's price function raises at a body that is not what it reads, or that breaks off."""
_OVERRIDES: Final = frozenset((b"x-http-method-override", b"x-http-method", b"x-method-override"))


class Paywall:
    """An ASGI app that charges for the app inside it.

    `prices` maps routes to prices ("$0.001", `upto("$0.01")`, None for free, or an async function
    of the request). `pay_to` is the wallet that is paid, `asset` the token, `chain` the way to its
    network (a `Node`), whose authorizer key signs claims and refunds. `store` is a URL or a Store.
    Amounts such as `min_deposit` are prices. Raises ConfigurationError when it cannot work.

    `schemes` are what is offered: vouchers of a channel first, then single transfers. A transfer is
    a transaction at the provider's cost, so none is offered below `exact_minimum`, nor on a metered
    route; the default is several times what one costs on the usual L2s on an ordinary day.
    `settle_first` has it mined before the handler runs: nothing is served for nothing, and a
    handler that fails has been paid (the same payment is then good for another try).

    Workers claim and settle beside the requests, one of them at a time, as `collect` says; None
    leaves that to `paywall claim --watch`. `alarms` is called with every `paywall.alarms.Alarm`.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        prices: Mapping[str, Price],
        pay_to: str,
        chain: Chain,
        asset: Asset = USDC.base,
        store: str | Store = DEFAULT_STORE,
        min_deposit: str = "$0.10",
        max_deposit: str = "$1000",
        withdraw_delay_seconds: int = 86_400,
        schemes: Sequence[str] = SCHEMES,
        exact_minimum: str = "$0.01",
        settle_first: bool = False,
        public_url: str | None = None,
        description: str | None = None,
        collect: ClaimPolicy | None = _COLLECT,
        alarms: Listener = to_log,
    ) -> None:
        if chain.network != asset.network:
            raise ConfigurationError(f"the chain is {chain.network}, the asset on {asset.network}")
        terms = BatchTerms(
            asset=asset,
            pay_to=_address(pay_to),
            receiver_authorizer=chain.receiver_authorizer,
            withdraw_delay_seconds=withdraw_delay_seconds,
            min_deposit=asset.units(min_deposit),
            max_deposit=asset.units(max_deposit),
        )
        self.app = app
        self.gate = Gate(
            terms,
            open_store(store) if isinstance(store, str) else store,
            chain,
            exact=_exact_rules(schemes, asset.units(exact_minimum), settle_first),
            channels=batch.SCHEME in schemes,
        )
        self._collector = collector_of(self.gate.store, chain, asset, collect, alarms)
        self._table = PriceTable(prices)
        self._public_url = public_url.rstrip("/") if public_url else None
        self._description = description
        self._opening: asyncio.Task[None] | None = None
        self._is_open = False
        for rule in self._table.rules:
            if rule.price is not None and not callable(rule.price):
                units = _units(rule, rule.price, asset)
                self.gate.quote(units, isinstance(rule.price, UpTo))  # no customer should find out

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    # -- Life ------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Opens store and chain, once; also called by the first paid request if nobody did."""
        if self._is_open:
            return
        if self._opening is None or self._opening.done():
            self._opening = asyncio.create_task(self._open())
        await asyncio.shield(self._opening)
        self._is_open = True

    async def _open(self) -> None:
        await self.gate.open()
        if self._collector:
            self._collector.start()

    async def close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._opening = None
            if self._collector:
                await self._collector.close()
            await self.gate.close()

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Opens before the app starts, closes after it has stopped; also for an app without one."""
        first: Message | None = await receive()
        try:
            await self.open()
        except PaymentError as error:
            return await send({"type": "lifespan.startup.failed", "message": str(error)})
        started = False

        async def replay() -> Message:
            nonlocal first
            message, first = first, None
            return message or await receive()

        async def watch(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "lifespan.startup.complete"
            if message["type"] != "lifespan.startup.complete":
                await self.close()
            await send(message)

        try:
            await self.app(scope, replay, watch)
        except Exception:
            if started or first is None:
                await self.close()
                raise
        if not started and first is not None:  # the app has no lifespan: ours alone
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await watch({"type": "lifespan.shutdown.complete"})

    # -- Requests --------------------------------------------------------------------------------

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            rule = self._rule(scope)
            if rule is None:
                return await self.app(scope, receive, send)
            if not self._is_open:
                await self.open()
            price, receive = await _price(rule, scope, receive)
            if price is None:
                return await self.app(scope, receive, send)
            units, metered = _units(rule, price, self.gate.terms.asset), isinstance(price, UpTo)
            quote = self.gate.quote(units, metered)
        except Refused as refusal:
            return await send_refusal(scope, send, refusal)
        except (Unavailable, ConfigurationError) as error:
            log.error("not available: %s", error)
            return await send_unavailable(scope, send)
        await self._priced(quote, metered, scope, receive, send)

    async def _priced(
        self, quote: Quote, metered: bool, scope: Scope, receive: Receive, send: Send
    ) -> None:
        try:
            header = _payment_header(scope)
            if header is None:
                asset = self.gate.terms.asset
                required = quote.header(self._resource(scope), "Payment required")
                return await send_quote(scope, send, asset, quote.price, required, metered)
            admission = await self.gate.admit(header, quote, _asked(scope))
        except Refused as refusal:
            return await self._refuse(scope, send, quote, refusal)
        except Unavailable as error:
            log.error("payment not processed: %s", error)
            return await send_unavailable(scope, send)
        if isinstance(admission, Refunded):
            channel_id = show_bytes(admission.channel_id)
            return await send_refund(scope, send, channel_id, admission.receipt)
        if isinstance(admission, Repeated):
            return await send_repeated(send, admission.answer, admission.receipt)
        await Exchange(self.gate, admission, metered, scope, receive, send).run(self.app)

    async def _refuse(self, scope: Scope, send: Send, quote: Quote, refusal: Refused) -> None:
        if refusal.reason is Reason.SETTLEMENT_PENDING:  # it may be paid: no word of the contrary
            return await send_withheld(self.gate, scope, send, refusal)
        if refusal.reason.status != 402:
            failure = self.gate.failure(refusal)
            return await send_refusal(scope, send, refusal, refusal_headers(failure, refusal))
        required = quote.header(self._resource(scope), refusal.reason.code, refusal)
        # A corrective 402 invites another try; the official clients take a receipt for a final no.
        response = None if isinstance(refusal, RefusedByChannel) else self.gate.failure(refusal)
        await send_refusal(scope, send, refusal, quote_headers(required, response))

    def _rule(self, scope: Scope) -> Rule | None:
        method = scope["method"].upper()
        # Some servers cannot tell the two signs apart and hand on one for the other.
        if any(name.replace(b"_", b"-") in _OVERRIDES for name, _ in scope["headers"]):
            method = ANY
        raw_path = scope.get("raw_path") or b""
        return self._table.find(
            method,
            scope["path"],
            raw_path if b"%" in raw_path else b"",
            scope.get("root_path", ""),
        )

    def _resource(self, scope: Scope) -> Resource:
        """What is quoted. The host is the one that was asked, never a forwarded one on its word:
        a server that trusts its proxy has put the true one into the scope."""
        path = quote_path(scope["path"], safe=_PATH_SIGNS)
        if self._public_url:
            url = self._public_url + path
        else:
            url = str(URL(scope={**scope, "path": path, "query_string": b""}))
        if self._description is None:
            return Resource(url)
        return Resource(url, self._description)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            raw_path = scope.get("raw_path") or b""
            path, root = scope["path"], scope.get("root_path", "")
            rule = self._table.find(ANY, path, raw_path if b"%" in raw_path else b"", root)
        except Refused:
            rule = self._table.rules[0]
        if rule is None:
            return await self.app(scope, receive, send)
        await receive()  # websocket.connect
        await send({"type": "websocket.close", "code": 1008, "reason": "payment required"})


def _asked(scope: Scope) -> bytes:
    """What a payment's id is good for: the request, less its headers and body."""
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    return b" ".join((scope["method"].encode(), path, scope.get("query_string", b"")))


def _exact_rules(schemes: Sequence[str], minimum: int, settle_first: bool) -> ExactRules | None:
    unknown = [scheme for scheme in schemes if scheme not in SCHEMES]
    if isinstance(schemes, str) or unknown or not schemes:
        raise ConfigurationError(f"schemes: {schemes!r} is not a choice of {', '.join(SCHEMES)}")
    return ExactRules(minimum, settle_first) if exact.SCHEME in schemes else None


def _address(text: str) -> Address:
    try:
        return parse_address(text)
    except ValueError as error:
        raise ConfigurationError(f"pay_to: {text!r} is not an address") from error


def _units(rule: Rule, price: str | UpTo, asset: Asset) -> int:
    """A price in atomic units. Raises ConfigurationError for one that cannot be paid."""
    text = price.price if isinstance(price, UpTo) else price
    if not isinstance(text, str):
        raise ConfigurationError(f"{rule.pattern!r}: {text!r} is not a price")
    return asset.units(text)


def _payment_header(scope: Scope) -> str | None:
    """The one payment header, or None. Raises Refused for two, a joined one, or an old one."""
    headers = scope["headers"]
    if len(headers) > MAX_HEADERS:
        raise Refused(Reason.HEADER_TOO_LARGE)
    found = [(name, value) for name, value in headers if name in (_SIGNATURE, _V1)]
    if not found:
        return None
    if len(found) > 1 or b"," in found[0][1]:
        raise Refused(Reason.DUPLICATE_PAYMENT)
    name, value = found[0]
    if name == _V1:
        raise Refused(Reason.UNSUPPORTED_VERSION)
    if len(value) > MAX_PAYMENT_HEADER_BYTES:
        raise Refused(Reason.HEADER_TOO_LARGE)
    header: str = value.decode("latin-1")
    return header


async def _price(rule: Rule, scope: Scope, receive: Receive) -> tuple[FixedPrice, Receive]:
    """The price of this request, and a receive that gives the app every byte that pricing read."""
    if not callable(rule.price):
        return rule.price, receive
    replay = _Replay(receive)
    try:
        price = await rule.price(Request(scope, replay.read))
    except ConfigurationError:
        raise
    except _UNREADABLE as error:
        log.info("no price for %s %s: %r", scope["method"], rule.pattern, error)
        raise Refused(Reason.UNPRICEABLE) from error
    return price, replay.again()


class _Replay:
    """Lets a price function read the body, within bounds, and gives the app the same again."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._read: list[Message] = []
        self._size = 0

    async def read(self) -> Message:
        message = await self._receive()
        self._size += len(message.get("body", b""))
        if self._size > MAX_PRICED_BODY_BYTES:
            raise Refused(Reason.BODY_TOO_LARGE)
        self._read.append(message)
        return message

    def again(self) -> Receive:
        if not self._read:
            return self._receive
        messages = iter(self._read)

        async def receive() -> Message:
            return next(messages, None) or await self._receive()

        return receive


def payment_of(request: HTTPConnection | Scope) -> Payment:
    """The payment of the request that a handler is serving. Raises LookupError on a free one."""
    scope = request.scope if isinstance(request, HTTPConnection) else request
    payment = scope.get("payment")
    if not isinstance(payment, Payment):
        raise LookupError("this request was not paid for: its route has no price")
    return payment


__all__ = ["Payment", "Paywall", "payment_of"]
