"""Counting the requests of one worker, and writing the counts to the store every few seconds.

On a request's path this is a few additions in memory. The store is written beside the requests;
when it is down the counts wait, and when it stays down they are forgotten: they are statistics, and
no request ever waits for them.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from secrets import token_hex
from time import perf_counter_ns
from typing import Final

from starlette.types import Message, Send

from paywall import counts, notices
from paywall.counts import FAILED, REFUSED, SERVED, UNAVAILABLE, Counts, RouteCounts
from paywall.notices import News
from paywall.protocol.errors import Reason, StoreUnavailable
from paywall.stores import Slips

log = logging.getLogger("paywall")

FLUSH_SECONDS: Final = 5
_MAX_WAITING: Final = 6
"""Periods that wait for a store that is down."""


Watcher = Callable[[str, str, int], None]
"""Called with route, outcome and microseconds."""


class Sight:
    """One priced request as it is seen from outside: it passes on what is sent, and notes the head.

    `outcome` is set by whoever knows better than the status can say.
    """

    __slots__ = ("_began_ns", "_route", "_seen", "_send", "_sights", "outcome", "route")

    def __init__(self, sights: "Sights", route: str, send: Send) -> None:
        self._began_ns = perf_counter_ns()
        self._sights = sights
        self._send = send
        self._seen = False
        self.route = route
        self.outcome = ""

    def __call__(self, message: Message) -> Awaitable[None]:
        if not self._seen and message["type"] == "http.response.start":
            self._note(self.outcome or (SERVED if message["status"] < 400 else FAILED))
        return self._send(message)

    def _note(self, outcome: str) -> None:
        self._seen = True
        elapsed_us = (perf_counter_ns() - self._began_ns) // 1000
        self._sights.of(self.route).count(outcome, elapsed_us)
        for watcher in self._sights.watchers:
            watcher(self.route, outcome, elapsed_us)

    def close(self) -> None:
        """The request is over; one that got no answer at all has failed."""
        if not self._seen:
            self._note(FAILED)

    def refused(self, reason: Reason) -> None:
        self.outcome = REFUSED
        self._sights.refused(self.route, reason)

    def unavailable(self) -> None:
        self.outcome = UNAVAILABLE


class Sights:
    """What one worker has counted. `clock` gives Unix seconds."""

    def __init__(self, news: News, clock: Callable[[], float] = time.time) -> None:
        self.worker: Final = token_hex(8)
        self.watchers: Final[list[Watcher]] = []
        """Told of every priced request when its head leaves; they must not raise, nor wait."""
        self._news = news
        self._clock = clock
        self._period = counts.period_of(clock())
        self._now = Counts()
        self._past = Counts()
        self._waiting: dict[int, Counts] = {}
        self._written = 0

    def watch(self, route: str, send: Send) -> Sight:
        return Sight(self, route, send)

    def of(self, route: str) -> RouteCounts:
        return self._now.route(route)

    def refused(self, route: str, reason: Reason) -> None:
        self._now.refuse(reason.code)
        if self._news.wanted:
            self._news.tell(notices.Refused(self._news.now, route, reason.code))

    @property
    def total(self) -> Counts:
        """Everything since this worker began."""
        return counts.sum_of((self._past, self._now))

    async def flush(self, slips: Slips) -> None:
        """Writes what the store does not have yet. Raises StoreUnavailable; then it is kept."""
        self._turn()
        for period in list(self._waiting):
            await counts.write(slips, period, self.worker, self._waiting[period])
            del self._waiting[period]
        number = _requests(self._now)
        if number != self._written:
            await counts.write(slips, self._period, self.worker, self._now)
            self._written = number

    def _turn(self) -> None:
        """Begins a new period when it is time."""
        period = counts.period_of(self._clock())
        if period == self._period:
            return
        if _requests(self._now) != self._written:
            self._waiting[self._period] = self._now
        for old in sorted(self._waiting)[:-_MAX_WAITING]:
            del self._waiting[old]
        self._past.add(self._now)
        self._period, self._now, self._written = period, Counts(), 0


def _requests(told: Counts) -> int:
    routes = sum(sum(route.outcomes.values()) for route in told.routes.values())
    return routes + sum(told.reasons.values())


class Scribe:
    """The background task that writes a worker's counts. It begins with `start`."""

    def __init__(self, sights: Sights, slips: Slips) -> None:
        self._sights = sights
        self._slips = slips
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._write_forever())

    async def close(self) -> None:
        """Writes a last time. Safe to repeat."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
            with suppress(StoreUnavailable):
                await self._sights.flush(self._slips)

    async def _write_forever(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            try:
                await self._sights.flush(self._slips)
            except StoreUnavailable:
                log.debug("the counts of requests wait for the store")
            except Exception:  # statistics must not end for one mistake, nor anything by them
                log.exception("the counts of requests were not written")
