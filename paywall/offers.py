"""A provider's offers, understood: what would be signed, for which channel, at what price.

An offer is taken only for a token whose value is known, under a withdraw delay that the owner can
bear, for receivers and networks that the owner allows, and with the token's real signing domain,
whatever the offer calls it. Everything else in it is data. Which offer is best is not asked here.

Sources: x402 v2, "PaymentRequirements"; batch-settlement EVM specification, "402 Response".
"""

import dataclasses
from dataclasses import dataclass

from msgspec import UNSET, Raw
from msgspec.structs import replace

from paywall.policy import Policy
from paywall.protocol.channel import ChannelConfig
from paywall.protocol.eip712 import keccak
from paywall.protocol.errors import NoAcceptableOffer
from paywall.protocol.limits import (
    MAX_HOLDS,
    MAX_LANES,
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
from paywall.protocol.x402 import PaymentRequirements, decode_requirements


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

    def lane(self, number: int) -> "Intent":
        """The same offer over another channel with this provider; lane 0 is this one."""
        if number == 0:
            return self
        config = replace(self.config, salt=_lane_salt(self.config.salt, number))
        channel_id = config.channel_id(self.asset.network)
        return dataclasses.replace(self, config=config, channel_id=channel_id)


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
class Payer:
    """Whose money it is, and who signs vouchers for it: the same, unless there is a voucher key."""

    account: Address
    authorizer: Address


def understand(policy: Policy, payer: Payer, origin: str, raw: Raw) -> AnyIntent:
    """What accepting this offer means. Raises NoAcceptableOffer or ValueError."""
    offer = decode_requirements(raw)
    if offer.scheme not in (batch.SCHEME, exact.SCHEME):
        raise NoAcceptableOffer(f"scheme {offer.scheme!r} is not supported")
    asset = known_asset(policy, offer.network, parse_address(offer.asset))
    price = parse_amount(offer.amount)
    if price == 0:  # a lure: always the cheapest, and it would still ask for a deposit
        raise NoAcceptableOffer("the price is zero")
    receiver = parse_address(offer.pay_to)
    if receiver == ZERO_ADDRESS:
        raise NoAcceptableOffer("the receiver is zero")
    policy.refuse_receiver(receiver)
    if offer.scheme == exact.SCHEME:
        return _transfer(policy, origin, offer, raw, asset, price)
    return _channel(policy, payer, origin, offer, raw, asset, price)


def known_asset(policy: Policy, network: str, address: Address) -> Asset:
    """A token whose value is known and that the owner allows. Raises NoAcceptableOffer."""
    extra = {(asset.network, asset.address): asset for asset in policy.assets}
    asset = extra.get((network, address)) or KNOWN_ASSETS.get((network, address))
    if asset is None:
        raise NoAcceptableOffer(f"token 0x{address.hex()} on {network!r} is not known")
    policy.refuse_asset(asset)
    return asset


def _channel(
    policy: Policy,
    payer: Payer,
    origin: str,
    offer: PaymentRequirements,
    raw: Raw,
    asset: Asset,
    price: int,
) -> Intent:
    extra = batch.decode_extra(offer)
    if extra.asset_transfer_method not in (UNSET, None, "eip3009"):
        raise NoAcceptableOffer(f"deposits by {extra.asset_transfer_method!r} not supported")
    config = _config(policy, payer, origin, offer, extra)
    return Intent(
        origin=origin,
        accepted=raw,
        asset=asset,
        price=price,
        config=config,
        channel_id=config.channel_id(offer.network),
        min_deposit=parse_amount(extra.min_deposit) if extra.min_deposit else 0,
        in_flight=max(1, min(MAX_HOLDS, extra.in_flight)) if extra.in_flight else 1,
    )


def _config(
    policy: Policy, payer: Payer, origin: str, offer: PaymentRequirements, extra: batch.BatchExtra
) -> ChannelConfig:
    delay = extra.withdraw_delay
    longest = min(policy.max_withdraw_delay_seconds, MAX_WITHDRAW_DELAY_SECONDS)
    if not MIN_WITHDRAW_DELAY_SECONDS <= delay <= longest:
        raise NoAcceptableOffer(f"a withdraw delay of {delay} s; at most {longest} is allowed")
    authorizer = parse_address(extra.receiver_authorizer)
    if authorizer == ZERO_ADDRESS:
        raise NoAcceptableOffer("the receiver's authorizer is zero")
    return ChannelConfig(
        payer=payer.account,
        payer_authorizer=payer.authorizer,
        receiver=parse_address(offer.pay_to),
        receiver_authorizer=authorizer,
        token=parse_address(offer.asset),
        withdraw_delay_seconds=delay,
        salt=_salt(origin),
    )


def _salt(origin: str) -> bytes:
    """One channel per origin, found again by everybody who has the key: two services of one
    receiver keep separate books."""
    return keccak(b"paywall:" + origin.encode())


def _lane_salt(salt: bytes, number: int) -> bytes:
    return keccak(salt + b":lane:" + str(number).encode())


def salts_of(origin: str) -> list[bytes]:
    """The salts of every channel that a wallet opens with an origin."""
    salt = _salt(origin)
    return [salt, *(_lane_salt(salt, number) for number in range(1, MAX_LANES))]


def _transfer(
    policy: Policy, origin: str, offer: PaymentRequirements, raw: Raw, asset: Asset, price: int
) -> ExactIntent:
    method = exact.decode_extra(offer).asset_transfer_method
    if method not in (UNSET, None, exact.EIP3009):
        raise NoAcceptableOffer(f"transfers by {method!r} not supported")
    if offer.max_timeout_seconds <= 0:
        raise NoAcceptableOffer("the offer leaves no time to pay")
    lifetime = min(offer.max_timeout_seconds, policy.max_authorization_seconds)
    return ExactIntent(origin, raw, asset, price, parse_address(offer.pay_to), lifetime)
