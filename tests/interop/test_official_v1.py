"""x402 v1 by the official Python SDK, which still speaks it: its payments at our provider."""

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from helpers.official import OfficialPayer, rich_payer
from helpers.servers import ONCE_PRICE, Provider, provider
from x402 import x402Client
from x402.http import x402HTTPClient
from x402.mechanisms.evm import EthAccountSigner
from x402.mechanisms.evm.exact.v1 import ExactEvmSchemeV1Client

from paywall.chain.devnet import Devnet


@pytest.fixture
async def ours(devnet: Devnet, tmp_path: Path) -> AsyncIterator[Provider]:
    async with provider(devnet, tmp_path) as running:
        yield running


def old_client(payer: OfficialPayer) -> x402HTTPClient:
    scheme = ExactEvmSchemeV1Client(EthAccountSigner(payer.account))
    return x402HTTPClient(x402Client().register_v1("base-sepolia", scheme))


async def header_for(client: x402HTTPClient, quote: httpx.Response) -> dict[str, Any]:
    """The payment that the SDK makes of a body when nobody shows it a header of v2."""
    required = client.get_payment_required_response(lambda _: None, quote.json())
    payment = await client.create_payment_payload(required)
    return client.encode_payment_signature_header(payment)


async def test_payments_of_v1_are_transfers_with_receipts_of_v1(
    devnet: Devnet, ours: Provider
) -> None:
    payer = rich_payer(devnet)
    official = old_client(payer)
    async with httpx.AsyncClient(base_url=ours.url, timeout=30) as client:
        transactions = set()
        for _ in range(2):
            header = await header_for(official, await client.get("/once"))
            assert list(header) == ["X-PAYMENT"]
            answer = await client.get("/once", headers=header)
            assert answer.status_code == 200
            told = json.loads(base64.b64decode(answer.headers["X-PAYMENT-RESPONSE"]))
            assert (told["success"], told["network"]) == (True, "base-sepolia")
            assert told["payer"] == payer.account.address
            transactions.add(told["transaction"])
        again = await client.get("/once", headers=header)
    assert again.headers["X-PAYMENT-RESPONSE"] == answer.headers["X-PAYMENT-RESPONSE"]
    assert len(transactions) == 2
    assert payer.spent() == devnet.usdc_balance(ours.receiver) == 2 * ONCE_PRICE


async def test_what_costs_too_little_for_a_transfer_has_no_quote_of_v1(
    devnet: Devnet, ours: Provider
) -> None:
    async with httpx.AsyncClient(base_url=ours.url, timeout=30) as client:
        quote = await client.get("/item")
    assert quote.status_code == 402
    with pytest.raises(ValueError, match="Invalid payment required response"):
        old_client(rich_payer(devnet)).get_payment_required_response(lambda _: None, quote.json())
