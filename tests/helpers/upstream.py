"""A service behind the proxy, down to the byte: it notes what came, and answers as told."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

OK = b"HTTP/1.1 200 OK\r\n"


@dataclass
class Exchange:
    """One request as it came over the wire, and the way to answer it."""

    head: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def line(self) -> str:
        return self.head.split(b"\r\n")[0].decode()

    def all(self, name: str) -> list[str]:
        pairs = [line.partition(b": ") for line in self.head.split(b"\r\n")[1:] if line]
        return [v.decode() for k, _, v in pairs if k.lower() == name.encode()]

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def gone(self) -> bool:
        """Waits until the other side has closed."""
        async with asyncio.timeout(10):
            return await self.reader.read(1) == b""


Handler = Callable[[Exchange], Awaitable[None]]


@dataclass
class Service:
    url: str = ""
    exchanges: list[Exchange] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def last(self) -> Exchange:
        return self.exchanges[-1]


@asynccontextmanager
async def service(handler: Handler) -> AsyncIterator[Service]:
    """Serves one request per connection, for it closes after each."""
    running = Service()
    working: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        working.add(task)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            exchange = Exchange(head, reader, writer)
            running.exchanges.append(exchange)
            running.asked.set()
            await handler(exchange)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            working.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    running.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield running
    finally:
        server.close()
        for task in list(working):
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)


def answering(body: bytes = b"served", *headers: bytes, status: bytes = b"200 OK") -> Handler:
    async def handle(exchange: Exchange) -> None:
        length = b"content-length: %d" % len(body)
        lines = b"\r\n".join((b"HTTP/1.1 " + status, length, b"connection: close", *headers))
        await exchange.send(lines + b"\r\n\r\n" + body)

    return handle
