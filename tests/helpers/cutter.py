"""A network that loses answers: a TCP proxy that cuts a connection when its answer comes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

_CHUNK_BYTES = 65_536


class Cutter:
    """Forwards to a provider. `cuts` is how many answers are still to be lost."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._target = parts.hostname, parts.port
        self.cuts = 0
        self.lost = 0
        self.url = ""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(*self._target)
        up = asyncio.create_task(self._upload(reader, back))
        try:
            while answer := await there.read(_CHUNK_BYTES):
                if self.cuts:
                    self.cuts -= 1
                    self.lost += 1
                    break
                writer.write(answer)
                await writer.drain()
        finally:
            up.cancel()
            back.close()
            writer.transport.abort()

    async def _upload(self, reader: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while request := await reader.read(_CHUNK_BYTES):
                back.write(request)
                await back.drain()
        back.close()


@asynccontextmanager
async def cutting(target: str) -> AsyncIterator[Cutter]:
    """The proxy, in this event loop."""
    cutter = Cutter(target)
    server = await asyncio.start_server(cutter._serve, "127.0.0.1", 0)
    cutter.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield cutter
    finally:
        server.close()
