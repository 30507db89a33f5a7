"""`python -m bench.load`: sends requests that are ready to be sent, and says how long they took.

A process of its own, so that it can be given a core of its own. It reads one `Work` as MessagePack
and writes one `Result` as JSON. A connection sends its requests one after the other, each when the
answer before is complete; as many connections as there are lists, so many requests in flight.
"""

import asyncio
import os
import sys
import time
from collections import Counter
from typing import cast

import msgspec
import uvloop


class Work(msgspec.Struct, frozen=True):
    """Raw HTTP/1.1 requests, a list a connection, and the core to stay on."""

    port: int
    core: int
    connections: list[list[bytes]]


class Result(msgspec.Struct, frozen=True):
    """Seconds in all, milliseconds of each request, and how many answers of each status."""

    seconds: float
    milliseconds: list[float]
    statuses: dict[str, int]


class Connection(asyncio.Protocol):
    """One request in flight; knows of HTTP only where a head ends and how long its body is."""

    def __init__(self, requests: list[bytes]) -> None:
        self._requests = iter(requests)
        self._buffer = b""
        self._began = 0.0
        self.milliseconds: list[float] = []
        self.statuses: Counter[str] = Counter()
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its class

    def send_next(self) -> None:
        request = next(self._requests, None)
        if request is None:
            self._transport.close()
            if not self.done.done():
                self.done.set_result(None)
            return
        self._began = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end or not _is_complete(head.lower(), rest):
            return
        self.milliseconds.append((time.perf_counter() - self._began) * 1000)
        self.statuses[head[9:12].decode()] += 1
        self._buffer = b""
        self.send_next()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionResetError("closed by the server"))


def _is_complete(head: bytes, body: bytes) -> bool:
    _, named, length = head.partition(b"\r\ncontent-length:")
    if named:
        return len(body) >= int(length.partition(b"\r\n")[0])
    return body.endswith(b"0\r\n\r\n")  # chunked


async def _send(work: Work) -> Result:
    loop = asyncio.get_running_loop()
    connections = []
    for requests in work.connections:

        def connection(requests: list[bytes] = requests) -> Connection:
            return Connection(requests)

        connections.append((await loop.create_connection(connection, "127.0.0.1", work.port))[1])
    began = time.perf_counter()
    for one in connections:
        one.send_next()
    await asyncio.gather(*(one.done for one in connections))
    seconds = time.perf_counter() - began
    times = [taken for one in connections for taken in one.milliseconds]
    statuses = sum((one.statuses for one in connections), Counter[str]())
    return Result(seconds, times, dict(statuses))


def main() -> None:
    work = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Work)
    os.sched_setaffinity(0, {work.core})
    result = uvloop.run(_send(work))
    sys.stdout.buffer.write(msgspec.json.encode(result))


if __name__ == "__main__":
    main()
