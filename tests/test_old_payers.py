"""The provider's side of x402 v1: who pays in v1 buys what v2 buys, once, and reads its receipt."""

import base64
import json
from typing import Any

import pytest
from helpers.exact import PRICE, Signer, TransferLedger, header_of, shop, wire
from helpers.provider import Answer, answering, ask

from paywall.asgi import Paywall

NETWORK = "base-sepolia"


def spelled(message: Any) -> bytes:
    return base64.b64encode(json.dumps(message).encode())


def old_payment(payload: object, **changes: object) -> bytes:
    told = {"x402Version": 1, "scheme": "exact", "network": NETWORK, "payload": payload}
    return spelled(told | changes)


async def ask_old(wall: Paywall, header: bytes) -> Answer:
    return await ask(wall, headers=[(b"x-payment", header)])


def receipt_in(answer: Answer, name: str = "x-payment-response") -> dict[str, Any]:
    value: dict[str, Any] = json.loads(base64.b64decode(answer.header(name) or ""))
    return value


@pytest.fixture
def ledger() -> TransferLedger:
    chain = TransferLedger()
    chain.give(Signer().address)
    return chain


async def test_the_body_of_a_402_is_a_quote_of_v1_beside_our_own_words(
    ledger: TransferLedger,
) -> None:
    answer = await ask(shop(answering(), ledger))
    (offer,) = answer.json["accepts"]
    assert (answer.status, answer.json["x402Version"]) == (402, 1)
    assert answer.json["how_to_pay"]
    assert (offer["scheme"], offer["network"]) == ("exact", NETWORK)
    assert (offer["maxAmountRequired"], offer["maxTimeoutSeconds"]) == (str(PRICE), 300)
    assert offer["resource"].endswith("/priced")
    assert offer["extra"] == {"name": "USDC", "version": "2"}
    assert {"description", "mimeType", "asset", "payTo"} <= offer.keys()


async def test_where_no_transfer_is_offered_or_v1_is_off_there_is_no_quote_of_v1(
    ledger: TransferLedger,
) -> None:
    channels_only = shop(answering(), ledger, schemes=["batch-settlement"])
    for wall in (channels_only, shop(answering(), ledger, v1=False)):
        answer = await ask(wall)
        assert answer.status == 402
        assert not {"x402Version", "accepts"} & answer.json.keys()


async def test_a_payment_of_v1_is_served_once_and_its_receipt_is_in_both_versions(
    ledger: TransferLedger,
) -> None:
    wall, payment = shop(answering(), ledger), Signer().sign()
    answer = await ask_old(wall, old_payment(wire(payment)))
    assert answer.status == 200
    old, new = receipt_in(answer), receipt_in(answer, "payment-response")
    assert (old["success"], old["network"], new["network"]) == (True, NETWORK, "eip155:84532")
    assert old["transaction"] == new["transaction"]
    assert old["payer"] == new["payer"]
    assert [told.value for told in ledger.sent] == [PRICE]


async def test_case_18_the_same_authorization_in_both_versions_buys_once(
    ledger: TransferLedger,
) -> None:
    kept = answering(headers=[(b"content-length", b"6")])
    wall, payment = shop(kept, ledger), Signer().sign()
    first = await ask_old(wall, old_payment(wire(payment)))
    again = await ask(wall, headers=[(b"payment-signature", header_of(payment).encode())])
    once_more = await ask_old(wall, old_payment(wire(payment)))
    transactions = {receipt_in(a, "payment-response")["transaction"] for a in (again, once_more)}
    assert transactions == {receipt_in(first)["transaction"]}
    assert len(ledger.sent) == 1


async def test_a_refusal_has_a_receipt_of_v1_and_the_quote_again(ledger: TransferLedger) -> None:
    poor = shop(answering(), TransferLedger())
    answer = await ask_old(poor, old_payment(wire(Signer().sign())))
    assert answer.status == 402
    assert answer.json["x402Version"] == 1
    assert answer.json["accepts"][0]["maxAmountRequired"] == str(PRICE)
    told = receipt_in(answer)
    assert (told["success"], told["transaction"]) == (False, "")
    assert told["errorReason"] == answer.json["error"]


async def test_case_19_a_payment_of_v1_for_another_value_network_or_scheme_is_refused(
    ledger: TransferLedger,
) -> None:
    wall = shop(answering(), ledger)
    cheap = old_payment(wire(Signer().sign(value=PRICE - 1)))
    elsewhere = old_payment(wire(Signer().sign()), network="base")
    otherwise = old_payment(wire(Signer().sign()), scheme="batch-settlement")
    for header in (cheap, elsewhere, otherwise):
        assert (await ask_old(wall, header)).status == 402
    assert ledger.sent == []


@pytest.mark.parametrize(
    "header",
    [b"", b"eyJ9", b"!", spelled(None), spelled([]), spelled({"x402Version": 1})],
)
async def test_case_07_what_cannot_be_read_is_400(ledger: TransferLedger, header: bytes) -> None:
    answer = await ask_old(shop(answering(), ledger), header)
    assert (answer.status, answer.json["error"]) == (400, "invalid_payload")


async def test_case_05_another_version_in_the_header_of_v1_is_400(ledger: TransferLedger) -> None:
    header = old_payment(wire(Signer().sign()), x402Version=2)
    answer = await ask_old(shop(answering(), ledger), header)
    assert (answer.status, answer.json["error"]) == (400, "invalid_x402_version")


async def test_case_05_payments_in_both_versions_are_400_even_when_they_agree(
    ledger: TransferLedger,
) -> None:
    payment = Signer().sign()
    both = [
        (b"payment-signature", header_of(payment).encode()),
        (b"x-payment", old_payment(wire(payment))),
    ]
    answer = await ask(shop(answering(), ledger), headers=both)
    assert answer.status == 400
    assert ledger.sent == []


async def test_case_06_a_huge_payment_of_v1_is_431(ledger: TransferLedger) -> None:
    answer = await ask_old(shop(answering(), ledger), b"A" * (16 * 1024 + 1))
    assert answer.status == 431


async def test_case_13_an_app_cannot_forge_a_receipt_of_v1(ledger: TransferLedger) -> None:
    forged = [(b"x-payment-response", spelled({"success": True}))]
    wall = shop(answering(500, headers=forged), ledger)
    answer = await ask_old(wall, old_payment(wire(Signer().sign())))
    assert answer.status == 500
    assert answer.all("x-payment-response") == []
    assert ledger.sent == []
