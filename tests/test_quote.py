"""Quotes: what is put together from parts says what the plain way says."""

import json
from base64 import b64decode

from helpers.channels import TERMS
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from paywall.protocol.x402 import Resource, decode_required, encode_json
from paywall.quote import Quote
from paywall.resources import Resources

QUOTE = Quote.of(1000, (TERMS.offer(1000),))


@given(url=st.text(max_size=30), error=st.text(max_size=12), more=st.booleans())
def test_every_quote_reads_as_it_would_written_whole(url: str, error: str, more: bool) -> None:
    extensions = {"another": Raw(b'{"info":1}')} if more else None
    header = QUOTE.header(Resource(url, "what it is"), error, more=extensions)
    required = decode_required(header)
    assert (required.error, required.resource) == (error, Resource(url, "what it is"))
    assert required.accepts == [Raw(encode_json(TERMS.offer(1000).requirements))]
    fields = json.loads(b64decode(header, validate=True))
    assert list(fields) == ["x402Version", "accepts", "error", "extensions", "resource"]
    assert set(fields["extensions"]) == {"payment-identifier"} | ({"another"} if more else set())


def test_the_resource_is_the_one_that_was_asked_for_though_urls_are_kept() -> None:
    resources = Resources(None, None)
    scope = {"type": "http", "scheme": "http", "server": ("1.2.3.4", 80)}
    for _ in range(2):
        for host in ("one.example", "two.example:8443"):
            for path in ("/a", "/a b", "/" + "x" * 600):
                told = {**scope, "path": path, "headers": [(b"host", host.encode())]}
                assert resources.of(told).url == f"http://{host}{path.replace(' ', '%20')}"
    assert resources.of({**scope, "path": "/a", "headers": []}).url == "http://1.2.3.4/a"
    assert Resources("https://shop.example/", "a").of({**scope, "path": "/b", "headers": []}) == (
        Resource("https://shop.example/b", "a")
    )
