"""Which request costs what: patterns over method and path, first match wins.

A pattern is `"GET /weather/{city}"`, `"/v1/*"` (any method) or `"GET /files/{name:path}"`. `HEAD`
is priced like `GET`; a verb nobody knows, and a request that asks to be taken for another verb,
is priced as every verb at once; `OPTIONS` is free, for browsers ask it before they pay.

Every spelling of a path that some application could route to a priced handler is priced: the path
as the server gave it, the path without the mount point, the path with encoded slashes kept inside
their segment, and all that an application can make of these by folding case, taking off layers of
encoding, turning back-slashes, collapsing slashes, dropping path parameters and resolving dot
segments. An application does some of this and not the rest, so any of it is tried in any order.
Spellings that fall under different prices are refused, because the one that is cheap might be
routed to the one that is dear. What is priced too much is a 404 that is not charged; nothing is
ever free by its spelling.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Final
from unicodedata import normalize
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
_PRICED_METHODS: Final = tuple(sorted(_METHODS - {"OPTIONS"}))
_CONVERTERS: Final = {None: "[^/]+", "path": ".*"} | dict.fromkeys(
    ("str", "int", "float", "uuid"), "[^/]+"
)
"""What a parameter may cover, as in Starlette's routes: a path parameter may also be empty."""
_PATTERN = re.compile(r"(?:([A-Za-z]+) )?(/[^\s?#%]*)", re.ASCII)
_PARAMETER = re.compile(r"\{[A-Za-z_][A-Za-z0-9_]*(?::([a-z]+))?\}", re.ASCII)
_REST = re.compile(r"/\{[^{}/]*:path\}$")
"""A path parameter at the end. A tidy application may reach it without the slash before it."""
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
"""Control characters, of which routers have their own ideas, and what no URL can carry."""
_ENCODED_SLASH = re.compile("%2f", re.IGNORECASE)
_SLASHES = re.compile("/{2,}")
_PATH_PARAMETERS = re.compile(r";[^/]*")
_PLAIN = re.compile(r"(?:/[a-z0-9_~-]+)+", re.ASCII)
"""A path that has one spelling only: no case, dots, escapes, doubled or trailing slashes."""

ANY: Final = ""
"""In place of a method: whatever it is."""

_MAX_FORMS: Final = 64
"""A path that can be read in more ways than this is refused; honest ones have a handful."""
_MAX_KEPT_PATH: Final = 512
"""What was found for a longer path is not kept: strangers choose the paths, and memory is ours."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of the price table. `folded` is for canonical forms, `regex` for all others."""

    pattern: str
    method: str
    regex: "re.Pattern[str]"
    folded: "re.Pattern[str]"
    price: Price

    def covers(self, method: str) -> bool:
        return self.method in (ANY, method) or (method == "HEAD" and self.method == "GET")


class PriceTable:
    """The owner's price list. Finding a rule is a pure function of method and path, kept."""

    def __init__(self, prices: Mapping[str, Price]) -> None:
        if not prices:
            raise ConfigurationError('no prices are given; write {"GET /path": "$0.001"}')
        self.rules = tuple(_rule(pattern, price) for pattern, price in prices.items())
        _refuse_twins(self.rules)
        self._find_kept = lru_cache(maxsize=8192)(self._find)

    def find(self, method: str, path: str, raw_path: bytes, root_path: str) -> Rule | None:
        """The rule for a request, None when it is free. Raises Refused for a malformed path."""
        if len(path) + len(raw_path) > _MAX_KEPT_PATH:
            return self._find(method, path, raw_path, root_path)
        return self._find_kept(method, path, raw_path, root_path)

    def _find(self, method: str, path: str, raw_path: bytes, root_path: str) -> Rule | None:
        if method == "OPTIONS":
            return None
        methods = (method,) if method in _METHODS else _PRICED_METHODS
        found = {
            rule.price: rule
            for form in _spellings(path, raw_path, root_path)
            for method in methods
            if (rule := self._first(method, form))
        }
        if len(found) > 1:
            raise Refused(Reason.MALFORMED_PATH, "Its spellings or verbs have different prices.")
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
        raise ConfigurationError(
            f'{pattern!r} is not a route; write it like "GET /path/{{name}}", '
            "decoded and without a query"
        )
    method, path = (match[1] or "").upper(), match[2]
    if method and method not in _METHODS:
        raise ConfigurationError(f"{pattern!r}: {method} is not an HTTP method")
    if method == "OPTIONS":
        raise ConfigurationError(f"{pattern!r}: OPTIONS is always free")
    folded = _REST.sub("/*", "/" + _collapse_slashes(_turn_slashes(_fold(path))).strip("/"))
    return Rule(pattern, method, _regex(path, pattern), _regex(folded, pattern), price)


def _regex(path: str, pattern: str) -> "re.Pattern[str]":
    """A path pattern as a regular expression; `/*` at the end covers the bare prefix too."""
    star = path.endswith("/*")
    out, at = [], 0
    path = path[:-2] if star else path
    for parameter in _PARAMETER.finditer(path):
        if parameter[1] not in _CONVERTERS:
            raise ConfigurationError(f"{pattern!r}: write {{name}}, or {{name:path}} for a rest")
        out += [re.escape(path[at : parameter.start()]), _CONVERTERS[parameter[1]]]
        at = parameter.end()
    rest = path[at:]
    if any(sign in "".join(out[::2]) + rest for sign in "{}*"):
        raise ConfigurationError(f"{pattern!r}: use {{name}} for one segment and /* at the end")
    return re.compile("".join(out) + re.escape(rest) + ("(?:/.*)?" if star else ""), re.DOTALL)


def _refuse_twins(rules: tuple[Rule, ...]) -> None:
    """Routes that differ only in case or slashes have one price; else neither could be asked."""
    for one, other in combinations(rules, 2):
        same = one.folded == other.folded and (one.covers(other.method) or other.covers(one.method))
        if same and one.regex != other.regex and one.price != other.price:
            raise ConfigurationError(
                f"{one.pattern!r} and {other.pattern!r} differ only in case or slashes: "
                "give them one price"
            )


def _spellings(path: str, raw_path: bytes, root_path: str) -> "set[tuple[str, bool]]":
    """Every form of a path under which an application might look it up: (form, is canonical)."""
    if len(path) > MAX_PATH_BYTES or _UNSAFE.search(path):
        raise Refused(Reason.MALFORMED_PATH)
    root = root_path.rstrip("/")
    given = {path}
    if b"%" in raw_path:
        given.add(_decode_inside(raw_path.decode("latin-1")))
    given |= _inside(given, root)
    canonical = set().union(*(_canonical(form) for form in given))
    canonical |= _inside(canonical, _fold(root))
    return {(form, False) for form in given} | {(form, True) for form in canonical}


def _inside(forms: "set[str]", root: str) -> "set[str]":
    """What is left of the forms inside the mount point."""
    if not root:
        return set()
    return {form[len(root) :] or "/" for form in forms if form.startswith(root)}


def _canonical(path: str) -> "set[str]":
    """What a path may become in an application that tidies it up, in any way and any order."""
    if _PLAIN.fullmatch(path):
        return {path}
    _refuse_layers(path)
    found: set[str] = set()
    todo = [_fold(path)]
    while todo:
        form = todo.pop()
        if form in found:
            continue
        if len(found) == _MAX_FORMS or _UNSAFE.search(form):
            raise Refused(Reason.MALFORMED_PATH)
        found.add(form)
        todo += [_fold(step(form)) for step in _TIDYING]
    return {spelling for form in found for spelling in (form, "/" + form.strip("/"))}


def _refuse_layers(path: str) -> None:
    for _ in range(MAX_PATH_DECODINGS):
        path, before = unquote(path), path
        if path == before:
            return
    raise Refused(Reason.MALFORMED_PATH, "It is encoded too many times.")


def _fold(path: str) -> str:
    """Without the differences of case and of look-alike letters."""
    if not path.isascii():
        path = normalize("NFKC", path)
    return path.casefold()


def _decode_inside(path: str) -> str:
    """Decoded within its segments: an encoded slash is a letter like others."""
    return unquote(_ENCODED_SLASH.sub("_", path))


def _turn_slashes(path: str) -> str:
    return path.replace("\\", "/")


def _collapse_slashes(path: str) -> str:
    return _SLASHES.sub("/", path)


def _drop_parameters(path: str) -> str:
    return _PATH_PARAMETERS.sub("", path)


def _resolve_dots(path: str) -> str:
    kept: list[str] = []
    segments = path.removeprefix("/").split("/")
    for segment in segments:
        if segment == "..":
            kept = kept[:-1]
        elif segment != ".":
            kept.append(segment)
    if kept and segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)


_TIDYING: Final = (
    unquote,
    _decode_inside,
    _turn_slashes,
    _collapse_slashes,
    _drop_parameters,
    _resolve_dots,
)
