"""One suite for every store: each verb, each reason, and races.

A new store is one more entry of `helpers.stores.STORES`.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from helpers.channels import (
    CHANNEL_ID,
    CONFIG,
    NETWORK,
    NOW,
    chain,
    config,
    voucher,
)
from helpers.stores import STORES, Time

from paywall.protocol.channel import (
    HOLD_MS,
    Channel,
    NeedsChain,
    RefusedByChannel,
    Standing,
)
from paywall.protocol.errors import ConfigurationError, HoldLost, Reason, Refused
from paywall.protocol.limits import (
    ANSWER_SECONDS,
    HOLD_SECONDS,
    MAX_HOLDS,
    REFUND_HOLD_SECONDS,
    REMEMBERED_CHARGES,
)
from paywall.protocol.once import AnsweredBefore, RefusedBefore, Ticket
from paywall.stores import Store, open_store

TICKET = Ticket("payment-00000001", b"\x01" * 32)


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path, time: Time) -> AsyncIterator[Store]:
    store = STORES[request.param](tmp_path, time)
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def opened(store: Store) -> Store:
    """A store with one channel of 10,000 units."""
    await store.record(CHANNEL_ID, NETWORK, CONFIG, chain(10_000), 0)
    return store


async def reason_of(store: Store, amount: int, price: int, request: str = "refused") -> Reason:
    with pytest.raises(RefusedByChannel) as refused:
        await store.reserve(CHANNEL_ID, voucher(amount), price, request)
    assert refused.value.channel.channel_id == CHANNEL_ID
    return refused.value.reason


async def record_of(store: Store, channel_id: bytes = CHANNEL_ID) -> Channel:
    record = await store.channel(channel_id)
    assert record is not None
    return record


# -- The verbs -----------------------------------------------------------------------------------


async def test_an_unknown_channel_is_none_and_asks_for_the_chain(store: Store) -> None:
    assert await store.channel(CHANNEL_ID) is None
    for verb in (
        store.reserve(CHANNEL_ID, voucher(1), 1, "a"),
        store.reserve(CHANNEL_ID, voucher(1), 1, "a", TICKET),
        store.begin_refund(CHANNEL_ID, voucher(0), None, "refund"),
        store.end_refund(CHANNEL_ID, "refund", None),
    ):
        with pytest.raises(NeedsChain):
            await verb
    for ticket in (None, TICKET):
        with pytest.raises(HoldLost):
            await store.charge(CHANNEL_ID, "a", 1, ticket)
        await store.release(CHANNEL_ID, "a", ticket)
    await store.renew([(CHANNEL_ID, "a")])
    await store.look_up(CHANNEL_ID, TICKET)
    assert await store.channel(CHANNEL_ID) is None


async def test_an_unknown_channel_is_opened_with_its_evidence(store: Store) -> None:
    opened = await store.record(CHANNEL_ID, NETWORK, CONFIG, chain(10_000, 50), 300)
    assert (opened.config, opened.balance, opened.claimed) == (CONFIG, 10_000, 50)
    assert (opened.charged, opened.floor) == (300, 300)
    assert await record_of(store) == opened


async def test_case_41_what_a_signature_restored_is_claimed_by_it(store: Store) -> None:
    """Whatever becomes of the request that it came with."""
    opened = await store.record(CHANNEL_ID, NETWORK, CONFIG, chain(10_000, 50), 300, voucher(400))
    assert (opened.charged, opened.voucher, opened.floor) == (300, voucher(400), 300)
    assert await store.claimable() == [opened] == [await record_of(store)]
    assert await reason_of(store, 10_001, 1) is Reason.EXCEEDS_BALANCE
    assert await store.claimable() == [opened]
    await store.reserve(CHANNEL_ID, voucher(400), 100, "a")
    charged = await store.charge(CHANNEL_ID, "a", 100)
    assert charged.charged == 400


async def test_case_41_a_payer_is_shown_its_signature_where_all_is_claimed(store: Store) -> None:
    """Without it the payer would not take over a total that its own books have too low."""
    proof = voucher(400)
    opened = await store.record(CHANNEL_ID, NETWORK, CONFIG, chain(10_000, 300), 250, proof)
    assert (opened.charged, opened.claimed, opened.voucher) == (300, 300, proof)
    assert await record_of(store) == opened
    assert await store.claimable() == []


@pytest.mark.parametrize(("claimed", "evidence"), [(0, 0), (500, 300)])
async def test_a_signature_that_restores_nothing_is_not_kept(
    store: Store, claimed: int, evidence: int
) -> None:
    proof = voucher(400)
    opened = await store.record(
        CHANNEL_ID, NETWORK, CONFIG, chain(10_000, claimed), evidence, proof
    )
    assert (opened.charged, opened.voucher) == (claimed, None)
    assert await record_of(store) == opened
    assert await store.claimable() == []


async def test_a_known_channel_takes_over_the_chain_and_no_evidence(opened: Store) -> None:
    newer = await opened.record(CHANNEL_ID, NETWORK, CONFIG, chain(20_000, block=2), 5000)
    assert (newer.balance, newer.charged) == (20_000, 0)
    older = await opened.record(CHANNEL_ID, NETWORK, CONFIG, chain(1, block=1), 0)
    assert older == newer == await record_of(opened)


async def test_case_38_a_deposit_is_a_use_of_its_channel(opened: Store) -> None:
    used_at_ms = []
    for block, balance in enumerate((20_000, 20_000, 9_000, 9_001), start=2):
        state = chain(balance, block=block, read_at_ms=1000 * block)
        seen = await opened.record(CHANNEL_ID, NETWORK, CONFIG, state, 0)
        assert await record_of(opened) == seen
        used_at_ms.append(seen.used_at_ms)
    assert used_at_ms == [2000, 2000, 2000, 5000]


async def test_what_reserve_returns_is_what_is_kept(opened: Store) -> None:
    standing = await opened.reserve(CHANNEL_ID, voucher(100), 100, "a")
    held = await record_of(opened)
    assert standing == held.standing == Standing(chain(10_000), 0, 100)
    assert (held.voucher, held.held, held.used_at_ms) == (voucher(100), 100, NOW * 1000)
    assert held.holds["a"].deadline_ms == NOW * 1000 + HOLD_MS


async def test_a_repeated_reserve_gives_the_same_answer(opened: Store, time: Time) -> None:
    held = await opened.reserve(CHANNEL_ID, voucher(100), 100, "a")
    time.seconds += 5
    assert await opened.reserve(CHANNEL_ID, voucher(100), 100, "a") == held
    assert await reason_of(opened, 200, 100, "a") is Reason.PAYMENT_ID_REUSED


async def test_a_charge_happens_once(opened: Store) -> None:
    await opened.reserve(CHANNEL_ID, voucher(100), 100, "a")
    charged = await opened.charge(CHANNEL_ID, "a", 60)
    assert charged == Standing(chain(10_000), 60, 0)
    record = await record_of(opened)
    for amount in (60, 100, 0):
        assert await opened.charge(CHANNEL_ID, "a", amount) == charged
    await opened.release(CHANNEL_ID, "a")
    assert await record_of(opened) == record
    assert (record.standing, record.holds) == (charged, {})


async def test_a_charge_of_nothing_may_be_repeated_too(opened: Store) -> None:
    for ticket in (None, TICKET):
        await opened.reserve(CHANNEL_ID, voucher(100), 100, f"a{ticket}", ticket)
        for _ in range(2):
            free = await opened.charge(CHANNEL_ID, f"a{ticket}", 0, ticket, b"an answer")
            assert (free.charged, free.held) == (0, 0)


async def test_only_so_many_charges_are_remembered(opened: Store) -> None:
    for number in range(1, REMEMBERED_CHARGES + 2):
        await opened.reserve(CHANNEL_ID, voucher(number), 1, f"r{number}")
        await opened.charge(CHANNEL_ID, f"r{number}", 1)
    assert (await opened.charge(CHANNEL_ID, "r2", 1)).charged == REMEMBERED_CHARGES + 1
    with pytest.raises(HoldLost):
        await opened.charge(CHANNEL_ID, "r1", 1)


async def test_a_request_that_is_let_in_again_is_charged_again(opened: Store) -> None:
    """What was charged under its name before is another charge; a third try changes nothing."""
    for total in (1, 2):
        await opened.reserve(CHANNEL_ID, voucher(total), 1, "r")
        assert (await opened.charge(CHANNEL_ID, "r", 1)).charged == total
    assert (await opened.charge(CHANNEL_ID, "r", 1)).charged == 2
    assert (await record_of(opened)).holds == {}


async def test_when_nothing_promised_is_outstanding_the_window_is_empty(opened: Store) -> None:
    for number in range(1, 4):
        await opened.reserve(CHANNEL_ID, voucher(10 * number), 10, f"r{number}")
    for number in range(1, 3):
        await opened.charge(CHANNEL_ID, f"r{number}", 10)
    assert (await record_of(opened)).seen == (10, 20, 30)
    await opened.charge(CHANNEL_ID, "r3", 10)
    record = await record_of(opened)
    assert (record.seen, record.floor) == ((), 30)
    for amount in (1, 10, 30):
        assert await reason_of(opened, amount, 1) is Reason.CUMULATIVE_MISMATCH


async def test_a_release_may_be_repeated_and_frees_the_voucher(opened: Store) -> None:
    await opened.reserve(CHANNEL_ID, voucher(100), 100, "a")
    await opened.release(CHANNEL_ID, "a")
    await opened.release(CHANNEL_ID, "a")
    with pytest.raises(HoldLost):
        await opened.charge(CHANNEL_ID, "a", 100)
    assert (await opened.reserve(CHANNEL_ID, voucher(100), 100, "b")).held == 100


async def test_renewing_keeps_what_is_there_and_passes_over_the_rest(
    opened: Store, time: Time
) -> None:
    await opened.reserve(CHANNEL_ID, voucher(100), 100, "a")
    await opened.reserve(CHANNEL_ID, voucher(200), 100, "b")
    time.seconds += 40
    gone = config(9).channel_id(NETWORK)
    await opened.renew([(CHANNEL_ID, "a"), (CHANNEL_ID, "gone"), (gone, "a")])
    time.seconds += 30
    held = await opened.reserve(CHANNEL_ID, voucher(300), 100, "c")
    assert held.held == 200
    assert sorted((await record_of(opened)).holds) == ["a", "c"]


async def test_case_39_a_late_charge_is_fenced(opened: Store, time: Time) -> None:
    await opened.reserve(CHANNEL_ID, voucher(100), 100, "late")
    time.seconds += HOLD_MS / 1000
    await opened.reserve(CHANNEL_ID, voucher(200), 100, "next")
    with pytest.raises(HoldLost):
        await opened.charge(CHANNEL_ID, "late", 100)
    assert (await record_of(opened)).committed == 100


async def test_case_28_a_replayed_voucher_buys_nothing(opened: Store) -> None:
    await opened.reserve(CHANNEL_ID, voucher(100), 50, "a")
    assert await reason_of(opened, 100, 50) is Reason.CUMULATIVE_MISMATCH
    await opened.charge(CHANNEL_ID, "a", 50)
    assert await reason_of(opened, 100, 50) is Reason.CUMULATIVE_MISMATCH


@pytest.mark.parametrize(
    ("amount", "price", "reason"),
    [
        (10_001, 1, Reason.EXCEEDS_BALANCE),
        (500, 1, Reason.BELOW_CLAIMED),
        (600, 101, Reason.CUMULATIVE_MISMATCH),
    ],
)
async def test_case_32_an_unfit_voucher_is_refused_and_changes_nothing(
    store: Store, amount: int, price: int, reason: Reason
) -> None:
    before = await store.record(CHANNEL_ID, NETWORK, CONFIG, chain(10_000, 500), 0)
    assert await reason_of(store, amount, price) is reason
    assert await record_of(store) == before


async def test_too_many_requests_at_once_are_refused(opened: Store) -> None:
    for number in range(1, MAX_HOLDS + 1):
        await opened.reserve(CHANNEL_ID, voucher(number), 1, f"r{number}")
    assert await reason_of(opened, MAX_HOLDS + 1, 1) is Reason.CHANNEL_BUSY


async def test_case_33_inside_the_margin_of_a_withdrawal_nothing_is_admitted(store: Store) -> None:
    leaving = chain(10_000, withdraw_amount=10_000, withdraw_requested_at=NOW - 600)
    await store.record(CHANNEL_ID, NETWORK, CONFIG, leaving, 0)
    assert await reason_of(store, 1, 1) is Reason.CHANNEL_CLOSING


async def test_a_reading_of_the_chain_grows_old(opened: Store, time: Time) -> None:
    time.seconds += CONFIG.withdraw_delay_seconds / 3
    with pytest.raises(NeedsChain):
        await opened.reserve(CHANNEL_ID, voucher(1), 1, "a")


async def test_case_38_a_refund_is_set_aside_once_and_ended(opened: Store) -> None:
    await opened.reserve(CHANNEL_ID, voucher(100), 100, "a")
    await opened.charge(CHANNEL_ID, "a", 100)
    leaving = await opened.begin_refund(CHANNEL_ID, voucher(100), None, "refund")
    assert leaving.remaining == 0
    assert await opened.begin_refund(CHANNEL_ID, voucher(100), None, "refund") == leaving
    with pytest.raises(RefusedByChannel) as refused:
        await opened.begin_refund(CHANNEL_ID, voucher(100), None, "second")
    assert refused.value.reason is Reason.CHANNEL_BUSY
    assert await reason_of(opened, 200, 100) is Reason.EXCEEDS_BALANCE
    ended = await opened.end_refund(CHANNEL_ID, "refund", chain(100, 100, refund_nonce=1, block=2))
    assert (ended.balance, ended.claimed, ended.refunding) == (100, 100, None)
    assert await opened.end_refund(CHANNEL_ID, "refund", None) == ended == await record_of(opened)


async def test_case_38_a_refund_that_may_still_be_mined_stays_set_aside(
    opened: Store, time: Time
) -> None:
    leaving = await opened.begin_refund(CHANNEL_ID, voucher(0), 6_000, "refund")
    kept = await opened.end_refund(CHANNEL_ID, "refund", chain(10_000, block=2))
    assert kept.refunding == leaving.refunding
    time.seconds += REFUND_HOLD_SECONDS
    with pytest.raises(NeedsChain):
        await opened.reserve(CHANNEL_ID, voucher(1), 1, "a")
    unmined = chain(10_000, block=3, read_at_ms=int(time.seconds * 1000))
    await opened.record(CHANNEL_ID, NETWORK, CONFIG, unmined, 0)
    assert await reason_of(opened, 4_001, 1) is Reason.EXCEEDS_BALANCE
    assert (await opened.reserve(CHANNEL_ID, voucher(4_000), 1_000, "b")).held == 1_000
    await opened.charge(CHANNEL_ID, "b", 1_000)
    assert (await record_of(opened)).refunding == leaving.refunding
    mined = chain(4_000, refund_nonce=1, block=4, read_at_ms=int(time.seconds * 1000))
    seen = await opened.record(CHANNEL_ID, NETWORK, CONFIG, mined, 0)
    assert seen == await record_of(opened)
    assert seen.remaining == 3_000
    await opened.reserve(CHANNEL_ID, voucher(3_999), 2_999, "c")
    assert (await record_of(opened)).refunding is None


async def test_case_38_the_end_of_a_refund_that_is_told_twice_does_not_end_the_next(
    opened: Store,
) -> None:
    """A verb whose answer was lost is sent again, and another refund may be under way by then."""
    await opened.begin_refund(CHANNEL_ID, voucher(0), 6_000, "first")
    await opened.end_refund(CHANNEL_ID, "first", None)
    leaving = await opened.begin_refund(CHANNEL_ID, voucher(0), 7_000, "second")
    assert await opened.end_refund(CHANNEL_ID, "first", None) == leaving
    assert await reason_of(opened, 3_001, 1) is Reason.EXCEEDS_BALANCE
    mined = chain(3_000, refund_nonce=1, block=2)
    told = await opened.end_refund(CHANNEL_ID, "first", mined)
    assert (told.chain, told.remaining) == (mined, 3_000)
    assert told.refunding, "its own request will end it"
    ended = await opened.end_refund(CHANNEL_ID, "second", mined)
    assert ended.refunding is None
    assert await record_of(opened) == ended


async def test_case_38_a_refund_in_the_place_of_another_keeps_what_either_may_take(
    opened: Store, time: Time
) -> None:
    await opened.begin_refund(CHANNEL_ID, voucher(0), 6_000, "refund")
    time.seconds += REFUND_HOLD_SECONDS
    again = await opened.begin_refund(CHANNEL_ID, voucher(0), 1_000, "second")
    assert again.refunding is not None
    assert (again.refunding.amount, again.refunding.request) == (6_000, "+second")
    assert await opened.begin_refund(CHANNEL_ID, voucher(0), 1_000, "second") == again
    assert await opened.end_refund(CHANNEL_ID, "+second", None) == again == await record_of(opened)
    time.seconds += REFUND_HOLD_SECONDS
    more = await opened.begin_refund(CHANNEL_ID, voucher(0), None, "third")
    assert (more.remaining, more.refundable) == (0, 10_000)
    mined = chain(4_000, refund_nonce=1, block=2)
    ended = await opened.end_refund(CHANNEL_ID, "+third", mined)
    assert (ended.refunding, ended.remaining) == (None, 4_000)


async def test_case_43_a_refund_by_the_providers_wish_leaves_a_record_that_is_read(
    opened: Store,
) -> None:
    leaving = await opened.begin_refund(CHANNEL_ID, None, None, "idle")
    assert (leaving.voucher, leaving.charged, leaving.remaining) == (None, 0, 0)
    assert await record_of(opened) == leaving
    await opened.end_refund(CHANNEL_ID, "idle", None)
    await opened.reserve(CHANNEL_ID, voucher(100), 100, "a")
    await opened.charge(CHANNEL_ID, "a", 100)
    leaving = await opened.begin_refund(CHANNEL_ID, None, None, "idle-again")
    assert (leaving.voucher, leaving.remaining) == (voucher(100), 0)
    assert await record_of(opened) == leaving
    await opened.end_refund(CHANNEL_ID, "idle-again", None)
    await opened.reserve(CHANNEL_ID, voucher(200), 100, "b")
    await opened.charge(CHANNEL_ID, "b", 50)
    with pytest.raises(RefusedByChannel, match="total"):
        await opened.begin_refund(CHANNEL_ID, None, None, "promised-more")


async def test_case_38_nothing_goes_back_of_what_is_owed_without_a_signature(store: Store) -> None:
    await store.record(CHANNEL_ID, NETWORK, CONFIG, chain(10_000, 50), 300)
    with pytest.raises(RefusedByChannel, match="total"):
        await store.begin_refund(CHANNEL_ID, None, None, "idle")


@pytest.mark.parametrize("amount", [2**53 + 1, 2**64, 2**127 + 3, 2**128 - 1])
async def test_amounts_are_exact_up_to_uint128(store: Store, amount: int) -> None:
    await store.record(CHANNEL_ID, NETWORK, CONFIG, chain(2**128 - 1), 0)
    await store.reserve(CHANNEL_ID, voucher(1), 1, "small")
    await store.reserve(CHANNEL_ID, voucher(amount), amount - 1, "large")
    charged = await store.charge(CHANNEL_ID, "large", amount - 1)
    record = await record_of(store)
    assert charged == record.standing == Standing(chain(2**128 - 1), amount - 1, 1)
    assert (record.committed, record.seen, record.signed) == (amount, (1, amount), amount)
    assert await store.claimable() == [record]


@pytest.mark.parametrize("amount", [2**53 + 1, 2**64, 2**127 + 3, 2**128 - 1])
async def test_totals_of_answers_are_exact_up_to_uint128(store: Store, amount: int) -> None:
    await store.record(CHANNEL_ID, NETWORK, CONFIG, chain(2**128 - 1), 0)
    await store.reserve(CHANNEL_ID, voucher(amount), amount, "a", TICKET)
    await store.charge(CHANNEL_ID, "a", amount, TICKET, b"an answer")
    assert await answered_before(store) == (b"an answer", amount)


# -- Exactly once --------------------------------------------------------------------------------


async def answered_before(store: Store) -> tuple[bytes, int]:
    """What the payment is answered when it comes again, however it is asked."""
    with pytest.raises(AnsweredBefore) as asked:
        await store.look_up(CHANNEL_ID, TICKET)
    with pytest.raises(AnsweredBefore) as sent:
        await pay(store, "second")
    assert (sent.value.answer, sent.value.total) == (asked.value.answer, asked.value.total)
    return sent.value.answer, sent.value.total


async def refused_as(store: Store, ticket: Ticket) -> Reason:
    """Why the payment is refused when it comes again, however it is asked."""
    with pytest.raises(Refused) as asked:
        await store.look_up(CHANNEL_ID, ticket)
    with pytest.raises(Refused) as sent:
        await pay(store, "second", ticket)
    assert sent.value.reason is asked.value.reason
    return sent.value.reason


async def pay(store: Store, request: str, ticket: Ticket = TICKET) -> Standing:
    return await store.reserve(CHANNEL_ID, voucher(100), 100, request, ticket)


async def test_while_a_payment_runs_a_second_one_is_told_to_wait(opened: Store) -> None:
    assert (await pay(opened, "a")).held == 100
    assert await refused_as(opened, TICKET) is Reason.PAYMENT_IN_PROGRESS
    assert (await pay(opened, "a")).held == 100


async def test_case_28_a_payment_that_was_refused_stays_refused(opened: Store) -> None:
    await opened.refuse(CHANNEL_ID, TICKET)
    await opened.refuse(CHANNEL_ID, Ticket("payment-00000002", b"\x01" * 32))
    with pytest.raises(RefusedBefore):
        await opened.look_up(CHANNEL_ID, TICKET)
    with pytest.raises(RefusedBefore):
        await pay(opened, "a")
    assert (await record_of(opened)).holds == {}


async def test_what_takes_the_place_of_a_refused_payment_may_have_its_id(opened: Store) -> None:
    await opened.refuse(CHANNEL_ID, TICKET)
    corrected = Ticket(TICKET.payment_id, b"\x02" * 32)
    assert (await pay(opened, "a", corrected)).held == 100
    assert await refused_as(opened, corrected) is Reason.PAYMENT_IN_PROGRESS
    assert await refused_as(opened, TICKET) is Reason.PAYMENT_ID_REUSED


async def test_a_refusal_that_comes_too_late_says_what_was_decided(opened: Store) -> None:
    """A copy of the payment was faster; its payer must not pay in its place."""
    await pay(opened, "a")
    with pytest.raises(Refused) as refused:
        await opened.refuse(CHANNEL_ID, TICKET)
    assert refused.value.reason is Reason.PAYMENT_IN_PROGRESS
    await opened.charge(CHANNEL_ID, "a", 100, TICKET, b"an answer")
    with pytest.raises(AnsweredBefore) as answered:
        await opened.refuse(CHANNEL_ID, TICKET)
    assert (answered.value.answer, answered.value.total) == (b"an answer", 100)


async def test_a_payment_that_was_charged_gets_its_answer_again(opened: Store) -> None:
    await opened.reserve(CHANNEL_ID, voucher(50), 50, "before")
    await opened.charge(CHANNEL_ID, "before", 50)
    await opened.reserve(CHANNEL_ID, voucher(150), 100, "a", TICKET)
    charged = await opened.charge(CHANNEL_ID, "a", 70, TICKET, b"an \x00 answer\xff")
    before = await record_of(opened)
    assert await answered_before(opened) == (b"an \x00 answer\xff", charged.charged)
    await opened.reserve(CHANNEL_ID, voucher(250), 100, "later")
    await opened.charge(CHANNEL_ID, "later", 100)
    assert await answered_before(opened) == (b"an \x00 answer\xff", 120)
    assert (before.charged, before.holds) == (120, {})


async def test_a_payment_whose_answer_was_not_kept_is_refused(opened: Store) -> None:
    await pay(opened, "a")
    await opened.charge(CHANNEL_ID, "a", 100, TICKET)
    assert await refused_as(opened, TICKET) is Reason.ANSWER_NOT_KEPT


async def test_a_repeated_charge_of_a_payment_changes_nothing(opened: Store) -> None:
    await pay(opened, "a")
    charged = await opened.charge(CHANNEL_ID, "a", 60, TICKET, b"first")
    before = await record_of(opened)
    assert await opened.charge(CHANNEL_ID, "a", 60, TICKET, b"second") == charged
    assert await record_of(opened) == before
    assert await answered_before(opened) == (b"first", 60)


async def test_an_id_belongs_to_one_payload_while_it_runs_and_afterwards(opened: Store) -> None:
    other = Ticket(TICKET.payment_id, b"\x02" * 32)
    await pay(opened, "a")
    assert await refused_as(opened, other) is Reason.PAYMENT_ID_REUSED
    await opened.charge(CHANNEL_ID, "a", 100, TICKET, b"an answer")
    assert await refused_as(opened, other) is Reason.PAYMENT_ID_REUSED


@pytest.mark.parametrize("free", [True, False])
async def test_a_payment_that_was_released_is_new(opened: Store, free: bool) -> None:
    await pay(opened, "a")
    if free:
        await opened.charge(CHANNEL_ID, "a", 0, TICKET, b"an answer")
    else:
        await opened.release(CHANNEL_ID, "a", TICKET)
    await opened.look_up(CHANNEL_ID, TICKET)
    assert (await pay(opened, "b", Ticket(TICKET.payment_id, b"\x02" * 32))).held == 100


@pytest.mark.parametrize("free", [True, False])
async def test_a_late_repetition_does_not_end_the_payment_that_came_after(
    opened: Store, free: bool
) -> None:
    async def end() -> None:
        if free:
            await opened.charge(CHANNEL_ID, "a", 0, TICKET)
        else:
            await opened.release(CHANNEL_ID, "a", TICKET)

    await pay(opened, "a")
    await end()
    await pay(opened, "b")
    await end()
    assert await refused_as(opened, TICKET) is Reason.PAYMENT_IN_PROGRESS
    assert (await opened.charge(CHANNEL_ID, "b", 100, TICKET, b"an answer")).charged == 100


async def test_after_its_worker_died_the_same_payment_is_let_in_once_more(
    opened: Store, time: Time
) -> None:
    await pay(opened, "dead")
    time.seconds += HOLD_MS / 1000
    await opened.look_up(CHANNEL_ID, TICKET)
    assert (await pay(opened, "again")).held == 100
    with pytest.raises(HoldLost):
        await opened.charge(CHANNEL_ID, "dead", 100, TICKET, b"the late worker's")
    await opened.release(CHANNEL_ID, "dead", TICKET)
    assert await refused_as(opened, TICKET) is Reason.PAYMENT_IN_PROGRESS
    await opened.charge(CHANNEL_ID, "again", 100, TICKET, b"an answer")
    with pytest.raises(HoldLost):
        await opened.charge(CHANNEL_ID, "dead", 100, TICKET, b"the late worker's")
    assert await answered_before(opened) == (b"an answer", 100)
    assert (await record_of(opened)).charged == 100


@pytest.mark.parametrize("others", [0, 1])
async def test_case_28_what_was_refused_after_its_worker_stood_still_is_not_charged_by_it(
    opened: Store, time: Time, others: int
) -> None:
    """Its payer may have paid in its place."""
    if others:
        await opened.reserve(CHANNEL_ID, voucher(50), 50, "other")
    await opened.reserve(CHANNEL_ID, voucher(150), 100, "slow", TICKET)
    time.seconds += HOLD_MS / 1000
    await opened.renew([(CHANNEL_ID, "other")] * others)
    await opened.refuse(CHANNEL_ID, TICKET)
    assert (await record_of(opened)).held == 50 * others
    await opened.renew([(CHANNEL_ID, "slow")])
    with pytest.raises(HoldLost):
        await opened.charge(CHANNEL_ID, "slow", 100, TICKET, b"the slow worker's")
    await opened.release(CHANNEL_ID, "slow", TICKET)
    with pytest.raises(RefusedBefore):
        await opened.look_up(CHANNEL_ID, TICKET)
    assert (await record_of(opened)).charged == 0


async def test_a_payment_that_was_let_in_again_and_released_is_as_new(
    opened: Store, time: Time
) -> None:
    await pay(opened, "dead")
    time.seconds += HOLD_MS / 1000
    await pay(opened, "again")
    await opened.release(CHANNEL_ID, "again", TICKET)
    await opened.look_up(CHANNEL_ID, TICKET)
    assert (await pay(opened, "third")).held == 100


async def test_a_payment_that_is_refused_leaves_its_id_free(opened: Store) -> None:
    with pytest.raises(RefusedByChannel):
        await opened.reserve(CHANNEL_ID, voucher(99), 100, "a", TICKET)
    await opened.look_up(CHANNEL_ID, TICKET)
    assert (await pay(opened, "b")).held == 100


async def test_a_renewed_request_is_still_running(opened: Store, time: Time) -> None:
    await pay(opened, "a")
    time.seconds += HOLD_SECONDS - 1
    await opened.renew([(CHANNEL_ID, "a")])
    time.seconds += HOLD_SECONDS - 1
    assert await refused_as(opened, TICKET) is Reason.PAYMENT_IN_PROGRESS


async def test_an_answer_is_kept_for_its_time_and_its_voucher_stays_used(
    opened: Store, time: Time
) -> None:
    await pay(opened, "a")
    await opened.charge(CHANNEL_ID, "a", 60, TICKET, b"an answer")
    time.seconds += ANSWER_SECONDS - 1
    assert await answered_before(opened) == (b"an answer", 60)
    time.seconds += 1
    await opened.record(CHANNEL_ID, NETWORK, CONFIG, chain(10_000, read_at_ms=time.ms()), 0)
    await opened.look_up(CHANNEL_ID, TICKET)
    with pytest.raises(RefusedByChannel) as refused:
        await pay(opened, "again")
    assert refused.value.reason is Reason.CUMULATIVE_MISMATCH


async def test_case_42_ids_are_apart_on_every_channel(store: Store) -> None:
    ids = await fill(store, {1: 0, 2: 0})
    for number, answer in ((1, b"one"), (2, b"two")):
        ticket = Ticket(TICKET.payment_id, bytes([number]) * 32)
        await store.reserve(ids[number], voucher(5), 5, "a", ticket)
        await store.charge(ids[number], "a", 5, ticket, answer)
        with pytest.raises(AnsweredBefore) as before:
            await store.look_up(ids[number], ticket)
        assert before.value.answer == answer


async def test_case_17_one_payment_sent_many_times_at_once_runs_once(opened: Store) -> None:
    outcomes = await asyncio.gather(
        *(pay(opened, f"r{number}") for number in range(64)), return_exceptions=True
    )
    refused = [outcome for outcome in outcomes if isinstance(outcome, Refused)]
    assert len(refused) == 63
    assert {error.reason for error in refused} == {Reason.PAYMENT_IN_PROGRESS}
    assert (await record_of(opened)).held == 100


async def test_case_27_a_dead_workers_payment_sent_many_times_at_once_runs_once(
    opened: Store, time: Time
) -> None:
    await pay(opened, "dead")
    time.seconds += HOLD_SECONDS
    outcomes = await asyncio.gather(
        *(pay(opened, f"r{number}") for number in range(20)), return_exceptions=True
    )
    assert sum(isinstance(outcome, Standing) for outcome in outcomes) == 1
    assert (await record_of(opened)).held == 100


# -- What is spent once -------------------------------------------------------------------------


async def test_case_17_what_is_spent_belongs_to_the_first_who_asks(store: Store) -> None:
    assert await store.spend(b"nonce", "a", 1000)
    assert await store.spend(b"nonce", "a", 1000), "asking again is no second claim"
    assert not await store.spend(b"nonce", "b", 1000)
    assert await store.spend(b"another", "b", 1000)


async def test_case_26_what_is_spent_is_remembered_for_its_time(store: Store, time: Time) -> None:
    assert await store.spend(b"nonce", "a", 1000)
    time.seconds += 0.9
    assert not await store.spend(b"nonce", "b", 1000)
    time.seconds += 0.1
    assert await store.spend(b"nonce", "b", 1000)


async def test_case_17_one_key_spent_many_times_at_once_is_spent_once(store: Store) -> None:
    spent = await asyncio.gather(*(store.spend(b"nonce", f"{n}", 9000) for n in range(50)))
    assert sum(spent) == 1


async def test_case_42_a_key_to_spend_is_any_bytes(store: Store) -> None:
    for key in (b"", b"\r\n{}* \x00", bytes(5000)):
        assert await store.spend(key, "a", 1000)


# -- Many channels -------------------------------------------------------------------------------


async def fill(store: Store, charges: dict[int, int]) -> dict[int, bytes]:
    """Channels by number, each charged so much."""
    ids = {number: config(number).channel_id(NETWORK) for number in charges}
    for number, amount in charges.items():
        await store.record(ids[number], NETWORK, config(number), chain(2**128 - 1), 0)
        if amount:
            await store.reserve(ids[number], voucher(amount), amount, "a")
            await store.charge(ids[number], "a", amount)
    return ids


async def test_channels_come_in_the_order_of_their_ids_a_page_at_a_time(store: Store) -> None:
    ids = sorted((await fill(store, dict.fromkeys(range(5), 0))).values())
    assert [channel.channel_id for channel in await store.channels()] == ids
    first = await store.channels(limit=2)
    second = await store.channels(after=first[-1].channel_id, limit=2)
    rest = await store.channels(after=second[-1].channel_id, limit=2)
    assert [channel.channel_id for channel in first + second + rest] == ids
    assert await store.channels(after=ids[-1]) == []


async def test_claimable_are_those_that_owe_the_largest_sums_first(store: Store) -> None:
    ids = await fill(store, {1: 255, 2: 0, 3: 256, 4: 2**64, 5: 10**30, 6: 9})
    owing = [channel.channel_id for channel in await store.claimable()]
    assert owing == [ids[5], ids[4], ids[3], ids[1], ids[6]]
    assert [channel.unclaimed for channel in await store.claimable(limit=2)] == [10**30, 2**64]


async def test_what_is_claimed_or_was_never_signed_is_not_claimable(store: Store) -> None:
    ids = await fill(store, {1: 100})
    await store.record(CHANNEL_ID, NETWORK, CONFIG, chain(), 500)
    assert [channel.charged for channel in await store.claimable()] == [100]
    await store.record(ids[1], NETWORK, config(1), chain(claimed=100, block=2), 0)
    assert await store.claimable() == []


# -- Races ---------------------------------------------------------------------------------------


async def test_case_27_many_requests_at_once_on_one_channel_are_all_charged(opened: Store) -> None:
    async def request(number: int) -> None:
        await opened.reserve(CHANNEL_ID, voucher(10 * number), 10, f"r{number}")
        await asyncio.sleep(0)
        await opened.charge(CHANNEL_ID, f"r{number}", 10)

    async with asyncio.TaskGroup() as group:
        # The last voucher first: it covers all the others, in whatever order they come.
        for number in range(64, 0, -1):
            group.create_task(request(number))
    record = await record_of(opened)
    assert (record.charged, record.held, record.signed) == (640, 0, 640)
    assert (record.seen, record.floor) == ((), 640)


async def test_case_27_one_voucher_sent_many_times_at_once_is_granted_once(opened: Store) -> None:
    outcomes = await asyncio.gather(
        *(opened.reserve(CHANNEL_ID, voucher(500), 1, f"r{number}") for number in range(64)),
        return_exceptions=True,
    )
    refused = [outcome for outcome in outcomes if isinstance(outcome, RefusedByChannel)]
    assert len(refused) == 63
    assert {error.reason for error in refused} == {Reason.CUMULATIVE_MISMATCH}
    assert (await record_of(opened)).held == 1


async def test_one_request_reserved_many_times_at_once_is_one_hold(opened: Store) -> None:
    standings = await asyncio.gather(
        *(opened.reserve(CHANNEL_ID, voucher(500), 7, "same") for _ in range(20))
    )
    assert {standing.held for standing in standings} == {7}


async def test_one_hold_charged_many_times_at_once_is_charged_once(opened: Store) -> None:
    await opened.reserve(CHANNEL_ID, voucher(500), 500, "a")
    standings = await asyncio.gather(*(opened.charge(CHANNEL_ID, "a", 500) for _ in range(20)))
    assert {standing.charged for standing in standings} == {500}
    assert (await record_of(opened)).charged == 500


async def test_verbs_on_many_channels_at_once_do_not_mix(store: Store) -> None:
    ids = await fill(store, dict.fromkeys(range(1, 33), 0))

    async def request(number: int, turn: int) -> None:
        name = f"{number}-{turn}"
        await store.reserve(ids[number], voucher(number * turn), number, name)
        await store.charge(ids[number], name, number)

    for turn in (1, 2, 3):
        await asyncio.gather(*(request(number, turn) for number in ids))
    charged = {channel.channel_id: channel.charged for channel in await store.channels()}
    assert charged == {ids[number]: 3 * number for number in ids}


# -- URLs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        *("", "store.db", "nothing://x", "memory://name", "memory:///x", "memory://?a=1"),
        *("sqlite://", "sqlite:///", "sqlite://store.db", "sqlite:///:memory:", "sqlite:///a#b"),
        *("sqlite:///a?timeout=0", "sqlite:///a?timeout=x", "sqlite:///a?timeout=nan"),
        "sqlite:///a?cache=shared",
    ],
)
def test_a_url_that_names_no_store_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigurationError):
        open_store(url)


async def test_a_url_opens_a_file_and_finds_it_again(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/my%20store.db?timeout=2.5"
    for expected in (None, CONFIG):
        store = open_store(url)
        await store.open()
        found = await store.channel(CHANNEL_ID)
        assert (found and found.config) == expected
        await store.record(CHANNEL_ID, NETWORK, CONFIG, chain(), 0)
        await store.close()
    assert (tmp_path / "my store.db").exists()


async def test_a_relative_url_is_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("sqlite:///here.db")
    await store.open()
    await store.close()
    assert (tmp_path / "here.db").exists()
