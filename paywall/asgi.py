"""The middleware: put it around any ASGI app and the priced routes cost money.

Pure ASGI. An answer is never buffered: the head is touched, the body goes through. One object
holds the configuration (`Paywall`), one sells a priced request (`Till`), another one has its state
(`Exchange`). The charging rule:

    an answer below 400               charged when its head leaves, and the head has the receipt
    any other answer, an exception,   released
    or a client that hung up before the answer began
    a metered route (`upto`)          the head says the ceiling; what the handler has charged is
                                      charged when the stream ends, or breaks

Our own fault is 503 with `Retry-After`, never a fresh 402. A WebSocket on a priced path is refused.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from paywall.alarms import Board, Listener, both, to_log
from paywall.answers import send_refusal, send_unavailable
from paywall.chain import Chain
from paywall.clock import steady_time
from paywall.collector import collector_of
from paywall.crier import Crier, Manners, asks_manifest
from paywall.deposit_gate import DepositRules
from paywall.entrance import Entrance, origin_of
from paywall.exact_gate import ExactRules
from paywall.gate import Gate
from paywall.notices import News, OnEvent
from paywall.payment import Payment
from paywall.price_book import PriceBook, Unpriced
from paywall.prices import Price, PriceTable
from paywall.protocol.claims import ClaimPolicy
from paywall.protocol.errors import ConfigurationError, PaymentError, Refused, Unavailable
from paywall.protocol.limits import ALL_DEPOSITS_PER_HOUR, CHANNELS_PER_PAYER, DEPOSITS_PER_HOUR
from paywall.protocol.money import USDC, Address, Asset, parse_address
from paywall.protocol.payers import PayerLimits
from paywall.protocol.schemes import SCHEMES, batch, exact
from paywall.protocol.schemes.batch import BatchTerms
from paywall.resources import Resources
from paywall.routes import payment_of
from paywall.sights import Scribe, Sights
from paywall.stores import DEFAULT_STORE, Store, open_store
from paywall.stores.slips import slips_of
from paywall.till import Exempt, Till

log = logging.getLogger("paywall")

_COLLECT: Final = ClaimPolicy()


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
    follow no use of the last one, and into so many channels; of all payers together,
    `all_deposits_per_hour`. `instant_up_to` lets the first request of a channel run before its
    deposit is mined, as long as what all workers have served so, and what was lost by it, stays
    below this. `clock` gives Unix seconds by which deadlines are kept.
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
        all_deposits_per_hour: int = ALL_DEPOSITS_PER_HOUR,
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
        unpriced: Unpriced = "free",
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
        board = Board(both(alarms, self.news.alarm))
        self.gate = Gate(
            terms,
            open_store(store) if isinstance(store, str) else store,
            chain,
            clock,
            exact=_exact_rules(schemes, asset.units(exact_minimum), settle_first),
            channels=batch.SCHEME in schemes,
            deposits=DepositRules(
                PayerLimits(deposits_per_hour, channels_per_payer, all_deposits_per_hour),
                asset.units(instant_up_to) if instant_up_to is not None else 0,
                board,
            ),
            news=self.news,
        )
        self.sights = Sights(self.news)
        self._scribe = Scribe(self.sights, slips_of(self.gate.store))
        self._collector = collector_of(
            self.gate.store, chain, asset, collect, board, clock, self.news
        )
        self._entrance = Entrance(self.gate.store, asset.network, origin_of(public_url), clock)
        self._book = PriceBook(
            app, prices, unpriced, self.gate, self._entrance, _is_paywall, discovery
        )
        resources = Resources(public_url, description)
        self._crier = Crier(self.gate, self._entrance, resources, Manners(v1, page, bazaar))
        self._till = Till(app, self.gate, self._entrance, self._crier, self.news, exempt, v1)
        self._discovery = discovery
        self._opening: asyncio.Task[None] | None = None
        self._is_open = False

    # -- Prices ----------------------------------------------------------------------------------

    @property
    def table(self) -> PriceTable:
        """The one price table: what is written here, and then what the app's routes declare."""
        return self._book.table({})

    def reprice(self, prices: Mapping[str, Price], unpriced: Unpriced = "free") -> None:
        """Takes another price table from the next request on; what is running keeps its price.

        Raises ConfigurationError; then the prices stay as they are.
        """
        self._book.replace(prices, unpriced)

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
            self._book.table(scope)
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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._other(scope, receive, send)
        if self._discovery and asks_manifest(scope):
            return await self._crier.manifest(self._book.table(scope), scope, send)
        quoted = rule = None
        try:
            rule = self._book.rule(scope)
            if rule is not None:
                if not self._is_open:
                    await self.open()
                quoted = self._book.fixed(rule)
                if quoted is None:
                    quoted, receive = await self._book.by_request(rule, scope, receive)
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
            await self._till.sell(quote, tariff, scope, receive, sight)
        finally:
            sight.close()

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._book.is_free(scope):
            return await self.app(scope, receive, send)
        await receive()  # websocket.connect
        await send({"type": "websocket.close", "code": 1008, "reason": "payment required"})


def _is_paywall(middleware: object) -> bool:
    return isinstance(middleware, type) and issubclass(middleware, Paywall)


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


__all__ = ["Payment", "Paywall", "payment_of"]
