"""What every request costs: the owner's table and what the app's routes declare, read as one.

A price that does not depend on the request is quoted when the table is read, so that no customer is
the one who finds a price that cannot be paid, and a request for it looks up what is ready. Tables
are values: a new one takes the place of the old from the next request on.
"""

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from itertools import product
from typing import Final, Literal

from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope

from paywall.declared import declared_in
from paywall.discovery import described
from paywall.entrance import Entrance
from paywall.gate import Gate
from paywall.kinds import CLOSED, FixedPrice
from paywall.prices import ANY, Price, PriceTable, Rule
from paywall.protocol.errors import ConfigurationError, Refused
from paywall.quote import Quote
from paywall.tariff import Tariff, price_of, tariff_of

Unpriced = Literal["free", "closed"]
Quoted = tuple[Tariff, Quote]
"""A price, and the ways to pay it."""


def _spellings(name: bytes) -> Iterator[bytes]:
    """A header's name with either sign between its words: some servers cannot tell the two apart
    and hand on one for the other."""
    first, *rest = name.split(b"-")
    for signs in product((b"-", b"_"), repeat=len(rest)):
        yield first + b"".join(sign + word for sign, word in zip(signs, rest, strict=True))


_OVERRIDES: Final = frozenset(
    spelling
    for name in (b"x-http-method-override", b"x-http-method", b"x-method-override")
    for spelling in _spellings(name)
)


class PriceBook:
    """The prices of one paywall. `app` is what may declare some; `is_paywall` knows our middleware.

    With `shown` they stand in a FastAPI app's OpenAPI document. Raises ConfigurationError.
    """

    def __init__(
        self,
        app: ASGIApp,
        prices: Mapping[str, Price] | None,
        unpriced: Unpriced,
        gate: Gate,
        entrance: Entrance,
        is_paywall: Callable[[object], bool],
        shown: bool,
    ) -> None:
        self._app = app
        self._prices = prices or {}
        self._closed = _is_closed(unpriced)
        self._gate = gate
        self._entrance = entrance
        self._is_paywall = is_paywall
        self._shown = shown
        self._table: PriceTable | None = None
        self._fixed: dict[tuple[str, Price], Quoted] = {}
        if prices is not None:
            self._checked(PriceTable(prices, closed=self._closed))

    def table(self, scope: Scope) -> PriceTable:
        """Read once, when the app starts. Raises ConfigurationError."""
        if self._table is None:
            app = self._declaring_app(scope)
            declared = declared_in(app) if app else []
            table = PriceTable(self._prices, declared, self._closed)
            self._table = self._checked(table)
            self._entrance.warn(rule.price for rule in table.rules)
            if app and self._shown and "fastapi" in sys.modules:
                # By name, so that nobody pays for FastAPI who does not use it.
                install = import_module("paywall.discovery_fastapi").install
                install(app, lambda schema: described(self._gate, self.table({}), schema))
        return self._table

    def replace(self, prices: Mapping[str, Price], unpriced: Unpriced) -> None:
        """Another table; when it is wrong, the prices stay as they are."""
        self._table = self._checked(PriceTable(prices, closed=_is_closed(unpriced)))

    def rule(self, scope: Scope) -> Rule | None:
        """The line for a request, None when it is free. Raises Refused for a malformed path."""
        method = scope["method"].upper()
        for header in scope["headers"]:
            if header[0] in _OVERRIDES:
                method = ANY
        return self._find(scope, method)

    def is_free(self, scope: Scope) -> bool:
        """Whether nothing is asked here, whatever the verb."""
        try:
            return self._find(scope, ANY) is None
        except Refused:
            return False

    def fixed(self, rule: Rule) -> Quoted | None:
        """What a line asks of every request, when that is so."""
        return self._fixed.get((rule.pattern, rule.price))

    async def by_request(
        self, rule: Rule, scope: Scope, receive: Receive
    ) -> tuple[Quoted | None, Receive]:
        """What any other line asks of this request (None: nothing), and a receive for the app.

        Raises Refused or ConfigurationError.
        """
        price, receive = await price_of(rule, scope, receive)
        return self._quoted(rule, price), receive

    def _find(self, scope: Scope, method: str) -> Rule | None:
        table = self._table or self.table(scope)
        raw_path = scope.get("raw_path") or b""
        if b"%" not in raw_path:
            raw_path = b""  # it says no more than the path
        return table.find(method, scope["path"], raw_path, scope.get("root_path", ""))

    def _declaring_app(self, scope: Scope) -> Starlette | None:
        """The app whose routes may have prices: the one inside, or whose middleware we are."""
        if isinstance(self._app, Starlette):
            return self._app
        app = scope.get("app")
        if isinstance(app, Starlette) and any(
            inspect.isclass(one.cls) and self._is_paywall(one.cls) for one in app.user_middleware
        ):
            return app
        return None

    def _checked(self, table: PriceTable) -> PriceTable:
        for rule in table.rules:
            price = rule.price
            if price not in (None, CLOSED) and not callable(price):
                quoted = self._quoted(rule, price)
                assert quoted is not None, "it has a price"
                self._fixed[rule.pattern, price] = quoted
        return table

    def _quoted(self, rule: Rule, price: FixedPrice) -> Quoted | None:
        tariff = tariff_of(rule, price, self._gate.terms.asset)
        return (tariff, self._gate.quote(tariff.units, tariff.metered)) if tariff else None


def _is_closed(unpriced: str) -> bool:
    if unpriced not in ("free", "closed"):
        raise ConfigurationError(f"unpriced: {unpriced!r} is neither 'free' nor 'closed'")
    return unpriced == "closed"
