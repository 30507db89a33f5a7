"""Prices by payer: what a payment says of who sent it, and that a lie buys nothing."""

import base64
import json
from typing import Any

import pytest
from helpers.channels import PAYER
from helpers.provider import Agent, answering, ask, decoded, paying, provider, record_of
from starlette.requests import Request

from paywall import payer_of
from paywall.protocol.x402 import show_address

PAYER_ADDRESS = show_address(Agent().config.payer)


def request(header: str | None) -> Request:
    headers = [] if header is None else [(b"payment-signature", header.encode())]
    return Request({"type": "http", "headers": headers})


def changed(header: str, **payload: Any) -> str:
    told = decoded(header)
    told["payload"] |= payload
    return base64.b64encode(json.dumps(told).encode()).decode()


def test_the_payer_is_who_the_payment_names() -> None:
    voucher = Agent().pay(1000)
    assert payer_of(request(voucher)) == PAYER_ADDRESS
    transfer = changed(voucher, authorization={"from": PAYER_ADDRESS.lower()}, channelConfig={})
    assert payer_of(request(transfer)) == PAYER_ADDRESS


@pytest.mark.parametrize("payload", [{}, {"payer": "0x1"}, {"payer": "nobody"}])
def test_without_a_payment_or_with_a_broken_one_there_is_no_payer(payload: Any) -> None:
    assert payer_of(request(None)) is None
    assert payer_of(request("not base64")) is None
    assert payer_of(request(changed(Agent().pay(1000), channelConfig=payload))) is None


async def test_a_friend_pays_less_and_who_claims_to_be_one_pays_nothing_and_gets_nothing() -> None:
    async def price(request: Request) -> str:
        friend = payer_of(request) == PAYER_ADDRESS and request.path_params["city"] == "paris"
        return "$0.0005" if friend else "$0.001"

    wall = provider(answering(), {"/priced/{city}": price})
    assert (await ask(wall, "/priced/paris")).quote["accepts"][0]["amount"] == "1000"
    cheap = Agent().pay(500, 500)
    assert (await ask(wall, "/priced/rome", headers=paying(cheap))).status == 402
    assert (await ask(wall, "/priced/paris", headers=paying(cheap))).status == 200
    assert (await record_of(wall)).charged == 500

    stranger = Agent()
    stranger.key = PAYER
    lie = await ask(wall, "/priced/paris", headers=paying(stranger.pay(1000, 500)))
    assert lie.status == 402
    assert (await record_of(wall)).charged == 500
