"""The adversary: thieves against the watcher, SIGKILL against the claimers; nothing may be lost.

    python -m adversary [--thieves 200] [--massacres 100] [--seed 0] [--json]

Thieves are served and initiate their withdrawal at once, at some time, or while the worker is down
for half of the delay; time travels on the devnet (`helpers.thieves`). Massacres are two claimers of
one provider, real processes killed again and again at points that the seed names, on SQLite and on
Redis by turns (`helpers.massacre`).

Progress goes to stderr; the last line on stdout is one JSON object. The exit status is 1 when
a single unit is missing or anything else is off.
"""

import argparse
import asyncio
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from helpers.collecting import ChainClock
from helpers.long_run import shown
from helpers.massacre import Outcome, Run, nurseries
from helpers.redis_server import running
from helpers.thieves import WAYS, Loot, rob

from paywall.chain.devnet import Devnet

GAS_ACCOUNT: Final = 1
"""Who pays for the claims of massacres, and for nothing else."""

Figures = dict[str, Any]
Step = Callable[[], None]


@dataclass(frozen=True)
class Plan:
    thieves: int = 200
    massacres: int = 100
    seed: int = 0

    @property
    def runs(self) -> int:
        return self.thieves + self.massacres


async def _rob_all(plan: Plan, step: Step) -> list[Loot]:
    found = []
    with Devnet(port=0) as devnet:
        clock = ChainClock(devnet)
        for seed in range(plan.seed, plan.seed + plan.thieves):
            found.append(await rob(devnet, clock, seed))
            step()
    return found


async def _kill_all(plan: Plan, folder: Path, redis: str, step: Step) -> list[Outcome]:
    found = []
    with Devnet(port=0) as devnet:
        async with nurseries() as pair:
            for seed in range(plan.seed, plan.seed + plan.massacres):
                url = f"{redis}?prefix=run{seed}" if seed % 2 else f"sqlite:///{folder}/{seed}.db"
                found.append(await Run(devnet, pair, url, seed, GAS_ACCOUNT).run())
                step()
    return found


def adversary(plan: Plan, step: Step = lambda: None) -> Figures:
    """Runs a plan and returns its figures; `problems` is empty when all is well."""
    began = time.monotonic()
    loots = asyncio.run(_rob_all(plan, step)) if plan.thieves else []
    outcomes = _massacre_all(plan, step) if plan.massacres else []
    problems = [text for one in (*loots, *outcomes) for text in one.problems]
    return {
        "thieves": _thieves(loots),
        "massacres": _massacres(outcomes),
        "seconds": round(time.monotonic() - began, 1),
        "problems": problems[:20],
    }


def _massacre_all(plan: Plan, step: Step) -> list[Outcome]:
    with TemporaryDirectory(prefix="paywall-adversary-") as name, running() as server:
        return asyncio.run(_kill_all(plan, Path(name), server.url, step))


def _thieves(loots: list[Loot]) -> Figures:
    outcomes: Counter[str] = Counter()
    for loot in loots:
        outcomes += loot.outcomes
    return {
        "runs": len(loots),
        "served": sum(loot.served for loot in loots),
        "earned": sum(loot.earned for loot in loots),
        "lost": sum(loot.lost for loot in loots),
        "ways": {way: sum(loot.way == way for loot in loots) for way in WAYS},
        "outcomes": dict(outcomes.most_common()),
    }


def _massacres(outcomes: list[Outcome]) -> Figures:
    names = ("served", "claimed", "earned", "deaths", "claims", "without_effect")
    sums = {name: sum(getattr(one, name) for one in outcomes) for name in names}
    return {"runs": len(outcomes), **sums}


# -- The command ---------------------------------------------------------------------------------


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="adversary", description="thieves and killed claimers")
    for name in ("thieves", "massacres", "seed"):
        default = getattr(Plan, name)
        parser.add_argument(f"--{name}", type=int, default=default, help=f"({default})")
    parser.add_argument("--json", action="store_true", help="no progress bar")
    return parser.parse_args()


def main() -> int:
    told = _arguments()
    logging.getLogger("paywall").setLevel(logging.CRITICAL)  # alarms ring all the time here
    plan = Plan(told.thieves, told.massacres, told.seed)
    return shown("adversary", plan.runs, told.json, partial(adversary, plan))


if __name__ == "__main__":
    sys.exit(main())
