"""Metering: counted as a whole, charged for what was delivered, ended at the ceiling."""

from collections.abc import AsyncIterator, Iterable

import pytest
from helpers.channels import ASSET

from paywall.exchange import Payment
from paywall.meter import Meter, per_byte, per_second, per_token


class Paid(Payment):
    """A payment as a handler has it, for so many units."""

    def __init__(self, amount: int) -> None:
        self.payer = "0x"
        self.channel = None
        self.amount = amount
        self._asset = ASSET
        self._fits = lambda charged: charged
        self._charged = None
        self._closed = False


async def stream(parts: Iterable[object]) -> AsyncIterator:
    for part in parts:
        yield part


async def all_of(parts: AsyncIterator) -> list:
    return [part async for part in parts]


def test_a_price_finer_than_the_token_is_rounded_up_once() -> None:
    payment = Paid(10)
    meter = Meter(payment, "$0.15", per=1_000_000)  # 0.15 units each
    for _ in range(20):
        meter.add(1)
    assert payment.charged == 3
    meter.add(1)
    assert payment.charged == 4


def test_a_meter_says_how_many_more_are_covered() -> None:
    payment = Paid(10)
    meter = Meter(payment, "$0.000003")
    assert (meter.left(), meter.add(2), meter.add(5)) == (3, 1, 0)
    assert payment.charged == 10


def test_a_price_for_none_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Meter(Paid(1), "$1", per=0)


async def test_tokens_are_charged_as_they_are_delivered_and_end_at_the_ceiling() -> None:
    payment = Paid(7)
    parts = per_token(payment, stream(["ab", "c", "def", "g"]), "$0.000002", tokens=len)
    assert await all_of(parts) == ["ab", "c"]
    assert payment.charged == 6


async def test_a_part_that_nobody_took_is_not_charged() -> None:
    payment = Paid(100)
    parts = per_token(payment, stream("abc"), "$0.00001")
    assert [await anext(parts), await anext(parts)] == ["a", "b"]
    await parts.aclose()  # as when the client has hung up while "b" was sent
    assert payment.charged == 10


async def test_bytes_are_cut_off_where_the_ceiling_is() -> None:
    payment = Paid(3)
    parts = per_byte(payment, stream([b"ab", b"", b"cdef"]), "$0.000001", per=1)
    assert await all_of(parts) == [b"ab", b"c"]
    assert payment.charged == 3


async def test_seconds_are_charged_as_they_pass() -> None:
    payment, now = Paid(3_500), 0.0

    async def ticks() -> AsyncIterator[int]:
        nonlocal now
        for number in range(9):
            yield number
            now += 1.0

    parts = per_second(payment, ticks(), "$0.001", clock=lambda: now)
    assert await all_of(parts) == [0, 1, 2, 3]
    assert payment.charged == 3_000


def test_a_free_request_counts_and_costs_nothing() -> None:
    payment = Paid(10)
    payment._fits = lambda charged: 0
    assert Meter(payment, "$0.000001").add(4) == 6
    assert payment.charged == 0
