"""The OpenAI SDK buys from the demo's chat route: the real package, a real chain, real sockets."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from helpers.chain import ASSET, FUNDS, NETWORK, new_address
from helpers.servers import served
from starlette.applications import Starlette
from starlette.routing import Route

import paywall
import paywall.httpx2
from demo_app import completions
from paywall import Node, Paywall, upto
from paywall.chain.devnet import Devnet
from paywall.protocol.channel import Channel
from paywall.protocol.x402 import show_address
from paywall.stores import open_store
from paywall.wallet import Wallet

TOKEN = 100
CEILING = 10_000
POEM = "one two three four five six seven eight nine ten"


@pytest.fixture
def shop(devnet: Devnet, tmp_path: Path) -> Iterator[str]:
    app = Paywall(
        Starlette(
            routes=[Route("/v1/chat/completions", completions.completions, methods=["POST"])]
        ),
        prices={"POST /v1/chat/completions": upto("$0.01")},
        pay_to=show_address(new_address()),
        asset=ASSET,
        chain=Node(devnet.url, devnet.accounts[0].key, network=NETWORK),
        store=f"sqlite:///{tmp_path}/provider.db",
    )
    with served(app) as url:
        yield f"{url}/v1"


@pytest.fixture
def wallet(devnet: Devnet, tmp_path: Path) -> Iterator[Wallet]:
    one = Wallet("0x" + new_address().hex() + "01" * 12, state=tmp_path / "agent.db")
    devnet.fund_usdc(one.address, FUNDS)
    yield one
    one.close()


@pytest.fixture(params=[paywall, paywall.httpx2], ids=["httpx", "httpx2"])
async def client(
    request: pytest.FixtureRequest, wallet: Wallet, shop: str
) -> AsyncIterator[openai.AsyncOpenAI]:
    http = request.param.AsyncClient(wallet=wallet, timeout=60)
    async with openai.AsyncOpenAI(base_url=shop, api_key="none", http_client=http) as one:
        yield one


async def channel_of(tmp_path: Path) -> Channel:
    store = open_store(f"sqlite:///{tmp_path}/provider.db")
    await store.open()
    (channel,) = await store.channels()
    await store.close()
    return channel


def asking(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "parrot-1", "messages": [{"role": "user", "content": text}], **more}


async def test_an_answer_is_charged_by_its_tokens(
    client: openai.AsyncOpenAI, wallet: Wallet, tmp_path: Path
) -> None:
    done = await client.chat.completions.create(**asking(POEM))
    assert done.choices[0].message.content == POEM
    assert done.choices[0].finish_reason == "stop"
    assert done.usage
    assert done.usage.completion_tokens == 10
    cut = await client.chat.completions.create(**asking(POEM, max_tokens=3))
    assert (cut.choices[0].message.content, cut.choices[0].finish_reason) == (
        "one two three",
        "length",
    )
    assert wallet.spent() == (await channel_of(tmp_path)).charged == 13 * TOKEN


async def test_a_stream_is_charged_by_what_was_delivered(
    client: openai.AsyncOpenAI, wallet: Wallet, tmp_path: Path
) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    stream = await client.chat.completions.create(**asking(POEM, **options))
    parts = [part async for part in stream]
    text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    assert text == POEM
    assert parts[-1].usage.completion_tokens == 10
    await eventually_charged(tmp_path, 10 * TOKEN)
    # The next receipt tells the client what the stream came to.
    await client.chat.completions.create(**asking("eleven"))
    assert wallet.spent() == (await channel_of(tmp_path)).charged == 11 * TOKEN


async def test_case_10_who_hangs_up_half_way_pays_for_what_was_delivered(
    client: openai.AsyncOpenAI, wallet: Wallet, tmp_path: Path
) -> None:
    stream = await client.chat.completions.create(**asking("word " * 90, stream=True))
    heard = 0
    async for part in stream:
        heard += bool(part.choices[0].delta.content)
        if heard == 20:
            break
    await stream.close()
    charged = await settled(tmp_path)
    assert 20 * TOKEN <= charged < 90 * TOKEN
    await client.chat.completions.create(**asking("eleven"))
    assert wallet.spent() == (await channel_of(tmp_path)).charged == charged + TOKEN


async def test_an_answer_never_costs_more_than_its_ceiling(
    client: openai.AsyncOpenAI, wallet: Wallet, tmp_path: Path
) -> None:
    done = await client.chat.completions.create(**asking("word " * 300))
    assert done.choices[0].message.content == " ".join(["word"] * 100)
    assert done.choices[0].finish_reason == "length"
    assert wallet.spent() == (await channel_of(tmp_path)).charged == CEILING


async def test_a_refusal_of_the_wallet_reaches_the_caller_as_it_is(
    shop: str, devnet: Devnet, tmp_path: Path
) -> None:
    poor = Wallet("0x" + "77" * 32, per_request="$0.001", state=tmp_path / "poor.db")
    http = paywall.AsyncClient(wallet=poor)
    async with openai.AsyncOpenAI(base_url=shop, api_key="none", http_client=http) as client:  # type: ignore[arg-type]
        with pytest.raises(paywall.OverBudget):
            await client.chat.completions.create(**asking(POEM))
    poor.close()


def test_the_synchronous_sdk_pays_too(shop: str, wallet: Wallet) -> None:
    http: httpx.Client = paywall.Client(wallet=wallet, timeout=60)
    with openai.OpenAI(base_url=shop, api_key="none", http_client=http) as client:  # type: ignore[arg-type]
        stream = client.chat.completions.create(**asking(POEM, stream=True))
        words = [part.choices[0].delta.content or "" for part in stream]
    assert "".join(words) == POEM


async def eventually_charged(tmp_path: Path, amount: int) -> None:
    for _ in range(500):
        if (await channel_of(tmp_path)).charged == amount:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it was not charged")


async def settled(tmp_path: Path) -> int:
    """What was charged once nothing is in flight any more."""
    for _ in range(500):
        channel = await channel_of(tmp_path)
        if not channel.holds:
            return channel.charged
        await asyncio.sleep(0.02)
    raise AssertionError("it is still in flight")
