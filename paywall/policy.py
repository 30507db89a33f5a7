"""What an owner allows, and which of a provider's offers fits: the choice, without any state.

A provider's text is data: an offer is taken only for a token whose value is known, at most at the
price per request that the owner set, under a withdraw delay that the owner can bear, and with the
token's real signing domain, whatever the offer calls it. Of several the cheapest is taken.
"""

from dataclasses import dataclass
from typing import Final

from msgspec import UNSET, Raw

from paywall.protocol.channel import ChannelConfig
from paywall.protocol.eip712 import keccak
from paywall.protocol.errors import NoAcceptableOffer, OverBudget
from paywall.protocol.limits import (
    MAX_HOLDS,
    MAX_OFFERS,
    MAX_WITHDRAW_DELAY_SECONDS,
    MIN_WITHDRAW_DELAY_SECONDS,
)
from paywall.protocol.money import (
    KNOWN_ASSETS,
    ZERO_ADDRESS,
    Address,
    Asset,
    parse_address,
    parse_amount,
)
from paywall.protocol.schemes import batch
from paywall.protocol.x402 import PaymentRequired, PaymentRequirements, decode_requirements

DOLLAR_DECIMALS: Final = 6
"""Budgets count millionths of a dollar; a token that counts otherwise is not taken."""


@dataclass(frozen=True)
class Intent:
    """One offer that policy allows, understood, and how it was spelled."""

    origin: str
    accepted: Raw
    asset: Asset
    price: int
    config: ChannelConfig
    channel_id: bytes
    min_deposit: int
    in_flight: int
    extensions: dict[str, Raw] | None = None


@dataclass(frozen=True)
class Policy:
    """The owner's ceilings, in atomic units of a six-decimal dollar, and what else is allowed."""

    per_request: int
    total: int
    deposit: int
    max_withdraw_delay_seconds: int
    assets: tuple[Asset, ...] = ()

    def choose(self, payer: Address, origin: str, quote: PaymentRequired) -> Intent:
        """The cheapest offer that is allowed. Raises NoAcceptableOffer or OverBudget."""
        fit, complaints = [], []
        for raw in quote.accepts[:MAX_OFFERS]:
            try:
                fit.append(self._understand(payer, origin, raw, quote))
            except (NoAcceptableOffer, ValueError) as error:
                complaints.append(str(error))
        if not fit:
            why = "; ".join(complaints) or "there is none"
            raise NoAcceptableOffer(f"{origin} makes no offer that this wallet accepts: {why}")
        best = min(fit, key=lambda intent: intent.price)
        if best.price > self.per_request:
            raise OverBudget(
                f"{origin} asks {best.asset.show(best.price)} for one request; this wallet pays "
                f"at most {best.asset.show(self.per_request)}"
            )
        return best

    def _understand(self, payer: Address, origin: str, raw: Raw, quote: PaymentRequired) -> Intent:
        offer = decode_requirements(raw)
        if offer.scheme != batch.SCHEME:
            raise NoAcceptableOffer(f"scheme {offer.scheme!r} is not supported")
        asset = self._known(offer.network, parse_address(offer.asset))
        if asset is None:
            raise NoAcceptableOffer(f"token {offer.asset!r} on {offer.network!r} is not known")
        extra = batch.decode_extra(offer)
        if extra.asset_transfer_method not in (UNSET, None, "eip3009"):
            raise NoAcceptableOffer(f"deposits by {extra.asset_transfer_method!r} not supported")
        price = parse_amount(offer.amount)
        if price == 0:  # a lure: always the cheapest, and it would still ask for a deposit
            raise NoAcceptableOffer("the price is zero")
        config = self._config(payer, origin, offer, extra)
        return Intent(
            origin=origin,
            accepted=raw,
            asset=asset,
            price=price,
            config=config,
            channel_id=config.channel_id(offer.network),
            min_deposit=parse_amount(extra.min_deposit) if extra.min_deposit else 0,
            in_flight=max(1, min(MAX_HOLDS, extra.in_flight)) if extra.in_flight else 1,
            extensions=quote.extensions or None,
        )

    def _known(self, network: str, address: Address) -> Asset | None:
        for asset in self.assets:
            if (asset.network, asset.address) == (network, address):
                return asset
        return KNOWN_ASSETS.get((network, address))

    def _config(
        self, payer: Address, origin: str, offer: PaymentRequirements, extra: batch.BatchExtra
    ) -> ChannelConfig:
        delay = extra.withdraw_delay
        longest = min(self.max_withdraw_delay_seconds, MAX_WITHDRAW_DELAY_SECONDS)
        if not MIN_WITHDRAW_DELAY_SECONDS <= delay <= longest:
            raise NoAcceptableOffer(f"a withdraw delay of {delay} s; at most {longest} is allowed")
        authorizer = parse_address(extra.receiver_authorizer)
        receiver = parse_address(offer.pay_to)
        if ZERO_ADDRESS in (authorizer, receiver):
            raise NoAcceptableOffer("the receiver is zero")
        return ChannelConfig(
            payer=payer,
            payer_authorizer=payer,
            receiver=receiver,
            receiver_authorizer=authorizer,
            token=parse_address(offer.asset),
            withdraw_delay_seconds=delay,
            # One channel per origin, found again by everybody who has the key: two services of
            # one receiver keep separate books.
            salt=keccak(b"paywall:" + origin.encode()),
        )
