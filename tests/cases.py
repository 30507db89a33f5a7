"""`python -m cases`, or `make cases`: what must not go wrong, and the tests that hold it.

A test says which case it is about in its name: `test_case_17_…`, or `test_cases_16_and_53_…` for
more than one. The table is made from those names, so a case without a test shows. With `--list`
nothing is run. Exit status 1 when a case has no test, or one that fails.
"""

import argparse
import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest
from rich.console import Console
from rich.table import Table

CASES: Final = {
    1: "another spelling of a priced path is never free",
    2: "an app under a mount point is still priced",
    3: "other verbs, HEAD and override headers are not free",
    4: "a WebSocket on a priced path is never free",
    5: "two payments that disagree are malformed",
    6: "huge headers are refused before they are read",
    7: "odd base64 is read when it has one meaning",
    8: "hostile JSON is refused in milliseconds",
    9: "an unpaid request's body is not read",
    10: "a hang-up at any moment charges once or not at all",
    11: "one charging rule for every kind of answer",
    12: "store or chain down: 503, not charged, loop not blocked",
    13: "a stream is not buffered, and cannot forge a receipt",
    14: "the quoted URL does not follow forged headers",
    15: "a shared cache never gives away a paid answer",
    16: "errors show no secrets",
    17: "one authorization sent by many at once buys once",
    18: "another spelling of an authorization is the same one",
    19: "a transfer to the wrong place is refused before any RPC",
    20: "the times of an authorization, at their bounds",
    21: "broken signatures are refused",
    22: "money that left between check and settlement",
    23: "a token that says yes and moves nothing is unpaid",
    24: "sent without a receipt: pending, never sent twice",
    25: "a facilitator that lies fails closed",
    26: "an authorization is remembered while it is valid",
    27: "many at once on one channel: charged is served",
    28: "a replayed voucher buys nothing",
    29: "amounts that are not amounts are refused",
    30: "one channel however it is spelled; any change is another",
    31: "signatures as the contract takes them, no others",
    32: "above the balance or below what is claimed is refused",
    33: "a pending withdrawal: claimed at once, closed in time",
    34: "a poisoned claim is set aside, the rest goes through",
    35: "two claimers, crashes, dear gas, an empty gas wallet",
    36: "a flood of tiny deposits is bounded",
    37: "closed and filled again: old vouchers buy nothing",
    38: "refunds that race, repeat or ask too much",
    39: "a late charge is fenced; a meter never exceeds its ceiling",
    40: "a clock that steps expires nothing",
    41: "Redis killed, failed over, flushed, restored, full",
    42: "what a payer names never becomes a raw key",
    43: "records of older versions are read",
    44: "too dear, unknown, dearest first: policy decides",
    45: "racing calls never exceed the budget",
    46: "402 without end: one payment, one correction",
    47: "no payment leaves for another origin",
    48: "an upload that cannot be sent twice is not paid twice",
    49: "after a timeout the same payment is sent again",
    50: "demands for large deposits are bounded",
    51: "charged more than agreed: stop, keep evidence, withdraw",
    52: "crashes, two processes, a lost file: no voucher twice",
    53: "keys never show",
    54: "what the user gave httpx keeps working",
    55: "text in a 402 is data",
}
"""Number -> what holds, whatever anybody tries."""

_NAMED = re.compile(r"test_cases?((?:_(?:and_)?\d+)+)(?:_|$|\[)")
_TESTS: Final = Path(__file__).parent
STORES: Final = ("memory", "sqlite", "redis", "redis-cluster")


def numbers_in(name: str) -> set[int]:
    """The cases that a test's name speaks of."""
    found = _NAMED.search(name)
    return {int(word) for word in re.findall(r"\d+", found[1])} & set(CASES) if found else set()


@dataclass
class Collector:
    """A plugin of pytest that notes which test is about what, and how it ended."""

    tests: dict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    failed: set[str] = field(default_factory=set)

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        named = [item for item in items if numbers_in(item.name)]
        for item in named:
            for number in numbers_in(item.name):
                self.tests[number].add(item.nodeid)
        config.hook.pytest_deselected(items=[item for item in items if item not in named])
        items[:] = named

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.add(report.nodeid)

    @property
    def missing(self) -> list[int]:
        return [number for number in CASES if not self.tests.get(number)]


def collect(run: bool) -> Collector:
    """Every test that is named for a case; `run` runs them too."""
    collector = Collector()
    told = ["-q", "--no-header", "-p", "no:cacheprovider", str(_TESTS)]
    pytest.main(told if run else [*told, "--collect-only", "-qq"], plugins=[collector])
    return collector


def stores_of(tests: Iterable[str]) -> str:
    """The stores that parameters of these tests name."""
    words = {word for test in tests for word in re.split(r"[\[\]]", test)[1:2]}
    named = {part for word in words for part in re.split(r"-(?!cluster)", word)}
    return ", ".join(store for store in STORES if store in named)


def table_of(collector: Collector, run: bool) -> Table:
    table = Table(title="What must not go wrong")
    table.add_column("case", justify="right")
    table.add_column("what holds")
    table.add_column("tests", justify="right")
    table.add_column("stores")
    table.add_column("")
    for number, title in CASES.items():
        tests = collector.tests.get(number, set())
        word = "green" if run else ""
        if not tests:
            word = "no test"
        elif tests & collector.failed:
            word = "failed"
        table.add_row(str(number), title, str(len(tests)), stores_of(tests), word)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(prog="cases", description="cases and the tests that hold them")
    parser.add_argument("--list", action="store_true", help="run nothing")
    run = not parser.parse_args().list
    collector = collect(run)
    Console().print(table_of(collector, run))
    held = len(CASES) - len(collector.missing)
    print(f"{held} of {len(CASES)} cases have tests; {len(collector.failed)} tests failed")
    sys.exit(1 if collector.missing or collector.failed else 0)


if __name__ == "__main__":
    main()
