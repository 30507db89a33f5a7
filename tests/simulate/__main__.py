"""`python -m simulate --seed 1 --payments 1000000`: many worlds, one JSON line, an exit status.

A run is worlds of `--world` payments each, named `seed.0`, `seed.1` and so on; they share nothing,
so several processors work on them. A failure names its world: `--only` replays that one alone, with
the same history to the last event. Exit status 0: no violation; 1: there was one.
"""

import argparse
import gc
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context

from simulate.progress import Shown
from simulate.run import Result, simulate


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="simulate", description=__doc__)
    parser.add_argument("--seed", default="1", help="any text; the same one is the same history")
    parser.add_argument("--payments", type=int, default=20_000)
    parser.add_argument("--world", type=int, default=2_000, help="payments in one world")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", type=int, default=None, help="the number of one world")
    parser.add_argument("--real", action="store_true", help="no cheap signatures and wallet files")
    parser.add_argument("--json", action="store_true", help="no progress bar")
    return parser.parse_args()


def _results(told: argparse.Namespace) -> Iterator[Result]:
    worlds = range(-(-told.payments // told.world)) if told.only is None else [told.only]
    seeds = [f"{told.seed}.{number}" for number in worlds]
    work = seeds, [told.world] * len(seeds), [told.real or None] * len(seeds)
    if told.jobs == 1 or len(worlds) == 1:
        yield from map(simulate, *work)
        return
    pool = ProcessPoolExecutor(told.jobs, get_context("spawn"), gc.freeze)
    try:
        yield from pool.map(simulate, *work)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def report(seed: str, results: list[Result], seconds: float) -> dict[str, object]:
    """The figures of a run; `violations` is empty when all is well."""
    counts: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    for result in results:
        counts.update(result.counts)
        faults.update(result.faults)
        outcomes.update(result.outcomes)
    payments = counts.pop("payments", 0)
    killed = faults["worker killed"] + faults["agent killed"]
    return {
        "seed": seed,
        "payments": payments,
        "worlds": len(results),
        "worlds_with_real_signatures": sum(result.real for result in results),
        "faults": dict(faults.most_common()),
        "crashes": killed,
        "within_bounds": dict(counts.most_common()),
        "outcomes": dict(outcomes.most_common()),
        "violations": [f"world {r.seed}: {v}" for r in results for v in r.violations][:20],
        "virtual_hours": round(sum(r.virtual_seconds for r in results) / 3600, 1),
        "seconds": round(seconds, 1),
        "payments_per_second": round(payments / seconds),
    }


def _show(told: argparse.Namespace, result: Result) -> None:
    """What is needed to understand a failure, and to see it again."""
    seed, _, number = result.seed.rpartition(".")
    again = f"--seed {seed} --world {told.world} --only {number}{' --real' * told.real}"
    print(f"world {result.seed} failed; again: python -m simulate {again}", file=sys.stderr)
    for line in (*result.violations[:5], "the last events of the channel at fault:", *result.trace):
        print(f"  {line}", file=sys.stderr)


def main() -> int:
    told = _arguments()
    began, results = time.monotonic(), []
    total = told.payments if told.only is None else told.world
    with Shown(total, told.json) as shown, suppress(KeyboardInterrupt):  # what there is, is told
        for result in _results(told):
            results.append(result)
            shown.over(result)
            if result.violations:
                _show(told, result)
    figures = report(told.seed, results, time.monotonic() - began)
    print(json.dumps(figures))
    return 1 if figures["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
