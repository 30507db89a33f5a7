"""An agent that is killed loses nothing: a few runs; `make agent-kills` makes two hundred."""

from pathlib import Path

import pytest
from helpers.agent_kills import run

from paywall.chain.devnet import Devnet


@pytest.mark.parametrize("seed", range(2))
def test_case_52_an_agent_killed_at_any_point_uses_no_voucher_twice_and_loses_no_channel(
    devnet: Devnet, tmp_path: Path, seed: int
) -> None:
    assert run(devnet, tmp_path, seed) == []
