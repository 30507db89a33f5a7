"""httpx clients and transports that pay: `Client`, `AsyncClient`, `Transport`, `patch`.

They drive the conversation of `paywall.flow` over a real httpx transport. Paying happens below
httpx's redirects, cookies and auth, which work as ever; `verify`, proxies, HTTP/2 and limits that
the user gave stay those of the inner transport. `paywall.httpx2` has the same for httpx2.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

import httpx

from paywall.confirmations import Receipt, receipt
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

if TYPE_CHECKING:
    import httpx2

_C = TypeVar("_C", bound="httpx.Client | httpx.AsyncClient | httpx2.Client | httpx2.AsyncClient")


class Transport(SyncDriver, httpx.BaseTransport):
    """Pays for what goes through the transport inside it."""

    def __init__(self, wallet: Wallet, inner: httpx.BaseTransport | None = None) -> None:
        super().__init__(wallet, inner or httpx.HTTPTransport())

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self.pay(request)


class AsyncTransport(AsyncDriver, httpx.AsyncBaseTransport):
    """Pays for what goes through the asynchronous transport inside it."""

    def __init__(self, wallet: Wallet, inner: httpx.AsyncBaseTransport | None = None) -> None:
        super().__init__(wallet, inner or httpx.AsyncHTTPTransport())

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self.pay(request)


class Client(httpx.Client):
    """An `httpx.Client` that pays from `wallet`; every other argument is httpx's own."""

    def __init__(self, *args: Any, wallet: Wallet, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        patch(self, wallet)

    def refund(
        self, url: str, amount: int | None = None, method: str = "GET", lane: int = 0
    ) -> Receipt:
        """Gets back what is left in the channel with this provider, or `amount` atomic units.

        `url` is any priced route of the provider; `lane` the channel's number where the wallet
        has several. Raises PaymentRefused with its reason.
        """
        return refund_by(self, url, amount, method, lane)


class AsyncClient(httpx.AsyncClient):
    """An `httpx.AsyncClient` that pays from `wallet`; every other argument is httpx's own."""

    def __init__(self, *args: Any, wallet: Wallet, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        patch(self, wallet)

    async def refund(
        self, url: str, amount: int | None = None, method: str = "GET", lane: int = 0
    ) -> Receipt:
        """Gets back what is left in the channel with this provider, or `amount` atomic units.

        `url` is any priced route of the provider; `lane` the channel's number where the wallet
        has several. Raises PaymentRefused with its reason.
        """
        return await refund_by_async(self, url, amount, method, lane)


def patch(client: _C, wallet: Wallet) -> _C:
    """Makes a client that exists already pay from `wallet`, and returns it.

    It may be a client of httpx or of httpx2. Its transports, and with them its proxies,
    certificates and limits, stay as they are, wrapped.
    """
    if isinstance(client, httpx.AsyncClient):
        wrap_async(client, lambda inner: AsyncTransport(wallet, unwrapped_async(inner)))
    elif isinstance(client, httpx.Client):
        wrap_sync(client, lambda inner: Transport(wallet, unwrapped(inner)))
    else:  # whoever has such a client has httpx2; others need not
        import_module("paywall.httpx2").patch(client, wallet)
    return client


__all__ = ["AsyncClient", "AsyncTransport", "Client", "Transport", "patch", "receipt"]
