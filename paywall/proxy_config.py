"""The proxy's settings: a TOML file, what the command line adds to it, and what may be reloaded.

    upstream = "http://127.0.0.1:3000"
    pay_to = "0xYourWallet"
    network = "eip155:8453"
    unpriced = "closed"                                       # or "free", the default

    [prices]
    "GET /v1/*" = "$0.001"
    "POST /chat" = "upto $0.01"                               # the upstream says how much
    "GET /search" = { price = "$0.001", free = 100 }          # so many a day of each payer are free
    "GET /news/*" = { price = "$0.50", hours = 24 }           # a pass
    "GET /health" = "free"
    "/admin/*" = "closed"

A key that nobody knows, or a value of the wrong type, is refused by name. Keys and passwords do not
belong here: they come from the environment.
"""

import tomllib
from pathlib import Path
from typing import Final, Literal

import msgspec

from paywall.kinds import CLOSED, FixedPrice, UpTo, free_first, pass_for, upto
from paywall.prices import Price, PriceTable
from paywall.protocol.errors import ConfigurationError
from paywall.protocol.limits import ALL_DEPOSITS_PER_HOUR, CHANNELS_PER_PAYER, DEPOSITS_PER_HOUR
from paywall.protocol.payers import PayerLimits
from paywall.proxy import Timeouts
from paywall.stores import DEFAULT_STORE


class PriceRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A price with terms: `free` requests a day, or a pass for a time or some `calls`."""

    price: str
    free: int | None = None
    seconds: int = 0
    minutes: int = 0
    hours: int = 0
    days: int = 0
    calls: int | None = None
    name: str | None = None


class TimeoutRows(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds."""

    connect_seconds: float = Timeouts().connect_seconds
    read_seconds: float = Timeouts().read_seconds
    write_seconds: float = Timeouts().write_seconds


class ProxyConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything about a proxy but its secrets."""

    upstream: str = ""
    pay_to: str = ""
    network: str = "eip155:8453"
    store: str = DEFAULT_STORE
    public_url: str | None = None
    description: str | None = None
    unpriced: Literal["free", "closed"] = "free"
    keep_host: bool = False
    host: str = "127.0.0.1"
    port: int = 8402
    trusted_proxies: str = ""
    min_deposit: str = "$0.10"
    deposits_per_hour: int = DEPOSITS_PER_HOUR
    all_deposits_per_hour: int = ALL_DEPOSITS_PER_HOUR
    channels_per_payer: int = CHANNELS_PER_PAYER
    prices: dict[str, str | PriceRow] = {}
    timeouts: TimeoutRows = TimeoutRows()


RELOADED: Final = frozenset(("upstream", "unpriced", "keep_host", "prices", "timeouts"))
"""What takes effect without a restart."""


def read_config(path: Path) -> ProxyConfig:
    """The settings in a file. Raises ConfigurationError, which says where it is wrong."""
    try:
        return msgspec.convert(tomllib.loads(path.read_text("utf-8")), ProxyConfig)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigurationError(f"{path}: {error}") from error


def parse_price(line: str) -> tuple[str, str]:
    """A price of the command line, `"GET /v1/*=$0.001"`. Raises ConfigurationError."""
    pattern, sign, price = line.rpartition("=")
    if not sign or not pattern.strip() or not price.strip():
        raise ConfigurationError(f'{line!r} is not a price; write it like "GET /v1/*=$0.001"')
    return pattern.strip(), price.strip()


def checked(config: ProxyConfig) -> ProxyConfig:
    """Refuses what cannot work whatever the chain says. Raises ConfigurationError."""
    if not config.upstream:
        raise ConfigurationError("upstream: say where the service is, as http://127.0.0.1:3000")
    if not config.pay_to:
        raise ConfigurationError("pay_to: say which wallet is paid")
    PriceTable(prices_of(config))
    limits_of(config)
    for name in ("connect_seconds", "read_seconds", "write_seconds"):
        seconds = msgspec.structs.asdict(config.timeouts)[name]
        if not 0 < seconds <= 86_400:
            raise ConfigurationError(f"timeouts.{name}: {seconds} is not a time to wait")
    return config


def prices_of(config: ProxyConfig) -> dict[str, Price]:
    """The price table. Raises ConfigurationError."""
    return {pattern: _price(pattern, row) for pattern, row in config.prices.items()}


def _price(pattern: str, row: str | PriceRow) -> FixedPrice:
    if isinstance(row, str):
        return _word(row)
    timed = any((row.seconds, row.minutes, row.hours, row.days))
    if row.free is not None:
        if timed or row.calls is not None:
            raise ConfigurationError(f"{pattern!r}: it is a pass, or the first are free; not both")
        price = _word(row.price)
        if not isinstance(price, str | UpTo):
            raise ConfigurationError(f"{pattern!r}: {row.price!r} has no price after the free ones")
        return free_first(row.free, price, name=row.name)
    if not timed and row.calls is None:
        raise ConfigurationError(f"{pattern!r}: a pass is for a time, or for some calls")
    return pass_for(
        row.price,
        seconds=row.seconds,
        minutes=row.minutes,
        hours=row.hours,
        days=row.days,
        calls=row.calls,
        name=row.name,
    )


def _word(text: str) -> FixedPrice:
    if text == "free":
        return None
    if text == "closed":
        return CLOSED
    return upto(text.removeprefix("upto ").strip()) if text.startswith("upto ") else text


def limits_of(config: ProxyConfig) -> PayerLimits:
    """Raises ConfigurationError for limits that let nobody in."""
    return PayerLimits(
        config.deposits_per_hour, config.channels_per_payer, config.all_deposits_per_hour
    )


def timeouts_of(config: ProxyConfig) -> Timeouts:
    rows = config.timeouts
    return Timeouts(rows.connect_seconds, rows.read_seconds, rows.write_seconds)


def refuse_restart(old: ProxyConfig, new: ProxyConfig) -> None:
    """Raises ConfigurationError when a change needs more than a reload."""
    before, after = msgspec.structs.asdict(old), msgspec.structs.asdict(new)
    fixed = [name for name in before if name not in RELOADED and before[name] != after[name]]
    if fixed:
        raise ConfigurationError(f"{', '.join(fixed)} changed: that takes a restart")
