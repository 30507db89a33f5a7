"""The page that a browser gets for a 402: who gets it, and what stands in it."""

import json
import re
from base64 import b64encode
from hashlib import sha256

import pytest
from helpers.exact import Signer, shop
from helpers.provider import Answer, ask, paying
from starlette.types import Receive, Scope, Send

from paywall.asgi import Paywall
from paywall.page import json_in_html, wants_page

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


async def unserved(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("the handler ran")


def asked(accept: str | None, method: str = "GET", mode: str | None = None) -> bool:
    words = {"accept": accept, "sec-fetch-mode": mode}
    headers = [(name.encode(), value.encode()) for name, value in words.items() if value]
    return wants_page({"type": "http", "method": method, "headers": headers})


@pytest.mark.parametrize(
    ("accept", "page"),
    [
        (BROWSER, True),
        ("text/html", True),
        ("TEXT/HTML;q=0.9, application/json;q=0.5", True),
        (None, False),
        ("*/*", False),
        ("application/json", False),
        ("application/json, text/html;q=0.9", False),
        ("text/html, application/json", False),
        ("text/html;q=0", False),
        ("text/html;q=much", False),
    ],
)
def test_whoever_would_rather_have_html_gets_the_page(accept: str | None, page: bool) -> None:
    assert asked(accept) is page


def test_only_going_to_an_address_gets_the_page() -> None:
    assert asked(BROWSER, mode="navigate")
    assert asked(BROWSER, method="HEAD")
    assert not asked(BROWSER, mode="cors")
    assert not asked(BROWSER, method="POST")


BROWSING = [(b"accept", BROWSER.encode())]


async def page_of(app: Paywall) -> Answer:
    return await ask(app, headers=BROWSING)


def terms_of(answer: Answer) -> dict[str, object]:
    found = re.search(rb'id="terms">(.*?)</script>', answer.body)
    assert found
    terms: dict[str, object] = json.loads(found[1])
    return terms


async def test_the_page_has_the_status_and_the_quote_of_the_json() -> None:
    app = shop(unserved)
    page, plain = await page_of(app), await ask(app)
    assert page.status == plain.status == 402
    assert page.header("content-type") == "text/html; charset=utf-8"
    assert plain.header("content-type") == "application/json"
    for name in ("payment-required", "cache-control", "access-control-expose-headers"):
        assert page.header(name) == plain.header(name)
    assert terms_of(page)["offer"] == page.quote["accepts"][1]
    assert len(page.body) < 30_000


async def test_the_policy_allows_what_stands_in_the_page_and_nothing_else() -> None:
    app = shop(unserved)
    page = await page_of(app)
    policy = dict(
        rule.strip().split(" ", 1) for rule in page.header("content-security-policy").split(";")
    )
    assert policy.pop("connect-src") == "'self'"
    assert policy.pop("img-src") == "blob:"
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        text = re.findall(rf"<{tag}>(.*?)</{tag}>".encode(), page.body, re.DOTALL)
        assert len(text) == 1
        digest = b64encode(sha256(text[0]).digest()).decode()
        assert policy.pop(directive) == f"'sha256-{digest}'"
    assert set(policy.values()) == {"'none'"}
    assert b"http" not in re.sub(rb"http://api.example/priced", b"", page.body)


async def test_the_page_can_be_left_out() -> None:
    app = shop(unserved, page=False)
    assert (await page_of(app)).header("content-type") == "application/json"


async def test_a_payment_that_is_refused_is_answered_to_a_machine() -> None:
    app = shop(unserved)
    answer = await ask(app, headers=[*BROWSING, *paying(Signer().pay(value=1))])
    assert answer.status == 402
    assert answer.header("content-type") == "application/json"


async def test_case_55_the_owners_words_are_text() -> None:
    app = shop(unserved, description='</script><img src=x onerror="x"> {{terms}}')
    page = await page_of(app)
    assert b"&lt;/script&gt;&lt;img src=x onerror=&quot;x&quot;&gt; {{terms}}</p>" in page.body
    assert page.body.count(b"</script>") == 2


async def test_what_has_no_single_payment_offers_none() -> None:
    app = shop(unserved, exact_minimum="$1")
    page = await page_of(app)
    assert terms_of(page)["offer"] is None
    assert b"too small for a payment on its own" in page.body


def test_json_cannot_leave_its_element() -> None:
    text = json_in_html({"a": "</script><!--&"})
    assert not set("<>&") & set(text)
    assert json.loads(text) == {"a": "</script><!--&"}
