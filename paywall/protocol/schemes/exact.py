"""The scheme `exact` on EVM: one signed token transfer pays one request (EIP-3009). Both sides.

The payer signs `TransferWithAuthorization` for exactly the price; whoever has the signature may
submit it, once, while it is valid. An authorization is known by its payer and its authorization
nonce, however the rest of the message is spelled: that is what buys once. All that needs no chain
is checked here: shape, receiver, value, times, the token's domain, and a canonical signature, for
the token refuses other spellings of it. Whether the authorization is still unused and the payer has
the money is the chain's to say.

Sources: exact EVM specification, "AssetTransferMethod: EIP-3009"; EIP-3009, "Specification".
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import msgspec
from coincurve import PrivateKey
from msgspec import UNSET, Raw, UnsetType

from paywall.protocol import eip712
from paywall.protocol.eip712 import Authorization
from paywall.protocol.errors import ConfigurationError, Reason, Refused
from paywall.protocol.limits import (
    DEFAULT_TIMEOUT_SECONDS,
    MAX_AUTHORIZATION_SECONDS,
    MIN_AUTHORIZATION_LEFT_SECONDS,
    UINT256_MAX,
)
from paywall.protocol.money import ZERO_ADDRESS, Address, Asset, parse_address, parse_amount
from paywall.protocol.x402 import (
    Malformed,
    PaymentRequirements,
    decode_json,
    encode_json,
    parse_bytes,
    show_address,
    show_bytes,
)

SCHEME: Final = "exact"
EIP3009: Final = "eip3009"


class ExactExtra(msgspec.Struct, rename="camel", omit_defaults=True, frozen=True):
    """`extra` of an offer: the token's EIP-712 domain, and how it is to be moved."""

    name: str
    version: str
    asset_transfer_method: str | UnsetType | None = UNSET


class AuthorizationWire(msgspec.Struct, rename="camel", frozen=True):
    payer: str = msgspec.field(name="from")
    to: str
    value: str
    valid_after: str
    valid_before: str
    nonce: str


class ExactPayload(msgspec.Struct, frozen=True):
    signature: str
    authorization: AuthorizationWire


_payload = msgspec.json.Decoder(ExactPayload)
_extra = msgspec.json.Decoder(ExactExtra)


@dataclass(frozen=True, slots=True)
class ExactPayment:
    """A transfer of the right value to the right receiver, signed by its payer."""

    token: Address
    authorization: Authorization
    signature: bytes

    @property
    def payer(self) -> Address:
        return self.authorization.payer

    @property
    def value(self) -> int:
        return self.authorization.value

    def key(self, network: str) -> bytes:
        """What the token will use up, once: the name under which it is remembered."""
        told = self.authorization
        parts = (network.encode(), self.token, told.payer, told.authorization_nonce)
        return eip712.keccak(b"paywall:exact:" + b"".join(parts))


def parse(payload: Raw, token: Address) -> ExactPayment:
    """The payment in a payload, of the right shape and not checked further. Raises Refused."""
    try:
        wire = decode_json(_payload, bytes(payload))
        told = wire.authorization
        authorization = Authorization(
            payer=parse_address(told.payer),
            to=parse_address(told.to),
            value=parse_amount(told.value, UINT256_MAX),
            valid_after=parse_amount(told.valid_after, UINT256_MAX),
            valid_before=parse_amount(told.valid_before, UINT256_MAX),
            authorization_nonce=parse_bytes(told.nonce, 32),
        )
    except ValueError as error:
        raise Refused(Reason.EXACT_PAYLOAD, f"({error})") from error
    try:
        return ExactPayment(token, authorization, parse_bytes(wire.signature, 65))
    except ValueError as error:
        raise Refused(Reason.EXACT_SIGNATURE, f"({error})") from error


def refuse_other_domain(extra: Raw, asset: Asset) -> None:
    """Refuses terms that name another domain for the token: its signatures would be worthless."""
    try:
        told = decode_json(_extra, bytes(extra))
    except Malformed as error:
        raise Refused(Reason.OFFER_MISMATCH, f"(extra: {error})") from error
    if told.name != asset.name:
        raise Refused(Reason.EXACT_TOKEN_NAME)
    if told.version != asset.version:
        raise Refused(Reason.EXACT_TOKEN_VERSION)
    if told.asset_transfer_method not in (UNSET, None, EIP3009):
        raise Refused(Reason.OFFER_MISMATCH, "Only EIP-3009 authorizations are taken here.")


def check(payload: Raw, asset: Asset, pay_to: Address, price: int, now: int) -> ExactPayment:
    """What this payload is worth to whoever asks `price` for `pay_to`. Raises Refused.

    `now` is Unix seconds. Nothing is looked up. The bounds are those of the token, which wants
    `valid_after < block time < valid_before`, with the seconds that a block takes.
    """
    payment = parse(payload, asset.address)
    refuse_unfit(payment.authorization, pay_to, price, now)
    refuse_unsigned(payment, asset)
    return payment


def refuse_unfit(told: Authorization, pay_to: Address, price: int, now: int) -> None:
    """Raises Refused unless it pays just this, to whom it should, now."""
    if told.to != pay_to:
        raise Refused(Reason.EXACT_RECEIVER)
    if told.value != price:
        raise Refused(Reason.EXACT_VALUE)
    if told.valid_before < now + MIN_AUTHORIZATION_LEFT_SECONDS:
        raise Refused(Reason.EXACT_EXPIRED)
    if told.valid_after > now:
        raise Refused(Reason.EXACT_NOT_YET_VALID)


def refuse_unsigned(payment: ExactPayment, asset: Asset) -> None:
    """Raises Refused unless its payer signed it for this token, in the one canonical spelling."""
    if payment.payer == ZERO_ADDRESS or not _signed_by_payer(payment, asset):
        raise Refused(Reason.EXACT_SIGNATURE)


@lru_cache(maxsize=256)
def token_domain(asset: Asset) -> bytes:
    """The domain of the token's signatures, hashed once."""
    return eip712.domain_separator(asset.name, asset.version, asset.chain_id, asset.address)


def _signed_by_payer(payment: ExactPayment, asset: Asset) -> bool:
    digest = payment.authorization.transfer_digest(token_domain(asset))
    try:
        return eip712.recover(digest, payment.signature) == payment.authorization.payer
    except eip712.BadSignature:
        return False


# -- The provider's side -------------------------------------------------------------------------


@dataclass(frozen=True)
class ExactTerms:
    """Who is paid, and in what. A payment is checked against what was offered under these."""

    asset: Asset
    pay_to: Address
    timeout_seconds: int = DEFAULT_TIMEOUT_SECONDS

    def __post_init__(self) -> None:
        if self.pay_to == ZERO_ADDRESS:
            raise ConfigurationError("pay_to cannot be zero")

    def offer(self, price: int) -> "ExactOffer":
        requirements = PaymentRequirements(
            scheme=SCHEME,
            network=self.asset.network,
            asset=show_address(self.asset.address),
            amount=str(price),
            pay_to=show_address(self.pay_to),
            max_timeout_seconds=self.timeout_seconds,
            extra=Raw(encode_json(ExactExtra(self.asset.name, self.asset.version))),
        )
        return ExactOffer(self, price, requirements)

    def read(self, payload: Raw) -> ExactPayment:
        """A payment to us that its payer signed, whatever its value and times. Raises Refused."""
        payment = parse(payload, self.asset.address)
        if payment.authorization.to != self.pay_to:
            raise Refused(Reason.EXACT_RECEIVER)
        refuse_unsigned(payment, self.asset)
        return payment


@dataclass(frozen=True)
class ExactOffer:
    """One price under these terms, with the requirement that says so on the wire."""

    terms: ExactTerms
    price: int
    requirements: PaymentRequirements

    def matches(self, accepted: PaymentRequirements) -> bool:
        """Whether what the payer accepted is what is offered here; spelling does not matter."""
        ours, terms = self.requirements, self.terms
        if (accepted.scheme, accepted.network, accepted.amount) != (
            ours.scheme,
            ours.network,
            ours.amount,
        ):
            return False
        try:
            refuse_other_domain(accepted.extra, terms.asset)
            return (
                parse_address(accepted.asset) == terms.asset.address
                and parse_address(accepted.pay_to) == terms.pay_to
            )
        except (Refused, ValueError):
            return False

    def refuse_unfit(self, payment: ExactPayment, now: int) -> None:
        """Raises Refused unless it pays this price and can be taken now.

        One that is valid for longer than an honest client asks for would have to be remembered
        for as long.
        """
        told = payment.authorization
        refuse_unfit(told, self.terms.pay_to, self.price, now)
        if told.valid_before > now + MAX_AUTHORIZATION_SECONDS:
            raise Refused(Reason.EXACT_TOO_LONG)

    def check(self, payload: Raw, now: int) -> ExactPayment:
        """What this payload is worth: shape, terms, times and signature. Raises Refused.

        `now` is Unix seconds. Nothing is looked up and nothing is changed.
        """
        payment = parse(payload, self.terms.asset.address)
        self.refuse_unfit(payment, now)
        refuse_unsigned(payment, self.terms.asset)
        return payment


# -- The agent's side ----------------------------------------------------------------------------


def decode_extra(requirements: PaymentRequirements) -> ExactExtra:
    """`extra` of somebody's offer. Raises Malformed."""
    return decode_json(_extra, bytes(requirements.extra))


def sign(key: PrivateKey, asset: Asset, authorization: Authorization) -> ExactPayment:
    """An authorization signed under the token's own domain, whatever an offer calls it."""
    digest = authorization.transfer_digest(token_domain(asset))
    return ExactPayment(asset.address, authorization, eip712.sign(key, digest))


def payload(payment: ExactPayment) -> Raw:
    """A payment as it is sent."""
    told = payment.authorization
    wire = AuthorizationWire(
        payer=show_address(told.payer),
        to=show_address(told.to),
        value=str(told.value),
        valid_after=str(told.valid_after),
        valid_before=str(told.valid_before),
        nonce=show_bytes(told.authorization_nonce),
    )
    return Raw(encode_json(ExactPayload(show_bytes(payment.signature), wire)))
