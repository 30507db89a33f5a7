"""`exact` between us and the official Python SDK: its client at our provider, our clients at its
server. All parts are real: the embedded chain, uvicorn, SQLite, the SDK's client, middleware and
facilitator. Every sum is compared to the unit with what the token says.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from helpers.chain import ASSET, NETWORK, Payer, new_address, rich_payer
from helpers.facilitators import exact_client, official_app
from helpers.official import rich_payer as rich_official_payer
from helpers.servers import Counted, served
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from x402 import x402ResourceServer
from x402.http import FacilitatorConfig, HTTPFacilitatorClient, x402HTTPClient
from x402.http.clients import wrapHttpxWithPayment
from x402.http.middleware.fastapi import PaymentMiddlewareASGI
from x402.http.utils import decode_payment_response_header
from x402.mechanisms.evm.exact import ExactEvmServerScheme
from x402.schemas import SettleResponse

import paywall
from paywall import Node, Paywall, payment_of
from paywall.chain.devnet import Devnet
from paywall.protocol.x402 import show_address

PRICE = 10_000


@dataclass(frozen=True)
class Shop:
    """A server, ours or theirs, and who earns there."""

    url: str
    receiver: str
    requests: Counted
    devnet: Devnet

    def earned(self) -> int:
        return self.devnet.usdc_balance(self.receiver)


async def _item(request: Request) -> JSONResponse:
    return JSONResponse({"paid_by": payment_of(request).payer})


async def _fails(request: Request) -> JSONResponse:
    return JSONResponse({}, 500)


@contextmanager
def our_shop(devnet: Devnet, folder: Path, settle_first: bool) -> Iterator[Shop]:
    receiver = show_address(new_address())
    wall = Paywall(
        Starlette(routes=[Route("/item", _item), Route("/fails", _fails)]),
        prices={"GET /item": "$0.01", "GET /fails": "$0.01"},
        pay_to=receiver,
        asset=ASSET,
        chain=Node(devnet.url, devnet.accounts[3].key, network=NETWORK),
        store=f"sqlite:///{folder}/provider.db",
        settle_first=settle_first,
    )
    app = Counted(wall)
    with served(app) as url:
        yield Shop(url, receiver, app, devnet)


@contextmanager
def official_shop(devnet: Devnet) -> Iterator[Shop]:
    """The official middleware, and the official facilitator behind it."""
    receiver = show_address(new_address())
    with served(official_app(devnet)) as facilitator_url:
        app = Counted(_official_app(facilitator_url, receiver))
        with served(app) as url:
            yield Shop(url, receiver, app, devnet)


def _official_app(facilitator_url: str, receiver: str) -> FastAPI:
    facilitator = HTTPFacilitatorClient(FacilitatorConfig(url=facilitator_url))
    server = x402ResourceServer(facilitator).register(NETWORK, ExactEvmServerScheme())
    terms = {"scheme": "exact", "payTo": receiver, "price": "$0.01", "network": NETWORK}

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        async with facilitator:
            yield

    app = FastAPI(lifespan=life)
    routes = {route: {"accepts": terms} for route in ("GET /item", "GET /fails")}
    app.add_middleware(PaymentMiddlewareASGI, routes=routes, server=server)

    @app.get("/item")
    async def item() -> dict[str, bool]:
        return {"item": True}

    @app.get("/fails")
    async def fails() -> None:
        raise RuntimeError("on purpose")

    return app


def receipt_of(answer: httpx.Response) -> SettleResponse:
    return decode_payment_response_header(answer.headers["PAYMENT-RESPONSE"])


# -- The official client at our provider ---------------------------------------------------------


@pytest.fixture(params=[False, True], ids=["settled last", "settled first"])
def ours(devnet: Devnet, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Shop]:
    with our_shop(devnet, tmp_path, request.param) as running:
        yield running


async def test_the_official_client_pays_our_provider_by_transfers(
    devnet: Devnet, ours: Shop
) -> None:
    payer = rich_official_payer(devnet)
    async with wrapHttpxWithPayment(exact_client(payer), base_url=ours.url, timeout=30) as client:
        answers = [await client.get("/item") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3
    receipts = [receipt_of(answer) for answer in answers]
    assert all(receipt.success for receipt in receipts)
    assert len({receipt.transaction for receipt in receipts}) == 3
    assert {receipt.payer for receipt in receipts} == {payer.account.address}
    assert payer.spent() == ours.earned() == 3 * PRICE


async def test_case_17_its_payment_sent_twenty_times_at_once_buys_once(
    devnet: Devnet, ours: Shop
) -> None:
    payer = rich_official_payer(devnet)
    official = x402HTTPClient(exact_client(payer))
    async with httpx.AsyncClient(base_url=ours.url, timeout=30) as client:
        quote = await client.get("/item")
        required = official.get_payment_required_response(quote.headers.get)
        payment = await official.create_payment_payload(required)
        header = official.encode_payment_signature_header(payment)
        answers = await asyncio.gather(*(client.get("/item", headers=header) for _ in range(20)))
        again = await client.get("/item", headers=header)
    statuses = {answer.status_code for answer in answers}
    assert 200 in statuses
    assert statuses <= {200, 503}
    transactions = {receipt_of(a).transaction for a in [*answers, again] if a.status_code == 200}
    assert len(transactions) == 1
    assert payer.spent() == ours.earned() == PRICE


async def test_it_pays_nothing_for_a_handler_that_fails(devnet: Devnet, tmp_path: Path) -> None:
    payer = rich_official_payer(devnet)
    with our_shop(devnet, tmp_path, settle_first=False) as ours:
        official = wrapHttpxWithPayment(exact_client(payer), base_url=ours.url, timeout=30)
        async with official as client:
            assert (await client.get("/fails")).status_code == 500
        assert payer.spent() == ours.earned() == 0


# -- Our clients at the official server ----------------------------------------------------------


@pytest.fixture
def theirs(devnet: Devnet) -> Iterator[Shop]:
    with official_shop(devnet) as running:
        yield running


def wallet_of(payer: Payer, folder: Path, **options: str) -> paywall.Wallet:
    return paywall.Wallet(payer.key.secret, state=folder / "wallet.db", **options)


def spent(devnet: Devnet, payer: Payer, before: int) -> int:
    return before - devnet.usdc_balance(show_address(payer.address))


async def test_our_async_client_pays_the_official_server_by_transfers(
    devnet: Devnet, theirs: Shop, tmp_path: Path
) -> None:
    payer = rich_payer(devnet)
    before = devnet.usdc_balance(show_address(payer.address))
    wallet = wallet_of(payer, tmp_path)
    async with paywall.AsyncClient(wallet=wallet, base_url=theirs.url, timeout=30) as client:
        answers = [await client.get("/item") for _ in range(3)]
        more = await asyncio.gather(*(client.get("/item") for _ in range(3)))
    assert [answer.status_code for answer in (*answers, *more)] == [200] * 6
    receipt = paywall.receipt(answers[0])
    assert receipt is not None
    assert receipt.success
    assert receipt.transaction.startswith("0x")
    assert theirs.requests.unpaid == 1
    assert wallet.spent() == spent(devnet, payer, before) == theirs.earned() == 6 * PRICE
    wallet.close()


def test_our_client_pays_the_official_server_inside_its_budget(
    devnet: Devnet, theirs: Shop, tmp_path: Path
) -> None:
    payer = rich_payer(devnet)
    before = devnet.usdc_balance(show_address(payer.address))
    wallet = wallet_of(payer, tmp_path, total="$0.025")
    with paywall.Client(wallet=wallet, base_url=theirs.url, timeout=30) as client:
        assert [client.get("/item").status_code for _ in range(2)] == [200, 200]
        with pytest.raises(paywall.OverBudget):
            client.get("/item")
    assert wallet.spent() == spent(devnet, payer, before) == theirs.earned() == 2 * PRICE
    wallet.close()


def test_what_an_official_handler_does_not_serve_is_not_taken(
    devnet: Devnet, theirs: Shop, tmp_path: Path
) -> None:
    payer = rich_payer(devnet)
    before = devnet.usdc_balance(show_address(payer.address))
    wallet = wallet_of(payer, tmp_path)
    with paywall.Client(wallet=wallet, base_url=theirs.url, timeout=30) as client:
        assert client.get("/fails").status_code == 500
    assert spent(devnet, payer, before) == theirs.earned() == 0
    assert wallet.spent() == PRICE, "nobody has said that it cannot be taken any more"
    wallet.close()


# -- Ours at ours --------------------------------------------------------------------------------


async def test_our_client_without_a_channel_pays_our_provider_by_transfers(
    devnet: Devnet, ours: Shop, tmp_path: Path
) -> None:
    payer = rich_payer(devnet)
    before = devnet.usdc_balance(show_address(payer.address))
    wallet = paywall.Wallet(
        payer.key.secret, state=tmp_path / "w.db", expect_more=False, total="$0.5"
    )
    async with paywall.AsyncClient(wallet=wallet, base_url=ours.url, timeout=30) as client:
        answers = await asyncio.gather(*(client.get("/item") for _ in range(5)))
    assert [answer.json()["paid_by"] for answer in answers] == [show_address(payer.address)] * 5
    assert wallet.spent() == spent(devnet, payer, before) == ours.earned() == 5 * PRICE
    assert wallet.file.accounts() == []
    wallet.close()
