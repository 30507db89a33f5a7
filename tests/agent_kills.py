"""`make agent-kills`: an agent killed -9 at random points against a live provider, by seeds.

Exits with 1 when a voucher was used twice, a channel was lost, or two ledgers disagree.
"""

import argparse
import logging
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from helpers.agent_kills import LIVES, run

from paywall.chain.devnet import Devnet


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    told = parser.parse_args()
    logging.getLogger("paywall").setLevel(logging.ERROR)  # the devnet's clock runs ahead of ours
    began, wrong = time.monotonic(), list[str]()
    with Devnet(port=0) as devnet:
        for seed in range(told.first, told.first + told.seeds):
            with TemporaryDirectory() as folder:
                wrong += [f"seed {seed}: {each}" for each in run(devnet, Path(folder), seed)]
    seconds = time.monotonic() - began
    print(f"{told.seeds} runs, {told.seeds * LIVES} kills, {seconds:.0f} s, {len(wrong)} wrong")
    for sentence in wrong:
        print(sentence)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
