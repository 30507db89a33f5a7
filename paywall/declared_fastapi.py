"""The prices at FastAPI's routes: dependencies of the route, of its routers, and of the app."""

from collections.abc import Iterator

from fastapi import routing
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, APIWebSocketRoute
from starlette.routing import BaseRoute

from paywall.declared import patterns
from paywall.prices import Declared, Price
from paywall.protocol.errors import ConfigurationError
from paywall.routes import Charge


def read(route: BaseRoute, prefix: str) -> list[Declared]:
    """What a route of FastAPI's declares; nothing when it is none of FastAPI's."""
    return [one for whole in _whole(route) for one in _declared(whole, prefix)]


def _whole(route: BaseRoute) -> "list[routing.RouteContext]":
    """A route, or the routes of a router that is included, with all that they inherit."""
    return [
        context
        for context in routing.iter_route_contexts([route])
        if isinstance(context.original_route, APIRoute | APIWebSocketRoute)
    ]


def _declared(context: "routing.RouteContext", prefix: str) -> Iterator[Declared]:
    path = prefix + (context.path or "")
    prices: list[Price] = [charge.price for charge in _charges(context.dependant)]
    if len(set(prices)) > 1:
        raise ConfigurationError(f"{path} has {len(set(prices))} different prices: give it one")
    methods = None if isinstance(context.original_route, APIWebSocketRoute) else context.methods
    for pattern in patterns(methods, path):
        yield Declared(pattern, prices[0] if prices else None)


def _charges(dependant: Dependant) -> Iterator[Charge]:
    for inner in dependant.dependencies:
        if isinstance(inner.call, Charge):
            yield inner.call
        yield from _charges(inner)
