"""Twenty requests at once on one channel, by the stock clients and ours, at every server.

The official clients pay one request at a time: they sign the same total for all twenty. A server
answers what it can make of that; ours must answer at least as many as theirs, and nobody is charged
for more than was answered.
"""

from pathlib import Path

import pytest
from helpers.matrix import Crowd, Matrix
from helpers.node_peer import Peer
from helpers.parties import SELLERS, buyer_of, facilitator_of, seller_of
from helpers.servers import PRICE

from paywall.chain.devnet import Devnet

AT_ONCE = 20
STOCK = ("python", "fetch", "axios")


async def crowd_at(
    server: str, client: str, devnet: Devnet, peer: Peer, folder: Path, by: str | None
) -> Crowd:
    """Opens a channel by one request, then asks twenty times at once."""
    buyer = buyer_of(client, devnet, peer, folder, "batch-settlement")
    async with seller_of(server, devnet, peer, folder, by) as seller:
        url = seller.url + "/slow"
        assert [answer.status for answer in await buyer.get(url)] == [200]
        answers = await buyer.get(url, AT_ONCE, together=True)
        answered = sum(answer.status == 200 for answer in answers)
        charged = await seller.charged()
        assert charged == (1 + answered) * PRICE
        assert {answer.status for answer in answers} <= {200, 402}
        assert [answer.status for answer in await buyer.get(url)] == [200], "nothing stays busy"
        assert [answer for answer in answers if answer.receipt and answer.receipt.transaction] == []
    await buyer.close()
    return Crowd(client, server, AT_ONCE, answered, charged, PRICE)


@pytest.mark.parametrize("client", [*STOCK, "ours"])
async def test_as_many_are_answered_as_by_their_own_servers(
    client: str,
    devnet: Devnet,
    peer: Peer,
    tmp_path_factory: pytest.TempPathFactory,
    matrix: Matrix,
) -> None:
    with facilitator_of("python", devnet, peer) as by:
        crowds = {}
        for server in SELLERS:
            folder, url = tmp_path_factory.mktemp(server), None if server == "ours" else by
            crowds[server] = await crowd_at(server, client, devnet, peer, folder, url)
    matrix.crowds += crowds.values()
    best_of_theirs = max(crowds[server].answered for server in SELLERS if server != "ours")
    assert crowds["ours"].answered >= best_of_theirs
    if client == "ours":
        assert {crowd.answered for crowd in crowds.values()} == {AT_ONCE}
