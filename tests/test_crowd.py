"""Many payments in flight on one channel, in any order that honest parties can come to: see
`simulate.crowd`. `make crowd` runs many more of its worlds.

Cases 10, 27, 28, 39, 46, 49 and 52.
"""

import os
from collections.abc import Callable
from typing import Any

import pytest
from simulate.crowd import Crowd, crowd

from paywall.corrections import Word
from paywall.walletrows import Account

WORLDS = int(os.environ.get("PAYWALL_CROWDS", "16"))
"""How many; each takes a fifth of a second."""


@pytest.mark.parametrize("eighth", range(8))
def test_honest_parties_come_to_terms_whatever_was_lost_or_late(eighth: int) -> None:
    bought = 0
    for number in range(eighth, WORLDS, 8):
        world = crowd(f"crowd.{number}")
        assert world.oracle.violations == [], f"in world crowd.{number}"
        bought += world.outcomes["200"]
    assert bought > 20 * WORLDS / 8, "too little was bought for this test to mean anything"


def test_a_seed_is_one_history_to_the_last_event() -> None:
    digests = [crowd(seed).oracle.digest for seed in ("crowd.1", "crowd.1", "crowd.2")]
    assert digests[0] == digests[1] != digests[2]


def first_that_is_refused() -> Crowd | None:
    worlds = (crowd(f"crowd.{number}") for number in range(30))
    said = "is refused for a total"
    return next((w for w in worlds if any(said in v for v in w.oracle.violations)), None)


_is_explained: Callable[[Word, Account, bool], bool] = Word.is_explained


def knows_no_window(word: Word, account: Account, keeps_window: bool) -> bool:
    return _is_explained(word, account, False)


def takes_all_in_flight_for_counted(word: Word, account: Account) -> int:
    return max(account.charged, word.total - account.flying) if account.flying else word.total


@pytest.mark.parametrize(
    ("name", "mistake"),
    [("is_explained", knows_no_window), ("_charged", takes_all_in_flight_for_counted)],
)
def test_it_sees_an_agent_that(
    name: str, mistake: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mistakes that were made once: no other test and no run of the simulator had found them."""
    monkeypatch.setattr(Word, name, mistake)
    assert first_that_is_refused() is not None
