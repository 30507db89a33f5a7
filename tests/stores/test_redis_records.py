"""A channel as Redis keeps it: older versions are read, and what is not ours is left alone."""

from collections.abc import AsyncIterator, Iterator

import pytest
from helpers.channels import CHANNEL_ID, CONFIG, NETWORK, voucher
from helpers.redis_server import RedisServer, running
from helpers.redis_store import chain_now, charge_next, open_channel, record_of, store_at

from paywall.protocol.channel import Channel, Hold, Refunding, RefusedByChannel
from paywall.protocol.errors import HoldLost, Reason, Refused, StoreUnavailable
from paywall.protocol.limits import MAX_HOLDS, REMEMBERED_CHARGES
from paywall.protocol.once import AnsweredBefore, Ticket
from paywall.stores import Store, redis_records

BUCKET = f"paywall:{{{CHANNEL_ID[0]:02x}}}:"
KEY = BUCKET + CHANNEL_ID.hex()
TICKET = Ticket("payment-id-of-16-and-more", bytes(range(32)))
READING = chain_now(10**6, claimed=3, withdraw_amount=2, refund_nonce=1, block=9)
LATER_MS = READING.read_at_ms + 10**7

HASH: dict[str, str | bytes] = {
    "s": redis_records.pack_static(NETWORK, CONFIG),
    "dl": str(CONFIG.withdraw_delay_seconds),
    **dict(
        zip(
            ("b", "k", "wa", "wt", "rn", "bl", "rd"),
            redis_records.chain_words(READING),
            strict=True,
        )
    ),
    **{"c": "40", "f": "20", "w": " 60 50 ", "n": "2", "hp": "10", "hn": "1"},
    **{"he": str(LATER_MS), "u": "7", "d": " done1 done2 "},
    **{"v": "60", "g": voucher(60).signature, "pv": "90", "pg": voucher(90).signature},
}
"""A record of the time when records were hashes."""
EXPECTED = Channel(
    CHANNEL_ID,
    NETWORK,
    CONFIG,
    READING,
    charged=40,
    voucher=voucher(60),
    holds={"held": Hold(10, 50, LATER_MS)},
    seen=(50, 60),
    floor=20,
    used_at_ms=7,
    done=("done1", "done2"),
    proof=voucher(90),
)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with running("--enable-debug-command", "local", fsync="no") as server:
        yield server


@pytest.fixture
async def store(server: RedisServer) -> AsyncIterator[Store]:
    server.command("FLUSHALL")
    async with store_at(server.url) as store:
        yield store


def write_hash(server: RedisServer, **changes: str | bytes) -> None:
    with server.client() as client:
        client.hset(KEY, mapping=HASH | changes)
        client.hset(f"{KEY}:h", "held", f"10 50 {LATER_MS}")
        client.zadd(f"{BUCKET}due", {CHANNEL_ID: -37})
        client.zadd(f"{BUCKET}all", {CHANNEL_ID: 0})


def kind_of(server: RedisServer) -> object:
    return server.command("TYPE", KEY)


# -- Older versions ------------------------------------------------------------------------------


async def test_case_43_a_record_that_is_a_hash_is_read(server: RedisServer, store: Store) -> None:
    write_hash(server)
    assert await store.channel(CHANNEL_ID) == EXPECTED
    assert await store.channels() == [EXPECTED] == await store.claimable()
    assert kind_of(server) == "hash", "reading writes nothing"


async def test_case_43_a_hash_without_the_later_fields_is_read(
    server: RedisServer, store: Store
) -> None:
    write_hash(server)
    server.command("HDEL", KEY, "u", "d", "v", "g", "pv", "pg")
    record = await record_of(store, CHANNEL_ID)
    assert (record.used_at_ms, record.done, record.voucher, record.proof) == (0, (), None, None)
    assert (await store.charge(CHANNEL_ID, "held", 10)).charged == 50


async def test_case_43_a_hash_goes_on_as_a_string(server: RedisServer, store: Store) -> None:
    write_hash(server)
    assert (await store.charge(CHANNEL_ID, "done2", 5)).charged == 40, "what it remembers"
    with pytest.raises(RefusedByChannel) as refusal:
        await store.reserve(CHANNEL_ID, voucher(50), 1, "again")
    assert refusal.value.channel == EXPECTED
    assert kind_of(server) == "hash", "a refusal writes nothing"
    assert (await store.charge(CHANNEL_ID, "held", 9)).charged == 49
    assert kind_of(server) == "string"
    assert (await charge_next(store, CHANNEL_ID, 70, 4)).charged == 53
    after = await record_of(store, CHANNEL_ID)
    assert (after.voucher, after.holds, after.done) == (
        voucher(70),
        {},
        ("done1", "done2", "held", "request-70"),
    )


async def test_case_43_a_refund_set_aside_in_a_hash_stays_set_aside(
    server: RedisServer, store: Store
) -> None:
    write_hash(server, ra="5", rx=str(LATER_MS), rq="refund")
    record = await record_of(store, CHANNEL_ID)
    assert record.refunding == Refunding(5, LATER_MS, "refund")
    ended = await store.end_refund(CHANNEL_ID, "refund", None)
    assert ended == EXPECTED
    assert (await record_of(store, CHANNEL_ID)) == EXPECTED


def write_version_1(server: RedisServer, **changes: str) -> None:
    """The words in one line, and every hold in the hash."""
    write_hash(server)
    words = {name: value for name, value in HASH.items() if isinstance(value, str)} | changes
    names = "b k c v f n hp hn he wa wt dl rd rn bl u ra rx rq pv"
    head = "".join(f"{words.get(name, '-')} " for name in names.split())
    signatures = [voucher(60).signature, voucher(90).signature]
    static = redis_records.pack_static(NETWORK, CONFIG)
    text = f"\x01{head}\n{words['w']}\n{words['d']}\n".encode()
    with server.client() as client:
        client.set(KEY, b"".join([text, *signatures, static]))


async def test_case_43_a_record_of_version_1_is_read(server: RedisServer, store: Store) -> None:
    write_version_1(server)
    before = server.command("DEBUG", "DIGEST-VALUE", KEY)
    assert await store.channel(CHANNEL_ID) == EXPECTED
    with pytest.raises(RefusedByChannel) as refusal:
        await store.reserve(CHANNEL_ID, voucher(50), 1, "again")
    assert refusal.value.channel == EXPECTED
    assert server.command("DEBUG", "DIGEST-VALUE", KEY) == before, "nothing is written"


async def test_case_43_a_record_of_version_1_goes_on(server: RedisServer, store: Store) -> None:
    write_version_1(server)
    await store.reserve(CHANNEL_ID, voucher(70), 5, "next")
    assert (await record_of(store, CHANNEL_ID)).holds.keys() == {"held", "next"}
    assert (await store.charge(CHANNEL_ID, "held", 9)).charged == 49
    assert (await store.charge(CHANNEL_ID, "next", 5)).charged == 54
    after = await record_of(store, CHANNEL_ID)
    assert (after.voucher, after.proof) == (voucher(70), voucher(90))
    assert (after.holds, after.done) == ({}, ("done1", "done2", "held", "next"))


async def test_case_43_what_a_record_of_version_1_set_aside_stays_set_aside(
    server: RedisServer, store: Store
) -> None:
    write_version_1(server, ra="5", rx=str(LATER_MS), rq="refund")
    assert (await record_of(store, CHANNEL_ID)).refunding == Refunding(5, LATER_MS, "refund")
    assert await store.end_refund(CHANNEL_ID, "refund", None) == EXPECTED


async def test_case_43_the_entry_of_a_payment_that_is_a_hash_is_read(
    server: RedisServer, store: Store
) -> None:
    await open_channel(store)
    entry = f"{KEY}:a:{TICKET.payment_id}"
    told = {"f": TICKET.fingerprint, "r": "old", "x": str(LATER_MS)}
    with server.client() as client:
        client.hset(entry, mapping=told)
    await store.look_up(CHANNEL_ID, TICKET)
    with server.client() as client:
        client.hset(entry, mapping={"a": b"an answer", "t": "77"})
    with pytest.raises(AnsweredBefore) as before:
        await store.reserve(CHANNEL_ID, voucher(5), 5, "new", TICKET)
    assert (before.value.answer, before.value.total) == (b"an answer", 77)
    with pytest.raises(Refused) as conflict:
        await store.look_up(CHANNEL_ID, Ticket(TICKET.payment_id, bytes(32)))
    assert conflict.value.reason is Reason.PAYMENT_ID_REUSED


# -- What is not ours ----------------------------------------------------------------------------


_SPOILS = {
    "a string": ("SET", "10 20 30"),
    "a later version": ("SETRANGE", "0", "\x03"),
    "a hash": ("HSET", "b", "1"),
    "a list": ("RPUSH", "1"),
}


@pytest.mark.parametrize("kind", _SPOILS)
async def test_case_43_a_record_that_is_not_ours_is_not_guessed_at(
    server: RedisServer, store: Store, kind: str
) -> None:
    await open_channel(store)
    command, *words = _SPOILS[kind]
    if command != "SETRANGE":
        server.command("DEL", KEY)
    server.command(command, KEY, *words)
    before = server.command("DEBUG", "DIGEST-VALUE", KEY)
    for verb in (
        store.channel(CHANNEL_ID),
        store.reserve(CHANNEL_ID, voucher(5), 5, "a"),
        store.charge(CHANNEL_ID, "a", 5),
        store.record(CHANNEL_ID, NETWORK, CONFIG, READING, 0),
    ):
        with pytest.raises(StoreUnavailable, match="of another type"):
            await verb
    assert server.command("DEBUG", "DIGEST-VALUE", KEY) == before
    assert await store.claimable() == []


# -- Holds ---------------------------------------------------------------------------------------


def holds_outside(server: RedisServer) -> object:
    """The requests whose holds are not in the record."""
    return server.command("HKEYS", f"{KEY}:h")


async def test_one_request_at_a_time_is_one_key(server: RedisServer, store: Store) -> None:
    await open_channel(store)
    for total in range(1, 4):
        await store.reserve(CHANNEL_ID, voucher(total), 1, f"r{total}")
        assert holds_outside(server) == []
        assert (await record_of(store, CHANNEL_ID)).held == 1
        assert (await store.charge(CHANNEL_ID, f"r{total}", 1)).charged == total


async def test_holds_in_the_record_and_beside_it_are_alike(
    server: RedisServer, store: Store
) -> None:
    """Whichever ends first, and however."""
    await open_channel(store)
    for total, name in enumerate("abc", 1):
        await store.reserve(CHANNEL_ID, voucher(total), 1, name)
    assert set(holds_outside(server)) == {"b", "c"}  # type: ignore[call-overload]
    before = await record_of(store, CHANNEL_ID)
    await store.renew([(CHANNEL_ID, name) for name in "abcd"])
    after = await record_of(store, CHANNEL_ID)
    for name in "abc":
        assert after.holds[name].deadline_ms >= before.holds[name].deadline_ms
    assert (await store.charge(CHANNEL_ID, "b", 1)).held == 2
    await store.release(CHANNEL_ID, "a")
    await store.reserve(CHANNEL_ID, voucher(1), 1, "d")
    assert holds_outside(server) == ["c"]
    with pytest.raises(RefusedByChannel):
        await store.reserve(CHANNEL_ID, voucher(9), 1, "d")
    standing = [await store.charge(CHANNEL_ID, name, 1) for name in "cd"][-1]
    assert (standing.charged, standing.held) == (3, 0)
    for name in "ax":
        with pytest.raises(HoldLost):
            await store.charge(CHANNEL_ID, name, 1)


async def test_case_41_holds_that_a_lost_record_left_are_no_part_of_the_next(
    server: RedisServer, store: Store
) -> None:
    """Taken off a sum that they are not in, they would come to less than nothing."""
    await open_channel(store)
    for total, name in enumerate("abc", 1):
        await store.reserve(CHANNEL_ID, voucher(total), 1, name)
    server.command("DEL", KEY)
    await open_channel(store)
    record = await record_of(store, CHANNEL_ID)
    assert (record.holds, record.held) == ({}, 0)
    with pytest.raises(HoldLost):
        await store.charge(CHANNEL_ID, "b", 1)
    assert (await store.reserve(CHANNEL_ID, voucher(9), 9, "next")).held == 9


async def test_a_name_that_begins_or_ends_like_another_is_another(store: Store) -> None:
    await open_channel(store)
    await store.reserve(CHANNEL_ID, voucher(5), 5, "a b")
    for name in ("a", "b", "a b c", " a b"):
        await store.release(CHANNEL_ID, name)
        with pytest.raises(HoldLost):
            await store.charge(CHANNEL_ID, name, 5)
    assert (await store.charge(CHANNEL_ID, "a b", 5)).charged == 5


# -- Amounts, signatures, names ------------------------------------------------------------------


async def test_signatures_of_any_bytes_are_kept(server: RedisServer, store: Store) -> None:
    await open_channel(store)
    for total, sign in enumerate((b"\n", b" ", b"-", b"\x00", b"\x01", b"\xff"), 1):
        signed = voucher(total)
        signed = type(signed)(total, sign * 65)
        await store.reserve(CHANNEL_ID, signed, 1, f"r{total}")
        await store.charge(CHANNEL_ID, f"r{total}", 1)
        assert (await record_of(store, CHANNEL_ID)).voucher == signed


async def test_as_many_charges_as_may_be_in_flight_are_recognised_when_they_are_repeated(
    store: Store,
) -> None:
    """All of one batch may lose their answers."""
    await open_channel(store)
    names = [f"r{number}" for number in range(MAX_HOLDS)]
    for number, name in enumerate(names, 1):
        await store.reserve(CHANNEL_ID, voucher(number), 1, name)
    for _ in range(2):
        for name in names:
            charged = await store.charge(CHANNEL_ID, name, 1)
    assert charged.charged == MAX_HOLDS
    with pytest.raises(HoldLost):
        await store.charge(CHANNEL_ID, "another", 1)


async def test_more_names_may_stand_in_a_record_than_are_remembered(store: Store) -> None:
    """A name that came again counts where it stands last; none before the last so many counts."""
    await store.record(CHANNEL_ID, NETWORK, CONFIG, chain_now(10**6), 0)
    names = [f"r{number}" for number in range(2 * REMEMBERED_CHARGES)]
    names.insert(REMEMBERED_CHARGES + 6, names[0])
    for at, name in enumerate(names, 1):
        await store.reserve(CHANNEL_ID, voucher(at), 1, name)
        assert (await store.charge(CHANNEL_ID, name, 1)).charged == at
        done = (await record_of(store, CHANNEL_ID)).done
        assert done == tuple(names[:at][-REMEMBERED_CHARGES:])
        if at > REMEMBERED_CHARGES and names[at - REMEMBERED_CHARGES - 1] not in done:
            with pytest.raises(HoldLost):
                await store.charge(CHANNEL_ID, names[at - REMEMBERED_CHARGES - 1], 1)
        assert (await store.charge(CHANNEL_ID, done[0], 1)).charged == at, "it was charged"
