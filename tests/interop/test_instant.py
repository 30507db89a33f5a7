"""First requests that pass before their deposits are mined: the official client, and ours, on a
chain whose deposits take their time. Sums are compared to the unit with the chain."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from helpers.chain import ASSET, NETWORK, new_address, rich_payer
from helpers.official import on_chain
from helpers.official import rich_payer as rich_official_payer
from helpers.servers import MIN_DEPOSIT, PRICE, Counted, Provider, api, served
from x402.http.clients import wrapHttpxWithPayment
from x402.http.utils import decode_payment_response_header

import paywall
from paywall import Node, Paywall
from paywall.chain import Mined
from paywall.chain.devnet import Devnet
from paywall.protocol.schemes.batch import Deposit
from paywall.protocol.x402 import show_address

PATIENCE_SECONDS: Final = 60


class SlowNode(Node):
    """On the devnet every transaction is mined at once; here deposits wait to be told."""

    def __init__(self, mined: threading.Event, url: str, key: str) -> None:
        super().__init__(url, key, network=NETWORK)
        self._mined = mined

    async def deposit(self, deposit: Deposit) -> Mined | None:
        await asyncio.to_thread(self._mined.wait, PATIENCE_SECONDS)
        return await super().deposit(deposit)


@pytest.fixture
def mined() -> Iterator[threading.Event]:
    """Set by a test when deposits are to be mined; by then at the latest when it has failed."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def ours(devnet: Devnet, tmp_path: Path, mined: threading.Event) -> Iterator[Provider]:
    receiver, store = show_address(new_address()), f"sqlite:///{tmp_path}/provider.db"
    key = devnet.accounts[6].key
    wall = Paywall(
        api(),
        prices={"GET /item": "$0.001"},
        pay_to=receiver,
        asset=ASSET,
        chain=SlowNode(mined, devnet.url, key),
        store=store,
        collect=None,
        instant_up_to="$0.01",
    )
    counted = Counted(wall)
    with served(counted) as url:
        yield Provider(url, receiver, store, Node(devnet.url, key, network=NETWORK), counted)
        mined.set()


async def test_the_official_client_is_served_at_once_and_then_goes_on(
    devnet: Devnet, ours: Provider, mined: threading.Event
) -> None:
    payer = rich_official_payer(devnet)
    async with wrapHttpxWithPayment(payer.client(), base_url=ours.url, timeout=30) as client:
        first = await client.get("/item")
        assert payer.spent() == 0, "its deposit is not mined yet"
        mined.set()
        answers = [first, *[await client.get("/item") for _ in range(3)]]
    assert [answer.status_code for answer in answers] == [200] * 4
    receipts = [decode_payment_response_header(a.headers["PAYMENT-RESPONSE"]) for a in answers]
    assert all(receipt.success for receipt in receipts)
    channel = await ours.channel()
    assert (channel.charged, channel.balance) == (4 * PRICE, MIN_DEPOSIT)
    assert payer.spent() == MIN_DEPOSIT, "one deposit, and no second one"
    assert on_chain(devnet, channel.channel_id) == (MIN_DEPOSIT, 0)


async def test_our_client_is_served_at_once_and_many_requests_follow(
    devnet: Devnet, ours: Provider, mined: threading.Event, tmp_path: Path
) -> None:
    payer = rich_payer(devnet)
    before = devnet.usdc_balance(show_address(payer.address))
    wallet = paywall.Wallet(payer.key.secret, state=tmp_path / "wallet.db")
    async with paywall.AsyncClient(wallet=wallet, base_url=ours.url, timeout=30) as client:
        first = await client.get("/item")
        assert devnet.usdc_balance(show_address(payer.address)) == before
        mined.set()
        more = await asyncio.gather(*(client.get("/item") for _ in range(8)))
    assert [answer.status_code for answer in (first, *more)] == [200] * 9
    channel = await ours.channel()
    assert channel.charged == wallet.spent() == 9 * PRICE
    assert before - devnet.usdc_balance(show_address(payer.address)) == channel.balance
    wallet.close()
