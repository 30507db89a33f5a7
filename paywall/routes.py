"""Prices that stand at the route: a decorator for Starlette, a dependency for FastAPI.

    @paid("$0.001")                                          Starlette
    async def weather(request: Request, payment: Payment) -> Response: ...

    @app.get("/weather/{city}")                              FastAPI
    async def weather(city: str, payment: Annotated[Payment, Depends(charge("$0.001"))]): ...

Neither takes any money. They say what the route costs; the app's `Paywall` reads that into its one
price table when the app starts (`paywall.declared`) and quotes, admits and charges as it does for
every other route. The handler is given the payment, and does not run where there is none: a route
that the table does not know fails, it is never free.
"""

import inspect
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Final, cast
from weakref import WeakKeyDictionary

from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import Scope

from paywall.payment import Payment
from paywall.prices import Price
from paywall.protocol.errors import ConfigurationError

PaidEndpoint = Callable[[Request, Payment], Awaitable[Response] | Response]
Endpoint = Callable[[Request], Awaitable[Response]]

_PRICES: Final[WeakKeyDictionary[Callable[..., object], Price]] = WeakKeyDictionary()


def paid(price: Price) -> Callable[[PaidEndpoint], Endpoint]:
    """What a Starlette endpoint costs; it is called with the request and its payment."""

    def decorate(endpoint: PaidEndpoint) -> Endpoint:
        if inspect.isclass(endpoint):
            raise ConfigurationError(f"@paid is for functions, and {endpoint.__name__} is a class")
        is_async = inspect.iscoroutinefunction(endpoint)

        @wraps(endpoint)
        async def priced(request: Request) -> Response:
            payment = _payment_of(request)
            if is_async:
                return await cast("Awaitable[Response]", endpoint(request, payment))
            return cast(Response, await run_in_threadpool(endpoint, request, payment))

        _PRICES[priced] = price
        return priced

    return decorate


class Charge:
    """A dependency of FastAPI: what the route costs, and its payment."""

    def __init__(self, price: Price) -> None:
        self.price = price

    async def __call__(self, connection: HTTPConnection) -> Payment:
        return _payment_of(connection)


def charge(price: Price) -> Charge:
    """What a FastAPI route costs: `Depends(charge("$0.001"))` gives the handler its `Payment`.

    In the `dependencies` of a router or of an app it prices all their routes.
    """
    return Charge(price)


def price_at(endpoint: object) -> Price:
    """What was declared with `paid`; None when nothing was."""
    if inspect.ismethod(endpoint):
        endpoint = endpoint.__func__
    return _PRICES.get(endpoint) if inspect.isfunction(endpoint) else None


def payment_of(request: HTTPConnection | Scope) -> Payment:
    """The payment of the request that a handler is serving. Raises LookupError on a free one."""
    scope = request.scope if isinstance(request, HTTPConnection) else request
    payment = scope.get("payment")
    if not isinstance(payment, Payment):
        raise LookupError("this request was not paid for: its route has no price")
    return payment


def _payment_of(connection: HTTPConnection) -> Payment:
    try:
        return payment_of(connection)
    except LookupError as error:
        raise ConfigurationError(
            f"{connection.url.path} has a price and no paywall has asked for it: put "
            "app.add_middleware(Paywall, …), or Paywall(app, …), around the app that has the route"
        ) from error
