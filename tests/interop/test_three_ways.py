"""Three services wrapped as a new user would, each paid by our client and by the official one.

A FastAPI app by its dependencies, an existing ASGI app by a table, and a service that is not
Python's by the proxy.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import httpx
import pytest
from fastapi import Depends, FastAPI
from helpers.chain import ASSET, NETWORK, new_address
from helpers.official import rich_payer
from helpers.proxy_process import plain_service, proxy_process
from helpers.servers import PRICE, served
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from x402.http.clients import wrapHttpxWithPayment

import paywall
from paywall import Node, Payment, Paywall, charge, open_store, pass_for
from paywall.chain.devnet import Devnet
from paywall.protocol.x402 import show_address


@contextmanager
def by_dependency(devnet: Devnet, store: str) -> Iterator[str]:
    app = FastAPI()
    app.add_middleware(
        Paywall,
        pay_to=show_address(new_address()),
        asset=ASSET,
        chain=Node(devnet.url, devnet.accounts[0].key, network=NETWORK),
        store=store,
    )

    @app.get("/weather/{city}")
    async def weather(
        city: str, payment: Annotated[Payment, Depends(charge("$0.001"))]
    ) -> dict[str, str]:
        return {"path": f"/weather/{city}", "payer": payment.payer}

    with served(app) as url:
        yield url


@contextmanager
def by_table(devnet: Devnet, store: str) -> Iterator[str]:
    async def weather(request: Request) -> JSONResponse:
        return JSONResponse({"path": request.url.path, "payer": request.state.payment.payer})

    app = Paywall(
        Starlette(routes=[Route("/weather/{city}", weather)]),
        prices={"GET /weather/{city}": "$0.001"},
        pay_to=show_address(new_address()),
        asset=ASSET,
        chain=Node(devnet.url, devnet.accounts[0].key, network=NETWORK),
        store=store,
    )
    with served(app) as url:
        yield url


@contextmanager
def by_proxy(devnet: Devnet, store: str) -> Iterator[str]:
    folder = Path(store.removeprefix("sqlite:///")).parent
    with plain_service() as upstream:
        options = ["--upstream", upstream, "--price", "GET /weather/*=$0.001"]
        with proxy_process(devnet, folder, options) as running:
            yield running.url


@pytest.fixture(params=[by_dependency, by_table, by_proxy], ids=lambda way: way.__name__)
async def service(
    request: pytest.FixtureRequest, devnet: Devnet, tmp_path: Path
) -> AsyncIterator[tuple[str, str]]:
    store = f"sqlite:///{tmp_path}/proxy.db"
    with request.param(devnet, store) as url:
        yield url, store


async def charged(store_url: str) -> list[int]:
    store = open_store(store_url)
    await store.open()
    try:
        return sorted(channel.charged for channel in await store.channels())
    finally:
        await store.close()


async def test_both_clients_pay_and_each_unit_is_where_it_should_be(
    devnet: Devnet, service: tuple[str, str], tmp_path: Path
) -> None:
    url, store = service
    official, ours = rich_payer(devnet), rich_payer(devnet)
    async with wrapHttpxWithPayment(official.client(), base_url=url, timeout=30) as client:
        answers = [await client.get("/weather/paris") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[1].json() == {"path": "/weather/paris", "payer": official.account.address}

    wallet = paywall.Wallet(ours.account.key.hex(), state=tmp_path / "agent.db")
    async with paywall.AsyncClient(wallet=wallet, base_url=url, timeout=30) as client:
        answers = [await client.get("/weather/rome") for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200] * 3
        assert answers[2].json() == {"path": "/weather/rome", "payer": ours.account.address}
        assert wallet.spent() == 3 * PRICE
        assert (await client.refund("/weather/rome")).success
    wallet.close()
    assert await charged(store) == [2 * PRICE, 3 * PRICE]
    assert ours.spent() == 3 * PRICE
    async with httpx.AsyncClient(base_url=url) as client:
        assert (await client.get("/weather/oslo")).status_code == 402


async def test_a_pass_that_the_official_client_has_bought_is_not_charged_again(
    devnet: Devnet, tmp_path: Path
) -> None:
    async def news(request: Request) -> JSONResponse:
        return JSONResponse({"charged": request.state.payment.charged})

    store, payer = f"sqlite:///{tmp_path}/pass.db", rich_payer(devnet)
    app = Paywall(
        Starlette(routes=[Route("/news/{day}", news)]),
        prices={"GET /news/{day}": pass_for("$0.005", hours=1)},
        pay_to=show_address(new_address()),
        asset=ASSET,
        chain=Node(devnet.url, devnet.accounts[0].key, network=NETWORK),
        store=store,
    )
    with served(app) as url:
        async with wrapHttpxWithPayment(payer.client(), base_url=url, timeout=30) as client:
            answers = [await client.get(f"/news/{day}") for day in range(3)]
        async with httpx.AsyncClient(base_url=url) as curl:
            bearer = {"Authorization": f"Bearer {answers[0].headers['paywall-pass']}"}
            answers.append(await curl.get("/news/x", headers=bearer))
    assert [answer.json()["charged"] for answer in answers] == [5 * PRICE, 0, 0, 0]
    assert await charged(store) == [5 * PRICE]
