"""What a Redis URL says: where, as whom, and how patiently. No connection here.

    redis://[user:password@]host[:port][/database]      rediss:// for TLS
    redis+unix:///path/of/the/socket?database=0         also unix://
    redis+sentinel://host[:port],host[:port]/service[/database]
    redis+cluster://host[:port],host[:port]

The last two have their TLS forms too, rediss+sentinel:// and rediss+cluster://.

Options, after `?`: `prefix` of all keys (paywall), `timeout` in seconds for which a verb is tried
(10), `replicas` that must have a payment before its request runs (0) and `wait_ms` to wait for them
(100), `ca`, `cert` and `key` files for TLS, `sentinel_user` and `sentinel_password`. Whatever is
shown of a URL is its scheme, hosts and ports.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from paywall.protocol.errors import ConfigurationError
from paywall.protocol.limits import STORE_BUSY_SECONDS

Place = tuple[str, int]
"""Host and port; a Unix socket's path and 0."""

SCHEMES: Final = (
    *("redis", "rediss", "redis+unix", "unix"),
    *("redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"),
)
_PORTS: Final = {"sentinel": 26379}
_PREFIX = re.compile(r"[A-Za-z0-9_.:-]{1,64}", re.ASCII)
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::(\d{1,5}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """A URL that was understood."""

    scheme: str
    addresses: tuple[Place, ...]
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    service: str = ""
    database: int = 0
    prefix: str = "paywall"
    timeout_seconds: float = STORE_BUSY_SECONDS
    replicas: int = 0
    wait_ms: int = 100
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    sentinel_user: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)

    @property
    def tls(self) -> bool:
        return self.scheme.startswith("rediss")

    @property
    def kind(self) -> str:
        """`sentinel`, `cluster`, `unix`, or `redis` for one server."""
        return self.scheme.rpartition("+")[2].replace("rediss", "redis")

    def show(self, address: Place | None = None) -> str:
        """The URL, or one of its servers, without anything that is secret."""
        shown = [show_address(one) for one in ([address] if address else self.addresses)]
        return f"{self.scheme}://{','.join(shown)}"


def show_address(address: Place) -> str:
    host, port = address
    if not port:
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_redis_url(url: str) -> RedisUrl:
    """What the URL says. Raises ConfigurationError, without showing the URL."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigurationError("the store's URL cannot be read") from error
    scheme = parts.scheme
    kind = scheme.rpartition("+")[2]
    if scheme not in SCHEMES or parts.fragment:
        raise ConfigurationError(
            f"a {scheme}:// URL has a '#'; write it as %23" if scheme in SCHEMES else "not Redis"
        )
    options = _options(parts)
    secret, _, hosts = parts.netloc.rpartition("@")
    username, _, password = secret.partition(":")
    names: dict[str, str] = {}
    if kind == "unix":
        addresses: tuple[Place, ...] = ((unquote(parts.path), 0),)
        database = options.pop("database", "0")
        if hosts or len(parts.path) < 2:
            raise ConfigurationError(f"write {scheme}:///path/of/the/socket")
    else:
        addresses = tuple(_address(host, scheme) for host in hosts.split(","))
        if len(addresses) > 1 and kind in ("redis", "rediss"):
            raise ConfigurationError(
                f"{scheme}:// is one server; for more add +sentinel or +cluster"
            )
        names["service"], database = _path(parts.path, kind, scheme)
    return RedisUrl(
        scheme,
        addresses,
        username=unquote(username) or None,
        password=unquote(password) or None,
        database=int(_number("database", database, int, 0, 2**31 - 1)),
        prefix=_prefix(options.pop("prefix", "paywall")),
        timeout_seconds=_number(
            "timeout", options.pop("timeout", str(STORE_BUSY_SECONDS)), float, 0.01, 3600
        ),
        replicas=int(_number("replicas", options.pop("replicas", "0"), int, 0, 100)),
        wait_ms=int(_number("wait_ms", options.pop("wait_ms", "100"), int, 1, 60_000)),
        **names,
        **_rest(options, scheme),
    )


def _options(parts: SplitResult) -> dict[str, str]:
    try:
        return dict(
            parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        )
    except ValueError as error:
        raise ConfigurationError("the options of the store's URL cannot be read") from error


def _address(text: str, scheme: str) -> Place:
    match = _HOST.fullmatch(text)
    if match is None:
        raise ConfigurationError(f"write {scheme}://host:port, several with commas, no spaces")
    port = int(match[2] or _PORTS.get(scheme.rpartition("+")[2], 6379))
    if not 0 < port < 2**16:
        raise ConfigurationError(f"{port} is not a port")
    return match[1].strip("[]"), port


def _path(path: str, kind: str, scheme: str) -> tuple[str, str]:
    """Name of the sentinels' service, and the database."""
    parts = [unquote(part) for part in path.strip("/").split("/")]
    service = parts.pop(0) if kind == "sentinel" else ""
    if kind == "sentinel" and not service:
        raise ConfigurationError(f"write {scheme}://host:port/service")
    database = parts.pop(0) if parts else ""
    if parts or (kind == "cluster" and database not in ("", "0")):
        raise ConfigurationError(f"{scheme}:// cannot have the path {path!r}")
    return service, database or "0"


def _prefix(text: str) -> str:
    if _PREFIX.fullmatch(text) is None:
        raise ConfigurationError("prefix= is 1 to 64 of A-Z a-z 0-9 _ . : -")
    return text


def _number(name: str, text: str, kind: Callable[[str], float], least: float, most: float) -> float:
    try:
        number = kind(text)
    except ValueError:
        number = least - 1
    if not least <= number <= most:
        raise ConfigurationError(f"{name}={text} is not a number from {least} to {most}")
    return number


def _rest(options: dict[str, str], scheme: str) -> dict[str, str]:
    known = {"sentinel_user", "sentinel_password"} if "sentinel" in scheme else set()
    known |= {"ca", "cert", "key"} if scheme.startswith("rediss") else set()
    for name in options:
        if name not in known:
            listed = ", ".join(["prefix", "timeout", "replicas", "wait_ms", *sorted(known)])
            raise ConfigurationError(f"{scheme}:// has no option {name!r}; known are {listed}")
    return options
