"""The paying clients: what goes over the wire, and that httpx stays httpx."""

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
import respx
from helpers.agent import (
    DEPOSIT,
    MISMATCH,
    ORIGIN,
    PRICE,
    FakeProvider,
    corrected,
    header_of,
    make_wallet,
    offer,
    paid,
    payment_of,
    proof,
    required,
)

import paywall.drivers
from paywall.client import AsyncClient, Client, receipt
from paywall.protocol.errors import (
    NoAcceptableOffer,
    OverBudget,
    PaymentLost,
    PaymentRefused,
)
from paywall.wallet import Wallet

URL = f"{ORIGIN}/x"


@pytest.fixture
def wallet() -> Iterator[Wallet]:
    one = make_wallet()
    yield one
    one.close()


def charge(request: httpx.Request) -> httpx.Response:
    """A provider without a memory: it takes every payment."""
    return paid(request) if header_of(request) else required()


def over(handler: Callable[[httpx.Request], Any], wallet: Wallet, **settings: Any) -> Client:
    return Client(wallet=wallet, transport=httpx.MockTransport(handler), **settings)


def over_async(
    handler: Callable[[httpx.Request], Any], wallet: Wallet, **settings: Any
) -> AsyncClient:
    return AsyncClient(wallet=wallet, transport=httpx.MockTransport(handler), **settings)


class Body(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that tells whether it was closed, and how much of it was read."""

    def __init__(self, chunks: int = 3, size: int = 5, hangs: bool = False) -> None:
        self.chunks, self.size, self.hangs = chunks, size, hangs
        self.read, self.closed = 0, False

    def __iter__(self) -> Iterator[bytes]:
        for _ in range(self.chunks):
            self.read += self.size
            yield b"x" * self.size

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self.hangs:
            await asyncio.sleep(60)
        for chunk in self.__iter__():
            yield chunk

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.closed = True


# -- The conversation over real transports, as respx sees them -------------------------------------


@respx.mock
def test_a_client_pays(wallet):
    route = respx.get(URL).mock(side_effect=charge)
    with Client(wallet=wallet) as client:
        answers = [client.get(URL) for _ in range(3)]
    assert [answer.json() for answer in answers] == [{"paid": True}] * 3
    assert [header_of(call.request) is not None for call in route.calls] == [False, *[True] * 3]
    assert [receipt(answer).total for answer in answers] == [1_000, 2_000, 3_000]  # type: ignore[union-attr]
    assert header_of(answers[0].request) is None
    assert wallet.spent() == 3_000


@respx.mock
async def test_an_async_client_pays(wallet):
    route = respx.post(URL).mock(side_effect=charge)
    async with AsyncClient(wallet=wallet) as client:
        answers = [await client.post(URL, json={"n": n}) for n in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert [call.request.content for call in route.calls] == [
        b'{"n":0}',
        b'{"n":0}',
        b'{"n":1}',
        b'{"n":2}',
    ]
    assert wallet.spent() == 3_000


@respx.mock
def test_case_49_a_timeout_after_paying_is_a_payment_lost_and_never_a_new_payment(wallet):
    route = respx.get(URL).mock(side_effect=[required(), httpx.ReadTimeout("slow")])
    with Client(wallet=wallet) as client, pytest.raises(PaymentLost) as lost:
        client.get(URL)
    assert isinstance(lost.value.__cause__, httpx.ReadTimeout)
    assert (route.call_count, wallet.spent()) == (2, PRICE)


@respx.mock
def test_a_provider_that_is_gone_costs_nothing(wallet):
    respx.get(URL).mock(side_effect=[required(), httpx.ConnectError("gone")])
    with Client(wallet=wallet) as client, pytest.raises(httpx.ConnectError):
        client.get(URL)
    assert wallet.spent() == wallet.file.totals().outlay == 0


# -- What httpx does stays as it is ----------------------------------------------------------------


async def test_an_inner_transport_is_entered_and_left(wallet):
    class Inner(httpx.MockTransport):
        lives = ""

        def __enter__(self) -> "Inner":
            self.lives += "entered "
            return self

        def __exit__(self, *_: object) -> None:
            self.lives += "left "

        async def __aenter__(self) -> "Inner":
            return self.__enter__()

        async def __aexit__(self, *_: object) -> None:
            self.__exit__()

    inner = Inner(charge)
    with Client(wallet=wallet, transport=inner):
        pass
    async with AsyncClient(wallet=wallet, transport=inner):
        pass
    assert inner.lives == "entered left entered left "


async def test_case_54_mounts_of_an_async_client_pay(wallet):
    mounts: dict[str, Any] = {"all://": httpx.MockTransport(charge)}
    async with AsyncClient(wallet=wallet, mounts=mounts) as client:
        assert (await client.get(URL)).status_code == 200


def test_case_47_a_redirect_on_the_same_origin_is_paid_where_it_leads(wallet):
    provider = FakeProvider()
    provider.script.append(lambda *_: httpx.Response(307, headers={"location": "/y"}))
    with over(provider, wallet, follow_redirects=True) as client:
        answer = client.get(URL)
    assert (answer.json(), answer.url.path) == ({"paid": True}, "/y")
    assert wallet.spent() == provider.charged == PRICE


def test_case_47_another_origin_is_paid_from_a_channel_of_its_own(wallet):
    one, two = FakeProvider(), FakeProvider(price=2_000)
    one.script.append(lambda *_: httpx.Response(302, headers={"location": "https://two.example/x"}))

    def handler(request: httpx.Request) -> httpx.Response:
        return two(request) if request.url.host == "two.example" else one(request)

    with over(handler, wallet, follow_redirects=True) as client:
        client.get(URL)
        client.get(URL)
    assert (one.charged, two.charged, wallet.spent()) == (1_000, 2_000, 3_000)
    assert not set(one.ledgers) & set(two.ledgers)


# -- Streams ---------------------------------------------------------------------------------------


def test_a_streamed_answer_is_not_read_ahead_and_the_quotes_body_is_let_go(wallet):
    quoted, body = Body(), Body(chunks=10)

    def handler(request: httpx.Request) -> httpx.Response:
        if header_of(request) is None:
            return httpx.Response(402, headers=required().headers, stream=quoted)
        answer = paid(request)
        return httpx.Response(
            200, headers=[("payment-response", answer.headers["payment-response"])], stream=body
        )

    with over(handler, wallet) as client, client.stream("GET", URL) as answer:
        assert (quoted.closed, quoted.read, body.read) == (True, 15, 0)
        assert next(answer.iter_raw()) == b"xxxxx"
        assert (body.read, body.closed) == (5, False)
    assert body.closed
    assert wallet.spent() == PRICE


async def test_a_streamed_async_answer_is_not_read_ahead(wallet):
    quoted, body = Body(), Body(chunks=10)

    def handler(request: httpx.Request) -> httpx.Response:
        if header_of(request) is None:
            return httpx.Response(402, headers=required().headers, stream=quoted)
        told = paid(request).headers["payment-response"]
        return httpx.Response(200, headers={"payment-response": told}, stream=body)

    async with over_async(handler, wallet) as client, client.stream("GET", URL) as answer:
        assert (quoted.closed, body.read) == (True, 0)
        async for chunk in answer.aiter_raw():
            assert (chunk, body.read) == (b"xxxxx", 5)
            break
    assert body.closed


def test_a_quotes_endless_body_is_not_read_to_its_end(wallet):
    endless = Body(chunks=10**9, size=4096)

    def handler(request: httpx.Request) -> httpx.Response:
        if header_of(request) is None:
            return httpx.Response(402, headers=required().headers, stream=endless)
        return paid(request)

    with over(handler, wallet) as client:
        assert client.get(URL).status_code == 200
    assert endless.closed
    assert endless.read <= paywall.drivers.MAX_DISCARDED_BYTES + 4096


@pytest.mark.parametrize(
    ("told", "error"),
    [
        (required(offer(10_001)), OverBudget),
        (required(offer(scheme="upto")), NoAcceptableOffer),
    ],
)
async def test_a_connection_is_let_go_when_the_agent_refuses(wallet, told, error):
    body = Body()

    def handler(_: httpx.Request) -> httpx.Response:
        return httpx.Response(402, headers=told.headers, stream=body)

    with over(handler, wallet) as client, pytest.raises(error):
        client.get(URL)
    assert body.closed
    body.closed = False
    async with over_async(handler, wallet) as async_client:
        with pytest.raises(error):
            await async_client.get(URL)
    assert body.closed


# -- Cancelling ------------------------------------------------------------------------------------


async def test_a_request_that_is_cancelled_after_it_left_counts_as_spent(wallet):
    left = asyncio.Event()

    async def handler(request: httpx.Request) -> httpx.Response:
        if header_of(request) is None:
            return required()
        left.set()
        await asyncio.sleep(60)
        raise AssertionError

    async with over_async(handler, wallet) as client:
        task = asyncio.create_task(client.get(URL))
        await left.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert wallet.spent() == PRICE
    assert wallet.file.accounts()[0].flying == 0


async def test_a_request_that_is_cancelled_before_it_left_costs_nothing(wallet):
    body = Body(hangs=True)

    def handler(request: httpx.Request) -> httpx.Response:
        assert header_of(request) is None
        return httpx.Response(402, headers=required().headers, stream=body)

    async with over_async(handler, wallet) as client:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.get(URL), 0.05)
    assert body.closed
    assert wallet.spent() == wallet.file.totals().outlay == 0


async def test_a_request_that_is_cancelled_while_it_waits_leaves_the_queue(wallet):
    provider = FakeProvider(window=None, delay=0.05)
    async with over_async(provider.later, wallet) as client:
        await client.get(URL)
        tasks = [asyncio.create_task(client.get(URL)) for _ in range(6)]
        await asyncio.sleep(0.02)
        for task in tasks[1:4]:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
    kinds = [type(each) for each in done]
    assert kinds.count(asyncio.CancelledError) == 3
    assert wallet.spent() == provider.charged == 4_000
    gc.collect()


# -- Many at once ----------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [None, 64])
def test_case_45_threads_share_one_wallet_and_its_totals_are_exact(tmp_path, window):
    provider = FakeProvider(window=window)
    wallet = make_wallet(tmp_path / "w.db", clock=time.time)
    statuses: list[int] = []

    def work() -> None:
        for _ in range(50):
            statuses.append(client.get(URL).status_code)

    with over(provider, wallet) as client:
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert statuses == [200] * 400
    assert wallet.spent() == provider.charged == 400 * PRICE
    assert sum(provider.mined.values()) == DEPOSIT
    wallet.close()


async def test_sixty_four_requests_are_in_flight_at_once_at_a_window_provider(wallet):
    provider = FakeProvider(delay=0.05)
    async with over_async(provider.later, wallet) as client:
        await client.get(URL)
        answers = await asyncio.gather(*(client.get(URL) for _ in range(64)))
    assert [answer.status_code for answer in answers] == [200] * 64
    (ledger,) = provider.ledgers.values()
    assert ledger.most_at_once == 64
    assert wallet.spent() == provider.charged == 65 * PRICE


async def test_sixty_four_requests_take_turns_at_a_serial_provider(wallet):
    provider = FakeProvider(window=None, delay=0.002)
    async with asyncio.timeout(10), over_async(provider.later, wallet) as client:
        answers = await asyncio.gather(*(client.get(URL) for _ in range(64)))
    assert [answer.status_code for answer in answers] == [200] * 64
    (ledger,) = provider.ledgers.values()
    assert ledger.most_at_once == 1
    assert wallet.spent() == provider.charged == 64 * PRICE
    assert len([sent for sent in provider.payments if sent.deposit]) == 1


async def test_a_gateways_failure_in_a_burst_is_made_good(wallet):
    """A payment that was charged behind a 503 is found out, and the others are all answered."""
    provider = FakeProvider(delay=0.01)

    async def handler(request: httpx.Request) -> httpx.Response:
        answer = await provider.later(request)
        return httpx.Response(503) if len(provider.payments) == 2 else answer

    async with over_async(handler, wallet) as client:
        await client.get(URL)
        assert (await client.get(URL)).status_code == 503
        answers = await asyncio.gather(*(client.get(URL) for _ in range(40)))
        assert [answer.status_code for answer in answers] == [200] * 40
        await client.get(URL)
    assert wallet.spent() == provider.charged == 43 * PRICE


def test_case_52_two_wallets_on_one_file_pay_one_provider(tmp_path):
    provider = FakeProvider()
    wallets = [make_wallet(tmp_path / "w.db", clock=time.time) for _ in range(2)]
    clients = [over(provider, wallet) for wallet in wallets]
    for _ in range(10):
        for client in clients:
            assert client.get(URL).status_code == 200
    assert [wallet.spent() for wallet in wallets] == [20_000, 20_000]
    assert provider.charged == 20_000
    assert sum(provider.mined.values()) == DEPOSIT
    for wallet in wallets:
        wallet.close()


@pytest.mark.parametrize("window", [None, 64])
def test_case_52_a_lost_file_is_mended_by_the_providers_proof(window):
    provider = FakeProvider(window=window)
    for lost in (make_wallet(), make_wallet()):
        with over(provider, lost) as client:
            for _ in range(3):
                assert client.get(URL).status_code == 200
        lost.close()
    assert provider.charged == 6_000


# -- Refunds ---------------------------------------------------------------------------------------


async def test_a_refund_brings_back_what_is_left(wallet):
    provider = FakeProvider()
    with over(provider, wallet) as client:
        client.get(URL)
        back = client.refund(URL, 100)
    assert (back.amount, back.success, back.charged) == (100, True, None)
    async with over_async(provider, wallet) as async_client:
        back = await async_client.refund(URL)
        assert back.amount == DEPOSIT - 100 - PRICE
        assert wallet.file.totals().outlay == PRICE
        assert (await async_client.get(URL)).status_code == 200
    assert provider.charged == wallet.spent() == 2 * PRICE


async def test_a_refunds_answer_is_let_go(wallet):
    provider, bodies = FakeProvider(), []

    def handler(request: httpx.Request) -> httpx.Response:
        answer = provider(request)
        bodies.append(Body())
        headers = {k: v for k, v in answer.headers.items() if k.startswith("payment")}
        return httpx.Response(answer.status_code, headers=headers, stream=bodies[-1])

    with over(handler, wallet) as client:
        client.get(URL)
        client.refund(URL, 5)
    async with over_async(handler, wallet) as async_client:
        await async_client.refund(URL, 5)
    assert [body.closed for body in bodies] == [True] * 4


def test_a_refund_that_confirms_nothing_is_refused(wallet):
    provider = FakeProvider()
    with over(provider, wallet) as client:
        client.get(URL)
        provider.script.append(lambda *_: httpx.Response(200))
        with pytest.raises(PaymentRefused):
            client.refund(URL)
    assert wallet.file.totals().outlay == DEPOSIT


# -- Hostile providers -----------------------------------------------------------------------------


@pytest.mark.parametrize("window", [None, 64])
def test_case_46_who_claims_to_have_charged_a_refused_payment_gets_no_second_price(wallet, window):
    """It refuses every other payment and shows it as the proof that it was charged already."""
    payments: list[int] = []

    def handler(request: httpx.Request) -> httpx.Response:
        if header_of(request) is None:
            return required(offer(window=window))
        sent = payment_of(request)
        payments.append(sent.amount)
        if len(payments) % 2 == 0:
            return paid(request)
        told = corrected(sent.channel, sent.amount, proof(sent.channel, sent.amount), window=window)
        return required(told, error=MISMATCH)

    requests = 20
    with over(handler, wallet) as client:
        for _ in range(requests):
            with suppress(PaymentRefused):
                client.get(URL)
    assert max(payments) <= requests * PRICE
    assert wallet.spent() <= requests * PRICE
