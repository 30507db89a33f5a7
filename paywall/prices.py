"""Which request costs what: patterns over method and path, first match wins.

A pattern is `"GET /weather/{city}"`, `"/v1/*"` (any method) or `"GET /files/{name:path}"`. `HEAD`
is priced like `GET`; a verb nobody knows, and a request that asks to be taken for another verb,
is priced as every verb at once; `OPTIONS` is free, for browsers ask it before they pay.

Every spelling of a path that some application could route to a priced handler is priced
(`paywall.spellings`). Spellings that fall under different prices are refused, because the one that
is cheap might be routed to the one that is dear. What is priced too much is a 404 that is not
charged; nothing is ever free by its spelling.
"""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations
from typing import Final

from starlette.requests import Request

from paywall.kinds import CLOSED, FixedPrice
from paywall.protocol.errors import ConfigurationError, Reason, Refused
from paywall.spellings import Spelling, collapse_slashes, fold, spellings, turn_slashes

Price = FixedPrice | Callable[[Request], Awaitable[FixedPrice]]
"""What the owner writes: one of `paywall.kinds`, or an async function that returns one."""

_METHODS: Final = frozenset(
    ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")
)
_PRICED_METHODS: Final = tuple(sorted(_METHODS - {"OPTIONS"}))
_CONVERTERS: Final = {None: "[^/]+", "path": ".*"} | dict.fromkeys(
    ("str", "int", "float", "uuid"), "[^/]+"
)
"""What a parameter may cover in a table, whatever application is behind it: a path parameter may
also be empty."""
_EXACT_CONVERTERS: Final = _CONVERTERS | {
    "int": "[0-9]+",
    "float": r"[0-9]+(?:\.[0-9]+)?",
    "uuid": "[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}",
}
"""What it covers in a route that declares its price: there the router is known."""
_PATTERN = re.compile(r"(?:([A-Za-z]+) )?(/[^\s?#%]*)", re.ASCII)
_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(?::([a-z]+))?\}", re.ASCII)
_REST = re.compile(r"/\{[^{}/]*:path\}$")
"""A path parameter at the end. A tidy application may reach it without the slash before it."""
ANY: Final = ""
"""In place of a method: whatever it is."""

_MAX_KEPT_PATH: Final = 512
"""What was found for a longer path is not kept: strangers choose the paths, and memory is ours."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of the price table. `folded` is for canonical forms, `regex` for all others, and
    `named` is `regex` with the parameters' names."""

    pattern: str
    method: str
    regex: "re.Pattern[str]"
    folded: "re.Pattern[str]"
    named: "re.Pattern[str]"
    price: Price
    declared: bool = False

    def covers(self, method: str) -> bool:
        return self.method in (ANY, method) or (method == "HEAD" and self.method == "GET")

    def parameters(self, path: str, root_path: str) -> dict[str, str]:
        """The path's parameters by name, as text; none for a spelling that only looks like it."""
        for form in (path, path.removeprefix(root_path.rstrip("/"))):
            if match := self.named.fullmatch(form):
                return match.groupdict(default="")
        return {}


@dataclass(frozen=True, slots=True)
class Declared:
    """A price that stands at the route itself, or (None) a route without one."""

    pattern: str
    price: Price


class PriceTable:
    """The owner's price list. Finding a rule is a pure function of method and path, kept.

    What stands in `prices` comes first, then what the app's routes have declared, in their order.
    With `closed`, whatever has no price is CLOSED; `prices` says what is free all the same.
    """

    def __init__(
        self,
        prices: Mapping[str, Price],
        declared: Sequence[Declared] = (),
        closed: bool = False,
    ) -> None:
        if not prices and all(one.price is None for one in declared):
            raise ConfigurationError('no prices are given; write {"GET /path": "$0.001"}')
        rules = [_rule(pattern, price) for pattern, price in prices.items()]
        rules += _declared_rules(declared, CLOSED if closed else None)
        self.rules = tuple(rules)
        self._otherwise = _rule("/*", CLOSED) if closed else None
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
        found: dict[Price, Rule] = {}
        for spelling in spellings(path, raw_path, root_path):
            for one in methods:
                rules = [rule for form in spelling if (rule := self._first(one, form, spelling))]
                if not rules and self._otherwise:
                    rules = [self._otherwise]
                found |= {rule.price: rule for rule in rules}
        if len(found) > 1:
            raise Refused(Reason.MALFORMED_PATH, "Its spellings or verbs have different prices.")
        rule = next(iter(found.values()), None)
        return rule if rule and rule.price is not None else None

    def _first(self, method: str, form: tuple[str, bool], spelling: Spelling) -> Rule | None:
        path, folded = form
        for rule in self.rules:
            if rule.declared and form is not spelling[-1]:
                continue  # whose router is known, it looks inside the mount point alone
            regex = rule.folded if folded else rule.regex
            if rule.covers(method) and regex.fullmatch(path):
                return rule
        return None


def patterns(methods: set[str] | None, path: str) -> list[str]:
    """A route as it is written in a price table."""
    if methods is None:
        return [path]
    priced = methods - {"OPTIONS"} - ({"HEAD"} if "GET" in methods else set())
    return [f"{method} {path}" for method in sorted(priced)]


def _declared_rules(declared: Sequence[Declared], otherwise: Price) -> list[Rule]:
    """Routes without a price stand here too: one of them may come before one that has a price."""
    rules = []
    for one in declared:
        try:
            price = otherwise if one.price is None else one.price
            rule = _rule(one.pattern, price, _EXACT_CONVERTERS)
            rules.append(replace(rule, declared=True))
        except ConfigurationError:
            if one.price is not None:
                raise
    return rules


def _rule(pattern: str, price: Price, converters: Mapping[str | None, str] = _CONVERTERS) -> Rule:
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
    folded = _REST.sub("/*", "/" + collapse_slashes(turn_slashes(fold(path))).strip("/"))
    return Rule(
        pattern,
        method,
        _regex(path, pattern, converters),
        _regex(folded, pattern, converters),
        _regex(path, pattern, converters, named=True),
        price,
    )


def _regex(
    path: str, pattern: str, converters: Mapping[str | None, str], named: bool = False
) -> "re.Pattern[str]":
    """A path pattern as a regular expression; `/*` at the end covers the bare prefix too."""
    star = path.endswith("/*")
    out, at = [], 0
    path = path[:-2] if star else path
    for parameter in _PARAMETER.finditer(path):
        if parameter[2] not in converters:
            raise ConfigurationError(f"{pattern!r}: write {{name}}, or {{name:path}} for a rest")
        covers = converters[parameter[2]]
        covers = f"(?P<{parameter[1]}>{covers})" if named else f"(?:{covers})"
        out += [re.escape(path[at : parameter.start()]), covers]
        at = parameter.end()
    rest = path[at:]
    if any(sign in "".join(out[::2]) + rest for sign in "{}*"):
        raise ConfigurationError(f"{pattern!r}: use {{name}} for one segment and /* at the end")
    text = "".join(out) + re.escape(rest) + ("(?:/.*)?" if star else "")
    try:
        return re.compile(text, re.DOTALL)
    except re.error as error:
        raise ConfigurationError(f"{pattern!r}: {error}") from error


def _refuse_twins(rules: tuple[Rule, ...]) -> None:
    """Routes that differ only in case or slashes have one price; else neither could be asked."""
    for one, other in combinations(rules, 2):
        same = one.folded == other.folded and (one.covers(other.method) or other.covers(one.method))
        if same and one.regex != other.regex and one.price != other.price:
            raise ConfigurationError(
                f"{one.pattern!r} and {other.pattern!r} differ only in case or slashes: "
                "give them one price"
            )
