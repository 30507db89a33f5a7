"""What only a store in memory must promise: it does not grow by the payments that it remembers."""

from helpers.channels import CHANNEL_ID, CONFIG, NETWORK, chain, voucher
from helpers.racers import ticket
from helpers.stores import Time

from paywall.protocol.limits import ANSWER_SECONDS, HOLD_SECONDS, MAX_PASS_SECONDS
from paywall.stores.memory import MemoryStore


async def pay(store: MemoryStore, number: int) -> None:
    await store.reserve(CHANNEL_ID, voucher(number), 1, f"r{number}", ticket(number))
    await store.charge(CHANNEL_ID, f"r{number}", 1, ticket(number), b"x")


async def most_entries(store: MemoryStore, time: Time) -> int:
    """How many there were at most while a payment came each second for half an hour and more."""
    most = 0
    for number in range(1, 2001):
        time.seconds += 1
        if number % 60 == 1:
            await store.record(CHANNEL_ID, NETWORK, CONFIG, chain(10**9, read_at_ms=time.ms()), 0)
        await pay(store, number)
        most = max(most, len(store._entries))
    return most


async def test_entries_that_expired_are_dropped_as_new_ones_come() -> None:
    time = Time()
    store = MemoryStore(clock=time)
    assert await most_entries(store, time) <= ANSWER_SECONDS + HOLD_SECONDS


async def test_a_dead_workers_entry_in_front_holds_up_the_others_only_until_it_expires() -> None:
    time = Time()
    store = MemoryStore(clock=time)
    await store.record(CHANNEL_ID, NETWORK, CONFIG, chain(10**9), 0)
    await store.reserve(CHANNEL_ID, voucher(1), 1, "dead", ticket(1))
    for number in range(2, 202):
        await pay(store, number)
    time.seconds += ANSWER_SECONDS + HOLD_SECONDS
    await store.record(CHANNEL_ID, NETWORK, CONFIG, chain(10**9, read_at_ms=time.ms()), 0)
    for number in range(202, 303):
        await pay(store, number)
    assert len(store._entries) == 101


async def test_what_lives_for_a_year_in_front_holds_up_nobody() -> None:
    time = Time()
    store = MemoryStore(clock=time)
    for name in (b"a pass", b"another"):
        assert await store.spend(name, "owner", MAX_PASS_SECONDS * 1000)
    assert await most_entries(store, time) <= ANSWER_SECONDS + HOLD_SECONDS + 2
    assert not await store.spend(b"a pass", "somebody else", 1)


async def test_a_question_about_an_unknown_payment_leaves_nothing_behind() -> None:
    store = MemoryStore(clock=Time())
    for number in range(100):
        await store.look_up(CHANNEL_ID, ticket(number))
    assert (store._entries, store._records) == ({}, {})
