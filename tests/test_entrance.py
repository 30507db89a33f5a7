"""Passes and free requests at the door: who is let by, who is charged, and what is given back."""

import asyncio
import base64
import json
import time
from typing import Any

import pytest
from coincurve import PrivateKey
from helpers.channels import PAYER
from helpers.provider import (
    Agent,
    Answer,
    Client,
    FaultyStore,
    answering,
    ask,
    buy,
    paying,
    provider,
    record_of,
    until,
)
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from paywall import free_first, pass_for, upto
from paywall.asgi import Paywall
from paywall.prices import Price
from paywall.protocol import eip712, sign_in
from paywall.protocol.errors import ConfigurationError
from paywall.protocol.x402 import show_address

ORIGIN = "https://api.example"
PASS_PRICE = 5_000
PASS = pass_for("$0.005", seconds=60)


class Clocked(FaultyStore):
    """A store whose clock stands still until it is moved."""

    def __init__(self) -> None:
        self.seconds = float(int(time.time()))
        super().__init__(lambda: self.seconds)


def door(price: Price, app: ASGIApp | None = None, **options: Any) -> Paywall:
    options.setdefault("public_url", ORIGIN)
    options.setdefault("store", Clocked())
    return provider(app or seen, {"/priced": price, "/more/*": price}, **options)


async def seen(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with what a handler sees; `?status=` says how."""
    request = Request(scope, receive)
    payment = request.state.payment
    told = {
        "payer": payment.payer,
        "charged": payment.charged,
        "headers": sorted(request.headers),
    }
    status = int(request.query_params.get("status", "200"))
    await PlainTextResponse(json.dumps(told), status)(scope, receive, send)


async def challenge_of(wall: Paywall, path: str = "/priced") -> sign_in.Challenge:
    told = (await ask(wall, path)).quote["extensions"]["sign-in-with-x"]
    asked = sign_in.read_challenge(json.dumps(told).encode())
    assert asked is not None
    return asked


def proof(asked: sign_in.Challenge, key: PrivateKey = PAYER, nonce: str | None = None) -> str:
    header = sign_in.sign(
        lambda digest: eip712.sign(key, digest),
        eip712.address_of(key),
        asked,
        ORIGIN,
        f"{ORIGIN}/priced",
        nonce,
        int(time.time()),
    )
    assert header is not None
    return header


def signing_in(header: str) -> list[tuple[bytes, bytes]]:
    return [(b"sign-in-with-x", header.encode())]


async def signed_in(wall: Paywall, key: PrivateKey = PAYER, **fields: Any) -> Answer:
    asked = await challenge_of(wall)
    return await ask(wall, headers=signing_in(proof(asked, key)), **fields)


def pass_bought(wall: Paywall, total: int = PASS_PRICE, **fields: Any) -> Any:
    header = Agent().pay(total, PASS_PRICE)
    return ask(wall, headers=paying(header), **fields)


def bearer(token: str | None) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", f"Bearer {token}".encode())]


# -- Passes --------------------------------------------------------------------------------------


async def test_a_pass_is_paid_once_and_opens_by_signature_and_by_token() -> None:
    wall = door(PASS)
    assert (await signed_in(wall)).status == 402
    sold = await pass_bought(wall)
    assert (sold.status, sold.receipt["extra"]["chargedAmount"]) == (200, str(PASS_PRICE))
    token = sold.header("paywall-pass")
    assert "paywall-pass" in (sold.header("access-control-expose-headers") or "").lower()

    by_signature = await signed_in(wall)
    assert by_signature.json["payer"] == show_address(Agent().config.payer)
    assert by_signature.json["charged"] == 0
    for headers in (bearer(token), [(b"paywall-pass", (token or "").encode())]):
        answer = await ask(wall, headers=headers)
        assert (answer.status, answer.header("cache-control")) == (200, "private")
        assert answer.header("payment-response") is None
        assert answer.json["headers"] == ["host"], "what opens the door is not for the app"
    assert (await record_of(wall)).charged == PASS_PRICE


async def test_a_pass_opens_for_its_time_and_not_a_millisecond_longer() -> None:
    wall = door(PASS)
    store = wall.gate.store
    token = (await pass_bought(wall)).header("paywall-pass")
    store.seconds += 59.999
    assert (await ask(wall, headers=bearer(token))).status == 200
    assert (await signed_in(wall)).status == 200
    store.seconds += 0.001
    assert (await ask(wall, headers=bearer(token))).status == 402
    assert (await signed_in(wall)).status == 402


async def test_a_replayed_sign_in_is_refused() -> None:
    wall = door(PASS)
    await pass_bought(wall)
    header = proof(await challenge_of(wall))
    assert (await ask(wall, headers=signing_in(header))).status == 200
    again = await ask(wall, headers=signing_in(header))
    assert (again.status, again.json["error"]) == (402, "invalid_siwx_nonce")
    assert again.quote["error"] == "invalid_siwx_nonce"
    assert "sign-in-with-x" in again.quote["extensions"], "a fresh challenge comes with it"
    assert again.header("payment-response") is None


async def test_of_a_proof_sent_64_times_at_once_one_is_let_in() -> None:
    wall = door(PASS)
    await pass_bought(wall)
    header = proof(await challenge_of(wall))
    answers = await asyncio.gather(*(ask(wall, headers=signing_in(header)) for _ in range(64)))
    assert sorted(answer.status for answer in answers) == [200] + [402] * 63


async def test_somebody_elses_signature_or_token_opens_nothing() -> None:
    wall = door(PASS)
    sold = (await pass_bought(wall)).header("paywall-pass") or ""
    assert (await signed_in(wall, PrivateKey())).status == 402
    data = base64.urlsafe_b64decode(sold[3:])
    others = [
        "pw_" + base64.urlsafe_b64encode(forged).decode()
        for forged in (data[:20] + bytes(16), bytes(20) + data[20:], data[:-1], b"")
    ]
    for token in (*others, sold[3:], sold + "x", "pw_", "pw_!!!", "other"):
        assert (await ask(wall, headers=bearer(token))).status == 402, token


async def test_the_payer_of_a_pass_who_pays_again_is_charged_with_nothing() -> None:
    wall = door(PASS)
    await pass_bought(wall)
    again = await pass_bought(wall, 2 * PASS_PRICE)
    assert (again.status, again.receipt["extra"]["chargedAmount"]) == (200, "0")
    assert again.json["charged"] == 0
    record = await record_of(wall)
    assert (record.charged, record.holds) == (PASS_PRICE, {})


async def test_a_pass_of_some_calls_ends_with_them_and_failures_do_not_count() -> None:
    wall = door(pass_for("$0.005", calls=3))
    token = (await pass_bought(wall)).header("paywall-pass")
    failed = await ask(wall, headers=bearer(token), query_string=b"status=500")
    assert failed.status == 500
    statuses = [(await ask(wall, headers=bearer(token))).status for _ in range(4)]
    assert statuses == [200, 200, 200, 402]
    assert (await pass_bought(wall, 2 * PASS_PRICE)).status == 200
    statuses = [(await signed_in(wall)).status for _ in range(4)]
    assert statuses == [200, 200, 200, 402]
    assert (await record_of(wall)).charged == 2 * PASS_PRICE


async def test_of_64_calls_at_once_as_many_are_let_in_as_were_bought() -> None:
    wall = door(pass_for("$0.005", hours=1, calls=10))
    token = (await pass_bought(wall)).header("paywall-pass")
    answers = await asyncio.gather(*(ask(wall, headers=bearer(token)) for _ in range(64)))
    assert sum(answer.status == 200 for answer in answers) == 10


async def test_two_passes_bought_at_once_are_both_there() -> None:
    wall = door(pass_for("$0.005", hours=1, calls=2))
    answers = await asyncio.gather(*(pass_bought(wall, n * PASS_PRICE) for n in (1, 2)))
    charged = (await record_of(wall)).charged
    calls = 0
    token = next(filter(None, (answer.header("paywall-pass") for answer in answers)))
    while (await ask(wall, headers=bearer(token))).status == 200:
        calls += 1
    waived = 2 - charged // PASS_PRICE
    assert calls + waived == 2 * charged // PASS_PRICE


async def test_a_pass_that_was_not_charged_is_not_there() -> None:
    wall = door(PASS)
    failed = await pass_bought(wall, query_string=b"status=404")
    assert (failed.status, failed.header("paywall-pass")) == (404, None)
    assert (await signed_in(wall)).status == 402
    wall.gate.store.down.add("charge")
    withheld = await pass_bought(wall)
    assert (withheld.status, withheld.header("paywall-pass")) == (503, None)
    wall.gate.store.down.clear()
    assert (await signed_in(wall)).status == 402


async def test_case_10_a_request_that_is_cancelled_while_it_is_charged_has_its_pass() -> None:
    wall = door(PASS)
    charge, reached, go_on = wall.gate.store.charge, asyncio.Event(), asyncio.Event()

    async def slow(*args: Any) -> Any:
        reached.set()
        await go_on.wait()
        return await charge(*args)

    wall.gate.store.charge = slow
    buying = asyncio.create_task(pass_bought(wall))
    await reached.wait()
    buying.cancel()
    await asyncio.wait([buying])
    go_on.set()
    await until(lambda: any(name == "slip" for _, name in wall.gate.store._entries))
    assert (await signed_in(wall)).status == 200
    assert (await record_of(wall)).charged == PASS_PRICE


async def test_a_name_opens_several_parts_and_a_route_without_one_only_itself() -> None:
    shared = door(pass_for("$0.005", hours=1, name="all"))
    await pass_bought(shared)
    assert (await signed_in(shared, path="/more/x")).status == 200
    apart = door(PASS)
    await pass_bought(apart)
    assert (await signed_in(apart, path="/more/x")).status == 402


async def test_a_repeated_payment_brings_the_token_again() -> None:
    wall = door(PASS, answering(headers=[(b"content-length", b"6")], body=b"served"))
    quote = (await ask(wall)).quote
    payment = json.loads(base64.b64decode(Agent().pay(PASS_PRICE, PASS_PRICE)))
    extension = quote["extensions"]["payment-identifier"]
    extension["info"]["id"] = "payment-00000001"
    payment["extensions"] = {"payment-identifier": extension}
    header = base64.b64encode(json.dumps(payment).encode()).decode()
    first, second = [await ask(wall, headers=paying(header)) for _ in range(2)]
    assert first.header("paywall-pass") == second.header("paywall-pass") is not None
    assert (await record_of(wall)).charged == PASS_PRICE


async def test_without_a_public_url_a_pass_is_for_its_token_alone() -> None:
    wall = door(PASS, public_url=None)
    quote = (await ask(wall)).quote
    assert "sign-in-with-x" not in quote["extensions"]
    asked = await challenge_of(door(PASS))
    await pass_bought(wall)
    assert (await ask(wall, headers=signing_in(proof(asked)))).status == 402


async def test_case_14_a_sign_in_for_the_host_that_a_client_names_is_not_for_us() -> None:
    wall = door(PASS)
    await pass_bought(wall)
    asked = await challenge_of(wall)
    evil = sign_in.Challenge(
        sign_in.Info(domain="evil.example", uri="https://evil.example/", nonce="n", issued_at=""),
        asked.supported_chains,
    )
    header = sign_in.sign(
        lambda digest: eip712.sign(PAYER, digest),
        eip712.address_of(PAYER),
        evil,
        "https://evil.example",
        "https://evil.example/priced",
        "0123456789abcdef",
        int(time.time()),
    )
    headers = [*signing_in(header or ""), (b"host", b"evil.example")]
    answer = await ask(wall, headers=headers)
    assert (answer.status, answer.json["error"]) == (402, "invalid_siwx_domain_mismatch")


@pytest.mark.parametrize("header", ["", "e30=", "!!!"])
async def test_case_7_a_sign_in_that_cannot_be_read_is_400(header: str) -> None:
    answer = await ask(door(PASS), headers=signing_in(header or "e30="))
    assert (answer.status, answer.json["error"]) == (400, "invalid_siwx")
    double = await ask(door(PASS), headers=signing_in("e30=") * 2)
    assert double.status == 400


async def test_case_12_a_store_that_is_away_is_503_and_nothing_is_held() -> None:
    wall = door(free_first(2, then="$0.001"))
    wall.gate.store.down.add("take")
    assert (await signed_in(wall)).status == 503
    assert (await buy(wall, 1_000)).status == 503
    await until(lambda: not wall.gate._running)
    assert (await record_of(wall)).holds == {}


async def test_case_41_a_call_of_which_nobody_knows_whether_it_was_counted_is_given_back() -> None:
    wall = door(free_first(1, then="$0.001"))
    wall.gate.store.lost.add("take")
    assert (await signed_in(wall)).status == 503
    wall.gate.store.lost.clear()
    assert (await signed_in(wall)).status == 200
    assert (await signed_in(wall)).status == 402, "that was the one free request"


async def test_a_public_url_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="public_url"):
        door(PASS, public_url="api.example")


async def test_a_quote_says_what_its_price_buys(caplog: pytest.LogCaptureFixture) -> None:
    walls = (
        door(pass_for("$0.005", hours=2, calls=9)),
        door(pass_for("$0.005", minutes=1)),
        door(free_first(3, then="$0.001")),
        door("$0.001"),
    )
    assert [(await ask(wall)).json.get("terms") for wall in walls] == [
        "One payment is a pass for 7200 s, for 9 calls.",
        "One payment is a pass for 60 s.",
        "The first 3 requests of each payer in 86400 s are free.",
        None,
    ]
    assert "public_url" not in caplog.text
    await ask(door(PASS, public_url=None))
    assert caplog.text.count("say public_url") == 1


# -- Free requests -------------------------------------------------------------------------------


async def test_the_first_are_free_by_signing_in_and_then_one_is_paid() -> None:
    wall = door(free_first(2, then="$0.001"))
    answers = [await signed_in(wall) for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 402]
    assert (await signed_in(wall, PrivateKey())).status == 200, "another payer has its own"
    paid = await buy(wall, 1_000)
    assert paid.receipt["extra"]["chargedAmount"] == "1000"


async def test_the_first_are_free_by_payment_and_a_days_count_ends_with_it() -> None:
    wall = door(free_first(2, then="$0.001", seconds=20))

    async def charged(total: int) -> str:
        answer = await buy(wall, total)
        assert answer.status == 200
        told: str = answer.receipt["extra"]["chargedAmount"]
        return told

    assert [await charged(1_000 * n) for n in (1, 2, 3, 4)] == ["0", "0", "1000", "1000"]
    wall.gate.store.seconds += 20
    assert [await charged(1_000 * n) for n in (5, 6, 7)] == ["0", "0", "1000"]
    assert (await record_of(wall)).charged == 3_000


async def test_both_ways_draw_on_one_count() -> None:
    wall = door(free_first(2, then="$0.001"))
    assert (await signed_in(wall)).status == 200
    assert (await buy(wall, 1_000)).receipt["extra"]["chargedAmount"] == "0"
    assert (await signed_in(wall)).status == 402


async def test_free_requests_may_be_for_those_who_could_pay() -> None:
    wall = door(free_first(1, then="$0.001", sign_in=False))
    assert "sign-in-with-x" not in (await ask(wall)).quote["extensions"]
    assert (await buy(wall, 1_000)).receipt["extra"]["chargedAmount"] == "0"
    assert (await buy(wall, 2_000)).receipt["extra"]["chargedAmount"] == "1000"


async def test_what_fails_is_given_back() -> None:
    wall = door(free_first(1, then="$0.001"))
    assert (await signed_in(wall, query_string=b"status=500")).status == 500
    failed = await buy(wall, 1_000, query_string=b"status=500")
    assert failed.status == 500
    assert (await signed_in(wall)).status == 200
    assert (await signed_in(wall)).status == 402


async def test_the_count_is_exact_under_64_at_once() -> None:
    wall = door(free_first(10, then="$0.001"))
    await buy(wall, 1_000)  # the record is there, and one is used
    asked = await challenge_of(wall)
    proofs = [proof(asked, nonce=f"{number:016}") for number in range(64)]
    answers = await asyncio.gather(*(ask(wall, headers=signing_in(one)) for one in proofs))
    assert sum(answer.status == 200 for answer in answers) == 9


async def test_a_free_metered_stream_runs_to_its_ceiling_and_costs_nothing() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        payment = scope["payment"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while payment.charge(400):
            await send({"type": "http.response.body", "body": b"word ", "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    wall = door(free_first(1, then=upto("$0.001")), app)
    answer = await buy(wall, 1_000)
    assert answer.body == b"word word "
    record = await record_of(wall)
    assert (record.charged, record.holds) == (0, {})


async def test_case_10_a_hang_up_before_the_answer_gives_the_free_request_back() -> None:
    started = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        started.set()
        while (await receive())["type"] != "http.disconnect":
            pass

    wall = door(free_first(1, then="$0.001"), app)
    asked = await challenge_of(wall)
    for _ in range(3):
        started.clear()
        client = Client()
        header = proof(asked, nonce=f"{time.monotonic_ns():016}")
        asking = asyncio.create_task(ask(wall, headers=signing_in(header), client=client))
        await started.wait()
        client.hang_up()
        await asking


def test_terms_that_cannot_be_are_refused() -> None:
    for wrong in (
        lambda: free_first(0, then="$1"),
        lambda: free_first(1, then="$1", seconds=0),
        lambda: pass_for("$1"),
        lambda: pass_for("$1", days=400),
        lambda: pass_for("$1", hours=1, calls=0),
    ):
        with pytest.raises(ConfigurationError):
            wrong()
    for price in (free_first(1, then="$x"), pass_for("much", hours=1)):
        with pytest.raises(ConfigurationError, match="not a price"):
            door(price)
