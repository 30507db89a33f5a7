"""Facilitators between us and the official Python SDK: its server at ours, our provider at its.

All parts are real: the embedded chain, uvicorn, SQLite, the SDK's client, server and facilitator.
Every sum is compared to the unit with the chain.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from helpers.facilitators import (
    Shop,
    exact_client,
    official_app,
    official_shop,
    our_app,
    provider_by,
)
from helpers.official import OfficialPayer, on_chain, rich_payer
from helpers.servers import MIN_DEPOSIT, PRICE, Provider, served
from x402.http import x402HTTPClient
from x402.http.clients import wrapHttpxWithPayment

from paywall.chain.devnet import Devnet


@pytest.fixture(params=[False, True], ids=["we sign", "server signs"])
def shop(devnet: Devnet, request: pytest.FixtureRequest) -> Iterator[Shop]:
    with official_shop(devnet, own_authorizer=request.param) as running:
        yield running


# -- The official server at our facilitator ------------------------------------------------------


async def test_deposit_vouchers_claim_settle_and_refund_of_the_official_server(
    devnet: Devnet, shop: Shop
) -> None:
    payer = rich_payer(devnet)
    async with wrapHttpxWithPayment(payer.client(), base_url=shop.url, timeout=30) as client:
        for number in range(3):
            assert (await client.get(f"/item/{number}")).status_code == 200
        channel = shop.channel()
        channel_id = bytes.fromhex(channel.channel_id[2:])
        deposited = int(channel.balance)
        assert payer.spent() == deposited
        assert on_chain(devnet, channel_id) == (deposited, 0)

        assert await shop.collect() == (1, True)
        assert on_chain(devnet, channel_id) == (deposited, 3 * PRICE)
        assert devnet.usdc_balance(shop.receiver) == 3 * PRICE

        assert (await client.get("/item/again")).status_code == 200
        back = await asyncio.to_thread(payer.refund, shop.url + "/item/0")
    assert (back.success, back.amount) == (True, str(deposited - 4 * PRICE))
    assert payer.spent() == 4 * PRICE
    assert on_chain(devnet, channel_id) == (4 * PRICE, 4 * PRICE)


async def test_exact_payments_of_the_official_client_at_the_official_server(
    devnet: Devnet, shop: Shop
) -> None:
    payer = rich_payer(devnet)
    async with wrapHttpxWithPayment(exact_client(payer), base_url=shop.url, timeout=30) as client:
        for _ in range(3):
            assert (await client.get("/once")).status_code == 200
    assert payer.spent() == 3 * PRICE
    assert devnet.usdc_balance(shop.receiver) == 3 * PRICE


async def test_case_17_one_authorization_sent_twenty_times_at_once_buys_once(
    devnet: Devnet, shop: Shop
) -> None:
    payer = rich_payer(devnet)
    official = x402HTTPClient(exact_client(payer))
    async with httpx.AsyncClient(base_url=shop.url, timeout=30) as client:
        quote = await client.get("/once")
        required = official.get_payment_required_response(quote.headers.get)
        payment = await official.create_payment_payload(required)
        header = official.encode_payment_signature_header(payment)
        answers = await asyncio.gather(*(client.get("/once", headers=header) for _ in range(20)))
    assert sorted(answer.status_code for answer in answers) == [200] + [402] * 19
    assert payer.spent() == devnet.usdc_balance(shop.receiver) == PRICE


# -- Our provider at facilitators ----------------------------------------------------------------


@pytest.fixture(params=["official", "official, our key", "ours", "ours after one that is down"])
async def ours(
    devnet: Devnet, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[Provider]:
    """A provider without gas, whose chain is a facilitator."""
    app = official_app(devnet) if "official" in request.param else our_app(devnet, delegate=True)
    key = secrets.token_hex(32) if "our key" in request.param else None
    with served(app) as url:
        urls = ["http://127.0.0.1:9", url] if "down" in request.param else [url]
        async with provider_by(devnet, tmp_path, urls, authorizer_key=key) as running:
            yield running


def paying(payer: OfficialPayer, provider: Provider) -> httpx.AsyncClient:
    return wrapHttpxWithPayment(payer.client(), base_url=provider.url, timeout=30)


async def test_deposit_vouchers_claim_settle_and_refund_of_our_provider(
    devnet: Devnet, ours: Provider
) -> None:
    payer = rich_payer(devnet)
    async with paying(payer, ours) as client:
        for _ in range(3):
            assert (await client.get("/item")).status_code == 200
        channel = await ours.channel()
        assert (channel.charged, channel.balance) == (3 * PRICE, MIN_DEPOSIT)
        assert payer.spent() == MIN_DEPOSIT

        assert await ours.collect() == (1, 1)
        assert await ours.collect() == (0, 0)
        assert devnet.usdc_balance(ours.receiver) == 3 * PRICE
        assert on_chain(devnet, channel.channel_id) == (MIN_DEPOSIT, 3 * PRICE)

        assert (await client.get("/item")).status_code == 200
        part = await asyncio.to_thread(payer.refund, ours.url + "/item", 20_000)
        assert (part.success, part.amount) == (True, "20000")
        assert (await client.get("/item")).status_code == 200
        rest = await asyncio.to_thread(payer.refund, ours.url + "/item")
        assert rest.amount == str(MIN_DEPOSIT - 20_000 - 5 * PRICE)
    assert payer.spent() == 5 * PRICE
    assert on_chain(devnet, channel.channel_id) == (5 * PRICE, 5 * PRICE)
    assert await ours.collect() == (0, 1)
    assert devnet.usdc_balance(ours.receiver) == 5 * PRICE


async def test_case_17_exact_payments_of_our_provider_are_carried_once(
    devnet: Devnet, ours: Provider
) -> None:
    payer = rich_payer(devnet)
    official = x402HTTPClient(exact_client(payer))
    async with wrapHttpxWithPayment(exact_client(payer), base_url=ours.url, timeout=30) as client:
        answers = [await client.get("/item") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    async with httpx.AsyncClient(base_url=ours.url, timeout=30) as plain:
        quote = await plain.get("/item")
        required = official.get_payment_required_response(quote.headers.get)
        payment = await official.create_payment_payload(required)
        header = official.encode_payment_signature_header(payment)
        copies = await asyncio.gather(*(plain.get("/item", headers=header) for _ in range(10)))
    assert {copy.status_code for copy in copies} <= {200, 503}
    assert payer.spent() == devnet.usdc_balance(ours.receiver) == 3 * PRICE
