"""The prices at FastAPI's routes: dependencies of the route, of its routers, and of the app."""

from collections.abc import Iterator
from typing import NamedTuple

from fastapi import routing
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, APIWebSocketRoute
from starlette.routing import BaseRoute

from paywall.prices import Declared, Price, patterns
from paywall.protocol.errors import ConfigurationError
from paywall.routes import Charge


def read(route: BaseRoute, prefix: str) -> list[Declared]:
    """What a route of FastAPI's declares; nothing when it is none of FastAPI's."""
    return [one for whole in _whole(route) for one in _declared(whole, prefix)]


class _Whole(NamedTuple):
    """A route with all that it inherits from the routers that include it."""

    path: str
    methods: set[str] | None
    dependant: Dependant


def _whole(route: BaseRoute) -> list[_Whole]:
    if isinstance(route, APIRoute):
        return [_Whole(route.path, route.methods, route.dependant)]
    if isinstance(route, APIWebSocketRoute):
        return [_Whole(route.path, None, route.dependant)]
    # Since 0.13x a router that is included is one route, and only this tells what is in it.
    contexts = vars(routing).get("iter_route_contexts")
    return [
        _Whole(
            context.path,
            context.methods if isinstance(context.original_route, APIRoute) else None,
            context.dependant,
        )
        for context in (contexts([route]) if contexts else [])
        if isinstance(context.original_route, APIRoute | APIWebSocketRoute)
    ]


def _declared(route: _Whole, prefix: str) -> Iterator[Declared]:
    path = prefix + route.path
    prices: list[Price] = [charge.price for charge in _charges(route.dependant)]
    if len(set(prices)) > 1:
        raise ConfigurationError(f"{path} has {len(set(prices))} different prices: give it one")
    for pattern in patterns(route.methods, path):
        yield Declared(pattern, prices[0] if prices else None)


def _charges(dependant: Dependant) -> Iterator[Charge]:
    for inner in dependant.dependencies:
        if isinstance(inner.call, Charge):
            yield inner.call
        yield from _charges(inner)
