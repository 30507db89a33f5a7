"""Two drivers of the conversation, one for threads and one for asyncio, over any inner transport.

They send what the conversation wants sent, wait where it waits, and let go of every answer that the
caller does not get. They know neither prices nor money. Transports of httpx and of httpx2 are made
of them, and what these need of a client that is there already is here too.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import TimeoutError as TurnTimeout
from contextlib import suppress
from types import TracebackType
from typing import Self

import httpx

from paywall.asking import AnyCall, Call
from paywall.confirmations import Receipt, receipt
from paywall.either import library_of
from paywall.flow import pay, refund
from paywall.old_providers import heard, heard_later
from paywall.patience import Patience
from paywall.protocol.errors import PaymentRefused
from paywall.protocol.limits import MAX_DISCARD_SECONDS, MAX_DISCARDED_BYTES
from paywall.sending import Flow, Step
from paywall.turns import Turn
from paywall.wallet import Wallet


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


def _called(talk: _Talk, call: AnyCall) -> Step | None:
    """Makes a call that the conversation waits for, and goes on."""
    try:
        call.make()
    except BaseException as error:
        return talk.fail(error)
    return talk.next()


async def _called_later(talk: _Talk, call: AnyCall) -> Step | None:
    try:
        await call.make_later()
    except BaseException as error:
        return talk.fail(error)
    return talk.next()


class SyncDriver:
    """Pays for what goes through the transport inside it."""

    def __init__(self, wallet: Wallet, inner: httpx.BaseTransport) -> None:
        self.wallet = wallet
        self.inner = inner

    def pay(self, request: httpx.Request) -> httpx.Response:
        return self._drive(_Talk(pay(self.wallet, request)))

    def refund(self, request: httpx.Request, amount: int | None, lane: int) -> Receipt:
        """The confirmed refund. Raises PaymentRefused."""
        response = self._drive(_Talk(refund(self.wallet, request, amount, lane)))
        _discard(response, request)
        return _confirmed(response)

    def _drive(self, talk: _Talk) -> httpx.Response:
        try:
            step = talk.next()
            while step is not None:
                if isinstance(step, Turn):
                    with suppress(TurnTimeout):
                        step.done.result(step.seconds)
                    step = talk.next()
                elif isinstance(step, Call):
                    step = _called(talk, step)
                else:
                    step = self._exchange(talk, step)
            return talk.result()
        finally:
            talk.close()

    def _exchange(self, talk: _Talk, request: httpx.Request) -> Step | None:
        try:
            response = heard(self.inner.handle_request(request), request)
        except BaseException as error:
            return talk.fail(error)
        try:
            step = talk.next(response)
        except BaseException:
            response.close()
            raise
        if step is not None:
            _discard(response, request)
        return step

    def close(self) -> None:
        self.inner.close()

    def __enter__(self) -> Self:
        self.inner.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        self.inner.__exit__(kind, error, trace)


class AsyncDriver:
    """Pays for what goes through the asynchronous transport inside it."""

    def __init__(self, wallet: Wallet, inner: httpx.AsyncBaseTransport) -> None:
        self.wallet = wallet
        self.inner = inner

    async def pay(self, request: httpx.Request) -> httpx.Response:
        return await self._drive(_Talk(pay(self.wallet, request)))

    async def refund(self, request: httpx.Request, amount: int | None, lane: int) -> Receipt:
        """The confirmed refund. Raises PaymentRefused."""
        response = await self._drive(_Talk(refund(self.wallet, request, amount, lane)))
        await _adiscard(response, request)
        return _confirmed(response)

    async def _drive(self, talk: _Talk) -> httpx.Response:
        try:
            step = talk.next()
            while step is not None:
                if isinstance(step, Turn):
                    await asyncio.wait((asyncio.wrap_future(step.done),), timeout=step.seconds)
                    step = talk.next()
                elif isinstance(step, Call):
                    step = await _called_later(talk, step)
                else:
                    step = await self._exchange(talk, step)
            return talk.result()
        finally:
            talk.close()

    async def _exchange(self, talk: _Talk, request: httpx.Request) -> Step | None:
        try:
            response = await self.inner.handle_async_request(request)
            response = await heard_later(response, request)
        except BaseException as error:
            return talk.fail(error)
        try:
            step = talk.next(response)
        except BaseException:
            await response.aclose()
            raise
        if step is not None:
            await _adiscard(response, request)
        return step

    async def aclose(self) -> None:
        await self.inner.aclose()

    async def __aenter__(self) -> Self:
        await self.inner.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        await self.inner.__aexit__(kind, error, trace)


def _confirmed(response: httpx.Response) -> Receipt:
    found = receipt(response)
    if found is None:
        raise PaymentRefused("the provider confirmed nothing", "malformed")
    return found


def _discard(response: httpx.Response, request: httpx.Request) -> None:
    """Reads a short body to its end so that its connection can serve the next request."""
    patience = Patience(MAX_DISCARDED_BYTES, MAX_DISCARD_SECONDS)
    try:
        for chunk in () if response.is_stream_consumed else response.iter_raw():
            if patience.is_over(chunk):
                break
    except library_of(request).TransportError:
        pass
    finally:
        response.close()


async def _adiscard(response: httpx.Response, request: httpx.Request) -> None:
    patience = Patience(MAX_DISCARDED_BYTES, MAX_DISCARD_SECONDS)
    try:
        if not response.is_stream_consumed:
            async for chunk in response.aiter_raw():
                if patience.is_over(chunk):
                    break
    except library_of(request).TransportError:
        pass
    finally:
        await response.aclose()


# -- Clients that are there already --------------------------------------------------------------
# httpx has no public way to reach a client's transports; tests hold the names that are used here.


def wrap_sync(
    client: httpx.Client, paying: Callable[[httpx.BaseTransport], httpx.BaseTransport]
) -> None:
    """Makes all transports of a client pay, its proxies and mounts included."""
    client._transport = paying(client._transport)
    client._mounts = {pattern: inner and paying(inner) for pattern, inner in client._mounts.items()}


def wrap_async(
    client: httpx.AsyncClient,
    paying: Callable[[httpx.AsyncBaseTransport], httpx.AsyncBaseTransport],
) -> None:
    """The same for an asynchronous client."""
    client._transport = paying(client._transport)
    client._mounts = {pattern: inner and paying(inner) for pattern, inner in client._mounts.items()}


def unwrapped(inner: httpx.BaseTransport) -> httpx.BaseTransport:
    """What does not pay: the transport of a client that pays already gets another wallet."""
    return inner.inner if isinstance(inner, SyncDriver) else inner


def unwrapped_async(inner: httpx.AsyncBaseTransport) -> httpx.AsyncBaseTransport:
    return inner.inner if isinstance(inner, AsyncDriver) else inner


def refund_by(
    client: httpx.Client, url: str, amount: int | None, method: str, lane: int
) -> Receipt:
    """Asks for a refund as this client would send any request: its headers, proxy and cookies."""
    request = client.build_request(method, url)
    transport = client._transport_for_url(request.url)
    assert isinstance(transport, SyncDriver)
    return transport.refund(request, amount, lane)


async def refund_by_async(
    client: httpx.AsyncClient, url: str, amount: int | None, method: str, lane: int
) -> Receipt:
    request = client.build_request(method, url)
    transport = client._transport_for_url(request.url)
    assert isinstance(transport, AsyncDriver)
    return await transport.refund(request, amount, lane)
