"""httpx clients and transports that pay: `Client`, `AsyncClient`, `Transport`, `patch`.

They drive the conversation of `paywall.flow` over a real httpx transport, one driver for threads
and one for asyncio. Paying happens below httpx's redirects, cookies and auth, which work as ever;
`verify`, proxies, HTTP/2 and limits that the user gave stay those of the inner transport.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import TimeoutError as TurnTimeout
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import httpx

from paywall.books import Turn
from paywall.flow import Flow, Receipt, Step, pay, receipt, refund
from paywall.protocol.errors import PaymentRefused
from paywall.wallet import Wallet

MAX_DISCARDED_BYTES: Final = 64 * 1024
"""How much of a 402's body is read to keep its connection; a longer one is closed."""

_C = TypeVar("_C", bound=httpx.Client | httpx.AsyncClient)


class _Talk:
    """A flow and its result; `StopIteration` must not travel through a coroutine."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self.answer: httpx.Response | None = None

    def next(self, response: httpx.Response | None = None) -> Step | None:
        """The next step; None when `answer` is there."""
        return self._step(lambda: self._flow.send(response))

    def fail(self, error: BaseException) -> Step | None:
        """Tells the flow that its request failed; it goes on, or raises what the caller sees."""
        return self._step(lambda: self._flow.throw(error))

    def _step(self, step: Callable[[], Step]) -> Step | None:
        try:
            return step()
        except StopIteration as done:
            self.answer = done.value
            return None

    def close(self) -> None:
        """Ends a flow that will not go on; one that is over stays as it is."""
        self._flow.close()

    def result(self) -> httpx.Response:
        assert self.answer is not None
        return self.answer


class Transport(httpx.BaseTransport):
    """Pays for what goes through the transport inside it."""

    def __init__(self, wallet: Wallet, inner: httpx.BaseTransport | None = None) -> None:
        self.wallet = wallet
        self._inner = inner or httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self._drive(_Talk(pay(self.wallet, request)))

    def refund(self, request: httpx.Request, amount: int | None) -> httpx.Response:
        return self._drive(_Talk(refund(self.wallet, request, amount)))

    def _drive(self, talk: _Talk) -> httpx.Response:
        try:
            step = talk.next()
            while step is not None:
                if isinstance(step, Turn):
                    with suppress(TurnTimeout):
                        step.done.result(step.seconds)
                    step = talk.next()
                else:
                    step = self._exchange(talk, step)
            return talk.result()
        finally:
            talk.close()

    def _exchange(self, talk: _Talk, request: httpx.Request) -> Step | None:
        try:
            response = self._inner.handle_request(request)
        except BaseException as error:
            return talk.fail(error)
        try:
            step = talk.next(response)
        except BaseException:
            response.close()
            raise
        if step is not None:
            _discard(response)
        return step

    def close(self) -> None:
        self._inner.close()

    def __enter__(self) -> Self:
        self._inner.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        self._inner.__exit__(kind, error, trace)


class AsyncTransport(httpx.AsyncBaseTransport):
    """Pays for what goes through the asynchronous transport inside it."""

    def __init__(self, wallet: Wallet, inner: httpx.AsyncBaseTransport | None = None) -> None:
        self.wallet = wallet
        self._inner = inner or httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._drive(_Talk(pay(self.wallet, request)))

    async def refund(self, request: httpx.Request, amount: int | None) -> httpx.Response:
        return await self._drive(_Talk(refund(self.wallet, request, amount)))

    async def _drive(self, talk: _Talk) -> httpx.Response:
        try:
            step = talk.next()
            while step is not None:
                if isinstance(step, Turn):
                    await asyncio.wait((asyncio.wrap_future(step.done),), timeout=step.seconds)
                    step = talk.next()
                else:
                    step = await self._exchange(talk, step)
            return talk.result()
        finally:
            talk.close()

    async def _exchange(self, talk: _Talk, request: httpx.Request) -> Step | None:
        try:
            response = await self._inner.handle_async_request(request)
        except BaseException as error:
            return talk.fail(error)
        try:
            step = talk.next(response)
        except BaseException:
            await response.aclose()
            raise
        if step is not None:
            await _adiscard(response)
        return step

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        await self._inner.__aexit__(kind, error, trace)


class Client(httpx.Client):
    """An `httpx.Client` that pays from `wallet`; every other argument is httpx's own."""

    def __init__(self, *args: Any, wallet: Wallet, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        patch(self, wallet)

    def refund(self, url: str, amount: int | None = None, method: str = "GET") -> Receipt:
        """Gets back what is left in the channel with this provider, or `amount` atomic units.

        `url` is any priced route of the provider. Raises PaymentRefused with its reason.
        """
        request = self.build_request(method, url)
        transport = self._transport_for_url(request.url)
        assert isinstance(transport, Transport)
        response = transport.refund(request, amount)
        _discard(response)
        return _confirmed(response)


class AsyncClient(httpx.AsyncClient):
    """An `httpx.AsyncClient` that pays from `wallet`; every other argument is httpx's own."""

    def __init__(self, *args: Any, wallet: Wallet, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        patch(self, wallet)

    async def refund(self, url: str, amount: int | None = None, method: str = "GET") -> Receipt:
        """Gets back what is left in the channel with this provider, or `amount` atomic units.

        `url` is any priced route of the provider. Raises PaymentRefused with its reason.
        """
        request = self.build_request(method, url)
        transport = self._transport_for_url(request.url)
        assert isinstance(transport, AsyncTransport)
        response = await transport.refund(request, amount)
        await _adiscard(response)
        return _confirmed(response)


def patch(client: _C, wallet: Wallet) -> _C:
    """Makes a client that exists already pay from `wallet`, and returns it.

    Its transports, and with them its proxies, certificates and limits, stay as they are, wrapped.
    """
    # httpx has no public way to reach a client's transports; a test holds these two names.
    if isinstance(client, httpx.AsyncClient):
        client._transport = _async_paying(wallet, client._transport)
        client._mounts = {
            pattern: inner and _async_paying(wallet, inner)
            for pattern, inner in client._mounts.items()
        }
    else:
        client._transport = _paying(wallet, client._transport)
        client._mounts = {
            pattern: inner and _paying(wallet, inner) for pattern, inner in client._mounts.items()
        }
    return client


def _paying(wallet: Wallet, inner: httpx.BaseTransport) -> Transport:
    """One that pays, once: the transport of a client that pays already gets another wallet."""
    return Transport(wallet, inner._inner if isinstance(inner, Transport) else inner)


def _async_paying(wallet: Wallet, inner: httpx.AsyncBaseTransport) -> AsyncTransport:
    return AsyncTransport(wallet, inner._inner if isinstance(inner, AsyncTransport) else inner)


def _confirmed(response: httpx.Response) -> Receipt:
    found = receipt(response)
    if found is None:
        raise PaymentRefused("the provider confirmed nothing", "malformed")
    return found


def _discard(response: httpx.Response) -> None:
    """Reads a short body to its end so that its connection can serve the next request."""
    try:
        size = 0
        for chunk in () if response.is_stream_consumed else response.iter_raw():
            size += len(chunk)
            if size > MAX_DISCARDED_BYTES:
                break
    except httpx.TransportError:
        pass
    finally:
        response.close()


async def _adiscard(response: httpx.Response) -> None:
    try:
        size = 0
        if not response.is_stream_consumed:
            async for chunk in response.aiter_raw():
                size += len(chunk)
                if size > MAX_DISCARDED_BYTES:
                    break
    except httpx.TransportError:
        pass
    finally:
        await response.aclose()


__all__ = ["AsyncClient", "AsyncTransport", "Client", "Transport", "patch", "receipt"]
