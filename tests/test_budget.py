"""Ceilings over time: never over by one unit, wherever a minute or a day begins."""

import pytest
from helpers.agent import (
    ASSET,
    MISMATCH,
    ORIGIN,
    PRICE,
    Clock,
    channel_of,
    choose,
    corrected,
    make_wallet,
    offer,
    quote,
    receipt_of,
)
from hypothesis import given
from hypothesis import strategies as st

from paywall.budget import DAY, MINUTE, Spending, Window, Wish, refuse_over_budget
from paywall.offers import Intent
from paywall.policy import Policy
from paywall.promises import Promise
from paywall.protocol.errors import OverBudget
from paywall.wallet import Wallet

POLICY = Policy(per_request=100, total=1_000, deposit=500)
spends = st.lists(st.tuples(st.floats(0, 20), st.integers(1, 50)), max_size=60)


def wish(price: int = 10, outlay: int = 0) -> Wish:
    return Wish(ORIGIN, ASSET, price, outlay, promised=price)


def refused(policy: Policy, spending: Spending, price: int, now: float) -> OverBudget | None:
    try:
        refuse_over_budget(policy, spending, 0, wish(price), now)
    except OverBudget as refusal:
        return refusal
    return None


@given(spends=spends, ceiling=st.integers(1, 200), window=st.sampled_from([MINUTE, DAY]))
def test_case_45_no_stretch_of_time_ever_holds_more_than_its_ceiling(
    spends: list[tuple[float, int]], ceiling: int, window: Window
) -> None:
    """Whatever is spent when: in any 60 seconds (or 24 hours) no more than was allowed."""
    name = "per_minute" if window is MINUTE else "per_day"
    policy = Policy(per_request=50, total=10**9, deposit=1, **{name: ceiling})
    length, now, spending = window.slot_seconds * window.count, 10.0**9, Spending()
    done: list[tuple[float, int]] = []
    for pause, price in spends:
        now += pause * length / 60
        refusal = refused(policy, spending, price, now)
        if refusal is not None:
            assert refusal.limit == name
            assert (refusal.renews_at is None) == (price > ceiling)
            if refusal.renews_at is not None:
                assert refused(policy, spending, price, refusal.renews_at) is None
            continue
        spending = spending.changed(price, 0, now, now)
        done.append((now, price))
    for start, _ in done:
        assert sum(price for at, price in done if start <= at <= start + length) <= ceiling


def test_what_is_given_back_goes_back_to_the_time_that_it_was_taken_from() -> None:
    now = 10.0**9
    spending = Spending().changed(30, 0, now, now).changed(40, 0, now + 30, now + 30)
    freed = spending.changed(-30, 0, now, now + 40)
    assert sum(amount for _, amount in freed.minute) == 40
    late = freed.changed(-10, 0, now - 4_000_000, now + 40)  # its time has passed already
    assert (late.minute, late.spent) == (freed.minute, 30)


def test_a_window_stays_small() -> None:
    spending, now = Spending(), 10.0**9
    for _ in range(2_000):
        now += 7
        spending = spending.changed(1, 0, now, now)
    assert len(spending.minute) <= MINUTE.count + 1
    assert len(spending.day) <= DAY.count + 1


def test_a_clock_that_is_set_back_frees_nothing() -> None:
    now = 10.0**9
    spending = Spending().changed(95, 0, now, now)
    policy = Policy(per_request=100, total=1_000, deposit=1, per_minute=100)
    with pytest.raises(OverBudget):
        refuse_over_budget(policy, spending, 0, wish(), now - 86_400 * 3)


@pytest.mark.parametrize(
    ("limits", "spending", "host", "limit", "left"),
    [
        ({"per_request": 9}, Spending(), 0, "per_request", 9),
        ({"per_host": 50}, Spending(), 41, "per_host", 9),
        ({}, Spending(spent=991, outlay=991), 0, "total", 9),
        ({}, Spending(spent=0, outlay=991), 0, "total", 9),
        ({"per_minute": 9}, Spending(), 0, "per_minute", 9),
        ({"per_day": 9}, Spending(), 0, "per_day", 9),
    ],
)
def test_a_refusal_says_which_limit_and_how_much_is_left(limits, spending, host, limit, left):
    settings = {"per_request": 100, "total": 1_000, "deposit": 500} | limits
    with pytest.raises(OverBudget, match=limit) as refusal:
        refuse_over_budget(Policy(**settings), spending, host, wish(10, 10), 10.0**9)
    assert (refusal.value.limit, refusal.value.left) == (limit, left)


# -- With books ----------------------------------------------------------------------------------


def want(wallet: Wallet, origin: str = ORIGIN) -> Intent:
    return choose(wallet, origin, quote(offer()))


def settled(wallet: Wallet, promise: Promise, charged: int = PRICE) -> None:
    receipt = receipt_of(charged, 2**100, channel_of(promise.intent))
    wallet.books.settle(promise, receipt)


def test_case_45_a_minute_a_day_and_a_host_are_held_to_the_unit():
    clock = Clock()
    wallet = make_wallet(clock=clock, per_minute="$0.003", per_day="$0.005", per_host="$0.004")

    def refused(origin: str = ORIGIN) -> str:
        with pytest.raises(OverBudget) as refusal:
            wallet.books.begin(want(wallet, origin))
        return refusal.value.limit

    for _ in range(3):
        settled(wallet, wallet.books.begin(want(wallet)))
    assert refused() == "per_minute"
    clock.now += 66
    settled(wallet, wallet.books.begin(want(wallet)))
    assert (refused(), wallet.spent()) == ("per_host", 4_000)
    other = "https://other.example:443"
    settled(wallet, wallet.books.begin(want(wallet, other)))
    clock.now += 66
    assert (refused(other), wallet.spent()) == ("per_day", 5_000)
    clock.now += 90_000
    wallet.books.begin(want(wallet, other))
    assert refused() == "per_host"
    wallet.close()


def test_what_was_not_taken_renews_the_minute_and_what_is_unknown_does_not():
    wallet = make_wallet(per_minute="$0.002")
    intent = choose(wallet, ORIGIN, quote(offer(window=None)))
    settled(wallet, wallet.books.begin(intent))
    wallet.books.release(wallet.books.begin(intent))
    settled(wallet, wallet.books.begin(intent), charged=400)
    with pytest.raises(OverBudget) as refusal:
        wallet.books.begin(intent)
    assert (refusal.value.limit, refusal.value.left) == ("per_minute", 600)
    wallet.close()
    wallet = make_wallet(per_minute="$0.001")
    wallet.books.keep(wallet.books.begin(want(wallet)))
    with pytest.raises(OverBudget):
        wallet.books.begin(want(wallet))
    wallet.close()


def test_when_a_minute_renews_is_when_it_does():
    clock = Clock()
    wallet = make_wallet(clock=clock, per_minute="$0.001")
    settled(wallet, wallet.books.begin(want(wallet)))
    with pytest.raises(OverBudget) as refusal:
        wallet.books.begin(want(wallet))
    assert refusal.value.renews_at is not None
    clock.now = refusal.value.renews_at - 0.001
    with pytest.raises(OverBudget):
        wallet.books.begin(want(wallet))
    clock.now = refusal.value.renews_at
    wallet.books.begin(want(wallet))
    wallet.close()


def test_case_45_an_old_count_that_is_corrected_gives_no_minute_back():
    """It was counted in a minute of its own; today's minute has real charges in it."""
    clock = Clock()
    wallet = make_wallet(clock=clock, per_minute="$0.004")
    intent = choose(wallet, ORIGIN, quote(offer(window=None)))
    settled(wallet, wallet.books.begin(intent))
    wallet.books.keep(wallet.books.begin(intent))  # lost, and in truth never charged
    clock.now += 50
    settled(wallet, wallet.books.begin(intent))
    wallet.books.release(wallet.books.begin(intent))
    told = corrected(channel_of(intent), 2 * PRICE, None, window=None)
    assert wallet.books.correct(intent, quote(told, error=MISMATCH))
    assert wallet.spent() == 2 * PRICE
    clock.now += 16  # the first two are past, the third is not
    for _ in range(3):
        settled(wallet, wallet.books.begin(intent))
    with pytest.raises(OverBudget) as refusal:
        wallet.books.begin(intent)
    assert (refusal.value.limit, refusal.value.left) == ("per_minute", 0)
    wallet.close()


def test_case_45_a_lower_total_gives_back_no_more_of_a_minute_than_its_own_payment_left():
    wallet = make_wallet(per_minute="$0.003")
    intent = want(wallet)
    for total in (PRICE, PRICE + 500):  # the second one was metered before, and lower
        receipt = receipt_of(PRICE, total, channel_of(intent))
        wallet.books.settle(wallet.books.begin(intent), receipt)
    assert wallet.spent() == PRICE + 500
    settled(wallet, wallet.books.begin(intent))
    with pytest.raises(OverBudget) as refusal:
        wallet.books.begin(intent)
    assert refusal.value.left == 0
    wallet.close()


@pytest.mark.parametrize("limit", ["per_host", "per_minute", "per_day"])
def test_case_45_who_refuses_and_keeps_the_vouchers_can_claim_no_more_than_the_ceiling(limit):
    """By its receivers it has many channels, and on each it says that it took nothing."""
    wallet = make_wallet(**{limit: "$0.003"})
    limits = set()
    for receiver in range(1, 9):
        told = quote(offer(window=None, payTo="0x" + f"{receiver:040x}"))
        for _ in range(3):
            try:
                wallet.books.release(wallet.books.begin(choose(wallet, ORIGIN, told)))
            except OverBudget as refusal:
                limits.add(refusal.limit)
    claimable = sum(account.signed for account in wallet.file.accounts())
    assert (claimable, limits, wallet.spent()) == (3_000, {limit}, 0)
    wallet.close()


def test_what_was_refused_is_free_for_the_same_channel():
    wallet = make_wallet(per_host="$0.001", per_minute="$0.001", per_day="$0.001")
    intent = choose(wallet, ORIGIN, quote(offer(window=None)))
    for _ in range(3):
        wallet.books.release(wallet.books.begin(intent))
    settled(wallet, wallet.books.begin(intent))
    assert (wallet.spent(), wallet.file.host_promised(ORIGIN)) == (PRICE, PRICE)
    wallet.close()


def test_what_never_left_is_free_for_everybody():
    wallet = make_wallet(per_host="$0.003", per_minute="$0.003", per_day="$0.003")
    settled(wallet, wallet.books.begin(want(wallet)))
    for _ in range(3):
        first, second = wallet.books.begin(want(wallet)), wallet.books.begin(want(wallet))
        wallet.books.unsent(second)
        wallet.books.unsent(first)
        assert wallet.file.host_promised(ORIGIN) == PRICE
    assert wallet.books.begin(want(wallet)).amount == 2 * PRICE
    wallet.close()
