"""The examination of a site that sells: it says what is right, and names what is wrong."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from helpers.official import official_server
from helpers.provider import decoded, header_of
from helpers.servers import provider, served
from msgspec import Raw
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from paywall import open_store
from paywall.chain.devnet import Devnet
from paywall.finding import Finding, Grade, failed
from paywall.probe import probe
from paywall.protocol.money import USDC
from paywall.protocol.schemes.batch import BatchTerms
from paywall.protocol.schemes.exact import ExactTerms
from paywall.protocol.x402 import (
    PAYMENT_REQUIRED,
    PAYMENT_RESPONSE,
    VERSION,
    PaymentRequired,
    Resource,
    encode_header,
    encode_json,
    show_address,
)

PAY_TO = bytes([0x11]) * 20
Json = dict[str, Any]


def quote(url: str) -> Json:
    """A good quote, as JSON to bend."""
    pay_to = USDC.base.address
    terms = BatchTerms(USDC.base, pay_to, pay_to)
    offers = (
        terms.offer(1000).requirements,
        ExactTerms(USDC.base, pay_to).offer(20_000).requirements,
    )
    accepts = [Raw(encode_json(offer)) for offer in offers]
    extensions = {"payment-identifier": Raw(b"{}")}
    message = PaymentRequired(
        x402_version=VERSION, resource=Resource(url), accepts=accepts, extensions=extensions
    )
    return decoded(encode_header(message))


class Site:
    """A site that sells one path, and does wrong what a test tells it to."""

    def __init__(self) -> None:
        self.bend: Callable[[Json], object] = lambda message: None
        self.headers = {
            "cache-control": "no-store",
            "access-control-expose-headers": f"{PAYMENT_REQUIRED}, {PAYMENT_RESPONSE}",
        }
        self.quote_header: str | None = None
        self.answer: Callable[[Request], Response | None] = lambda request: None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] in ("http", "lifespan")
        if scope["type"] == "http":
            await self._respond(Request(scope))(scope, receive, send)

    def _respond(self, request: Request) -> Response:
        told = self.answer(request)
        if told:
            return told
        if request.method == "OPTIONS":
            return Response(status_code=204)
        if request.url.path != "/item":
            return Response(status_code=404)
        if "payment-signature" in request.headers:
            return Response(status_code=400)
        message = quote(str(request.url))
        self.bend(message)
        header = self.quote_header or header_of(message)
        return Response(status_code=402, headers={PAYMENT_REQUIRED: header, **self.headers})


@pytest.fixture
def site() -> Site:
    return Site()


@contextmanager
def examined(site: Site) -> Iterator[list[Finding]]:
    with served(site) as url:
        yield probe(f"{url}/item")


def wrong(findings: list[Finding], grade: Grade = Grade.FAIL) -> list[str]:
    return [f"{one.subject}: {one.text}" for one in findings if one.grade is grade]


def test_a_site_that_is_right_is_found_to_be_right(site: Site) -> None:
    with examined(site) as findings:
        assert wrong(findings) == []
        assert wrong(findings, Grade.WARN) == []
        texts = {one.text for one in findings}
    assert {"402 with a quote", "64 requests at once on a channel"} <= texts
    assert "batch-settlement, $0.001 on eip155:8453" in texts
    assert "exact, $0.02 on eip155:8453" in texts


async def test_our_own_provider_is_right(devnet: Devnet, tmp_path: Path) -> None:
    async with provider(devnet, tmp_path) as ours:
        findings = probe(f"{ours.url}/item")
        assert wrong(findings) == []
        assert ours.requests.paid == 1, "nothing but the payment that is none"
        assert await ours_channels(ours.store_url) == []


async def ours_channels(store_url: str) -> list[object]:
    store = open_store(store_url)
    await store.open()
    try:
        return list(await store.channels())
    finally:
        await store.close()


def test_of_the_official_server_is_said_what_it_lacks(devnet: Devnet) -> None:
    with official_server(devnet) as theirs:
        findings = probe(f"{theirs.url}/item/a")
    assert "batch-settlement, $0.001 on eip155:84532" in {one.text for one in findings}
    assert "payment ids are not honoured" in {one.text for one in findings}


def _set(path: str, value: object) -> Callable[[Json], object]:
    *parents, last = path.split(".")

    def bend(message: Json) -> None:
        inner: Any = message
        for name in parents:
            inner = inner[int(name)] if isinstance(inner, list) else inner[name]
        if value is None:
            del inner[last]
        else:
            inner[last] = value

    return bend


@pytest.mark.parametrize(
    ("path", "value", "found"),
    [
        ("accepts.0.amount", "1e3", "offer 1: amount: '1e3': not a canonical decimal amount"),
        ("accepts.0.network", "base", "offer 1: network: 'base' is no EVM network"),
        ("accepts.1.payTo", "0x" + "0" * 40, "offer 2: payTo: it is the zero address"),
        ("accepts.1.payTo", "bob", "offer 2: payTo: 'bob' is no address"),
        ("accepts.1.extra.name", "USDC", "offer 2: extra: the domain is 'USDC', version '2'"),
        ("accepts.0.extra.withdrawDelay", 60, "offer 1: withdrawDelay: it is 60"),
        ("accepts", [], "quote: accepts is empty"),
        ("x402Version", 3, "quote: x402Version is 3"),
    ],
)
def test_what_is_wrong_in_a_quote_is_named(
    site: Site, path: str, value: object, found: str
) -> None:
    site.bend = _set(path, value)
    with examined(site) as findings:
        assert wrong(findings) == [found]
        assert all(one.mend for one in findings if one.grade is Grade.FAIL)


@pytest.mark.parametrize("missing", ["accepts.0.scheme", "accepts.0.maxTimeoutSeconds"])
def test_an_offer_that_lacks_a_field_is_named(site: Site, missing: str) -> None:
    site.bend = _set(missing, None)
    with examined(site) as findings:
        (found,) = wrong(findings)
    assert found.startswith("offer 1: it cannot be read")


@pytest.mark.parametrize(
    ("path", "value", "found"),
    [
        ("extensions", None, "exactly once: payment ids are not honoured"),
        ("accepts.0.scheme", "upto", "offer 1: the scheme 'upto' is not known here"),
        ("accepts.1.amount", "0", "offer 2: amount: the price is zero"),
        ("accepts.1.payTo", show_address(PAY_TO).lower(), None),
        ("accepts.1.asset", "0x" + "22" * 20, "offer 2: asset: this token is not known here"),
        ("resource.url", "http://10.0.0.1/item", "resource: the quote names http://10.0.0.1/item"),
    ],
)
def test_what_is_doubtful_is_a_warning(
    site: Site, path: str, value: object, found: str | None
) -> None:
    site.bend = _set(path, value)
    with examined(site) as findings:
        assert not failed(findings)
        assert wrong(findings, Grade.WARN) == ([found] if found else [])


def test_a_quote_that_is_none_ends_the_examination(site: Site) -> None:
    site.quote_header = "bm90IGpzb24="
    with examined(site) as findings:
        (found,) = wrong(findings)
    assert found.startswith("quote: it cannot be read")


def test_base64_that_only_some_can_read_is_a_warning(site: Site) -> None:
    header = header_of(quote("http://127.0.0.1/item"))
    site.quote_header = header[:8] + " " + header[8:]
    with examined(site) as findings:
        assert "quote: its base64 is not the usual one" in wrong(findings, Grade.WARN)


@pytest.mark.parametrize(
    ("headers", "grade", "found"),
    [
        ({"cache-control": "public"}, Grade.FAIL, "caches: a shared cache may keep the 402"),
        (
            {"access-control-expose-headers": ""},
            Grade.WARN,
            "browsers: pages of other origins cannot read PAYMENT-REQUIRED, PAYMENT-RESPONSE",
        ),
    ],
)
def test_headers_that_are_wrong_are_named(
    site: Site, headers: dict[str, str], grade: Grade, found: str
) -> None:
    site.headers |= headers
    with examined(site) as findings:
        assert wrong(findings, grade) == [found]


@pytest.mark.parametrize(
    ("is_free", "found"),
    [
        (lambda request: request.method == "HEAD", "HEAD: it is free (200)"),
        (
            lambda request: request.url.path == "/item/",
            "spellings: free under another spelling: /item/",
        ),
        (
            lambda request: "payment-signature" in request.headers,
            "a payment that is none: it was served (200)",
        ),
        (lambda request: True, "unpaid request: it is free (200)"),
    ],
)
def test_what_is_served_for_nothing_is_named(
    site: Site, is_free: Callable[[Request], bool], found: str
) -> None:
    site.answer = lambda request: PlainTextResponse("goods") if is_free(request) else None
    with examined(site) as findings:
        assert wrong(findings) == [found]


def test_another_status_is_no_402(site: Site) -> None:
    site.answer = lambda request: Response(status_code=401)
    with examined(site) as findings:
        assert wrong(findings) == ["unpaid request: it answers 401, not 402"]


def test_a_redirect_is_not_followed(site: Site) -> None:
    site.answer = lambda request: Response(status_code=308, headers={"location": "/there"})
    with examined(site) as findings:
        assert wrong(findings) == ["unpaid request: it redirects (308)"]
        assert findings[0].mend == "check /there instead"


def test_nobody_at_home_is_the_transports_error() -> None:
    with pytest.raises(httpx.ConnectError):
        probe("http://127.0.0.1:1/item")
