"""Real wires for tests of the agent: HTTP/1 with or without TLS, HTTP/2, and a proxy between.

Each serves one handler, `httpx.Request -> httpx.Response`, such as a `FakeProvider`, on a free
loopback port and in a thread of its own. What went over it is kept.
"""

import asyncio
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import h2.connection
import h2.events
import httpx
import trustme
import uvicorn
from starlette.types import Receive, Scope, Send

from helpers.servers import START_SECONDS, _await_start

Handler = Callable[[httpx.Request], httpx.Response]
_HOP: Final = {"content-length", "transfer-encoding", "connection"}


def as_app(handler: Handler) -> Callable[[Scope, Receive, Send], object]:
    """The handler as an ASGI app; a handler that sleeps blocks nobody else."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        host = dict(scope["headers"])[b"host"].decode()
        url = f"{scope['scheme']}://{host}{scope['raw_path'].decode()}"
        request = httpx.Request(scope["method"], url, headers=scope["headers"], content=body)
        answer = await asyncio.to_thread(handler, request)
        headers = [(k, v) for k, v in answer.headers.raw if k.decode().lower() not in _HOP]
        headers.append((b"content-length", str(len(answer.content)).encode()))
        start = {"type": "http.response.start", "status": answer.status_code, "headers": headers}
        await send(start)
        await send({"type": "http.response.body", "body": answer.content})

    return app


@contextmanager
def over_http(handler: Handler, tls: trustme.CA | None = None) -> Iterator[str]:
    """HTTP/1.1; with a certificate for `localhost` where an authority is given."""
    config = uvicorn.Config(
        as_app(handler), host="127.0.0.1", port=0, log_level="error", ws="none", lifespan="off"
    )
    config.load()
    if tls:
        config.ssl = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.issue_cert("localhost").configure_cert(config.ssl)
    server = uvicorn.Server(config)
    socket = config.bind_socket()
    thread = threading.Thread(target=server.run, args=([socket],), daemon=True)
    thread.start()
    try:
        _await_start(server, thread)
        port = socket.getsockname()[1]
        yield f"https://localhost:{port}" if tls else f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(START_SECONDS)
        socket.close()


@dataclass
class Loop:
    """An asyncio server in a thread."""

    port: int = 0
    seen: list[str] = field(default_factory=list)
    connections: int = 0


@contextmanager
def _in_thread(
    connected: Callable[[asyncio.StreamReader, asyncio.StreamWriter], object],
) -> Iterator[int]:
    ready, box = threading.Event(), {}

    async def main() -> None:
        server = await asyncio.start_server(connected, "127.0.0.1", 0)  # type: ignore[arg-type]
        box["port"] = server.sockets[0].getsockname()[1]
        box["loop"], box["stop"] = asyncio.get_running_loop(), asyncio.Event()
        ready.set()
        async with server:
            await box["stop"].wait()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    assert ready.wait(START_SECONDS)
    try:
        yield box["port"]
    finally:
        box["loop"].call_soon_threadsafe(box["stop"].set)
        thread.join(START_SECONDS)


@contextmanager
def over_http2(handler: Handler) -> Iterator[Loop]:
    """HTTP/2 in the clear, for clients that know it beforehand."""
    told = Loop()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told.connections += 1
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        connection.initiate_connection()
        writer.write(connection.data_to_send())
        headers: dict[int, list[tuple[bytes, bytes]]] = {}
        bodies: dict[int, bytes] = {}
        try:
            while data := await reader.read(65536):
                for event in connection.receive_data(data):
                    if isinstance(event, h2.events.RequestReceived):
                        headers[event.stream_id], bodies[event.stream_id] = event.headers, b""
                    elif isinstance(event, h2.events.DataReceived):
                        bodies[event.stream_id] += event.data
                        size = event.flow_controlled_length
                        connection.acknowledge_received_data(size, event.stream_id)
                    elif isinstance(event, h2.events.StreamEnded):
                        number = event.stream_id
                        request = _request_of(headers.pop(number), bodies.pop(number))
                        told.seen.append(f"{request.method} {request.url.path}")
                        answer = await asyncio.to_thread(handler, request)
                        _answer(connection, number, answer)
                writer.write(connection.data_to_send())
        finally:
            writer.close()

    with _in_thread(connected) as told.port:
        yield told


def _request_of(headers: list[tuple[bytes, bytes]], body: bytes) -> httpx.Request:
    told = dict(headers)
    host, path = told[b":authority"].decode(), told[b":path"].decode()
    plain = [(name, value) for name, value in headers if not name.startswith(b":")]
    url = f"http://{host}{path}"
    return httpx.Request(told[b":method"].decode(), url, headers=plain, content=body)


def _answer(connection: h2.connection.H2Connection, number: int, answer: httpx.Response) -> None:
    plain = [(k.lower(), v) for k, v in answer.headers.raw if k.decode().lower() not in _HOP]
    status = (b":status", str(answer.status_code).encode())
    connection.send_headers(number, [status, *plain])
    connection.send_data(number, answer.content, end_stream=True)


@contextmanager
def proxy(to: str) -> Iterator[Loop]:
    """A plain forwarding proxy; everything goes to the server at `to`, whatever it is called."""
    told = Loop()
    target = httpx.URL(to)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told.connections += 1
        there, back = await asyncio.open_connection(target.host, target.port)
        try:
            while line := await reader.readline():
                method, url, version = line.decode().split(" ")
                told.seen.append(f"{method} {url}")
                path = httpx.URL(url).raw_path.decode()
                back.write(f"{method} {path} {version}".encode() + await _until_blank(reader))
                head = await _until_blank(there)
                size = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
                writer.write(head + await there.readexactly(int(size or b"0")))
        finally:
            back.close()
            writer.close()

    with _in_thread(connected) as told.port:
        yield told


async def _until_blank(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")
