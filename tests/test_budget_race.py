"""One budget for everybody: a few of the seeded runs; `make budget-race` makes a hundred."""

from pathlib import Path

import pytest
from helpers.budget_race import fresh, most_within, one_process, several_processes
from helpers.walletstates import STATES


@pytest.mark.parametrize("seed", [1])
async def test_case_45_a_thousand_tasks_of_one_process_stay_within_every_ceiling(
    seed: int, tmp_path: Path
) -> None:
    outcome = await one_process(seed, 1_000, fresh(tmp_path, seed, "tasks"))
    assert outcome.wrong == []
    assert outcome.denied > 0
    assert outcome.served > 50


@pytest.mark.parametrize("state", ["file", "redis"])
@pytest.mark.parametrize("seed", [3])
def test_case_45_processes_that_share_a_wallet_stay_within_every_ceiling(
    state: str, seed: int, tmp_path: Path
) -> None:
    outcome = several_processes(seed, 100, STATES[state](tmp_path))
    assert outcome.wrong == []
    assert outcome.denied > 0
    assert outcome.served > 50


def test_the_largest_stretch_is_found() -> None:
    charges = [(0.0, 5), (30.0, 7), (61.0, 9), (120.0, 1), (121.5, 1)]
    assert most_within(charges, 60.0) == 16
