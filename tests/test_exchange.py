"""One paid request: the charging rule, whatever the app, the client and the store do to it."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import nullcontext, suppress
from typing import Any

import httpx
import pytest
from helpers.agent import make_wallet
from helpers.chain import eventually
from helpers.provider import (
    PRICE,
    PRICED,
    TERMS,
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
    until,
)
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from paywall.answers import CLIENT_GONE
from paywall.asgi import Paywall, payment_of
from paywall.client import AsyncClient
from paywall.kinds import upto
from paywall.protocol.limits import REQUEST_DELAY_SHARE

METERED = {"/priced": upto(PRICED)}


async def charged(wall: Paywall) -> int:
    """What was charged, when nothing is held any more."""
    record = await record_of(wall)
    assert record.holds == {}, "something is left busy"
    return record.charged


def serving(endpoint: Any) -> ASGIApp:
    return Starlette(routes=[Route("/priced", endpoint, methods=["GET", "POST"])])


async def _connected(app: ASGIApp, client: Client) -> None:
    """A paid request by a client that the test holds in its hand."""
    await app(scope_of(headers=paying(Agent().pay(1000))), client.receive, client.send)


@pytest.fixture
async def drawn_out(monkeypatch: pytest.MonkeyPatch) -> Callable[[Paywall], Awaitable[None]]:
    """Lets the longest time go by that a request may take."""
    monkeypatch.setattr("paywall.gate.HOLD_RENEW_SECONDS", 0.002)
    later = 0.0

    def clock() -> float:
        return time.time() + later

    async def go_by(wall: Paywall) -> None:
        nonlocal later
        wall.gate._running._clock = clock
        later = TERMS.withdraw_delay_seconds / REQUEST_DELAY_SHARE
        await eventually(lambda: len(wall.gate._running) == 0)
        await turns(10)

    return go_by


# -- The charging rule ---------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 204, 206, 301, 302, 303, 304, 307, 399])
async def test_case_11_an_answer_below_400_is_charged(status: int) -> None:
    wall = provider(answering(status))
    answer = await buy(wall, 1000)
    assert answer.status == status
    assert answer.receipt["extra"]["chargedAmount"] == "1000"
    assert await charged(wall) == PRICE


@pytest.mark.parametrize("status", [400, 401, 402, 404, 409, 429, 451, 500, 502, 503, 599])
async def test_case_11_any_other_answer_is_released_and_passes_unchanged(status: int) -> None:
    wall = provider(answering(status, b"sorry", [(b"x-own", b"1")]))
    answer = await buy(wall, 1000)
    assert (answer.status, answer.body, answer.header("x-own")) == (status, b"sorry", "1")
    assert answer.header("payment-response") is None
    assert await charged(wall) == 0


@pytest.mark.parametrize("status", [200, 500])
async def test_case_11_a_metered_answer_follows_the_same_rule(status: int) -> None:
    wall = provider(answering(status), METERED)
    answer = await buy(wall, 1000)
    assert answer.status == status
    assert await charged(wall) == (PRICE if status < 400 else 0)


async def test_case_11_a_failed_request_can_be_sent_again_with_the_same_payment() -> None:
    statuses = iter((500, 200))

    async def flaky(scope: Scope, receive: Receive, send: Send) -> None:
        await answering(next(statuses))(scope, receive, send)

    wall = provider(flaky)
    assert [(await buy(wall, 1000)).status for _ in range(2)] == [500, 200]
    assert await charged(wall) == PRICE


async def test_case_11_an_exception_before_the_head_is_released() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise LookupError("no such city")

    wall = provider(broken)
    with pytest.raises(LookupError):
        await buy(wall, 1000)
    assert await charged(wall) == 0


async def test_case_11_an_exception_after_the_head_was_charged() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise LookupError("half way")

    wall = provider(broken)
    with pytest.raises(LookupError):
        await buy(wall, 1000)
    assert await charged(wall) == PRICE


async def test_an_app_that_answers_nothing_is_released() -> None:
    async def silent(scope: Scope, receive: Receive, send: Send) -> None:
        return None

    wall = provider(silent)
    assert (await buy(wall, 1000)).messages == []
    assert await charged(wall) == 0


async def test_a_body_without_a_head_is_released() -> None:
    async def headless(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.body", "body": b"served"})

    wall = provider(headless, METERED)
    await buy(wall, 1000)
    assert await charged(wall) == 0


async def test_a_failure_cannot_be_turned_into_an_answer_afterwards() -> None:
    async def two_heads(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"served"})

    wall = provider(two_heads)
    client = Client()
    with pytest.raises(AssertionError):
        await _connected(wall, client)
    assert client.answer.body == b""


# -- What a handler does with its payment --------------------------------------------------------


async def test_a_handler_sees_who_pays_and_how_much() -> None:
    async def handler(request: Request) -> PlainTextResponse:
        payment = payment_of(request)
        assert payment is request.state.payment
        assert payment is request.scope["payment"]
        return PlainTextResponse(f"{payment.payer} {payment.channel} {payment.amount}")

    answer = await buy(provider(serving(handler)), 1000)
    state = answer.receipt["extra"]["channelState"]
    assert answer.body.decode() == f"{answer.receipt['payer']} {state['channelId']} 1000"


async def test_a_free_request_has_no_payment() -> None:
    async def handler(request: Request) -> PlainTextResponse:
        with pytest.raises(LookupError):
            payment_of(request)
        return PlainTextResponse("free")

    wall = provider(serving(handler), {"/other": PRICED})
    assert (await ask(wall)).body == b"free"


async def test_what_others_put_into_the_state_stays() -> None:
    async def handler(request: Request) -> PlainTextResponse:
        return PlainTextResponse(request.state.database)

    answer = await buy(provider(serving(handler)), 1000, state={"database": "here"})
    assert answer.body == b"here"


@pytest.mark.parametrize("prices", [{"/priced": PRICED}, METERED], ids=["fixed", "metered"])
@pytest.mark.parametrize(
    ("charges", "total"),
    [
        (["$0.0003"], 300),
        ([300, 200], 500),
        (["$0.0009", "$0.0009"], 1000),
        ([10**9], 1000),
        ([0], 0),
        ([], 1000),
    ],
)
async def test_case_39_a_handler_charges_what_it_likes_up_to_the_price(
    prices: dict[str, Any], charges: list[str | int], total: int
) -> None:
    async def handler(request: Request) -> PlainTextResponse:
        left = [payment_of(request).charge(charge) for charge in charges]
        assert not left or left[-1] == PRICE - total
        return PlainTextResponse("served")

    wall = provider(serving(handler), prices)
    answer = await buy(wall, 1000)
    assert answer.status == 200
    assert await charged(wall) == total
    assert answer.receipt["extra"]["chargedAmount"] == str(total)


async def test_an_answer_that_was_free_leaves_its_voucher_good() -> None:
    async def handler(request: Request) -> PlainTextResponse:
        payment_of(request).charge(0)
        return PlainTextResponse("on the house")

    wall = provider(serving(handler))
    for _ in range(2):
        answer = await buy(wall, 1000)
        assert answer.receipt["extra"]["chargedAmount"] == "0"
    assert await charged(wall) == 0


@pytest.mark.parametrize("amount", [-1, 0.5, None, "1e3", "$0.00000001"])
async def test_a_charge_that_is_no_amount_is_the_handlers_mistake(amount: Any) -> None:
    async def handler(request: Request) -> PlainTextResponse:
        payment_of(request).charge(amount)
        return PlainTextResponse("never")

    wall = provider(serving(handler))
    with pytest.raises((ValueError, TypeError)):
        await buy(wall, 1000)
    assert await charged(wall) == 0


async def test_a_payment_shows_no_more_than_it_should() -> None:
    async def handler(request: Request) -> PlainTextResponse:
        return PlainTextResponse(repr(payment_of(request)))

    answer = await buy(provider(serving(handler)), 1000)
    assert answer.body.decode() == f"<Payment of $0.001 by {answer.receipt['payer']}>"


async def test_charging_late_on_a_fixed_route_is_a_mistake_that_says_what_to_do() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        with pytest.raises(RuntimeError, match="upto"):
            payment_of(scope).charge("$0.0001")
        await send({"type": "http.response.body", "body": b"served"})

    wall = provider(app)
    assert (await buy(wall, 1000)).body == b"served"
    assert await charged(wall) == PRICE


# -- Streams -------------------------------------------------------------------------------------


def streaming(*charges: str) -> ASGIApp:
    """An app that streams a chunk for each charge, and can be watched while it does."""

    async def handler(request: Request) -> StreamingResponse:
        payment = payment_of(request)

        async def chunks() -> AsyncIterator[bytes]:
            for number, charge in enumerate(charges):
                payment.charge(charge)
                yield b"%d" % number
                await asyncio.sleep(0)

        return StreamingResponse(chunks())

    return serving(handler)


async def test_case_13_a_stream_is_not_buffered() -> None:
    go_on = asyncio.Event()

    async def handler(request: Request) -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"first"
            await go_on.wait()
            yield b"second"

        return StreamingResponse(chunks())

    client = Client()
    request = asyncio.create_task(_connected(provider(serving(handler)), client))
    await until(lambda: client.answer.body == b"first")
    assert not request.done()
    go_on.set()
    await request
    assert client.answer.body == b"firstsecond"


async def test_case_13_a_metered_stream_is_charged_when_it_ends() -> None:
    wall = provider(streaming("$0.0001", "$0.0002", "$0.0003"), METERED)
    answer = await buy(wall, 1000)
    assert answer.body == b"012"
    assert answer.receipt["extra"]["chargedAmount"] == "1000"
    assert await charged(wall) == 600


async def test_case_13_the_next_receipt_tells_the_lower_total() -> None:
    wall = provider(streaming("$0.0001"), METERED)
    await buy(wall, 1000)
    state = (await buy(wall, 1100)).receipt["extra"]["channelState"]
    assert state["chargedCumulativeAmount"] == "1100"
    assert await charged(wall) == 200


async def test_case_13_a_metered_stream_is_charged_before_its_end_is_told() -> None:
    wall = provider(streaming("$0.0001"), METERED)
    told: list[int] = []
    client = Client()

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body"):
            told.append((await record_of(wall)).charged)

    await wall(scope_of(headers=paying(Agent().pay(1000))), client.receive, send)
    assert told == [100]


async def test_case_13_a_metered_stream_that_breaks_costs_what_was_charged() -> None:
    async def handler(request: Request) -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            payment_of(request).charge("$0.0004")
            yield b"first"
            raise LookupError("the model fell over")

        return StreamingResponse(chunks())

    wall = provider(serving(handler), METERED)
    with pytest.raises(LookupError):
        await buy(wall, 1000)
    assert await charged(wall) == 400


async def test_case_33_a_metered_stream_that_is_read_too_slowly_is_charged_and_breaks_off(
    drawn_out: Callable[[Paywall], Awaitable[None]],
) -> None:
    class Slow(Client):
        async def send(self, message: Message) -> None:
            await super().send(message)
            if message.get("body") == b"1":
                await asyncio.Event().wait()

    async def stubborn(scope: Scope, receive: Receive, send: Send) -> None:
        """One that goes on although it was stopped."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(3):
            with suppress(asyncio.CancelledError):
                part = {"type": "http.response.body", "body": b"%d" % number, "more_body": True}
                scope["payment"].charge("$0.0001")
                await send(part)

    for app in (streaming("$0.0001", "$0.0001", "$0.0001"), stubborn):
        wall, client = provider(app, METERED), Slow()
        asking = asyncio.create_task(_connected(wall, client))
        await until(lambda: client.answer.body == b"01")  # noqa: B023 (awaited here)
        await drawn_out(wall)
        assert await charged(wall) == 200
        await asyncio.gather(asking, return_exceptions=True)
        assert client.answer.body == b"01"
        assert await charged(wall) == 200
        await wall.close()


async def test_case_33_a_metered_request_whose_upload_is_drawn_out_is_not_served(
    drawn_out: Callable[[Paywall], Awaitable[None]],
) -> None:
    async def patient(request: Request) -> PlainTextResponse:
        return PlainTextResponse(await request.body())

    wall, client = provider(serving(patient), METERED), Client([])
    asking = asyncio.create_task(_connected(wall, client))
    await until(lambda: client.reads)
    await drawn_out(wall)
    await asking
    _apology(client.answer)
    assert await charged(wall) == 0
    await wall.close()


async def test_case_33_a_metered_answer_that_is_late_by_a_moment_is_not_charged() -> None:
    """It is stopped while it asks whether its client is there: its head does not leave."""

    class Late(Client):
        async def receive(self) -> Message:
            wall.gate._running._clock = lambda: 2 * time.time()
            wall.gate._running.end_overdue()
            return await super().receive()

    wall, client = provider(streaming("$0.0001"), METERED), Late()
    await _connected(wall, client)
    await turns(10)
    assert await charged(wall) == 0
    _apology(client.answer)
    await wall.close()


async def test_case_13_a_metered_stream_that_never_charges_costs_its_ceiling() -> None:
    async def handler(request: Request) -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"all you can eat"

        return StreamingResponse(chunks())

    wall = provider(serving(handler), METERED)
    await buy(wall, 1000)
    assert await charged(wall) == PRICE


async def test_a_metered_file_sent_by_the_server_itself_is_charged() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        payment_of(scope).charge("$0.0007")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.pathsend", "path": "/file"})

    wall = provider(app, METERED)
    await buy(wall, 1000)
    assert await charged(wall) == 700


async def test_a_small_file_sent_by_the_server_itself_has_its_head_first() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"6")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.pathsend", "path": "/file"})

    wall = provider(app)
    answer = await buy(wall, 1000)
    kinds = [message["type"] for message in answer.messages]
    assert kinds == ["http.response.start", "http.response.pathsend"]
    assert answer.receipt["extra"]["chargedAmount"] == "1000"
    assert await charged(wall) == PRICE


# -- Hanging up ----------------------------------------------------------------------------------


@pytest.mark.parametrize("forgetful", [False, True])
@pytest.mark.parametrize("prices", [{"/priced": PRICED}, METERED], ids=["fixed", "metered"])
async def test_case_10_hanging_up_on_a_handler_that_never_listens_costs_nothing(
    forgetful: bool, prices: dict[str, Any]
) -> None:
    client = Client(forgetful=forgetful)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        client.hang_up()
        await answering()(scope, receive, send)

    wall = provider(app, prices)
    await _connected(wall, client)
    assert (client.answer.status, client.answer.body) == (CLIENT_GONE, b""), "nothing is given away"
    assert await charged(wall) == 0


async def test_case_10_middleware_in_between_does_not_fail_when_a_client_hangs_up() -> None:
    client = Client()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        client.hang_up()
        await asyncio.sleep(0.01)
        await answering()(scope, receive, send)

    wall = provider(app)
    await _connected(_Passing(wall), client)
    assert (client.answer.status, client.answer.body) == (CLIENT_GONE, b"")
    assert await charged(wall) == 0


async def test_case_10_a_server_may_raise_when_somebody_writes_to_who_is_gone() -> None:
    class Gone(Client):
        async def send(self, message: Message) -> None:
            raise OSError("disconnected")

    client = Gone()
    client.hang_up()
    wall = provider(answering())
    await _connected(wall, client)
    assert await charged(wall) == 0


async def test_case_10_hanging_up_on_a_handler_that_listens_costs_nothing() -> None:
    client = Client()
    heard: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        heard.append((await receive())["type"])
        client.hang_up()
        heard.append((await receive())["type"])
        await answering()(scope, receive, send)

    wall = provider(app)
    await _connected(wall, client)
    assert heard == ["http.request", "http.disconnect"]
    assert (client.answer.status, client.answer.body) == (CLIENT_GONE, b"")
    assert await charged(wall) == 0


async def test_case_10_hanging_up_while_the_handler_listens_in_the_background() -> None:
    client = Client()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        listening = asyncio.create_task(receive())  # type: ignore[arg-type]
        await turns()
        client.hang_up()
        await turns()
        assert listening.result() == {"type": "http.disconnect"}
        await answering()(scope, receive, send)

    wall = provider(app)
    await _connected(wall, client)
    assert await charged(wall) == 0


@pytest.mark.parametrize("spec_version", ["2.0", "2.4"])
async def test_case_10_hanging_up_in_a_stream_charges_it_once(spec_version: str) -> None:
    client = Client()

    async def handler(request: Request) -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(10):
                payment_of(request).charge("$0.0001")
                yield b"x"
                await turns()

        return StreamingResponse(chunks())

    async def send(message: Message) -> None:
        if len(client.answer.messages) == 3:
            client.hang_up()
            raise OSError("the client is gone")
        await client.send(message)

    wall = provider(serving(handler), METERED)
    scope = scope_of(
        headers=paying(Agent().pay(1000)), asgi={"version": "3.0", "spec_version": spec_version}
    )
    with pytest.raises(Exception):  # noqa: B017, PT011 - Starlette's own, by version
        await wall(scope, client.receive, send)
    await turns(10)
    assert await charged(wall) == 300


async def test_case_10_hanging_up_after_the_charge_changes_nothing() -> None:
    client = Client()

    async def gone(message: Message) -> None:
        client.hang_up()
        raise OSError("the client is gone")

    wall = provider(answering())
    with pytest.raises(OSError, match="gone"):
        await wall(scope_of(headers=paying(Agent().pay(1000))), client.receive, gone)
    assert await charged(wall) == PRICE


async def test_case_10_a_request_cancelled_in_its_handler_is_released() -> None:
    started = asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        started.set()
        await asyncio.Event().wait()

    wall = provider(slow)
    request = asyncio.create_task(_connected(wall, Client()))
    await started.wait()
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    await turns(10)
    assert await charged(wall) == 0


async def test_case_10_a_request_cancelled_while_it_is_charged_is_charged_once() -> None:
    store = FaultyStore()
    charging = asyncio.Event()
    wall = provider(answering(), store=store)
    whole = store.charge

    async def slow(*args: Any) -> Any:
        charging.set()
        await turns()
        return await whole(*args)

    store.charge = slow  # type: ignore[method-assign]
    client = Client()
    request = asyncio.create_task(_connected(wall, client))
    await charging.wait()
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    await turns(20)
    assert client.answer.messages == []
    assert await charged(wall) == PRICE


async def test_case_10_an_answer_whose_charge_was_cut_off_is_kept_for_who_comes_again() -> None:
    store = FaultyStore()
    charging = asyncio.Event()
    wall = provider(answering(200, b"paid for", [(b"content-length", b"8")]), store=store)
    whole = store.charge

    async def slow(*args: Any) -> Any:
        charging.set()
        await turns()
        return await whole(*args)

    store.charge = slow  # type: ignore[method-assign]
    payment = decoded(Agent().pay(1000))
    payment["extensions"] = {"payment-identifier": {"info": {"id": "pay_0123456789abcdef"}}}
    again = paying(header_of(payment))
    request = asyncio.create_task(ask(wall, headers=again))
    await charging.wait()
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    await turns(20)
    answer = await ask(wall, headers=again)
    assert (answer.status, answer.body) == (200, b"paid for")
    assert await charged(wall) == PRICE


@pytest.mark.parametrize("raises", [False, True])
async def test_case_10_an_app_that_does_not_wait_for_its_charge_cannot_answer_otherwise(
    raises: bool,
) -> None:
    """Its client is told to come again, as while it is served, and gets what was charged."""
    store = FaultyStore()
    whole = store.charge
    body = {"type": "http.response.body", "body": b"paid for"}
    head = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"8")]}

    async def impatient(scope: Scope, receive: Receive, send: Send) -> None:
        await send(head)
        try:
            async with asyncio.timeout(0.01):
                await send(body)
        except TimeoutError:
            await answering(504)(scope, receive, send)
            if raises:
                raise

    async def slow(*args: Any) -> Any:
        await asyncio.sleep(0.1)
        return await whole(*args)

    store.charge = slow  # type: ignore[method-assign]
    wall = provider(impatient, store=store)
    payment = decoded(Agent().pay(1000))
    payment["extensions"] = {"payment-identifier": {"info": {"id": "pay_0123456789abcdef"}}}
    again = paying(header_of(payment))
    client = Client()
    with pytest.raises(TimeoutError) if raises else nullcontext():
        await ask(wall, headers=again, client=client)
    told = client.answer
    assert (told.status, told.header("retry-after") is not None) == (503, True)
    assert told.json["error"] == told.receipt["errorReason"] == "payment_in_progress"
    assert "charged" not in told.json["message"], "nobody knows yet"
    await asyncio.sleep(0.2)
    await turns(20)
    answer = await ask(wall, headers=again)
    assert (answer.status, answer.body) == (200, b"paid for")
    assert await charged(wall) == PRICE


async def test_case_10_our_agent_gets_what_an_impatient_app_was_charged_for() -> None:
    store = FaultyStore()
    whole, ran = store.charge, 0

    async def impatient(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal ran
        ran += 1
        with suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                await answering(200, b"paid for", [(b"content-length", b"8")])(scope, receive, send)

    async def slow(*args: Any) -> Any:
        await asyncio.sleep(0.1)
        return await whole(*args)

    store.charge = slow  # type: ignore[method-assign]
    wallet = make_wallet()
    transport = httpx.ASGITransport(provider(impatient, store=store))
    async with AsyncClient(wallet=wallet, transport=transport) as client:
        answer = await client.get("https://api.example/priced")
    assert (answer.status_code, answer.content, ran) == (200, b"paid for", 1)
    (record,) = store._records.values()
    assert wallet.spent() == record.charged == PRICE


async def test_case_10_a_stream_that_is_cancelled_is_charged_for_what_it_sent() -> None:
    client = Client()

    async def handler(request: Request) -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            payment_of(request).charge("$0.0002")
            yield b"first"
            await asyncio.Event().wait()

        return StreamingResponse(chunks())

    wall = provider(serving(handler), METERED)
    request = asyncio.create_task(_connected(wall, client))
    await until(lambda: client.answer.body == b"first")
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    await turns(10)
    assert await charged(wall) == 200


async def test_case_10_listening_loses_nothing_of_an_upload() -> None:
    async def late_reader(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for more in (True, True, False):
            message = await receive()
            await send({"type": "http.response.body", "body": message["body"], "more_body": more})

    uploads: list[Message] = [
        {"type": "http.request", "body": chunk, "more_body": chunk != b"c"}
        for chunk in (b"a", b"b", b"c")
    ]
    wall, client = provider(late_reader), Client(uploads)
    await _connected(wall, client)
    assert client.answer.body == b"abc"
    assert await charged(wall) == PRICE


async def test_case_10_an_app_that_stops_listening_does_not_lose_the_hang_up() -> None:
    client = Client()
    heard: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        listening = asyncio.create_task(receive())  # type: ignore[arg-type]
        await turns()
        listening.cancel()
        client.hang_up()
        heard.append((await receive())["type"])

    await _connected(provider(app), client)
    assert heard == ["http.disconnect"]


async def test_case_10_nobody_listens_after_the_end() -> None:
    client = Client()
    await _connected(provider(answering()), client)
    await turns()
    assert [t for t in asyncio.all_tasks() if "Listener" in repr(t)] == []


async def test_a_paid_request_leaves_nothing_for_the_garbage_collector() -> None:
    """A cycle in each request had the collector walk through the whole process all the time."""
    wall, agent = provider(answering()), Agent()
    await wall(scope_of(headers=paying(agent.pay(1000))), Client().receive, _nowhere)
    await turns()
    gc.collect()
    gc.disable()
    try:
        for total in range(2000, 12000, 1000):
            await wall(scope_of(headers=paying(agent.pay(total))), Client().receive, _nowhere)
        await turns()
        assert gc.collect() < 10, "not one for each request"
    finally:
        gc.enable()
    assert await charged(wall) == 11 * PRICE


async def _nowhere(message: Message) -> None:
    """Whoever listens keeps nothing."""


class _Passing(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)


@pytest.mark.parametrize("reads", [False, True])
async def test_a_paywall_works_under_middleware_that_wraps_receive(reads: bool) -> None:
    async def handler(request: Request) -> PlainTextResponse:
        return PlainTextResponse(await request.body() if reads else b"served")

    wall = provider(serving(handler))
    answer = await ask(
        _Passing(wall), method="POST", headers=paying(Agent().pay(1000)), body=b"served"
    )
    assert (answer.status, answer.body) == (200, b"served")
    assert await charged(wall) == PRICE


# -- Our own faults ------------------------------------------------------------------------------


def _apology(answer: Answer) -> None:
    assert answer.status == 503
    assert answer.header("retry-after") == "2"
    assert answer.header("payment-required") is None, "a 402 would invite a second payment"
    assert answer.header("payment-response") is None
    assert "not charged" in answer.json["message"]
    assert b"redis" not in answer.body


async def test_case_12_an_answer_that_cannot_be_charged_is_withheld() -> None:
    store = FaultyStore()
    wall = provider(answering(200, b"the secret"), store=store)
    store.down.add("charge")
    answer = await buy(wall, 1000)
    _apology(answer)
    assert b"the secret" not in answer.body
    store.down.clear()
    await turns(10)
    assert await charged(wall) == 0
    assert (await buy(wall, 1000)).body == b"the secret", "the same payment is good again"
    assert await charged(wall) == PRICE


async def test_case_41_an_answer_whose_charge_was_not_confirmed_is_withheld_too() -> None:
    store = FaultyStore()
    wall = provider(answering(200, b"the secret"), store=store)
    store.lost.add("charge")
    _apology(await buy(wall, 1000))
    store.lost.clear()
    await turns(10)
    assert await charged(wall) == PRICE


async def test_case_39_an_answer_whose_hold_was_lost_is_withheld() -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        [request] = (await record_of(wall)).holds
        await wall.gate.store.release(Agent().channel_id, request)
        await answering(200, b"the secret")(scope, receive, send)

    wall = provider(slow)
    answer = await buy(wall, 1000)
    _apology(answer)
    assert b"the secret" not in answer.body
    assert await charged(wall) == 0


async def test_case_12_a_failure_that_cannot_be_released_still_reaches_the_client() -> None:
    store = FaultyStore()
    wall = provider(answering(404, b"no such city"), store=store)
    store.down.add("release")
    answer = await buy(wall, 1000)
    assert (answer.status, answer.body) == (404, b"no such city")
    store.down.clear()


async def test_case_12_a_stream_that_ends_while_the_store_is_down_is_charged_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in ("paywall.gate", "paywall.running", "paywall.mirror"):
        monkeypatch.setattr(f"{module}.PAUSES_SECONDS", (0.001,) * 20)
    store = FaultyStore()
    wall = provider(streaming("$0.0003"), METERED, store=store)
    store.down.add("charge")
    assert (await buy(wall, 1000)).body == b"0"
    assert (await record_of(wall)).charged == 0
    store.down.clear()
    await asyncio.sleep(0.01)
    assert await charged(wall) == 300


async def test_a_deposit_is_confirmed_whatever_the_handler_answers() -> None:
    for status in (200, 500):
        ledger = Ledger()
        wall = provider(answering(status), chain=ledger)
        ledger.change(Agent().channel_id, balance=0)
        answer = await ask(wall, headers=paying(Agent().fill(1000, 40_000)))
        assert answer.status == status
        assert answer.receipt["amount"] == "40000"
        assert len(answer.receipt["transaction"]) == 66
        assert answer.receipt["extra"]["chargedAmount"] == ("1000" if status < 400 else "0")
        assert await charged(wall) == (PRICE if status < 400 else 0)
