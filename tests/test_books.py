"""The agent's books: what may be promised, what it has cost, and whose word counts for what."""

import random
from collections.abc import Callable, Iterator

import pytest
from helpers.agent import (
    DEPOSIT,
    EXCEEDS,
    MISMATCH,
    ORIGIN,
    PRICE,
    STRANGER,
    Clock,
    Json,
    channel_of,
    choose,
    corrected,
    make_wallet,
    offer,
    proof,
    quote,
    read_payment,
    receipt_of,
)
from msgspec.structs import replace

from paywall.deposits import DEPOSIT_WAIT_SECONDS
from paywall.offers import Intent
from paywall.promises import Promise
from paywall.protocol.errors import OverBudget, PaymentLost, PaymentRefused, ProviderMisbehaved
from paywall.turns import Wait
from paywall.wallet import Wallet
from paywall.walletrows import Account
from paywall.walletstate import FORGOTTEN_SECONDS

Make = Callable[..., Wallet]


@pytest.fixture
def make() -> Iterator[Make]:
    """Wallets that are closed in the end."""
    made: list[Wallet] = []

    def one(state: object = ":memory:", **settings: object) -> Wallet:
        made.append(make_wallet(state, **settings))
        return made[-1]

    yield one
    for wallet in made:
        wallet.close()


@pytest.fixture
def wallet(make: Make) -> Wallet:
    return make()


def want(wallet: Wallet, price: int = PRICE, origin: str = ORIGIN, **offered: object) -> Intent:
    return choose(wallet, origin, quote(offer(price, **offered)))


def account(wallet: Wallet, intent: Intent) -> Account:
    found = wallet.file.account(intent.channel_id)
    assert found is not None
    return found


def settle(wallet: Wallet, promise: Promise, charged: int | None = None, total: int = 0) -> int:
    """A receipt for a promise; `total` 0 leaves the total to be the books' own."""
    cost = promise.intent.price if charged is None else charged
    sum_ = total or account(wallet, promise.intent).charged + cost
    receipt = receipt_of(cost, sum_, channel_of(promise.intent))
    return wallet.books.settle(promise, receipt)


def pay(wallet: Wallet, intent: Intent, times: int = 1) -> Promise:
    for _ in range(times):
        promise = wallet.books.begin(intent)
        settle(wallet, promise)
    return promise


def correct(wallet: Wallet, refused: Promise, told: Json, error: str = MISMATCH) -> bool:
    """What a provider's correction comes to, after its refusal."""
    wallet.books.release(refused, goes_on=True)
    mended = wallet.books.correct(refused.intent, quote(told, error=error), refused)
    if not mended:
        wallet.books.given_up(refused)
    return mended


# -- Totals --------------------------------------------------------------------------------------


def test_a_serial_provider_is_promised_what_it_charged_plus_the_price(wallet):
    intent = want(wallet, window=None)
    amounts = []
    for _ in range(3):
        promise = wallet.books.begin(intent)
        amounts.append(promise.amount)
        settle(wallet, promise)
    assert amounts == [1_000, 2_000, 3_000]
    wallet.books.release(wallet.books.begin(intent))
    assert wallet.books.begin(intent).amount == 4_000


def test_a_window_provider_is_promised_all_that_is_in_flight(wallet):
    intent = want(wallet)
    settle(wallet, wallet.books.begin(intent))
    assert [wallet.books.begin(intent).amount for _ in range(4)] == [2_000, 3_000, 4_000, 5_000]


def test_a_window_provider_never_gets_the_same_total_twice(wallet):
    intent = want(wallet)
    pay(wallet, intent)
    seen = set()
    for _ in range(5):
        promise = wallet.books.begin(intent)
        seen.add(promise.amount)
        wallet.books.release(promise)
    assert seen == {2_000, 2_001, 2_002, 2_003, 2_004}


@pytest.mark.parametrize(("window", "most"), [(None, 1), (3, 3), (64, 64)])
def test_no_more_is_in_flight_than_the_provider_says(wallet, window, most):
    intent = want(wallet, window=window)
    pay(wallet, intent)
    flying = [wallet.books.begin(intent) for _ in range(most)]
    with pytest.raises(Wait) as wait:
        wallet.books.begin(intent)
    assert not wait.value.turn.done.done()
    settle(wallet, flying[0])
    assert wait.value.turn.done.done()
    wallet.books.begin(intent, wait.value.turn)


def test_those_who_wait_are_called_one_by_one_in_their_order(wallet):
    intent = want(wallet, window=None)
    pay(wallet, intent)
    flying = wallet.books.begin(intent)
    turns = []
    for _ in range(3):
        with pytest.raises(Wait) as wait:
            wallet.books.begin(intent)
        turns.append(wait.value.turn)
    wallet.books.release(flying)
    assert [turn.done.done() for turn in turns] == [True, False, False]
    wallet.books.leave(intent, turns[1])
    wallet.books.leave(intent, turns[0])
    assert [turn.done.done() for turn in turns] == [True, True, True]


def test_a_wait_that_is_over_keeps_its_place(wallet):
    intent = want(wallet, window=None)
    pay(wallet, intent)
    flying = wallet.books.begin(intent)
    with pytest.raises(Wait) as first:
        wallet.books.begin(intent)
    with pytest.raises(Wait) as second:
        wallet.books.begin(intent)
    with pytest.raises(Wait) as again:
        wallet.books.begin(intent, first.value.turn)
    assert again.value.turn.done is first.value.turn.done
    wallet.books.release(flying)
    assert first.value.turn.done.done()
    assert not second.value.turn.done.done()


# -- Budget --------------------------------------------------------------------------------------


def test_case_45_the_total_is_held_to_the_unit(make):
    wallet = make(total="$0.010001", deposit="$0.01")
    intent = want(wallet, window=None)
    pay(wallet, intent, 9)
    last = wallet.books.begin(intent)
    assert wallet.spent() == 10_000
    with pytest.raises(OverBudget):
        wallet.books.begin(want(wallet, origin="https://other.example:443"))
    wallet.books.release(last)
    pay(wallet, intent)
    with pytest.raises(OverBudget):
        wallet.books.begin(want(wallet, price=2, window=None))
    assert wallet.spent() == 10_000
    pay(wallet, want(wallet, price=1, window=None))
    assert wallet.spent() == 10_001


def test_case_45_deposits_are_held_to_the_unit(make):
    wallet = make(total="$1", deposit="$0.4")
    sizes = []
    for number in range(3):
        promise = wallet.books.begin(want(wallet, origin=f"https://{number}.example:443"))
        assert promise.deposit
        sizes.append(promise.deposit.amount)
    assert sizes == [400_000, 400_000, 200_000]
    with pytest.raises(OverBudget):
        wallet.books.begin(want(wallet, origin="https://3.example:443"))
    assert wallet.file.totals().outlay == 1_000_000


def test_what_is_in_flight_does_not_count_against_a_top_up_twice(make):
    wallet = make(total="$0.02", deposit="$0.01", top_up_percent=0)
    intent = want(wallet)
    pay(wallet, intent)
    flying = [wallet.books.begin(intent) for _ in range(9)]
    top_up = wallet.books.begin(intent)
    assert top_up.deposit
    assert top_up.deposit.amount == 10_000
    for promise in flying:
        settle(wallet, promise)


def test_a_channel_that_was_spent_frees_no_money_of_another(make):
    wallet = make(total="$1", deposit="$0.4")
    found = want(wallet, price=10_000)
    told = corrected(channel_of(found), 300_000, proof(channel_of(found), 300_000), 310_000)
    assert correct(wallet, wallet.books.begin(found), told, EXCEEDS)
    assert wallet.spent() == 300_000
    promise = wallet.books.begin(want(wallet, origin="https://b.example:443"))
    assert promise.deposit
    assert promise.deposit.amount == 300_000  # the first one's deposit may be mined some day
    with pytest.raises(OverBudget):
        wallet.books.begin(want(wallet, origin="https://c.example:443"))


@pytest.mark.parametrize("asked", [500_001, 10**9, 2**128 - 1])
def test_case_50_a_deposit_above_the_owners_is_refused(wallet, asked):
    with pytest.raises(OverBudget):
        wallet.books.begin(want(wallet, extra={"minDeposit": str(asked)}))
    assert wallet.spent() == wallet.file.totals().outlay == 0


def test_a_deposit_covers_what_the_provider_asks_at_least(wallet):
    promise = wallet.books.begin(want(wallet, extra={"minDeposit": "500000"}))
    assert promise.deposit
    assert promise.deposit.amount == 500_000


def test_a_price_above_the_usual_deposit_is_deposited_as_it_is(make):
    wallet = make(per_request="$0.02", deposit="$0.01")
    promise = wallet.books.begin(want(wallet, price=15_000))
    assert promise.deposit
    assert promise.deposit.amount == 15_000


def test_a_lowered_total_still_lets_a_full_channel_be_used(make, tmp_path):
    rich = make(tmp_path / "w.db")
    pay(rich, want(rich))
    poor = make(tmp_path / "w.db", total="$0.003")
    pay(poor, want(poor), 2)
    with pytest.raises(OverBudget):
        poor.books.begin(want(poor))
    assert poor.spent() == 3_000


# -- Endings -------------------------------------------------------------------------------------


def test_a_released_payment_is_free_again_and_stays_signed(wallet):
    intent = want(wallet)
    pay(wallet, intent)
    wallet.books.release(wallet.books.begin(intent))
    assert wallet.spent() == 1_000
    assert account(wallet, intent).signed == 2_000


def test_a_kept_payment_counts_as_spent(wallet):
    intent = want(wallet)
    pay(wallet, intent)
    wallet.books.keep(wallet.books.begin(intent))
    assert wallet.spent() == 2_000
    assert wallet.books.begin(intent).amount == 3_000


def test_a_payment_ends_once(wallet):
    intent = want(wallet)
    promise = pay(wallet, intent)
    settle(wallet, promise)
    wallet.books.keep(promise)
    wallet.books.release(promise)
    assert wallet.spent() == 1_000
    assert account(wallet, intent).deposited == DEPOSIT


def test_less_than_the_price_may_be_charged(wallet):
    intent = want(wallet)
    assert settle(wallet, wallet.books.begin(intent), charged=250) == 250
    assert wallet.spent() == 250


def test_a_metered_answers_lower_total_is_adopted_when_nobody_else_was_in_flight(wallet):
    intent = want(wallet)
    pay(wallet, intent)
    settle(wallet, wallet.books.begin(intent), total=1_300)
    assert wallet.spent() == 1_300


def test_a_lower_total_says_nothing_when_others_are_in_flight(wallet):
    intent = want(wallet)
    pay(wallet, intent)
    first, second = wallet.books.begin(intent), wallet.books.begin(intent)
    settle(wallet, second, total=1_300)
    settle(wallet, first, total=1_300)
    assert wallet.spent() == 3_000


def test_a_higher_total_than_ours_is_not_adopted_from_a_receipt(wallet):
    intent = want(wallet)
    settle(wallet, wallet.books.begin(intent), total=400_000)
    assert wallet.spent() == 1_000


def test_case_51_an_overcharge_stops_the_provider_and_keeps_the_evidence(wallet):
    intent = want(wallet)
    promise = wallet.books.begin(intent)
    with pytest.raises(ProviderMisbehaved):
        settle(wallet, promise, charged=1_001)
    assert wallet.spent() == 1_000
    stopped = account(wallet, intent).stopped
    assert stopped
    assert '"chargedAmount": "1001"' in stopped
    with pytest.raises(ProviderMisbehaved) as again:
        wallet.books.begin(intent)
    assert "chargedAmount" not in str(again.value)
    pay(wallet, want(wallet, origin="https://honest.example:443"))


def test_a_receipt_that_cannot_be_read_counts_as_spent(wallet):
    intent = want(wallet)
    promise = wallet.books.begin(intent)
    broken = receipt_of(-5, 1_000, channel_of(intent))
    with pytest.raises(PaymentRefused):
        wallet.books.settle(promise, broken)
    assert wallet.spent() == 1_000


# -- Crashes -------------------------------------------------------------------------------------


def test_case_52_a_payment_of_a_dead_process_counts_as_spent_after_a_while(make, tmp_path):
    clock = Clock()
    dead = make(tmp_path / "w.db", clock=clock)
    intent = want(dead, window=None)
    dead.books.begin(intent)
    alive = make(tmp_path / "w.db", clock=clock)
    assert alive.spent() == 1_000
    with pytest.raises(Wait):
        alive.books.begin(intent)
    clock.now += FORGOTTEN_SECONDS + 1
    promise = alive.books.begin(intent)
    assert (promise.amount, alive.spent()) == (2_000, 2_000)


def test_a_late_receipt_of_a_forgotten_payment_is_not_counted_again(wallet):
    intent = want(wallet)
    late = wallet.books.begin(intent)
    wallet.clock.now += FORGOTTEN_SECONDS + 1
    pay(wallet, intent)
    settle(wallet, late)
    assert wallet.spent() == 2_000


def test_case_52_two_wallets_on_one_file_share_one_budget_and_sign_no_total_twice(make, tmp_path):
    one, two = make(tmp_path / "w.db", total="$0.01"), make(tmp_path / "w.db", total="$0.01")
    intent = want(one)
    pay(one, intent)
    amounts = [each.books.begin(intent).amount for each in (one, two) * 4]
    assert amounts == [n * 1_000 for n in range(2, 10)]
    two.books.begin(intent)
    for each in (one, two):
        with pytest.raises(OverBudget):
            each.books.begin(intent)
        assert each.spent() == 10_000


# -- Deposits ------------------------------------------------------------------------------------


def sent_deposit(wallet: Wallet, promise: Promise) -> tuple[int, bytes, str]:
    sent = read_payment(wallet.sign(promise))
    return sent.deposit, sent.deposit_key, sent.deposit_signature


def test_others_wait_while_a_deposit_is_on_its_way(wallet):
    intent = want(wallet)
    first = wallet.books.begin(intent)
    turns = []
    for _ in range(3):
        with pytest.raises(Wait) as wait:
            wallet.books.begin(intent)
        turns.append(wait.value.turn)
    settle(wallet, first)
    assert all(turn.done.done() for turn in turns)
    assert wallet.books.begin(intent).deposit is None


def test_a_deposit_is_sent_again_as_it_was_until_it_expires(wallet):
    intent = want(wallet)
    first = wallet.books.begin(intent)
    wallet.books.release(first)
    wallet.clock.now += 200
    second = wallet.books.begin(intent)
    assert sent_deposit(wallet, second) == sent_deposit(wallet, first)
    assert wallet.file.totals().outlay == DEPOSIT


def test_a_deposit_that_nobody_confirmed_is_supposed_to_be_mined_when_it_expires(wallet):
    intent = want(wallet)
    wallet.books.keep(wallet.books.begin(intent))
    wallet.clock.now += 301
    promise = pay(wallet, intent)
    assert (promise.deposit, promise.amount) == (None, 2_000)
    after = account(wallet, intent)
    assert (after.deposit, after.deposited, after.balance) == (None, DEPOSIT, DEPOSIT)


def test_a_deposit_is_never_made_twice_whatever_the_provider_says(wallet):
    """Each new signature is for the same authorization: the token takes one of them at most."""
    intent, keys = want(wallet), set()
    for _ in range(20):
        promise = wallet.books.begin(intent)
        if promise.deposit:
            keys.add(sent_deposit(wallet, promise)[1])
        wallet.books.release(promise)
        wallet.books.lost_channel(intent)
        wallet.clock.now += 301
    assert len(keys) == 1
    assert wallet.file.totals().outlay == DEPOSIT


def test_a_deposit_whose_money_has_come_and_gone_is_followed_by_another(wallet):
    """Its answer was lost; signed again under its own salt it would be refused for ever."""
    intent = want(wallet)
    wallet.books.keep(wallet.books.begin(intent))
    again = wallet.books.begin(intent)
    wallet.books.release(again)
    wallet.books.lost_channel(intent, again)
    assert wallet.file.totals().outlay == DEPOSIT  # perhaps the provider lies: it counts
    another = wallet.books.begin(intent)
    assert sent_deposit(wallet, another)[1] != sent_deposit(wallet, again)[1]
    assert wallet.file.totals().outlay == 2 * DEPOSIT


def test_a_deposit_that_would_have_done_and_did_not_is_followed_by_another(wallet):
    intent = want(wallet)
    wallet.books.keep(wallet.books.begin(intent))
    again = wallet.books.begin(intent)
    told = corrected(channel_of(intent), 0, None, again.amount - 1)
    assert correct(wallet, again, told, EXCEEDS)
    after = account(wallet, intent)
    assert (after.deposit, after.deposited, after.balance) == (None, DEPOSIT, again.amount - 1)
    assert sent_deposit(wallet, wallet.books.begin(intent))[1] != sent_deposit(wallet, again)[1]


def test_a_deposit_that_could_not_have_done_is_enlarged(make):
    """It may be good still, so what comes next is the same authorization."""
    wallet = make(deposit="$0.2", per_deposit="$1")
    intent = want(wallet)
    pay(wallet, intent)
    with wallet.file.change():
        wallet.file.put(replace(account(wallet, intent), signed=900_000, balance=900_000))
    small = wallet.books.begin(intent)
    assert (small.amount, sent_deposit(wallet, small)[0]) == (900_001, 200_000)
    assert correct(wallet, small, corrected(channel_of(intent), 0, None, 200_000), EXCEEDS)
    bigger = wallet.books.begin(intent)
    assert sent_deposit(wallet, bigger)[:2] == (700_002, sent_deposit(wallet, small)[1])
    assert wallet.file.totals().outlay == 200_000 + 700_002


def test_a_deposit_that_has_become_too_small_is_enlarged_not_added_to(make, tmp_path):
    modest = make(tmp_path / "w.db", deposit="$0.2")
    small = modest.books.begin(want(modest))
    modest.books.release(small)
    generous = make(tmp_path / "w.db", deposit="$0.4")
    bigger = generous.books.begin(want(generous, extra={"minDeposit": "300000"}))
    assert sent_deposit(generous, bigger)[:2] == (400_000, sent_deposit(modest, small)[1])
    assert generous.file.totals().outlay == 400_000


def test_hostile_providers_get_no_more_than_the_total_together(make):
    """Each takes a deposit to the chain, and says of it what pays best."""
    wallet = make(total="$1", deposit="$0.3")
    mined: dict[bytes, int] = {}
    dice = random.Random(7)
    for _ in range(300):
        intent = want(wallet, origin=f"https://{dice.randrange(5)}.example:443")
        try:
            promise = wallet.books.begin(intent)
        except (OverBudget, Wait):
            wallet.clock.now += dice.choice((1, 130, 400, 700))
            continue
        if promise.deposit:
            amount, key, _ = sent_deposit(wallet, promise)
            mined[key] = max(amount, mined.get(key, 0))
        ending = dice.choice((wallet.books.release, wallet.books.keep, lambda p: settle(wallet, p)))
        ending(promise)
        if dice.random() < 0.5:
            wallet.books.lost_channel(intent, dice.choice((None, promise)))
        wallet.clock.now += dice.choice((0, 1, 200, 400))
        assert sum(mined.values()) <= 1_000_000
        assert wallet.spent() <= wallet.file.totals().outlay <= 1_000_000


def test_a_deposit_that_never_left_locks_nothing_up(wallet):
    intent = want(wallet)
    wallet.books.unsent(wallet.books.begin(intent))
    assert wallet.file.totals().outlay == wallet.spent() == 0


def test_a_deposit_that_has_left_once_stays_counted(wallet):
    intent = want(wallet)
    wallet.books.release(wallet.books.begin(intent))
    wallet.books.unsent(wallet.books.begin(intent))
    assert wallet.file.totals().outlay == DEPOSIT


def test_two_payments_with_one_deposit_fill_the_channel_once(wallet):
    intent = want(wallet)
    first = wallet.books.begin(intent)
    wallet.clock.now += DEPOSIT_WAIT_SECONDS + 1
    second = wallet.books.begin(intent)
    assert second.deposit == first.deposit
    settle(wallet, second)
    settle(wallet, first)
    assert account(wallet, intent).balance == account(wallet, intent).deposited == DEPOSIT


def test_a_clock_that_was_set_back_does_not_make_others_wait_for_ever(wallet):
    intent = want(wallet)
    wallet.books.begin(intent)
    wallet.clock.now -= 7_200
    assert wallet.books.begin(intent).deposit


# -- Corrections ---------------------------------------------------------------------------------


def test_case_52_a_lost_file_is_mended_by_our_own_signature(wallet):
    refused = wallet.books.begin(want(wallet))
    channel = channel_of(refused.intent)
    assert correct(wallet, refused, corrected(channel, 40_000, proof(channel, 41_000)))
    mended = account(wallet, refused.intent)
    assert (mended.charged, mended.signed, mended.balance) == (40_000, 41_000, DEPOSIT)
    assert wallet.books.begin(refused.intent).amount == 41_001


@pytest.mark.parametrize("window", [None, 64])
def test_case_46_a_total_is_adopted_only_on_our_own_signature(wallet, window):
    intent = want(wallet, window=window)
    channel = channel_of(intent)
    other = channel_of(want(wallet, origin="https://other.example:443"))
    stolen = proof(other, 40_000)
    forged: list[Json | None] = [
        None,
        proof(channel, 40_000, STRANGER),
        proof(channel, 39_999),
        stolen,
        stolen | {"signedMaxClaimable": "40000"},
        proof(channel, 40_000) | {"signedMaxClaimable": "40001"},
        proof(channel, 40_000) | {"signature": "0x" + "00" * 65},
        proof(channel, 40_000) | {"signature": "0x"},
        proof(channel, 40_000) | {"signedMaxClaimable": "-1"},
    ]
    for bad in forged:
        told = corrected(channel, 40_000, bad, window=window)
        assert not correct(wallet, wallet.books.begin(intent), told)
    told = corrected(other, 40_000, stolen, window=window)
    assert not correct(wallet, wallet.books.begin(intent), told)
    assert wallet.spent() == 0


@pytest.mark.parametrize("window", [None, 64])
def test_case_46_the_refused_payment_itself_proves_nothing(wallet, window):
    """Otherwise a provider would get two prices for one answer, each time."""
    intent = want(wallet, window=window)
    pay(wallet, intent, 3)
    refused = wallet.books.begin(intent)
    channel = channel_of(intent)
    told = corrected(channel, refused.amount, proof(channel, refused.amount), window=window)
    assert not correct(wallet, refused, told)
    assert wallet.spent() == 3_000


def test_case_46_a_copy_that_comes_too_late_for_the_window_is_paid_anew_at_its_price(wallet):
    """Its worker died, many others were served meanwhile; the total that is named counts it."""
    intent = want(wallet)
    pay(wallet, intent)
    late = wallet.books.begin(intent)
    pay(wallet, intent, 5)
    flying = wallet.books.begin(intent)
    channel, signed = channel_of(intent), account(wallet, intent).signed
    told = corrected(channel, signed, proof(channel, signed))
    assert correct(wallet, late, told)
    assert wallet.spent() == 7_000, "six that were served, and one in flight"
    anew = wallet.books.begin(intent)
    assert anew.amount == signed + 1
    settle(wallet, flying)
    settle(wallet, anew)
    assert wallet.spent() == 8_000


def test_case_46_what_counts_as_spent_already_is_not_paid_anew(wallet):
    """Its answer took so long that it was counted as forgotten, and then it is a refusal."""
    intent = want(wallet)
    slow = wallet.books.begin(intent)
    wallet.clock.now += 601
    pay(wallet, intent)
    assert wallet.spent() == 2_000
    with pytest.raises(PaymentLost):
        wallet.books.release(slow, goes_on=True)
    wallet.books.release(slow)
    assert wallet.spent() == 2_000


def test_case_46_nor_do_payments_that_are_in_flight_beside_it(wallet):
    intent = want(wallet)
    pay(wallet, intent)
    first, second, third = (wallet.books.begin(intent) for _ in range(3))
    channel = channel_of(intent)
    told = corrected(channel, third.amount, proof(channel, third.amount))
    assert correct(wallet, second, told)
    assert wallet.spent() == 3_000
    settle(wallet, first)
    settle(wallet, third)
    assert wallet.spent() == 3_000


def test_a_stream_that_runs_while_others_end_is_counted_when_it_ends(wallet):
    """Its head told of the ceiling, the next receipt does not count it, and a correction does."""
    intent = want(wallet)
    pay(wallet, intent)
    stream = wallet.books.begin(intent)
    settle(wallet, stream, total=2_000)
    settle(wallet, wallet.books.begin(intent), total=2_000)
    assert wallet.spent() == 2_000
    channel, signed = channel_of(intent), account(wallet, intent).signed
    assert correct(
        wallet, wallet.books.begin(intent), corrected(channel, 3_000, proof(channel, signed))
    )
    assert wallet.spent() == 3_000
    told = corrected(channel, 9_000, proof(channel, signed))
    assert not correct(wallet, wallet.books.begin(intent), told)


def test_a_refusal_that_is_older_than_a_receipt_counts_what_the_receipt_says_too(wallet):
    """It was on its way while another payment was charged, and its total does not count that."""
    intent = want(wallet)
    pay(wallet, intent)
    wallet.books.release(wallet.books.begin(intent))
    refused = wallet.books.begin(intent)
    settle(wallet, wallet.books.begin(intent), total=3_000)
    channel, signed = channel_of(intent), account(wallet, intent).signed
    assert correct(wallet, refused, corrected(channel, 2_000, proof(channel, signed)))
    assert wallet.spent() == 3_000, "the one of before, the one that is doubtful, and the newest"


def test_a_total_may_count_nothing_of_what_is_in_flight(wallet):
    """Who takes it for counted signs too little, and is refused again and again."""
    intent = want(wallet)
    pay(wallet, intent)
    stream = wallet.books.begin(intent)
    settle(wallet, stream, total=2_000)
    settle(wallet, wallet.books.begin(intent), total=2_000)
    flying = wallet.books.begin(intent)
    refused = wallet.books.begin(intent)
    channel, signed = channel_of(intent), account(wallet, intent).signed
    assert correct(wallet, refused, corrected(channel, 3_000, proof(channel, signed)))
    assert wallet.spent() == 4_000
    assert wallet.books.begin(intent).amount == 5_000
    settle(wallet, flying)
    assert wallet.spent() == 5_000


def test_what_is_explained_needs_no_proof_up_to_what_our_books_have_signed(wallet):
    """A store that failed over has lost the proof, and the chain told it what was claimed."""
    intent = want(wallet)
    pay(wallet, intent)
    for _ in range(3):
        wallet.books.release(wallet.books.begin(intent))
    channel, signed = channel_of(intent), account(wallet, intent).signed
    told = corrected(channel, signed + 100, proof(channel, 1_000))
    assert not correct(wallet, wallet.books.begin(intent), told), "so much was not signed"
    told = corrected(channel, 2_000, proof(channel, 1_000))
    assert correct(wallet, wallet.books.begin(intent), told)
    assert wallet.spent() == 2_000


def test_a_voucher_that_bought_nothing_may_be_used_up_by_whoever_has_a_copy(wallet):
    """Its provider holds it for new again, and so a total that counts it is explained."""
    intent = want(wallet)
    pay(wallet, intent)
    settle(wallet, wallet.books.begin(intent), charged=0)
    refused = wallet.books.begin(intent)
    channel = channel_of(intent)
    assert correct(wallet, refused, corrected(channel, 2_000, proof(channel, 2_000)))
    assert wallet.spent() == 2_000


def test_case_46_a_liar_gains_the_prices_of_what_it_refused_once(wallet):
    """Whatever it names, it is given no more; and what was given is not given again."""
    intent = want(wallet)
    pay(wallet, intent)
    held = [wallet.books.begin(intent) for _ in range(8)]
    for promise in held[:4]:
        wallet.books.release(promise)
    channel = channel_of(intent)
    for _ in range(20):
        refused = wallet.books.begin(intent)
        signed = account(wallet, intent).signed
        for total in (signed, signed - 1, 9_000):
            told = corrected(channel, total, proof(channel, signed))
            wallet.books.correct(intent, quote(told, error=MISMATCH), refused)
        wallet.books.unsent(refused)
    assert wallet.spent() <= 1_000 + 4_000 + 4_000


@pytest.mark.parametrize("window", [None, 64])
def test_a_payment_that_was_released_and_charged_after_all_is_adopted(wallet, window):
    intent = want(wallet, window=window)
    pay(wallet, intent)
    wallet.books.release(wallet.books.begin(intent))
    refused = wallet.books.begin(intent)
    channel = channel_of(intent)
    told = corrected(channel, 2_000, proof(channel, 2_000), window=window)
    assert correct(wallet, refused, told)
    assert wallet.spent() == 2_000
    pay(wallet, intent)
    assert wallet.spent() == 3_000


def test_a_copy_of_a_refused_payment_that_comes_late_is_adopted_after_a_correction_too(wallet):
    """Its channel is corrected for another cause, and only then the copy is served and charged."""
    intent = want(wallet)
    pay(wallet, intent)
    for _ in range(3):
        wallet.books.release(wallet.books.begin(intent))
    channel, signed = channel_of(intent), account(wallet, intent).signed
    told = corrected(channel, 1_000, proof(channel, signed), 1_000)
    assert correct(wallet, wallet.books.begin(intent), told, EXCEEDS)
    late = corrected(channel, 2_000, proof(channel, signed))
    assert correct(wallet, wallet.books.begin(intent), late)
    assert wallet.spent() == 2_000
    never_signed = corrected(channel, 9_000, proof(channel, signed))
    assert not correct(wallet, wallet.books.begin(intent), never_signed)


def test_a_store_that_loses_its_count_twice_is_paid_on(wallet):
    """First it asks for less than was charged, then for what our own signature shows."""
    intent = want(wallet)
    pay(wallet, intent, 5)
    channel, signed = channel_of(intent), account(wallet, intent).signed
    assert correct(
        wallet, wallet.books.begin(intent), corrected(channel, 1_000, None, 1_000), EXCEEDS
    )
    assert wallet.spent() == 1_000
    told = corrected(channel, signed, proof(channel, signed))
    assert correct(wallet, wallet.books.begin(intent), told)
    assert wallet.spent() == 5_000
    told = corrected(channel, 9_000, proof(channel, signed))
    assert not correct(wallet, wallet.books.begin(intent), told)


def test_a_total_that_our_books_know_needs_no_proof(wallet):
    intent = want(wallet)
    pay(wallet, intent, 5)
    refused = wallet.books.begin(intent)
    assert correct(wallet, refused, corrected(channel_of(intent), 5_000, None, 5_000), EXCEEDS)
    assert (wallet.spent(), account(wallet, intent).balance) == (5_000, 5_000)
    assert wallet.books.begin(intent).deposit


def test_a_lower_balance_is_believed_although_the_total_is_not_proven(wallet):
    """The answer to a refund was lost: without this no payment would ever fit the channel again."""
    intent = want(wallet)
    pay(wallet, intent, 5)
    refused = wallet.books.begin(intent)
    told = corrected(channel_of(intent), 9_000, None, 5_000)
    assert not correct(wallet, refused, told, MISMATCH)
    assert account(wallet, intent).balance == DEPOSIT
    assert correct(wallet, wallet.books.begin(intent), told, EXCEEDS)
    assert (wallet.spent(), account(wallet, intent).balance) == (5_000, 5_000)
    assert wallet.books.begin(intent).deposit


def test_case_45_a_correction_counts_no_deposit_twice(wallet):
    """The answer that would have confirmed it was lost; its money is what was charged."""
    intent = want(wallet)
    wallet.books.keep(wallet.books.begin(intent))
    wallet.clock.now += 301
    refused = wallet.books.begin(intent)  # supposes that it was mined
    assert correct(wallet, refused, corrected(channel_of(intent), 1_000, None, DEPOSIT))
    assert wallet.file.totals().outlay == DEPOSIT


def test_a_correction_leaves_room_for_what_is_in_flight(wallet):
    intent = want(wallet)
    pay(wallet, intent)
    wallet.books.release(wallet.books.begin(intent))
    flying = wallet.books.begin(intent)
    refused = wallet.books.begin(intent)
    channel = channel_of(intent)
    assert correct(wallet, refused, corrected(channel, 3_000, proof(channel, 3_000)))
    assert account(wallet, intent).charged == 2_000
    settle(wallet, flying)
    assert wallet.spent() == 3_000


def test_case_46_a_doubt_is_resolved_once(wallet):
    intent = want(wallet, window=None)
    pay(wallet, intent)
    wallet.books.release(wallet.books.begin(intent))
    channel = channel_of(intent)
    for total, adopted in ((2_000, True), (3_000, False), (3_000, True), (4_000, False)):
        refused = wallet.books.begin(intent)
        told = corrected(channel, total, proof(channel, refused.amount), window=None)
        assert correct(wallet, refused, told) == adopted
        assert wallet.spent() <= 3_000


@pytest.mark.parametrize("balance", ["-1", "1e9", str(2**128), "", "0x10"])
def test_a_correction_with_a_broken_balance_is_none(wallet, balance):
    refused = wallet.books.begin(want(wallet))
    told = corrected(channel_of(refused.intent), 0, None)
    told["extra"]["channelState"]["balance"] = balance
    assert not correct(wallet, refused, told)


def test_a_refund_frees_no_more_than_was_locked_up(wallet):
    intent = want(wallet)
    pay(wallet, intent, 2)
    wallet.books.refunded(intent, 10**12)
    assert wallet.file.totals().outlay == wallet.spent() == 2_000
