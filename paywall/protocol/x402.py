"""The wire words of x402 v2 and the codec of its headers.

Here camelCase, hex and decimal strings come in and end. Messages are typed structs; parts that
must be echoed to the letter (`accepted`) or that belong to a scheme (`payload`, `extra`) stay raw
JSON until somebody who knows them reads them. Unknown fields are ignored, absent ones are left
out, never null. Reading is strict on money and signatures and liberal on the rest.

Sources: x402 v2 §5 (messages), transports-v2/http.md (headers).
"""

import binascii
from functools import lru_cache
from typing import Final, TypeVar

import msgspec
from msgspec import UNSET, Raw, UnsetType

from paywall.protocol.eip712 import keccak
from paywall.protocol.errors import Reason, Refused
from paywall.protocol.limits import (
    MAX_JSON_CONTAINERS,
    MAX_PAYMENT_HEADER_BYTES,
    MAX_QUOTE_HEADER_BYTES,
    MAX_WORD_CHARS,
)
from paywall.protocol.money import Address

VERSION: Final = 2
PAYMENT_REQUIRED: Final = "PAYMENT-REQUIRED"
PAYMENT_SIGNATURE: Final = "PAYMENT-SIGNATURE"
PAYMENT_RESPONSE: Final = "PAYMENT-RESPONSE"


_URL_SAFE: Final = bytes.maketrans(b"-_", b"+/")


class Resource(msgspec.Struct, rename="camel", omit_defaults=True, frozen=True, gc=False):
    """What is paid for."""

    url: str
    description: str | UnsetType | None = UNSET
    mime_type: str | UnsetType | None = UNSET


class PaymentRequirements(msgspec.Struct, rename="camel", frozen=True, gc=False):
    """One way to pay. `amount` is in atomic units; `extra` belongs to the scheme."""

    scheme: str
    network: str
    asset: str
    amount: str
    pay_to: str
    max_timeout_seconds: int
    extra: Raw = Raw(b"{}")


class PaymentRequired(msgspec.Struct, rename="camel", omit_defaults=True, frozen=True, gc=False):
    """A quote: every way to pay for a resource. Each of `accepts` is kept as it was spelled."""

    x402_version: int = msgspec.field(name="x402Version")
    accepts: list[Raw]
    resource: Resource | UnsetType | None = UNSET
    error: str | UnsetType | None = UNSET
    extensions: dict[str, Raw] | UnsetType | None = UNSET


class PaymentPayload(msgspec.Struct, rename="camel", omit_defaults=True, frozen=True, gc=False):
    """A payment: the requirement that is accepted, echoed whole, and the scheme's payload."""

    x402_version: int = msgspec.field(name="x402Version")
    accepted: Raw
    payload: Raw
    resource: Raw | UnsetType = UNSET
    extensions: dict[str, Raw] | UnsetType | None = UNSET


class SettlementResponse(msgspec.Struct, rename="camel", omit_defaults=True, frozen=True, gc=False):
    """A receipt, or the reason why there is none."""

    success: bool
    transaction: str
    network: str
    payer: str | UnsetType | None = UNSET
    amount: str | UnsetType | None = UNSET
    error_reason: str | UnsetType | None = UNSET
    extra: Raw | UnsetType = UNSET
    extensions: Raw | UnsetType = UNSET


_T = TypeVar("_T")

_encoder = msgspec.json.Encoder()
_required = msgspec.json.Decoder(PaymentRequired)
_payload = msgspec.json.Decoder(PaymentPayload)
_base64 = msgspec.json.Decoder(bytes)
_response = msgspec.json.Decoder(SettlementResponse)
_requirements = msgspec.json.Decoder(PaymentRequirements)


class Malformed(ValueError):
    """A header or message that cannot be read."""


def encode_header(message: object) -> str:
    """Base64, standard alphabet, padded, of compact JSON: the one spelling every peer reads."""
    return binascii.b2a_base64(_encoder.encode(message), newline=False).decode("ascii")


def encode_json(message: object) -> bytes:
    return _encoder.encode(message)


def decode_base64(text: str) -> bytes:
    """Base64 that has one meaning: missing padding, url-safe letters and blanks are forgiven."""
    try:
        raw = text.encode("ascii")
        if b"\\" not in raw:
            try:  # as a JSON string, which is read in half the time; it knows one spelling only
                return _base64.decode(b'"%b"' % raw)
            except msgspec.DecodeError:
                pass
        try:
            return binascii.a2b_base64(raw, strict_mode=True)
        except binascii.Error:
            bare = raw.translate(_URL_SAFE, b" \t\r\n").rstrip(b"=")
            return binascii.a2b_base64(bare + b"=" * (-len(bare) % 4), strict_mode=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise Malformed("not base64") from error


def decode_json(decoder: "msgspec.json.Decoder[_T]", data: bytes) -> _T:
    """One typed message. Raises Malformed for everything else, however it is broken."""
    if data.count(b"{") + data.count(b"[") > MAX_JSON_CONTAINERS:
        raise Malformed("too many objects and lists")
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise Malformed(_complaint(error)) from error


def _complaint(error: Exception) -> str:
    """What is wrong, as msgspec says it (it names fields and types, not values)."""
    return str(error) if isinstance(error, msgspec.DecodeError) else "not readable"


def decode_payment(header: str) -> PaymentPayload:
    """A payment from its header. Raises Refused: malformed, too large, another version."""
    if len(header) > MAX_PAYMENT_HEADER_BYTES:
        raise Refused(Reason.HEADER_TOO_LARGE)
    try:
        payment = decode_json(_payload, decode_base64(header))
    except Malformed as error:
        raise Refused(Reason.MALFORMED_PAYMENT, f"({error})") from error
    if payment.x402_version != VERSION:
        raise Refused(Reason.UNSUPPORTED_VERSION)
    return payment


def decode_required(header: str) -> PaymentRequired:
    """A quote from its header. Raises Malformed."""
    return decode_json(_required, _decode_answer(header))


def decode_requirements(raw: Raw | bytes) -> PaymentRequirements:
    """One way to pay. Raises Malformed."""
    return decode_json(_requirements, bytes(raw))


def decode_response(header: str) -> SettlementResponse:
    """A receipt from its header. Raises Malformed."""
    return decode_json(_response, _decode_answer(header))


def _decode_answer(header: str) -> bytes:
    """What a provider says in a header, unless it says too much."""
    if len(header) > MAX_QUOTE_HEADER_BYTES:
        raise Malformed("the header is too large")
    return decode_base64(header)


def parse_bytes(text: str, length: int) -> bytes:
    """Exactly `length` bytes from 0x-hex in any case. Raises ValueError."""
    if len(text) != 2 + 2 * length or text[:2] not in ("0x", "0X") or not text.isascii():
        raise ValueError(f"not {length} bytes of hex")
    data = bytes.fromhex(text[2:])
    if len(data) != length:  # bytes.fromhex forgives blanks
        raise ValueError(f"not {length} bytes of hex")
    return data


def show_bytes(data: bytes) -> str:
    return "0x" + data.hex()


@lru_cache(maxsize=4096)
def show_address(address: Address) -> str:
    """The checksum spelling (EIP-55), which every peer accepts and some insist on."""
    digits = address.hex()
    hashed = keccak(digits.encode()).hex()
    return "0x" + "".join(
        digit.upper() if nibble >= "8" else digit
        for digit, nibble in zip(digits, hashed, strict=False)
    )


def printable(text: str) -> str:
    """A stranger's words, fit for a log and an exception: one short line without controls."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:MAX_WORD_CHARS])
