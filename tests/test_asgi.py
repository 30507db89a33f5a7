"""The middleware: what a stranger can send, what is answered, and how the paywall lives."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi import Request as FastRequest
from helpers.channels import ASSET, NETWORK, TERMS
from helpers.provider import (
    PRICE,
    PRICED,
    Agent,
    Answer,
    Client,
    FaultyStore,
    Ledger,
    answering,
    ask,
    buy,
    decoded,
    header_of,
    paying,
    provider,
    record_of,
    scope_of,
    turns,
)
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from paywall.asgi import Paywall, payment_of
from paywall.kinds import FixedPrice, upto
from paywall.protocol.errors import ChainUnavailable, ConfigurationError
from paywall.protocol.limits import MAX_HEADERS, MAX_PRICED_BODY_BYTES
from paywall.protocol.money import USDC
from paywall.protocol.x402 import show_address

SECRET = b"the secret"


async def unserved(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("the handler ran")


def free_of_charge(answer: Answer) -> bool:
    """Whether this is a refusal that invites no payment."""
    return 400 <= answer.status < 500 and answer.status != 402 and answer.header("cache-control")


# -- The quote -----------------------------------------------------------------------------------


async def test_an_unpaid_request_gets_a_quote() -> None:
    answer = await ask(provider(unserved))
    assert answer.status == 402
    quote = answer.quote
    extra = quote["accepts"][0].pop("extra")
    assert {name: quote[name] for name in ("x402Version", "error", "resource", "accepts")} == {
        "x402Version": 2,
        "error": "Payment required",
        "resource": {"url": "http://api.example/priced"},
        "accepts": [
            {
                "scheme": "batch-settlement",
                "network": NETWORK,
                "asset": show_address(ASSET.address),
                "amount": "1000",
                "payTo": show_address(TERMS.pay_to),
                "maxTimeoutSeconds": 300,
            }
        ],
    }
    assert extra["minDeposit"] == "10000"
    assert extra["withdrawDelay"] == 900
    assert (extra["name"], extra["version"]) == ("USDC", "2")


async def test_a_quote_is_for_people_too() -> None:
    body = (await ask(provider(unserved))).json
    assert body["error"] == "payment_required"
    assert body["message"] == f"This request costs $0.001 in USDC on {NETWORK}."
    assert (body["price"], body["amount"]) == ("$0.001", "1000")
    metered = (await ask(provider(unserved, {"/priced": upto(PRICED)}))).json
    assert metered["message"].startswith("This request costs at most $0.001")


async def test_case_15_a_quote_is_not_stored_and_can_be_read_in_a_browser() -> None:
    answer = await ask(provider(unserved))
    assert answer.header("cache-control") == "no-store"
    exposed = answer.header("access-control-expose-headers")
    assert exposed == "PAYMENT-REQUIRED, PAYMENT-RESPONSE"
    assert answer.header("content-type") == "application/json"
    assert answer.header("payment-response") is None


async def test_case_03_a_head_gets_the_quote_without_a_body() -> None:
    answer = await ask(provider(unserved), method="HEAD")
    assert answer.status == 402
    assert answer.body == b""
    assert answer.quote["accepts"]


async def test_a_description_is_in_the_quote() -> None:
    answer = await ask(provider(unserved, description="Weather by the hour"))
    assert answer.quote["resource"]["description"] == "Weather by the hour"


@pytest.mark.parametrize(
    "forged",
    [
        (b"x-forwarded-host", b"evil.example"),
        (b"x-forwarded-proto", b"https"),
        (b"x-forwarded-prefix", b"/evil"),
        (b"forwarded", b"host=evil.example;proto=https"),
        (b"x-original-url", b"/evil"),
    ],
)
async def test_case_14_a_forwarded_header_does_not_change_the_quoted_url(
    forged: tuple[bytes, bytes],
) -> None:
    answer = await ask(provider(unserved), headers=[forged])
    assert answer.quote["resource"]["url"] == "http://api.example/priced"


async def test_case_14_the_owners_public_url_is_what_is_quoted() -> None:
    wall = provider(unserved, public_url="https://shop.example/")
    answer = await ask(wall, headers=[(b"x-forwarded-host", b"evil.example")])
    assert answer.quote["resource"]["url"] == "https://shop.example/priced"


@pytest.mark.parametrize("host", [b"[", b"a b", b"x:y", b"\xff\xfe", b"", b"a/b", b"a@b"])
@pytest.mark.parametrize("query", [b"", b"\xff", b"a=%zz&[", b"q=" + b"x" * 10_000])
async def test_a_strange_host_or_query_is_no_accident(host: bytes, query: bytes) -> None:
    scope = {**scope_of(), "headers": [(b"host", host)], "query_string": query}
    client = Client()
    await provider(unserved)(scope, client.receive, client.send)
    assert client.answer.status == 402
    assert client.answer.quote["resource"]["url"].endswith("/priced")


async def test_the_quoted_url_is_a_url_and_has_no_query() -> None:
    wall = provider(unserved, {"/weather/{city}": PRICED})
    answer = await ask(wall, "/weather/s\u00e3o paulo?", query_string=b"key=secret")
    assert answer.quote["resource"]["url"] == "http://api.example/weather/s%C3%A3o%20paulo%3F"


# -- What a stranger can send --------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        [*paying("x"), *paying("x")],
        paying("eyJ9, eyJ9"),
        paying("x,"),
        [*paying("x"), (b"x-payment", b"x")],
        [(b"x-payment", b"x"), (b"x-payment", b"x")],
    ],
)
async def test_case_05_more_than_one_payment_is_400(headers: list[tuple[bytes, bytes]]) -> None:
    answer = await ask(provider(unserved), headers=headers)
    assert (answer.status, answer.json["error"]) == (400, "invalid_payload")
    assert free_of_charge(answer)


async def test_case_05_a_good_payment_sent_twice_in_one_request_is_400() -> None:
    good = paying(Agent().pay(1000))
    wall = provider(unserved)
    assert (await ask(wall, headers=[*good, *good])).status == 400
    assert (await ask(wall, headers=[*good, (b"x-payment", good[0][1])])).status == 400


async def test_case_05_an_old_payment_is_told_which_version_is_spoken() -> None:
    answer = await ask(provider(unserved, v1=False), headers=[(b"x-payment", b"eyJ9")])
    assert (answer.status, answer.json["error"]) == (400, "invalid_x402_version")
    old = header_of({**decoded(Agent().pay(1000)), "x402Version": 1})
    assert (await ask(provider(unserved), headers=paying(old))).status == 400


async def test_case_06_too_many_headers_are_431() -> None:
    many = [(b"x-%d" % number, b"") for number in range(10_000)]
    assert (await ask(provider(unserved), headers=many)).status == 431
    few = [(b"x-%d" % number, b"") for number in range(MAX_HEADERS - 1)]
    assert (await ask(provider(unserved), headers=few)).status == 402


@pytest.mark.parametrize("size", [16 * 1024 + 1, 64 * 1024, 1024 * 1024])
async def test_case_06_a_huge_payment_is_431_and_not_decoded(size: int) -> None:
    header = base64.b64encode(b"{" * size).decode()[:size]
    wall = provider(unserved)
    start = time.perf_counter()
    assert (await ask(wall, headers=paying(header))).status == 431
    assert time.perf_counter() - start < 0.25


def _spaced(header: str) -> str:
    return " ".join(header[at : at + 60] for at in range(0, len(header), 60))


@pytest.mark.parametrize(
    "spell",
    [
        lambda header: header,
        lambda header: header.rstrip("="),
        lambda header: header.replace("+", "-").replace("/", "_"),
        lambda header: header.replace("+", "-").replace("/", "_").rstrip("="),
        _spaced,
        lambda header: header + "==",
    ],
)
async def test_case_07_base64_with_one_meaning_is_read(spell: Callable[[str], str]) -> None:
    answer = await ask(provider(answering()), headers=paying(spell(Agent().pay(1000))))
    assert answer.status == 200


@pytest.mark.parametrize(
    "spell",
    [
        lambda header: header + "!",
        lambda header: "~" + header,
        lambda header: header[:-3],
        lambda header: header[: len(header) // 2],
        lambda header: base64.b64encode(b"\xff\xfe" + base64.b64decode(header)).decode(),
        lambda header: base64.b64encode(base64.b64decode(header) + b"{}").decode(),
        lambda header: base64.b64encode(base64.b64decode(header).replace(b"0x", b"\xff")).decode(),
        lambda header: "",
        lambda header: "=",
        lambda header: "null",
        lambda header: base64.b64encode(b"null").decode(),
        lambda header: base64.b64encode(b"[]").decode(),
        lambda header: "\u00e9" + header,
    ],
)
async def test_case_07_anything_else_is_400(spell: Callable[[str], str]) -> None:
    header = spell(Agent().pay(1000))
    answer = await ask(provider(unserved), headers=[(b"payment-signature", header.encode())])
    assert answer.status == 400
    assert free_of_charge(answer)


def _bombs() -> dict[str, bytes]:
    """JSON that is small enough to come in and costly to read."""
    room = 12_000
    good = base64.b64decode(Agent().pay(1000))
    return {
        "deep lists": b"[" * room,
        "deep objects": b'{"a":' * (room // 5),
        "deep inside": good.replace(b'"payload":', b'"payload":' + b"[" * 5000 + b',"x":', 1),
        "many keys": b"{" + b",".join(b'"%d":0' % n for n in range(1100)) + b"}",
        "not a number": b'{"x402Version":NaN}',
        "infinite": b'{"x402Version":1e309}',
        "long integer": b'{"x402Version":' + b"9" * 5000 + b"}",
        "fraction": good.replace(b'"x402Version":2', b'"x402Version":2.5'),
        "text version": good.replace(b'"x402Version":2', b'"x402Version":"2"'),
        "lone surrogate": b'{"x402Version":2,"accepted":"\\ud800","payload":{}}',
        "raw surrogate": b'{"x402Version":2,"accepted":"\xed\xa0\x80","payload":{}}',
        "no payload": b'{"x402Version":2}',
        "wide": b"[" + b"{}," * 3900 + b"{}]",
    }


@pytest.mark.parametrize("name", sorted(_bombs()))
async def test_case_08_a_json_bomb_is_400_at_once(name: str) -> None:
    header = base64.b64encode(_bombs()[name]).decode()
    wall = provider(unserved)
    start = time.perf_counter()
    answer = await ask(wall, headers=paying(header))
    assert time.perf_counter() - start < 0.25
    assert (answer.status, answer.json["error"]) == (400, "invalid_payload")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"scheme": "exact"}, "invalid_payment_requirements"),
        ({"network": "eip155:1"}, "invalid_payment_requirements"),
        ({"amount": "1"}, "invalid_payment_requirements"),
        ({"payTo": "0x" + "11" * 20}, "invalid_payment_requirements"),
        ({"extra": {}}, "invalid_payment_requirements"),
    ],
)
async def test_case_19_other_terms_are_402_with_a_receipt_that_says_why(
    change: dict[str, Any], reason: str
) -> None:
    payment = decoded(Agent().pay(1000))
    payment["accepted"] |= change
    answer = await ask(provider(unserved), headers=paying(header_of(payment)))
    assert answer.status == 402
    assert answer.quote["error"] == answer.json["error"] == reason
    assert answer.receipt == {
        "success": False,
        "transaction": "",
        "network": NETWORK,
        "errorReason": reason,
    }
    assert answer.header("cache-control") == "no-store"


async def test_a_refusal_about_totals_corrects_the_client() -> None:
    wall = provider(answering())
    await buy(wall, 1000)
    answer = await buy(wall, 1500)
    assert answer.status == 402
    assert answer.quote["error"] == "invalid_batch_settlement_evm_cumulative_amount_mismatch"
    state = answer.quote["accepts"][0]["extra"]["channelState"]
    assert state["chargedCumulativeAmount"] == "1000"
    assert answer.header("payment-response") is None


async def test_case_09_an_unpaid_request_is_answered_without_reading_it() -> None:
    client = Client([{"type": "http.request", "body": b"x" * 65536, "more_body": True}] * 1000)
    answer = await ask(provider(unserved), method="POST", client=client)
    assert (answer.status, client.reads) == (402, 0)


async def test_case_09_a_refused_payment_is_answered_without_reading_it() -> None:
    client = Client([{"type": "http.request", "body": b"x" * 65536, "more_body": True}] * 1000)
    answer = await ask(provider(unserved), method="POST", headers=paying("no"), client=client)
    assert (answer.status, client.reads) == (400, 0)


@pytest.mark.parametrize("path", ["/priced%00", "/priced\n", "/" + "a" * 10_000])
async def test_case_01_a_malformed_path_is_400(path: str) -> None:
    answer = await ask(provider(unserved), path)
    assert (answer.status, answer.json["error"]) == (400, "invalid_path")


async def test_case_03_a_lower_case_verb_pays_as_well() -> None:
    wall = provider(unserved, {"GET /priced": PRICED})
    for verb in ("get", "Head", "FETCH"):
        assert (await ask(wall, method=verb)).status == 402
    assert (await ask(provider(answering()), method="OPTIONS")).status == 200


# -- Paid answers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wished", "sent"),
    [
        (None, "private"),
        ("max-age=60", "private, max-age=60"),
        ("public, max-age=60", "private, max-age=60"),
        ("PUBLIC,S-MaxAge=60 , max-age=5", "private, max-age=5"),
        ("s-maxage=600", "private"),
        ("private", "private"),
        ("no-store", "no-store"),
        ("no-store, public", "no-store"),
        ("private, public, s-maxage=60", "private"),
        ('private="set-cookie", max-age=60', 'private, private="set-cookie", max-age=60'),
        ("no-cache", "private, no-cache"),
    ],
)
async def test_case_15_a_paid_answer_stays_out_of_shared_caches(
    wished: str | None, sent: str
) -> None:
    headers = [(b"Cache-Control", wished.encode())] if wished else []
    answer = await buy(provider(answering(headers=headers)), 1000)
    assert answer.header("cache-control") == sent


async def test_case_15_nor_do_headers_that_only_shared_caches_read_let_them_keep_it() -> None:
    names = (b"CDN-Cache-Control", b"Cloudflare-CDN-Cache-Control", b"surrogate-control")
    names = (*names, b"X-Accel-Expires")
    headers = [(name, b"max-age=600") for name in names]
    headers += [(b"cache-control", b"public"), (b"cache-control", b"max-age=1"), (b"etag", b'"1"')]
    answer = await buy(provider(answering(headers=headers)), 1000)
    assert [answer.header(name.decode()) for name in names] == [None] * len(names)
    assert answer.header("cache-control") == "private, max-age=1"
    assert answer.header("etag") == '"1"'


async def test_case_15_the_receipt_can_be_read_in_a_browser_beside_the_apps_own_headers() -> None:
    headers = [(b"access-control-expose-headers", b"X-Own"), (b"x-own", b"1")]
    answer = await buy(provider(answering(headers=headers)), 1000)
    exposed = answer.header("access-control-expose-headers")
    assert exposed == "PAYMENT-REQUIRED, PAYMENT-RESPONSE, X-Own"
    assert answer.header("x-own") == "1"


@pytest.mark.parametrize("status", [200, 404])
async def test_case_13_content_cannot_forge_a_receipt(status: int) -> None:
    forged = (b"Payment-Response", b"eyJzdWNjZXNzIjp0cnVlfQ==")
    answer = await buy(provider(answering(status, headers=[forged, forged])), 1000)
    assert [decoded(value).get("payer") for value in answer.all("payment-response")] == (
        [answer.receipt["payer"]] if status == 200 else []
    )


async def test_a_free_route_is_left_alone() -> None:
    headers = [(b"cache-control", b"public"), (b"payment-response", b"mine")]
    wall = provider(answering(headers=headers), {"/other": PRICED})
    answer = await ask(wall, headers=[*paying("nonsense"), *paying("nonsense")])
    assert answer.header("cache-control") == "public"
    assert answer.header("payment-response") == "mine"


async def test_a_refund_is_answered_instead_of_the_handler() -> None:
    served = iter((answering(), unserved))

    async def once(scope: Scope, receive: Receive, send: Send) -> None:
        await next(served)(scope, receive, send)

    wall = provider(once)
    await buy(wall, 1000)
    answer = await ask(wall, headers=paying(Agent().refund(1000)))
    assert answer.status == 200
    assert answer.json == {
        "message": "Refund acknowledged",
        "channelId": "0x" + Agent().channel_id.hex(),
    }
    assert answer.receipt["amount"] == "49000"
    assert answer.header("cache-control") == "no-store"


# -- A price by the request ----------------------------------------------------------------------


async def _by_words(request: Request) -> FixedPrice:
    words = len((await request.json())["text"].split())
    return f"${words / 1000:.3f}" if words else None


async def _echo(scope: Scope, receive: Receive, send: Send) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message.get("more_body", False)
    await answering(body=body)(scope, receive, send)


def _chunks(body: bytes, size: int) -> list[Message]:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    messages: list[Message] = [
        {"type": "http.request", "body": piece, "more_body": True} for piece in pieces
    ]
    return [*messages, {"type": "http.request", "body": b"", "more_body": False}]


async def _post(
    wall: Paywall, body: bytes, size: int = 10, headers: list[tuple[bytes, bytes]] | None = None
) -> Answer:
    return await ask(wall, method="POST", headers=headers or [], client=Client(_chunks(body, size)))


async def test_a_price_may_depend_on_the_body_and_the_app_still_reads_it() -> None:
    wall = provider(_echo, {"POST /priced": _by_words})
    body = json.dumps({"text": "one two three"}).encode()
    assert (await _post(wall, body)).quote["accepts"][0]["amount"] == "3000"
    paid = paying(Agent().pay(3000, 3000))
    answer = await _post(wall, body, headers=paid)
    assert (answer.status, answer.body) == (200, body)
    assert answer.receipt["extra"]["chargedAmount"] == "3000"


async def test_what_was_paid_for_a_short_body_does_not_buy_a_long_one() -> None:
    wall = provider(unserved, {"POST /priced": _by_words})
    body = json.dumps({"text": "one two three"}).encode()
    answer = await _post(wall, body, headers=paying(Agent().pay(1000, 1000)))
    assert (answer.status, answer.json["error"]) == (402, "invalid_payment_requirements")


async def test_a_price_of_none_by_the_request_is_free() -> None:
    wall = provider(_echo, {"POST /priced": _by_words})
    answer = await _post(wall, b'{"text": ""}')
    assert (answer.status, answer.body) == (200, b'{"text": ""}')


async def test_a_price_function_that_reads_a_part_leaves_all_to_the_app() -> None:
    async def peek(request: Request) -> FixedPrice:
        async for _ in request.stream():
            return None
        return None

    answer = await _post(provider(_echo, {"/priced": peek}), b"0123456789abcdef")
    assert answer.body == b"0123456789abcdef"


async def test_a_price_by_a_header_reads_no_body() -> None:
    async def by_model(request: Request) -> FixedPrice:
        return upto("$0.002") if request.headers.get("x-model") == "large" else PRICED

    client = Client([])
    wall = provider(unserved, {"/priced": by_model})
    answer = await ask(wall, method="POST", headers=[(b"x-model", b"large")], client=client)
    assert answer.quote["accepts"][0]["amount"] == "2000"
    assert client.reads == 0


async def test_case_09_a_body_that_is_too_large_to_price_is_413() -> None:
    client = Client(_chunks(b"x" * (MAX_PRICED_BODY_BYTES + 2 * 65536), 65536))
    wall = provider(unserved, {"/priced": _by_words})
    answer = await ask(wall, method="POST", client=client)
    assert answer.status == 413
    assert client.reads <= 1 + MAX_PRICED_BODY_BYTES // 65536


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"text": 5}',
        b'"text"',
        b"\xff\xfe\xfa",
        b"[" * 100_000,
        b'{"text": ' + b"9" * 5000 + b"}",
    ],
)
async def test_case_08_a_body_that_cannot_be_priced_is_400(body: bytes) -> None:
    answer = await _post(provider(unserved, {"/priced": _by_words}), body, 65536)
    assert (answer.status, answer.json["error"]) == (400, "unpriceable_request")
    assert free_of_charge(answer)


async def test_case_10_hanging_up_before_the_price_is_known_disturbs_nobody() -> None:
    client = Client([{"type": "http.request", "body": b'{"te', "more_body": True}])
    client.hang_up()
    await ask(provider(unserved, {"/priced": _by_words}), method="POST", client=client)


@pytest.mark.parametrize("price", ["much", "$0", "$0.00000001", 0.5, upto("nothing")])
async def test_a_price_function_that_gives_no_price_is_our_fault(price: Any) -> None:
    async def wrong(request: Request) -> Any:
        return price

    answer = await ask(provider(unserved, {"/priced": wrong}))
    assert (answer.status, answer.header("retry-after")) == (503, "2")


async def test_a_price_function_with_a_mistake_of_its_own_is_not_hidden() -> None:
    async def wrong(request: Request) -> FixedPrice:
        raise RuntimeError("a mistake")

    with pytest.raises(RuntimeError):
        await ask(provider(unserved, {"/priced": wrong}))


# -- WebSockets ----------------------------------------------------------------------------------


async def _websocket(app: ASGIApp, path: str) -> list[str]:
    sent: list[str] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message["type"])

    scope = {**scope_of(path, headers=paying(Agent().pay(1000))), "type": "websocket"}
    del scope["method"]
    await app(scope, receive, send)
    return sent


async def _accept(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "websocket.accept"})


@pytest.mark.parametrize("path", ["/priced", "//PRICED/", "/priced\n", "/%2570riced"])
@pytest.mark.parametrize("pattern", ["/priced", "GET /priced", "POST /priced"])
async def test_case_04_a_websocket_on_a_priced_path_is_refused(path: str, pattern: str) -> None:
    assert await _websocket(provider(_accept, {pattern: PRICED}), path) == ["websocket.close"]


async def test_case_04_a_websocket_on_a_free_path_is_passed_on() -> None:
    wall = provider(_accept, {"/v1/*": PRICED})
    assert await _websocket(wall, "/free") == ["websocket.accept"]


# -- Life ----------------------------------------------------------------------------------------


async def _lifespan(app: ASGIApp, seconds: float = 1) -> list[Message]:
    """A whole life of a server: started, and stopped at once."""
    messages: list[Message] = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent: list[Message] = []

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    async with asyncio.timeout(seconds):
        await app({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send)
    return sent


COMPLETE = ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_a_life_opens_and_closes_the_paywall_around_the_apps_own() -> None:
    ledger, order = Ledger(), []

    @asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        order.append(list(ledger.calls))
        yield
        order.append(list(ledger.calls))

    wall = provider(Starlette(lifespan=life), chain=ledger)
    assert [message["type"] for message in await _lifespan(wall)] == COMPLETE
    assert order == [["open"], ["open"]]
    assert ledger.calls == ["open", "close"]


async def _without_raising(scope: Scope, receive: Receive, send: Send) -> None:
    return None


async def _without_asking(scope: Scope, receive: Receive, send: Send) -> None:
    assert scope["type"] == "http", "no lifespan here"


@pytest.mark.parametrize("app", [_without_raising, _without_asking])
async def test_an_app_without_a_life_gets_the_paywalls(app: ASGIApp) -> None:
    ledger = Ledger()
    assert [m["type"] for m in await _lifespan(provider(app, chain=ledger))] == COMPLETE
    assert ledger.calls == ["open", "close"]


async def test_a_life_that_ends_in_an_exception_closes_the_paywall() -> None:
    ledger = Ledger()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        raise LookupError("the app fell over")

    with pytest.raises(LookupError):
        await _lifespan(provider(app, chain=ledger))
    assert ledger.calls == ["open", "close"]


async def test_an_app_that_cannot_start_closes_the_paywall() -> None:
    ledger = Ledger()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    [message] = await _lifespan(provider(app, chain=ledger))
    assert message == {"type": "lifespan.startup.failed", "message": "no database"}
    assert ledger.calls == ["open", "close"]


@pytest.mark.parametrize(
    "error",
    [ChainUnavailable("the RPC does not answer"), ConfigurationError("the RPC is on Mainnet")],
)
async def test_a_start_that_fails_says_why_in_one_sentence(error: Exception) -> None:
    ledger = Ledger()
    ledger.faults["open"] = error
    [message] = await _lifespan(provider(unserved, chain=ledger))
    assert message == {"type": "lifespan.startup.failed", "message": str(error)}


async def test_a_server_without_a_life_opens_the_paywall_with_the_first_request() -> None:
    ledger = Ledger()
    wall = provider(answering(), chain=ledger)
    assert ledger.calls == []
    answers = await asyncio.gather(*(buy(wall, total) for total in (1000, 2000, 3000)))
    assert [answer.status for answer in answers].count(200) >= 1
    assert ledger.calls.count("open") == 1
    await wall.close()


async def test_case_12_a_paywall_that_cannot_open_is_503_until_it_can() -> None:
    ledger = Ledger()
    wall = provider(answering(), chain=ledger)
    for error in (ChainUnavailable("the RPC does not answer"), ConfigurationError("wrong chain")):
        ledger.faults["open"] = error
        for answer in (await ask(wall), await buy(wall, 1000)):
            assert (answer.status, answer.header("retry-after")) == (503, "2")
            assert answer.header("payment-required") is None
    ledger.faults.clear()
    assert (await buy(wall, 1000)).status == 200


async def test_closing_twice_is_closing_once() -> None:
    ledger = Ledger()
    wall = provider(answering(), chain=ledger)
    await wall.open()
    await wall.open()
    await wall.close()
    await wall.close()
    assert ledger.calls == ["open", "close"]


# -- Our own faults ------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["reserve", "record", "channel", "charge"])
async def test_case_12_a_store_that_is_down_is_503_and_no_second_402(verb: str) -> None:
    store = FaultyStore()
    wall = provider(answering(), store=store, chain=(ledger := Ledger()))
    ledger.change(Agent().channel_id, balance=0)
    store.down.add(verb)
    answer = await ask(wall, headers=paying(Agent().fill(1000)))
    assert (answer.status, answer.header("retry-after")) == (503, "2")
    assert answer.header("payment-required") is None
    assert "not charged" in answer.json["message"]
    store.down.clear()
    await turns(10)
    record = store._records.get(Agent().channel_id)
    assert record is None or (record.charged, record.holds) == (0, {})


@pytest.mark.parametrize("verb", ["channel", "begin_refund", "end_refund"])
async def test_case_12_a_refund_while_the_store_is_down_is_503(verb: str) -> None:
    store = FaultyStore()
    wall = provider(answering(), store=store)
    await buy(wall, 1000)
    store.down.add(verb)
    answer = await ask(wall, headers=paying(Agent().refund(1000)))
    assert (answer.status, answer.header("payment-required")) == (503, None)


async def test_case_12_a_quote_needs_neither_store_nor_chain() -> None:
    store = FaultyStore()
    store.down = {"channel", "reserve", "record"}
    wall = provider(unserved, store=store)
    assert (await ask(wall)).status == 402


async def test_case_16_an_apology_shows_no_secrets() -> None:
    store = FaultyStore()
    wall = provider(answering(), store=store)
    store.down.add("reserve")
    answer = await buy(wall, 1000)
    shown = answer.body + repr(answer.messages[0]["headers"]).encode()
    for secret in (b"hunter2", b"redis", b"Traceback", b".py", b"Error"):
        assert secret not in shown


async def test_case_16_a_refusal_shows_nobody_elses_channel() -> None:
    wall = provider(answering())
    await buy(wall, 1000)
    forged = decoded(Agent().pay(1500))
    forged["payload"]["voucher"]["signature"] = "0x" + "11" * 64 + "1b"
    answer = await ask(wall, headers=paying(header_of(forged)))
    assert answer.status == 402
    assert "channelState" not in answer.quote["accepts"][0]["extra"]
    assert "voucherState" not in answer.quote["accepts"][0]["extra"]


async def test_case_16_complaints_name_fields_and_not_values() -> None:
    secret = "my-api-key"
    payment = decoded(Agent().pay(1000))
    payment["payload"]["voucher"]["maxClaimableAmount"] = secret
    answer = await ask(provider(unserved), headers=paying(header_of(payment)))
    assert answer.status == 402
    assert secret.encode() not in answer.body


# -- Configuration -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"asset": USDC.base},
        {"pay_to": "me"},
        {"pay_to": "0x" + "00" * 20},
        {"store": "mongodb://localhost"},
        {"min_deposit": "$2000"},
        {"min_deposit": "little"},
        {"withdraw_delay_seconds": 60},
        {"prices": {}},
    ],
)
def test_settings_that_cannot_work_are_found_at_start(change: dict[str, Any]) -> None:
    settings: dict[str, Any] = {
        "prices": {"/priced": PRICED},
        "pay_to": show_address(TERMS.pay_to),
        "chain": Ledger(),
        "asset": ASSET,
        "store": "memory://",
    }
    Paywall(unserved, **settings)
    with pytest.raises(ConfigurationError):
        Paywall(unserved, **{**settings, **change})


# -- Frameworks and clients ----------------------------------------------------------------------


def _http(app: ASGIApp) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app)
    return httpx.AsyncClient(transport=transport, base_url="http://api.example")


async def test_a_fastapi_app_behind_the_paywall_works() -> None:
    api = FastAPI()

    @api.get("/weather/{city}")
    async def weather(city: str, request: FastRequest) -> dict[str, Any]:
        return {"city": city, "paid": request.state.payment.amount}

    @api.get("/")
    async def home() -> str:
        return "free"

    async with _http(provider(api, {"GET /weather/{city}": PRICED})) as http:
        assert (await http.get("/")).json() == "free"
        assert (await http.get("/weather/paris")).status_code == 402
        headers = {"PAYMENT-SIGNATURE": Agent().pay(1000)}
        paid = await http.get("/weather/paris", headers=headers)
    assert paid.json() == {"city": "paris", "paid": PRICE}
    assert decoded(paid.headers["PAYMENT-RESPONSE"])["success"] is True


async def test_a_fastapi_app_takes_the_paywall_as_middleware_among_others() -> None:
    api = FastAPI()
    api.add_middleware(
        Paywall,
        prices={"GET /priced": PRICED},
        pay_to=show_address(TERMS.pay_to),
        asset=ASSET,
        chain=(ledger := Ledger()),
        store="memory://",
        withdraw_delay_seconds=TERMS.withdraw_delay_seconds,
    )
    ledger.fund(Agent().channel_id, 1_000_000)

    @api.middleware("http")
    async def timing(request: FastRequest, call_next: Any) -> Any:
        response = await call_next(request)
        response.headers["x-timed"] = "yes"
        return response

    @api.get("/priced")
    async def priced(request: FastRequest) -> int:
        return payment_of(request).amount

    accepted = None
    async with _http(api) as http:
        unpaid = await http.get("/priced")
        accepted = decoded(unpaid.headers["PAYMENT-REQUIRED"])["accepts"][0]
        payment = decoded(Agent().pay(1000)) | {"accepted": accepted}
        paid = await http.get("/priced", headers={"PAYMENT-SIGNATURE": header_of(payment)})
    assert (paid.status_code, paid.json(), paid.headers["x-timed"]) == (200, PRICE, "yes")


async def test_a_handler_that_reads_the_body_gets_it_behind_a_fixed_price() -> None:
    async def handler(request: Request) -> PlainTextResponse:
        return PlainTextResponse(await request.body())

    wall = provider(Starlette(routes=[Route("/priced", handler, methods=["POST"])]))
    async with _http(wall) as http:
        headers = {"PAYMENT-SIGNATURE": Agent().pay(1000)}
        paid = await http.post("/priced", content=SECRET * 10_000, headers=headers)
    assert paid.content == SECRET * 10_000
    assert (await record_of(wall)).charged == PRICE


async def test_another_kind_of_scope_is_passed_on() -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    client = Client()
    await provider(app)({"type": "carrier-pigeon"}, client.receive, client.send)
    assert seen == ["carrier-pigeon"]
