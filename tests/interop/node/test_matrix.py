"""Every client at every server through every facilitator, for both schemes, on one chain.

Ours, the official Python and the official TypeScript ones stand in for each other. Every sum is
compared to the unit: what the payer's wallet lost, what the receiver's wallet got, what the
server's book says.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers.matrix import Matrix
from helpers.node_peer import Peer
from helpers.parties import (
    BATCH,
    BUYERS,
    EXACT,
    FACILITATORS,
    OWN_NODE,
    SELLERS,
    Buyer,
    Seller,
    buyer_of,
    earned,
    facilitator_of,
    seller_of,
)

from paywall.chain.devnet import Devnet

TIMES = 3
PLACES = [("ours", OWN_NODE), *((seller, by) for seller in SELLERS for by in FACILITATORS)]


def price_of(seller: str, scheme: str) -> int:
    return 10_000 if scheme == EXACT and seller != "fastapi" else 1_000


@dataclass(frozen=True)
class Place:
    """A kind of server with a kind of facilitator that runs, on a chain of their own.

    The chain's clock goes ahead by a second a block, and transfers are signed for minutes.
    """

    server: str
    facilitator: str
    facilitator_url: str | None
    devnet: Devnet


@pytest.fixture(scope="module", params=PLACES, ids=" by ".join)
def place(request: pytest.FixtureRequest, peer: Peer) -> Iterator[Place]:
    server, facilitator = request.param
    with Devnet(port=0) as devnet, facilitator_of(facilitator, devnet, peer) as url:
        yield Place(server, facilitator, url, devnet)


@pytest.mark.parametrize("client", BUYERS)
@pytest.mark.parametrize("scheme", [BATCH, EXACT])
async def test_pays_to_the_unit(
    place: Place, client: str, scheme: str, peer: Peer, tmp_path: Path, matrix: Matrix
) -> None:
    buyer = buyer_of(client, place.devnet, peer, tmp_path, scheme)
    price = price_of(place.server, scheme)
    buy = by_vouchers if scheme == BATCH else by_transfers
    with matrix.cell(client, place.server, place.facilitator, scheme) as cell:
        async with seller_of(
            place.server, place.devnet, peer, tmp_path, place.facilitator_url
        ) as seller:
            cell.saw = await buy(place.devnet, buyer, seller, price)
    await buyer.close()


async def by_transfers(devnet: Devnet, buyer: Buyer, seller: Seller, price: int) -> str:
    """Each request is one transfer, and its receipt names the transaction."""
    answers = await buyer.get(seller.path(EXACT), TIMES)
    assert [answer.status for answer in answers] == [200] * TIMES, answers
    receipts = [answer.receipt for answer in answers if answer.receipt]
    assert len({receipt.transaction for receipt in receipts if receipt.success}) == TIMES
    assert buyer.spent() == earned(devnet, seller) == TIMES * price
    return f"{TIMES} transfers, {earned(devnet, seller)}"


async def by_vouchers(devnet: Devnet, buyer: Buyer, seller: Seller, price: int) -> str:
    """One deposit, vouchers, claim and settle, one more, and what is left comes back."""
    url = seller.path(BATCH)
    answers = await buyer.get(url, TIMES)
    assert [answer.status for answer in answers] == [200] * TIMES, answers
    receipts = [answer.receipt for answer in answers if answer.receipt]
    deposits = [receipt for receipt in receipts if receipt.transaction]
    assert [receipt.success for receipt in receipts] == [True] * TIMES
    assert await seller.charged() == TIMES * price
    deposited = buyer.spent()
    assert deposited == sum(int(str(deposit.amount)) for deposit in deposits)

    assert await seller.collect()
    assert earned(devnet, seller) == TIMES * price
    assert [answer.status for answer in await buyer.get(url)] == [200]
    back = await buyer.refund(url)
    assert back.success
    total = (TIMES + 1) * price
    assert buyer.spent() == total
    return f"{TIMES + 1} vouchers, {total}"
