"""`python -m bench`: what a paid request costs, beside other paywalls. `--quick` for a look.

Tables go to the terminal, and everything to `.bench/latest.json`.
"""

import argparse
import asyncio
import os
import platform
import sys
import time

from bench import collect, gas, report
from bench.client_cost import client_cost
from bench.findings import Findings
from bench.memory_cost import process_memory
from bench.paid import paid_requests
from bench.redis_cost import many_channels, store_requests

_CLIENTS = (
    "client_cpu_us_per_payment",
    "client_cpu_us_per_free_request",
    "client_exchanges_per_payment",
)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description="what a paid request costs")
    parser.add_argument("--requests", type=int, default=6_400, help="per cell and round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--channels", type=int, default=1_000_000, help="in Redis at once")
    parser.add_argument("--gas-channels", type=int, default=500)
    parser.add_argument("--client-requests", type=int, default=300, help="of each client")
    parser.add_argument("--quick", action="store_true", help="a tenth of the work")
    told = parser.parse_args()
    if told.quick:
        told.requests, told.rounds, told.channels, told.gas_channels = 1_600, 2, 100_000, 120
        told.client_requests = 60
    return told


def _measured(told: argparse.Namespace) -> Findings:
    found = Findings()
    paid_requests(found, told.requests, told.rounds)
    print("verbs in Redis …", file=sys.stderr)
    asyncio.run(store_requests(found, told.requests, told.rounds))
    print(f"{told.channels:,} channels …", file=sys.stderr)
    asyncio.run(many_channels(found, told.channels, 2 * told.rounds))
    process_memory(found)
    print("clients …", file=sys.stderr)
    told_by_clients = asyncio.run(client_cost(told.client_requests, told.rounds))
    found.figures |= {name: told_by_clients[name] for name in _CLIENTS}
    print("gas …", file=sys.stderr)
    found.figures["gas"] = gas.figures(told.gas_channels)
    print(f"{told.gas_channels} channels collected while requests go on …", file=sys.stderr)
    found.figures["collecting"] = collect.figures(told.gas_channels)
    return found


def main() -> None:
    told = _arguments()
    found = _measured(told)
    machine = {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "channels": told.channels,
        "rounds": told.rounds,
    }
    report.write(report.figures_of(found, machine))
    report.show(found)


if __name__ == "__main__":
    main()
