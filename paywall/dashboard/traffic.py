"""What the workers have counted of requests, added up over a day as it goes on.

A period that is over is read once and kept; only the running one and the one before it, which some
worker may still be writing, are read again.
"""

import asyncio
from typing import Final

from paywall import counts
from paywall.counts import KEPT_SECONDS, PERIOD_SECONDS, Counts
from paywall.stores import Slips

PERIODS: Final = 24 * 3600 // PERIOD_SECONDS
assert PERIODS * PERIOD_SECONDS < KEPT_SECONDS, "what is shown is kept"
_STILL_WRITTEN: Final = 2


class Traffic:
    """The day's periods, and everything since this object began, which only rises."""

    def __init__(self, slips: Slips) -> None:
        self._slips = slips
        self._first = 0
        self.periods: dict[int, Counts] = {}
        self._risen = Counts()
        self._before: Counts | None = None

    async def read(self, now_seconds: float) -> None:
        """Raises StoreUnavailable."""
        last = counts.period_of(now_seconds)
        wanted = range(last - PERIODS + 1, last + 1)
        due = [
            period
            for period in wanted
            if period not in self.periods or period > last - _STILL_WRITTEN
        ]
        found = await asyncio.gather(*(counts.read(self._slips, period) for period in due))
        self.periods.update(zip(due, found, strict=True))
        if self._before is None:
            self._before = self.day
        for period in [period for period in self.periods if period < wanted[0]]:
            self._risen.add(self.periods.pop(period))

    @property
    def day(self) -> Counts:
        return counts.sum_of(self.periods.values())

    @property
    def last_hour(self) -> Counts:
        recent = sorted(self.periods)[-(3600 // PERIOD_SECONDS) :]
        return counts.sum_of(self.periods[period] for period in recent)

    @property
    def since_start(self) -> Counts:
        """What was counted since the first reading: for counters that must never fall."""
        total = counts.sum_of((self._risen, self.day))
        return counts.difference(total, self._before) if self._before else Counts()
