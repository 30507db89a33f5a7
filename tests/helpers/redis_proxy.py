"""A way to a Redis server that loses answers, or goes silent, when a test says so."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Proxy:
    """Forwards bytes between a client and a server on loopback."""

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self.lose_answers = 0
        """So many of the next answers are thrown away, each together with its connection."""
        self.silent = False
        """Answers are kept back, and the connection stays."""
        self.lost = 0
        self.connections = 0
        self._target_port = target_port

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            upstream = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.close()
            return
        upward = asyncio.create_task(self._pump(reader, upstream[1], answers=False))
        await self._pump(upstream[0], writer, answers=True)
        upward.cancel()
        for one in (writer, upstream[1]):
            one.close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: bool
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if answers and self.lose_answers:
                    self.lose_answers -= 1
                    self.lost += 1
                    return
                if answers and self.silent:
                    continue
                writer.write(data)
                await writer.drain()


@asynccontextmanager
async def proxy_to(port: int) -> AsyncIterator[Proxy]:
    proxy = Proxy(port)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
