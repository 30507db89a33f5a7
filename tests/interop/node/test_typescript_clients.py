"""The official TypeScript clients at our provider: a channel's whole life, to the unit.

What the wallets and the contract say is read from the chain; what the provider's book says, from
its store.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from helpers.chain import FUNDS
from helpers.node_peer import Peer
from helpers.official import on_chain
from helpers.parties import BATCH, EXACT, NodeBuyer, NodeSeller, seller_of
from helpers.servers import CEILING, MIN_DEPOSIT, ONCE_PRICE, PRICE, WORD, Provider, provider

from paywall.chain.devnet import Devnet

CLIENTS = ("fetch", "axios")


@pytest.fixture
async def ours(devnet: Devnet, tmp_path: Path) -> AsyncIterator[Provider]:
    async with provider(devnet, tmp_path) as running:
        yield running


@pytest.fixture(params=CLIENTS)
def buyer(devnet: Devnet, peer: Peer, request: pytest.FixtureRequest) -> NodeBuyer:
    return NodeBuyer(devnet, peer, request.param, BATCH)


async def test_one_deposit_pays_for_vouchers_and_refunds_return_part_and_then_the_rest(
    devnet: Devnet, ours: Provider, buyer: NodeBuyer
) -> None:
    answers = await buyer.get(ours.url + "/item", 4)
    assert [answer.status for answer in answers] == [200] * 4
    receipts = [answer.receipt for answer in answers if answer.receipt]
    assert [receipt.amount for receipt in receipts] == [str(MIN_DEPOSIT), "", "", ""]
    assert [bool(receipt.transaction) for receipt in receipts] == [True, False, False, False]
    channel = await ours.channel()
    assert (channel.charged, channel.signed, channel.balance) == (4000, 4000, MIN_DEPOSIT)
    assert buyer.spent() == MIN_DEPOSIT

    part = await buyer.refund(ours.url + "/item", 20_000)
    assert (part.success, part.amount) == (True, "20000")
    assert on_chain(devnet, channel.channel_id) == (MIN_DEPOSIT - 20_000, 4000)

    assert [answer.status for answer in await buyer.get(ours.url + "/item")] == [200]
    rest = await buyer.refund(ours.url + "/item")
    assert (rest.success, rest.amount) == (True, str(MIN_DEPOSIT - 20_000 - 5000))
    assert buyer.spent() == 5000
    after = await ours.channel()
    assert (after.charged, after.claimed, after.balance, after.holds) == (5000, 5000, 5000, {})
    await ours.collect()
    assert devnet.usdc_balance(ours.receiver) == 5000

    again = await buyer.get(ours.url + "/item", 2)
    assert [answer.status for answer in again] == [200, 200]
    assert buyer.spent() == 5000 + MIN_DEPOSIT
    assert (await ours.channel()).charged == 7000


async def test_one_that_lost_its_state_recovers_by_our_corrective_402(
    ours: Provider, buyer: NodeBuyer
) -> None:
    answers = await buyer.get(ours.url + "/item", 3)
    assert [answer.status for answer in answers] == [200] * 3
    await buyer.forget()
    answers = await buyer.get(ours.url + "/item", 2)
    assert [answer.status for answer in answers] == [200] * 2
    channel = await ours.channel()
    assert (channel.charged, channel.signed, channel.holds) == (5 * PRICE, 5 * PRICE, {})
    assert buyer.spent() == MIN_DEPOSIT


async def test_an_answer_that_fails_costs_nothing_and_its_deposit_pays_for_the_next(
    ours: Provider, buyer: NodeBuyer
) -> None:
    (failed,) = await buyer.get(ours.url + "/status/500")
    assert (failed.status, failed.receipt and failed.receipt.amount) == (500, str(MIN_DEPOSIT))
    assert [answer.status for answer in await buyer.get(ours.url + "/item", 2)] == [200, 200]
    channel = await ours.channel()
    assert (channel.charged, channel.signed, channel.holds) == (2 * PRICE, 2 * PRICE, {})
    assert buyer.spent() == MIN_DEPOSIT


async def test_metered_answers_leave_both_sides_with_the_same_total(
    ours: Provider, buyer: NodeBuyer
) -> None:
    for path in ("/counted/3", "/item", "/words/3", "/item", "/item"):
        assert [answer.status for answer in await buyer.get(ours.url + path)] == [200], path
    total = 2 * 3 * WORD + 3 * PRICE
    assert total < 2 * CEILING
    assert (await ours.channel()).charged == total
    back = await buyer.refund(ours.url + "/item")
    assert back.amount == str(MIN_DEPOSIT - total)
    assert buyer.spent() == total


@pytest.mark.parametrize("client", CLIENTS)
async def test_transfers_name_their_transactions_and_a_failed_handler_takes_none(
    devnet: Devnet, peer: Peer, ours: Provider, client: str
) -> None:
    buyer = NodeBuyer(devnet, peer, client, EXACT)
    answers = await buyer.get(ours.url + "/once", 2)
    assert [answer.status for answer in answers] == [200, 200]
    receipts = [answer.receipt for answer in answers if answer.receipt]
    assert len({receipt.transaction for receipt in receipts}) == 2
    assert {receipt.payer for receipt in receipts} == {buyer.address}
    assert buyer.spent() == devnet.usdc_balance(ours.receiver) == 2 * ONCE_PRICE


@pytest.mark.parametrize("server", ["ours", "express"])
async def test_axios_as_published_pays_a_channel_once_and_then_nothing_wherever_it_is(
    devnet: Devnet, peer: Peer, tmp_path: Path, server: str
) -> None:
    """It shows no receipt to the scheme, so the second payment says what the first one said."""
    typescript = peer.ask("open_facilitator", key=devnet.accounts[4].key, rpc=devnet.url)
    buyer = NodeBuyer(devnet, peer, "axios-bare", BATCH)
    url = None if server == "ours" else typescript
    async with seller_of(server, devnet, peer, tmp_path, url) as seller:
        answers = await buyer.get(seller.url + "/item", 3)
        assert [answer.status for answer in answers] == [200, 402, 402]
        assert await seller.charged() == PRICE
        deposited = FUNDS - devnet.usdc_balance(buyer.address)
        assert deposited == buyer.spent() <= MIN_DEPOSIT
        assert isinstance(seller, NodeSeller) == (server == "express")
