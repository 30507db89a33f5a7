"""Many requests at once on one channel: our client and a provider of ours, on a real chain."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from helpers.chain import FUNDS
from helpers.servers import PRICE, Provider, provider

import paywall
import paywall.httpx2
from paywall.chain.devnet import Devnet
from paywall.wallet import Wallet

MANY = 64


@pytest.fixture
async def shop(devnet: Devnet, tmp_path: Path) -> AsyncIterator[Provider]:
    async with provider(devnet, tmp_path) as running:
        yield running


@pytest.fixture
def wallet(devnet: Devnet, tmp_path: Path) -> Iterator[Wallet]:
    one = Wallet(secrets.token_bytes(32), state=tmp_path / "agent.db")
    devnet.fund_usdc(one.address, FUNDS)
    yield one
    one.close()


@pytest.mark.parametrize("ours", [paywall, paywall.httpx2], ids=["httpx", "httpx2"])
async def test_sixty_four_at_once_on_one_channel_are_sixty_four_answers(
    ours: ModuleType, devnet: Devnet, shop: Provider, wallet: Wallet
) -> None:
    async with ours.AsyncClient(wallet=wallet, base_url=shop.url, timeout=60) as client:
        await client.get("/slow")
        before = shop.requests.paid
        answers = await asyncio.gather(*(client.get("/slow") for _ in range(MANY)))
    assert [answer.status_code for answer in answers] == [200] * MANY
    assert shop.requests.paid - before == MANY, "one exchange for each"
    assert shop.requests.unpaid == 1, "the very first one asked for the price"
    channel = await shop.channel()
    assert (channel.charged, channel.holds) == ((MANY + 1) * PRICE, {})
    assert wallet.spent() == channel.charged
    assert FUNDS - devnet.usdc_balance(wallet.address) == 500_000, "one deposit"


async def test_sixty_four_first_requests_at_once_make_one_deposit(
    devnet: Devnet, shop: Provider, wallet: Wallet
) -> None:
    async with paywall.AsyncClient(wallet=wallet, base_url=shop.url, timeout=60) as client:
        answers: list[Any] = await asyncio.gather(*(client.get("/item") for _ in range(MANY)))
    assert [answer.status_code for answer in answers] == [200] * MANY
    assert wallet.spent() == (await shop.channel()).charged == MANY * PRICE
    assert FUNDS - devnet.usdc_balance(wallet.address) == 500_000
