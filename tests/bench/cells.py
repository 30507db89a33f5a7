"""What a benchmark comes to: cells of figures, and how their parts are measured.

Rounds of the things that are compared take turns, so that what else the machine does disturbs all
of them alike, and a figure is the median of its rounds.
"""

import os
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass
class Cell:
    """One thing that was measured: a figure per round; `milliseconds` of all requests of each."""

    name: str
    seconds: list[float] = field(default_factory=list)
    requests: list[int] = field(default_factory=list)
    cpu_seconds: dict[str, list[float]] = field(default_factory=dict)
    milliseconds: list[list[float]] = field(default_factory=list)
    more: dict[str, float] = field(default_factory=dict)

    @property
    def requests_per_second(self) -> float:
        return median(n / s for n, s in zip(self.requests, self.seconds, strict=True))

    @property
    def percentiles(self) -> dict[str, float]:
        """Of a request's latency in milliseconds, as `percentiles` names them."""
        rounds = [percentiles(taken) for taken in self.milliseconds]
        return {name: round(median(one[name] for one in rounds), 3) for name in rounds[0]}

    @property
    def cpu_us(self) -> dict[str, float]:
        """Microseconds of processor time per request, for each of the processes that took part."""
        return {
            who: median(s / n * 1e6 for s, n in zip(spent, self.requests, strict=True))
            for who, spent in self.cpu_seconds.items()
        }

    def figures(self) -> dict[str, object]:
        return {
            "requests_per_second": round(self.requests_per_second),
            "cpu_us_per_request": {who: round(us, 1) for who, us in self.cpu_us.items()},
            **{name: round(value, 3) for name, value in self.more.items()},
        }


def percentiles(milliseconds: list[float]) -> dict[str, float]:
    cuts = quantiles(milliseconds, n=1000, method="inclusive")
    return {"p50": cuts[499], "p99": cuts[989], "p999": cuts[998]}


Clock = Callable[[], float]
"""Seconds of processor time that somebody has used so far."""


def cpu_of(pid: int) -> Clock:
    """The processor time of another process."""

    def spent() -> float:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND

    return spent


async def measure(
    cell: Cell, clocks: Mapping[str, Clock], requests: int, work: Callable[[], Awaitable[object]]
) -> None:
    """One round of a cell."""
    before = {who: clock() for who, clock in clocks.items()}
    began = time.perf_counter()
    await work()
    cell.seconds.append(time.perf_counter() - began)
    cell.requests.append(requests)
    for who, clock in clocks.items():
        cell.cpu_seconds.setdefault(who, []).append(clock() - before[who])
