"""The translations between x402 v1 and v2, in both directions, without a wire."""

import base64
import json
from typing import Any

import pytest
from helpers.channels import ASSET, TERMS
from msgspec import Raw

from paywall.protocol import x402_v1
from paywall.protocol.errors import Refused
from paywall.protocol.schemes.exact import ExactTerms
from paywall.protocol.x402 import (
    Malformed,
    Resource,
    decode_payment,
    decode_required,
    decode_response,
    encode_header,
    encode_json,
)

OFFER = ExactTerms(ASSET, TERMS.pay_to).offer(20_000).requirements
ACCEPTS = [Raw(encode_json(OFFER))]
PAYLOAD = {"signature": "0x00", "authorization": {}}


def header(message: Any) -> str:
    return base64.b64encode(json.dumps(message).encode()).decode()


def said(header_: str) -> Any:
    return json.loads(base64.b64decode(header_))


def test_a_quote_that_goes_out_and_comes_in_again_is_the_same_offer_with_a_mark() -> None:
    body = encode_json(x402_v1.quoted(ACCEPTS, Resource("https://api.example/x")))
    came = x402_v1.upgraded_quote(body)
    assert came is not None
    (accepted,) = decode_required(came).accepts
    assert json.loads(bytes(accepted)) == json.loads(bytes(ACCEPTS[0])) | {"x402Version": 1}
    assert x402_v1.is_old(accepted)
    assert not x402_v1.is_old(ACCEPTS[0])


def test_a_payment_that_goes_out_and_comes_in_again_accepts_what_is_offered_now() -> None:
    v2 = header({"x402Version": 2, "accepted": json.loads(bytes(ACCEPTS[0])), "payload": PAYLOAD})
    old = x402_v1.downgraded_payment(v2)
    assert said(old) == {
        "x402Version": 1,
        "scheme": "exact",
        "network": "base-sepolia",
        "payload": PAYLOAD,
    }
    again = decode_payment(x402_v1.upgraded_payment(old, ACCEPTS))
    assert bytes(again.accepted) == bytes(ACCEPTS[0])
    assert json.loads(bytes(again.payload)) == PAYLOAD


def test_a_receipt_keeps_its_words_in_both_directions() -> None:
    failed = {"success": False, "transaction": "", "network": "eip155:84532", "errorReason": "no"}
    old = x402_v1.downgraded_receipt(header(failed))
    assert said(old) == failed | {"network": "base-sepolia"}
    assert said(encode_header(decode_response(x402_v1.upgraded_receipt(old)))) == failed


@pytest.mark.parametrize("told", [{}, {"success": 1}, [], {"success": True, "network": None}])
def test_a_receipt_that_is_none_is_malformed(told: object) -> None:
    with pytest.raises(Malformed):
        x402_v1.upgraded_receipt(header(told))


def test_networks_that_v1_has_no_name_for_are_not_quoted_and_not_taken() -> None:
    unnamed = [Raw(bytes(ACCEPTS[0]).replace(b"eip155:84532", b"eip155:31337"))]
    assert x402_v1.quoted(unnamed, Resource("https://api.example/x")) == {}
    payment = {"x402Version": 1, "scheme": "exact", "network": "eip155:31337", "payload": PAYLOAD}
    with pytest.raises(Refused):
        x402_v1.upgraded_payment(header(payment), unnamed)


@pytest.mark.parametrize(
    "change",
    [
        {"x402Version": 2},
        {"x402Version": "1"},
        {"x402Version": None},
        {"x402Version": 1, "scheme": "batch-settlement"},
        {"x402Version": 1, "network": "eip155:31337"},
    ],
)
def test_a_mark_of_a_provider_of_v2_counts_only_where_v1_has_words(change: Any) -> None:
    marked = encode_json(json.loads(bytes(ACCEPTS[0])) | change)
    assert not x402_v1.is_old(marked)


def test_every_network_of_v1_has_one_name() -> None:
    names = list(x402_v1.NETWORK_NAMES.values())
    assert len(set(names)) == len(names)
