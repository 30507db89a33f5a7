"""One Redis server as the store talks to it: a connection that all verbs share, in pipelines.

Verbs that become ready in the same turn of the event loop are written at once, and any number of
such pipelines may be on their way. Nothing waits for a free connection, and a second one would
gain nothing, since a server runs one command at a time.

redis-py connects (TCP, TLS, Unix socket, login, database) and then lends its transport.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection

from paywall.protocol.errors import StoreUnavailable
from paywall.stores.redis_scripts import Script
from paywall.stores.redis_url import Place, RedisUrl
from paywall.stores.redis_wire import FAILURES, Call, Lendable, Reply, Wire, pack

Failed = Callable[[Call, Exception], None]
"""Who decides what becomes of a call that failed."""


class _Lending:
    """To be mixed into redis-py's connections."""

    _writer: asyncio.StreamWriter | None

    def lend(self, reader: asyncio.Protocol) -> asyncio.WriteTransport:
        """From now on `reader` gets what arrives. The connection must be kept as long."""
        assert self._writer is not None, "the connection is not made"
        transport = self._writer.transport
        if transport.is_closing():
            raise ConnectionError("it closed the connection")
        transport.set_protocol(reader)
        return transport


class _Tcp(_Lending, Connection):
    pass


class _Tls(_Lending, SSLConnection):
    pass


class _Unix(_Lending, UnixDomainSocketConnection):
    pass


def _connection(url: RedisUrl, place: Place, seconds: float) -> Lendable:
    host, port = place
    common: dict[str, Any] = {
        "username": url.username,
        "password": url.password,
        "db": url.database,
        "socket_timeout": seconds,
        "socket_connect_timeout": seconds,
        "client_name": "paywall",
        "protocol": 2,
    }
    if not port:
        return _Unix(path=host, **common)
    common |= {"host": host, "port": port, "socket_keepalive": True}
    if not url.tls:
        return _Tcp(**common)
    return _Tls(ssl_ca_certs=url.ca, ssl_certfile=url.cert, ssl_keyfile=url.key, **common)


class Lane:
    """The way to one server. It connects when it has something to say."""

    def __init__(
        self, url: RedisUrl, place: Place, scripts: dict[str, Script], failed: Failed
    ) -> None:
        self.place = place
        self._url = url
        self._scripts = scripts
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._queue: list[Call] = []
        self._flushing = False
        self._wire: Wire | None = None
        self._connecting: asyncio.Task[None] | None = None

    @property
    def answer_seconds(self) -> float:
        """A server that says nothing for so long is given up, so that there is time for another."""
        return self._url.timeout_seconds / 4

    @property
    def waiting(self) -> int:
        """Calls without an answer."""
        return len(self._queue) + (len(self._wire.sent) if self._wire else 0)

    def submit(self, call: Call) -> None:
        """Sends the call with all others of this turn of the event loop."""
        self._queue.append(call)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def ask(self, *words: str | bytes | int) -> "asyncio.Future[Reply]":
        """A command that is not tried again."""
        call = Call(pack(*words), self._loop.create_future())
        self.submit(call)
        return call.reply

    def tell(self, *words: str | bytes | int) -> None:
        """A command whose answer nobody needs."""
        self.ask(*words).add_done_callback(asyncio.Future.exception)

    def _flush(self) -> None:
        self._flushing = False
        if self._wire is not None:
            calls, self._queue = self._queue, []
            self._wire.send(calls)
        elif self._connecting is None:
            self._connecting = self._loop.create_task(self._connect())

    async def _connect(self) -> None:
        connection = _connection(self._url, self.place, self.answer_seconds)
        wait = (self._url.replicas, self._url.wait_ms)
        try:
            async with asyncio.timeout(2 * self.answer_seconds):
                await connection.connect()
            wire = Wire(self, connection, self.answer_seconds, *wait)
        except BaseException as error:
            connection._close()
            if not isinstance(error, FAILURES):
                raise
            self._fail(self._take_queue(), error)
            return
        finally:
            self._connecting = None
        self._wire = wire
        self._wire.load([*self._scripts.values()])
        self._flush()

    def _take_queue(self) -> list[Call]:
        calls, self._queue = self._queue, []
        return calls

    def _fail(self, calls: list[Call], error: Exception) -> None:
        for call in calls:
            self._failed(call, error)

    def lost(self, calls: list[Call], error: Exception) -> None:
        """The connection is gone, and these calls have no answer."""
        self._wire = None
        self._fail(calls, error)

    def failed(self, call: Call, error: Exception) -> None:
        self._failed(call, error)

    async def close(self) -> None:
        """Waits for what was sent, a moment, and hangs up."""
        if self._connecting:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        if self._wire:
            if self._queue:
                self._flush()
            await self._wire.finish(self.answer_seconds)
        self._fail(self._take_queue(), StoreUnavailable("the store was closed"))
