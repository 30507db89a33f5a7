"""Signing in: the message to the letter, and proofs that are not for us, not fresh, not signed."""

import base64
import json
from typing import Any

import pytest
from coincurve import PrivateKey
from msgspec import Raw

from paywall.protocol import eip712, sign_in
from paywall.protocol.errors import Reason, Refused
from paywall.protocol.instants import parse_instant, show_instant
from paywall.protocol.limits import MAX_CLOCK_SKEW_SECONDS, SIGN_IN_SECONDS
from paywall.protocol.sign_in_message import Info, message, signed_digest
from paywall.protocol.x402 import show_address

KEY = PrivateKey(bytes.fromhex("11" * 32))
ACCOUNT = eip712.address_of(KEY)
ORIGIN = "https://api.example:8443"
NETWORK = "eip155:84532"
NOW = parse_instant("2026-11-26T00:17:26Z")
NONCE = "abcdef0123456789"
MESSAGE = """api.example:8443 wants you to sign in with your Ethereum account:
0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A

Sign in to use a pass.

URI: https://api.example:8443/news/1
Version: 1
Chain ID: 84532
Nonce: abcdef0123456789
Issued At: 2026-11-26T00:17:26.000Z
Expiration Time: 2026-11-26T00:22:26.000Z
Resources:
- https://api.example:8443/news/1"""
OFFICIAL = (
    "4d46e0fbdcbf032dcebf13eb71a5a5b9fd32cad96056da75f1c13eeeb98da948319141cbd6468cd4c10d66a360f9"
    "c260410bf3b873db81f9dd9e5b381a280ce71b"
)
"""What the official SDK signed under that message with this key."""


def challenge() -> Raw:
    uri = f"{ORIGIN}/news/1"
    return sign_in.challenge(ORIGIN, uri, NETWORK, NONCE, NOW, "Sign in to use a pass.")


def signed(extension: Raw | None = None, nonce: str | None = None, now: int = NOW) -> str:
    asked = sign_in.read_challenge(extension or challenge())
    assert asked is not None
    header = sign_in.sign(
        lambda digest: eip712.sign(KEY, digest), ACCOUNT, asked, ORIGIN, f"{ORIGIN}/x", nonce, now
    )
    assert header is not None
    return header


def decoded(header: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(base64.b64decode(header))
    return value


def with_fields(header: str, **fields: Any) -> str:
    return base64.b64encode(json.dumps(decoded(header) | fields).encode()).decode()


def resigned(**fields: Any) -> str:
    """A proof whose fields were changed before it was signed."""
    told = decoded(signed()) | fields
    told = {name: value for name, value in told.items() if value is not None}
    info = sign_in._proof.decode(json.dumps(told))
    digest = signed_digest(info, told["address"], told["chainId"])
    return with_fields(
        base64.b64encode(json.dumps(told).encode()).decode(),
        signature="0x" + eip712.sign(KEY, digest).hex(),
    )


def reason_of(header: str, now: int = NOW, origin: str = ORIGIN) -> Reason:
    with pytest.raises(Refused) as refused:
        sign_in.check(header, origin, NETWORK, now)
    return refused.value.reason


def test_the_message_is_that_of_the_official_sdk_and_so_is_its_signature() -> None:
    asked = sign_in.read_challenge(challenge())
    assert asked is not None
    assert message(asked.info, show_address(ACCOUNT), NETWORK) == MESSAGE
    assert decoded(signed())["signature"] == "0x" + OFFICIAL
    assert sign_in.check(signed(), ORIGIN, NETWORK, NOW).address == ACCOUNT


def test_without_a_statement_there_is_an_empty_line_more() -> None:
    info = Info(domain="a", uri="https://a/", nonce=NONCE, issued_at="t")
    lines = message(info, "0x", "eip155:1").split("\n")
    assert lines[1:5] == ["0x", "", "", "URI: https://a/"]


def test_a_client_may_repeat_a_challenge_with_a_nonce_and_a_time_of_its_own() -> None:
    later = NOW + 86_400
    told = decoded(signed(nonce="feedbeef00000000", now=later))
    assert (told["nonce"], told["uri"]) == ("feedbeef00000000", f"{ORIGIN}/x")
    assert told["issuedAt"] == show_instant(later)
    header = signed(nonce="feedbeef00000000", now=later)
    assert sign_in.check(header, ORIGIN, NETWORK, later).address == ACCOUNT


def test_each_nonce_of_each_wallet_has_a_name_of_its_own() -> None:
    names = {
        sign_in.check(signed(nonce=nonce), ORIGIN, NETWORK, NOW).once
        for nonce in (None, "feedbeef00000000", "feedbeef00000001")
    }
    assert len(names) == 3


@pytest.mark.parametrize(
    ("domain", "uri"),
    [
        ("api.example", f"{ORIGIN}/x"),
        ("evil.example", "https://evil.example/x"),
        ("api.example:8443", "https://evil.example/x"),
        ("api.example:8443", "http://api.example:8443/x"),
        ("api.example:8443", "https://api.example:8443.evil/x"),
        ("api.example:8443", "https://api.example:8443@evil/x"),
        ("api.example:8443", "x"),
    ],
)
def test_case_47_a_challenge_of_another_origin_is_neither_signed_nor_accepted(
    domain: str, uri: str
) -> None:
    told = json.loads(bytes(challenge()))
    told["info"] |= {"domain": domain, "uri": uri}
    asked = sign_in.read_challenge(Raw(json.dumps(told).encode()))
    assert asked is not None
    sign = lambda digest: eip712.sign(KEY, digest)  # noqa: E731
    assert sign_in.sign(sign, ACCOUNT, asked, ORIGIN, uri, None, NOW) is None
    assert reason_of(resigned(domain=domain, uri=uri)) is Reason.SIGN_IN_ORIGIN


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"chainId": "eip155:1"}, Reason.SIGN_IN_CHAIN),
        ({"chainId": "solana:x", "type": "ed25519"}, Reason.SIGN_IN_CHAIN),
        ({"type": "eip1271"}, Reason.SIGN_IN_CHAIN),
        ({"version": "2"}, Reason.SIGN_IN_MALFORMED),
        ({"nonce": "short"}, Reason.SIGN_IN_MALFORMED),
        ({"nonce": "with-a-sign-in-it"}, Reason.SIGN_IN_MALFORMED),
        ({"nonce": "a" * 129}, Reason.SIGN_IN_MALFORMED),
        ({"issuedAt": "yesterday"}, Reason.SIGN_IN_MALFORMED),
        ({"statement": "two\nlines"}, Reason.SIGN_IN_MALFORMED),
        ({"resources": ["a\nb"]}, Reason.SIGN_IN_MALFORMED),
        ({"statement": "x" * 2049}, Reason.SIGN_IN_MALFORMED),
        ({"expirationTime": show_instant(NOW)}, Reason.SIGN_IN_EXPIRED),
        ({"notBefore": show_instant(NOW + 60)}, Reason.SIGN_IN_EXPIRED),
        ({"address": "0x" + "22" * 20}, Reason.SIGN_IN_SIGNATURE),
        ({"address": "nobody"}, Reason.SIGN_IN_SIGNATURE),
    ],
)
def test_a_proof_that_is_not_for_us_is_refused(fields: dict[str, Any], reason: Reason) -> None:
    assert reason_of(resigned(**fields)) is reason


@pytest.mark.parametrize(
    ("age", "good"),
    [
        (0, True),
        (SIGN_IN_SECONDS, True),
        (SIGN_IN_SECONDS + 1, False),
        (-MAX_CLOCK_SKEW_SECONDS, True),
        (-MAX_CLOCK_SKEW_SECONDS - 1, False),
    ],
)
def test_a_proof_is_good_for_minutes(age: int, good: bool) -> None:
    header = resigned(expirationTime=None)
    if good:
        assert sign_in.check(header, ORIGIN, NETWORK, NOW + age).address == ACCOUNT
    else:
        assert reason_of(header, NOW + age) is Reason.SIGN_IN_EXPIRED


@pytest.mark.parametrize(
    "signature",
    [
        "",
        "0x",
        "0x" + "00" * 65,
        "0x" + OFFICIAL[:-2],
        "0x" + OFFICIAL[:-2] + "1d",
        "0x" + "ff" * 64 + "1b",
        OFFICIAL,
    ],
)
def test_case_21_a_broken_signature_is_refused(signature: str) -> None:
    assert reason_of(with_fields(signed(), signature=signature)) is Reason.SIGN_IN_SIGNATURE


def test_v_may_be_written_as_wallets_write_it() -> None:
    v = "%02x" % (int(OFFICIAL[-2:], 16) - 27)
    header = with_fields(signed(), signature="0x" + OFFICIAL[:-2] + v)
    assert sign_in.check(header, ORIGIN, NETWORK, NOW).address == ACCOUNT


@pytest.mark.parametrize("field", ["statement", "uri", "nonce", "issuedAt", "resources"])
def test_nothing_that_was_signed_can_be_changed(field: str) -> None:
    other = {
        "statement": "Sign in.",
        "uri": f"{ORIGIN}/other",
        "nonce": "0123456789abcdef",
        "issuedAt": show_instant(NOW - 1),
        "resources": [],
    }
    header = with_fields(signed(), **{field: other[field]})
    assert reason_of(header) is Reason.SIGN_IN_SIGNATURE


@pytest.mark.parametrize("header", ["", "e30=", "!!!", "bm90IGpzb24=", "[]" * 10])
def test_case_7_what_cannot_be_read_is_refused(header: str) -> None:
    assert reason_of(header) is Reason.SIGN_IN_MALFORMED


def test_case_6_a_long_header_is_refused_unread() -> None:
    assert reason_of("A" * 5000) is Reason.HEADER_TOO_LARGE


@pytest.mark.parametrize("told", [b"{}", b"1", b'{"info":{},"supportedChains":[]}', b'"x"'])
def test_a_challenge_that_is_none_is_passed_over(told: bytes) -> None:
    assert sign_in.read_challenge(Raw(told)) is None


def test_chains_that_we_do_not_speak_are_passed_over() -> None:
    told = json.loads(bytes(challenge()))
    solana = {"chainId": "solana:x", "type": "ed25519"}
    told["supportedChains"].insert(0, solana)
    assert decoded(signed(Raw(json.dumps(told).encode())))["chainId"] == NETWORK
    told["supportedChains"] = [solana]
    asked = sign_in.read_challenge(Raw(json.dumps(told).encode()))
    assert asked is not None
    assert sign_in.sign(bytes, ACCOUNT, asked, ORIGIN, ORIGIN, None, NOW) is None


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://API.example", "https://api.example"),
        ("http://127.0.0.1:8402/x?y", "http://127.0.0.1:8402"),
        ("http://[::1]:80/", "http://[::1]:80"),
    ],
)
def test_an_origin_is_scheme_host_and_port(url: str, origin: str) -> None:
    assert sign_in.parse_origin(url) == origin


@pytest.mark.parametrize("url", ["", "api.example", "ftp://x", "https://u@x", "https://", "//x"])
def test_anything_else_has_none(url: str) -> None:
    with pytest.raises(ValueError, match="origin"):
        sign_in.parse_origin(url)
