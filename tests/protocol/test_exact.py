"""The scheme `exact` without a chain: what an offer says, and what a payload is worth."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers.channels import ASSET, NOW, PAYER, STRANGER
from helpers.exact import EXACT, PRICE, Signer, wire
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from paywall.protocol import eip712
from paywall.protocol.eip712 import _N
from paywall.protocol.errors import ConfigurationError, Reason, Refused
from paywall.protocol.limits import (
    MAX_AUTHORIZATION_SECONDS,
    MIN_AUTHORIZATION_LEFT_SECONDS,
    UINT256_MAX,
)
from paywall.protocol.money import USDC, ZERO_ADDRESS, Address
from paywall.protocol.schemes import SCHEMES, batch, exact
from paywall.protocol.schemes.exact import ExactPayment, ExactTerms
from paywall.protocol.x402 import decode_requirements, encode_json, show_address

OFFER = EXACT.offer(PRICE)
ALICE = Signer(clock=lambda: NOW)
VECTORS = sorted((Path(__file__).parent.parent / "vectors").glob("exact__*.json"))


def check(payload: Any) -> ExactPayment:
    return OFFER.check(Raw(json.dumps(payload).encode()), NOW)


def refusal(payload: Any) -> Reason:
    with pytest.raises(Refused) as refused:
        check(payload)
    return refused.value.reason


def signed(asset: Any = ASSET, **changes: Any) -> Any:
    return wire(ALICE.sign(asset, **changes))


def test_channels_are_offered_before_transfers() -> None:
    assert SCHEMES == (batch.SCHEME, exact.SCHEME) == ("batch-settlement", "exact")


def test_an_offer_says_what_the_official_servers_say() -> None:
    assert json.loads(encode_json(OFFER.requirements)) == {
        "scheme": "exact",
        "network": "eip155:84532",
        "asset": "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
        "amount": "20000",
        "payTo": show_address(EXACT.pay_to),
        "maxTimeoutSeconds": 300,
        "extra": {"name": "USDC", "version": "2"},
    }


def test_a_good_payment_is_what_was_signed() -> None:
    payment = ALICE.sign()
    assert check(wire(payment)) == payment
    assert (payment.payer, payment.value) == (eip712.address_of(PAYER), PRICE)


def test_nobody_can_be_paid_at_the_zero_address() -> None:
    with pytest.raises(ConfigurationError):
        ExactTerms(ASSET, ZERO_ADDRESS)


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_the_official_clients_payments_are_understood(path: Path) -> None:
    paid = [
        decoded
        for exchange in json.loads(path.read_text())
        for name, decoded in exchange["request"]["decoded"].items()
        if name.lower() == "payment-signature" and isinstance(decoded, dict)
    ]
    assert paid
    for message in paid:
        accepted = decode_requirements(json.dumps(message["accepted"]).encode())
        told = message["payload"]["authorization"]
        terms = ExactTerms(ASSET, Address(bytes.fromhex(accepted.pay_to[2:])))
        offer = terms.offer(int(accepted.amount))
        assert offer.matches(accepted)
        payment = offer.check(
            Raw(json.dumps(message["payload"]).encode()), int(told["validBefore"]) - 300
        )
        assert wire(payment) == message["payload"]


# -- Other terms ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"to": eip712.address_of(STRANGER)}, Reason.EXACT_RECEIVER),
        ({"value": PRICE - 1}, Reason.EXACT_VALUE),
        ({"value": PRICE + 1}, Reason.EXACT_VALUE),
        ({"value": 0}, Reason.EXACT_VALUE),
        ({"value": UINT256_MAX}, Reason.EXACT_VALUE),
        ({"asset": USDC.base}, Reason.EXACT_SIGNATURE),
        ({"asset": replace(ASSET, name="USD Coin")}, Reason.EXACT_SIGNATURE),
        ({"asset": replace(ASSET, version="1")}, Reason.EXACT_SIGNATURE),
        ({"asset": replace(ASSET, address=EXACT.pay_to)}, Reason.EXACT_SIGNATURE),
    ],
)
def test_case_19_a_signature_under_other_terms_is_refused(
    changes: dict[str, Any], reason: Reason
) -> None:
    assert refusal(signed(**changes)) is reason


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scheme", "batch-settlement"),
        ("network", "eip155:8453"),
        ("amount", "19999"),
        ("asset", "0x" + "11" * 20),
        ("asset", "USDC"),
        ("pay_to", "0x" + "11" * 20),
        ("extra", Raw(b'{"name":"USD Coin","version":"2"}')),
        ("extra", Raw(b'{"name":"USDC","version":"1"}')),
        ("extra", Raw(b'{"name":"USDC","version":"2","assetTransferMethod":"permit2"}')),
        ("extra", Raw(b"[]")),
    ],
)
def test_case_19_other_terms_are_not_what_was_offered(field: str, value: Any) -> None:
    accepted = msgspec.structs.replace(OFFER.requirements, **{field: value})
    assert not OFFER.matches(accepted)


def test_an_offer_is_recognised_in_any_spelling() -> None:
    told = json.loads(encode_json(OFFER.requirements))
    told["payTo"] = told["payTo"].lower()
    told["asset"] = "0x" + told["asset"][2:].upper()
    told["extra"] |= {"assetTransferMethod": "eip3009", "theirs": [1]}
    assert OFFER.matches(decode_requirements(json.dumps(told).encode()))


# -- Times ---------------------------------------------------------------------------------------

LEFT = MIN_AUTHORIZATION_LEFT_SECONDS


@pytest.mark.parametrize(
    ("valid_after", "valid_before", "reason"),
    [
        (0, NOW + 300, None),
        (NOW, NOW + 300, None),
        (NOW + 1, NOW + 300, Reason.EXACT_NOT_YET_VALID),
        (NOW + 10**9, NOW + 300, Reason.EXACT_NOT_YET_VALID),
        (UINT256_MAX, NOW + 300, Reason.EXACT_NOT_YET_VALID),
        (0, 0, Reason.EXACT_EXPIRED),
        (0, NOW, Reason.EXACT_EXPIRED),
        (0, NOW + LEFT - 1, Reason.EXACT_EXPIRED),
        (0, NOW + LEFT, None),
        (0, NOW + MAX_AUTHORIZATION_SECONDS, None),
        (0, NOW + MAX_AUTHORIZATION_SECONDS + 1, Reason.EXACT_TOO_LONG),
        (0, NOW + 10 * 365 * 86_400, Reason.EXACT_TOO_LONG),
        (0, UINT256_MAX, Reason.EXACT_TOO_LONG),
        (NOW - 10, NOW - 20, Reason.EXACT_EXPIRED),
    ],
)
def test_case_20_when_an_authorization_is_good(
    valid_after: int, valid_before: int, reason: Reason | None
) -> None:
    payload = signed(valid_after=valid_after, valid_before=valid_before)
    if reason is None:
        check(payload)
    else:
        assert refusal(payload) is reason


# -- Signatures ----------------------------------------------------------------------------------


def respelled(payment: ExactPayment) -> dict[str, str]:
    """Signatures that are none, or that the token would not take."""
    r, s, v = payment.signature[:32], payment.signature[32:64], payment.signature[64]
    order, zero = _N.to_bytes(32, "big"), bytes(32)
    high = (_N - int.from_bytes(s, "big")).to_bytes(32, "big")
    compact = bytes([s[0] | (0x80 if v == 28 else 0)]) + s[1:]
    spelled = {
        "empty": b"",
        "64 bytes": r + s,
        "66 bytes": payment.signature + b"\0",
        "compact": r + compact,
        "high s": r + high + bytes([55 - v]),
        "high s, same v": r + high + bytes([v]),
        "v of 0 or 1": r + s + bytes([v - 27]),
        "v of 29": r + s + bytes([29]),
        "v with a chain": r + s + bytes([v + 8]),
        "r of 0": zero + s + bytes([v]),
        "r of n": order + s + bytes([v]),
        "s of 0": r + zero + bytes([v]),
        "s of n": r + order + bytes([v]),
        "all zeros": bytes(65),
    }
    return {name: "0x" + data.hex() for name, data in spelled.items()} | {
        "no prefix": payment.signature.hex(),
        "not hex": "0x" + "g" * 130,
        "words": "signed",
    }


SPELLINGS = sorted(respelled(ALICE.sign()))


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_case_18_case_21_only_the_canonical_signature_counts(spelling: str) -> None:
    payment = ALICE.sign()
    payload = wire(payment) | {"signature": respelled(payment)[spelling]}
    assert refusal(payload) is Reason.EXACT_SIGNATURE


def test_case_21_somebody_elses_signature_is_refused() -> None:
    payload = wire(Signer(clock=lambda: NOW, key=STRANGER).sign(payer=ALICE.address))
    assert refusal(payload) is Reason.EXACT_SIGNATURE


def test_case_21_nobody_pays_from_the_zero_address() -> None:
    assert refusal(signed(payer=ZERO_ADDRESS)) is Reason.EXACT_SIGNATURE


def test_case_18_hex_in_another_case_is_the_same_payment() -> None:
    payment = ALICE.sign()
    payload = wire(payment)
    told = payload["authorization"]
    told["from"] = told["from"].lower()
    told["nonce"] = "0X" + told["nonce"][2:].upper()
    payload["signature"] = "0x" + payload["signature"][2:].upper()
    assert check(payload) == payment


def test_a_payment_is_known_by_payer_token_network_and_nonce_alone() -> None:
    payment, key = ALICE.sign(), ALICE.sign().key
    told = payment.authorization
    again = exact.sign(PAYER, ASSET, replace(told, value=1, valid_before=told.valid_before + 1))
    assert again.key("eip155:84532") == payment.key("eip155:84532")
    others = {
        payment.key("eip155:8453"),
        replace(payment, token=EXACT.pay_to).key("eip155:84532"),
        replace(payment, authorization=replace(told, payer=EXACT.pay_to)).key("eip155:84532"),
        key("eip155:84532"),
    }
    assert len(others) == 4
    assert payment.key("eip155:84532") not in others


# -- Shapes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("value", "-1"),
        ("value", "1e3"),
        ("value", "0x10"),
        ("value", "020000"),
        ("value", "9" * 100),
        ("value", 20_000),
        ("validAfter", "soon"),
        ("validBefore", "1.5"),
        ("validBefore", str(2**256)),
        ("nonce", "0x" + "00" * 31),
        ("nonce", "0x" + "00" * 33),
        ("nonce", 7),
        ("from", "0x"),
        ("from", "alice"),
        ("to", None),
    ],
)
def test_case_29_a_malformed_authorization_is_refused(field: str, value: object) -> None:
    payload = signed()
    payload["authorization"][field] = value
    assert refusal(payload) is Reason.EXACT_PAYLOAD


@pytest.mark.parametrize("payload", [{}, [], None, {"signature": "0x"}, {"authorization": {}}])
def test_what_is_no_payload_is_refused(payload: object) -> None:
    assert refusal(payload) is Reason.EXACT_PAYLOAD


@given(st.binary(max_size=200))
def test_case_8_any_bytes_are_refused_and_nothing_else_happens(data: bytes) -> None:
    with pytest.raises(Refused):
        OFFER.check(Raw(data), NOW)
