"""`python -m bench`: what a paid request costs. `--quick` for a look, without it for figures.

Tables go to the terminal, and everything to `.bench/latest.json`.
"""

import argparse
import asyncio
import os
import platform
import sys

from bench import report
from bench.redis_cost import Findings, many_channels, paid_requests
from bench.requests_cost import today, whole_requests


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description="what a paid request costs")
    parser.add_argument("--requests", type=int, default=8_000, help="per round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--channels", type=int, default=1_000_000)
    parser.add_argument("--quick", action="store_true", help="few rounds, 100,000 channels")
    told = parser.parse_args()
    if told.quick:
        told.requests, told.rounds, told.channels = 2_000, 3, 100_000
    return told


async def _bench(requests: int, rounds: int, channels: int) -> Findings:
    found = Findings()
    print("paid requests in Redis …", file=sys.stderr)
    await paid_requests(found, requests, rounds)
    print("paid requests in a worker …", file=sys.stderr)
    await whole_requests(found, requests // 2, rounds)
    print(f"{channels:,} channels …", file=sys.stderr)
    await many_channels(found, channels, 2 * rounds)
    return found


def main() -> None:
    told = _arguments()
    found = asyncio.run(_bench(told.requests, told.rounds, told.channels))
    machine = {
        "date": today(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "channels": told.channels,
        "rounds": told.rounds,
    }
    report.write(report.figures_of(found, machine))
    report.show(found)


if __name__ == "__main__":
    main()
