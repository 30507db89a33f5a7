"""A price and every way to pay it, encoded once."""

from binascii import b2a_base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from msgspec import Raw

from paywall.protocol import once
from paywall.protocol.channel import RefusedByChannel
from paywall.protocol.errors import Reason, Refused
from paywall.protocol.schemes.batch import BatchOffer
from paywall.protocol.schemes.exact import ExactOffer
from paywall.protocol.x402 import (
    VERSION,
    Malformed,
    PaymentRequired,
    PaymentRequirements,
    Resource,
    decode_requirements,
    encode_json,
)

Offer = BatchOffer | ExactOffer

_MAX_KEPT_BYTES: Final = 2048
"""An `accepted` that is longer than any honest one is read each time: memory is ours."""

_EXTENSIONS: Final = {once.EXTENSION: once.ADVERTISED}


@dataclass(frozen=True, eq=False)
class Quote:
    """What one price of the provider looks like on the wire, and how a payment is matched to it."""

    price: int
    offers: tuple[Offer, ...]
    accepts: list[Raw] = field(repr=False)

    @classmethod
    def of(cls, price: int, offers: tuple[Offer, ...]) -> "Quote":
        return cls(price, offers, [_raw(offer.requirements) for offer in offers])

    def offer_for(self, accepted: bytes) -> Offer:
        """The offer that a payment accepts. The same bytes come each time, so this is kept."""
        if len(accepted) > _MAX_KEPT_BYTES:
            return self._offer_for(accepted)
        return self._offer_kept(accepted)

    @lru_cache(maxsize=4096)  # noqa: B019 - quotes are few and live as long as their gate
    def _offer_kept(self, accepted: bytes) -> Offer:
        return self._offer_for(accepted)

    def _offer_for(self, accepted: bytes) -> Offer:
        try:
            requirements = decode_requirements(accepted)
        except Malformed as error:
            raise Refused(Reason.MALFORMED_PAYMENT, f"(accepted: {error})") from error
        for offer in self.offers:
            if offer.matches(requirements):
                return offer
        raise Refused(Reason.OFFER_MISMATCH)

    def header(
        self,
        resource: Resource,
        error: str,
        refusal: Refused | None = None,
        more: Mapping[str, Raw] | None = None,
    ) -> str:
        """The PAYMENT-REQUIRED header; corrective when a channel's own state is the reason.

        `more` are extensions of this one answer.
        """
        if isinstance(refusal, RefusedByChannel):
            accepts = [_raw(_corrected(offer, refusal)) for offer in self.offers]
            return _before_resource(accepts, error, more) + _last(resource)
        if more:
            return _before_resource(self.accepts, error, more) + _last(resource)
        return self._before_resource(error) + _last(resource)

    @lru_cache(maxsize=1024)  # noqa: B019 - as above
    def _before_resource(self, error: str) -> str:
        return _before_resource(self.accepts, error, None)


def _before_resource(accepts: list[Raw], error: str, more: Mapping[str, Raw] | None) -> str:
    """A quote in base64 up to its resource, which stands last, because it is what varies.

    Filled with blanks, as JSON allows, to a whole number of base64's groups of three bytes, so that
    what follows can be encoded by itself.
    """
    extensions = {**_EXTENSIONS, **more} if more else _EXTENSIONS
    required = PaymentRequired(
        x402_version=VERSION, error=error, accepts=accepts, extensions=extensions
    )
    begun = encode_json(required)[:-1] + b',"resource":'
    return b2a_base64(begun + b" " * (-len(begun) % 3), newline=False).decode("ascii")


def _last(resource: Resource) -> str:
    return b2a_base64(encode_json(resource) + b"}", newline=False).decode("ascii")


def _corrected(offer: Offer, refusal: RefusedByChannel) -> PaymentRequirements:
    """The offer with the payer's own channel in it, where the scheme has channels."""
    if isinstance(offer, BatchOffer):
        return offer.corrected(refusal.channel, refusal.zero_charge)
    return offer.requirements


def _raw(requirements: PaymentRequirements) -> Raw:
    return Raw(encode_json(requirements))
