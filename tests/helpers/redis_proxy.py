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
        """Answers are thrown away, and the connection stays."""
        self.lost = 0
        self.connections = 0
        self._target_port = target_port
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def hang_up(self) -> None:
        for writer in self._writers:
            writer.close()
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        self._writers.add(writer)
        with suppress(OSError):
            answers, upstream = await asyncio.open_connection("127.0.0.1", self._target_port)
            writers.append(upstream)
            self._writers.add(upstream)
            upward = asyncio.create_task(self._pump(reader, upstream, answers=False))
            await self._pump(answers, writer, answers=True)
            for one in writers:
                one.close()
            await upward
        for one in writers:
            one.close()
            with suppress(OSError):
                await one.wait_closed()
            self._writers.discard(one)

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
        if not answers:
            writer.close()


@asynccontextmanager
async def proxy_to(port: int) -> AsyncIterator[Proxy]:
    proxy = Proxy(port)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.hang_up()
