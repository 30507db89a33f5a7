"""`python -m fuzz`: a million hostile inputs, or as many as are asked for, and what was found.

Each target is run in turn. An input that breaks a promise, takes too long or makes the process grow
is written to `.fuzz/` and ends the run with status 1; `--replay FILE` runs one again. The last line
is one JSON object. `--guided TARGET` hands a target to atheris, which looks for new paths in the
code instead of drawing by lot.
"""

import argparse
import json
import logging
import resource
import sys
import time
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import Final

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fuzz.mutate import Mutator
from fuzz.target import Target
from fuzz.targets import TARGETS
from paywall import refusal_queue

FOUND: Final = Path(".fuzz")
SLOW_SECONDS: Final = 1.0
GROWTH_BYTES: Final = 200 * 2**20
"""What a million inputs may add to the process: its bounded caches, and Python's own slack."""
_SHARES: Final = {"payment headers": 6, "paths": 6, "quotes": 1}
"""How many of the inputs a target gets; 2 unless it says otherwise."""


class Found(Exception):
    """A fault, with the input that shows it."""


def _run(target: Target, data: bytes) -> str:
    began = time.perf_counter()
    try:
        word = target.run(data)
    except Exception as error:
        raise Found(_keep(target, data, repr(error))) from error
    if time.perf_counter() - began > SLOW_SECONDS:
        raise Found(_keep(target, data, "it took too long"))
    return word


def _keep(target: Target, data: bytes, why: str) -> str:
    FOUND.mkdir(exist_ok=True)
    path = FOUND / f"{target.name.replace(' ', '-')}-{sha256(data).hexdigest()[:12]}"
    path.write_bytes(data)
    return f"{target.name}: {why}; the input is in {path}"


def _grown() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def fuzz(inputs: int, seed: int) -> dict[str, object]:
    """Raises Found."""
    targets = [make() for make in TARGETS.values()]
    shares = {target.name: _SHARES.get(target.name, 2) for target in targets}
    outcomes: dict[str, Counter[str]] = {}
    columns = (
        *(TextColumn("{task.description:20}"), BarColumn(), MofNCompleteColumn()),
        TimeElapsedColumn(),
    )
    began, before = time.monotonic(), 0
    with Progress(*columns) as progress:
        for target in targets:
            number = inputs * shares[target.name] // sum(shares.values())
            counts = outcomes.setdefault(target.name, Counter())
            mutator = Mutator(list(target.seeds()), seed)
            for at in progress.track(range(number), description=target.name):
                counts[_run(target, mutator.next())] += 1
                if at == 2_000:
                    before = max(before, _grown())
    growth = max(0, _grown() - before)
    if growth > GROWTH_BYTES:
        raise Found(f"the process grew by {growth:,} bytes")
    return {
        "inputs": sum(map(Counter.total, outcomes.values())),
        "seed": seed,
        "seconds": round(time.monotonic() - began, 1),
        "grown_bytes": growth,
        "outcomes": {name: dict(counts.most_common(12)) for name, counts in outcomes.items()},
    }


def _guided(name: str, seconds: int) -> None:
    import atheris  # noqa: PLC0415 - it instruments what is loaded after it, and is an extra

    target = TARGETS[name]()

    def one(data: bytes) -> None:
        target.run(data)

    corpus = FOUND / "corpus" / name.replace(" ", "-")
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    atheris.instrument_all()
    told = [sys.argv[0], f"-max_total_time={seconds}", "-max_len=20000", str(corpus)]
    atheris.Setup(told, one)
    atheris.Fuzz()


def main() -> None:
    # Who was refused is waited for half a second, and nobody comes back here.
    setattr(refusal_queue, "TURN_SECONDS", 0.0)  # noqa: B010 - a constant elsewhere
    logging.disable(logging.CRITICAL)
    parser = argparse.ArgumentParser(prog="fuzz", description="hostile input, by the million")
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--target", choices=TARGETS, help="with --replay: which one")
    parser.add_argument("--replay", type=Path, help="runs one input again")
    parser.add_argument("--guided", choices=TARGETS, help="coverage-guided, by atheris")
    parser.add_argument("--seconds", type=int, default=600, help="with --guided: how long")
    told = parser.parse_args()
    if told.guided:
        return _guided(told.guided, told.seconds)
    if told.replay:
        print(TARGETS[told.target]().run(told.replay.read_bytes()))
        return None
    try:
        print(json.dumps(fuzz(told.inputs, told.seed) | {"found": []}))
    except Found as found:
        print(json.dumps({"seed": told.seed, "found": [str(found)]}))
        sys.exit(1)


if __name__ == "__main__":
    main()
