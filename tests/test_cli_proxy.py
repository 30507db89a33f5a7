"""`paywall proxy` as its owner runs it: options, a file, a reload, and memory that stays flat."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import httpx
import pytest
from helpers.official import rich_payer
from helpers.proxy_process import ProxyProcess, proxy_process
from helpers.servers import served
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

import paywall
from paywall.chain.devnet import Devnet
from paywall.cli_proxy import Settings
from paywall.kinds import CLOSED, free_first, pass_for, upto
from paywall.protocol.errors import ConfigurationError
from paywall.proxy_config import parse_price, prices_of, read_config

MIB: Final = 1024 * 1024
BIG: Final = int(os.environ.get("PAYWALL_STREAM_MIB", "48")) * MIB
"""How much goes through the proxy in each direction; `make stream` sends 200 MiB."""
FLAT_KIB: Final = 16 * 1024
"""What the process may grow by meanwhile: buffers of sockets, not bodies."""
EVENTS: Final = 4_000


async def _big(request: Request) -> StreamingResponse:
    async def parts() -> AsyncIterator[bytes]:
        part = bytes(MIB)
        for _ in range(BIG // MIB):
            yield part

    return StreamingResponse(parts(), headers={"content-length": str(BIG)})


async def _events(request: Request) -> StreamingResponse:
    async def events() -> AsyncIterator[str]:
        for number in range(EVENTS):
            yield f"data: {number} {'.' * 1000}\n\n"
            if number % 100 == 0:
                await asyncio.sleep(0)

    return StreamingResponse(events(), media_type="text/event-stream")


async def _count(request: Request) -> PlainTextResponse:
    size = 0
    async for part in request.stream():
        size += len(part)
    return PlainTextResponse(str(size))


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    routes = [
        Route("/big", _big),
        Route("/events", _events),
        Route("/count", _count, methods=["POST"]),
        Route("/plain", lambda request: PlainTextResponse("plain")),
    ]
    with served(Starlette(routes=routes)) as url:
        yield url


def config_text(upstream: str, price: str = "$0.001", more: str = "") -> str:
    return f"""
upstream = "{upstream}"
unpriced = "closed"
{more}
[prices]
"GET /plain" = "{price}"
"GET /events" = "free"
"""


# -- Settings ------------------------------------------------------------------------------------


def test_every_kind_of_price_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / "paywall.toml"
    path.write_text(
        """
        [prices]
        "GET /a" = "$0.001"
        "GET /b" = "upto $0.01"
        "GET /c" = "free"
        "/d/*" = "closed"
        "GET /e" = { price = "upto $0.01", free = 3, name = "e" }
        "GET /f" = { price = "$1", days = 2, hours = 1, calls = 9 }
        """
    )
    assert prices_of(read_config(path)) == {
        "GET /a": "$0.001",
        "GET /b": upto("$0.01"),
        "GET /c": None,
        "/d/*": CLOSED,
        "GET /e": free_first(3, upto("$0.01"), name="e"),
        "GET /f": pass_for("$1", days=2, hours=1, calls=9),
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("upstrem = 'x'", "upstrem"),
        ("port = 'x'", "port"),
        ("unpriced = 'shut'", "unpriced"),
        ("= 1", "line 1"),
        ("[prices]\n'GET /x' = 1", "prices"),
        ("[prices]\n'GET /x' = {price = '$1', free = 1, hours = 1}", "not both"),
        ("[prices]\n'GET /x' = {price = '$1'}", "a pass is for"),
        ("[prices]\n'GET /x' = {price = 'free', free = 1}", "no price"),
        ("[prices]\n'GET x' = '$1'", "not a route"),
        ("[timeouts]\nread_seconds = 0", "read_seconds"),
        ("pay_to = ''", "pay_to"),
        ("all_deposits_per_hour = 0", "at least one deposit an hour"),
        ("", "prices"),
    ],
)
def test_a_wrong_file_says_where_it_is_wrong(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "paywall.toml"
    path.write_text(text)
    told: dict[str, object] = {"upstream": "http://127.0.0.1:1"}
    if "pay_to" not in text:
        told["pay_to"] = "0x" + "11" * 20
    prices = [] if "prices" in text or not text else ["GET /y=$1"]
    with pytest.raises(ConfigurationError, match=says):
        Settings(path, told, prices).read()


def test_what_is_said_comes_before_the_file(tmp_path: Path) -> None:
    path = tmp_path / "paywall.toml"
    path.write_text(config_text("http://127.0.0.1:1", more="pay_to = '0x1'\nport = 1"))
    read = Settings(path, {"port": 2}, ["GET /plain=$0.5", "GET /x=$1"]).read()
    assert (read.port, read.pay_to) == (2, "0x1")
    assert list(read.prices.items()) == [
        ("GET /plain", "$0.5"),
        ("GET /x", "$1"),
        ("GET /events", "free"),
    ]


def test_a_price_of_the_command_line_may_have_the_sign_in_its_path() -> None:
    assert parse_price("GET /a=b/*=$0.001") == ("GET /a=b/*", "$0.001")
    for line in ("GET /x", "=$1", "GET /x="):
        with pytest.raises(ConfigurationError, match="is not a price"):
            parse_price(line)


def test_a_proxy_for_nothing_or_for_nobody_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="upstream"):
        Settings(None, {}, ["GET /x=$1"]).read()
    with pytest.raises(ConfigurationError, match="pay_to"):
        Settings(None, {"upstream": "http://127.0.0.1:1"}, ["GET /x=$1"]).read()


# -- Running -------------------------------------------------------------------------------------


def test_a_reload_takes_new_prices_and_keeps_the_old_when_they_are_wrong(
    devnet: Devnet, tmp_path: Path, upstream: str
) -> None:
    path = tmp_path / "paywall.toml"
    path.write_text(config_text(upstream))

    def price(running: ProxyProcess, of: str = "/plain") -> object:
        answer = httpx.get(running.url + of)
        return answer.json()["amount"] if answer.status_code == 402 else answer.status_code

    with proxy_process(devnet, tmp_path, ["--config", str(path)]) as running:
        assert [price(running, of) for of in ("/plain", "/big", "/events")] == ["1000", 404, 200]
        path.write_text(config_text(upstream, "$0.002").replace("closed", "free"))
        running.reload("reloaded: 2 prices")
        assert [price(running, of) for of in ("/plain", "/count")] == ["2000", 405]
        for text, says in (
            (config_text(upstream, "$nothing"), "'$nothing' is not a price"),
            (config_text(upstream, more="upstrem = 1"), "upstrem"),
            (config_text(upstream, more="min_deposit = '$5'"), "min_deposit changed"),
        ):
            path.write_text(text)
            running.reload(says)
            assert price(running) == "2000"


async def test_large_bodies_and_events_go_through_in_flat_memory(
    devnet: Devnet, tmp_path: Path, upstream: str
) -> None:
    payer = rich_payer(devnet)
    wallet = paywall.Wallet(payer.account.key.hex(), state=tmp_path / "agent.db")
    options = ["--upstream", upstream, "--price", "/*=$0.001"]
    with proxy_process(devnet, tmp_path, options) as running:
        async with paywall.AsyncClient(wallet=wallet, base_url=running.url, timeout=60) as client:
            assert (await client.post("/count", content=b"small")).text == "5"
            assert (await client.get("/plain")).text == "plain"
            before = running.rss_kib()
            peaks = []

            async def watched(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
                seen = 0
                async for part in parts:
                    seen += len(part)
                    if seen >= BIG // 8:
                        seen = 0
                        peaks.append(running.rss_kib())
                    yield part

            async def upload() -> AsyncIterator[bytes]:
                for _ in range(BIG // MIB):
                    yield bytes(MIB)

            async with client.stream("GET", "/big") as answer:
                size = 0
                async for part in watched(answer.aiter_raw()):
                    size += len(part)
            counted = await client.post("/count", content=watched(upload()))
            async with client.stream("GET", "/events") as answer:
                events = 0
                async for line in answer.aiter_lines():
                    events += line.startswith("data: ")
            peaks.append(running.rss_kib())
    wallet.close()
    assert (size, int(counted.text), events) == (BIG, BIG, EVENTS)
    assert len(peaks) >= 15, "it was looked at while they went through"
    assert max(peaks) - before < FLAT_KIB
