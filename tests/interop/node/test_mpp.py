"""The Machine Payments Protocol where it meets x402: mppx pays `exact`, and pympp is paid by it."""

from pathlib import Path

import pytest
from helpers.matrix import Matrix
from helpers.mpp_shop import mpp_shop
from helpers.node_peer import Peer
from helpers.parties import (
    EXACT,
    FACILITATORS,
    OWN_NODE,
    NodeBuyer,
    buyer_of,
    earned,
    facilitator_of,
    seller_of,
)
from helpers.servers import ONCE_PRICE

from paywall.chain.devnet import Devnet

TIMES = 3


@pytest.mark.parametrize(
    ("server", "facilitator"), [("ours", OWN_NODE), ("ours", "typescript"), ("express", "ours")]
)
async def test_mppx_pays_transfers(
    server: str, facilitator: str, devnet: Devnet, peer: Peer, tmp_path: Path, matrix: Matrix
) -> None:
    buyer = NodeBuyer(devnet, peer, "mppx", EXACT)
    with (
        facilitator_of(facilitator, devnet, peer) as url,
        matrix.cell("mppx", server, facilitator, EXACT) as cell,
    ):
        async with seller_of(server, devnet, peer, tmp_path, url) as seller:
            answers = await buyer.get(seller.path(EXACT), TIMES)
            assert [answer.status for answer in answers] == [200] * TIMES, answers
            receipts = [answer.receipt for answer in answers if answer.receipt]
            assert len({receipt.transaction for receipt in receipts}) == TIMES
            assert buyer.spent() == earned(devnet, seller) == TIMES * ONCE_PRICE
        cell.saw = f"{TIMES} transfers, {buyer.spent()}"


@pytest.mark.parametrize("facilitator", FACILITATORS)
@pytest.mark.parametrize("client", ["ours", "python", "fetch"])
async def test_pympp_is_paid_by_transfers(
    client: str, facilitator: str, devnet: Devnet, peer: Peer, tmp_path: Path, matrix: Matrix
) -> None:
    buyer = buyer_of(client, devnet, peer, tmp_path, EXACT)
    with (
        facilitator_of(facilitator, devnet, peer) as facilitator_url,
        mpp_shop(facilitator_url or "") as (url, receiver),
        matrix.cell(client, "pympp", facilitator, EXACT) as cell,
    ):
        answers = await buyer.get(url + "/once", TIMES)
        assert [answer.status for answer in answers] == [200] * TIMES, answers
        assert buyer.spent() == devnet.usdc_balance(receiver) == TIMES * ONCE_PRICE
        cell.saw = f"{TIMES} transfers, {buyer.spent()}"
    await buyer.close()
