"""What the price table says to machines that have not asked yet: a manifest, OpenAPI, `bazaar`.

All of it is made from the table that quotes, by the same code that makes the quotes, so it cannot
say anything else. A price that depends on the request has no amount here, only the word "dynamic":
the live 402 is what counts, always.

Sources: extensions/well-known-discovery.md (draft), "Manifest shape"; extensions/bazaar.md.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from msgspec import Raw

from paywall.gate import Gate
from paywall.kinds import CLOSED, Pass, Quota
from paywall.prices import ANY, PriceTable, Rule
from paywall.protocol.errors import Refused
from paywall.protocol.x402 import (
    PAYMENT_REQUIRED,
    PAYMENT_SIGNATURE,
    VERSION,
    Resource,
    encode_json,
)
from paywall.quote import Quote
from paywall.tariff import Tariff, tariff_of

MANIFEST_PATH: Final = "/.well-known/x402.json"
BAZAAR: Final = "bazaar"
PRICE_EXTENSION: Final = "x-payment-info"
"""The field of an OpenAPI operation that says what it costs."""

_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(?::[a-z]+)?\}", re.ASCII)
_SAMPLES: Final = ("x", "1", "1.5", "00000000-0000-0000-0000-000000000000")
"""What stands in for a parameter, so that a route of any kind is found."""
_VERBS: Final = ("get", "head", "post", "put", "patch", "delete", "trace")
_BODY_METHODS: Final = ("POST", "PUT", "PATCH")

Json = dict[str, Any]


@dataclass(frozen=True)
class Priced:
    """A line of the table and what it quotes; `quote` is None when the request decides."""

    rule: Rule
    tariff: Tariff | None
    quote: Quote | None

    def info(self, gate: Gate) -> Json:
        """The price as OpenAPI's extension has it."""
        if self.tariff is None or self.quote is None:
            return {"protocols": ["x402"], "pricingMode": "dynamic"}
        asset = gate.terms.asset
        told: Json = {
            "protocols": ["x402"],
            "pricingMode": "metered" if self.tariff.metered else "fixed",
            "price": asset.show(self.tariff.units),
            "amount": str(self.tariff.units),
            "asset": asset.symbol,
            "network": asset.network,
            "accepts": _plain(self.quote.accepts),
        }
        return told | _terms(self.tariff)


def _terms(tariff: Tariff) -> Json:
    if isinstance(tariff.terms, Pass):
        told: Json = {"seconds": tariff.terms.seconds}
        if tariff.terms.calls is not None:
            told["calls"] = tariff.terms.calls
        return {"pass": told}
    if isinstance(tariff.terms, Quota):
        return {"free": {"requests": tariff.terms.free, "seconds": tariff.terms.seconds}}
    return {}


def _plain(accepts: list[Raw]) -> list[Json]:
    return [msgspec.json.decode(bytes(raw)) for raw in accepts]


def priced(gate: Gate, rule: Rule) -> Priced | None:
    """A line of the table, unless it is free or closed."""
    if rule.price is None or rule.price is CLOSED:
        return None
    if callable(rule.price):
        return Priced(rule, None, None)
    tariff = tariff_of(rule, rule.price, gate.terms.asset)
    assert tariff is not None, "it has a price"
    return Priced(rule, tariff, gate.quote(tariff.units, tariff.metered))


# -- The manifest --------------------------------------------------------------------------------


def manifest(gate: Gate, table: PriceTable, here: Resource) -> bytes:
    """The document at `MANIFEST_PATH`; `here` is the root of what was asked."""
    items = [
        item for rule in table.rules if (one := priced(gate, rule)) for item in _items(one, here)
    ]
    return encode_json({"x402Version": VERSION, "items": items})


def _items(one: Priced, here: Resource) -> Iterator[Json]:
    _, _, path = one.rule.pattern.rpartition(" ")
    template = _PARAMETER.sub(r":\1", path)
    resource = msgspec.structs.replace(here, url=here.url.removesuffix("/") + template)
    for method in methods_of(one.rule):
        item: Json = {
            "resource": resource,
            "type": "http",
            "accepts": _plain(one.quote.accepts) if one.quote else [],
            "input": {"method": method, "routeTemplate": template},
        }
        if one.tariff and one.tariff.terms:
            item["requires"] = ["sign-in-with-x"]
        yield item


def methods_of(rule: Rule) -> tuple[str, ...]:
    """The methods that a line speaks of; of any method, the two that are told apart by a body."""
    return ("GET", "POST") if rule.method == ANY else (rule.method,)


# -- OpenAPI -------------------------------------------------------------------------------------


def described(gate: Gate, table: PriceTable, schema: Mapping[str, Any]) -> Json:
    """An OpenAPI document with its prices: each priced operation has a 402 and says its price.

    What the document says already stays; it is not changed itself.
    """
    paths = {
        path: {
            verb: _operation(gate, table, verb, path, operation) if verb in _VERBS else operation
            for verb, operation in operations.items()
        }
        for path, operations in schema.get("paths", {}).items()
    }
    return {**schema, "paths": paths}


def _operation(gate: Gate, table: PriceTable, verb: str, path: str, operation: Json) -> Json:
    rule = find(table, verb.upper(), path)
    one = priced(gate, rule) if rule else None
    if one is None:
        return operation
    info = one.info(gate)
    cost = {"metered": "at most ", "fixed": ""}.get(info["pricingMode"])
    text = f"{cost}{info['price']}" if cost is not None else "a price that depends on the request"
    answer = {
        "description": f"Payment required: {text}. Pay in a {PAYMENT_SIGNATURE} header (x402).",
        "headers": {
            PAYMENT_REQUIRED: {
                "description": "The terms: base64 of x402's PaymentRequired.",
                "schema": {"type": "string"},
            }
        },
    }
    return {
        **operation,
        "responses": {"402": answer, **operation.get("responses", {})},
        PRICE_EXTENSION: info,
    }


def find(table: PriceTable, method: str, template: str) -> Rule | None:
    """The line for a path with parameters in it, as OpenAPI writes them."""
    for sample in _SAMPLES:
        try:
            rule = table.find(method, _PARAMETER.sub(sample, template), b"", "")
        except Refused:
            continue
        if rule:
            return rule
    return None


# -- The extension of a quote --------------------------------------------------------------------


def bazaar(method: str) -> dict[str, Raw]:
    """How the resource is called, for facilitators that list what they have settled for."""
    told: Json = {"type": "http", "method": method}
    properties: Json = {
        "type": {"type": "string", "const": "http"},
        "method": {"type": "string", "enum": [method]},
    }
    required = ["type", "method"]
    if method in _BODY_METHODS:
        told |= {"bodyType": "json", "body": {}}
        properties |= {"bodyType": {"type": "string", "enum": ["json"]}, "body": {"type": "object"}}
        required += ["bodyType", "body"]
    inner = {"type": "object", "properties": properties, "required": required}
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {"input": inner},
        "required": ["input"],
    }
    return {BAZAAR: Raw(encode_json({"info": {"input": told}, "schema": schema}))}
