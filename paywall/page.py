"""The page for a person whose browser gets a 402: what it costs, and a button that pays.

The status and the headers are those that any client gets; only the body is for reading. The page is
one file without outside resources: style and script stand in it and are allowed by their hashes,
and nothing else is. What an owner or a stranger wrote (description, URL) is text in it, never
markup. The script pays by `exact`, for this very amount; where no single payment is offered, the
page says why.
"""

import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from html import escape
from importlib.resources import files
from types import MappingProxyType
from typing import Final

from msgspec import Raw
from starlette.types import Scope

from paywall.protocol.errors import Reason
from paywall.protocol.money import USDC, Asset
from paywall.protocol.schemes.exact import ExactOffer
from paywall.protocol.x402 import Resource, encode_json
from paywall.quote import Quote

_SLOT: Final = re.compile(r"\{\{(\w+)\}\}")
_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        asset.network: name.replace("_", " ").title()
        for name, asset in vars(USDC).items()
        if isinstance(asset, Asset)
    }
)
"""Networks as people call them."""

_CHANNEL_ONLY: Final = (
    "This price is too small for a payment on its own: "
    "agents pay it from a deposit, many at a time."
)
_METERED: Final = (
    "What this costs is measured while it runs, so it is paid by agents from a deposit."
)
_NO_SCRIPT_YET: Final = "Paying here takes a wallet in the browser; an agent pays as below."


@dataclass(frozen=True, slots=True)
class Skeleton:
    """A page of ours as it lies in `paywall/web`, with its style and script, and its policy."""

    template: str
    style: str
    script: str
    policy: bytes

    @classmethod
    def of(cls, name: str, **more: str) -> "Skeleton":
        """`more` are directives of its policy besides its own style and script."""
        template, style, script = (_file(f"{name}.{end}") for end in ("html", "css", "js"))
        rules = {
            "default-src": "'none'",
            "script-src": _hash(script),
            "style-src": _hash(style),
            "base-uri": "'none'",
            "form-action": "'none'",
            "frame-ancestors": "'none'",
            **{name.replace("_", "-"): rule for name, rule in more.items()},
        }
        policy = "; ".join(f"{directive} {rule}" for directive, rule in rules.items())
        return cls(template, style, script, policy.encode())

    def filled(self, words: Mapping[str, str]) -> bytes:
        """`words` are markup: escaped by whoever made them."""
        told = {**words, "style": self.style, "script": self.script}
        return _SLOT.sub(lambda slot: told[slot[1]], self.template).encode()

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        return [
            (b"content-security-policy", self.policy),
            (b"referrer-policy", b"no-referrer"),
            (b"x-content-type-options", b"nosniff"),
        ]


def _file(name: str) -> str:
    return files("paywall").joinpath("web", name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


QUOTE: Final = Skeleton.of("quote", connect_src="'self'", img_src="blob:")


def wants_page(scope: Scope) -> bool:
    """Whether a person asks: a browser that goes to an address, and would rather have HTML."""
    if scope["method"] not in ("GET", "HEAD"):
        return False
    accept, mode = b"", b"navigate"
    for name, value in scope["headers"]:
        if name == b"accept":
            accept = value
        elif name == b"sec-fetch-mode":
            mode = value
    return b"text/html" in accept.lower() and mode == b"navigate" and _prefers_html(accept)


def _prefers_html(accept: bytes) -> bool:
    wishes: dict[str, float] = {}
    for part in accept.decode("latin-1").lower().split(","):
        kind, *parameters = (word.strip() for word in part.split(";"))
        wishes[kind] = next((_weight(word) for word in parameters if word[:2] == "q="), 1.0)
    return wishes.get("text/html", 0) > max(wishes.get("application/json", 0), 0)


def _weight(parameter: str) -> float:
    try:
        return float(parameter[2:])
    except ValueError:
        return 0.0


def quote_page(quote: Quote, asset: Asset, metered: bool, resource: Resource) -> bytes:
    """The page of one price at one address."""
    offer = None if metered else _single(quote)
    price = asset.show(quote.price)
    cost = f"{'at most ' if metered else ''}{price}"
    description = resource.description if isinstance(resource.description, str) else ""
    network = network_name(asset.network)
    return QUOTE.filled(
        {
            "cost": escape(cost),
            "limit": escape(price),
            "asset": escape(asset.symbol),
            "network": escape(network),
            "url": escape(resource.url),
            "description": f'<p class="description">{escape(description)}</p>'
            if description
            else "",
            "words": _NO_SCRIPT_YET if offer else _METERED if metered else _CHANNEL_ONLY,
            "terms": json_in_html(
                {
                    "offer": offer,
                    "resource": resource,
                    "chainId": asset.chain_id,
                    "networkName": network,
                    "cost": price,
                    "symbol": asset.symbol,
                    "tooLittle": Reason.EXACT_BALANCE.code,
                }
            ),
        }
    )


def network_name(network: str) -> str:
    return _NAMES.get(network, network)


def _single(quote: Quote) -> Raw | None:
    """The offer of a single transfer, as it stands in the quote."""
    for offer, accepts in zip(quote.offers, quote.accepts, strict=True):
        if isinstance(offer, ExactOffer):
            return accepts
    return None


def json_in_html(value: object) -> str:
    """JSON for a script element: nothing in it can end the element."""
    text = encode_json(value).decode()
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
