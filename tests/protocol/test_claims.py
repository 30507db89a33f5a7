"""A plan collects everything that is owed, once, the largest sums first."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from helpers.channels import ASSET, CONFIG, NETWORK, NOW, NOW_MS, chain, config, voucher
from hypothesis import given
from hypothesis import strategies as st

from paywall.protocol.channel import Channel
from paywall.protocol.claim_policy import is_worth_settling
from paywall.protocol.claims import (
    ClaimPolicy,
    Costs,
    Situation,
    Why,
    claimable_total,
    plan,
    risks_of,
)
from paywall.protocol.claims import batches as batches_of
from paywall.protocol.errors import ConfigurationError
from paywall.protocol.limits import MAX_CLAIM_ROWS
from paywall.protocol.money import Address

EAGER = ClaimPolicy(fee_share_ppm=1_000_000, native_price="$1")
OTHER_NETWORK = "eip155:8453"
OTHER_AUTHORIZER = Address(bytes([9]) * 20)


def owing(
    number: int, charged: int, claimed: int = 0, network: str = NETWORK, signed: bool = True
) -> Channel:
    terms = config(number)
    return Channel(
        terms.channel_id(network),
        network,
        terms,
        chain(claimed=claimed),
        charged=charged,
        voucher=voucher(charged) if signed else None,
    )


def under(authorizer: Address, channel: Channel) -> Channel:
    terms = msgspec.structs.replace(channel.config, receiver_authorizer=authorizer)
    return msgspec.structs.replace(channel, config=terms)


def test_nothing_owed_is_no_batch() -> None:
    assert batches_of([]) == []
    assert batches_of([owing(1, charged=0), owing(2, charged=50, claimed=50)]) == []


def test_a_channel_without_a_signature_cannot_be_claimed() -> None:
    assert batches_of([owing(1, charged=50, signed=False)]) == []


def test_channels_of_one_authorizer_travel_together_the_largest_sum_first() -> None:
    small, large, middle = owing(1, 10), owing(2, 900, claimed=100), owing(3, 300)
    (batch,) = batches_of([small, large, middle])
    assert batch.channels == (large, middle, small)
    assert batch.amount == 10 + 800 + 300
    assert (batch.network, batch.receiver_authorizer) == (NETWORK, CONFIG.receiver_authorizer)


def test_networks_and_authorizers_are_never_mixed() -> None:
    here, there = owing(1, 10), owing(2, 30, network=OTHER_NETWORK)
    theirs = under(OTHER_AUTHORIZER, owing(3, 20))
    assert [batch.channels for batch in batches_of([here, there, theirs])] == [
        (there,),
        (theirs,),
        (here,),
    ]


def test_dust_waits() -> None:
    dust, worth = owing(1, 99), owing(2, 100)
    assert [batch.channels for batch in batches_of([dust, worth], min_amount=100)] == [(worth,)]


def test_a_batch_holds_at_most_the_rows_that_facilitators_take() -> None:
    channels = [owing(number, 1000 - number) for number in range(2 * MAX_CLAIM_ROWS + 1)]
    batches = batches_of(reversed(channels))
    assert [len(batch.channels) for batch in batches] == [MAX_CLAIM_ROWS, MAX_CLAIM_ROWS, 1]
    assert [channel for batch in batches for channel in batch.channels] == channels


@given(
    st.lists(
        st.tuples(
            st.integers(0, 1000),
            st.integers(0, 1000),
            st.sampled_from([NETWORK, OTHER_NETWORK]),
            st.sampled_from([CONFIG.receiver_authorizer, OTHER_AUTHORIZER]),
        ),
        max_size=30,
    ),
    st.integers(1, 500),
)
def test_every_sum_that_is_due_is_in_exactly_one_batch(
    rows: list[tuple[int, int, str, Address]], min_amount: int
) -> None:
    channels = [
        under(authorizer, owing(number, max(charged, claimed), claimed, network))
        for number, (charged, claimed, network, authorizer) in enumerate(rows)
    ]
    batches = batches_of(channels, min_amount)
    planned = [channel.channel_id for batch in batches for channel in batch.channels]
    due = [channel for channel in channels if channel.unclaimed >= min_amount]
    assert sorted(planned) == sorted(channel.channel_id for channel in due)
    assert sum(batch.amount for batch in batches) == sum(channel.unclaimed for channel in due)
    assert [batch.amount for batch in batches] == sorted(
        (batch.amount for batch in batches), reverse=True
    )


# -- By the owner's policy -----------------------------------------------------------------------

COSTS = Costs(price_wei=10_000_000, batch_gas=50_000, row_gas=50_000)
"""At $3000 a coin, a batch and each of its rows cost $0.0015, that is 1500 units."""
FAR = ClaimPolicy(max_at_risk="$1000")
DELAY_MS = 1000 * CONFIG.withdraw_delay_seconds


def situation(**changes: Any) -> Situation:
    fields = {"now_ms": NOW_MS, "costs": COSTS, "swept_at_ms": NOW_MS} | changes
    return Situation(**fields)


def leaving(number: int, charged: int, since_seconds: int = 0, claimed: int = 0) -> Channel:
    """A channel whose payer is withdrawing."""
    known = owing(number, charged, claimed)
    state = msgspec.structs.replace(
        known.chain, balance=10**9, withdraw_requested_at=NOW - since_seconds, withdraw_amount=1
    )
    return msgspec.structs.replace(known, chain=state)


def rich(number: int, charged: int, claimed: int = 0) -> Channel:
    known = owing(number, charged, claimed)
    return msgspec.structs.replace(known, chain=chain(balance=10**12, claimed=claimed))


def why(channel: Channel, policy: ClaimPolicy = FAR, **changes: Any) -> Why:
    return plan([channel], policy, situation(**changes)).why[channel.channel_id]


def test_a_claim_goes_when_its_fee_is_within_the_owners_share() -> None:
    assert why(rich(1, 300_000)) is Why.WORTH  # 3000 of fee, one per cent of 300000
    assert why(rich(1, 299_999)) is Why.DEAR


def test_the_share_is_the_owners() -> None:
    tenth = ClaimPolicy(max_at_risk="$1000", fee_share_ppm=100_000)
    assert why(rich(1, 30_000), tenth) is Why.WORTH
    assert why(rich(1, 29_999), tenth) is Why.DEAR


def test_together_channels_pay_for_a_transaction_that_none_would_alone() -> None:
    channels = [rich(number, 160_000) for number in range(20)]
    assert why(channels[0]) is Why.DEAR
    (batch,) = plan(channels, FAR, situation()).batches
    assert len(batch.channels) == 20


def test_case_35_a_gas_spike_makes_everything_wait_that_may_wait() -> None:
    dear = replace(COSTS, price_wei=100 * COSTS.price_wei)
    found = plan([rich(1, 10_000_000)], FAR, situation(costs=dear))
    assert found.batches == ()
    assert [channel.unclaimed for channel in found.waiting] == [10_000_000]


def test_case_35_what_a_receiver_is_owed_over_the_limit_goes_although_gas_is_dear() -> None:
    policy = ClaimPolicy(max_at_risk="$0.02")
    channels = [rich(1, 15_000), rich(2, 5_000)]
    assert plan(channels, policy, situation()).batches == ()
    channels[1] = rich(2, 5_001)
    (batch,) = plan(channels, policy, situation()).batches
    assert [channel.unclaimed for channel in batch.channels] == [15_000, 5_001]


def test_case_35_dust_waits_even_over_the_limit() -> None:
    policy = ClaimPolicy(max_at_risk="$0.02")
    crumbs = [rich(number, 1_500) for number in range(1, 15)]
    found = plan([*crumbs, rich(20, 1_501)], policy, situation())
    assert [len(batch.channels) for batch in found.batches] == [1]
    assert {found.why[crumb.channel_id] for crumb in crumbs} == {Why.DUST}


def test_what_is_old_goes_when_it_brings_more_than_its_row_costs() -> None:
    day_ms = 86_400_000
    assert why(rich(1, 2_000), swept_at_ms=NOW_MS - day_ms) is Why.AGE
    assert why(rich(1, 2_000), swept_at_ms=NOW_MS - day_ms + 1) is Why.DEAR
    assert why(rich(1, 1_500), swept_at_ms=NOW_MS - day_ms) is Why.DUST


def test_nothing_is_old_before_the_first_look() -> None:
    assert why(rich(1, 2_000), swept_at_ms=None) is Why.DEAR


def test_case_33_a_withdrawal_is_claimed_at_once_whatever_it_costs() -> None:
    dear = replace(COSTS, price_wei=10**15)
    assert why(leaving(1, 1), costs=dear) is Why.WITHDRAWAL


def test_case_33_below_the_owners_dust_even_a_withdrawal_waits() -> None:
    policy = ClaimPolicy(min_amount="$0.001")
    assert why(leaving(1, 999), policy) is Why.DUST
    assert why(leaving(1, 1000), policy) is Why.WITHDRAWAL


def test_case_33_a_withdrawal_that_was_claimed_is_pressing_again_in_its_margin() -> None:
    known = leaving(1, 500, since_seconds=299)
    claimed_at_ms = {known.channel_id: NOW_MS - 1000}
    assert why(known, claimed_at_ms=claimed_at_ms) is Why.DUST
    later = {"claimed_at_ms": claimed_at_ms, "now_ms": NOW_MS + 1000}
    assert why(known, **later) is Why.WITHDRAWAL


def test_what_presses_goes_first_and_takes_along_what_pays_for_its_row() -> None:
    channels = [rich(1, 160_000), leaving(2, 10), rich(3, 100)]
    (batch,) = plan(channels, FAR, situation()).batches
    assert [channel.unclaimed for channel in batch.channels] == [10, 160_000]


def test_pressing_batches_are_sent_before_richer_ones() -> None:
    channels = [rich(number, 1_000_000) for number in range(2 * MAX_CLAIM_ROWS)]
    channels.append(leaving(999, 1))
    batches = plan(channels, FAR, situation()).batches
    assert batches[0].channels[0].unclaimed == 1
    assert [len(batch.channels) for batch in batches] == [100, 100, 1]


def test_a_token_that_nobody_priced_waits_for_its_age() -> None:
    assert why(rich(1, 10**9), assets={}) is Why.UNPRICED
    assert why(rich(1, 1), assets={}, swept_at_ms=0) is Why.AGE


def test_more_than_a_channel_holds_is_not_claimed() -> None:
    known = msgspec.structs.replace(rich(1, 900), chain=chain(balance=400))
    assert claimable_total(known) == 400
    (batch,) = plan([leaving(2, 5), known], EAGER, situation()).batches
    assert sorted(channel.charged for channel in batch.channels) == [5, 400]


def test_a_receivers_risk_is_what_is_unclaimed_until_the_first_deadline() -> None:
    staying, going = rich(1, 300, claimed=100), leaving(2, 50, since_seconds=10)
    (risk,) = risks_of([staying, going, rich(3, 7, claimed=7)])
    assert (risk.receiver, risk.token) == (CONFIG.receiver, CONFIG.token)
    assert risk.amount == 250
    assert risk.deadline_ms == NOW_MS - 10_000 + DELAY_MS
    (alone,) = risks_of([staying])
    assert alone.deadline_ms == NOW_MS + DELAY_MS


def test_a_settlement_waits_until_it_is_worth_its_fee_or_everything_is_swept() -> None:
    terms = FAR.of(ASSET)
    costs = Costs(price_wei=10_000_000, settle_gas=100_000)  # 3000 units
    assert is_worth_settling(300_000, costs, terms, swept=False)
    assert not is_worth_settling(299_999, costs, terms, swept=False)
    assert is_worth_settling(3_001, costs, terms, swept=True)
    assert not is_worth_settling(3_000, costs, terms, swept=True)
    assert not is_worth_settling(0, costs, None, swept=True)


@pytest.mark.parametrize(
    "change",
    [
        {"fee_share_ppm": 0},
        {"fee_share_ppm": 1_000_001},
        {"max_age_seconds": 0},
        {"poll_seconds": 0},
        {"refund_idle_seconds": -1},
    ],
)
def test_a_policy_that_cannot_work_is_refused(change: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError):
        ClaimPolicy(**change)  # type: ignore[arg-type]


@pytest.mark.parametrize("price", ["free", "-1", "$0", "1e3", "$0.0000001"])
def test_a_price_that_is_none_is_refused(price: str) -> None:
    with pytest.raises(ConfigurationError):
        ClaimPolicy(native_price=price).of(ASSET)


@given(
    st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**7)), max_size=250),
    st.integers(0, 10**10),
    st.integers(1, 1_000_000),
    st.sampled_from([None, 0, NOW_MS]),
)
def test_every_channel_that_owes_goes_once_or_waits_and_no_batch_costs_more_than_allowed(
    rows: list[tuple[int, int]], price_wei: int, share: int, swept: int | None
) -> None:
    policy = ClaimPolicy(max_at_risk="$20", fee_share_ppm=share)
    channels = [rich(n, max(pair), min(pair)) for n, pair in enumerate(rows)]
    costs = replace(COSTS, price_wei=price_wei)
    found = plan(channels, policy, situation(costs=costs, swept_at_ms=swept))
    going = [channel.channel_id for batch in found.batches for channel in batch.channels]
    waiting = [channel.channel_id for channel in found.waiting]
    owing_ids = sorted(c.channel_id for c in channels if c.unclaimed > 0)
    assert sorted([*going, *waiting]) == owing_ids
    terms = policy.of(ASSET)
    for batch in found.batches:
        assert len(batch.channels) <= MAX_CLAIM_ROWS
        if not any(found.why[c.channel_id] in (Why.RISK, Why.AGE) for c in batch.channels):
            assert terms.is_worth(batch.amount, costs.batch_wei(len(batch.channels)))
        for channel in batch.channels:
            assert channel.unclaimed > terms.fee(costs.row_wei())
