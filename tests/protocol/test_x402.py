"""The header codec: liberal where there is one meaning, quick and clean with everything else."""

import base64
import json
import time
from collections.abc import Callable
from contextlib import suppress
from unittest.mock import patch

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Raw

from paywall.protocol import x402
from paywall.protocol.errors import Reason, Refused
from paywall.protocol.limits import MAX_PAYMENT_HEADER_BYTES, MAX_QUOTE_HEADER_BYTES
from paywall.protocol.money import parse_address
from paywall.protocol.x402 import (
    Malformed,
    PaymentPayload,
    PaymentRequired,
    PaymentRequirements,
    Resource,
    SettlementResponse,
    decode_base64,
    decode_payment,
    decode_required,
    decode_requirements,
    decode_response,
    encode_header,
    encode_json,
    parse_bytes,
    show_address,
    show_bytes,
)

REQUIREMENTS = PaymentRequirements(
    "exact", "eip155:84532", "0xa", "1000", "0xb", 300, Raw(b'{"name":"USDC","version":"2"}')
)
PAYMENT = b'{"x402Version":2,"accepted":{"scheme":"exact"},"payload":{"a":1}}'
DEEP = b"[" * 100_000 + b"]" * 100_000
QUICK_SECONDS = 0.25


def header(data: bytes) -> str:
    return base64.b64encode(data).decode()


def refusal(text: str) -> Reason:
    """Why this payment header is refused; it must not take long to say so."""
    started_at = time.perf_counter()
    with pytest.raises(Refused) as refused:
        decode_payment(text)
    assert time.perf_counter() - started_at < QUICK_SECONDS
    return refused.value.reason


# -- Messages ------------------------------------------------------------------------------------


def test_a_quote_is_read_as_it_was_written() -> None:
    quote = PaymentRequired(
        2,
        [Raw(encode_json(REQUIREMENTS))],
        resource=Resource("https://api.example/x", description="x"),
        error="Payment required",
        extensions={"payment-identifier": Raw(b'{"required":false}')},
    )
    read = decode_required(encode_header(quote))
    assert msgspec.structs.replace(read, accepts=[], extensions=UNSET) == msgspec.structs.replace(
        quote, accepts=[], extensions=UNSET
    )
    assert [bytes(offer) for offer in read.accepts] == [bytes(offer) for offer in quote.accepts]
    assert encode_header(read) == encode_header(quote)


def test_the_wire_is_camel_case_padded_standard_base64_and_leaves_absent_fields_out() -> None:
    text = encode_header(SettlementResponse(True, "", "eip155:1", error_reason="\xff\xfe?>"))
    assert json.loads(base64.b64decode(text, validate=True)) == {
        "success": True,
        "transaction": "",
        "network": "eip155:1",
        "errorReason": "\xff\xfe?>",
    }


def test_what_must_be_echoed_keeps_its_spelling() -> None:
    accepted = b'{ "amount":"1000",  "scheme" : "exact" }'
    payment = decode_payment(header(b'{"payload":{},"accepted":' + accepted + b',"x402Version":2}'))
    assert bytes(payment.accepted) == accepted


@pytest.mark.parametrize("name", ["resource", "error", "extensions"])
def test_null_and_absent_are_both_read_and_stay_apart(name: str) -> None:
    null = decode_required(header(b'{"x402Version":2,"accepts":[],"' + name.encode() + b'":null}'))
    absent = decode_required(header(b'{"x402Version":2,"accepts":[]}'))
    assert msgspec.structs.asdict(null)[name] is None
    assert msgspec.structs.asdict(absent)[name] is UNSET


def test_unknown_fields_are_passed_over() -> None:
    data = json.loads(PAYMENT) | {"fromTheFuture": [1, {"a": None}]}
    assert bytes(decode_payment(header(json.dumps(data).encode())).payload) == b'{"a": 1}'


@pytest.mark.parametrize(
    "missing", ["scheme", "network", "asset", "amount", "payTo", "maxTimeoutSeconds"]
)
def test_a_requirement_without_a_core_field_is_malformed(missing: str) -> None:
    fields = json.loads(encode_json(REQUIREMENTS))
    del fields[missing]
    with pytest.raises(Malformed, match=missing):
        decode_requirements(json.dumps(fields).encode())


@pytest.mark.parametrize("amount", [1000, 1000.0, None, True, ["1000"]])
def test_money_that_is_not_a_string_is_malformed(amount: object) -> None:
    fields = json.loads(encode_json(REQUIREMENTS)) | {"amount": amount}
    with pytest.raises(Malformed, match="amount"):
        decode_requirements(json.dumps(fields).encode())


@pytest.mark.parametrize("absent", ["success", "transaction", "network"])
def test_a_receipt_without_its_core_is_malformed(absent: str) -> None:
    fields = {"success": True, "transaction": "", "network": "eip155:1"}
    del fields[absent]
    with pytest.raises(Malformed, match=absent):
        decode_response(header(json.dumps(fields).encode()))


@pytest.mark.parametrize("version", [1, 3, 0, -2, 2**70])
def test_another_version_is_refused_as_such(version: int) -> None:
    data = PAYMENT.replace(b":2,", b":%d," % version)
    expected = Reason.UNSUPPORTED_VERSION if version < 2**64 else Reason.MALFORMED_PAYMENT
    assert refusal(header(data)) in {expected, Reason.UNSUPPORTED_VERSION}


@pytest.mark.parametrize("version", [b"2.0", b'"2"', b"true", b"null"])
def test_a_version_that_is_not_a_whole_number_is_malformed(version: bytes) -> None:
    assert refusal(header(PAYMENT.replace(b":2,", b":" + version + b","))) is (
        Reason.MALFORMED_PAYMENT
    )


# -- Base64 --------------------------------------------------------------------------------------


@given(st.binary(max_size=200))
def test_case_07_base64_with_one_meaning_is_accepted(data: bytes) -> None:
    text = base64.b64encode(data).decode()
    middle = len(text) // 2
    for spelling in (
        text,
        text.rstrip("="),
        base64.urlsafe_b64encode(data).decode(),
        base64.urlsafe_b64encode(data).decode().rstrip("="),
        f" {text}\t",
        f"{text[:middle]} {text[middle:]}",
    ):
        assert decode_base64(spelling) == data


@pytest.mark.parametrize(
    "text",
    ["A", "AAAAA", "AA=A", "=AAA", "A===", "AAAA!", "AAAA\x00", "ÄAAA", "AAAA\ud800", "AA==AA==x"],
)
def test_case_07_other_base64_is_malformed(text: str) -> None:
    with pytest.raises(Malformed):
        decode_base64(text)
    assert refusal(text) is Reason.MALFORMED_PAYMENT


@pytest.mark.parametrize("text", ["", " ", "="])
def test_an_empty_header_is_malformed(text: str) -> None:
    assert refusal(text) is Reason.MALFORMED_PAYMENT


# -- Bombs ---------------------------------------------------------------------------------------

BOMBS: dict[str, bytes] = {
    "depth": b"[" * 5_000 + b"]" * 5_000,
    "objects in depth": b'{"a":' * 2_000 + b"1" + b"}" * 2_000,
    "NaN": b"NaN",
    "Infinity": b"-Infinity",
    "lone surrogate": b'"\\ud800"',
    "reversed surrogates": b'"\\udc00\\ud800"',
    "control character": b'"\x00"',
    "unfinished": b'{"a":',
    "trailing comma": b"[1,]",
    "comment": b"/* */1",
    "byte order mark": b"\xef\xbb\xbf1",
}


@pytest.mark.parametrize("name", BOMBS)
def test_case_08_a_payload_that_is_not_json_is_refused_quickly(name: str) -> None:
    data = PAYMENT.replace(b'{"a":1}', BOMBS[name])
    assert refusal(header(data)) is Reason.MALFORMED_PAYMENT


@pytest.mark.parametrize("literal", [b"1e309", b"-1e309", b"9" * 5_000, b"1e5", b"2.0"])
def test_case_08_a_number_where_a_small_one_belongs_is_refused_quickly(literal: bytes) -> None:
    assert refusal(header(PAYMENT.replace(b":2,", b":" + literal + b","))) is (
        Reason.MALFORMED_PAYMENT
    )


@pytest.mark.parametrize("literal", [b"1e309", b"9" * 5_000, b"NaN", DEEP, b'"\\ud800"', b'"\xff"'])
@pytest.mark.parametrize("field", [b"maxTimeoutSeconds", b"amount", b"unknown"])
def test_case_08_a_requirement_survives_every_literal(literal: bytes, field: bytes) -> None:
    fields = {
        k.encode(): json.dumps(v).encode() for k, v in json.loads(encode_json(REQUIREMENTS)).items()
    }
    fields[field] = literal
    data = b"{" + b",".join(b'"' + k + b'":' + v for k, v in fields.items()) + b"}"
    started_at = time.perf_counter()
    with suppress(Malformed):
        assert decode_requirements(data).scheme == "exact"
    assert time.perf_counter() - started_at < QUICK_SECONDS


def test_case_08_of_duplicate_keys_there_is_one_meaning() -> None:
    data = PAYMENT.replace(b'"payload"', b'"payload":{"a":2},"payload"')
    assert bytes(decode_payment(header(data)).payload) == b'{"a":1}'


@pytest.mark.parametrize("size", [MAX_PAYMENT_HEADER_BYTES + 1, 64 * 1024, 1024 * 1024])
def test_case_06_a_huge_payment_is_refused_before_it_is_decoded(size: int) -> None:
    assert refusal("A" * size) is Reason.HEADER_TOO_LARGE
    assert Reason.HEADER_TOO_LARGE.status == 431


@pytest.mark.parametrize("decode", [decode_required, decode_response])
def test_case_06_a_huge_answer_is_malformed_before_it_is_decoded(
    decode: Callable[[str], object],
) -> None:
    with pytest.raises(Malformed, match="too large"):
        decode("A" * (MAX_QUOTE_HEADER_BYTES + 1))


@given(st.binary(max_size=300))
def test_random_bytes_are_refused_and_nothing_else(data: bytes) -> None:
    for text in (header(data), data.decode("latin-1")):
        with pytest.raises(Refused):
            decode_payment(text)
        with pytest.raises(Malformed):
            decode_required(text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(["x402Version", "accepted", "payload"]), json_values))
def test_any_json_in_place_of_a_payment_is_read_or_refused(fields: dict[str, object]) -> None:
    with suppress(Refused):
        payment = decode_payment(header(json.dumps(fields).encode()))
        assert isinstance(payment, PaymentPayload)
        assert json.loads(bytes(payment.payload)) == fields["payload"]


# -- Hex -----------------------------------------------------------------------------------------


@given(st.binary(min_size=32, max_size=32))
def test_bytes_are_read_in_any_case_and_written_in_lower_case(data: bytes) -> None:
    text = show_bytes(data)
    assert text == "0x" + data.hex()
    assert parse_bytes(text.upper(), 32) == parse_bytes(text, 32) == data


@pytest.mark.parametrize(
    "text",
    ["", "0x", "1234", "0x123", "0x12345", "0x12 4", "0x12zz", "0x１２３", " 0x1234", "0x1234\n"],
)
def test_other_hex_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="hex"):
        parse_bytes(text, 2)


@pytest.mark.parametrize(
    "address",
    [
        "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
        "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
        "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
        "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
    ],
)
def test_an_address_is_shown_with_its_checksum(address: str) -> None:
    assert show_address(parse_address(address.lower())) == address


# -- The quick way to read base64 ----------------------------------------------------------------


@given(st.binary(max_size=60))
def test_base64_is_read_as_it_was_written(data: bytes) -> None:
    assert decode_base64(base64.b64encode(data).decode()) == data


@given(st.text('AQgw/+-_= \\"nu0\t', max_size=12) | st.text(max_size=8))
def test_the_quick_way_reads_nothing_that_the_strict_one_would_not(text: str) -> None:
    quick = _outcome(lambda: decode_base64(text))
    with patch.object(x402, "_base64", msgspec.json.Decoder(int)):  # reads no base64 at all
        assert quick == _outcome(lambda: decode_base64(text))


def _outcome(read: Callable[[], bytes]) -> bytes | None:
    try:
        return read()
    except Malformed:
        return None
