"""The agent signs in: when, for whom, and how many requests it costs."""

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from helpers.channels import PAYER
from helpers.provider import PRICE, answering, provider

from paywall import AsyncClient, Wallet, free_first, pass_for, receipt
from paywall.asgi import Paywall
from paywall.prices import Price
from paywall.protocol.errors import AgentError, OverBudget
from paywall.protocol.sign_in import EXTENSION

ORIGIN = "http://api.example"


class Watched(httpx.AsyncBaseTransport):
    """Notes what each request brings, and may change what a quote says."""

    def __init__(self, wall: Paywall) -> None:
        self._inner = httpx.ASGITransport(wall)
        self.sent: list[str] = []
        self.change: dict[str, Any] = {}
        self.nonces: list[str] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        kinds = {"payment-signature": "paid", "sign-in-with-x": "signed"}
        found = [kind for name, kind in kinds.items() if name in request.headers]
        self.sent.append("+".join(found) or "plain")
        if "sign-in-with-x" in request.headers:
            self.nonces.append(
                json.loads(base64.b64decode(request.headers["sign-in-with-x"]))["nonce"]
            )
        response = await self._inner.handle_async_request(request)
        quote = response.headers.get("payment-required")
        if quote and self.change:
            told = json.loads(base64.b64decode(quote))
            told["extensions"][EXTENSION]["info"] |= self.change
            changed = base64.b64encode(json.dumps(told).encode()).decode()
            response.headers["payment-required"] = changed
        return response


class Agent:
    def __init__(self, price: Price, folder: Path, **limits: Any) -> None:
        self.wall = provider(answering(), {"/priced": price, "/priced/*": price}, public_url=ORIGIN)
        self.wallet = Wallet(PAYER.secret, state=folder / "agent.db", **limits)
        self.network = Watched(self.wall)
        self.client = AsyncClient(wallet=self.wallet, transport=self.network, base_url=ORIGIN)

    async def get(self, path: str = "/priced", **fields: Any) -> tuple[list[str], int | None]:
        """What was sent for it, and what it was charged; None when no money came into it."""
        self.network.sent.clear()
        answer = await self.client.post(path, **fields)
        assert answer.status_code == 200
        told = receipt(answer)
        return [*self.network.sent], told and told.charged


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[list[Agent]]:
    agents: list[Agent] = []
    yield agents
    for agent in agents:
        await agent.client.aclose()
        agent.wallet.close()


async def test_free_requests_and_then_paid_ones_cost_few_round_trips(
    made: list[Agent], tmp_path: Path
) -> None:
    agent = Agent(free_first(3, then="$0.001"), tmp_path)
    made.append(agent)
    assert [await agent.get() for _ in range(6)] == [
        (["plain", "signed"], None),
        (["signed"], None),
        (["signed"], None),
        (["signed", "paid"], PRICE),
        (["paid"], PRICE),
        (["paid"], PRICE),
    ]
    assert len(set(agent.network.nonces)) == 4


async def test_a_pass_is_bought_once_and_then_signed_for_on_the_first_try(
    made: list[Agent], tmp_path: Path
) -> None:
    agent = Agent(pass_for("$0.005", hours=1, name="all"), tmp_path)
    made.append(agent)
    assert [await agent.get(f"/priced/{n}") for n in range(4)] == [
        (["plain", "signed", "paid"], 5 * PRICE),
        *[(["signed"], None)] * 3,
    ]
    assert agent.wallet.spent() == 5 * PRICE


async def test_a_pass_needs_no_budget_once_it_is_bought(made: list[Agent], tmp_path: Path) -> None:
    rich = Agent(pass_for("$0.05", hours=1), tmp_path, per_request="$1")
    made.append(rich)
    await rich.get()
    poor = Wallet(PAYER.secret, state=tmp_path / "poor.db", per_request="$0.001")
    async with AsyncClient(wallet=poor, transport=rich.network, base_url=ORIGIN) as client:
        assert (await client.post("/priced")).status_code == 200
        with pytest.raises(OverBudget):
            await client.post("/priced/other")
    poor.close()


async def test_a_provider_that_makes_its_own_nonces_gets_them(
    made: list[Agent], tmp_path: Path
) -> None:
    agent = Agent(free_first(3, then="$0.001"), tmp_path)
    made.append(agent)
    await agent.get()
    spend, issued = agent.wall.gate.store.spend, iter((False, True))

    async def strict(key: bytes, owner: str, ttl_ms: int) -> bool:
        return next(issued) and await spend(key, owner, ttl_ms)

    agent.wall.gate.store.spend = strict
    assert await agent.get() == (["signed", "signed"], None)


@pytest.mark.parametrize(
    "change",
    [
        {"domain": "bank.example"},
        {"uri": "http://bank.example/priced"},
        {"domain": "bank.example", "uri": "http://bank.example/"},
        {"statement": "two\nlines"},
    ],
)
async def test_case_47_a_challenge_of_another_site_is_not_signed(
    made: list[Agent], tmp_path: Path, change: dict[str, str]
) -> None:
    agent = Agent(free_first(1, then="$0.001"), tmp_path)
    made.append(agent)
    agent.network.change = change
    assert (await agent.get())[0] == ["plain", "paid"]


async def test_who_would_not_pay_here_does_not_say_who_it_is(
    made: list[Agent], tmp_path: Path
) -> None:
    agent = Agent(free_first(1, then="$0.001"), tmp_path, deny_origins=["http://api.example"])
    made.append(agent)
    with pytest.raises(AgentError):
        await agent.client.post("/priced")
    assert "signed" not in agent.network.sent


async def test_a_body_that_runs_away_is_signed_for_when_the_place_is_known(
    made: list[Agent], tmp_path: Path
) -> None:
    agent = Agent(free_first(3, then="$0.001"), tmp_path)
    made.append(agent)

    async def body() -> AsyncIterator[bytes]:
        yield b"once"

    with pytest.raises(AgentError, match="cannot be sent"):
        await agent.client.post("/priced", content=body())
    assert await agent.get() == (["signed"], None)
    assert await agent.get(content=body()) == (["signed"], None)


async def test_the_same_quote_is_written_down_once(made: list[Agent], tmp_path: Path) -> None:
    agent = Agent(free_first(1, then="$0.001"), tmp_path)
    made.append(agent)
    written = []
    remember = agent.wallet.file.remember
    agent.wallet.file.remember = lambda *told: (written.append(told), remember(*told))
    for _ in range(3):
        await agent.get()
    assert len(written) == 1
