"""`make budget-race`: a hundred seeded races for one budget, and whether a unit is missing.

Each seed runs a thousand tasks in one process, and four processes with 250 tasks each that share
one wallet file. Exits with 1 when a ceiling was exceeded by one unit or a sum is off.
"""

import argparse
import asyncio
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from helpers.budget_race import Outcome, fresh, one_process, several_processes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--tasks", type=int, default=1_000)
    told = parser.parse_args()
    sums: Counter[str] = Counter()
    wrong: list[str] = []
    began = time.monotonic()
    with TemporaryDirectory() as folder:
        for seed in range(told.first, told.first + told.seeds):
            for name, outcome in races(Path(folder), seed, told.tasks):
                count(sums, name, outcome)
                wrong += [f"seed {seed}, {name}: {sentence}" for sentence in outcome.wrong]
    for key, value in sorted(sums.items()):
        print(f"{key:32} {value:>12,}")
    print(f"{told.seeds} seeds in {time.monotonic() - began:.0f} s, {len(wrong)} wrong")
    for sentence in wrong:
        print(sentence)
    return 1 if wrong else 0


def races(folder: Path, seed: int, tasks: int) -> list[tuple[str, Outcome]]:
    return [
        ("tasks", asyncio.run(one_process(seed, tasks, fresh(folder, seed, "tasks")))),
        ("processes", several_processes(seed, tasks // 4, fresh(folder, seed, "processes"))),
    ]


def count(sums: Counter[str], name: str, outcome: Outcome) -> None:
    sums[f"{name}: runs"] += 1
    sums[f"{name}: requests charged"] += outcome.served
    sums[f"{name}: requests denied"] += outcome.denied
    sums[f"{name}: units spent"] += outcome.spent
    sums[f"{name}: units charged"] += outcome.charged
    for limit in outcome.limits:
        sums[f"{name}: runs that met {limit}"] += 1


if __name__ == "__main__":
    sys.exit(main())
