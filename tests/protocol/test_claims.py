"""A plan collects everything that is owed, once, the largest sums first."""

import msgspec
from helpers.channels import CONFIG, NETWORK, chain, config, voucher
from hypothesis import given
from hypothesis import strategies as st

from paywall.protocol.channel import Channel
from paywall.protocol.claims import batches as batches_of
from paywall.protocol.limits import MAX_CLAIM_ROWS
from paywall.protocol.money import Address

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
