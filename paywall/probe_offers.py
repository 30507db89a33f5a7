"""Whether an offer of x402 v2 says what a client can act on. Pure.

Sources: x402 specification v2, "PaymentRequirements"; exact EVM specification; batch-settlement EVM
specification, "402 Response".
"""

from collections.abc import Iterator

from msgspec import Raw

from paywall.finding import Finding, fail, ok, warn
from paywall.protocol.errors import ConfigurationError
from paywall.protocol.limits import MAX_WITHDRAW_DELAY_SECONDS, MIN_WITHDRAW_DELAY_SECONDS
from paywall.protocol.money import (
    KNOWN_ASSETS,
    ZERO_ADDRESS,
    Asset,
    chain_id_of,
    parse_address,
    parse_amount,
)
from paywall.protocol.schemes import batch, exact
from paywall.protocol.x402 import (
    Malformed,
    PaymentRequirements,
    decode_requirements,
    show_address,
)

_DAY_SECONDS = 86_400


def examine(raw: Raw, number: int) -> list[Finding]:
    """All that is to be said of one entry of `accepts`."""
    try:
        offer = decode_requirements(raw)
    except Malformed as error:
        mend = "scheme, network, asset, amount, payTo, maxTimeoutSeconds and extra are required"
        return [fail(f"offer {number}", f"it cannot be read: {error}", mend)]
    return list(_offer(offer, f"offer {number}"))


def _offer(offer: PaymentRequirements, name: str) -> Iterator[Finding]:
    yield from _network(offer, name)
    yield from _amount(offer, name)
    yield from _address(offer.pay_to, f"{name}: payTo")
    yield from _address(offer.asset, f"{name}: asset")
    if not 0 < offer.max_timeout_seconds <= _DAY_SECONDS:
        yield warn(name, f"maxTimeoutSeconds is {offer.max_timeout_seconds}", "60 to 600 is usual")
    if offer.scheme == exact.SCHEME:
        yield from _exact(offer, name)
    elif offer.scheme == batch.SCHEME:
        yield from _batch(offer, name)
    else:
        mend = "clients that know exact or batch-settlement only will pass it over"
        yield warn(name, f"the scheme {offer.scheme!r} is not known here", mend)


def _network(offer: PaymentRequirements, name: str) -> Iterator[Finding]:
    try:
        chain_id_of(offer.network)
    except ConfigurationError:
        mend = 'write networks in CAIP-2, such as "eip155:8453"'
        yield fail(f"{name}: network", f"{offer.network!r} is no EVM network", mend)


def _amount(offer: PaymentRequirements, name: str) -> Iterator[Finding]:
    asset = asset_of(offer)
    try:
        units = parse_amount(offer.amount)
    except ValueError as error:
        mend = "write atomic units as a string of digits"
        yield fail(f"{name}: amount", f"{offer.amount!r}: {error}", mend)
        return
    if units == 0:
        yield warn(f"{name}: amount", "the price is zero", "careful clients do not pay nothing")
        return
    shown = asset.show(units) if asset else f"{units} atomic units"
    yield ok(name, f"{offer.scheme}, {shown} on {offer.network}")


def asset_of(offer: PaymentRequirements) -> Asset | None:
    """The token, when its value is known."""
    try:
        return KNOWN_ASSETS.get((offer.network, parse_address(offer.asset)))
    except ValueError:
        return None


def _address(text: str, subject: str) -> Iterator[Finding]:
    try:
        address = parse_address(text)
    except ValueError:
        yield fail(subject, f"{text!r} is no address", "write 20 bytes of 0x-hex")
        return
    if address == ZERO_ADDRESS:
        yield fail(subject, "it is the zero address", "say who is paid, and in which token")
    elif text != show_address(address):
        yield warn(subject, "it has no checksum (EIP-55)", f"write it {show_address(address)}")


def _exact(offer: PaymentRequirements, name: str) -> Iterator[Finding]:
    try:
        extra = exact.decode_extra(offer)
    except Malformed as error:
        mend = "extra needs name and version, the EIP-712 domain of the token"
        yield fail(f"{name}: extra", f"it cannot be read: {error}", mend)
        return
    yield from _domain(offer, extra.name, extra.version, name)


def _batch(offer: PaymentRequirements, name: str) -> Iterator[Finding]:
    try:
        extra = batch.decode_extra(offer)
    except Malformed as error:
        mend = "extra needs name, version, receiverAuthorizer and withdrawDelay"
        yield fail(f"{name}: extra", f"it cannot be read: {error}", mend)
        return
    yield from _domain(offer, extra.name, extra.version, name)
    yield from _address(extra.receiver_authorizer, f"{name}: receiverAuthorizer")
    least, most = MIN_WITHDRAW_DELAY_SECONDS, MAX_WITHDRAW_DELAY_SECONDS
    if not least <= extra.withdraw_delay <= most:
        mend = f"the contract takes {least} to {most} seconds"
        yield fail(f"{name}: withdrawDelay", f"it is {extra.withdraw_delay}", mend)
    if not extra.in_flight:
        yield ok(name, "one request at a time on a channel")
    elif extra.in_flight > 0:
        yield ok(name, f"{extra.in_flight} requests at once on a channel")


def _domain(offer: PaymentRequirements, name: str, version: str, where: str) -> Iterator[Finding]:
    """A wrong domain makes every signature worthless."""
    asset = asset_of(offer)
    if asset is None:
        mend = "clients pay in a token that they know, or that their owner has allowed"
        yield warn(f"{where}: asset", "this token is not known here", mend)
    elif (name, version) != (asset.name, asset.version):
        mend = f"the token's own is {asset.name!r}, version {asset.version!r}"
        yield fail(f"{where}: extra", f"the domain is {name!r}, version {version!r}", mend)
