"""What chain events and refunds do to a channel, as statements."""

import pytest
from helpers.channels import NOW, NOW_MS, chain, channel, voucher
from helpers.moves import held, refusal

from paywall.protocol.channel import (
    HOLD_MS,
    REFUND_MS,
    ChainState,
    Channel,
    NeedsChain,
    Refunding,
    RefusedByChannel,
    begin_refund,
    charge,
    check,
    end_refund,
    highest_voucher,
    observe,
    release,
    reserve,
)
from paywall.protocol.errors import Reason

# -- The chain -----------------------------------------------------------------------------------


def test_a_channel_that_just_began_owes_nothing() -> None:
    begun = channel(5000)
    assert (begun.balance, begun.claimed, begun.charged, begun.signed, begun.floor) == (
        5000,
        0,
        0,
        0,
        0,
    )


@pytest.mark.parametrize(
    ("evidence", "claimed", "charged"), [(0, 0, 0), (300, 0, 300), (300, 500, 500), (9999, 0, 1000)]
)
def test_a_lost_record_starts_again_from_the_payers_own_total(
    evidence: int, claimed: int, charged: int
) -> None:
    found = channel(1000, evidence, claimed=claimed)
    assert (found.charged, found.floor, found.voucher) == (charged, charged, None)
    assert refusal(found, charged, 1) in {
        Reason.CUMULATIVE_MISMATCH,
        Reason.BELOW_CLAIMED,
    }


def test_a_newer_reading_is_taken_over_and_an_older_one_ignored() -> None:
    newer = observe(channel(block=5), chain(20_000, block=6))
    assert newer.balance == 20_000
    assert observe(newer, chain(1, block=5)) is newer


def test_case_38_of_what_the_chain_says_a_deposit_alone_is_a_use_of_its_channel() -> None:
    used = charged_up_to(300)
    later_ms = used.used_at_ms + 1000
    claimed = observe(used, chain(1000, claimed=300, block=2, read_at_ms=later_ms))
    assert claimed.used_at_ms == used.used_at_ms
    withdrawn = observe(claimed, chain(300, claimed=300, block=3, read_at_ms=later_ms))
    assert withdrawn.used_at_ms == used.used_at_ms
    funded = observe(withdrawn, chain(301, claimed=300, block=4, read_at_ms=later_ms))
    assert funded.used_at_ms == later_ms
    behind = observe(funded, chain(900, claimed=300, block=5, read_at_ms=later_ms - 10))
    assert behind.used_at_ms == later_ms


def test_a_claim_above_what_we_remember_raises_what_was_charged() -> None:
    assert observe(channel(), chain(claimed=700, block=2)).charged == 700


def test_after_a_third_of_the_delay_the_chain_must_be_asked_again() -> None:
    fresh = channel()
    third_ms = fresh.config.withdraw_delay_seconds * 1000 // 3
    assert reserve(fresh, voucher(1), 1, "a", NOW_MS + third_ms - 1).held == 1
    with pytest.raises(NeedsChain):
        reserve(fresh, voucher(1), 1, "a", NOW_MS + third_ms)


def test_case_33_a_pending_withdrawal_is_served_until_its_margin_begins() -> None:
    requested_at = NOW - 299
    leaving = channel(withdraw_requested_at=requested_at, withdraw_amount=10_000)
    assert leaving.closing_at_ms() == (requested_at + 300) * 1000
    assert held(leaving, ("a", 1, 1)).held == 1
    assert refusal(leaving, 1, 1, NOW_MS + 1000) is Reason.CHANNEL_CLOSING


def test_a_channel_without_a_withdrawal_has_no_margin() -> None:
    assert channel().closing_at_ms() is None


# -- Refunds -------------------------------------------------------------------------------------


def charged_up_to(amount: int) -> Channel:
    return charge(held(channel(1000), ("a", amount, amount)), "a", amount)


@pytest.mark.parametrize(("asked", "set_aside"), [(None, 700), (1, 1), (700, 700)])
def test_a_refund_sets_its_amount_aside(asked: int | None, set_aside: int) -> None:
    leaving = check(begin_refund(charged_up_to(300), voucher(300), asked, "refund", NOW_MS))
    assert leaving.refunding is not None
    assert (leaving.refunding.amount, leaving.refunding.deadline_ms) == (
        set_aside,
        NOW_MS + REFUND_MS,
    )
    assert leaving.remaining == 700 - set_aside
    assert refusal(leaving, 1001 - set_aside, 1) is Reason.EXCEEDS_BALANCE


@pytest.mark.parametrize("asked", [0, 701, 10**30])
def test_case_38_more_than_is_left_is_not_refunded(asked: int) -> None:
    with pytest.raises(RefusedByChannel) as refused:
        begin_refund(charged_up_to(300), voucher(300), asked, "refund", NOW_MS)
    assert refused.value.reason is Reason.REFUND_AMOUNT


def test_case_38_nothing_left_is_nothing_to_refund() -> None:
    with pytest.raises(RefusedByChannel) as refused:
        begin_refund(charged_up_to(1000), voucher(1000), None, "refund", NOW_MS)
    assert refused.value.reason is Reason.REFUND_NOTHING_LEFT


def test_case_38_a_refund_waits_for_running_requests() -> None:
    with pytest.raises(RefusedByChannel) as refused:
        begin_refund(held(channel(), ("a", 100, 100)), voucher(0), None, "refund", NOW_MS)
    assert refused.value.reason is Reason.CHANNEL_BUSY


def test_case_38_a_second_refund_waits_for_the_first() -> None:
    leaving = begin_refund(charged_up_to(300), voucher(300), 100, "refund", NOW_MS)
    with pytest.raises(RefusedByChannel) as refused:
        begin_refund(leaving, voucher(300), 100, "second", NOW_MS + REFUND_MS - 1)
    assert refused.value.reason is Reason.CHANNEL_BUSY
    again = begin_refund(leaving, voucher(300), 200, "second", NOW_MS + REFUND_MS)
    assert again.remaining == 500


def overdue(amount: int = 100) -> Channel:
    """A refund was sent, its deadline has passed, and the chain, as read since, shows nothing."""
    leaving = begin_refund(charged_up_to(300), voucher(300), amount, "refund", NOW_MS)
    return observe(leaving, chain(1000, block=2, read_at_ms=NOW_MS + REFUND_MS + 1))


def test_case_38_a_refund_that_may_still_be_mined_is_never_given_free() -> None:
    late_ms = NOW_MS + REFUND_MS + 2000
    assert refusal(overdue(), 901, 1, late_ms) is Reason.EXCEEDS_BALANCE
    spent = reserve(overdue(), voucher(900), 600, "a", late_ms)
    assert (spent.committed, spent.remaining) == (900, 0)
    mined = observe(spent, chain(900, claimed=300, refund_nonce=1, block=3))
    assert mined.committed <= mined.balance


def test_case_38_a_refund_is_over_when_its_nonce_is_counted_whoever_sent_it() -> None:
    late_ms = NOW_MS + REFUND_MS
    after = chain(900, claimed=300, refund_nonce=1, block=3, read_at_ms=late_ms)
    mined = observe(overdue(), after)
    assert (mined.remaining, mined.refundable) == (600, 600)
    served = reserve(mined, voucher(900), 600, "a", late_ms)
    assert (served.refunding, served.remaining) == (None, 0)


def test_case_38_what_was_mined_is_remembered_for_copies_of_the_same_wish() -> None:
    leaving = begin_refund(charged_up_to(300), voucher(300), 100, "refund", NOW_MS)
    mined = observe(leaving, chain(900, claimed=300, refund_nonce=1, block=2))
    assert mined.remaining == 600
    with pytest.raises(RefusedByChannel) as refused:
        begin_refund(mined, voucher(300), 100, "copy", NOW_MS + REFUND_MS - 1)
    assert refused.value.reason is Reason.CHANNEL_BUSY
    anew = begin_refund(mined, voucher(300), 100, "another", NOW_MS + REFUND_MS)
    assert anew.refunding == Refunding(100, NOW_MS + 2 * REFUND_MS, "another")


@pytest.mark.parametrize(("asked", "set_aside"), [(1, 100), (100, 100), (200, 200), (None, 700)])
def test_case_38_a_refund_in_the_place_of_another_is_at_least_as_much(
    asked: int | None, set_aside: int
) -> None:
    """Both are signed under one nonce, and one of them will be mined."""
    again = begin_refund(overdue(), voucher(300), asked, "second", NOW_MS + REFUND_MS)
    assert again.refunding == Refunding(set_aside, NOW_MS + 2 * REFUND_MS, "+second")
    assert begin_refund(again, voucher(300), asked, "second", NOW_MS + REFUND_MS) is again
    assert end_refund(again, "+second", None) == again, "the first may have been sent"
    assert end_refund(again, "+second", chain(900, 300, refund_nonce=1, block=3)).refunding is None


@pytest.mark.parametrize("chain_says", [None, chain(900, 300, refund_nonce=1, block=3)])
def test_case_38_an_end_that_comes_late_does_not_end_the_next_refund(
    chain_says: ChainState | None,
) -> None:
    leaving = begin_refund(charged_up_to(300), voucher(300), 100, "second", NOW_MS)
    kept = end_refund(leaving, "first", chain_says)
    assert kept == (observe(leaving, chain_says) if chain_says else leaving)


def test_case_38_a_reading_without_its_nonce_ends_no_refund() -> None:
    leaving = begin_refund(charged_up_to(300), voucher(300), 100, "refund", NOW_MS)
    kept = end_refund(leaving, "refund", chain(1000, claimed=300, block=2))
    assert (kept.claimed, kept.refunding) == (300, leaving.refunding)


@pytest.mark.parametrize("asked", [100, 200, None])
def test_case_38_a_repeated_refund_is_the_same_refund(asked: int | None) -> None:
    leaving = begin_refund(charged_up_to(300), voucher(300), 100, "refund", NOW_MS)
    last_ms = NOW_MS + REFUND_MS - 1
    assert begin_refund(leaving, voucher(300), asked, "refund", last_ms) is leaving


@pytest.mark.parametrize("amount", [299, 301])
def test_a_refunds_voucher_promises_exactly_what_was_charged(amount: int) -> None:
    with pytest.raises(RefusedByChannel) as refused:
        begin_refund(charged_up_to(300), voucher(amount), None, "refund", NOW_MS)
    assert refused.value.reason is Reason.CUMULATIVE_MISMATCH


def test_a_mined_refund_leaves_what_the_chain_says() -> None:
    leaving = begin_refund(charged_up_to(300), voucher(300), None, "refund", NOW_MS)
    gone = end_refund(leaving, "refund", chain(300, claimed=300, refund_nonce=1, block=2))
    assert (gone.balance, gone.claimed, gone.remaining, gone.refunding) == (300, 300, 0, None)


def test_a_refund_that_is_given_up_gives_its_amount_back() -> None:
    leaving = begin_refund(charged_up_to(300), voucher(300), None, "refund", NOW_MS)
    kept = end_refund(leaving, "refund", None)
    assert (kept.balance, kept.remaining, kept.refunding) == (1000, 700, None)


def test_case_37_vouchers_from_before_a_refund_buy_nothing_after_a_new_deposit() -> None:
    ahead = release(held(charged_up_to(300), ("b", 900, 100)), "b")
    leaving = begin_refund(ahead, voucher(300), None, "refund", NOW_MS)
    assert (leaving.floor, leaving.voucher) == (900, voucher(300))
    gone = end_refund(leaving, "refund", chain(300, claimed=300, block=2))
    funded = observe(gone, chain(5000, claimed=300, block=3))
    for amount in (301, 400, 900):
        assert refusal(funded, amount, 1) is Reason.CUMULATIVE_MISMATCH
    assert held(funded, ("c", 901, 1)).held == 1


def test_case_37_a_dead_workers_voucher_from_before_a_refund_buys_nothing() -> None:
    ahead = release(held(charged_up_to(300), ("dead", 310, 10), ("b", 900, 100)), "b")
    later_ms = NOW_MS + HOLD_MS
    leaving = begin_refund(ahead, voucher(300), 50, "refund", later_ms)
    assert refusal(leaving, 310, 10, later_ms) is Reason.CUMULATIVE_MISMATCH
    assert (leaving.floor, highest_voucher(leaving)) == (900, voucher(900))
