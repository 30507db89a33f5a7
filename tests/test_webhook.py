"""Notices by HTTP: signed, in order, tried again, and never in anybody's way."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from paywall.notices import Charged, Rang, Settled
from paywall.protocol.errors import ConfigurationError
from paywall.webhook import MAX_BATCH, SIGNATURE, Webhook, sign, verify, wire

SECRET = "a secret of some length"
URL = "https://me.example/hooks"


class Receiver(httpx.AsyncBaseTransport):
    """Takes what comes; `answers` are the statuses, or errors, of the next requests."""

    def __init__(self, *answers: int | Exception) -> None:
        self.answers = list(answers)
        self.bodies: list[bytes] = []
        self.signatures: list[str] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.bodies.append(await request.aread())
        self.signatures.append(request.headers[SIGNATURE])
        answer = self.answers.pop(0) if self.answers else 204
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer)

    @property
    def events(self) -> list[Any]:
        return [event for body in self.bodies for event in json.loads(body)["events"]]


def charged(number: int) -> Charged:
    return Charged(1.5, "GET /a", "0xpayer", number, f"request {number}")


@asynccontextmanager
async def hook_to(receiver: Receiver, **options: Any) -> AsyncIterator[Webhook]:
    options.setdefault("pauses_seconds", (0.0, 0.0))
    hook = Webhook(URL, SECRET, transport=receiver, clock=lambda: 1_000.0, **options)
    yield hook
    await hook.close()


async def test_what_happened_comes_signed_and_in_order() -> None:
    receiver = Receiver()
    async with hook_to(receiver) as hook:
        for number in range(3):
            hook(charged(number))
    assert [event["amount"] for event in receiver.events] == ["0", "1", "2"]
    assert receiver.events[0] == {
        "type": "charged",
        "time": 1.5,
        "route": "GET /a",
        "payer": "0xpayer",
        "amount": "0",
        "request": "request 0",
        "channel": "",
        "transaction": "",
    }
    assert verify(SECRET, receiver.signatures[0], receiver.bodies[0], now=1_000)


async def test_many_come_in_batches() -> None:
    receiver = Receiver()
    async with hook_to(receiver) as hook:
        for number in range(MAX_BATCH + 1):
            hook(charged(number))
    assert [len(json.loads(body)["events"]) for body in receiver.bodies] == [MAX_BATCH, 1]


async def test_a_receiver_that_fails_is_tried_again_with_the_same_batch() -> None:
    receiver = Receiver(500, httpx.ConnectError("down"))
    async with hook_to(receiver) as hook:
        hook(charged(7))
    assert len(receiver.bodies) == 3
    assert len({json.loads(body)["id"] for body in receiver.bodies}) == 1
    assert hook.dropped == 0


async def test_a_batch_that_nobody_takes_is_given_up_and_the_next_one_sent() -> None:
    receiver = Receiver(500, RuntimeError("a mistake"), 404)
    async with hook_to(receiver) as hook:
        for number in range(MAX_BATCH + 1):
            hook(charged(number))
    assert hook.dropped == MAX_BATCH
    assert json.loads(receiver.bodies[-1])["events"] == [wire(charged(MAX_BATCH))]


async def test_a_full_queue_drops_what_is_new_and_nobody_waits() -> None:
    receiver = Receiver()
    async with hook_to(receiver, max_queued=2) as hook:
        for number in range(5):
            hook(charged(number))
    assert [event["amount"] for event in receiver.events] == ["0", "1"]
    assert hook.dropped == 3


async def test_no_redirect_carries_it_elsewhere() -> None:
    receiver = Receiver(302, 302, 302)
    async with hook_to(receiver) as hook:
        hook(charged(1))
    assert hook.dropped == 1


def test_an_alarm_and_a_fee_as_they_are_sent() -> None:
    assert wire(Rang(1.0, "ClaimLate", "0xab", "soon", False))["type"] == "alarm"
    assert wire(Settled(1.0, "0xme", 2**100, "0xaa", 5)) == {
        "type": "settled",
        "time": 1.0,
        "receiver": "0xme",
        "amount": str(2**100),
        "transaction": "0xaa",
        "fee_wei": "5",
    }


def test_a_signature_is_of_this_body_this_secret_and_this_time() -> None:
    header = sign(SECRET, b"body", 1_000)
    assert verify(SECRET, header, b"body", now=1_299)
    assert not verify(SECRET, header, b"body", now=1_301)
    assert not verify(SECRET, header, b"body!", now=1_000)
    assert not verify("another secret here", header, b"body", now=1_000)
    assert not verify(SECRET, header.replace("1000", "1001"), b"body", now=1_000)


@pytest.mark.parametrize("header", ["", "t=,v1=", "t=1000", "v1=aa", "t=²,v1=é", "t=1e3,v1=x", ","])
def test_what_is_no_signature_is_none(header: str) -> None:
    assert not verify(SECRET, header, b"body", now=1_000)


def test_wrong_settings_show_at_once_and_no_secret_shows() -> None:
    with pytest.raises(ConfigurationError, match="https://"):
        Webhook("me.example", SECRET)
    with pytest.raises(ConfigurationError, match="at least"):
        Webhook(URL, "short")
    assert SECRET not in repr(Webhook(URL + "?key=word", SECRET))
    assert "word" not in repr(Webhook(URL + "?key=word", SECRET))
