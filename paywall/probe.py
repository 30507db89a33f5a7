"""`paywall check URL`: asks a site that sells by x402 a few questions, and pays nothing.

It sends requests without a payment, and one with a payment that is none; so whatever the site does
with them costs nobody anything. It knows nothing about who runs the site: what is right for others
is right for us.

Sources: x402 specification v2; transports-v2/http.md.
"""

import base64
import binascii
import ipaddress
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

import httpx

from paywall.finding import Finding, fail, ok, warn
from paywall.probe_offers import examine
from paywall.protocol import once
from paywall.protocol.limits import MAX_OFFERS, MAX_QUOTE_HEADER_BYTES
from paywall.protocol.x402 import (
    PAYMENT_REQUIRED,
    PAYMENT_RESPONSE,
    PAYMENT_SIGNATURE,
    VERSION,
    Malformed,
    PaymentRequired,
    decode_required,
)

_ACROSS: Final = {"origin": "https://browser.example"}
_NONSENSE: Final = "this is no payment"
_WASTE: Final = 64 * 1024
_SPELLINGS: Final = ("//{path}", "/{path}/", "/./{path}", "/{path}/.", "/{path};x=1")


class Probe:
    """One URL under examination. `ask` makes every request, none of them with a real payment."""

    def __init__(self, client: httpx.Client, url: str, method: str) -> None:
        self._client = client
        self._url = httpx.URL(url)
        self._method = method

    def ask(
        self,
        url: httpx.URL | None = None,
        method: str = "",
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        """The head of an answer; of a body only the beginning is read."""
        place = url or self._url
        with self._client.stream(method or self._method, place, headers=headers) as answer:
            size = 0
            for chunk in answer.iter_raw(_WASTE):
                size += len(chunk)
                if size > _WASTE:
                    break
        return answer

    def run(self) -> list[Finding]:
        """Everything there is to say. Raises httpx.TransportError when nobody answers."""
        answer = self.ask(headers=_ACROSS)
        if answer.status_code != 402:
            return [_unpriced(answer)]
        quote, complaint = _quote_of(answer)
        if quote is None:
            return [ok("unpaid request", "402"), *complaint]
        return [
            ok("unpaid request", "402 with a quote"),
            *complaint,
            *self._transport(),
            *_message(quote, self._url),
            *(
                finding
                for number, raw in enumerate(quote.accepts[:MAX_OFFERS], 1)
                for finding in examine(raw, number)
            ),
            *_caches(answer),
            *_browsers(answer),
            *self._other_verbs(),
            *self._spellings(),
            *self._nonsense(),
        ]

    def _transport(self) -> Iterator[Finding]:
        if self._url.scheme != "https" and not _is_local(self._url.host):
            mend = "serve it over https: who listens in could use a payment first"
            yield fail("transport", "payments would travel in the clear", mend)

    def _other_verbs(self) -> Iterator[Finding]:
        if self._method == "GET":
            status = self.ask(method="HEAD").status_code
            if status < 400:
                mend = "price HEAD like GET: its head alone may be worth the price"
                yield fail("HEAD", f"it is free ({status})", mend)
        if self.ask(method="OPTIONS", headers=_ACROSS).status_code == 402:
            yield warn("OPTIONS", "it asks for payment", "browsers ask it first, and cannot pay")

    def _spellings(self) -> Iterator[Finding]:
        """Other spellings of the path, as some router might take them for the same."""
        path = self._url.raw_path.partition(b"?")[0].decode("ascii").strip("/")
        if not path or self._method not in ("GET", "HEAD"):
            return
        free = []
        for spelling in _SPELLINGS:
            url = self._url.copy_with(raw_path=spelling.format(path=path).encode())
            if self.ask(url).status_code < 300:
                free.append(spelling.format(path=path))
        if free:
            mend = "match paths as the application does, or refuse odd ones"
            yield fail("spellings", f"free under another spelling: {', '.join(free)}", mend)
        else:
            yield ok("spellings", f"none of {len(_SPELLINGS)} other spellings is free")

    def _nonsense(self) -> Iterator[Finding]:
        status = self.ask(headers={PAYMENT_SIGNATURE: _NONSENSE}).status_code
        if status in (400, 402):
            yield ok("a payment that is none", f"{status}")
        elif status < 400:
            yield fail("a payment that is none", f"it was served ({status})", "check signatures")
        else:
            mend = "a malformed payment is 400: the client's fault, told to the client"
            yield warn("a payment that is none", f"it answers {status}", mend)


def probe(url: str, method: str = "GET", timeout_seconds: float = 10) -> list[Finding]:
    """Examines a URL and pays nothing. Raises httpx.TransportError or httpx.InvalidURL."""
    with httpx.Client(timeout=timeout_seconds, follow_redirects=False) as client:
        return Probe(client, url, method.upper()).run()


def _is_local(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _unpriced(answer: httpx.Response) -> Finding:
    status = answer.status_code
    if answer.has_redirect_location:
        place = answer.headers["location"][:200]
        return fail("unpaid request", f"it redirects ({status})", f"check {place} instead")
    if status < 400:
        return fail("unpaid request", f"it is free ({status})", "price it, if it is to be paid for")
    return fail(
        "unpaid request", f"it answers {status}, not 402", "is this the right URL and verb?"
    )


def _quote_of(answer: httpx.Response) -> tuple[PaymentRequired | None, list[Finding]]:
    header = answer.headers.get(PAYMENT_REQUIRED)
    if header is None:
        mend = f"send the quote in {PAYMENT_REQUIRED}: the body is where version 1 had it"
        return None, [fail("quote", f"402 without a {PAYMENT_REQUIRED} header", mend)]
    if len(header) > MAX_QUOTE_HEADER_BYTES:
        mend = f"keep it under {MAX_QUOTE_HEADER_BYTES} bytes"
        return None, [fail("quote", "the header is too large", mend)]
    try:
        quote = decode_required(header)
    except Malformed as error:
        return None, [fail("quote", f"it cannot be read: {error}", "base64 of JSON is asked for")]
    try:
        base64.b64decode(header, validate=True)
    except binascii.Error:
        mend = "use the standard alphabet, padded: some official clients read nothing else"
        return quote, [warn("quote", "its base64 is not the usual one", mend)]
    return quote, []


def _message(quote: PaymentRequired, asked: httpx.URL) -> Iterator[Finding]:
    if quote.x402_version != VERSION:
        mend = f"this check knows version {VERSION}"
        yield fail("quote", f"x402Version is {quote.x402_version}", mend)
    if not quote.accepts:
        yield fail("quote", "accepts is empty", "offer at least one way to pay")
    yield from _resource(quote, asked)
    if once.EXTENSION in (quote.extensions or {}):
        yield ok("exactly once", "payment ids are honoured: a lost answer can be asked for again")
    else:
        mend = f"the extension {once.EXTENSION} lets a client recover an answer that it lost"
        yield warn("exactly once", "payment ids are not honoured", mend)


def _resource(quote: PaymentRequired, asked: httpx.URL) -> Iterator[Finding]:
    told = quote.resource.url if quote.resource else ""
    try:
        url = httpx.URL(told)
    except httpx.InvalidURL:
        yield fail("resource", f"{told[:200]!r} is no URL", "name the resource that is sold")
        return
    if (url.scheme, url.host, url.port) != (asked.scheme, asked.host, asked.port):
        mend = "behind a proxy, set the public URL, or trust the proxy's forwarded headers"
        yield warn("resource", f"the quote names {told[:200]}", mend)
    else:
        yield ok("resource", told[:200])


def _caches(answer: httpx.Response) -> Iterator[Finding]:
    wishes = answer.headers.get("cache-control", "").lower()
    if "no-store" in wishes or "private" in wishes:
        yield ok("caches", f"Cache-Control: {wishes}")
    else:
        mend = "send Cache-Control: no-store with a 402, and private with what was paid for"
        yield fail("caches", "a shared cache may keep the 402", mend)


def _browsers(answer: httpx.Response) -> Iterator[Finding]:
    exposed = answer.headers.get("access-control-expose-headers", "").lower()
    hidden = [name for name in (PAYMENT_REQUIRED, PAYMENT_RESPONSE) if name.lower() not in exposed]
    if hidden and exposed != "*":
        mend = "name both in Access-Control-Expose-Headers"
        yield warn("browsers", f"pages of other origins cannot read {', '.join(hidden)}", mend)
    else:
        yield ok("browsers", "the headers can be read across origins")
