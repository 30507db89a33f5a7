"""The soak, as small as a test: see `soak`. Cases 10, 27, 28, 39 and 41."""

import gc

import pytest
from soak import Plan, soak


# A user who hangs up while httpx connects makes anyio forget the socket that was just made.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("store", ["redis", "sqlite"])
def test_what_is_charged_is_what_was_delivered(store: str) -> None:
    plan = Plan(requests=1_500, agents=8, workers=2, store=store, seed=7, kills=2)
    figures = soak(plan)
    assert figures["problems"] == []
    assert figures["requests"] == plan.requests
    assert figures["charged"] == figures["delivered"] * figures["price"]
    assert figures["double_grants"] == figures["busy_channels"] == 0
    assert figures["sent_again"] > 0, "the network was too good for this test to mean anything"
    gc.collect()  # what was forgotten is found here, and not in somebody else's test
