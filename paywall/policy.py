"""What an owner allows: ceilings, lists, and the longest times that money may be tied up.

    Wallet(per_request="$0.01", per_day="$1", total="$20", allow_origins=["*.example.com"])

Prices are in dollars; inside they are atomic units of a six-decimal dollar. A ceiling that is not
set does not bind, but `total`, `per_request` and `deposit` always are set, and small. What is on a
deny list is refused whatever the allow list says; an empty allow list allows all. No state here,
and no provider's word.

A pattern of an origin is a host ("api.example"), all below a domain ("*.example.com", not the
domain itself), or either with scheme and, unless it is the scheme's own, port
("https://*.example.com:8443"). Hosts are compared as they are written in the URL, in lower case.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypedDict
from urllib.parse import urlsplit

from paywall.protocol.errors import ConfigurationError, NoAcceptableOffer
from paywall.protocol.limits import (
    DEFAULT_TIMEOUT_SECONDS,
    MAX_AUTHORIZATION_SECONDS,
    MAX_HISTORY_ENTRIES,
    MAX_LANES,
    MIN_AUTHORIZATION_LEFT_SECONDS,
)
from paywall.protocol.money import USDC, Address, Asset, chain_id_of, parse_address

DOLLAR_DECIMALS: Final = 6
"""Budgets count millionths of a dollar; a token that counts otherwise is not taken."""
_DAY_SECONDS: Final = 86_400
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_PATTERN = re.compile(r"(?:(https?)://)?(\*|(?:\*\.)?[^*/:@\s]+|\[[0-9a-f:.]+\])(?::(\d{1,5}))?")


class Limits(TypedDict, total=False):
    """What `Wallet` takes besides its keys. Amounts are prices such as "$0.01".

    Ceilings hold what was signed, also what a provider says that it refused: it has it still.
    """

    per_request: str
    """No request costs more. One cent."""
    per_host: str
    """What one host gets altogether."""
    per_minute: str
    """What is spent in any 60 seconds."""
    per_day: str
    """What is spent in any 24 hours."""
    total: str
    """All that ever leaves the wallet, deposits that are still locked up included. Five dollars."""
    deposit: str
    """What a channel is filled with. Half a dollar."""
    per_deposit: str
    """The most that is locked up at a time when a provider asks for more; `deposit` if not set."""
    top_up_percent: int
    """A channel is filled again when less than this share of `deposit` is left in it; 0: when it
    is empty, and everybody waits. 20."""
    approve_above: str
    """From here on the owner is asked (`approve`), for a price as for a deposit."""
    max_withdraw_delay_seconds: int
    """The longest that a provider may keep a deposit from being withdrawn. Seven days."""
    max_authorization_seconds: int
    """How long a signed transfer or deposit may be submitted. Five minutes."""
    lanes: int
    """How many channels with one provider may be open, where one is too few. 1."""
    expect_more: bool
    """Whether a channel is opened where a single transfer costs as much. True."""
    history: int
    """How many ends of payments are remembered. 100,000."""
    assets: Iterable[Asset]
    """Tokens to accept besides those that are known."""
    allow_origins: Iterable[str]
    deny_origins: Iterable[str]
    allow_networks: Iterable[str]
    deny_networks: Iterable[str]
    allow_assets: Iterable[Asset]
    deny_assets: Iterable[Asset]
    allow_receivers: Iterable[str]
    deny_receivers: Iterable[str]


@dataclass(frozen=True)
class OriginPattern:
    """Some origins. `host` may begin with `*.`; `port` counts only with a scheme."""

    scheme: str | None
    host: str
    port: int | None

    def matches(self, scheme: str, host: str, port: int) -> bool:
        if self.scheme is not None and (self.scheme, self.port) != (scheme, port):
            return False
        if self.scheme is None and self.port not in (None, port):
            return False
        if self.host == "*":
            return True
        return host.endswith(self.host[1:]) if self.host.startswith("*.") else host == self.host


@dataclass(frozen=True)
class Policy:
    """The owner's word. Amounts are atomic units of a six-decimal dollar; None does not bind."""

    per_request: int
    total: int
    deposit: int
    max_withdraw_delay_seconds: int = 7 * _DAY_SECONDS
    assets: tuple[Asset, ...] = ()
    expect_more: bool = True
    per_host: int | None = None
    per_minute: int | None = None
    per_day: int | None = None
    per_deposit: int | None = None
    top_up_percent: int = 20
    approve_above: int | None = None
    max_authorization_seconds: int = DEFAULT_TIMEOUT_SECONDS
    lanes: int = 1
    history: int = 100_000
    allow_origins: tuple[OriginPattern, ...] = ()
    deny_origins: tuple[OriginPattern, ...] = ()
    allow_networks: frozenset[str] = frozenset()
    deny_networks: frozenset[str] = frozenset()
    allow_assets: tuple[Asset, ...] = ()
    deny_assets: tuple[Asset, ...] = ()
    allow_receivers: frozenset[Address] = frozenset()
    deny_receivers: frozenset[Address] = frozenset()

    def __post_init__(self) -> None:
        if not 1 <= self.lanes <= MAX_LANES:
            raise ConfigurationError(f"lanes must be 1 to {MAX_LANES}")
        if not 0 < self.history <= MAX_HISTORY_ENTRIES:
            raise ConfigurationError(f"history must be 1 to {MAX_HISTORY_ENTRIES}")
        if not 0 <= self.top_up_percent <= 100:
            raise ConfigurationError("top_up_percent must be 0 to 100")
        seconds, shortest = self.max_authorization_seconds, 2 * MIN_AUTHORIZATION_LEFT_SECONDS
        if not shortest <= seconds <= MAX_AUTHORIZATION_SECONDS:
            raise ConfigurationError(
                f"max_authorization_seconds must be {shortest} to {MAX_AUTHORIZATION_SECONDS}"
            )

    @property
    def most_per_deposit(self) -> int:
        return self.deposit if self.per_deposit is None else self.per_deposit

    def refuse_origin(self, origin: str) -> None:
        """Raises NoAcceptableOffer for a place that is not to be paid."""
        if not (self.allow_origins or self.deny_origins):
            return
        try:
            parts = urlsplit(origin)
            port = parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)
        except ValueError as error:
            raise NoAcceptableOffer(f"{origin} is no origin") from error
        place = (parts.scheme, (parts.hostname or "").rstrip("."), port)
        if any(pattern.matches(*place) for pattern in self.deny_origins):
            raise NoAcceptableOffer(f"{origin} is not paid: deny_origins")
        if self.allow_origins and not any(each.matches(*place) for each in self.allow_origins):
            raise NoAcceptableOffer(f"{origin} is not paid: it is not among allow_origins")

    def refuse_receiver(self, receiver: Address) -> None:
        shown = "0x" + receiver.hex()
        if receiver in self.deny_receivers:
            raise NoAcceptableOffer(f"{shown} is not paid: deny_receivers")
        if self.allow_receivers and receiver not in self.allow_receivers:
            raise NoAcceptableOffer(f"{shown} is not paid: it is not among allow_receivers")

    def refuse_asset(self, asset: Asset) -> None:
        network = asset.network
        if network in self.deny_networks:
            raise NoAcceptableOffer(f"nothing is paid on {network}: deny_networks")
        if self.allow_networks and network not in self.allow_networks:
            raise NoAcceptableOffer(f"nothing is paid on {network}: it is not among allow_networks")
        if asset in self.deny_assets:
            raise NoAcceptableOffer(f"{asset.symbol} on {network} is not paid: deny_assets")
        if self.allow_assets and asset not in self.allow_assets:
            raise NoAcceptableOffer(
                f"{asset.symbol} on {network} is not paid: it is not among allow_assets"
            )


def policy_of(limits: Limits) -> Policy:
    """An owner's settings, converted once. Raises ConfigurationError."""
    allowed = checked_assets(limits.get("allow_assets", ()))
    return Policy(
        per_request=_dollars(limits.get("per_request", "$0.01")),
        total=_dollars(limits.get("total", "$5")),
        deposit=_dollars(limits.get("deposit", "$0.50")),
        per_deposit=_dollars_or_none(limits.get("per_deposit")),
        per_host=_dollars_or_none(limits.get("per_host")),
        per_minute=_dollars_or_none(limits.get("per_minute")),
        per_day=_dollars_or_none(limits.get("per_day")),
        approve_above=_dollars_or_none(limits.get("approve_above")),
        top_up_percent=limits.get("top_up_percent", 20),
        max_withdraw_delay_seconds=limits.get("max_withdraw_delay_seconds", 7 * _DAY_SECONDS),
        max_authorization_seconds=limits.get("max_authorization_seconds", DEFAULT_TIMEOUT_SECONDS),
        lanes=limits.get("lanes", 1),
        history=limits.get("history", 100_000),
        expect_more=limits.get("expect_more", True),
        assets=checked_assets(limits.get("assets", ())) + allowed,
        allow_origins=_patterns(limits.get("allow_origins", ())),
        deny_origins=_patterns(limits.get("deny_origins", ())),
        allow_networks=_networks(limits.get("allow_networks", ())),
        deny_networks=_networks(limits.get("deny_networks", ())),
        allow_assets=allowed,
        deny_assets=tuple(limits.get("deny_assets", ())),
        allow_receivers=_receivers(limits.get("allow_receivers", ())),
        deny_receivers=_receivers(limits.get("deny_receivers", ())),
    )


def checked_assets(assets: Iterable[Asset]) -> tuple[Asset, ...]:
    allowed = tuple(assets)
    for asset in allowed:
        if asset.decimals != DOLLAR_DECIMALS:
            raise ConfigurationError(f"{asset.symbol} has {asset.decimals} decimals, not 6")
    return allowed


def _dollars(price: str) -> int:
    return USDC.base.units(price)


def _dollars_or_none(price: str | None) -> int | None:
    return None if price is None else _dollars(price)


def _several(values: Iterable[str]) -> Iterable[str]:
    if isinstance(values, str):
        raise ConfigurationError(f"{values!r} is one; write a list")
    return values


def _patterns(patterns: Iterable[str]) -> tuple[OriginPattern, ...]:
    return tuple(_pattern(pattern) for pattern in _several(patterns))


def _pattern(text: str) -> OriginPattern:
    match = _PATTERN.fullmatch(text.lower())
    if match is None:
        raise ConfigurationError(
            f'{text!r} is no pattern of an origin; write "api.example", "*.example.com" or '
            '"https://api.example:8443"'
        )
    scheme, host, port = match.groups()
    number = int(port) if port else (_DEFAULT_PORTS[scheme] if scheme else None)
    return OriginPattern(scheme, host.strip("[]").rstrip("."), number)


def _networks(networks: Iterable[str]) -> frozenset[str]:
    names = frozenset(_several(networks))
    for name in names:
        chain_id_of(name)
    return names


def _receivers(receivers: Iterable[str]) -> frozenset[Address]:
    try:
        return frozenset(parse_address(receiver) for receiver in _several(receivers))
    except ValueError as error:
        raise ConfigurationError(f"a receiver is an address: {error}") from error
