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
import inspect
import logging
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from typing import Final, Literal

from msgspec import Raw, UnsetType
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from paywall import notices
from paywall.alarms import Listener, both, to_log
from paywall.answers import (
    asking,
    quote_headers,
    refusal_headers,
    send_manifest,
    send_page,
    send_quote,
    send_refund,
    send_refusal,
    send_repeated,
    send_unavailable,
)
from paywall.chain import Chain
from paywall.clock import steady_time
from paywall.collector import collector_of
from paywall.counts import FREE, QUOTED
from paywall.declared import declared_in
from paywall.deposit_gate import DepositRules
from paywall.discovery import MANIFEST_PATH, bazaar, described, manifest
from paywall.entrance import Entrance, origin_of, without_token
from paywall.exact_gate import ExactRules
from paywall.exchange import Exchange, Payment, send_withheld
from paywall.free import FreeExchange
from paywall.gate import Gate
from paywall.kinds import CLOSED, FixedPrice, said
from paywall.notices import News, OnEvent
from paywall.old_payers import answering
from paywall.page import QUOTE, quote_page, wants_page
from paywall.prices import ANY, Price, PriceTable, Rule
from paywall.protocol.channel import RefusedByChannel
from paywall.protocol.claims import ClaimPolicy
from paywall.protocol.errors import ConfigurationError, PaymentError, Reason, Refused, Unavailable
from paywall.protocol.limits import (
    CHANNELS_PER_PAYER,
    DEPOSITS_PER_HOUR,
    MAX_HEADERS,
    MAX_PAYMENT_HEADER_BYTES,
)
from paywall.protocol.money import USDC, Address, Asset, parse_address
from paywall.protocol.payers import PayerLimits
from paywall.protocol.schemes import SCHEMES, batch, exact
from paywall.protocol.schemes.batch import BatchTerms
from paywall.protocol.x402 import Resource, encode_json, show_bytes
from paywall.protocol.x402_v1 import quoted as quoted_in_v1
from paywall.protocol.x402_v1 import upgraded_payment
from paywall.quote import Quote
from paywall.receipts import Admission, Admitted, ExactAdmission, Repeated
from paywall.refunds import Refunded
from paywall.resources import Resources
from paywall.routes import payment_of
from paywall.sights import Scribe, Sight, Sights
from paywall.stores import DEFAULT_STORE, Store, open_store
from paywall.stores.slips import slips_of
from paywall.tariff import Tariff, asked, price_of, tariff_of
from paywall.terms import exchange_with_terms

log = logging.getLogger("paywall")

_COLLECT: Final = ClaimPolicy()
_SIGNATURE: Final = b"payment-signature"
_V1: Final = b"x-payment"
_URL: Final = "\x00url\x00"
"""In place of a URL, where one is to be put; no text of an owner's is like it."""
_OVERRIDES: Final = frozenset((b"x-http-method-override", b"x-http-method", b"x-method-override"))


Exempt = Callable[[Request], Awaitable[bool]]
"""The owner's own check: whether a request may pass without paying."""


class Paywall:
    """An ASGI app that charges for the app inside it.

    `prices` maps routes to prices ("$0.001", `upto("$0.01")`, None for free, or an async function
    of the request). `pay_to` is the wallet that is paid, `asset` the token, `chain` the way to its
    network (a `Node`), whose authorizer key signs claims and refunds. `store` is a URL or a Store.
    Amounts such as `min_deposit` are prices. Raises ConfigurationError when it cannot work.

    Prices may also stand at the routes (`paywall.paid`, `paywall.charge`). What has no price is
    free, or with `unpriced="closed"` not to be had. `exempt` is asked for each priced request
    whether it may pass without paying, as who has paid in another way does.

    `schemes` are what is offered: vouchers of a channel first, then single transfers. A transfer is
    a transaction at the provider's cost, so none is offered below `exact_minimum`, nor on a metered
    route; the default is several times what one costs on the usual L2s on an ordinary day.
    `settle_first` has it mined before the handler runs: nothing is served for nothing, and a
    handler that fails has been paid (the same payment is then good for another try).

    With `v1` these transfers can also be paid in version 1 of x402, whose quote stands in the body
    of a 402 beside our own words. A browser gets a page instead of that body, unless `page` is off.

    With `discovery` the prices stand at `/.well-known/x402.json`, and in a FastAPI app's OpenAPI
    document; `bazaar` has quotes say how a resource is called, for facilitators that list it.

    Workers claim and settle beside the requests, one of them at a time, as `collect` says; None
    leaves that to `paywall claim --watch`. `alarms` is called with every `paywall.alarms.Alarm`,
    and `on_event` with every `paywall.notices.Notice` (a `Webhook` is one such listener).

    A deposit is a transaction at the provider's cost: of each payer, so many an hour are made that
    follow no use of the last one, and into so many channels. `instant_up_to` lets the first request
    of a channel run before its deposit is mined, as long as what all workers have served so, and
    what was lost by it, stays below this.
    `clock` gives Unix seconds by which deadlines are kept.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        prices: Mapping[str, Price] | None = None,
        pay_to: str,
        chain: Chain,
        asset: Asset = USDC.base,
        store: str | Store = DEFAULT_STORE,
        min_deposit: str = "$0.10",
        max_deposit: str = "$1000",
        deposits_per_hour: int = DEPOSITS_PER_HOUR,
        channels_per_payer: int = CHANNELS_PER_PAYER,
        instant_up_to: str | None = None,
        withdraw_delay_seconds: int = 86_400,
        schemes: Sequence[str] = SCHEMES,
        exact_minimum: str = "$0.01",
        settle_first: bool = False,
        v1: bool = True,
        page: bool = True,
        public_url: str | None = None,
        description: str | None = None,
        unpriced: Literal["free", "closed"] = "free",
        discovery: bool = True,
        bazaar: bool = False,
        exempt: Exempt | None = None,
        collect: ClaimPolicy | None = _COLLECT,
        alarms: Listener = to_log,
        on_event: OnEvent | None = None,
        clock: Callable[[], float] = steady_time,
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
        self.news = News(on_event)
        alarms = both(alarms, self.news.alarm)
        self.gate = Gate(
            terms,
            open_store(store) if isinstance(store, str) else store,
            chain,
            clock,
            exact=_exact_rules(schemes, asset.units(exact_minimum), settle_first),
            channels=batch.SCHEME in schemes,
            deposits=DepositRules(
                PayerLimits(deposits_per_hour, channels_per_payer),
                asset.units(instant_up_to) if instant_up_to is not None else 0,
                alarms,
            ),
            news=self.news,
        )
        self.sights = Sights(self.news)
        self._scribe = Scribe(self.sights, slips_of(self.gate.store))
        self._collector = collector_of(
            self.gate.store, chain, asset, collect, alarms, clock, self.news
        )
        self._prices = prices or {}
        self._closed = _is_closed(unpriced)
        self._exempt = exempt
        self._entrance = Entrance(self.gate.store, asset.network, origin_of(public_url), clock)
        self._table: PriceTable | None = None
        self._around_url = lru_cache(maxsize=1024)(self._asking)
        self._fixed: dict[tuple[str, Price], tuple[Tariff, Quote]] = {}
        self._resources = Resources(public_url, description)
        self._v1 = v1
        self._discovery = discovery
        self._bazaar = bazaar
        self._page = page
        self._opening: asyncio.Task[None] | None = None
        self._is_open = False
        if prices is not None:
            self._checked(PriceTable(prices, closed=self._closed))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    # -- Prices ----------------------------------------------------------------------------------

    @property
    def table(self) -> PriceTable:
        """The one price table: what is written here, and then what the app's routes declare."""
        return self._price_table({})

    def reprice(
        self, prices: Mapping[str, Price], unpriced: Literal["free", "closed"] = "free"
    ) -> None:
        """Takes another price table from the next request on; what is running keeps its price.

        Raises ConfigurationError; then the prices stay as they are.
        """
        closed = _is_closed(unpriced)
        self._table = self._checked(PriceTable(prices, closed=closed))

    def _price_table(self, scope: Scope) -> PriceTable:
        """Read once, when the app starts. Raises ConfigurationError."""
        if self._table is None:
            app = self._declaring_app(scope)
            declared = declared_in(app) if app else []
            table = PriceTable(self._prices, declared, self._closed)
            self._table = self._checked(table)
            self._entrance.warn(rule.price for rule in table.rules)
            if app and self._discovery and "fastapi" in sys.modules:
                # By name, so that nobody pays for FastAPI who does not use it.
                install = import_module("paywall.discovery_fastapi").install
                install(app, lambda schema: described(self.gate, self.table, schema))
        return self._table

    def _declaring_app(self, scope: Scope) -> Starlette | None:
        """The app whose routes may have prices: the one inside, or whose middleware we are."""
        if isinstance(self.app, Starlette):
            return self.app
        app = scope.get("app")
        if isinstance(app, Starlette) and any(
            inspect.isclass(one.cls) and issubclass(one.cls, Paywall) for one in app.user_middleware
        ):
            return app
        return None

    def _checked(self, table: PriceTable) -> PriceTable:
        """No customer should be the one who finds a price that cannot be paid."""
        for rule in table.rules:
            price = rule.price
            if price not in (None, CLOSED) and not callable(price):
                quoted = self._quoted(rule, price)
                assert quoted is not None, "it has a price"
                self._fixed[rule.pattern, price] = quoted
        return table

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
        self._scribe.start()
        if self._collector:
            self._collector.start()

    async def close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._opening = None
            if self._collector:
                await self._collector.close()
            await self._entrance.close()
            await self._scribe.close()
            await self.gate.close()
            await self.news.close()

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Opens before the app starts, closes after it has stopped; also for an app without one."""
        first: Message | None = await receive()
        try:
            self._price_table(scope)
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
        if self._discovery and scope["path"].endswith(MANIFEST_PATH) and _is_ours(scope):
            return await self._manifest(scope, send)
        quoted = rule = None
        try:
            rule = self._rule(scope)
            if rule is not None:
                if not self._is_open:
                    await self.open()
                quoted = self._fixed.get((rule.pattern, rule.price))
                if quoted is None:
                    price, receive = await price_of(rule, scope, receive)
                    quoted = self._quoted(rule, price)
        except Refused as refusal:
            self.sights.refused(rule.pattern if rule else "", refusal.reason)
            return await send_refusal(scope, send, refusal)
        except (Unavailable, ConfigurationError) as error:
            log.error("not available: %s", error)
            return await send_unavailable(scope, send)
        if quoted is None:
            return await self.app(scope, receive, send)
        tariff, quote = quoted
        sight = self.sights.watch(tariff.name, send)
        try:
            await self._sell(quote, tariff, scope, receive, sight)
        finally:
            sight.close()

    async def _sell(
        self, quote: Quote, tariff: Tariff, scope: Scope, receive: Receive, sight: Sight
    ) -> None:
        if self._exempt:
            exempt, receive = await asked(self._exempt, scope, receive)
            if exempt:
                sight.outcome = FREE
                free = FreeExchange(tariff.units, self.gate.terms.asset, scope, sight)
                return await free.run(self.app, receive)
        if tariff.terms:
            return await self._with_terms(quote, tariff, scope, receive, sight)
        await self._priced(quote, tariff, scope, receive, sight)

    def _quoted(self, rule: Rule, price: FixedPrice) -> tuple[Tariff, Quote] | None:
        """A price and the ways to pay it; None when it is free."""
        tariff = tariff_of(rule, price, self.gate.terms.asset)
        return (tariff, self.gate.quote(tariff.units, tariff.metered)) if tariff else None

    async def _with_terms(
        self, quote: Quote, tariff: Tariff, scope: Scope, receive: Receive, sight: Sight
    ) -> None:
        """A request that may be free, by a pass or because it is one of the first."""
        try:
            leave = await self._entrance.leave(tariff, scope)
        except Refused as refusal:
            sight.refused(refusal.reason)
            more = self._challenge(tariff, scope)
            required = quote.header(self._resources.of(scope), refusal.reason.code, more=more)
            return await send_refusal(scope, sight, refusal, quote_headers(required, None))
        except Unavailable as error:
            log.error("not available: %s", error)
            sight.unavailable()
            return await send_unavailable(scope, sight)
        scope = without_token(scope)
        if leave is None:
            return await self._priced(quote, tariff, scope, receive, sight)
        sight.outcome = FREE
        asset = self.gate.terms.asset
        free = FreeExchange(tariff.units, asset, scope, sight, leave.payer, leave.give_back)
        await free.run(self.app, receive)

    async def _manifest(self, scope: Scope, send: Send) -> None:
        """The prices, for machines that look before they ask. Anybody may keep it for a minute."""
        here = self._resources.of({**scope, "path": "/"})
        body = manifest(self.gate, self._price_table(scope), here)
        await send_manifest(scope, send, body)

    def _challenge(self, tariff: Tariff, scope: Scope) -> Mapping[str, Raw]:
        return (
            self._entrance.challenge(tariff, self._resources.of(scope).url) if tariff.terms else {}
        )

    async def _priced(
        self, quote: Quote, tariff: Tariff, scope: Scope, receive: Receive, sight: Sight
    ) -> None:
        send: Send = sight
        try:
            found = _payment_header(scope)
            if found is None:
                sight.outcome = QUOTED
                return await self._quote(quote, tariff, scope, send)
            name, header = found
            if name == _V1:
                if not self._v1:
                    raise Refused(Reason.UNSUPPORTED_VERSION)
                send = answering(send)
                header = upgraded_payment(header, quote.accepts)
            admission = await self.gate.admit(header, quote, _asked(scope), tariff.name)
            exchange = await self._exchange(admission, tariff, scope, receive, send)
        except Refused as refusal:
            sight.refused(refusal.reason)
            return await self._refuse(scope, send, quote, refusal)
        except Unavailable as error:
            log.error("payment not processed: %s", error)
            sight.unavailable()
            return await send_unavailable(scope, send)
        if exchange is not None:
            return await exchange.run(self.app)
        if isinstance(admission, Refunded):
            channel_id = show_bytes(admission.channel_id)
            sight.outcome = FREE
            self.news.tell(notices.Refunded(self.news.now, channel_id))
            return await send_refund(scope, send, channel_id, admission.receipt)
        assert isinstance(admission, Repeated), "there is nothing else"
        await send_repeated(send, admission.answer, admission.receipt)

    async def _exchange(
        self,
        admission: Admitted | Refunded | Repeated,
        tariff: Tariff,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> Exchange | None:
        """A request that the handler is to serve. Raises Unavailable; then nothing is held."""
        if not isinstance(admission, Admission | ExactAdmission):
            return None
        if tariff.terms:
            gate, entrance = self.gate, self._entrance
            return await exchange_with_terms(
                gate, entrance, tariff, admission, scope, receive, send
            )
        return Exchange(self.gate, admission, tariff.metered, scope, receive, send)

    async def _quote(self, quote: Quote, tariff: Tariff, scope: Scope, send: Send) -> None:
        resource, more = self._resources.of(scope), self._challenge(tariff, scope)
        if self._bazaar:
            more = {**more, **bazaar(scope["method"])}
        required = quote.header(resource, "Payment required", more=more)
        if self._page and wants_page(scope):
            page = quote_page(quote, self.gate.terms.asset, tariff.metered, resource)
            return await send_page(scope, send, page, required, QUOTE.headers)
        around = self._around_url(quote, tariff, resource.description)
        await send_quote(scope, send, encode_json(resource.url).join(around), required)

    def _asking(
        self, quote: Quote, tariff: Tariff, description: str | UnsetType | None
    ) -> tuple[bytes, ...]:
        """The body of a quote, in pieces: between them stands the URL, which is what varies."""
        resource = Resource(_URL, description)
        also = dict(quoted_in_v1(quote.accepts, resource)) if self._v1 else {}
        if tariff.terms:
            also["terms"] = said(tariff.terms)
        body = asking(self.gate.terms.asset, quote.price, tariff.metered, also)
        return tuple(body.split(encode_json(_URL)))

    async def _refuse(self, scope: Scope, send: Send, quote: Quote, refusal: Refused) -> None:
        if refusal.reason is Reason.SETTLEMENT_PENDING:  # it may be paid: no word of the contrary
            return await send_withheld(self.gate, scope, send, refusal)
        if refusal.reason.status != 402:
            failure = self.gate.failure(refusal)
            return await send_refusal(scope, send, refusal, refusal_headers(failure, refusal))
        resource = self._resources.of(scope)
        required = quote.header(resource, refusal.reason.code, refusal)
        old = quoted_in_v1(quote.accepts, resource) if self._v1 else {}
        # A corrective 402 invites another try; the official clients take a receipt for a final no.
        response = None if isinstance(refusal, RefusedByChannel) else self.gate.failure(refusal)
        await send_refusal(scope, send, refusal, quote_headers(required, response), old)

    def _rule(self, scope: Scope) -> Rule | None:
        method = scope["method"].upper()
        # Some servers cannot tell the two signs apart and hand on one for the other.
        for name, _ in scope["headers"]:
            if name[:1] == b"x" and name.replace(b"_", b"-") in _OVERRIDES:
                method = ANY
        raw_path = scope.get("raw_path") or b""
        return self._price_table(scope).find(
            method,
            scope["path"],
            raw_path if b"%" in raw_path else b"",
            scope.get("root_path", ""),
        )

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        table = self._price_table(scope)
        try:
            raw_path = scope.get("raw_path") or b""
            path, root = scope["path"], scope.get("root_path", "")
            free = table.find(ANY, path, raw_path if b"%" in raw_path else b"", root) is None
        except Refused:
            free = False
        if free:
            return await self.app(scope, receive, send)
        await receive()  # websocket.connect
        await send({"type": "websocket.close", "code": 1008, "reason": "payment required"})


def _asked(scope: Scope) -> bytes:
    """What a payment's id is good for: the request, less its headers and body."""
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    return b" ".join((scope["method"].encode(), path, scope.get("query_string", b"")))


def _is_ours(scope: Scope) -> bool:
    inside: str = scope["path"].removeprefix(scope.get("root_path", ""))
    return inside == MANIFEST_PATH and scope["method"] in ("GET", "HEAD")


def _is_closed(unpriced: str) -> bool:
    if unpriced not in ("free", "closed"):
        raise ConfigurationError(f"unpriced: {unpriced!r} is neither 'free' nor 'closed'")
    return unpriced == "closed"


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


def _payment_header(scope: Scope) -> tuple[bytes, str] | None:
    """The one payment header, or None. Raises Refused for two, a joined or an overlong one."""
    headers = scope["headers"]
    if len(headers) > MAX_HEADERS:
        raise Refused(Reason.HEADER_TOO_LARGE)
    found = [(name, value) for name, value in headers if name in (_SIGNATURE, _V1)]
    if not found:
        return None
    if len(found) > 1 or b"," in found[0][1]:
        raise Refused(Reason.DUPLICATE_PAYMENT)
    name, value = found[0]
    if len(value) > MAX_PAYMENT_HEADER_BYTES:
        raise Refused(Reason.HEADER_TOO_LARGE)
    return name, value.decode("latin-1")


__all__ = ["Payment", "Paywall", "payment_of"]
