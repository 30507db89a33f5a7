"""The rules of a channel, as statements; and payers who try everything else."""

from contextlib import suppress

import msgspec
import pytest
from helpers.channels import NOW_MS, chain, channel, voucher
from helpers.honest_payers import SerialPayer, WindowPayer
from helpers.machine_once import PaymentMachine
from helpers.moves import held, refusal
from hypothesis import given, settings
from hypothesis import strategies as st

from paywall.protocol.channel import (
    HOLD_MS,
    REFUND_MS,
    Channel,
    NeedsChain,
    RefusedByChannel,
    agreeable_total,
    begin_refund,
    charge,
    check,
    end_refund,
    highest_voucher,
    observe,
    release,
    renew,
    reserve,
)
from paywall.protocol.errors import HoldLost, Reason
from paywall.protocol.limits import MAX_HOLDS, REMEMBERED_CHARGES, WINDOW_VOUCHERS

LATER_MS = NOW_MS + HOLD_MS


# -- Admission -----------------------------------------------------------------------------------


def test_a_voucher_for_charged_plus_price_is_admitted_and_held() -> None:
    admitted = held(channel(), ("a", 100, 100))
    assert (admitted.charged, admitted.held, admitted.signed) == (0, 100, 100)
    assert admitted.voucher == voucher(100)
    assert admitted.holds["a"].deadline_ms == LATER_MS
    assert admitted.seen == (100,)
    assert admitted.remaining == 10_000 - 100


def test_many_requests_are_held_at_once() -> None:
    admitted = held(channel(), ("a", 100, 100), ("b", 200, 100), ("c", 300, 100))
    assert (admitted.held, admitted.signed, admitted.committed) == (300, 300, 300)


def test_vouchers_that_overtake_each_other_are_each_good_once() -> None:
    admitted = held(channel(), ("c", 300, 100), ("a", 100, 100), ("b", 200, 100))
    assert (admitted.held, admitted.signed, admitted.seen) == (300, 300, (100, 200, 300))
    assert admitted.voucher == voucher(300)
    for amount in (100, 200, 300):
        assert refusal(admitted, amount, 100) is Reason.CUMULATIVE_MISMATCH


def test_a_voucher_that_does_not_cover_what_is_charged_and_held_is_refused() -> None:
    admitted = held(channel(), ("a", 100, 100))
    assert refusal(admitted, 199, 100) is Reason.CUMULATIVE_MISMATCH
    assert refusal(charge(admitted, "a", 100), 199, 100) is Reason.CUMULATIVE_MISMATCH
    assert held(admitted, ("b", 200, 100)).held == 200


def test_case_28_a_replayed_voucher_buys_nothing() -> None:
    served = charge(held(channel(), ("a", 100, 100), ("b", 200, 100)), "b", 100)
    for amount in (100, 200):
        assert refusal(served, amount, 1) is Reason.CUMULATIVE_MISMATCH


def test_asking_again_for_the_same_request_gives_the_same_answer() -> None:
    admitted = held(channel(), ("a", 100, 100))
    assert reserve(admitted, voucher(100), 100, "a", NOW_MS + 5) is admitted


@pytest.mark.parametrize(("amount", "price"), [(100, 50), (200, 100)])
def test_a_request_id_belongs_to_one_payment(amount: int, price: int) -> None:
    admitted = held(channel(), ("a", 100, 100))
    with pytest.raises(RefusedByChannel) as refused:
        reserve(admitted, voucher(amount), price, "a", NOW_MS)
    assert refused.value.reason is Reason.PAYMENT_ID_REUSED


def test_case_32_a_voucher_above_the_confirmed_balance_is_refused() -> None:
    assert refusal(channel(1000), 1001, 100) is Reason.EXCEEDS_BALANCE
    assert held(channel(1000), ("a", 1000, 100)).signed == 1000


@pytest.mark.parametrize("amount", [499, 500])
def test_case_32_a_voucher_not_above_what_is_claimed_is_refused(amount: int) -> None:
    assert refusal(channel(claimed=500), amount, 1) is Reason.BELOW_CLAIMED


def test_only_so_many_requests_run_at_once() -> None:
    full = held(channel(), *((f"r{n}", n, 1) for n in range(1, MAX_HOLDS + 1)))
    assert refusal(full, MAX_HOLDS + 1, 1) is Reason.CHANNEL_BUSY
    assert held(charge(full, "r1", 1), ("next", MAX_HOLDS + 1, 1)).held == MAX_HOLDS


def test_a_promise_above_a_sunken_balance_buys_no_more_than_the_balance() -> None:
    promised = charge(held(channel(10_000), ("a", 9_000, 1_000)), "a", 1_000)
    sunken = observe(promised, chain(2_000, claimed=1_000, block=2))
    admitted = held(sunken, ("b", 1_500, 1_000))
    assert admitted.committed == admitted.balance == 2_000
    assert refusal(admitted, 1_600, 1) is Reason.EXCEEDS_BALANCE


# -- The window ----------------------------------------------------------------------------------


def served(amounts: list[int], start: Channel | None = None) -> Channel:
    """Each voucher bought one unit, under the name of its amount."""
    start = start or channel(10**9)
    for amount in amounts:
        start = charge(held(start, (f"r{amount}", amount, 1)), f"r{amount}", 1)
    return start


def test_what_falls_out_of_the_window_raises_its_floor() -> None:
    full = served([10 * n for n in range(1, WINDOW_VOUCHERS + 1)])
    assert (len(full.seen), full.floor) == (WINDOW_VOUCHERS, 0)
    more = served([10_000], full)
    assert (len(more.seen), more.floor, more.seen[0]) == (WINDOW_VOUCHERS, 10, 20)


def test_case_28_a_voucher_at_or_below_the_floor_is_never_fresh() -> None:
    full = served([1000 + 10 * n for n in range(WINDOW_VOUCHERS + 1)])
    assert full.floor == 1000
    for amount in (1, 999, 1000):
        assert refusal(full, amount, 1) is Reason.CUMULATIVE_MISMATCH
    assert held(full, ("late", 1001, 1)).floor == 1001


@settings(max_examples=200)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=400))
def test_in_any_order_no_amount_is_granted_twice(amounts: list[int]) -> None:
    start, granted = channel(10**9), list[int]()
    for amount in amounts:
        with suppress(RefusedByChannel):
            name = f"r{len(granted)}"
            start = charge(reserve(start, voucher(amount), 1, name, NOW_MS), name, 1)
            granted.append(amount)
        assert list(start.seen) == sorted(start.seen)
        assert all(start.floor < amount for amount in start.seen)
    assert len(granted) == len(set(granted)) == start.charged <= max(granted)


def test_when_nothing_promised_is_outstanding_the_window_is_empty() -> None:
    paid = charge(held(channel(), ("a", 100, 100), ("b", 150, 50)), "b", 50)
    assert (paid.seen, paid.floor) == ((100, 150), 0)
    paid = charge(paid, "a", 100)
    assert (paid.seen, paid.floor) == ((), 150)
    for amount in (1, 100, 149, 150):
        assert refusal(paid, amount, 1) is Reason.CUMULATIVE_MISMATCH
    assert held(paid, ("c", 151, 1)).seen == (151,)


def test_while_a_promise_is_outstanding_the_window_keeps_what_it_saw() -> None:
    ahead = charge(held(channel(), ("b", 200, 100)), "b", 100)
    assert (ahead.seen, ahead.floor) == ((200,), 0)
    cheap = charge(held(channel(), ("a", 100, 100)), "a", 99)
    assert (cheap.seen, cheap.floor) == ((100,), 0)


def one_behind(others: int) -> Channel:
    """One request runs; so many others, in front of it and behind it, were charged since."""
    names = [(f"r{n}", n, 1) for n in range(1, others + 2)]
    start = held(channel(10**9), names[0], names[1])
    for name in names[2:]:
        start = charge(held(start, name), name[0], 1)
    return charge(start, "r1", 1)


def test_while_requests_run_only_a_window_that_is_over_half_full_is_shortened() -> None:
    half = one_behind(WINDOW_VOUCHERS // 2 - 1)
    assert (len(half.seen), half.floor) == (WINDOW_VOUCHERS // 2, 0)
    over = one_behind(WINDOW_VOUCHERS // 2)
    assert (len(over.seen), over.floor) == (WINDOW_VOUCHERS // 2, 1)


def test_a_running_request_in_a_shortened_window_is_still_good_once() -> None:
    behind = one_behind(WINDOW_VOUCHERS)
    assert behind.floor == 1
    assert refusal(behind, 2, 1) is Reason.CUMULATIVE_MISMATCH
    released = release(behind, "r2")
    assert held(released, ("again", 2, 1)).holds["again"].amount == 2
    assert refusal(released, 1, 1) is Reason.CUMULATIVE_MISMATCH
    assert refusal(released, 3, 1) is Reason.CUMULATIVE_MISMATCH


# -- A payment that comes again after its worker died --------------------------------------------


def test_a_dead_workers_voucher_is_good_once_more_and_then_used() -> None:
    dead = held(channel(), ("dead", 100, 100))
    assert refusal(dead, 100, 100, LATER_MS - 1) is Reason.CUMULATIVE_MISMATCH
    again = check(reserve(dead, voucher(100), 100, "next", LATER_MS))
    assert (list(again.holds), again.committed, again.seen) == (["next"], 100, (100,))
    with pytest.raises(HoldLost):
        charge(again, "dead", 100)
    paid = charge(again, "next", 100)
    assert (paid.charged, paid.seen, paid.floor) == (100, (), 100)
    assert refusal(paid, 100, 100, LATER_MS) is Reason.CUMULATIVE_MISMATCH


@pytest.mark.parametrize(
    ("balance", "claimed", "amount", "price", "reason"),
    [
        (1000, 0, 1001, 1, Reason.EXCEEDS_BALANCE),
        (1000, 500, 500, 1, Reason.BELOW_CLAIMED),
        (1000, 500, 600, 101, Reason.CUMULATIVE_MISMATCH),
    ],
)
def test_a_fresh_voucher_must_be_covered(
    balance: int, claimed: int, amount: int, price: int, reason: Reason
) -> None:
    start = channel(balance, claimed=claimed)
    with pytest.raises(RefusedByChannel) as refused:
        reserve(start, voucher(amount), price, "again", NOW_MS)
    assert refused.value.reason is reason


# -- Charge, release, expiry ---------------------------------------------------------------------


def test_a_charge_moves_the_hold_into_what_was_charged() -> None:
    charged = charge(held(channel(), ("a", 100, 100), ("b", 200, 100)), "a", 100)
    assert (charged.charged, charged.held, list(charged.holds)) == (100, 100, ["b"])
    assert charged.unclaimed == 100


def test_a_smaller_charge_leaves_the_rest_of_the_promise_to_later_requests() -> None:
    cheap = charge(held(channel(), ("a", 100, 100)), "a", 30)
    assert (cheap.charged, cheap.signed) == (30, 100)
    assert held(cheap, ("b", 101, 70)).held == 70


def test_a_charge_of_nothing_is_a_release() -> None:
    admitted = held(channel(), ("a", 100, 100))
    free = charge(admitted, "a", 0)
    assert free == msgspec.structs.replace(release(admitted, "a"), done=("a",))


def test_a_release_makes_the_voucher_good_again() -> None:
    released = release(held(channel(), ("a", 100, 100)), "a")
    assert (released.held, released.seen, released.signed) == (0, (), 100)
    assert held(released, ("b", 100, 100)).held == 100


def test_case_39_a_metered_charge_above_the_price_is_our_own_mistake() -> None:
    with pytest.raises(AssertionError, match="never above its price"):
        charge(held(channel(), ("a", 500, 100)), "a", 101)


@pytest.mark.parametrize("ended", ["charged", "released"])
def test_what_has_ended_cannot_be_released_or_renewed(ended: str) -> None:
    admitted = held(channel(), ("a", 100, 100))
    done = charge(admitted, "a", 100) if ended == "charged" else release(admitted, "a")
    for late in (lambda: release(done, "a"), lambda: renew(done, "a", NOW_MS)):
        with pytest.raises(HoldLost):
            late()


def test_what_was_released_cannot_be_charged() -> None:
    with pytest.raises(HoldLost):
        charge(release(held(channel(), ("a", 100, 100)), "a"), "a", 100)


@pytest.mark.parametrize("first", [100, 60, 0])
@pytest.mark.parametrize("second", [100, 0])
def test_a_repeated_charge_changes_nothing(first: int, second: int) -> None:
    paid = charge(held(channel(), ("a", 100, 100), ("b", 200, 100)), "a", first)
    assert paid.charged == first
    assert charge(paid, "a", second) is paid


def test_only_the_last_charges_are_recognised_when_they_are_repeated() -> None:
    first = served([1])
    enough = served(list(range(2, REMEMBERED_CHARGES + 1)), first)
    assert charge(enough, "r1", 1) is enough
    many = check(served([REMEMBERED_CHARGES + 1], enough))
    assert charge(many, "r2", 1) is many
    with pytest.raises(HoldLost):
        charge(many, "r1", 1)


def test_a_charge_that_somebody_else_remembers_is_not_remembered_here() -> None:
    paid = charge(held(channel(), ("a", 100, 100)), "a", 100, remember=False)
    assert paid.done == ()
    with pytest.raises(HoldLost):
        charge(paid, "a", 100, remember=False)


def test_case_39_a_late_charge_after_its_hold_was_dropped_is_fenced() -> None:
    admitted = held(channel(), ("dead", 100, 100))
    swept = reserve(admitted, voucher(200), 100, "next", LATER_MS)
    assert list(swept.holds) == ["next"]
    with pytest.raises(HoldLost):
        charge(swept, "dead", 100)


def test_a_dead_workers_hold_blocks_nobody() -> None:
    admitted = held(channel(), ("dead", 100, 100))
    swept = reserve(admitted, voucher(101), 100, "next", LATER_MS)
    assert (swept.committed, swept.signed, swept.seen) == (100, 101, (101,))


def test_case_38_a_refund_that_nobody_confirmed_must_be_looked_for_on_chain() -> None:
    asked = begin_refund(channel(), voucher(0), 400, "refund", NOW_MS)
    late_ms = NOW_MS + REFUND_MS
    with pytest.raises(NeedsChain):
        reserve(asked, voucher(100), 100, "a", late_ms)
    read = observe(asked, msgspec.structs.replace(asked.chain, read_at_ms=late_ms))
    assert reserve(read, voucher(100), 100, "a", late_ms).held == 100


def test_a_payer_is_sent_to_a_total_from_which_it_can_go_on() -> None:
    metered = charge(held(channel(), ("a", 100, 100)), "a", 30)
    assert agreeable_total(metered, 100) == 30
    assert agreeable_total(metered, 70) == 100  # 30 + 70 was used for the metered request
    assert reserve(metered, voucher(170), 70, "b", NOW_MS).committed == 100


def test_after_a_refund_the_payers_highest_signature_is_still_its_proof() -> None:
    metered = charge(held(channel(), ("a", 100, 100)), "a", 30)
    refunded = end_refund(begin_refund(metered, voucher(30), 500, "refund", NOW_MS), "refund", None)
    assert (refunded.signed, refunded.floor) == (30, 100)
    assert highest_voucher(refunded) == voucher(100)
    assert agreeable_total(refunded, 10) == 100
    assert reserve(refunded, voucher(110), 10, "b", NOW_MS).committed == 40


def test_a_hold_lives_until_its_deadline_and_renewing_moves_that() -> None:
    admitted = held(channel(), ("a", 100, 100))
    assert reserve(admitted, voucher(200), 100, "b", LATER_MS - 1).held == 200
    renewed = renew(admitted, "a", NOW_MS + 20_000)
    assert renewed.holds["a"].deadline_ms == LATER_MS + 20_000
    assert reserve(renewed, voucher(200), 100, "b", LATER_MS).held == 200


# -- Everything at once --------------------------------------------------------------------------


def test_a_step_never_changes_the_value_it_began_with() -> None:
    before = held(channel(), ("a", 100, 100))
    copy = msgspec.convert(msgspec.to_builtins(before), Channel)
    charge(before, "a", 50)
    release(before, "a")
    reserve(before, voucher(200), 100, "b", LATER_MS)
    assert before == copy


def test_the_sentences_about_money_notice_a_mistake() -> None:
    sound = held(channel(), ("a", 100, 100))
    with pytest.raises(AssertionError, match="promised"):
        check(msgspec.structs.replace(sound, charged=1))
    with pytest.raises(AssertionError, match="claimed"):
        check(msgspec.structs.replace(sound, chain=chain(claimed=1)))


class TestTheRules(PaymentMachine.TestCase):  # type: ignore[misc]
    """Honest moves and cheats in any order."""

    settings = settings(max_examples=100, stateful_step_count=50, deadline=None)


class TestAWindowPayer(WindowPayer.TestCase):  # type: ignore[misc]
    """An honest payer with many requests in flight is never refused."""

    settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


class TestASerialPayer(SerialPayer.TestCase):  # type: ignore[misc]
    """An honest payer with one request at a time is never refused."""

    settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
