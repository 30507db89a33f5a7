"""What is counted of requests: outcomes and latency by route, refusals by reason. Statistics only.

Money is in the ledger. These are numbers of requests, kept for a day and not for ever: each worker
writes its own, of ten minutes at a time, into one small record of the store, over what it wrote
there before. So writing twice counts nothing twice, and whoever adds up the workers knows them all.
"""

from bisect import bisect_left
from collections.abc import Iterable
from typing import Final

import msgspec

from paywall.protocol.eip712 import keccak
from paywall.stores import Slips
from paywall.stores.slips import change

PERIOD_SECONDS: Final = 600
KEPT_SECONDS: Final = 25 * 3600
BOUNDS_US: Final = (
    *(500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000),
    *(1_000_000, 2_000_000, 5_000_000, 10_000_000),
)
"""Upper bounds of the latency histogram, in microseconds; what is slower is counted behind them."""

QUOTED: Final = "quoted"
REFUSED: Final = "refused"
SERVED: Final = "served"
FREE: Final = "free"
FAILED: Final = "failed"
UNAVAILABLE: Final = "unavailable"
OUTCOMES: Final = (QUOTED, REFUSED, SERVED, FREE, FAILED, UNAVAILABLE)
"""`served` was paid, `free` was not to be, `failed` is an answer of 400 and above, or none (nothing
charged), and `unavailable` our own fault."""


def _no_latency() -> list[int]:
    return [0] * (len(BOUNDS_US) + 1)


class RouteCounts(msgspec.Struct, array_like=True):
    """One route's; `latency` counts answers by the time until their head left.

    Append fields, never insert.
    """

    outcomes: dict[str, int] = {}
    latency: list[int] = msgspec.field(default_factory=_no_latency)
    latency_us: int = 0

    def count(self, outcome: str, elapsed_us: int) -> None:
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        if outcome == SERVED:
            self.latency[bisect_left(BOUNDS_US, elapsed_us)] += 1
            self.latency_us += elapsed_us


class Counts(msgspec.Struct, array_like=True):
    """All routes', and why payments were refused. Append fields only."""

    routes: dict[str, RouteCounts] = {}
    reasons: dict[str, int] = {}

    def route(self, name: str) -> RouteCounts:
        found = self.routes.get(name)
        if found is None:
            found = self.routes[name] = RouteCounts()
        return found

    def refuse(self, reason: str) -> None:
        self.reasons[reason] = self.reasons.get(reason, 0) + 1

    def add(self, other: "Counts") -> None:
        for name, theirs in other.routes.items():
            mine = self.route(name)
            for outcome, count in theirs.outcomes.items():
                mine.outcomes[outcome] = mine.outcomes.get(outcome, 0) + count
            mine.latency = [a + b for a, b in zip(mine.latency, theirs.latency, strict=True)]
            mine.latency_us += theirs.latency_us
        for reason, count in other.reasons.items():
            self.reasons[reason] = self.reasons.get(reason, 0) + count


Workers = dict[str, Counts]
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Workers).decode


def sum_of(parts: Iterable[Counts]) -> Counts:
    total = Counts()
    for part in parts:
        total.add(part)
    return total


def difference(one: Counts, other: Counts) -> Counts:
    """What one has more than the other, which it includes."""
    less = Counts()
    for name, route in one.routes.items():
        before = other.routes.get(name) or RouteCounts()
        less.routes[name] = RouteCounts(
            {what: count - before.outcomes.get(what, 0) for what, count in route.outcomes.items()},
            [a - b for a, b in zip(route.latency, before.latency, strict=True)],
            route.latency_us - before.latency_us,
        )
    less.reasons = {why: n - other.reasons.get(why, 0) for why, n in one.reasons.items()}
    return less


def quantile_us(latency: list[int], share: float) -> int | None:
    """The bound below which this share of the answers is; None without any, or above all bounds."""
    wanted, seen = share * sum(latency), 0
    for bound, count in zip(BOUNDS_US, latency, strict=False):
        seen += count
        if seen and seen >= wanted:
            return bound
    return None


# -- In the store --------------------------------------------------------------------------------


def period_of(seconds: float) -> int:
    return int(seconds // PERIOD_SECONDS)


async def write(slips: Slips, period: int, worker: str, counts: Counts) -> None:
    """What a worker has counted in a period so far. Raises StoreUnavailable."""

    def rule(found: bytes | None, now_ms: int) -> bytes:
        return _encode({**_workers(found), worker: counts})

    await change(slips, _key(period), rule, 1000 * KEPT_SECONDS)


async def read(slips: Slips, period: int) -> Counts:
    """What all workers have counted in a period. Raises StoreUnavailable."""
    found, _ = await slips.read(_key(period))
    return sum_of(_workers(found).values())


def _workers(found: bytes | None) -> Workers:
    return _decode(found) if found else {}


def _key(period: int) -> bytes:
    return keccak(b"paywall:counts:" + str(period).encode())
