"""The same clients over httpx and over httpx2: one suite, and each test runs with both.

What goes over real sockets goes over real sockets: TLS, HTTP/2 and a proxy between.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import httpx
import httpx2
import pytest
import trustme
from helpers.agent import (
    DEPOSIT,
    ORIGIN,
    PRICE,
    FakeProvider,
    header_of,
    make_wallet,
    offer,
    paid,
    required,
)
from helpers.wires import over_http, over_http2, proxy

import paywall.client
import paywall.httpx2
from paywall import patch
from paywall.confirmations import receipt
from paywall.protocol.errors import AgentError, OverBudget, PaymentLost
from paywall.wallet import Wallet

URL = f"{ORIGIN}/x"
Handler = Callable[[httpx.Request], httpx.Response]


@dataclass(frozen=True)
class Kit:
    """A library, and the paying clients that are made of it."""

    lib: Any
    ours: ModuleType

    def mock(self, handler: Handler) -> Any:
        """A transport without sockets; `handler` speaks httpx, whoever asks."""

        def handle(request: Any) -> Any:
            answer = handler(
                httpx.Request(
                    request.method,
                    str(request.url),
                    headers=request.headers.raw,
                    content=request.content,
                )
            )
            return self.lib.Response(
                answer.status_code, headers=answer.headers.raw, content=answer.content
            )

        return self.lib.MockTransport(handle)

    def client(self, wallet: Wallet, handler: Handler | None = None, **options: Any) -> Any:
        if handler:
            options["transport"] = self.mock(handler)
        return self.ours.Client(wallet=wallet, **options)

    def async_client(self, wallet: Wallet, handler: Handler | None = None, **options: Any) -> Any:
        if handler:
            options["transport"] = self.mock(handler)
        return self.ours.AsyncClient(wallet=wallet, **options)


@pytest.fixture(params=["httpx", "httpx2"])
def kit(request: pytest.FixtureRequest) -> Kit:
    if request.param == "httpx":
        return Kit(httpx, paywall.client)
    return Kit(httpx2, paywall.httpx2)


@pytest.fixture
def wallet() -> Iterator[Wallet]:
    one = make_wallet()
    yield one
    one.close()


@pytest.fixture
def provider() -> FakeProvider:
    return FakeProvider()


# -- Paying ----------------------------------------------------------------------------------------


def test_a_client_pays_and_stays_one_of_its_library(kit, wallet, provider):
    with kit.client(wallet, provider) as client:
        assert isinstance(client, kit.lib.Client)
        answers = [client.get(URL) for _ in range(3)]
    assert {type(answer) for answer in answers} == {kit.lib.Response}
    assert [receipt(answer).total for answer in answers] == [1_000, 2_000, 3_000]  # type: ignore[union-attr]
    assert [header_of(request) is not None for request in provider.requests] == [False, *[True] * 3]
    assert [header_of(answer.request) for answer in answers] == [None] * 3
    assert wallet.spent() == provider.charged == 3 * PRICE


async def test_an_async_client_pays(kit, wallet, provider):
    async with kit.async_client(wallet, provider) as client:
        assert isinstance(client, kit.lib.AsyncClient)
        answers = [await client.post(URL, json={"n": n}) for n in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3
    bodies = [request.content for request in provider.requests]
    assert bodies == [b'{"n":0}', b'{"n":0}', b'{"n":1}', b'{"n":2}']
    assert wallet.spent() == provider.charged == 3 * PRICE


async def test_patch_makes_any_client_pay_once(kit, wallet, provider):
    other = make_wallet()
    with kit.lib.Client(transport=kit.mock(provider)) as client:
        assert patch(patch(client, other), wallet) is client
        client.get(URL)
    async with patch(kit.lib.AsyncClient(transport=kit.mock(provider)), wallet) as client:
        await client.get(URL)
    assert (wallet.spent(), other.spent()) == (2 * PRICE, 0)
    other.close()


async def test_transports_pay_around_any_other_one(kit, wallet, provider):
    inner = kit.mock(provider)
    with kit.lib.Client(transport=kit.ours.Transport(wallet, inner)) as client:
        assert client.get(URL).json() == {"paid": True}
    async with kit.lib.AsyncClient(transport=kit.ours.AsyncTransport(wallet, inner)) as client:
        assert (await client.get(URL)).json() == {"paid": True}
    for made in (kit.ours.Transport(wallet), kit.ours.AsyncTransport(wallet)):
        assert type(made.inner).__module__ == kit.lib.__name__


async def test_a_refund_brings_back_what_is_left(kit, wallet, provider):
    with kit.client(wallet, provider) as client:
        client.get(URL)
        assert client.refund(URL, 100).amount == 100
    async with kit.async_client(wallet, provider) as client:
        assert (await client.refund(URL)).amount == DEPOSIT - 100 - PRICE


@pytest.mark.parametrize("error", ["ConnectError", "ConnectTimeout", "PoolTimeout"])
def test_a_payment_that_never_left_is_free_again(kit, wallet, error):
    def handler(request: httpx.Request) -> httpx.Response:
        if header_of(request):
            raise getattr(kit.lib, error)("no")
        return required()

    with kit.client(wallet, handler) as client, pytest.raises(getattr(kit.lib, error)):
        client.get(URL)
    assert (wallet.spent(), wallet.file.totals().outlay) == (0, 0)


@pytest.mark.parametrize("error", ["ReadTimeout", "ReadError", "RemoteProtocolError"])
async def test_case_49_no_answer_after_paying_is_a_payment_lost(kit, wallet, error):
    def handler(request: httpx.Request) -> httpx.Response:
        if header_of(request):
            raise getattr(kit.lib, error)("no")
        return required()

    with kit.client(wallet, handler) as client, pytest.raises(PaymentLost) as lost:
        client.get(URL)
    assert isinstance(lost.value.__cause__, getattr(kit.lib, error))
    async with kit.async_client(wallet, handler) as client:
        with pytest.raises(PaymentLost):
            await client.get(URL)
    assert wallet.spent() == 2 * PRICE


async def test_a_refusal_of_the_wallet_reaches_the_caller(kit, wallet):
    def handler(_: httpx.Request) -> httpx.Response:
        return required(offer(10_001))

    with kit.client(wallet, handler) as client, pytest.raises(OverBudget):
        client.get(URL)
    async with kit.async_client(wallet, handler) as client:
        with pytest.raises(OverBudget):
            await client.get(URL)


# -- Streams both ways -----------------------------------------------------------------------------


async def test_a_streamed_answer_is_not_read_ahead(kit, wallet):
    read: list[int] = []

    class Body(kit.lib.SyncByteStream, kit.lib.AsyncByteStream):  # type: ignore[misc]
        def __iter__(self) -> Iterator[bytes]:
            for number in range(10):
                read.append(number)
                yield b"xxxxx"

        async def __aiter__(self) -> AsyncIterator[bytes]:
            for chunk in self.__iter__():
                yield chunk

    def handle(request: Any) -> Any:
        if header_of(request) is None:
            return kit.lib.Response(402, headers=dict(required().headers))
        told = paid(httpx.Request("GET", URL, headers=request.headers.raw))
        head = {"payment-response": told.headers["payment-response"]}
        return kit.lib.Response(200, headers=head, stream=Body())

    inner = kit.lib.MockTransport(handle)
    client = kit.ours.Client(wallet=wallet, transport=inner)
    with client, client.stream("GET", URL) as answer:
        assert next(answer.iter_raw()) == b"xxxxx"
        assert read == [0]
    async_client = kit.ours.AsyncClient(wallet=wallet, transport=inner)
    async with async_client, async_client.stream("GET", URL) as answer:
        async for chunk in answer.aiter_raw():
            assert (chunk, read) == (b"xxxxx", [0, 0])
            break


def once() -> Iterator[bytes]:
    yield b"once"


async def once_later() -> AsyncIterator[bytes]:
    yield b"once"


async def test_case_48_an_upload_that_runs_away_is_paid_on_the_first_try_or_not_at_all(
    kit, wallet, provider
):
    with over_http(provider) as url:
        with kit.client(wallet) as client:
            with pytest.raises(AgentError, match="fresh body"):
                client.post(f"{url}/sync", content=once())
            assert wallet.spent() == wallet.file.totals().outlay == 0
            assert client.post(f"{url}/sync", content=once()).json() == {"paid": True}
        async with kit.async_client(wallet) as client:
            answer = await client.post(f"{url}/async", content=once_later())
            assert answer.json() == {"paid": True}
    assert [request.content for request in provider.requests] == [b"once"] * 3
    assert wallet.spent() == provider.charged == 2 * PRICE


async def test_case_48_a_file_that_was_read_away_is_an_upload_of_that_kind(
    kit, wallet, provider, tmp_path
):
    path = tmp_path / "file"
    path.write_bytes(b"once")
    with over_http(provider) as url, kit.client(wallet) as client, path.open("rb") as file:
        with pytest.raises(AgentError, match="fresh body"):
            client.post(url, content=file)
        with pytest.raises(AgentError, match="fresh body"):
            client.post(f"{url}/other/", files={"f": ("name", file)})
        file.seek(0)
        assert client.post(url, content=file).json() == {"paid": True}
    assert wallet.spent() == provider.charged == PRICE


# -- What the library does stays as it is ----------------------------------------------------------


def test_case_54_cookies_auth_headers_and_hooks_keep_working(kit, wallet):
    seen: list[tuple[str | None, str | None, str | None]] = []
    hooked: list[Any] = []

    def handler(request: httpx.Request) -> httpx.Response:
        headers = request.headers
        seen.append((headers.get("cookie"), headers.get("authorization"), headers.get("x-mine")))
        answer = paid(request) if header_of(request) else required()
        answer.headers["set-cookie"] = f"visit={len(seen)}"
        return answer

    hooks = {
        "request": [lambda request: hooked.append(header_of(request))],
        "response": [lambda response: hooked.append(response.status_code)],
    }
    options: dict[str, Any] = {"auth": ("me", "secret"), "headers": {"x-mine": "1"}}
    with kit.client(wallet, handler, cookies={"a": "b"}, event_hooks=hooks, **options) as client:
        client.get(URL)
        client.get(URL)
    basic = "Basic bWU6c2VjcmV0"
    assert seen == [("a=b", basic, "1"), ("a=b", basic, "1"), ("a=b; visit=2", basic, "1")]
    assert hooked == [None, 200, None, 200]


def test_case_54_auth_with_a_challenge_pays_for_the_answer_alone(kit, wallet, provider):
    def handler(request: httpx.Request) -> httpx.Response:
        if "authorization" not in request.headers:
            challenge = 'Digest realm="r", nonce="n", qop="auth", algorithm=MD5'
            return httpx.Response(401, headers={"www-authenticate": challenge})
        return provider(request)

    with kit.client(wallet, handler, auth=kit.lib.DigestAuth("me", "secret")) as client:
        assert client.get(URL).json() == {"paid": True}
    assert wallet.spent() == provider.charged == PRICE


@pytest.mark.parametrize(
    "elsewhere",
    [
        "https://evil.example/x",
        "http://api.example/x",
        "https://api.example:8443/x",
        "https://api.example.evil.example/x",
        "https://api.example@evil.example/x",
        "https://api.example\\.evil.example/x",
        "https://аpi.example/x",
        "//evil.example/x",
    ],
)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_case_47_no_payment_leaves_for_another_origin(kit, wallet, elsewhere, status):
    strangers: list[str | None] = []

    def handler(request: httpx.Request) -> httpx.Response:
        if str(request.url.copy_with(path="/", query=None)) != f"{ORIGIN}/":
            strangers.append(header_of(request))
            return httpx.Response(200)
        if header_of(request) is None:
            return required()
        return httpx.Response(status, headers={b"location": elsewhere.encode()})

    refused = (kit.lib.RemoteProtocolError, kit.lib.UnsupportedProtocol, kit.lib.InvalidURL)
    with kit.client(wallet, handler, follow_redirects=True) as client:
        for _ in range(2):  # redirected after paying, and after paying on the first try
            try:
                client.get(URL)
            except refused:
                strangers.append(None)
    async with kit.async_client(wallet, handler, follow_redirects=True) as client:
        try:
            await client.get(URL)
        except refused:
            strangers.append(None)
    assert strangers == [None] * 3


def test_case_54_limits_timeouts_and_mounts_stay_those_of_the_user(kit, wallet, provider):
    mounts: dict[str, Any] = {
        "all://direct.example": None,
        "http://mounted.example": kit.mock(provider),
    }
    options = {"limits": kit.lib.Limits(max_connections=7), "timeout": 3.0}
    with kit.client(wallet, mounts=mounts, **options) as client:
        plain = client._transport_for_url(kit.lib.URL(URL))
        assert isinstance(plain, kit.ours.Transport)
        assert plain.inner._pool._max_connections == 7
        assert client._transport_for_url(kit.lib.URL("https://direct.example/")) is plain
        assert client.get("http://mounted.example/").status_code == 200
    timeouts = [request.extensions.get("timeout") for request in provider.requests]
    assert len(timeouts) == 2
    assert wallet.spent() == PRICE


async def test_case_54_certificates_are_checked_as_the_user_says(kit, wallet, provider):
    authority = trustme.CA()
    context = kit.lib.create_ssl_context(trust_env=False)
    authority.configure_trust(context)
    with over_http(provider, tls=authority) as url:
        with kit.client(wallet) as client, pytest.raises(kit.lib.ConnectError):
            client.get(url)
        with kit.client(wallet, verify=context) as client:
            assert client.get(url).json() == {"paid": True}
        async with kit.async_client(wallet, verify=context) as client:
            assert (await client.get(url)).json() == {"paid": True}
        with kit.client(wallet, verify=False) as client:
            assert client.get(url).json() == {"paid": True}
    assert wallet.spent() == provider.charged == 3 * PRICE


async def test_case_54_http2_carries_many_payments_on_one_connection(kit, wallet, provider):
    with over_http2(provider) as server:
        url = f"http://127.0.0.1:{server.port}/x"
        async with kit.async_client(wallet, http1=False, http2=True) as client:
            first = await client.get(url)
            answers = [first, *await asyncio.gather(*(client.get(url) for _ in range(8)))]
        assert {answer.http_version for answer in answers} == {"HTTP/2"}
        assert server.connections == 1
        with kit.client(wallet, http1=False, http2=True) as client:
            assert client.post(url, content=b"x" * 100_000).http_version == "HTTP/2"
    assert wallet.spent() == provider.charged == 10 * PRICE


async def test_case_54_a_proxy_carries_what_is_paid_to_the_origin_behind_it(kit, wallet, provider):
    with over_http(provider) as url, proxy(url) as between:
        there = f"http://127.0.0.1:{between.port}"
        with kit.client(wallet, proxy=there) as client:
            assert client.get("http://shop.example/x").json() == {"paid": True}
        async with kit.async_client(wallet, proxy=there) as client:
            assert (await client.get("http://shop.example/x")).json() == {"paid": True}
    assert between.seen == ["GET http://shop.example/x"] * 3
    assert wallet.file.accounts()[0].origin == "http://shop.example:80"
    assert wallet.spent() == provider.charged == 2 * PRICE
