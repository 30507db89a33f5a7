"""A reverse proxy as an ASGI app: hands each request on to one upstream and streams the answer.

It knows nothing of money; a `Paywall` goes around it, and then a service in any language is paid
for. Bodies travel in both directions as they come, one piece at a time, and a side that is slow
slows the other down: memory does not grow with a body. An answer that says it is small comes in one
piece, so that it can be kept for a client that loses it.

Which headers are handed on, and what the upstream learns of a payment, is a matter of its own
(`paywall.proxy_headers`).

An upstream that cannot be reached is 502, one that does not answer in time 504, and neither is
charged. When it breaks off in its answer, so do we.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

import httpx
from starlette.types import Message, Receive, Scope, Send

from paywall.answers import Headers, send_json
from paywall.payment import Payment
from paywall.protocol.errors import ConfigurationError
from paywall.protocol.limits import MAX_ANSWER_BYTES
from paywall.proxy_connections import Connections
from paywall.proxy_headers import CHARGE, end_to_end, handed_back, sent_on

log = logging.getLogger("paywall.proxy")

_SEPARATORS = re.compile(r"[/\\;?]")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds to wait for a connection, and for the next piece of what goes through it."""

    connect_seconds: float = 5.0
    read_seconds: float = 300.0
    write_seconds: float = 60.0


class _HungUp(Exception):
    """The client has gone while its upload was on its way."""


class Upstream:
    """The proxy. `url` is where the service is, with a path when it lives below one; then nothing
    above that path is asked for.

    With `keep_host` the service sees the name that the client asked for, else its own. To be used
    in one event loop. Raises ConfigurationError for a URL that is none.
    """

    def __init__(self, url: str, timeouts: Timeouts | None = None, keep_host: bool = False) -> None:
        self._url = _checked(url)
        self._base = self._url.raw_path.rstrip(b"/")
        self._timeouts = timeouts or Timeouts()
        self._keep_host = keep_host
        self._connections = Connections()
        self._running = 0
        self._retired: asyncio.Task[None] | None = None
        self._is_retired = False

    async def close(self) -> None:
        await self._connections.close()

    def retire(self) -> None:
        """No more requests come; closes when the last that runs is over."""
        self._is_retired = True
        if not self._running and self._retired is None:
            self._retired = asyncio.ensure_future(self.close())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1003, "reason": "not proxied"})
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        target: bytes = scope.get("raw_path") or scope["path"].encode()
        lengths = [value for name, value in scope["headers"] if name == b"content-length"]
        escapes = self._base and ".." in _SEPARATORS.split(
            unquote_to_bytes(target).decode("latin-1")
        )
        if not target.startswith(b"/") or len(lengths) > 1 or escapes:
            return await _fail(scope, send, 400, "bad_request", "The request is malformed.")
        upload = _Upload(receive, _has_body(scope["headers"]))
        request = self._request(scope, target, upload)
        self._running += 1
        try:
            await _until_gone(self._exchange(request, scope, send), upload)
        finally:
            self._running -= 1
            if self._is_retired:
                self.retire()

    async def _exchange(self, request: httpx.Request, scope: Scope, send: Send) -> None:
        async with self._connections.one() as connection:
            try:
                answer = await connection.handle_async_request(request)
            except _HungUp:
                return
            except httpx.TimeoutException as error:
                log.warning("%s did not answer in time: %r", self._url, error)
                connecting = isinstance(error, httpx.ConnectTimeout)
                return await _down(scope, send, 502 if connecting else 504)
            except httpx.TransportError as error:
                log.warning("%s cannot be reached: %r", self._url, error)
                return await _down(scope, send, 502)
            try:
                await _hand_back(answer, scope, send)
            finally:
                await answer.aclose()
            if request.method == "HEAD" or answer.status_code in (204, 304):
                # Some send a body all the same, which the next request would get for an answer.
                await connection.aclose()

    def _request(self, scope: Scope, target: bytes, upload: "_Upload") -> httpx.Request:
        query = scope.get("query_string", b"")
        timeouts = self._timeouts
        return httpx.Request(
            scope["method"],
            self._url,
            headers=sent_on(scope, self._url.netloc, self._keep_host),
            stream=upload,
            extensions={
                "target": self._base + target + (b"?" + query if query else b""),
                "timeout": {
                    "connect": timeouts.connect_seconds,
                    "read": timeouts.read_seconds,
                    "write": timeouts.write_seconds,
                    "pool": timeouts.connect_seconds,
                },
            },
        )


def _checked(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ConfigurationError(f"upstream: not a URL: {error}") from error
    if parsed.userinfo:
        raise ConfigurationError("upstream: its URL shows in logs; it may have no password")
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.query:
        raise ConfigurationError(
            f"upstream: {url!r} is not the URL of a service, such as http://127.0.0.1:3000"
        )
    return parsed


# -- The request's body --------------------------------------------------------------------------


def _has_body(headers: Headers) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in headers
    )


class _Upload(httpx.AsyncByteStream):
    """The client's body, piece by piece, as the upstream takes it."""

    def __init__(self, receive: Receive, has_body: bool) -> None:
        self._receive = receive
        self._over = asyncio.Event()
        if not has_body:
            self._over.set()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while not self._over.is_set():
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise _HungUp
            if body := message.get("body", b""):
                yield body
            if not message.get("more_body", False):
                self._over.set()

    async def hung_up(self) -> None:
        """Waits for the client to go; while it uploads, the upload itself would notice."""
        await self._over.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass


# -- The answer ----------------------------------------------------------------------------------


async def _hand_back(answer: httpx.Response, scope: Scope, send: Send) -> None:
    length = answer.headers.get("content-length", "")
    expected = int(length) if length.isascii() and length.isdigit() else None
    await send(_head(answer, scope))
    if scope["method"] == "HEAD":
        expected = 0
    if expected is not None and expected <= MAX_ANSWER_BYTES:
        body = b"".join([part async for part in _body(answer)])
        return await send({"type": "http.response.body", "body": body})
    async for part in _body(answer):
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def _head(answer: httpx.Response, scope: Scope) -> Message:
    headers = end_to_end(answer.headers.raw)
    _charge(scope.get("payment"), headers)
    return {
        "type": "http.response.start",
        "status": answer.status_code,
        "headers": handed_back(headers),
    }


def _charge(payment: object, headers: Headers) -> None:
    """Charges what the upstream says; what cannot be understood leaves the full price, and a word
    in the log."""
    told = [value.decode("latin-1") for name, value in headers if name == CHARGE]
    if not told or not isinstance(payment, Payment):
        return
    try:
        (text,) = told
        payment.charge(int(text) if text.isascii() and text.isdigit() else text)
    except (ValueError, ConfigurationError) as error:
        log.error("the upstream's Paywall-Charge is passed over: %s", error)


async def _body(answer: httpx.Response) -> AsyncIterator[bytes]:
    assert isinstance(answer.stream, httpx.AsyncByteStream)
    async for part in answer.stream:
        if part:
            yield part


async def _until_gone(work: Coroutine[Any, Any, None], upload: _Upload) -> None:
    """Does the work, unless the client hangs up: nobody should go on pulling for nobody."""
    working = asyncio.ensure_future(work)
    listening = asyncio.ensure_future(upload.hung_up())
    try:
        await asyncio.wait((working, listening), return_when=asyncio.FIRST_COMPLETED)
    finally:
        listening.cancel()
        if not working.done():
            working.cancel()
        for task in (listening, working):
            with suppress(asyncio.CancelledError):
                await task


async def _down(scope: Scope, send: Send, status: int) -> None:
    word = "bad_gateway" if status == 502 else "gateway_timeout"
    await _fail(scope, send, status, word, "The service does not answer. Nothing was charged.")


async def _fail(scope: Scope, send: Send, status: int, word: str, text: str) -> None:
    await send_json(scope, send, status, {"error": word, "message": text}, [])
