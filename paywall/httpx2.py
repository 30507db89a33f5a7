"""httpx2 clients and transports that pay; `paywall.client` over httpx2's own classes.

The conversation and its drivers are the same, written in httpx's names: httpx2 has the same shapes.
Its objects are cast here, at the door, and nowhere else.
"""

from typing import Any, TypeVar, cast

import httpx
import httpx2

from paywall.confirmations import Receipt
from paywall.confirmations import receipt as _receipt
from paywall.drivers import (
    AsyncDriver,
    SyncDriver,
    refund_by,
    refund_by_async,
    unwrapped,
    unwrapped_async,
    wrap_async,
    wrap_sync,
)
from paywall.wallet import Wallet

_C = TypeVar("_C", bound=httpx2.Client | httpx2.AsyncClient)


class Transport(SyncDriver, httpx2.BaseTransport):
    """Pays for what goes through the transport inside it."""

    def __init__(self, wallet: Wallet, inner: httpx2.BaseTransport | None = None) -> None:
        super().__init__(wallet, cast(httpx.BaseTransport, inner or httpx2.HTTPTransport()))

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        return cast(httpx2.Response, self.pay(cast(httpx.Request, request)))


class AsyncTransport(AsyncDriver, httpx2.AsyncBaseTransport):
    """Pays for what goes through the asynchronous transport inside it."""

    def __init__(self, wallet: Wallet, inner: httpx2.AsyncBaseTransport | None = None) -> None:
        found = inner or httpx2.AsyncHTTPTransport()
        super().__init__(wallet, cast(httpx.AsyncBaseTransport, found))

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        return cast(httpx2.Response, await self.pay(cast(httpx.Request, request)))


class Client(httpx2.Client):
    """An `httpx2.Client` that pays from `wallet`; every other argument is httpx2's own."""

    def __init__(self, *args: Any, wallet: Wallet, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        patch(self, wallet)

    def refund(
        self, url: str, amount: int | None = None, method: str = "GET", lane: int = 0
    ) -> Receipt:
        """As `paywall.Client.refund`."""
        return refund_by(cast(httpx.Client, self), url, amount, method, lane)


class AsyncClient(httpx2.AsyncClient):
    """An `httpx2.AsyncClient` that pays from `wallet`; every other argument is httpx2's own."""

    def __init__(self, *args: Any, wallet: Wallet, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        patch(self, wallet)

    async def refund(
        self, url: str, amount: int | None = None, method: str = "GET", lane: int = 0
    ) -> Receipt:
        """As `paywall.AsyncClient.refund`."""
        return await refund_by_async(cast(httpx.AsyncClient, self), url, amount, method, lane)


def patch(client: _C, wallet: Wallet) -> _C:
    """Makes a client that exists already pay from `wallet`, and returns it."""

    def paying(inner: httpx.BaseTransport) -> httpx.BaseTransport:
        found = cast(httpx2.BaseTransport, unwrapped(inner))
        return cast(httpx.BaseTransport, Transport(wallet, found))

    def async_paying(inner: httpx.AsyncBaseTransport) -> httpx.AsyncBaseTransport:
        found = cast(httpx2.AsyncBaseTransport, unwrapped_async(inner))
        return cast(httpx.AsyncBaseTransport, AsyncTransport(wallet, found))

    if isinstance(client, httpx2.AsyncClient):
        wrap_async(cast(httpx.AsyncClient, client), async_paying)
    else:
        wrap_sync(cast(httpx.Client, client), paying)
    return client


def receipt(response: httpx2.Response) -> Receipt | None:
    """As `paywall.receipt`."""
    return _receipt(cast(httpx.Response, response))


__all__ = ["AsyncClient", "AsyncTransport", "Client", "Transport", "patch", "receipt"]
