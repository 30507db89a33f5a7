"""Listening to a client that may have hung up: what uvicorn says of it, and what is heard.

What middleware or another server puts there is listened to by a task: see `test_exchange`.
"""

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator
from typing import Literal
from urllib.parse import urlsplit

import httpx
import pytest
from helpers.servers import served
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from paywall.listener import Listener

Http = Literal["h11", "httptools"]
CHUNKS = [bytes([letter]) * 40_000 for letter in b"abcdef"]

both = pytest.mark.parametrize("http", ["h11", "httptools"])


async def _answer(send: Send, body: bytes) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


@both
async def test_case_10_to_ask_again_and_again_loses_nothing_of_an_upload(http: Http) -> None:
    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await _answer(send, await _body(Listener(receive)))

    async def slowly() -> AsyncIterator[bytes]:
        for chunk in CHUNKS:
            yield chunk
            await asyncio.sleep(0.01)

    with served(echo, http) as url:
        async with httpx.AsyncClient() as client:
            for _ in range(2):  # the connection is as good as before
                answer = await client.post(url, content=slowly())
                assert answer.content == b"".join(CHUNKS)


async def _body(listener: Listener) -> bytes:
    """An upload, by somebody who asks before and after each of its parts, and without a task."""
    tasks = asyncio.all_tasks()
    body, more = b"", True
    while more:
        for _ in range(3):
            assert not await listener.hung_up()
        message = await listener.receive()
        body += message["body"]
        more = message["more_body"]
    assert not await listener.hung_up()
    assert asyncio.all_tasks() <= tasks
    return body


@both
@pytest.mark.parametrize("reads", [False, True])
def test_case_10_a_hang_up_is_heard_by_asking(http: Http, reads: bool) -> None:
    heard: list[str] = []
    asked, gone = threading.Event(), threading.Event()

    async def waiting(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        listener = Listener(receive)
        if reads:
            heard.append((await listener.receive())["type"])
        heard.append(str(await listener.hung_up()))
        asked.set()
        for _ in range(2000):
            if await listener.hung_up():
                break
            await asyncio.sleep(0.005)
        heard.extend(
            [message["type"] for message in (await listener.receive(), await listener.receive())]
        )
        gone.set()

    with served(waiting, http) as url:
        place = urlsplit(url)
        with socket.create_connection((place.hostname, place.port)) as client:
            client.sendall(b"GET / HTTP/1.1\r\nhost: here\r\n\r\n")
            assert asked.wait(10)
        assert gone.wait(10)
    asked_first = ["http.request", "False"] if reads else ["False"]
    assert heard[: len(asked_first)] == asked_first
    assert heard[-1] == "http.disconnect"  # what it had sent before may still be heard first


GET = b"GET / HTTP/1.1\r\nhost: here\r\n\r\n"
UPLOAD = b"POST / HTTP/1.1\r\nhost: here\r\ncontent-length: 100000\r\n\r\n" + b"x" * 100_000


def _heard(http: Http, request: bytes, tries: int, between: int = 0) -> bool:
    """Whether a hang-up is heard after `request` by who asks so often; with one try, by who works
    until it has come: in a thread where there are middlewares `between`, else in the loop."""
    heard: list[bool] = []
    begun, gone, told = threading.Event(), threading.Event(), threading.Event()

    async def busy(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or begun.is_set():
            return
        listener = Listener(receive)
        begun.set()
        if between:
            await asyncio.to_thread(_work, gone)
        elif tries == 1:
            _work(gone)
        for _ in range(tries):
            heard.append(await listener.hung_up())
            if heard[-1]:
                break
            await asyncio.sleep(0.005)
        told.set()

    app: ASGIApp = busy
    for _ in range(between):
        app = BaseHTTPMiddleware(app, _pass_on)
    with served(app, http) as url:
        place = urlsplit(url)
        with socket.create_connection((place.hostname, place.port)) as client:
            client.sendall(request)
            assert begun.wait(10)
        gone.set()
        assert told.wait(20)
    return heard[-1]


async def _pass_on(request: Request, then: RequestResponseEndpoint) -> Response:
    return await then(request)


def _work(until: threading.Event) -> None:
    until.wait(10)
    time.sleep(0.05)


@both
def test_case_10_a_hang_up_is_heard_although_the_app_kept_the_processor(http: Http) -> None:
    assert _heard(http, GET, tries=1)


@both
@pytest.mark.parametrize("request_", [UPLOAD, GET + GET], ids=["an upload", "a second request"])
def test_case_10_a_hang_up_is_heard_behind_what_nobody_takes(http: Http, request_: bytes) -> None:
    assert _heard(http, request_, tries=2000)


@both
@pytest.mark.parametrize("between", [1, 2])
def test_case_10_a_hang_up_is_heard_through_middleware(http: Http, between: int) -> None:
    assert _heard(http, GET, tries=1, between=between)


async def test_case_10_a_hang_up_that_another_thread_tells_of_is_heard_meanwhile() -> None:
    asked, gone = asyncio.Event(), threading.Event()
    uploads: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Message:
        if uploads:
            return uploads.pop()
        asked.set()
        await asyncio.to_thread(gone.wait)
        return {"type": "http.disconnect"}

    listener = Listener(receive)
    async with asyncio.timeout(20):
        await asked.wait()  # while its handler works, and reads nothing
        assert not await listener.hung_up()
        assert (await listener.receive())["type"] == "http.request"
        gone.set()
        while not await listener.hung_up():  # noqa: ASYNC110 - to ask is what is tried
            await asyncio.sleep(0.01)
    listener.close()


async def test_nobody_begins_to_listen_after_the_end() -> None:
    reads = 0

    async def receive() -> Message:
        nonlocal reads
        reads += 1
        return {"type": "http.request", "body": b"", "more_body": False}

    Listener(receive).close()
    listener = Listener(receive)
    listener.close()
    await listener.receive()
    await asyncio.sleep(0.02)
    assert reads == 1
