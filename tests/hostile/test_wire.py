"""A hostile provider on real sockets, and every byte that left for it; over httpx and httpx2."""

import asyncio
import base64
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import httpx
import httpx2
import pytest
from helpers.agent import KEY, PRICE, make_wallet, paid, quote_header
from helpers.villain import IDS
from helpers.wires import _in_thread

import paywall.client
import paywall.httpx2
from paywall.protocol.errors import AgentError
from paywall.protocol.limits import MAX_DISCARD_SECONDS, MAX_DISCARDED_BYTES
from paywall.wallet import Wallet

Respond = Callable[[httpx.Request], bytes]
TIMEOUTS = (httpx.ReadTimeout, httpx2.ReadTimeout)
QUOTE = f"payment-required: {quote_header(extensions=IDS)}\r\n"


@dataclass
class Ear:
    """A raw server: it hears every byte and answers as it is told."""

    respond: Respond
    port: int = 0
    heard: bytes = b""
    drips: bool = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while True:
                    await self._answer(await reader.readuntil(b"\r\n\r\n"), writer)
        finally:
            writer.close()

    async def _answer(self, head: bytes, writer: asyncio.StreamWriter) -> None:
        self.heard += head
        answer = self.respond(_parsed(head))
        writer.write(answer)
        while self.drips and b"402" in answer[:20]:
            writer.write(b"1\r\nx\r\n")
            await writer.drain()
            await asyncio.sleep(0.05)


def _parsed(head: bytes) -> httpx.Request:
    first, *lines = head.decode().rstrip().split("\r\n")
    method, path, _ = first.split(" ")
    pairs = [tuple(line.split(": ", 1)) for line in lines]
    return httpx.Request(method, f"http://x{path}", headers=pairs)  # type: ignore[arg-type]


@contextmanager
def ear(respond: Respond, drips: bool = False) -> Iterator[Ear]:
    listening = Ear(respond, drips=drips)
    with _in_thread(listening) as listening.port:
        yield listening


def answer(status: str, headers: str = "", body: bytes = b"") -> bytes:
    return f"HTTP/1.1 {status}\r\n{headers}content-length: {len(body)}\r\n\r\n".encode() + body


def quoted(request: httpx.Request) -> bytes:
    """An honest provider, raw."""
    if "payment-signature" not in request.headers:
        return answer("402 Payment Required", QUOTE)
    told = paid(request).headers["payment-response"]
    return answer("200 OK", f"payment-response: {told}\r\n", b"paid")


@pytest.fixture(params=[paywall.client, paywall.httpx2], ids=["httpx", "httpx2"])
def ours(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def wallet() -> Iterator[Wallet]:
    one = make_wallet()
    yield one
    one.close()


def payments_in(heard: bytes) -> int:
    return heard.lower().count(b"payment-signature:")


def assert_no_key(*texts: bytes) -> None:
    forms = (KEY, KEY.hex().encode(), KEY.hex().upper().encode(), base64.b64encode(KEY))
    assert not [form for form in forms for text in texts if form in text]


@pytest.mark.parametrize("status", ["302 Found", "307 Temporary Redirect"])
def test_cases_47_and_53_a_redirect_after_payment_takes_no_byte_of_it_elsewhere(
    ours, wallet, status
):
    with ear(lambda _: answer("200 OK")) as evil:

        def respond(request: httpx.Request) -> bytes:
            if "payment-signature" not in request.headers:
                return answer("402 Payment Required", QUOTE)
            return answer(status, f"location: {evil.url}/x\r\n")

        with ear(respond) as shop, ours.Client(wallet=wallet, follow_redirects=True) as client:
            for _ in range(3):
                client.get(f"{shop.url}/x", cookies={"a": "b"}, auth=("me", "secret"))
    assert payments_in(shop.heard) == 3
    assert payments_in(evil.heard) == 0
    assert evil.heard.count(b"GET /x") == 3
    headers = [line.partition(b": ")[2] for line in shop.heard.split(b"\r\n")]
    signed = [base64.b64decode(value) for value in headers if value.startswith(b"eyJ4NDAy")]
    assert len(signed) == 3
    assert_no_key(shop.heard, evil.heard, *signed)


async def test_case_46_a_quote_that_drips_holds_nobody_for_long(ours, wallet):
    def respond(request: httpx.Request) -> bytes:
        if "payment-signature" in request.headers:
            return quoted(request)
        head = "HTTP/1.1 402 Payment Required\r\ntransfer-encoding: chunked\r\n"
        return f"{head}{QUOTE}\r\n".encode()

    with ear(respond, drips=True) as shop:
        began = time.monotonic()
        with ours.Client(wallet=wallet) as client:
            assert client.get(f"{shop.url}/x").text == "paid"
        async with ours.AsyncClient(wallet=wallet) as client:
            assert (await client.get(f"{shop.url}/y/z")).text == "paid"
        took = time.monotonic() - began
    assert 2 * MAX_DISCARD_SECONDS <= took < 20
    assert wallet.spent() == 2 * PRICE


async def test_case_46_a_quote_in_a_body_that_drips_holds_nobody_for_long(
    ours, wallet, monkeypatch
):
    """Each read of it is in time."""
    monkeypatch.setattr("paywall.old_providers.MAX_QUOTE_SECONDS", 0.2)
    head = "HTTP/1.1 402 Payment Required\r\ncontent-type: application/json\r\n"
    with ear(lambda _: f"{head}content-length: 60000\r\n\r\n".encode(), drips=True) as shop:
        began = time.monotonic()
        with (
            ours.Client(wallet=wallet) as client,
            pytest.raises(TIMEOUTS, match="did not come"),
        ):
            client.get(f"{shop.url}/x")
        async with ours.AsyncClient(wallet=wallet) as later:
            with pytest.raises(TIMEOUTS, match="did not come"):
                await later.get(f"{shop.url}/x")
    assert time.monotonic() - began < 20
    assert wallet.spent() == 0


def test_case_46_a_quote_with_a_body_that_explodes_is_not_unpacked(ours, wallet):
    bomb = bytes(10 * MAX_DISCARDED_BYTES)

    def respond(request: httpx.Request) -> bytes:
        if "payment-signature" in request.headers:
            return quoted(request)
        return answer("402 Payment Required", QUOTE + "content-encoding: gzip\r\n", bomb)

    with ear(respond) as shop, ours.Client(wallet=wallet) as client:
        assert client.get(f"{shop.url}/x").text == "paid"


@pytest.mark.parametrize(
    "dirt",
    [
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 200_000 + b"\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 5,
    ],
    ids=range(6),
)
def test_case_49_dirt_in_answer_to_a_payment_costs_one_price_and_never_a_second(
    ours, wallet, dirt, monkeypatch
):
    monkeypatch.setattr("paywall.sending.RESEND_PAUSES_SECONDS", (0.0,))

    def respond(request: httpx.Request) -> bytes:
        return dirt if "payment-signature" in request.headers else quoted(request)

    library = httpx if ours is paywall.client else httpx2
    client = ours.Client(wallet=wallet, timeout=0.3)
    with ear(respond) as shop, client, pytest.raises((AgentError, library.HTTPError)):
        client.get(f"{shop.url}/x")
    totals = {line for line in shop.heard.split(b"\r\n") if b"signature:" in line.lower()}
    assert len(totals) == 1, "the same payment, if it was sent again at all"
    assert wallet.spent() == PRICE


def test_case_53_no_copy_of_a_wallet_or_of_what_holds_one_carries_the_key(ours, wallet):
    with ours.Client(wallet=wallet) as client:
        for thing in (wallet, wallet.books, client, ours.Transport(wallet)):
            with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
                pickle.dumps(thing)
            assert KEY.hex() not in repr(thing)
