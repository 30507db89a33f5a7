"""Metering: counted as a whole, charged for what was delivered, ended at the ceiling."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

import httpx
import pytest
from helpers.channels import ASSET
from helpers.provider import Agent, provider, record_of
from helpers.servers import served
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from paywall import payment_of, upto
from paywall.meter import Meter, per_byte, per_second, per_token
from paywall.payment import Payment
from paywall.protocol.money import ZERO_ADDRESS, Address


@dataclass(frozen=True)
class Admitted:
    """As much of an admission as a payment looks at."""

    price: int
    free: bool = False
    payer: Address = ZERO_ADDRESS
    channel: str | None = None

    def fits(self, amount: int) -> int:
        return 0 if self.free else amount


def paid(amount: int, free: bool = False) -> Payment:
    """A payment as a handler has it, for so many units."""
    return Payment(Admitted(amount, free), ASSET)


async def stream(parts: Iterable[object]) -> AsyncIterator:
    for part in parts:
        yield part


async def all_of(parts: AsyncIterator) -> list:
    return [part async for part in parts]


def test_a_price_finer_than_the_token_is_rounded_up_once() -> None:
    payment = paid(10)
    meter = Meter(payment, "$0.15", per=1_000_000)  # 0.15 units each
    for _ in range(20):
        meter.add(1)
    assert payment.charged == 3
    meter.add(1)
    assert payment.charged == 4


def test_a_meter_says_how_many_more_are_covered() -> None:
    payment = paid(10)
    meter = Meter(payment, "$0.000003")
    assert (meter.left(), meter.add(2), meter.add(5)) == (3, 1, 0)
    assert payment.charged == 10


def test_a_price_for_none_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Meter(paid(1), "$1", per=0)


async def test_tokens_are_charged_as_they_are_delivered_and_end_at_the_ceiling() -> None:
    payment = paid(7)
    parts = per_token(payment, stream(["ab", "c", "def", "g"]), "$0.000002", tokens=len)
    assert await all_of(parts) == ["ab", "c"]
    assert payment.charged == 6


async def test_a_part_that_nobody_took_is_not_charged() -> None:
    payment = paid(100)
    parts = per_token(payment, stream("abc"), "$0.00001")
    assert [await anext(parts), await anext(parts)] == ["a", "b"]
    await parts.aclose()  # as when the client has hung up while "b" was sent
    assert payment.charged == 10


async def test_bytes_are_cut_off_where_the_ceiling_is() -> None:
    payment = paid(3)
    parts = per_byte(payment, stream([b"ab", b"", b"cdef"]), "$0.000001", per=1)
    assert await all_of(parts) == [b"ab", b"c"]
    assert payment.charged == 3


async def test_seconds_are_charged_as_they_pass() -> None:
    payment, now = paid(3_500), 0.0

    async def ticks() -> AsyncIterator[int]:
        nonlocal now
        for number in range(9):
            yield number
            now += 1.0

    parts = per_second(payment, ticks(), "$0.001", clock=lambda: now)
    assert await all_of(parts) == [0, 1, 2, 3]
    assert payment.charged == 3_000


def test_a_free_request_counts_and_costs_nothing() -> None:
    payment = paid(10, free=True)
    assert Meter(payment, "$0.000001").add(4) == 6
    assert payment.charged == 0


async def test_case_10_who_hangs_up_half_way_pays_for_what_was_delivered() -> None:
    delivered, word = 0, 100

    async def chat(request: Request) -> StreamingResponse:
        async def words() -> AsyncIterator[bytes]:
            nonlocal delivered
            while True:
                yield b"word "
                delivered += 1
                await asyncio.sleep(0.01)

        return StreamingResponse(per_token(payment_of(request), words(), "$0.0001"))

    wall = provider(Starlette(routes=[Route("/chat", chat)]), {"/chat": upto("$0.05")})
    heard = 0
    with served(wall) as url:
        header = {"PAYMENT-SIGNATURE": Agent().pay(50_000, 50_000)}
        async with (
            httpx.AsyncClient() as client,
            client.stream("GET", f"{url}/chat", headers=header) as answer,
        ):
            assert answer.status_code == 200
            async for part in answer.aiter_raw():
                heard += part.count(b"word")
                if heard >= 5:
                    break
        async with asyncio.timeout(10):
            while (await record_of(wall)).holds:  # noqa: ASYNC110 - it ends in another thread
                await asyncio.sleep(0.01)
    record = await record_of(wall)
    assert record.charged == delivered * word
    assert heard <= delivered < 500, "it ended long before the ceiling"
