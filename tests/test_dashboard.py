"""The dashboard without a browser: who may see, what the figures are, and metrics."""

import time
from typing import Any

import httpx
import pytest
from helpers.exact import Signer, shop
from helpers.newcomers import turn_newcomers_away
from helpers.provider import Agent, FaultyStore, answering, ask, buy, paying
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.routing import Mount

from paywall.asgi import Paywall
from paywall.chain.desk import CLAIM, Deed, Desk, Outlook, job_on
from paywall.dashboard import Dashboard
from paywall.dashboard.takings import DAY_MS, MINUTE_MS, OTHERS, Takings, largest
from paywall.dashboard.view import View
from paywall.metrics import Collector
from paywall.protocol import ledger
from paywall.protocol.errors import ConfigurationError, StoreUnavailable
from paywall.protocol.ledger import Row
from paywall.protocol.money import USDC, Address
from paywall.protocol.x402 import show_address
from paywall.sights import Sights
from paywall.stores.slips import slips_of

TOKEN = "a token that nobody guesses"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
ASSET = USDC.base_sepolia


def client(app: Dashboard | Starlette) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="https://owner.example"
    )


def later() -> float:
    """When the rows of just now are old enough to be read."""
    return time.time() + 6


async def traded() -> tuple[Paywall, FaultyStore]:
    """Two requests by vouchers, one transfer, one refusal, one failure; counted and closed."""
    store = FaultyStore()
    wall = shop(answering(200), store=store)
    for number in (1, 2):
        await ask(wall, headers=paying(Agent().pay(20_000 * number, price=20_000)))
    await ask(wall, headers=paying(Signer().pay()))
    await buy(wall, 20_000)
    await wall.sights.flush(slips_of(store))
    return wall, store


# -- Who may see ---------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/data", "/metrics"])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": "Bearer é"},
        {"Cookie": f"paywall_dashboard={TOKEN}"},
        {"Cookie": "paywall_dashboard=é; =;;"},
        {"Cookie": "paywall_dashboard="},
    ],
)
async def test_without_the_token_nothing_is_seen(path: str, headers: dict[str, str]) -> None:
    raw = {name: value.encode("utf-8") for name, value in headers.items()}
    async with client(Dashboard(FaultyStore(), TOKEN)) as owner:
        answer = await owner.get(path, headers=raw)
        assert answer.status_code == 401
        assert (await owner.get(f"{path}?token={TOKEN}")).status_code == 401


async def test_the_form_gives_a_cookie_that_scripts_and_other_sites_cannot_use() -> None:
    mounted = Starlette(routes=[Mount("/money", app=Dashboard(FaultyStore(), TOKEN))])
    async with client(mounted) as owner:
        wrong = await owner.post("/money/login", data={"token": "not this one, surely not"})
        assert (wrong.status_code, wrong.headers["location"]) == (303, "/money/#wrong")
        assert "set-cookie" not in wrong.headers
        right = await owner.post("/money/login", data={"token": TOKEN})
        assert (right.status_code, right.headers["location"]) == (303, "/money/")
        words = {word.strip().lower() for word in right.headers["set-cookie"].split(";")}
        assert {"httponly", "samesite=strict", "secure", "path=/money"} <= words
        assert TOKEN not in right.headers["set-cookie"]
        assert (await owner.get("/money/data")).status_code == 200
        assert (await owner.post("/money/logout")).status_code == 303
        assert (await owner.get("/money/data")).status_code == 401


async def test_a_form_of_any_size_is_not_read() -> None:
    async with client(Dashboard(FaultyStore(), TOKEN)) as owner:
        assert (await owner.post("/login", content=b"x" * 10_000)).status_code == 413
        assert (await owner.post("/login", content=b"\xff\xfe=%zz")).status_code == 303


def test_a_token_that_could_be_guessed_is_refused() -> None:
    for token in ("", "short"):
        with pytest.raises(ConfigurationError, match="at least 16"):
            Dashboard(FaultyStore(), token)


async def test_the_page_is_whole_and_says_nothing_of_the_store() -> None:
    async with client(Dashboard(FaultyStore(), TOKEN)) as owner:
        page = await owner.get("/")
        assert page.status_code == 200
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert page.headers["cache-control"] == "no-store"
        assert "http" not in page.text.replace("http://www.w3.org/2000/svg", "")
        assert (await owner.get("/else")).status_code == 404
        assert (await owner.post("/data", headers=BEARER)).status_code == 404


async def test_a_root_path_is_no_markup() -> None:
    root = '/x"><script>'
    dashboard = Dashboard(FaultyStore(), TOKEN)
    transport = httpx.ASGITransport(app=dashboard, root_path=root)
    async with httpx.AsyncClient(transport=transport, base_url="https://a.example") as owner:
        assert 'data-root="/xscript"' in (await owner.get("/")).text


# -- The figures ---------------------------------------------------------------------------------


async def seen(view: View) -> dict[str, Any]:
    shown: dict[str, Any] = await view.look()
    return shown


async def test_the_page_has_what_the_ledger_and_the_channels_have() -> None:
    wall, store = await traded()
    shown = await seen(View(store, clock=later))
    (token,) = shown["tokens"]
    assert (token["symbol"], token["decimals"], token["name"]) == ("USDC", 6, "Base Sepolia")
    assert token["total"] == ["60000", 3]
    assert token["routes"] == [["/priced", "60000", 3]]
    assert sum(int(amount) for _, amount, _ in token["day"]) == 60_000
    assert sum(int(amount) for _, amount, _ in token["month"]) == 60_000
    payer = show_address(Agent().config.payer)
    assert token["payers"] == [[payer, "60000", 3]]
    assert token["holdings"]["unclaimed"] == "40000"
    ((_, amount, deadline_ms),) = token["risks"]
    assert amount == "40000"
    assert deadline_ms > shown["now"]
    assert shown["complete"]
    assert shown["requests"]["day"]["outcomes"]["served"] == 3
    assert shown["requests"]["day"]["outcomes"]["refused"] == 1
    assert sum(shown["requests"]["hour"]["latency"]) == 3
    await wall.close()


async def test_what_is_new_is_added_and_nothing_twice() -> None:
    wall, store = await traded()
    view = View(store, clock=later)
    await view.look()
    await ask(wall, headers=paying(Signer().pay()))
    for _ in range(2):
        shown = await seen(view)
        assert shown["tokens"][0]["total"] == ["80000", 4]
    await wall.close()


async def test_what_the_claimer_wrote_down_is_shown() -> None:
    wall, store = await traded()
    network = ASSET.network
    token = await store.lease(job_on(network), "me", 60_000)
    assert token is not None
    desk = Desk(store, job_on(network), token)
    deed = Deed(1_000, CLAIM, b"\xaa" * 32, 10**12, 90_000, 2, 50_000, token=ASSET.address)
    await desk.put_deed(deed)
    waiting = (("dust", 3, 77),)
    await desk.put_outlook(Outlook(2_000, 10**7, None, waiting, (("ClaimLate", "0xab", "soon"),)))
    (claimer,) = (await seen(View(store, "$3000", clock=later)))["claimers"]
    assert claimer["waiting"] == [["dust", 3, "77"]]
    assert claimer["alarms"] == [("ClaimLate", "0xab", "soon")]
    # A millionth of a coin at $3000 is $0.003: six hundredths of what was claimed.
    assert (claimer["fee"], claimer["claimed"], claimer["fee_ppm"]) == ("$0.003", "$0.05", 60_000)
    assert claimer["deeds"][0]["amount"] == "$0.05"
    await wall.close()


async def test_newcomers_that_are_turned_away_are_shown_and_counted() -> None:
    wall, store = await traded()
    await turn_newcomers_away(store, ASSET.network)
    dashboard = Dashboard(store, TOKEN)
    dashboard.view._clock = later  # type: ignore[method-assign]
    (claimer,) = (await seen(dashboard.view))["claimers"]
    ((name, subject, text),) = claimer["alarms"]
    assert (name, subject) == ("DepositsUsedUp", ASSET.network)
    assert "all_deposits_per_hour" in text
    async with client(dashboard) as owner:
        told = samples((await owner.get("/metrics", headers=BEARER)).text)
    assert told["paywall_alarms", "DepositsUsedUp", ASSET.network] == 1
    await wall.close()


async def test_a_store_that_is_down_is_said_and_shows_nothing_of_itself() -> None:
    class Down(FaultyStore):
        async def channels(self, after: bytes = b"", limit: int = 1000) -> Any:
            raise StoreUnavailable("redis://:hunter2@db.internal does not answer")

    async with client(Dashboard(Down(), TOKEN)) as owner:
        for path in ("/data", "/metrics"):
            answer = await owner.get(path, headers=BEARER)
            assert answer.status_code == 503
            assert "hunter2" not in answer.text


def row(at_ms: int, amount: int = 5, payer: bytes = b"p" * 20, kind: str = ledger.CHARGE) -> Row:
    words = ("GET /a", "r", 0, "eip155:1", Address(b"t" * 20), "", b"")
    return Row("1", at_ms, kind, amount, b"c" * 32, Address(payer), *words)


def test_bars_begin_and_end_where_they_say() -> None:
    takings, now_ms = Takings(), 10 * DAY_MS
    for at_ms in (now_ms, now_ms - 1, now_ms - 59 * MINUTE_MS, now_ms - 60 * MINUTE_MS):
        takings.take(row(at_ms))
    hour = takings.over(now_ms, 1, 60)
    assert [(at_ms, part.amount) for at_ms, part in hour if part.count] == [
        (now_ms - 59 * MINUTE_MS, 5),
        (now_ms - MINUTE_MS, 5),
        (now_ms, 5),
    ]
    assert len(hour) == 60
    assert [part.amount for _, part in takings.over_days(now_ms, 2)] == [15, 5]
    takings.forget(now_ms + 2 * DAY_MS)
    assert takings.minutes == {}
    assert takings.total.amount == 20


def test_an_adopted_total_is_told_apart() -> None:
    takings = Takings()
    takings.take(row(0, 7, kind=ledger.ADOPTED))
    assert (takings.adopted, takings.total.count) == (7, 0)


def test_payers_beyond_the_bound_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paywall.dashboard.takings.MAX_PAYERS", 2)
    takings = Takings()
    for number in range(4):
        takings.take(row(0, payer=bytes([number]) * 20))
    assert len(takings.payers) == 3
    assert takings.payers[OTHERS].amount == 10


def test_the_largest_come_first() -> None:
    takings = Takings()
    takings.take(row(0, 1))
    assert [name for name, _ in largest(takings.routes, 5)] == ["GET /a"]


# -- Metrics -------------------------------------------------------------------------------------


def samples(text: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *(text for _, text in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_a_worker_has_a_collector() -> None:
    wall, _ = await traded()
    registry = CollectorRegistry()
    registry.register(Collector(wall.sights))
    told = samples(generate_latest(registry).decode())
    assert told["paywall_requests_total", "served", "/priced"] == 3
    assert told["paywall_latency_seconds_count", "/priced"] == 3
    assert told["paywall_latency_seconds_bucket", "+Inf", "/priced"] == 3
    assert [name for name in told if name[0] == "paywall_refusals_total"] != []
    await wall.close()


async def test_metrics_of_all_workers_count_from_the_first_look_and_never_fall() -> None:
    wall, store = await traded()
    dashboard = Dashboard(store, TOKEN)
    dashboard.view._clock = later  # type: ignore[method-assign]
    async with client(dashboard) as owner:
        first = samples((await owner.get("/metrics", headers=BEARER)).text)
        assert first["paywall_earned", "USDC", ASSET.network] == 0.06
        assert first["paywall_unclaimed", "USDC", ASSET.network] == 0.04
        assert first["paywall_requests_total", "served", "/priced"] == 0
        other = Sights(wall.news, later)
        other.of("/priced").count("served", 1)
        await other.flush(slips_of(store))
        dashboard._seen = None
        second = samples((await owner.get("/metrics", headers=BEARER)).text)
        assert second["paywall_requests_total", "served", "/priced"] == 1
    await wall.close()
