"""Connections to one upstream: each carries one request at a time, and is used again.

The pool of httpx looks at every connection that it has for every request that begins or ends, and
with sixty-four at once that is most of the work. So here each transport has one connection, and
which of them is free is known: the one that was used last is taken first, and what has not been
used for a while is closed by who gives one back.
"""

import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import httpx

_KEPT_IDLE: Final = 128
_IDLE_SECONDS: Final = 5.0
_ONE: Final = httpx.Limits(
    max_connections=1, max_keepalive_connections=1, keepalive_expiry=_IDLE_SECONDS
)


class Connections:
    """As many as there are requests at once. For one event loop; `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tls = httpx.create_ssl_context()  # made once: it reads every authority's certificate
        self._idle: deque[tuple[float, httpx.AsyncHTTPTransport]] = deque()
        """Since when, in ascending order."""
        self._kept = _KEPT_IDLE

    @asynccontextmanager
    async def one(self) -> AsyncIterator[httpx.AsyncHTTPTransport]:
        """For one request and its answer."""
        transport = self._idle.pop()[1] if self._idle else self._new()
        try:
            yield transport
        except BaseException:  # broken off: nobody knows how far it came
            await transport.aclose()
            raise
        now = self._clock()
        self._idle.append((now, transport))
        await self._drop(now - _IDLE_SECONDS)

    def _new(self) -> httpx.AsyncHTTPTransport:
        return httpx.AsyncHTTPTransport(verify=self._tls, limits=_ONE, retries=1)

    async def close(self) -> None:
        """Closes those that are idle, and from now on each that is given back."""
        self._kept = 0
        await self._drop(self._clock())

    async def _drop(self, used_before: float) -> None:
        idle = self._idle
        while idle and (idle[0][0] < used_before or len(idle) > self._kept):
            await idle.popleft()[1].aclose()
