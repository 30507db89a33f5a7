"""Transfers on a real chain: our provider, the embedded chain, and payments signed by hand."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from helpers.chain import ASSET, NETWORK, Payer, new_address, node_of, rich_payer
from helpers.exact import wire
from helpers.provider import Answer, answering, ask, paying
from msgspec import Raw

from paywall import Paywall
from paywall.chain.devnet import Devnet
from paywall.chain.node import Node
from paywall.protocol import eip712
from paywall.protocol.eip712 import Authorization
from paywall.protocol.errors import Reason, Refused, TransactionPending
from paywall.protocol.money import Address
from paywall.protocol.schemes import exact
from paywall.protocol.schemes.exact import ExactPayment, ExactTerms
from paywall.protocol.x402 import VERSION, PaymentPayload, encode_header, encode_json, show_address

PRICE = 10_000
SERVED = answering(headers=[(b"content-length", b"6")])


class Shop:
    """A provider on the devnet with a receiver of its own."""

    def __init__(self, devnet: Devnet, folder: Path, **options: Any) -> None:
        self.devnet = devnet
        self.receiver = new_address()
        self.node = Node(devnet.url, devnet.accounts[2].key, network=NETWORK)
        self.wall = Paywall(
            SERVED,
            prices={"/priced": "$0.01"},
            pay_to=show_address(self.receiver),
            asset=ASSET,
            chain=self.node,
            store=f"sqlite:///{folder}/provider.db",
            **options,
        )

    def sign(self, payer: Payer, **changes: Any) -> ExactPayment:
        now = self.devnet_time()
        told = {
            "payer": payer.address,
            "to": self.receiver,
            "value": PRICE,
            "valid_after": 0,
            "valid_before": now + 300,
            "authorization_nonce": eip712.keccak(new_address()),
        }
        return exact.sign(payer.key, ASSET, Authorization(**(told | changes)))

    def devnet_time(self) -> int:
        return int(self.wall.gate._batch._clock())

    async def ask(self, payment: ExactPayment) -> Answer:
        offer = ExactTerms(ASSET, self.receiver).offer(PRICE)
        message = PaymentPayload(
            x402_version=VERSION,
            accepted=Raw(encode_json(offer.requirements)),
            payload=exact.payload(payment),
        )
        return await ask(self.wall, headers=paying(encode_header(message)))

    def earned(self) -> int:
        return self.devnet.usdc_balance(show_address(self.receiver))


@pytest.fixture
async def house(devnet: Devnet, tmp_path: Path) -> AsyncIterator[Shop]:
    shop = Shop(devnet, tmp_path)
    await shop.wall.open()
    yield shop
    await shop.wall.close()


def spent(devnet: Devnet, payer: Payer, funds: int) -> int:
    return funds - devnet.usdc_balance(show_address(payer.address))


async def test_one_transfer_one_answer_one_price(house: Shop, devnet: Devnet) -> None:
    payer = rich_payer(devnet)
    before = devnet.usdc_balance(show_address(payer.address))
    payment = house.sign(payer)
    first, second = await house.ask(payment), await house.ask(payment)
    assert [first.status, second.status] == [200, 200]
    assert first.receipt == second.receipt
    assert first.receipt["success"]
    assert (house.earned(), spent(devnet, payer, before)) == (PRICE, PRICE)


async def test_case_17_many_at_once_are_one_transfer(house: Shop, devnet: Devnet) -> None:
    payment = house.sign(rich_payer(devnet))
    answers = await asyncio.gather(*(house.ask(payment) for _ in range(50)))
    assert {answer.status for answer in answers} <= {200, 503}
    assert (await house.ask(payment)).status == 200
    assert house.earned() == PRICE


async def test_many_payers_at_once_are_each_served(house: Shop, devnet: Devnet) -> None:
    payments = [house.sign(rich_payer(devnet)) for _ in range(8)]
    answers = await asyncio.gather(*(house.ask(payment) for payment in payments))
    assert [answer.status for answer in answers] == [200] * 8
    assert len({answer.receipt["transaction"] for answer in answers}) == 8
    assert house.earned() == 8 * PRICE


async def test_a_payer_without_money_is_refused_before_the_handler_runs(house: Shop) -> None:
    answer = await house.ask(house.sign(Payer()))
    assert answer.json["error"] == "invalid_exact_evm_insufficient_balance"
    assert house.earned() == 0


async def test_settled_first_works_the_same(devnet: Devnet, tmp_path: Path) -> None:
    house = Shop(devnet, tmp_path, settle_first=True)
    await house.wall.open()
    payment = house.sign(rich_payer(devnet))
    assert [(await house.ask(payment)).status for _ in range(2)] == [200, 200]
    assert house.earned() == PRICE
    await house.wall.close()


async def test_an_authorization_that_was_used_before_buys_nothing(
    house: Shop, devnet: Devnet
) -> None:
    payment = house.sign(rich_payer(devnet))
    async with node_of(devnet) as node:
        assert await node.transfer_with_authorization(
            payment.authorization, payment.signature, ASSET.address
        )
    answer = await house.ask(payment)
    assert answer.json["error"] == "invalid_exact_evm_nonce_already_used"


# -- What became of a transfer -------------------------------------------------------------------


async def test_a_transfer_is_found_by_its_authorization(house: Shop, devnet: Devnet) -> None:
    payment = house.sign(rich_payer(devnet))
    told, token = payment.authorization, ASSET.address
    async with node_of(devnet) as node, node_of(devnet, confirmations=3) as careful:
        assert await node.transferred(told, token) is None
        mined = await node.transfer_with_authorization(told, payment.signature, token)
        assert mined is not None
        found = await node.transferred(told, token)
        assert found == mined
        assert await careful.transferred(told, token) is None
        assert await node.transfer_with_authorization(told, payment.signature, token) is None


async def test_a_transfer_that_can_never_be_made_is_told(house: Shop, devnet: Devnet) -> None:
    payer = rich_payer(devnet)
    expired = house.sign(payer, valid_before=1).authorization
    async with node_of(devnet) as node:
        with pytest.raises(Refused) as refused:
            await node.transferred(expired, ASSET.address)
    assert refused.value.reason is Reason.EXACT_EXPIRED


async def test_another_transfer_under_the_same_nonce_is_no_proof(
    house: Shop, devnet: Devnet
) -> None:
    payment = house.sign(rich_payer(devnet))
    told = payment.authorization
    async with node_of(devnet) as node:
        await node.transfer_with_authorization(told, payment.signature, ASSET.address)
        other = Authorization(told.payer, told.to, told.value + 1, 0, 1, told.authorization_nonce)
        with pytest.raises(Refused) as refused:
            await node.transferred(other, ASSET.address)
    assert refused.value.reason is Reason.EXACT_USED


async def test_case_24_a_receipt_that_never_came_is_found_on_chain(
    house: Shop, devnet: Devnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transaction is mined, and our node tells nobody in time."""
    send, calls = house.node.transfer_with_authorization, []

    async def silent(told: Authorization, signature: bytes, token: Address) -> None:
        calls.append(told)
        await send(told, signature, token)
        raise TransactionPending("sent, and not mined in time", b"\xee" * 32)

    monkeypatch.setattr(house.node, "transfer_with_authorization", silent)
    payment = house.sign(rich_payer(devnet))
    first = await house.ask(payment)
    assert (first.status, first.json["error"]) == (503, "settlement_pending")
    second = await house.ask(payment)
    assert (second.status, second.body, second.receipt["success"]) == (200, b"served", True)
    assert (len(calls), house.earned()) == (1, PRICE)


def test_what_is_signed_here_is_what_is_sent(devnet: Devnet, tmp_path: Path) -> None:
    payment = Shop(devnet, tmp_path).sign(Payer())
    assert wire(payment)["authorization"]["value"] == str(PRICE)
