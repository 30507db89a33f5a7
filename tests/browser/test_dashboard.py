"""The owner's page in a browser: the token, the figures of a real provider, and how it looks."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers.chain import ASSET, NETWORK, new_address
from helpers.parties import OurBuyer, PythonBuyer
from helpers.servers import api, served
from playwright.async_api import BrowserContext, Page, expect
from starlette.applications import Starlette
from starlette.routing import Mount

from browser.kit import photograph, watched
from paywall import Node, Paywall, open_store
from paywall.chain.claimer import Claimer
from paywall.chain.devnet import Devnet
from paywall.dashboard import Dashboard
from paywall.protocol.claims import ClaimPolicy
from paywall.protocol.x402 import show_address

TOKEN = "a token that nobody guesses"


@dataclass(frozen=True)
class Business:
    shop: str
    owner: str
    devnet: Devnet
    store_url: str


@pytest.fixture
async def business(devnet: Devnet, tmp_path: Path) -> AsyncIterator[Business]:
    """A provider, and its dashboard mounted in another app."""
    store_url = f"sqlite:///{tmp_path}/provider.db"
    node = Node(devnet.url, devnet.accounts[0].key, network=NETWORK)
    wall = Paywall(
        api(),
        prices={"GET /item": "$0.001", "GET /once": "$0.01", "GET /status/{code}": "$0.001"},
        pay_to=show_address(new_address()),
        asset=ASSET,
        chain=node,
        store=store_url,
        collect=None,
    )
    owner = Starlette(routes=[Mount("/money", app=Dashboard(store_url, TOKEN))])
    with served(wall) as shop, served(owner) as url:
        yield Business(shop, f"{url}/money/", devnet, store_url)


@asynccontextmanager
async def _claimer(business: Business, policy: ClaimPolicy) -> AsyncIterator[Claimer]:
    store = open_store(business.store_url)
    await store.open()
    node = Node(business.devnet.url, business.devnet.accounts[0].key, network=NETWORK)
    await node.open()
    try:
        yield Claimer(store, node, policy)
    finally:
        await node.close()
        await store.close()


async def _enter(page: Page, business: Business) -> None:
    await page.goto(business.owner)
    await page.get_by_label("The dashboard's token").fill(TOKEN)
    await page.get_by_role("button", name="Look").click()
    await expect(page.locator("#board")).to_be_visible()


async def _trade(business: Business, folder: Path) -> None:
    ours = OurBuyer(business.devnet, folder, "batch-settlement")
    theirs = PythonBuyer(business.devnet, "exact")
    await ours.get(f"{business.shop}/item", times=12)
    await ours.get(f"{business.shop}/status/500", times=2)
    await theirs.get(f"{business.shop}/once", times=2)
    await ours.close()
    await theirs.close()


async def test_the_owner_says_the_token_once_and_it_is_in_no_address(
    browser: BrowserContext, business: Business, pictures: Path
) -> None:
    page = await browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    await page.goto(business.owner)
    await photograph(page, pictures, "dashboard-login")
    await page.get_by_label("The dashboard's token").fill("not this one, surely not")
    await page.get_by_role("button", name="Look").click()
    await expect(page.locator("#wrong")).to_be_visible()
    await page.get_by_label("The dashboard's token").fill(TOKEN)
    await page.get_by_role("button", name="Look").click()
    await expect(page.locator("#board")).to_be_visible()
    (cookie,) = await browser.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/money")
    assert TOKEN not in cookie["value"]
    assert not [url for url in asked if "token" in url]
    await page.reload()
    await expect(page.locator("#board")).to_be_visible()
    await page.get_by_role("button", name="Leave").click()
    await expect(page.locator("#login")).to_be_visible()


async def test_the_owner_sees_what_came_in_live(
    browser: BrowserContext, business: Business, tmp_path: Path, pictures: Path
) -> None:
    page = await browser.new_page()
    complaints = watched(page)
    await _enter(page, business)
    await expect(page.locator("#channels")).to_have_text("There is no channel yet.")
    complaints.clear()  # the first look, before the token was said
    await _trade(business, tmp_path)
    # Twelve vouchers of $0.001 and two transfers of $0.01; rows are read when they are 5 s old.
    total = page.locator(".tile", has_text="in the ledger")
    await expect(total.locator("b")).to_have_text("$0.032", timeout=30_000)
    await expect(total).to_contain_text("14 charges")
    risk = page.locator(".tile", has_text="at risk until claimed")
    await expect(risk.locator("b")).to_have_text("$0.012", timeout=20_000)
    await expect(risk).to_contain_text("could be lost in 24 h")
    await expect(page.locator("#routes")).to_contain_text("GET /item")
    await expect(page.locator("#payers tbody tr")).to_have_count(2)
    await expect(page.locator("#latency")).to_contain_text("GET /once", timeout=20_000)
    async with _claimer(business, ClaimPolicy(native_price="$0.01")) as worker:
        await worker.run_once()
    await expect(page.locator("#claimer")).to_contain_text("settlement", timeout=30_000)
    await expect(risk.locator("b")).to_have_text("$0.00")
    await photograph(page, pictures, "dashboard")
    for name in ("Hour", "30 days"):
        await page.get_by_role("button", name=name).click()
        await expect(page.locator("#revenue rect")).not_to_have_count(0)
    assert complaints == []


async def test_dust_waits_and_the_page_says_why(
    browser: BrowserContext, business: Business, tmp_path: Path
) -> None:
    await _trade(business, tmp_path)
    async with _claimer(business, ClaimPolicy(native_price="$3000000")) as worker:
        await worker.run_once()
    page = await browser.new_page()
    await _enter(page, business)
    await expect(page.locator("#claimer")).to_contain_text("too little to be worth a claim")
