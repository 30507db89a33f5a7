"""Reads the prices that stand at an app's routes, so that they are in the one price table.

Routes are read in the order in which the app's router tries them, those without a price too, so
that the table finds the route that the router will find. What cannot be seen into (an app that is
mounted and has no routes of its own to show) counts as a route without a price.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute

from paywall.prices import Declared, patterns
from paywall.routes import price_at


def declared_in(app: Starlette) -> list[Declared]:
    """Every route of the app with its price, or None; nothing when none of them has a price.

    Raises ConfigurationError for a route that has two.
    """
    routes = list(_read(app.routes, ""))
    return routes if any(one.price is not None for one in routes) else []


def _read(routes: Sequence[BaseRoute], prefix: str) -> Iterator[Declared]:
    for route in routes:
        if found := _by_fastapi(route, prefix):
            yield from found
        elif isinstance(route, Route):
            price = price_at(route.endpoint)
            for pattern in patterns(route.methods, prefix + route.path):
                yield Declared(pattern, price)
        elif isinstance(route, WebSocketRoute):
            yield Declared(prefix + route.path, price_at(route.endpoint))
        elif isinstance(route, Mount):
            inner = list(_read(route.routes or [], prefix + route.path))
            yield from inner or [Declared(f"{prefix}{route.path}/*", None)]


def _by_fastapi(route: BaseRoute, prefix: str) -> list[Declared]:
    """A route of FastAPI's; it is not loaded unless the app has."""
    if "fastapi.routing" not in sys.modules:
        return []
    read: Callable[[BaseRoute, str], list[Declared]]
    read = import_module("paywall.declared_fastapi").read
    return read(route, prefix)
