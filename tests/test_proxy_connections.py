"""Connections to an upstream: one for each request at once, used again, and closed when idle."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpx
import pytest

from paywall.proxy_connections import Connections


class Upstream:
    """Answers every request when it may, and counts who is connected."""

    def __init__(self) -> None:
        self.accepted = 0
        self.connected = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.asked = asyncio.Semaphore(0)
        self.url = ""
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self.connected += 1
        self.writers.append(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                self.asked.release()
                await self.may_answer.wait()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        self.connected -= 1
        writer.close()

    def hang_up(self) -> None:
        for writer in self.writers:
            writer.close()

    async def has_connected(self, number: int) -> bool:
        async with asyncio.timeout(10):
            while self.connected != number:  # noqa: ASYNC110 - the other side of a socket
                await asyncio.sleep(0.005)
        return True


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    one = Upstream()
    server = await asyncio.start_server(one.serve, "127.0.0.1", 0)
    one.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield one
        one.hang_up()
        await one.has_connected(0)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def connections(clock: Clock) -> AsyncIterator[Connections]:
    some = Connections(clock)
    yield some
    await some.close()


async def ask(connections: Connections, upstream: Upstream) -> bytes:
    async with connections.one() as connection:
        answer = await connection.handle_async_request(httpx.Request("GET", upstream.url))
        return await answer.aread()


@asynccontextmanager
async def asking(connections: Connections, upstream: Upstream, number: int) -> AsyncIterator[None]:
    """So many requests wait for their answer; after it they have one."""
    upstream.may_answer.clear()
    tasks = [asyncio.create_task(ask(connections, upstream)) for _ in range(number)]
    for _ in tasks:
        await upstream.asked.acquire()
    yield
    upstream.may_answer.set()
    assert await asyncio.gather(*tasks) == [b"ok"] * number


async def test_one_request_after_the_other_has_one_connection(connections, upstream):
    for _ in range(5):
        assert await ask(connections, upstream) == b"ok"
    assert upstream.accepted == 1


async def test_there_are_as_many_as_requests_at_once_and_they_are_used_again(connections, upstream):
    for _ in range(2):
        async with asking(connections, upstream, 20):
            assert upstream.connected == 20
    assert upstream.accepted == 20


async def test_what_is_idle_for_long_is_closed_by_who_comes_next(connections, upstream, clock):
    async with asking(connections, upstream, 10):
        pass
    clock.now += 4
    assert await ask(connections, upstream) == b"ok"
    assert upstream.connected == 10
    clock.now += 4
    assert await ask(connections, upstream) == b"ok"
    assert await upstream.has_connected(1)


async def test_no_more_than_128_are_kept(connections, upstream):
    async with asking(connections, upstream, 140):
        assert upstream.connected == 140
    assert await upstream.has_connected(128)


async def test_what_was_broken_off_is_not_used_again(connections, upstream):
    assert await ask(connections, upstream) == b"ok"
    upstream.may_answer.clear()
    given_up = asyncio.create_task(ask(connections, upstream))
    await upstream.asked.acquire()
    await upstream.asked.acquire()
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    upstream.may_answer.set()
    assert await ask(connections, upstream) == b"ok"
    assert upstream.accepted == 2


async def test_an_upstream_that_has_hung_up_meanwhile_is_connected_to_anew(connections, upstream):
    assert await ask(connections, upstream) == b"ok"
    upstream.hang_up()
    assert await upstream.has_connected(0)
    assert await ask(connections, upstream) == b"ok"
    assert upstream.accepted == 2


async def test_none_is_left_after_the_end_not_even_one_that_was_in_use(connections, upstream):
    async with asking(connections, upstream, 3):
        await connections.close()
        assert upstream.connected == 3
    assert await upstream.has_connected(0)
