"""x402 v1, translated at the door: inside there is only v2. Both sides, pure; `exact` alone.

Version 1 says the same in other places: the quote stands in the body of the 402, networks have
names, the price is `maxAmountRequired`, a payment does not repeat what it accepts, and the headers
begin with X-. Its payload of `exact` is that of v2, signature and all, so an authorization is the
same one in either version, and buys once.

    provider: body of a 402 <- quote        X-PAYMENT -> PAYMENT-SIGNATURE
              X-PAYMENT-RESPONSE <- PAYMENT-RESPONSE
    agent:    body of a 402 -> PAYMENT-REQUIRED        X-PAYMENT <- PAYMENT-SIGNATURE
              X-PAYMENT-RESPONSE -> PAYMENT-RESPONSE

A v1 offer that an agent has translated carries a mark, so that its payment is sent as it was asked.

Sources: x402 v1 §5 (messages), transports-v1/http.md (headers).
"""

from typing import Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from paywall.protocol.errors import Reason, Refused
from paywall.protocol.limits import MAX_OFFERS, MAX_PAYMENT_HEADER_BYTES, MAX_QUOTE_HEADER_BYTES
from paywall.protocol.schemes import exact
from paywall.protocol.x402 import (
    VERSION,
    Malformed,
    PaymentPayload,
    PaymentRequired,
    Resource,
    SettlementResponse,
    decode_base64,
    decode_json,
    decode_payment,
    decode_requirements,
    decode_response,
    encode_header,
    encode_json,
)

OLD_VERSION: Final = 1
X_PAYMENT: Final = "X-PAYMENT"
X_PAYMENT_RESPONSE: Final = "X-PAYMENT-RESPONSE"

NETWORK_NAMES: Final = {
    "eip155:8453": "base",
    "eip155:84532": "base-sepolia",
    "eip155:1": "ethereum",
    "eip155:137": "polygon",
    "eip155:80002": "polygon-amoy",
    "eip155:43114": "avalanche",
    "eip155:43113": "avalanche-fuji",
    "eip155:2741": "abstract",
    "eip155:11124": "abstract-testnet",
    "eip155:4689": "iotex",
    "eip155:1329": "sei",
    "eip155:1328": "sei-testnet",
    "eip155:3338": "peaq",
    "eip155:1513": "story",
    "eip155:656476": "educhain",
    "eip155:1444673419": "skale-base-sepolia",
    "eip155:42220": "celo",
}
"""What v1 calls a network. One without a name cannot be paid on in v1."""
_CAIP2: Final = {name: network for network, name in NETWORK_NAMES.items()}


class OldRequirements(msgspec.Struct, rename="camel", frozen=True):
    """One way to pay, as v1 says it. `max_amount_required` is in atomic units."""

    scheme: str
    network: str
    max_amount_required: str
    asset: str
    pay_to: str
    max_timeout_seconds: int
    resource: str
    description: str = ""
    mime_type: str = ""
    extra: Raw = Raw(b"{}")


class OldOffer(msgspec.Struct, rename="camel", frozen=True):
    """What an agent reads of it; the rest is text about the resource."""

    scheme: str
    network: str
    max_amount_required: str
    asset: str
    pay_to: str
    max_timeout_seconds: int
    extra: Raw = Raw(b"null")


class OldQuote(msgspec.Struct, rename="camel", frozen=True):
    x402_version: int = msgspec.field(name="x402Version")
    accepts: list[Raw]
    error: str | None = None


class OldPayment(msgspec.Struct, frozen=True):
    x402_version: int = msgspec.field(name="x402Version")
    scheme: str
    network: str
    payload: Raw


class OldReceipt(msgspec.Struct, rename="camel", frozen=True):
    success: bool
    network: str
    transaction: str | None = ""
    payer: str | UnsetType | None = UNSET
    error_reason: str | UnsetType | None = UNSET


class _Marked(msgspec.Struct, rename="camel", frozen=True):
    """A translated offer, which says of itself that it was asked in v1."""

    scheme: str
    network: str
    asset: str
    amount: str
    pay_to: str
    max_timeout_seconds: int
    extra: Raw
    x402_version: int = msgspec.field(name="x402Version", default=OLD_VERSION)


class _Mark(msgspec.Struct, frozen=True):
    x402_version: int = msgspec.field(name="x402Version", default=VERSION)


_quote = msgspec.json.Decoder(OldQuote)
_offer = msgspec.json.Decoder(OldOffer)
_payment = msgspec.json.Decoder(OldPayment)
_receipt = msgspec.json.Decoder(OldReceipt)
_mark = msgspec.json.Decoder(_Mark)

# -- The provider's side -------------------------------------------------------------------------


def quoted(accepts: list[Raw], resource: Resource) -> dict[str, object]:
    """What the body of a 402 says for v1; nothing when none of the offers can be paid in v1."""
    old = [_old_requirements(raw, resource) for raw in accepts if _EXACT in bytes(raw)]
    offers = [offer for offer in old if offer is not None]
    if not offers:
        return {}
    return {"x402Version": OLD_VERSION, "accepts": offers}


_EXACT: Final = f'"{exact.SCHEME}"'.encode()


def _old_requirements(raw: Raw, resource: Resource) -> OldRequirements | None:
    offer = decode_requirements(raw)
    name = NETWORK_NAMES.get(offer.network)
    if offer.scheme != exact.SCHEME or name is None:
        return None
    return OldRequirements(
        scheme=offer.scheme,
        network=name,
        max_amount_required=offer.amount,
        asset=offer.asset,
        pay_to=offer.pay_to,
        max_timeout_seconds=offer.max_timeout_seconds,
        resource=resource.url,
        description=resource.description or "",
        mime_type=resource.mime_type or "",
        extra=offer.extra,
    )


def upgraded_payment(header: str, accepts: list[Raw]) -> str:
    """A payment of v1 as one of v2, which accepts what is offered now. Raises Refused."""
    if len(header) > MAX_PAYMENT_HEADER_BYTES:
        raise Refused(Reason.HEADER_TOO_LARGE)
    try:
        old = decode_json(_payment, decode_base64(header))
    except Malformed as error:
        raise Refused(Reason.MALFORMED_PAYMENT, f"({error})") from error
    if old.x402_version != OLD_VERSION:
        raise Refused(Reason.UNSUPPORTED_VERSION)
    for raw in accepts:
        offer = decode_requirements(raw)
        named = NETWORK_NAMES.get(offer.network)
        if offer.scheme == exact.SCHEME == old.scheme and named == old.network:
            return encode_header(PaymentPayload(VERSION, raw, old.payload))
    raise Refused(Reason.OFFER_MISMATCH)


def downgraded_receipt(header: str) -> str:
    """A receipt of ours as v1 spells it."""
    receipt = decode_response(header)
    network = NETWORK_NAMES.get(receipt.network, receipt.network)
    reason = receipt.error_reason
    return encode_header(
        OldReceipt(receipt.success, network, receipt.transaction, receipt.payer, reason)
    )


# -- The agent's side ----------------------------------------------------------------------------


def upgraded_quote(body: bytes) -> str | None:
    """The quote in the body of a 402 as the header of v2; None when the body is no quote of v1."""
    if b'"x402Version"' not in body:
        return None
    try:
        old = decode_json(_quote, body)
    except Malformed:
        return None
    if old.x402_version != OLD_VERSION:
        return None
    found = [_marked(raw) for raw in old.accepts[:MAX_OFFERS]]
    accepts = [Raw(encode_json(offer)) for offer in found if offer is not None]
    return encode_header(PaymentRequired(VERSION, accepts, error=old.error or UNSET))


def _marked(raw: Raw) -> _Marked | None:
    """An offer that may be paid; one that cannot be read, or of other schemes, is left out."""
    try:
        old = decode_json(_offer, bytes(raw))
    except Malformed:
        return None
    network = _CAIP2.get(old.network)
    if old.scheme != exact.SCHEME or network is None:
        return None
    return _Marked(
        scheme=old.scheme,
        network=network,
        asset=old.asset,
        amount=old.max_amount_required,
        pay_to=old.pay_to,
        max_timeout_seconds=old.max_timeout_seconds,
        extra=old.extra if bytes(old.extra) != b"null" else Raw(b"{}"),
    )


def is_old(accepted: Raw | bytes) -> bool:
    """Whether this offer was asked in v1, and so is to be paid in v1.

    A provider of v2 may put the mark there too; then it is paid as it asks, and by nothing else
    than what v1 has.
    """
    raw = bytes(accepted)
    if b'"x402Version"' not in raw:
        return False
    try:
        offer, mark = decode_requirements(raw), decode_json(_mark, raw)
    except Malformed:
        return False
    named = offer.scheme == exact.SCHEME and offer.network in NETWORK_NAMES
    return named and mark.x402_version == OLD_VERSION


def downgraded_payment(header: str) -> str:
    """A payment of ours, which accepts an offer of v1, as v1 spells it."""
    payment = decode_payment(header)
    offer = decode_requirements(payment.accepted)
    name = NETWORK_NAMES[offer.network]
    return encode_header(OldPayment(OLD_VERSION, offer.scheme, name, payment.payload))


def upgraded_receipt(header: str) -> str:
    """A receipt of v1 as the header of v2. Raises Malformed."""
    if len(header) > MAX_QUOTE_HEADER_BYTES:
        raise Malformed("the header is too large")
    old = decode_json(_receipt, decode_base64(header))
    network = _CAIP2.get(old.network, old.network)
    return encode_header(
        SettlementResponse(
            success=old.success,
            transaction=old.transaction or "",
            network=network,
            payer=old.payer,
            error_reason=old.error_reason,
        )
    )
