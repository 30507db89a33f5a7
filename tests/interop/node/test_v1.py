"""x402 v1, as its own packages speak it: clients at our provider, and our clients at its server."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from helpers.matrix import Matrix
from helpers.node_peer import Peer
from helpers.parties import EXACT, OWN_NODE, NodeBuyer, NodeSeller, OurBuyer, earned, seller_of
from helpers.servers import ONCE_PRICE, Provider, provider

import paywall
from paywall.chain.devnet import Devnet

TIMES = 3
OLD_CLIENTS = ("fetch-v1", "axios-v1")


@pytest.fixture
async def ours(devnet: Devnet, tmp_path: Path) -> AsyncIterator[Provider]:
    async with provider(devnet, tmp_path) as running:
        yield running


@pytest.fixture
def old_facilitator(devnet: Devnet, peer: Peer) -> str:
    return str(peer.ask("open_facilitator", key=devnet.accounts[4].key, rpc=devnet.url))


@pytest.mark.parametrize("client", OLD_CLIENTS)
async def test_clients_of_v1_pay_our_provider(
    client: str, devnet: Devnet, peer: Peer, ours: Provider, matrix: Matrix
) -> None:
    buyer = NodeBuyer(devnet, peer, client, EXACT)
    with matrix.cell(client, "ours", OWN_NODE, "exact, v1") as cell:
        answers = await buyer.get(ours.url + "/once", TIMES)
        assert [answer.status for answer in answers] == [200] * TIMES, answers
        receipts = [answer.receipt for answer in answers if answer.receipt]
        assert [receipt.success for receipt in receipts] == [True] * TIMES
        assert len({receipt.transaction for receipt in receipts}) == TIMES
        assert buyer.spent() == devnet.usdc_balance(ours.receiver) == TIMES * ONCE_PRICE
        cell.saw = f"{TIMES} transfers, {buyer.spent()}"


@pytest.mark.parametrize("client", OLD_CLIENTS)
async def test_clients_of_v1_pay_the_server_of_v1(
    client: str, devnet: Devnet, peer: Peer, tmp_path: Path, old_facilitator: str, matrix: Matrix
) -> None:
    buyer = NodeBuyer(devnet, peer, client, EXACT)
    with matrix.cell(client, "express-v1", "typescript", "exact, v1") as cell:
        async with seller_of("express-v1", devnet, peer, tmp_path, old_facilitator) as seller:
            answers = await buyer.get(seller.path(EXACT), TIMES)
            assert [answer.status for answer in answers] == [200] * TIMES, answers
            assert buyer.spent() == earned(devnet, seller) == TIMES * ONCE_PRICE
        cell.saw = f"{TIMES} transfers, {buyer.spent()}"


async def test_our_client_pays_the_server_of_v1_on_the_first_try_once_it_knows_the_price(
    devnet: Devnet, peer: Peer, tmp_path: Path, old_facilitator: str, matrix: Matrix
) -> None:
    buyer = OurBuyer(devnet, tmp_path, EXACT)
    with matrix.cell("ours", "express-v1", "typescript", "exact, v1") as cell:
        async with seller_of("express-v1", devnet, peer, tmp_path, old_facilitator) as seller:
            answers = await buyer.get(seller.path(EXACT), TIMES)
            assert [answer.status for answer in answers] == [200] * TIMES, answers
            receipts = [answer.receipt for answer in answers if answer.receipt]
            assert len({receipt.transaction for receipt in receipts}) == TIMES
            assert {receipt.network for receipt in receipts} == {"eip155:84532"}
            assert isinstance(seller, NodeSeller)
            assert await seller.requests() == (TIMES, 1)
            assert buyer.spent() == earned(devnet, seller) == TIMES * ONCE_PRICE
            assert buyer.wallet.spent() == TIMES * ONCE_PRICE
        cell.saw = f"{TIMES} transfers, {buyer.spent()}"
    await buyer.close()


async def test_our_client_is_refused_by_a_server_of_v1_and_pays_nothing(
    devnet: Devnet, peer: Peer, tmp_path: Path
) -> None:
    """The facilitator is not there, so the server cannot verify, and says so with another 402."""
    buyer = OurBuyer(devnet, tmp_path, EXACT)
    async with seller_of("express-v1", devnet, peer, tmp_path, "http://127.0.0.1:9") as seller:
        with pytest.raises(paywall.PaymentRefused):
            await buyer.get(seller.path(EXACT))
        assert buyer.spent() == earned(devnet, seller) == 0
    await buyer.close()
