"""What an owner allows, and which of a provider's offers fits: the choice, without any state.

A provider's text is data: an offer is taken only for a token whose value is known, at most at the
price per request that the owner set, under a withdraw delay that the owner can bear, and with the
token's real signing domain, whatever the offer calls it.

The rule for choosing: the cheapest acceptable offer; at equal price a channel
(`batch-settlement`) before a transfer (`exact`), because a channel's next requests cost no
transaction, unless the owner says that more requests are unlikely (`expect_more=False`) and there
is no channel with this origin yet; and the next best when the budget does not allow what the best
one needs, as a deposit that is larger than what is left.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from msgspec import UNSET, Raw

from paywall.protocol.channel import ChannelConfig
from paywall.protocol.eip712 import keccak
from paywall.protocol.errors import NoAcceptableOffer, OverBudget
from paywall.protocol.limits import (
    DEFAULT_TIMEOUT_SECONDS,
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
from paywall.protocol.schemes import batch, exact
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
class ExactIntent:
    """An offer that is paid by a single transfer. `lifetime_seconds` bounds its signature."""

    origin: str
    accepted: Raw
    asset: Asset
    price: int
    pay_to: Address
    lifetime_seconds: int
    extensions: dict[str, Raw] | None = None


AnyIntent = Intent | ExactIntent


@dataclass(frozen=True)
class Policy:
    """The owner's ceilings, in atomic units of a six-decimal dollar, and what else is allowed."""

    per_request: int
    total: int
    deposit: int
    max_withdraw_delay_seconds: int
    assets: tuple[Asset, ...] = ()
    expect_more: bool = True

    def choose(self, payer: Address, origin: str, quote: PaymentRequired) -> Intent:
        """The best channel that is allowed. Raises NoAcceptableOffer or OverBudget."""
        for intent in self.rank(payer, origin, quote):
            if isinstance(intent, Intent):
                return intent
        raise NoAcceptableOffer(f"{origin} offers no channel")

    def rank(
        self,
        payer: Address,
        origin: str,
        quote: PaymentRequired,
        is_open: Callable[[Intent], bool] = lambda intent: False,
    ) -> list[AnyIntent]:
        """The offers that are allowed, the best first; `is_open` knows the channels.

        Raises NoAcceptableOffer or OverBudget when there is none.
        """
        fit: list[AnyIntent] = []
        complaints = []
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

        def order(intent: AnyIntent) -> tuple[int, int]:
            if isinstance(intent, ExactIntent):
                return intent.price, 1
            return intent.price, 0 if self.expect_more or is_open(intent) else 2

        affordable = [intent for intent in fit if intent.price <= self.per_request]
        return sorted(affordable, key=order)

    def _understand(
        self, payer: Address, origin: str, raw: Raw, quote: PaymentRequired
    ) -> AnyIntent:
        offer = decode_requirements(raw)
        if offer.scheme not in (batch.SCHEME, exact.SCHEME):
            raise NoAcceptableOffer(f"scheme {offer.scheme!r} is not supported")
        asset = self._known(offer.network, parse_address(offer.asset))
        if asset is None:
            raise NoAcceptableOffer(f"token {offer.asset!r} on {offer.network!r} is not known")
        price = parse_amount(offer.amount)
        if price == 0:  # a lure: always the cheapest, and it would still ask for a deposit
            raise NoAcceptableOffer("the price is zero")
        if offer.scheme == exact.SCHEME:
            return _transfer(origin, offer, raw, asset, price, quote.extensions or None)
        return self._channel(payer, origin, offer, raw, asset, price, quote.extensions or None)

    def _channel(
        self,
        payer: Address,
        origin: str,
        offer: PaymentRequirements,
        raw: Raw,
        asset: Asset,
        price: int,
        extensions: dict[str, Raw] | None,
    ) -> Intent:
        extra = batch.decode_extra(offer)
        if extra.asset_transfer_method not in (UNSET, None, "eip3009"):
            raise NoAcceptableOffer(f"deposits by {extra.asset_transfer_method!r} not supported")
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
            extensions=extensions,
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


def _transfer(
    origin: str,
    offer: PaymentRequirements,
    raw: Raw,
    asset: Asset,
    price: int,
    extensions: dict[str, Raw] | None,
) -> ExactIntent:
    method = exact.decode_extra(offer).asset_transfer_method
    if method not in (UNSET, None, exact.EIP3009):
        raise NoAcceptableOffer(f"transfers by {method!r} not supported")
    receiver = parse_address(offer.pay_to)
    if receiver == ZERO_ADDRESS:
        raise NoAcceptableOffer("the receiver is zero")
    if offer.max_timeout_seconds <= 0:
        raise NoAcceptableOffer("the offer leaves no time to pay")
    lifetime = min(offer.max_timeout_seconds, DEFAULT_TIMEOUT_SECONDS)
    return ExactIntent(origin, raw, asset, price, receiver, lifetime, extensions)
