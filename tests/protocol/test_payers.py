"""The accounts of payers: when newcomers are turned away, and what an errand leaves behind."""

import pytest

from paywall.protocol import payers
from paywall.protocol.errors import Reason, Refused
from paywall.protocol.payers import HOUR_MS, Account, Errand, PayerLimits

NOW = 1_700_000_000_000
PAYER, CHANNEL, OTHER = b"\x01" * 20, b"\x02" * 32, b"\x03" * 32


def full(limits: PayerLimits) -> Account:
    """The account of all payers after as many errands as there may be at once."""
    crowd = Account()
    for _ in range(limits.all_errands_per_hour):
        crowd = payers.counted_in_all(crowd, limits, NOW)
    with pytest.raises(Refused) as refused:
        payers.counted_in_all(crowd, limits, NOW)
    assert refused.value.reason is Reason.TOO_MANY_DEPOSITS_IN_ALL
    return crowd


@pytest.mark.parametrize(
    ("most", "over_after_ms"),
    [(1000, HOUR_MS // 10), (20, HOUR_MS // 10), (5, HOUR_MS // 5), (1, HOUR_MS)],
)
def test_newcomers_are_turned_away_from_the_last_place_until_a_tenth_is_free(
    most: int, over_after_ms: int
) -> None:
    limits = PayerLimits(errands_per_hour=1, all_errands_per_hour=most)
    crowd = full(limits)
    assert payers.turning_away(Account(), limits, NOW).used_up_at_ms == 0
    crowd = payers.turning_away(crowd, limits, NOW)
    assert crowd.used_up_at_ms == NOW
    assert payers.turning_away(crowd, limits, NOW + over_after_ms - 1) == crowd, "since when"
    assert payers.turning_away(crowd, limits, NOW + over_after_ms).used_up_at_ms == 0


def test_a_last_place_that_is_free_is_no_alarm() -> None:
    limits = PayerLimits(errands_per_hour=1, all_errands_per_hour=100)
    crowd = payers.uncounted_in_all(full(limits), limits)
    assert payers.turning_away(crowd, limits, NOW) == crowd
    assert crowd.used_up_at_ms == 0


@pytest.mark.parametrize("before", [None, 0, 7])
def test_an_errand_that_is_undone_leaves_the_customer_that_was(before: int | None) -> None:
    channels = {OTHER: 5} if before is None else {CHANNEL: before, OTHER: 5}
    account = Account(NOW, channels)
    errand = Errand(PAYER, CHANNEL, 100, before, is_of_crowd=False)
    made = payers.with_channel(account, CHANNEL, 100, frozenset())
    assert payers.undone(made, errand) == account


def test_an_errand_that_another_has_followed_is_not_undone() -> None:
    account = Account(NOW, {CHANNEL: 150})
    assert payers.undone(account, Errand(PAYER, CHANNEL, 100, 7, is_of_crowd=False)) == account


def test_an_account_that_an_older_version_wrote_is_read() -> None:
    written = b"\x92\xcf\x00\x00\x01\x8b\xcf\xe5\x68\x00\x80"  # two fields
    assert payers.decode(written) == Account(NOW)
