"""Answers that ask for money or say why one was not taken: 402 in all its forms, and the manifest.

What is asked is in the PAYMENT-REQUIRED header; the body is for people and old clients: JSON, a
page for a browser, the quote of x402 v1. Nothing is decided here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from msgspec import Raw, UnsetType
from starlette.types import Scope, Send

from paywall.answers import (
    asking,
    quote_headers,
    refusal_headers,
    send_manifest,
    send_page,
    send_quote,
    send_refusal,
)
from paywall.discovery import MANIFEST_PATH, bazaar, manifest
from paywall.entrance import Entrance
from paywall.exchange import send_withheld
from paywall.gate import Gate
from paywall.kinds import said
from paywall.page import QUOTE, quote_page, wants_page
from paywall.prices import PriceTable
from paywall.protocol.channel import RefusedByChannel
from paywall.protocol.errors import Reason, Refused
from paywall.protocol.x402 import Resource, encode_json
from paywall.protocol.x402_v1 import quoted as quoted_in_v1
from paywall.quote import Quote
from paywall.resources import Resources
from paywall.tariff import Tariff

_URL: Final = "\x00url\x00"
"""In place of a URL, where one is to be put; no text of an owner's is like it."""
_KEPT: Final = 1024


@dataclass(frozen=True)
class Manners:
    """How quotes are shown: with x402 v1's in the body, as a page to browsers, with `bazaar`."""

    v1: bool
    page: bool
    bazaar: bool


class Crier:
    """Says what things cost, for one paywall."""

    def __init__(
        self, gate: Gate, entrance: Entrance, resources: Resources, manners: Manners
    ) -> None:
        self._gate = gate
        self._entrance = entrance
        self._resources = resources
        self._manners = manners
        self._around_url = lru_cache(maxsize=_KEPT)(self._asking)

    async def quote(self, quote: Quote, tariff: Tariff, scope: Scope, send: Send) -> None:
        """402 for a request without a payment."""
        resource, more = self._resources.of(scope), self._challenge(tariff, scope)
        if self._manners.bazaar:
            more = {**more, **bazaar(scope["method"])}
        required = quote.header(resource, "Payment required", more=more)
        if self._manners.page and wants_page(scope):
            page = quote_page(quote, self._gate.terms.asset, tariff.metered, resource)
            return await send_page(scope, send, page, required, QUOTE.headers)
        around = self._around_url(quote, tariff, resource.description)
        await send_quote(scope, send, encode_json(resource.url).join(around), required)

    async def refuse(self, refusal: Refused, quote: Quote, scope: Scope, send: Send) -> None:
        """A payment that was not taken, and what may be done about it."""
        if refusal.reason is Reason.SETTLEMENT_PENDING:  # it may be paid: no word of the contrary
            return await send_withheld(self._gate, scope, send, refusal)
        if refusal.reason.status != 402:
            failure = self._gate.failure(refusal)
            return await send_refusal(scope, send, refusal, refusal_headers(failure, refusal))
        resource = self._resources.of(scope)
        required = quote.header(resource, refusal.reason.code, refusal)
        old = quoted_in_v1(quote.accepts, resource) if self._manners.v1 else {}
        # A corrective 402 invites another try; the official clients take a receipt for a final no.
        response = None if isinstance(refusal, RefusedByChannel) else self._gate.failure(refusal)
        await send_refusal(scope, send, refusal, quote_headers(required, response), old)

    async def refuse_sign_in(
        self, refusal: Refused, quote: Quote, tariff: Tariff, scope: Scope, send: Send
    ) -> None:
        """A false proof of who asks: the quote again, with another challenge."""
        more = self._challenge(tariff, scope)
        required = quote.header(self._resources.of(scope), refusal.reason.code, more=more)
        await send_refusal(scope, send, refusal, quote_headers(required, None))

    async def manifest(self, table: PriceTable, scope: Scope, send: Send) -> None:
        """The prices, for machines that look before they ask. Anybody may keep it for a minute."""
        here = self._resources.of({**scope, "path": "/"})
        await send_manifest(scope, send, manifest(self._gate, table, here))

    def _challenge(self, tariff: Tariff, scope: Scope) -> Mapping[str, Raw]:
        if not tariff.terms:
            return {}
        return self._entrance.challenge(tariff, self._resources.of(scope).url)

    def _asking(
        self, quote: Quote, tariff: Tariff, description: str | UnsetType | None
    ) -> tuple[bytes, ...]:
        """The body of a quote, in pieces: between them stands the URL, which is what varies."""
        resource = Resource(_URL, description)
        also = dict(quoted_in_v1(quote.accepts, resource)) if self._manners.v1 else {}
        if tariff.terms:
            also["terms"] = said(tariff.terms)
        body = asking(self._gate.terms.asset, quote.price, tariff.metered, also)
        return tuple(body.split(encode_json(_URL)))


def asks_manifest(scope: Scope) -> bool:
    """Whether this is a request for the manifest, and not for something of the app's."""
    if not scope["path"].endswith(MANIFEST_PATH) or scope["method"] not in ("GET", "HEAD"):
        return False
    inside: str = scope["path"].removeprefix(scope.get("root_path", ""))
    return inside == MANIFEST_PATH
