"""The README's examples run: each provider is served, on a real chain, and the agents pay it."""

import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from helpers.chain import FUNDS, NETWORK, new_address
from helpers.readme import example, filled, run
from helpers.servers import served
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from demo_app.completions import completions
from paywall import USDC, Node, Paywall, Wallet, receipt, upto
from paywall.chain.devnet import Devnet
from paywall.client import Client
from paywall.prices import PriceTable
from paywall.protocol.x402 import show_address


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one's own, with a home in it: the examples name no files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def real(text: str, devnet: Devnet) -> str:
    """With this chain and addresses that exist, in place of the README's placeholders."""
    words = {
        "https://your-rpc": devnet.url,
        "eip155:8453": NETWORK,
        "USDC.base": "USDC.base_sepolia",
        "0xYourWallet": show_address(new_address()),
        "0xTheirWallet": show_address(new_address()),
    }
    return filled(text, words)


def terms(devnet: Devnet) -> dict[str, Any]:
    """What `# asset, store, … as above` stands for."""
    return {
        "pay_to": show_address(new_address()),
        "asset": USDC.base_sepolia,
        "chain": Node(devnet.url, devnet.accounts[0].key, network=NETWORK),
    }


async def weather(request: Request) -> JSONResponse:
    return JSONResponse({"city": request.path_params["city"]})


@contextmanager
def the_provider(devnet: Devnet, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The first ten lines of the README, in front of a small service."""
    service = ModuleType("my_service")
    vars(service)["app"] = Starlette(routes=[Route("/weather/{city}", weather)])
    monkeypatch.setitem(sys.modules, "my_service", service)
    monkeypatch.setenv("PAYWALL_KEY", devnet.accounts[0].key)
    with served(run(real(example("from my_service"), devnet))["app"]) as url:
        yield url


@pytest.fixture
def key(devnet: Devnet, monkeypatch: pytest.MonkeyPatch, folder: Path) -> str:
    """The key of an agent that has money."""
    secret = "0x" + new_address().hex() + "01" * 12
    wallet = Wallet(secret, state=folder / "funded.db")
    devnet.fund_usdc(wallet.address, FUNDS)
    wallet.close()
    return secret


def bought(url: str, key: str) -> dict[str, str]:
    """What an agent gets for $0.001."""
    wallet = Wallet(key, state="buyer.db")
    with Client(wallet=wallet, timeout=30) as client:
        answer = client.get(url)
        paid = receipt(answer)
        assert paid is not None
        assert (answer.status_code, paid.charged) == (200, 1_000)
    wallet.close()
    found: dict[str, str] = answer.json()
    return found


def test_the_provider_and_the_agent_in_ten_lines_each(
    devnet: Devnet, monkeypatch: pytest.MonkeyPatch, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = example("client.refund(")
    with the_provider(devnet, monkeypatch) as url:
        assert httpx.get(f"{url}/weather/paris").status_code == 402
        monkeypatch.setenv("PAYWALL_KEY", key)
        run(filled(agent, {"https://api.example": url}))["wallet"].close()
    assert "{'city': 'paris'} Receipt(" in capsys.readouterr().out


def test_a_price_as_a_dependency(devnet: Devnet, key: str) -> None:
    text = filled(example("Depends("), {'pay_to="0xYourWallet", chain=chain': "**terms"})
    app = run(text, Paywall=Paywall, terms=terms(devnet))["app"]
    with served(app) as url:
        found = bought(f"{url}/weather/paris", key)
    assert found == {"city": "paris", "paid_by": Wallet(key, state=":memory:").address}


def test_a_price_as_a_decorator(devnet: Devnet, key: str) -> None:
    endpoint = run(example('@paid("$0.001")'))["weather"]
    app = Starlette(
        routes=[Route("/weather/{city}", endpoint)],
        middleware=[Middleware(Paywall, **terms(devnet))],
    )
    with served(app) as url:
        found = bought(f"{url}/weather/paris", key)
    assert found == {"city": "paris", "paid_by": Wallet(key, state=":memory:").address}


def test_the_table_of_prices_is_one(devnet: Devnet) -> None:
    partners: set[str] = set()
    prices = run(example("async def by_size"), PARTNERS=partners)["prices"]
    table = PriceTable(prices)
    assert [rule.pattern for rule in table.rules] == list(prices)
    Paywall(Starlette(), prices=prices, **terms(devnet))  # which quotes each of them


async def words(request: Request) -> AsyncIterator[str]:
    for word in ("pay ", "per ", "token"):
        yield word


def metered(devnet: Devnet) -> ASGIApp:
    chat = run(example("async def chat"), model=words)["chat"]
    routes = [Route("/chat", chat, methods=["POST"])]
    return Paywall(Starlette(routes=routes), prices={"POST /chat": upto("$0.01")}, **terms(devnet))


def test_a_metered_stream_costs_what_was_delivered(devnet: Devnet, key: str) -> None:
    wallet = Wallet(key)
    with served(metered(devnet)) as url, Client(wallet=wallet, timeout=30) as client:
        answer = client.post(f"{url}/chat")
        back = client.refund(f"{url}/chat", method="POST")
    assert answer.text == "pay per token"
    assert 500_000 - back.amount == 6  # three tokens at two millionths
    wallet.close()


def test_the_openai_sdk_pays(devnet: Devnet, key: str, capsys: pytest.CaptureFixture[str]) -> None:
    routes = [Route("/v1/chat/completions", completions, methods=["POST"])]
    prices = {"POST /v1/chat/completions": upto("$0.01")}
    shop = Paywall(Starlette(routes=routes), prices=prices, **terms(devnet))
    wallet = Wallet(key)
    with served(shop) as url:
        run(filled(example("openai."), {"http://127.0.0.1:8402": url}), wallet=wallet)
    assert "pay per token" in capsys.readouterr().out
    wallet.close()


def test_the_wallet_with_every_limit(devnet: Devnet, key: str, monkeypatch: Any) -> None:
    text = real(example("allow_origins="), devnet)
    text = text.replace('"redis://host/0?prefix=research"', '"limits.db"')
    monkeypatch.setenv("PAYWALL_KEY", key)
    wallet = run(text, ask_me=lambda approval: True, time=time)["wallet"]
    assert (wallet.policy.per_day, wallet.policy.lanes) == (2_000_000, 4)
    assert wallet.policy.most_per_deposit == 1_000_000
    wallet.close()
