"""The agent's side of x402 v1: what a provider says in v1 is understood, and paid for in v1."""

import base64
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from helpers.agent import ASSET, ORIGIN, PAYER, Json, encode, make_wallet, required

from paywall.client import AsyncClient, Client, receipt
from paywall.old_providers import MAX_QUOTE_BODY_BYTES
from paywall.protocol.errors import NoAcceptableOffer, OverBudget, PaymentRefused
from paywall.protocol.x402 import show_address

PRICE = 10_000
URL = ORIGIN + "/once"


def old_offer(**changes: object) -> Json:
    return {
        "scheme": "exact",
        "network": "base-sepolia",
        "maxAmountRequired": str(PRICE),
        "asset": "0x" + ASSET.address.hex(),
        "payTo": "0x" + "33" * 20,
        "resource": URL,
        "description": "",
        "mimeType": "",
        "outputSchema": None,
        "maxTimeoutSeconds": 60,
        "extra": {"name": ASSET.name, "version": ASSET.version},
    } | changes


def old_quote(*offers: Json, **changes: object) -> httpx.Response:
    body = {"x402Version": 1, "error": "X-PAYMENT header is required", "accepts": list(offers)}
    return httpx.Response(402, json=body | changes)


class OldProvider:
    """A server that speaks v1 alone, and believes what it is sent."""

    def __init__(self, *offers: Json, refuses: bool = False) -> None:
        self.offers = offers or (old_offer(),)
        self.refuses = refuses
        self.payments: list[Json] = []
        self.headers: list[httpx.Headers] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.headers.append(request.headers)
        header = request.headers.get("x-payment")
        if header is None:
            return old_quote(*self.offers)
        self.payments.append(json.loads(base64.b64decode(header)))
        if self.refuses:
            return old_quote(*self.offers, error="insufficient_funds")
        told = {"success": True, "transaction": "0x" + "ab" * 32, "network": "base-sepolia"}
        told["payer"] = show_address(PAYER)
        return httpx.Response(200, headers={"x-payment-response": encode(told)}, json={"sold": 1})


def client_of(handler: Callable[[httpx.Request], httpx.Response], **settings: Any) -> Client:
    wallet = make_wallet(**settings)
    return Client(wallet=wallet, transport=httpx.MockTransport(handler))


def test_a_quote_in_the_body_is_paid_in_the_header_of_v1_and_next_time_on_the_first_try() -> None:
    provider = OldProvider()
    wallet = make_wallet()
    client = Client(wallet=wallet, transport=httpx.MockTransport(provider))
    answers = [client.get(URL), client.get(URL)]
    assert [answer.json() for answer in answers] == [{"sold": 1}] * 2
    assert len(provider.headers) == 3
    assert all("payment-signature" not in headers for headers in provider.headers)
    first, second = provider.payments
    assert (first["x402Version"], first["scheme"], first["network"]) == (1, "exact", "base-sepolia")
    told = first["payload"]["authorization"]
    assert (told["value"], told["to"]) == (str(PRICE), "0x" + "33" * 20)
    assert told["nonce"] != second["payload"]["authorization"]["nonce"]
    confirmed = receipt(answers[0])
    assert confirmed is not None
    assert (confirmed.success, confirmed.transaction) == (True, "0x" + "ab" * 32)
    assert wallet.spent() == 2 * PRICE


async def test_the_asynchronous_client_pays_too() -> None:
    provider = OldProvider()
    wallet = make_wallet()
    async with AsyncClient(wallet=wallet, transport=httpx.MockTransport(provider)) as client:
        assert (await client.get(URL)).status_code == 200
    assert len(provider.payments) == 1


def test_case_46_a_refusal_after_a_payment_of_v1_is_not_paid_again() -> None:
    provider = OldProvider(refuses=True)
    client = client_of(provider)
    with pytest.raises(PaymentRefused, match="insufficient_funds"):
        client.get(URL)
    assert len(provider.payments) == 1


def test_case_44_the_cheapest_readable_offer_of_v1_is_paid_and_no_other() -> None:
    broken = [{"scheme": "exact"}, 5, None, old_offer(network="nowhere"), old_offer(scheme="upto")]
    provider = OldProvider(*broken, old_offer(maxAmountRequired="9999"), old_offer())
    assert client_of(provider).get(URL).status_code == 200
    (payment,) = provider.payments
    assert payment["payload"]["authorization"]["value"] == "9999"


@pytest.mark.parametrize("amount", ["10001", "1e3", "-1", "0x10", str(10**40)])
def test_case_44_a_price_above_policy_or_no_price_is_not_paid_in_v1(amount: str) -> None:
    provider = OldProvider(old_offer(maxAmountRequired=amount))
    with pytest.raises((NoAcceptableOffer, OverBudget)):
        client_of(provider).get(URL)
    assert provider.payments == []


def test_a_402_of_somebody_else_is_handed_on_as_it_came() -> None:
    answers = [
        httpx.Response(402, json={"detail": "pay me"}),
        httpx.Response(402, json=["x402Version"]),
        httpx.Response(402, json={"x402Version": 3, "accepts": [old_offer()]}),
        httpx.Response(402, text='{"x402Version": 1, "accepts": []}'),
        httpx.Response(402, json={"x402Version": 1, "accepts": [" " * MAX_QUOTE_BODY_BYTES]}),
        httpx.Response(402, content=b"\xff", headers={"content-type": "application/json"}),
    ]
    for answer in answers:
        content = answer.content
        got = client_of(lambda _, one=answer: one).get(URL)
        assert (got.status_code, got.content) == (402, content)


def test_a_header_of_v2_is_believed_and_not_the_body() -> None:
    seen: list[httpx.Headers] = []

    def both(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers)
        header = required().headers["payment-required"]
        body = {"x402Version": 1, "accepts": [old_offer()]}
        return httpx.Response(402, headers={"payment-required": header}, json=body)

    with pytest.raises(PaymentRefused):
        client_of(both).get(URL)
    assert all("x-payment" not in headers for headers in seen)
    assert "payment-signature" in seen[-1]


def test_case_13_a_receipt_of_v1_for_a_payment_of_v2_is_nothing() -> None:
    """Whoever was paid in v2 answers in v2; the rest is an app's own header."""
    forged = encode({"success": True, "transaction": "0x" + "ab" * 32, "network": "base-sepolia"})

    def failing(request: httpx.Request) -> httpx.Response:
        if "payment-signature" not in request.headers:
            return required()
        return httpx.Response(500, headers={"x-payment-response": forged})

    answer = client_of(failing).get(URL)
    assert answer.status_code == 500
    assert receipt(answer) is None
