"""A person at a paywall: what the page says, and what its button does with the wallet's consent."""

import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from helpers.chain import ASSET, FUNDS, NETWORK, new_address
from helpers.servers import Counted, served
from playwright.async_api import BrowserContext, Page, expect
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from browser.kit import BrowserWallet, photograph, watched
from paywall import Node, Paywall, upto
from paywall.chain.devnet import Devnet
from paywall.protocol.x402 import show_address

PRICE = 20_000
CLAIM = "<script>document.title='taken'</script> & <b>bold</b>"
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489"
    "0000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)


async def _report(request: Request) -> Response:
    return JSONResponse({"total": 12345678901234567890, "words": ["a, b", "c: {d}"]})


async def _article(request: Request) -> Response:
    return HTMLResponse("<h1>Bought</h1><script>parent.document.title='taken'</script>")


async def _picture(request: Request) -> Response:
    return Response(PIXEL, media_type="image/png")


async def _moved(request: Request) -> Response:
    return RedirectResponse(request.query_params["to"])


async def _broken(request: Request) -> Response:
    return JSONResponse({"message": "out of paper"}, 500)


PRICES = {
    "GET /report": "$0.02",
    "GET /article": "$0.02",
    "GET /picture": "$0.02",
    "GET /moved": "$0.02",
    "GET /broken": "$0.02",
    "GET /small": "$0.001",
    "GET /metered": upto("$0.05"),
}


@dataclass(frozen=True)
class Site:
    url: str
    receiver: str
    devnet: Devnet

    def earned(self) -> int:
        return self.devnet.usdc_balance(self.receiver)

    def wallet(self, funds: int = FUNDS, chain_id: int = ASSET.chain_id) -> BrowserWallet:
        wallet = BrowserWallet(chain_id, "0x" + secrets.token_hex(32), {ASSET.chain_id})
        if funds:
            self.devnet.fund_usdc(wallet.address, funds)
        return wallet


@pytest.fixture
async def site(devnet: Devnet, tmp_path: Path) -> AsyncIterator[Site]:
    async with _site(devnet, tmp_path) as running:
        yield running


@asynccontextmanager
async def _site(devnet: Devnet, folder: Path) -> AsyncIterator[Site]:
    receiver = show_address(new_address())
    routes = [
        Route("/report", _report),
        Route("/article", _article),
        Route("/picture", _picture),
        Route("/moved", _moved),
        Route("/broken", _broken),
    ]
    app = Paywall(
        Starlette(routes=routes),
        prices=PRICES,
        pay_to=receiver,
        asset=ASSET,
        chain=Node(devnet.url, devnet.accounts[0].key, network=NETWORK),
        store=f"sqlite:///{folder}/site.db",
        description=CLAIM,
        collect=None,
    )
    with served(app) as url:
        yield Site(url, receiver, devnet)


async def _opened(browser: BrowserContext, url: str, wallet: BrowserWallet | None) -> Page:
    page = await browser.new_page()
    if wallet:
        await wallet.move_in(page)
    answer = await page.goto(url)
    assert answer is not None
    assert answer.status == 402
    return page


async def _pay(page: Page) -> None:
    await page.get_by_role("button").click()


async def test_a_person_pays_with_one_signature_for_the_quoted_amount(
    browser: BrowserContext, site: Site, pictures: Path
) -> None:
    wallet = site.wallet()
    page = await _opened(browser, f"{site.url}/report?year=1", wallet)
    complaints = watched(page)
    await expect(page.locator("h1")).to_have_text("$0.02 USDC on Base Sepolia")
    await photograph(page, pictures, "quote")
    await _pay(page)
    await expect(page.locator("#shown pre")).to_contain_text('"total": 12345678901234567890')
    await expect(page.locator("#receipt")).to_contain_text("Transaction 0x")
    assert [message["message"]["value"] for message in wallet.signed] == [str(PRICE)]
    assert wallet.signed[0]["message"]["to"].lower() == site.receiver.lower()
    assert site.earned() == PRICE
    assert complaints == []
    await photograph(page, pictures, "quote-paid")


async def test_what_is_html_is_shown_where_it_can_do_nothing(
    browser: BrowserContext, site: Site
) -> None:
    page = await _opened(browser, f"{site.url}/article", site.wallet())
    await _pay(page)
    frame = page.frame_locator("#shown iframe")
    await expect(frame.locator("h1")).to_have_text("Bought")
    assert await page.title() == "Payment required"


async def test_an_image_is_shown(browser: BrowserContext, site: Site) -> None:
    page = await _opened(browser, f"{site.url}/picture", site.wallet())
    await _pay(page)
    await expect(page.locator("#shown img")).to_be_visible()
    assert await page.evaluate("document.querySelector('#shown img').naturalWidth") == 1


async def test_a_wallet_on_another_network_is_asked_to_change(
    browser: BrowserContext, site: Site
) -> None:
    wallet = site.wallet(chain_id=1)
    page = await _opened(browser, f"{site.url}/report", wallet)
    await _pay(page)
    await expect(page.locator("#shown pre")).to_be_visible()
    assert "wallet_switchEthereumChain" in wallet.asked
    assert wallet.chain_id == ASSET.chain_id


async def test_a_wallet_that_comes_late_is_found(browser: BrowserContext, site: Site) -> None:
    wallet, page = site.wallet(), await browser.new_page()
    await wallet.move_in(page, after_ms=500)
    await page.goto(f"{site.url}/report")
    await _pay(page)
    await expect(page.locator("#shown pre")).to_be_visible()
    assert len(wallet.signed) == 1


async def test_a_payment_follows_no_redirect(browser: BrowserContext, site: Site) -> None:
    """Case 47 for people."""
    elsewhere = Counted(Starlette())
    with served(elsewhere) as other:
        page = await _opened(browser, f"{site.url}/moved?to={other}", site.wallet())
        await _pay(page)
        await expect(page.locator("#words")).to_contain_text("which this page does not follow")
        assert (elsewhere.paid, elsewhere.unpaid) == (0, 0)
    assert site.earned() == PRICE


async def test_what_goes_wrong_is_said_in_plain_words(browser: BrowserContext, site: Site) -> None:
    wallet = site.wallet(chain_id=1)
    wallet.knows = set()
    page = await _opened(browser, f"{site.url}/report", wallet)
    words = page.locator("#words")
    await _pay(page)
    await expect(words).to_contain_text("does not know Base Sepolia yet")
    wallet.knows, wallet.declines = {ASSET.chain_id}, True
    await _pay(page)
    await expect(words).to_have_text("You declined in your wallet. Nothing was paid.")
    assert wallet.signed == []
    assert site.earned() == 0


async def test_a_wallet_with_too_little_is_told_so(
    browser: BrowserContext, site: Site, pictures: Path
) -> None:
    page = await _opened(browser, f"{site.url}/report", site.wallet(funds=PRICE - 1))
    await _pay(page)
    await expect(page.locator("#words")).to_contain_text("There is less than $0.02 USDC")
    await photograph(page, pictures, "quote-refused")
    assert site.earned() == 0


async def test_a_lost_answer_is_asked_for_with_the_same_payment_even_after_a_reload(
    browser: BrowserContext, site: Site
) -> None:
    """Case 49 for people: one signature, one transfer."""
    wallet = site.wallet()
    page = await _opened(browser, f"{site.url}/report", wallet)

    async def lose(route: object) -> None:
        await route.fetch()  # type: ignore[attr-defined]
        await route.abort()  # type: ignore[attr-defined]

    def is_paid(url: str) -> bool:
        return url.endswith("/report")

    await page.route(is_paid, lose)
    await _pay(page)
    await expect(page.locator("#words")).to_contain_text("cannot cost twice")
    assert site.earned() == PRICE
    await page.unroute(is_paid)
    await page.reload()
    await page.get_by_role("button", name="Send the same payment again").click()
    await expect(page.locator("#shown pre")).to_be_visible()
    assert len(wallet.signed) == 1
    assert site.earned() == PRICE


async def test_a_handler_that_fails_is_not_paid_and_the_payment_stays_good(
    browser: BrowserContext, site: Site
) -> None:
    wallet = site.wallet()
    page = await _opened(browser, f"{site.url}/broken", wallet)
    await _pay(page)
    await expect(page.locator("#words")).to_have_text(
        "The server answered 500. The server says: out of paper"
    )
    await _pay(page)
    await expect(page.locator("#words")).to_contain_text("out of paper")
    assert len(wallet.signed) == 1
    assert site.earned() == 0


async def test_without_a_wallet_the_page_explains(
    browser: BrowserContext, site: Site, pictures: Path
) -> None:
    page = await _opened(browser, f"{site.url}/report", None)
    await expect(page.locator("#words")).to_contain_text("There is no wallet in this browser")
    await expect(page.get_by_role("button")).to_have_count(0)
    await page.locator("summary").click()
    await photograph(page, pictures, "quote-no-wallet")


async def test_a_price_without_a_single_payment_has_no_button(
    browser: BrowserContext, site: Site
) -> None:
    page = await _opened(browser, f"{site.url}/small", site.wallet())
    await expect(page.locator("#words")).to_contain_text("too small for a payment on its own")
    await expect(page.get_by_role("button")).to_have_count(0)
    await page.goto(f"{site.url}/metered")
    await expect(page.locator("#words")).to_contain_text("measured while it runs")


async def test_what_the_owner_wrote_is_text(browser: BrowserContext, site: Site) -> None:
    """Case 55."""
    page = await _opened(browser, f"{site.url}/report", None)
    await expect(page.locator(".description")).to_have_text(CLAIM)
    assert await page.title() == "Payment required"


async def test_a_client_that_pays_gets_the_same_terms_as_the_page(site: Site) -> None:
    """The page's button and an agent read one quote."""
    async with httpx.AsyncClient(base_url=site.url) as client:
        person = await client.get("/report", headers={"accept": "text/html"})
        agent = await client.get("/report")
    assert person.headers["payment-required"] == agent.headers["payment-required"]
    assert json.loads(agent.content)["price"] == "$0.02"
    assert len(person.content) < 30_000
