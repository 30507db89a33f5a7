"""The proxy on the wire: what goes on, what stays, what streams, and what is charged."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
import pytest
from helpers.provider import (
    PRICE,
    PRICED,
    Agent,
    Answer,
    Client,
    ask,
    buy,
    paying,
    provider,
    record_of,
    scope_of,
    until,
)
from helpers.upstream import OK, Exchange, Handler, Service, answering, service

from paywall import upto
from paywall.protocol.errors import ConfigurationError
from paywall.proxy import Timeouts, Upstream

CHUNKED = OK + b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n"


@asynccontextmanager
async def proxied(handler: Handler, **options: object) -> AsyncIterator[tuple[Upstream, Service]]:
    async with service(handler) as running:
        upstream = Upstream(running.url + str(options.pop("below", "")), **options)
        try:
            yield upstream, running
        finally:
            await upstream.close()


async def refused(exchange: Exchange) -> None:
    raise AssertionError("nothing should come here")


async def arrived(client: Client, holds: Callable[[Answer], bool]) -> None:
    """Waits for bytes from a socket, which takes more than turns of this loop."""
    async with asyncio.timeout(10):
        while not holds(client.answer):
            client.arrived.clear()
            await client.arrived.wait()


# -- The request ---------------------------------------------------------------------------------


async def test_the_request_goes_on_as_it_came() -> None:
    async with proxied(answering()) as (upstream, running):
        path = "/a/b c"
        answer = await ask(
            upstream,
            path,
            "PATCH",
            [(b"accept", b"a"), (b"accept", b"b"), (b"x-own", b"1")],
            raw_path=b"/a%2Fb%20c",
            query_string=b"q=%C3%A9&q=2",
        )
    assert (answer.status, answer.body) == (200, b"served")
    assert running.last.line == "PATCH /a%2Fb%20c?q=%C3%A9&q=2 HTTP/1.1"
    assert (running.last.all("accept"), running.last.all("x-own")) == (["a", "b"], ["1"])


async def test_what_is_of_the_connection_or_forged_or_paid_with_stays_here() -> None:
    dropped = {
        b"connection": b"close, x-hop",
        b"x-hop": b"1",
        b"keep-alive": b"1",
        b"te": b"trailers",
        b"trailer": b"x",
        b"upgrade": b"h2c",
        b"proxy-authorization": b"secret",
        b"expect": b"100-continue",
        b"forwarded": b"for=6.6.6.6",
        b"x-real-ip": b"6.6.6.6",
        b"payment-signature": b"money",
        b"sign-in-with-x": b"proof",
        b"paywall-payer": b"0xsomebodyelse",
        b"paywall-price": b"0",
        b"paywall_payer": b"0xsomebodyelse",
        b"x_forwarded_for": b"6.6.6.6",
    }
    forged = [(b"x-forwarded-for", b"6.6.6.6"), (b"x-forwarded-proto", b"https")]
    async with proxied(answering()) as (upstream, running):
        await ask(upstream, headers=[*dropped.items(), *forged, (b"x-kept", b"1")])
    got = running.last
    assert {name: got.all(name.decode()) for name in dropped} == {name: [] for name in dropped}
    assert got.all("x-kept") == ["1"]
    assert got.all("x-forwarded-for") == ["127.0.0.1"]
    assert got.all("x-forwarded-proto") == ["http"]
    assert got.all("x-forwarded-host") == ["api.example"]
    assert got.all("host") == [running.url.removeprefix("http://")]
    assert got.all("via") == ["1.1 paywall"]


async def test_a_service_may_live_below_a_path_and_see_the_name_that_was_asked() -> None:
    async with proxied(answering(), below="/base/", keep_host=True) as (upstream, running):
        await ask(upstream, "/x")
    assert running.last.line == "GET /base/x HTTP/1.1"
    assert running.last.all("host") == ["api.example"]


@pytest.mark.parametrize("path", ["/../x", "/a/%2e%2E/x", "/a/..%2fx", "/..", "/..;/x", "/..\\x"])
async def test_case_1_nothing_above_its_path_is_asked_for(path: str) -> None:
    async with proxied(refused, below="/base") as (upstream, running):
        assert (await ask(upstream, path)).status == 400
    assert running.exchanges == []


async def test_a_body_is_streamed_with_its_length_or_in_chunks() -> None:
    first = asyncio.Event()
    read: list[bytes] = []

    async def handle(exchange: Exchange) -> None:
        if exchange.all("content-length"):
            read.append(await exchange.reader.readexactly(10))
        else:
            read.append(await exchange.reader.readuntil(b"first\r\n"))
            first.set()
            read.append(await exchange.reader.readuntil(b"0\r\n\r\n"))
        await answering()(exchange)

    parts = [
        {"type": "http.request", "body": b"first", "more_body": True},
        {"type": "http.request", "body": b"other", "more_body": False},
    ]
    async with proxied(handle) as (upstream, running):
        await ask(upstream, "/x", "POST", [(b"content-length", b"10")], client=Client(parts))
        assert read == [b"firstother"]
        assert running.last.all("content-length") == ["10"]

        client = Waiting(parts, first)
        both = [(b"transfer-encoding", b"chunked"), (b"content-length", b"3")]
        await ask(upstream, "/x", "POST", both, client=client)
    assert read[1:] == [b"5\r\nfirst\r\n", b"5\r\nother\r\n0\r\n\r\n"]
    assert running.last.all("content-length") == []


class Waiting(Client):
    """Sends its second part when the first has arrived at the other end."""

    def __init__(self, parts: list, first: asyncio.Event) -> None:
        super().__init__(parts)
        self._first = first

    async def receive(self):
        if len(self.uploads) == 1:
            await self._first.wait()
        return await super().receive()


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/x", [(b"content-length", b"1"), (b"content-length", b"2")]),
        ("http://other.example/x", []),
        ("*", []),
    ],
)
async def test_a_malformed_request_does_not_go_on(path: str, headers: list) -> None:
    async with proxied(refused) as (upstream, running):
        assert (await ask(upstream, path, headers=headers)).status == 400
    assert running.exchanges == []


async def test_a_websocket_is_closed() -> None:
    client = Client()
    scope = {**scope_of("/x"), "type": "websocket"}
    await Upstream("http://127.0.0.1:1")(scope, client.receive, client.send)
    assert client.answer.messages[0]["type"] == "websocket.close"


@pytest.mark.parametrize(
    "url", ["", "service", "ftp://x", "http://u:p@x", "http://x?q=1", "http://x:y"]
)
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="upstream"):
        Upstream(url)


# -- The answer ----------------------------------------------------------------------------------


async def test_the_answer_comes_back_as_it_was_but_for_its_connection() -> None:
    sent = (
        *(b"Set-Cookie: a=1", b"Set-Cookie: b=2", b"Keep-Alive: 5", b"ETag: x"),
        *(b"Paywall-Pass: forged", b"Trailer: y"),
    )
    async with proxied(answering(b"gone", *sent, status=b"410 Gone")) as (upstream, _):
        answer = await ask(upstream)
    assert (answer.status, answer.body) == (410, b"gone")
    assert answer.all("set-cookie") == ["a=1", "b=2"]
    assert answer.header("etag") == "x"
    names = ("keep-alive", "connection", "paywall-pass", "trailer", "transfer-encoding")
    assert [answer.header(name) for name in names] == [None] * 5
    assert len(answer.messages) == 2, "a small answer comes in one piece"


async def test_events_are_handed_on_one_by_one() -> None:
    go_on = asyncio.Event()

    async def handle(exchange: Exchange) -> None:
        await exchange.send(CHUNKED + b"9\r\ndata: 1\n\n\r\n")
        await go_on.wait()
        await exchange.send(b"9\r\ndata: 2\n\n\r\n0\r\nx-trailer: 1\r\n\r\n")

    async with proxied(handle) as (upstream, _):
        client = Client()
        asking = asyncio.create_task(ask(upstream, client=client))
        await arrived(client, lambda answer: answer.body == b"data: 1\n\n")
        go_on.set()
        assert (await asking).body == b"data: 1\n\ndata: 2\n\n"


@pytest.mark.parametrize(("method", "status"), [("HEAD", b"200 OK"), ("GET", b"304 Not Modified")])
async def test_an_answer_without_a_body_keeps_its_length(method: str, status: bytes) -> None:
    async def handle(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 " + status + b"\r\ncontent-length: 99999\r\n\r\n")

    async with proxied(handle) as (upstream, _):
        answer = await ask(upstream, "/x", method)
    assert (answer.body, answer.header("content-length")) == (b"", "99999")


@pytest.mark.parametrize(
    ("method", "status"),
    [("HEAD", b"200 OK"), ("GET", b"304 Not Modified"), ("GET", b"204 No Content")],
)
async def test_a_body_that_should_not_be_there_is_nobody_elses_answer(
    method: str, status: bytes
) -> None:
    hidden = OK + b"content-length: 6\r\n\r\nstolen"
    length = b"\r\ncontent-length: %d\r\n\r\n" % len(hidden)

    async def careless(exchange: Exchange) -> None:
        while True:
            if " /bare " in exchange.line:
                await exchange.send(b"HTTP/1.1 " + status + length + hidden)
            else:
                await exchange.send(OK + b"content-length: 4\r\n\r\nmine")
            exchange.head = await exchange.reader.readuntil(b"\r\n\r\n")

    async with proxied(careless) as (upstream, _):
        assert (await ask(upstream, "/bare", method)).body == b""
        assert (await ask(upstream, "/x")).body == b"mine"


async def test_an_upstream_that_breaks_off_breaks_off_here() -> None:
    async def handle(exchange: Exchange) -> None:
        await exchange.send(CHUNKED + b"5\r\nfirst\r\n")

    async with proxied(handle) as (upstream, _):
        client = Client()
        with pytest.raises(httpx.TransportError):
            await ask(upstream, client=client)
    assert client.answer.body == b"first"
    assert client.answer.messages[-1]["more_body"] is True


@pytest.mark.parametrize("begun", [False, True])
async def test_case_10_a_client_that_hangs_up_takes_the_upstream_with_it(begun: bool) -> None:
    closed = asyncio.Event()

    async def handle(exchange: Exchange) -> None:
        if begun:
            await exchange.send(CHUNKED + b"5\r\nfirst\r\n")
        if await exchange.gone():
            closed.set()

    async with proxied(handle) as (upstream, running):
        client = Client()
        asking = asyncio.create_task(ask(upstream, client=client))
        async with asyncio.timeout(10):
            await running.asked.wait()
        if begun:
            await arrived(client, lambda answer: answer.body == b"first")
        client.hang_up()
        await asking
        async with asyncio.timeout(10):
            await closed.wait()


async def test_an_upstream_that_is_down_or_silent_is_said_to_be() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        upstream = Upstream(f"http://127.0.0.1:{nobody.getsockname()[1]}")
        answer = await ask(upstream)
        assert (answer.status, answer.json["error"]) == (502, "bad_gateway")
        await upstream.close()

    async def silent(exchange: Exchange) -> None:
        await exchange.gone()

    async with proxied(silent, timeouts=Timeouts(read_seconds=0.05)) as (upstream, _):
        answer = await ask(upstream)
        assert (answer.status, answer.json["error"]) == (504, "gateway_timeout")

    async def rude(exchange: Exchange) -> None: ...

    async with proxied(rude) as (upstream, _):
        assert (await ask(upstream)).status == 502


async def test_a_retired_one_serves_what_it_has_begun() -> None:
    go_on = asyncio.Event()

    async def handle(exchange: Exchange) -> None:
        await go_on.wait()
        await answering()(exchange)

    async with proxied(handle) as (upstream, running):
        asking = asyncio.create_task(ask(upstream))
        async with asyncio.timeout(10):
            await running.asked.wait()
        upstream.retire()
        go_on.set()
        assert (await asking).body == b"served"
        await until(lambda: upstream._retired is not None and upstream._retired.done())


# -- Money ---------------------------------------------------------------------------------------


async def test_the_upstream_learns_who_paid_and_a_failure_of_its_is_not_charged() -> None:
    async with proxied(answering()) as (upstream, running):
        wall = provider(upstream)
        assert (await ask(wall)).status == 402
        assert running.exchanges == []
        answer = await buy(wall, PRICE)
        assert (answer.status, answer.body) == (200, b"served")
        assert running.last.all("paywall-price") == ["1000"]
        assert len(running.last.all("paywall-payer")[0]) == 42
        assert (await record_of(wall)).charged == PRICE
    down = provider(Upstream("http://127.0.0.1:1"))
    assert (await buy(down, PRICE)).status == 502
    assert (await record_of(down)).charged == 0


@pytest.mark.parametrize(
    ("told", "charged"),
    [(b"$0.0003", 300), (b"250", 250), (b"0", 0), (b"$5", PRICE), (b"-1", PRICE), (b"much", PRICE)],
)
async def test_the_upstream_may_charge_less(told: bytes, charged: int) -> None:
    async with proxied(answering(b"served", b"Paywall-Charge: " + told)) as (upstream, _):
        wall = provider(upstream, {"/priced": upto(PRICED)})
        answer = await buy(wall, PRICE)
    assert answer.header("paywall-charge") is None
    assert answer.receipt["extra"]["chargedAmount"] == str(charged)
    assert (await record_of(wall)).charged == charged


async def test_a_paid_stream_is_charged_when_its_head_leaves() -> None:
    async def handle(exchange: Exchange) -> None:
        await exchange.send(CHUNKED + b"5\r\nfirst\r\n")
        await exchange.gone()

    async with proxied(handle) as (upstream, _):
        wall = provider(upstream)
        client = Client()
        headers = paying(Agent().pay(PRICE))
        asking = asyncio.create_task(ask(wall, headers=headers, client=client))
        await arrived(client, lambda answer: answer.body == b"first")
        assert (await record_of(wall)).charged == PRICE
        client.hang_up()
        await asking
    assert (await record_of(wall)).charged == PRICE
