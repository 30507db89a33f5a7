"""The adversary, as small as a test: see `adversary`."""

from adversary import Plan, adversary


def test_case_33_a_thief_that_is_served_and_withdraws_gains_nothing() -> None:
    figures = adversary(Plan(thieves=3, massacres=0))
    assert figures["problems"] == []
    thieves = figures["thieves"]
    assert thieves["ways"] == {"at once": 1, "some time": 1, "outage": 1}
    assert thieves["earned"] == thieves["served"] > 0
    assert thieves["outcomes"]["channel_closing"] > 0


def test_case_35_two_claimers_that_are_killed_again_and_again_claim_everything_once() -> None:
    figures = adversary(Plan(thieves=0, massacres=2))
    assert figures["problems"] == []
    massacres = figures["massacres"]
    assert massacres["earned"] == massacres["claimed"] == massacres["served"] > 0
    assert massacres["deaths"] >= 4
