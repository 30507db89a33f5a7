"""A price and every way to pay it, encoded once."""

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
    encode_header,
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
        accepts = self.accepts
        if isinstance(refusal, RefusedByChannel):
            accepts = [_raw(_corrected(offer, refusal)) for offer in self.offers]
        return encode_header(
            PaymentRequired(
                x402_version=VERSION,
                error=error,
                resource=resource,
                accepts=accepts,
                extensions={**_EXTENSIONS, **more} if more else _EXTENSIONS,
            )
        )


def _corrected(offer: Offer, refusal: RefusedByChannel) -> PaymentRequirements:
    """The offer with the payer's own channel in it, where the scheme has channels."""
    if isinstance(offer, BatchOffer):
        return offer.corrected(refusal.channel, refusal.zero_charge)
    return offer.requirements


def _raw(requirements: PaymentRequirements) -> Raw:
    return Raw(encode_json(requirements))
