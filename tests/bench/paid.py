"""The contest itself: which server does what, round after round, and what the figures come to.

Rates are requests per second of a server that has one core to itself; `cpu_us_per_request` is what
the operating system says its process used. Ratios are of rates measured in the same rounds. Of a
latency that is added, the bare app's percentile is taken off ours: a comparison of distributions,
not of single requests.
"""

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from rich.console import Console
from rich.progress import track

from bench.contest import (
    FREE,
    IN_TURN,
    ITEM,
    MANY,
    NAMED,
    ONE_CHANNEL,
    TRANSFERS,
    UNPAID,
    Contest,
)
from bench.findings import Findings
from bench.servers import Arena

_SAID: Final = Console(stderr=True)

BARE: Final = "bare"
LIMIT: Final = "limit"
MEMORY: Final = "ours: memory"
DECORATOR: Final = "ours: memory, by decorator"
DEPENDENCY: Final = "ours: memory, by dependency"
PROXY: Final = "ours: memory, by proxy"
SQLITE: Final = "ours: sqlite"
REDIS: Final = "ours: redis, everysec"
REDIS_ALWAYS: Final = "ours: redis, always"
TWO_WORKERS: Final = "ours: redis, two workers"
PYTHON: Final = "x402 python"
EXPRESS: Final = "x402 express"
HONO: Final = "x402 hono"

_OURS: Final = (FREE, UNPAID, MANY, ONE_CHANNEL, NAMED, TRANSFERS)
_PEERS: Final = (FREE, UNPAID, MANY)
_CELLS: Final = {
    BARE: (FREE, ITEM),
    LIMIT: (ITEM,),
    MEMORY: _OURS,
    DECORATOR: (MANY,),
    DEPENDENCY: (MANY,),
    PROXY: (MANY,),
    SQLITE: _OURS,
    REDIS: _OURS,
    REDIS_ALWAYS: _OURS,
    TWO_WORKERS: (MANY,),
    PYTHON: _PEERS,
    EXPRESS: _PEERS,
    HONO: _PEERS,
}
_LATENCIES: Final = {
    BARE: {1: ITEM, 16: ITEM, 64: ITEM},
    REDIS: {1: MANY, 16: MANY, 64: MANY},
    PYTHON: {1: MANY, 16: MANY},
}


def paid_requests(found: Findings, requests: int, rounds: int) -> None:
    """All cells, all rounds."""
    with ExitStack() as stack, TemporaryDirectory(prefix="paywall-bench-") as folder:
        contest = Contest(requests)
        _enter(contest, Arena(contest, Path(folder), stack))
        turns = list(_turns(contest, rounds))
        for number, (name, kind) in enumerate(track(turns, "paid requests", console=_SAID)):
            if not _SAID.is_terminal and number % len(_CELLS) == 0:
                _SAID.print(f"{number} of {len(turns)} rounds of requests, next {name}: {kind}")
            contest.round(name, kind)
        for _ in track(range(rounds), "latencies", console=_SAID):
            _latencies(contest, requests // 4)
    found.cells += contest.cells.values()
    _ratios(found, contest)
    _added(found, contest)


def _enter(contest: Contest, arena: Arena) -> None:
    arena.bare(BARE)
    arena.bare(LIMIT)
    arena.ours(MEMORY, "memory://")
    arena.ours(DECORATOR, "memory://", kind="by_decorator")
    arena.ours(DEPENDENCY, "memory://", kind="by_dependency")
    arena.by_proxy(PROXY)
    arena.sqlite(SQLITE)
    arena.redis(REDIS, "everysec")
    arena.redis(REDIS_ALWAYS, "always")
    arena.redis(TWO_WORKERS, "everysec", workers=2)
    arena.x402_python(PYTHON)
    if arena.has_node():
        arena.x402_node(EXPRESS)
        arena.x402_node(HONO)
    else:
        print("no Node 20 or its packages: express and hono are left out", file=sys.stderr)


def _turns(contest: Contest, rounds: int) -> Iterator[tuple[str, str]]:
    """Kind by kind, so that what is compared with each other is measured next to each other."""
    kinds = (FREE, ITEM, UNPAID, MANY, ONE_CHANNEL, NAMED, TRANSFERS)
    for _ in range(rounds):
        for kind in kinds:
            for name in contest.contestants:
                if kind in _CELLS[name]:
                    yield name, kind


def _latencies(contest: Contest, requests: int) -> None:
    for connections in (1, 16, 64):
        for name, kinds in _LATENCIES.items():
            if connections in kinds:
                share = contest.contestants[name].share
                kind = f"{kinds[connections]}{IN_TURN}{connections}"
                contest.round(name, kind, int(requests * share))


def _ratios(found: Findings, contest: Contest) -> None:
    rate = contest.rate
    ratios: dict[str, float] = {
        "paid_redis_vs_x402_python": rate(REDIS, MANY) / rate(PYTHON, MANY),
        "paid_redis_vs_x402_python_by_cpu": contest.cpu_us(PYTHON, MANY)
        / contest.cpu_us(REDIS, MANY),
        "paid_memory_of_limit": rate(MEMORY, MANY) / rate(LIMIT, ITEM),
        "paid_redis_of_limit": rate(REDIS, MANY) / rate(LIMIT, ITEM),
        "paid_memory_of_limit_by_cpu": contest.cpu_us(LIMIT, ITEM) / contest.cpu_us(MEMORY, MANY),
        "paid_redis_of_limit_by_cpu": contest.cpu_us(LIMIT, ITEM) / contest.cpu_us(REDIS, MANY),
        "decorator_of_middleware": rate(DECORATOR, MANY) / rate(MEMORY, MANY),
        "dependency_of_middleware": rate(DEPENDENCY, MANY) / rate(MEMORY, MANY),
        "proxy_of_middleware": rate(PROXY, MANY) / rate(MEMORY, MANY),
        "unpaid_of_bare": rate(MEMORY, UNPAID) / rate(BARE, ITEM),
        "free_of_bare": rate(MEMORY, FREE) / rate(BARE, FREE),
        "two_workers_of_one": rate(TWO_WORKERS, MANY) / rate(REDIS, MANY),
        "two_workers_of_one_by_cpu": 2
        * contest.cpu_us(REDIS, MANY)
        / contest.cpu_us(TWO_WORKERS, MANY),
    }
    for peer, name in ((EXPRESS, "express"), (HONO, "hono")):
        if peer in contest.contestants:
            ratios[f"paid_redis_vs_x402_{name}"] = rate(REDIS, MANY) / rate(peer, MANY)
            ratios[f"paid_redis_vs_x402_{name}_by_cpu"] = contest.cpu_us(
                peer, MANY
            ) / contest.cpu_us(REDIS, MANY)
    found.ratios |= {name: round(value, 3) for name, value in ratios.items()}
    found.figures["two_workers"] = (
        "one of the two shares its core with the load generator and Redis; "
        "by_cpu is what both would do with a core each"
    )


def _added(found: Findings, contest: Contest) -> None:
    """What a payment adds to a request's latency, in milliseconds."""
    table: dict[str, Any] = {}
    for name, kinds in _LATENCIES.items():
        for connections, kind in kinds.items():
            cell = contest.cells[name, f"{kind}{IN_TURN}{connections}"]
            table.setdefault(name, {})[str(connections)] = cell.percentiles
    found.figures["latency_ms"] = table
    bare, ours, theirs = (table[name]["1"] for name in (BARE, REDIS, PYTHON))
    added = {name: round(ours[name] - bare[name], 3) for name in bare}
    found.figures["added_latency_ms"] = added
    found.ratios["added_latency_p50_of_x402_python"] = round(
        added["p50"] / (theirs["p50"] - bare["p50"]), 3
    )
