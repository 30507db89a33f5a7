"""An agent's money comes home: by its provider, by time, and after the wallet's file was lost.

On a real chain, with a provider of ours; every sum is compared to the unit.
"""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from helpers.agent import encode, read_json
from helpers.chain import ASSET, NETWORK, new_address
from helpers.servers import PRICE, Provider, provider
from helpers.wires import over_http
from msgspec.structs import replace

import paywall
from paywall.chain.devnet import Devnet
from paywall.chain.payer import PayerNode
from paywall.closing import Closing, close, withdraw, withdraw_due
from paywall.protocol.eip712 import keccak
from paywall.protocol.errors import (
    AgentError,
    ChainUnavailable,
    ConfigurationError,
    ProviderMisbehaved,
)
from paywall.protocol.x402 import show_address
from paywall.recovery import recover
from paywall.wallet import Wallet

DEPOSIT = 200_000
DELAY = 86_400
"""The withdraw delay of our providers."""


class Agent:
    """A wallet of its own key, with ETH and USDC, and its client."""

    def __init__(self, devnet: Devnet, folder: Path, key: str | None = None) -> None:
        self.devnet, self.folder = devnet, folder
        self.key = key or new_key()
        self.wallet = self.open("agent.db")
        if key is None:
            devnet.fund_usdc(self.wallet.address, 1_000_000)
            devnet.fund_eth(self.wallet.address, 10**18)

    def open(self, name: str, **options: Any) -> Wallet:
        return Wallet(self.key, state=self.folder / name, deposit="$0.2", **options)

    def usdc(self) -> int:
        return self.devnet.usdc_balance(self.wallet.address)

    @property
    def channel(self) -> Any:
        (account,) = self.wallet.file.accounts()
        return account

    async def buy(self, url: str, times: int = 1, **options: Any) -> None:
        async with paywall.AsyncClient(wallet=self.wallet, **options) as client:
            for _ in range(times):
                assert (await client.get(f"{url}/item")).status_code == 200

    @asynccontextmanager
    async def chain(self, key: str | None = None) -> AsyncIterator[PayerNode]:
        async with PayerNode(self.devnet.url, key or self.key, network=NETWORK) as node:
            yield node


def new_key() -> str:
    return "0x" + secrets.token_hex(32)


@pytest.fixture
def devnet() -> Iterator[Devnet]:
    """A chain for each test: they travel in time."""
    with Devnet(port=0) as chain:
        yield chain


@pytest.fixture
async def shop(devnet: Devnet, tmp_path: Path) -> AsyncIterator[Provider]:
    async with provider(devnet, tmp_path) as running:
        yield running


@pytest.fixture
def agent(devnet: Devnet, tmp_path: Path) -> Agent:
    return Agent(devnet, tmp_path)


async def test_a_provider_returns_what_is_left(agent: Agent, shop: Provider) -> None:
    await agent.buy(shop.url, 3)
    async with paywall.AsyncClient(wallet=agent.wallet) as client:
        (closing,) = await close(client, agent.wallet, f"{shop.url}/item")
    assert (closing.state, closing.amount) == ("refunded", DEPOSIT - 3 * PRICE)
    assert agent.usdc() == 1_000_000 - 3 * PRICE
    assert agent.wallet.file.totals().outlay == agent.wallet.spent() == 3 * PRICE


async def test_every_lane_comes_home(agent: Agent, shop: Provider) -> None:
    agent.wallet = agent.open("lanes.db", lanes=3)
    async with paywall.AsyncClient(wallet=agent.wallet) as client:
        await client.get(f"{shop.url}/item")
        many = (client.get(f"{shop.url}/slow") for _ in range(150))
        assert {answer.status_code for answer in await asyncio.gather(*many)} == {200}
        before = agent.wallet.file.accounts()
        assert len(before) > 1
        closings = await close(client, agent.wallet, f"{shop.url}/item")
    assert [closing.state for closing in closings] == ["refunded"] * len(before)
    assert agent.usdc() == 1_000_000 - 151 * PRICE


async def test_where_the_provider_is_gone_the_money_comes_home_by_time(
    devnet: Devnet, agent: Agent, tmp_path: Path
) -> None:
    async with provider(devnet, tmp_path) as shop:
        await agent.buy(shop.url, 3)
        url = shop.url
        async with paywall.AsyncClient(wallet=agent.wallet) as client, agent.chain() as chain:
            await shop.collect()  # what it has earned is claimed
            shop_is_gone = f"{url.rpartition(':')[0]}:9/item"
            with pytest.raises((AgentError, httpx.TransportError)):
                await close(client, agent.wallet, shop_is_gone, chain)
    async with paywall.AsyncClient(wallet=agent.wallet) as client, agent.chain() as chain:
        with pytest.raises(httpx.TransportError):
            await close(client, agent.wallet, f"{url}/item")
        (begun,) = await close(client, agent.wallet, f"{url}/item", chain)
        assert (begun.state, begun.amount) == ("withdrawing", DEPOSIT - 3 * PRICE)
        assert begun.ready_at == await chain.time() + DELAY
        channel = agent.channel.channel_id
        again = await withdraw(agent.wallet, channel, chain)
        assert (again.state, again.ready_at) == ("withdrawing", begun.ready_at)
        assert agent.usdc() == 1_000_000 - DEPOSIT
        devnet.travel(DELAY)
        taken = await withdraw_due(agent.wallet, chain)
        assert [(each.state, each.amount) for each in taken] == [("withdrawn", begun.amount)]
        assert agent.usdc() == 1_000_000 - 3 * PRICE
        assert await withdraw_due(agent.wallet, chain) == []
        assert (await withdraw(agent.wallet, channel, chain)).state == "empty"
    assert agent.wallet.file.totals().outlay == agent.wallet.spent() == 3 * PRICE
    assert agent.channel.balance == 3 * PRICE


async def test_what_the_agent_owes_is_left_for_the_provider_and_can_be_claimed_later(
    devnet: Devnet, agent: Agent, shop: Provider
) -> None:
    await agent.buy(shop.url, 5)
    channel = agent.channel.channel_id
    async with agent.chain() as chain:
        assert (await withdraw(agent.wallet, channel, chain)).amount == DEPOSIT - 5 * PRICE
        devnet.travel(DELAY)
        assert (await withdraw(agent.wallet, channel, chain)).state == "withdrawn"
    assert await shop.collect() == (1, 1)
    assert devnet.usdc_balance(shop.receiver) == 5 * PRICE
    assert agent.usdc() == 1_000_000 - 5 * PRICE


async def test_who_wants_everything_gets_what_nobody_claims_meanwhile(
    devnet: Devnet, agent: Agent, shop: Provider
) -> None:
    await agent.buy(shop.url, 5)
    channel = agent.channel.channel_id
    async with agent.chain() as chain:
        begun = await withdraw(agent.wallet, channel, chain, everything=True)
        assert begun.amount == DEPOSIT
        await shop.collect()
        devnet.travel(DELAY)
        taken = await withdraw(agent.wallet, channel, chain)
    assert (taken.state, taken.amount) == ("withdrawn", DEPOSIT - 5 * PRICE)
    assert agent.usdc() == 1_000_000 - 5 * PRICE


async def test_two_who_withdraw_at_once_begin_one_withdrawal_and_take_it_once(
    devnet: Devnet, agent: Agent, shop: Provider
) -> None:
    await agent.buy(shop.url)
    channel = agent.channel.channel_id

    async def both() -> list[Closing]:
        async with agent.chain() as one, agent.chain() as two:
            steps = (withdraw(agent.wallet, channel, chain) for chain in (one, two))
            done = await asyncio.gather(*steps, return_exceptions=True)
            assert {type(each) for each in done} <= {Closing, ChainUnavailable}, done
            return [each for each in done if isinstance(each, Closing)]

    assert {step.state for step in await both()} == {"withdrawing"}
    devnet.travel(DELAY)
    assert {step.state for step in await both()} <= {"withdrawn", "empty"}
    assert agent.usdc() == 1_000_000 - PRICE


async def test_a_stranger_cannot_withdraw_and_is_told_before_it_pays_for_gas(
    devnet: Devnet, agent: Agent, shop: Provider
) -> None:
    await agent.buy(shop.url)
    async with agent.chain(devnet.accounts[3].key) as chain:
        with pytest.raises(ConfigurationError, match="only 0x"):
            await withdraw(agent.wallet, agent.channel.channel_id, chain)
        with pytest.raises(AgentError, match="no channel"):
            await withdraw(agent.wallet, bytes(32), chain)


async def test_case_51_an_overcharge_stops_the_channel_and_its_money_comes_home(
    devnet: Devnet, agent: Agent, shop: Provider
) -> None:
    """A provider that is honest with the chain and lies in its receipt."""

    class Lying(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            answer = await super().handle_async_request(request)
            header = answer.headers.get("payment-response")
            if header:
                told = read_json(header)
                told["extra"]["chargedAmount"] = str(PRICE + 1)
                answer.headers["payment-response"] = encode(told)
            return answer

    await agent.buy(shop.url, 2)
    with pytest.raises(ProviderMisbehaved):
        await agent.buy(shop.url, transport=Lying())
    with pytest.raises(ProviderMisbehaved, match="not paid any more"):
        await agent.buy(shop.url)
    assert agent.channel.must_withdraw
    evidence = agent.channel.stopped
    assert str(PRICE + 1) in evidence
    async with agent.chain() as chain:
        (begun,) = await withdraw_due(agent.wallet, chain)
        assert (begun.state, begun.amount) == ("withdrawing", DEPOSIT - 3 * PRICE)
        devnet.travel(DELAY)
        (taken,) = await withdraw_due(agent.wallet, chain)
    assert (taken.state, taken.amount) == ("withdrawn", DEPOSIT - 3 * PRICE)
    assert agent.usdc() == 1_000_000 - 3 * PRICE
    assert agent.channel.stopped == evidence
    assert agent.channel.withdrawal.done
    with pytest.raises(ProviderMisbehaved):
        await agent.buy(shop.url)


async def test_case_51_a_refund_that_was_only_told_of_is_withdrawn_and_stays_counted(
    monkeypatch: pytest.MonkeyPatch, agent: Agent, shop: Provider
) -> None:
    """A provider that says it has given back what it kept would free the budget for more."""

    class Lying(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            header = request.headers.get("payment-signature")
            if header is None or read_json(header)["payload"]["type"] != "refund":
                return await super().handle_async_request(request)
            told = {"success": True, "transaction": "0x" + "77" * 32, "network": NETWORK}
            told |= {"amount": str(DEPOSIT - PRICE)}
            return httpx.Response(200, headers={"payment-response": encode(told)})

    monkeypatch.setattr("paywall.closing.REFUND_SEEN_SECONDS", (0.01,))
    await agent.buy(shop.url)
    async with (
        paywall.AsyncClient(wallet=agent.wallet, transport=Lying()) as client,
        agent.chain() as chain,
    ):
        (closing,) = await close(client, agent.wallet, f"{shop.url}/item", chain)
    assert (closing.state, closing.amount) == ("withdrawing", DEPOSIT - PRICE)
    assert agent.wallet.file.totals().outlay == agent.channel.balance == DEPOSIT


async def test_the_chain_tells_which_authorizations_were_used(agent: Agent, shop: Provider) -> None:
    asked: list[Any] = []

    class Hearing(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if "payment-signature" in request.headers:
                asked.append(read_json(request.headers["payment-signature"])["payload"])
            return await super().handle_async_request(request)

    await agent.buy(shop.url, transport=Hearing())
    salt = int(asked[0]["deposit"]["authorization"]["erc3009Authorization"]["salt"], 0)
    used = keccak(agent.channel.channel_id + salt.to_bytes(32, "big"))
    async with agent.chain() as chain:
        payer = agent.wallet.payer.account
        assert await chain.is_used(ASSET.address, payer, used)
        assert not await chain.is_used(ASSET.address, payer, bytes(32))


async def test_a_deposit_that_was_never_mined_is_free_again_when_the_chain_says_so(
    agent: Agent, shop: Provider
) -> None:
    """Its provider took the signature, refused, and is gone."""

    class Keeping(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if "payment-signature" in request.headers:
                return httpx.Response(500)
            return await super().handle_async_request(request)

    moment = time.time()
    agent.wallet = agent.open("late.db", clock=lambda: moment)
    async with paywall.AsyncClient(wallet=agent.wallet, transport=Keeping()) as client:
        assert (await client.get(f"{shop.url}/item")).status_code == 500
    assert agent.wallet.file.totals().outlay == DEPOSIT
    async with agent.chain() as chain:
        assert (await withdraw(agent.wallet, agent.channel.channel_id, chain)).state == "empty"
        assert agent.wallet.file.totals().outlay == DEPOSIT
        moment += 1_000
        assert (await withdraw(agent.wallet, agent.channel.channel_id, chain)).state == "empty"
    assert agent.wallet.file.totals().outlay == 0


# -- A lost file -----------------------------------------------------------------------------------


async def test_case_52_a_lost_file_is_recovered_and_no_second_deposit_is_made(
    devnet: Devnet, agent: Agent, shop: Provider
) -> None:
    await agent.buy(shop.url, 7)
    await shop.collect()
    await agent.buy(shop.url, 4)
    lost, agent.wallet = agent.wallet, agent.open("new.db")
    lost.close()
    async with agent.chain() as chain:
        found = await recover(agent.wallet, chain, [shop.url.replace("127.0.0.1", "other")])
        assert [(each.balance, each.claimed, each.known) for each in found] == [
            (DEPOSIT, 7 * PRICE, False)
        ]
        assert [each.known for each in await recover(agent.wallet, chain)] == [True]
    assert agent.wallet.file.totals().outlay == DEPOSIT
    await agent.buy(shop.url, 2)
    assert agent.usdc() == 1_000_000 - DEPOSIT
    channel = await shop.channel()
    assert (channel.charged, channel.signed) == (13 * PRICE, 13 * PRICE)
    assert agent.wallet.spent() == channel.charged
    async with paywall.AsyncClient(wallet=agent.wallet) as client:
        (closing,) = await close(client, agent.wallet, f"{shop.url}/item")
    assert closing.amount == DEPOSIT - 13 * PRICE
    assert agent.usdc() == 1_000_000 - 13 * PRICE


async def test_case_52_what_was_found_can_be_withdrawn_when_its_provider_is_gone(
    devnet: Devnet, agent: Agent, shop: Provider
) -> None:
    await agent.buy(shop.url, 3)
    agent.wallet = agent.open("new.db")
    async with agent.chain() as chain:
        (found,) = await recover(agent.wallet, chain, [shop.url])
        assert found.origin == shop.url
        channel = bytes.fromhex(found.channel[2:])
        await withdraw(agent.wallet, channel, chain)
        devnet.travel(DELAY)
        taken = await withdraw(agent.wallet, channel, chain)
        assert (taken.state, taken.amount) == ("withdrawn", DEPOSIT)
        assert await recover(agent.open("third.db"), chain) == []
    assert agent.usdc() == 1_000_000


async def test_case_52_what_was_claimed_is_known_again_also_where_nothing_is_left(
    devnet: Devnet, agent: Agent, shop: Provider
) -> None:
    """Its file is lost and so is the provider's proof: the chain alone knows what it has signed."""
    await agent.buy(shop.url, 7)
    await shop.collect()
    async with paywall.AsyncClient(wallet=agent.wallet) as client:
        await close(client, agent.wallet, f"{shop.url}/item")
    begun, unaware = agent.open("begun.db"), agent.open("unaware.db")
    async with agent.chain() as chain:
        assert await recover(unaware, chain) == []
        (account,) = unaware.file.accounts()
        assert (account.charged, account.signed, account.balance) == (7 * PRICE,) * 3
        with begun.file.change():
            begun.file.put(replace(account, charged=PRICE, signed=2 * PRICE, balance=DEPOSIT))
        assert await recover(begun, chain) == []
    (caught_up,) = begun.file.accounts()
    assert (caught_up.charged, caught_up.signed, caught_up.balance) == (7 * PRICE,) * 3


async def test_a_recovery_counts_against_the_total_and_not_against_today(
    devnet: Devnet, agent: Agent, shop: Provider
) -> None:
    await agent.buy(shop.url, 9)
    await shop.collect()
    agent.wallet = agent.open("new.db", per_day="$0.001", total="$0.3")
    async with agent.chain() as chain:
        await recover(agent.wallet, chain)
    assert agent.wallet.file.totals().outlay == DEPOSIT
    await agent.buy(shop.url)
    with pytest.raises(paywall.OverBudget):
        await agent.buy(shop.url)


async def test_the_log_is_searched_in_the_pieces_that_an_endpoint_allows(
    devnet: Devnet, agent: Agent, shop: Provider
) -> None:
    await agent.buy(shop.url)
    devnet.mine(40)
    asked: list[int] = []

    def stingy(request: httpx.Request) -> httpx.Response:
        question = json.loads(request.content)
        if question["method"] == "eth_getLogs":
            query = question["params"][0]
            blocks = int(query["toBlock"], 16) - int(query["fromBlock"], 16) + 1
            asked.append(blocks)
            if blocks > 9:
                error = {"code": -32005, "message": "too many blocks"}
                return httpx.Response(200, json={"jsonrpc": "2.0", "id": 1, "error": error})
        answer = httpx.post(devnet.url, content=request.content, headers={"a": "b"})
        return httpx.Response(200, json=answer.json())

    wallet = agent.open("new.db")
    with over_http(stingy) as url:
        async with PayerNode(url, agent.key, network=NETWORK) as chain:
            (found,) = await recover(wallet, chain)
    assert found.balance == DEPOSIT
    assert max(asked) > 9 >= asked[-1]


async def test_nobody_elses_channel_is_found(devnet: Devnet, agent: Agent, shop: Provider) -> None:
    await agent.buy(shop.url)
    async with agent.chain() as chain:
        assert await chain.channels_of(new_address()) == []
        voucher = Wallet(agent.key, voucher_key=new_key(), state=agent.folder / "v.db")
        assert await recover(voucher, chain) == []


async def test_a_node_shows_no_key(devnet: Devnet, agent: Agent) -> None:
    node = PayerNode("http://user:hunter2@127.0.0.1:9", agent.key, network=NETWORK)
    assert show_address(node.address) == agent.wallet.address
    assert "hunter2" not in repr(node)
    assert agent.key[2:] not in repr(node)
    with pytest.raises(ChainUnavailable):
        async with node:
            pass
