"""Charging while an answer streams: by the token, the byte, the second.

    async def chat(request):
        payment = payment_of(request)
        words = per_token(payment, model(request), "$2", per=1_000_000)
        return StreamingResponse(words)

A price may be finer than the token can pay, because it is counted as a whole: so many for so much,
rounded up to an atomic unit once, over the whole answer. A part is charged when the server has
taken it, so nobody pays for a part that was made and not delivered; a part that the ceiling of the
route does not cover is not delivered, and the stream ends before it.
"""

import time
from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import TypeVar

from paywall.payment import Payment

_T = TypeVar("_T")


def _one(_part: object) -> int:
    return 1


class Meter:
    """Counts for one payment: `price` is for `per` of what is counted, as in "$2" per 1,000,000."""

    def __init__(self, payment: Payment, price: str, per: int = 1) -> None:
        if per < 1:
            raise ValueError(f"per={per}: it is a price for at least one")
        self._payment = payment
        self._units = payment.asset.units(price)
        self._per = per
        self._count = 0
        self._charged = 0

    def add(self, count: int) -> int:
        """Charges for `count` more; how many more the ceiling covers after that."""
        self._count += count
        total = self._cost(self._count)
        left = self._payment.charge(total - self._charged)
        self._charged = total
        return self._covered(left)

    def left(self) -> int:
        """How many more the ceiling covers."""
        return self._covered(self._payment.charge(0))

    def _cost(self, count: int) -> int:
        return -(-count * self._units // self._per)

    def _covered(self, left: int) -> int:
        return max(0, (self._charged + left) * self._per // self._units - self._count)


async def per_token(
    payment: Payment,
    stream: AsyncIterable[_T],
    price: str,
    *,
    per: int = 1,
    tokens: Callable[[_T], int] = _one,
) -> AsyncIterator[_T]:
    """The stream, charged by tokens; `tokens` says how many a part has, one unless it is given."""
    meter = Meter(payment, price, per)
    async for part in stream:
        count = tokens(part)
        if count > meter.left():
            return
        yield part
        meter.add(count)


async def per_byte(
    payment: Payment, stream: AsyncIterable[bytes], price: str, *, per: int = 1
) -> AsyncIterator[bytes]:
    """The stream, charged by the byte; cut off where the ceiling is."""
    meter = Meter(payment, price, per)
    async for part in stream:
        covered = part[: meter.left()]
        if covered:
            yield covered
            meter.add(len(covered))
        if len(covered) < len(part):
            return


async def per_second(
    payment: Payment,
    stream: AsyncIterable[_T],
    price: str,
    *,
    per: int = 1,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[_T]:
    """The stream, charged by how long it takes, to the millisecond, as each part is delivered."""
    meter = Meter(payment, price, per * 1000)
    started, counted_ms = clock(), 0
    async for part in stream:
        if int((clock() - started) * 1000) - counted_ms > meter.left():
            return
        yield part
        now_ms = int((clock() - started) * 1000)
        meter.add(min(now_ms - counted_ms, meter.left()))
        counted_ms = now_ms
