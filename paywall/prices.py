"""Which request costs what: patterns over method and path, first match wins.

A pattern is `"GET /weather/{city}"`, `"/v1/*"` (any method) or `"GET /files/{name:path}"`. `HEAD`
is priced like `GET`; a verb nobody knows, and a request that asks to be taken for another verb,
is priced by its path alone; `OPTIONS` is free, for browsers ask it before they pay.

Every spelling of a path that some application could route to a priced handler is priced: the path
as the server gave it, the path without the mount point, the path with encoded slashes kept inside
their segment, and the path after all decoding, dot segments, doubled slashes, back-slashes, case
and trailing slash. Spellings that fall under different rules are refused, because the one that is
cheap might be routed to the one that is dear. What is priced too much is a 404 that is not charged;
nothing is ever free by its spelling.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import unquote

from starlette.requests import Request

from paywall.protocol.errors import ConfigurationError, Reason, Refused
from paywall.protocol.limits import MAX_PATH_BYTES, MAX_PATH_DECODINGS


@dataclass(frozen=True, slots=True)
class UpTo:
    """A metered price: at most this much; the handler says how much with `payment.charge`."""

    price: str


def upto(price: str) -> UpTo:
    """A ceiling for a metered route, such as `upto("$0.01")`."""
    return UpTo(price)


FixedPrice = str | UpTo | None
Price = FixedPrice | Callable[[Request], Awaitable[FixedPrice]]
"""What the owner writes: "$0.001", upto("$0.01"), None for free, or an async function of it."""

_METHODS: Final = frozenset(
    ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")
)
_PATTERN = re.compile(r"(?:([A-Za-z]+) )?(/[^\s]*)", re.ASCII)
_PARAMETER = re.compile(r"\{[A-Za-z_][A-Za-z0-9_]*(?::([a-z]+))?\}", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SLASHES = re.compile(r"/{2,}")
_PLAIN = re.compile(r"(?:/[a-z0-9_~-]+)+", re.ASCII)
"""A path that has one spelling only: no case, dots, escapes, doubled or trailing slashes."""

ANY: Final = ""
"""In place of a method: whatever it is."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of the price table."""

    pattern: str
    method: str
    regex: "re.Pattern[str]"
    folded: "re.Pattern[str]"
    price: Price

    def covers(self, method: str) -> bool:
        if ANY in (self.method, method):
            return True
        return method == self.method or (method == "HEAD" and self.method == "GET")


class PriceTable:
    """The owner's price list. Finding a rule is a pure function of method and path, kept."""

    def __init__(self, prices: Mapping[str, Price]) -> None:
        if not prices:
            raise ConfigurationError('no prices are given; write {"GET /path": "$0.001"}')
        self.rules = tuple(_rule(pattern, price) for pattern, price in prices.items())
        self.find = lru_cache(maxsize=8192)(self._find)

    def _find(self, method: str, path: str, raw_path: bytes, root_path: str) -> Rule | None:
        """The rule for a request, None when it is free. Raises Refused for a malformed path."""
        if method == "OPTIONS":
            return None
        method = method if method in _METHODS else ANY
        found = {
            id(rule): rule
            for form in _spellings(path, raw_path, root_path)
            if (rule := self._first(method, form))
        }
        if len(found) > 1:
            raise Refused(Reason.MALFORMED_PATH, "Its spellings have different prices.")
        rule = next(iter(found.values()), None)
        return rule if rule and rule.price is not None else None

    def _first(self, method: str, form: "tuple[str, bool]") -> Rule | None:
        path, folded = form
        for rule in self.rules:
            regex = rule.folded if folded else rule.regex
            if rule.covers(method) and regex.fullmatch(path):
                return rule
        return None


def _rule(pattern: str, price: Price) -> Rule:
    match = _PATTERN.fullmatch(pattern)
    if match is None:
        raise ConfigurationError(f'{pattern!r} is not a route; write it like "GET /path/{{name}}"')
    method, path = (match[1] or "").upper(), match[2]
    if method and method not in _METHODS:
        raise ConfigurationError(f"{pattern!r}: {method} is not an HTTP method")
    if method == "OPTIONS":
        raise ConfigurationError(f"{pattern!r}: OPTIONS is always free")
    return Rule(pattern, method, _regex(path, pattern), _regex(_fold(path), pattern), price)


def _regex(path: str, pattern: str) -> "re.Pattern[str]":
    """A path pattern as a regular expression; `/*` at the end covers the bare prefix too."""
    star = path.endswith("/*")
    out, at = [], 0
    path = path[:-2] if star else path
    for parameter in _PARAMETER.finditer(path):
        out += [re.escape(path[at : parameter.start()])]
        out += [".+" if parameter[1] == "path" else "[^/]+"]
        at = parameter.end()
    rest = path[at:]
    if any(sign in rest for sign in "{}*"):
        raise ConfigurationError(f"{pattern!r}: use {{name}} for one segment and /* at the end")
    return re.compile("".join(out) + re.escape(rest) + ("(?:/.*)?" if star else ""), re.DOTALL)


def _fold(path: str) -> str:
    """A pattern as the canonical form of a path would spell it; parameters keep their names."""
    return "/" + path.strip("/").lower() if path.strip("/") else "/"


def _spellings(path: str, raw_path: bytes, root_path: str) -> "set[tuple[str, bool]]":
    """Every form of a path under which an application might look it up: (form, is canonical)."""
    if len(path) > MAX_PATH_BYTES or _CONTROL.search(path):
        raise Refused(Reason.MALFORMED_PATH)
    paths = {path}
    if root_path and path.startswith(root_path):
        paths.add(path[len(root_path) :] or "/")
    if b"%" in raw_path:
        segments = raw_path.decode("latin-1").split("/")
        paths.add("/".join(unquote(segment).replace("/", "_") for segment in segments))
    forms = {(form, False) for form in paths}
    return forms | {(_canonical(form), True) for form in paths if not _PLAIN.fullmatch(form)}


def _canonical(path: str) -> str:
    for _ in range(MAX_PATH_DECODINGS):
        decoded = unquote(path)
        if decoded == path:
            break
        path = decoded
    else:
        raise Refused(Reason.MALFORMED_PATH, "It is encoded too many times.")
    if _CONTROL.search(path):
        raise Refused(Reason.MALFORMED_PATH)
    kept: list[str] = []
    for segment in _SLASHES.sub("/", path.replace("\\", "/")).split("/"):
        if segment == "..":
            kept = kept[:-1]
        elif segment not in ("", "."):
            kept.append(segment)
    return "/" + "/".join(kept).lower()
