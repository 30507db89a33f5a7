"""SQLite's own promises: several processes, crashes, restarts, and group commit."""

import asyncio
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from threading import Event

import pytest
from helpers.channels import CHANNEL_ID, CONFIG, NETWORK, NOW, chain, config, voucher
from helpers.racers import race_for_vouchers, race_with_payments, reserve_and_die, spawn, ticket
from helpers.stores import Time

from paywall.protocol import once
from paywall.protocol.channel import Channel, observe, open_channel
from paywall.protocol.errors import StoreUnavailable
from paywall.protocol.limits import ANSWER_SECONDS, MAX_BATCH_VERBS
from paywall.protocol.once import AnsweredBefore
from paywall.stores import sqlite_entries
from paywall.stores.rules import Slot
from paywall.stores.sqlite import SqliteStore
from paywall.stores.sqlite_file import ChannelFile, Outcome, Step


def at_noon() -> float:
    return NOW


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path, busy_seconds=0.1, clock=at_noon)
    await store.open()
    await store.record(CHANNEL_ID, NETWORK, CONFIG, chain(10**9), 0)
    yield store
    await store.close()


async def reopened(path: Path) -> Channel:
    """The record as another process would find it."""
    other = SqliteStore(path, clock=at_noon)
    await other.open()
    record = await other.channel(CHANNEL_ID)
    await other.close()
    assert record is not None
    return record


def ask(path: Path, statement: str, *values: object) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        return db.execute(statement, values).fetchall()


# -- Several processes ---------------------------------------------------------------------------


async def test_case_27_processes_racing_for_the_same_vouchers_get_each_once(
    store: SqliteStore, path: Path
) -> None:
    await store.reserve(CHANNEL_ID, voucher(10**6), 1, "promise")
    racers = [spawn(race_for_vouchers, str(path), name, 96) for name in "abc"]
    for _, pipe in racers:
        assert await asyncio.to_thread(pipe.recv) == "ready"
    for _, pipe in racers:
        pipe.send("go")
    granted = [await asyncio.to_thread(pipe.recv) for _, pipe in racers]
    for process, pipe in racers:
        await asyncio.to_thread(process.join)
        pipe.close()
        assert process.exitcode == 0
    assert sorted(amount for amounts in granted for amount in amounts) == list(range(1, 97))
    record = await store.channel(CHANNEL_ID)
    assert record is not None
    assert (record.charged, record.held, len(record.seen)) == (96, 1, 97)


async def test_case_17_processes_racing_with_the_same_payments_run_each_once(
    store: SqliteStore, path: Path
) -> None:
    racers = [spawn(race_with_payments, str(path), name, 32) for name in "abc"]
    for _, pipe in racers:
        assert await asyncio.to_thread(pipe.recv) == "ready"
    for _, pipe in racers:
        pipe.send("go")
    outcomes = [await asyncio.to_thread(pipe.recv) for _, pipe in racers]
    for process, pipe in racers:
        await asyncio.to_thread(process.join)
        pipe.close()
        assert process.exitcode == 0
    assert sum(ran for ran, _ in outcomes) == 32
    answers = {amount: answer for _, answers in outcomes for amount, answer in answers.items()}
    assert all(given == answers for _, given in outcomes), "all racers were given one answer"
    record = await store.channel(CHANNEL_ID)
    assert record is not None
    assert (record.charged, record.held) == (32, 0)


async def test_case_41_a_voucher_is_there_after_its_process_was_killed(
    store: SqliteStore, path: Path
) -> None:
    process, pipe = spawn(reserve_and_die, str(path), 700)
    with pytest.raises(EOFError):
        await asyncio.to_thread(pipe.recv)
    await asyncio.to_thread(process.join)
    pipe.close()
    assert process.exitcode == -signal.SIGKILL
    record = await store.channel(CHANNEL_ID)
    assert record is not None
    assert (record.voucher, record.held, list(record.holds)) == (voucher(700), 7, ["doomed"])


async def test_what_one_process_writes_the_other_sees_at_once(
    store: SqliteStore, path: Path
) -> None:
    other = SqliteStore(path, clock=at_noon)
    await other.open()
    for turn in range(1, 6):
        writer, reader = (store, other) if turn % 2 else (other, store)
        await writer.reserve(CHANNEL_ID, voucher(turn), 1, f"r{turn}")
        charged = await reader.charge(CHANNEL_ID, f"r{turn}", 1)
        assert charged.charged == turn
    await other.close()


async def test_a_restart_finds_everything(path: Path) -> None:
    for turn in range(1, 4):
        store = SqliteStore(path, clock=at_noon)
        await store.open()
        await store.record(CHANNEL_ID, NETWORK, CONFIG, chain(), 0)
        for earlier in range(1, turn):
            with pytest.raises(AnsweredBefore) as before:
                await store.look_up(CHANNEL_ID, ticket(earlier))
            assert (before.value.answer, before.value.total) == (b"%d" % earlier, earlier)
        await store.reserve(CHANNEL_ID, voucher(2 * turn), 1, f"r{turn}", ticket(turn))
        await store.charge(CHANNEL_ID, f"r{turn}", 1, ticket(turn), b"%d" % turn)
        await store.close()
    record = await reopened(path)
    assert (record.charged, record.signed, record.seen) == (3, 6, (2, 4, 6))


# -- Group commit --------------------------------------------------------------------------------


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many verbs travelled in each transaction."""
    sizes: list[int] = []
    run = ChannelFile.run

    def counted(self: ChannelFile, steps: list[Step]) -> list[Outcome]:
        sizes.append(len(steps))
        return run(self, steps)

    monkeypatch.setattr(ChannelFile, "run", counted)
    return sizes


async def test_verbs_that_wait_travel_in_one_transaction(
    batches: list[int], store: SqliteStore
) -> None:
    batches.clear()
    await asyncio.gather(
        *(store.reserve(CHANNEL_ID, voucher(1000 - n), 1, f"r{n}") for n in range(60))
    )
    assert sum(batches) == 60
    assert len(batches) <= 5


async def test_verbs_of_one_turn_of_the_event_loop_share_a_commit_and_so_do_those_they_lead_to(
    batches: list[int], store: SqliteStore
) -> None:
    async def pay(number: int) -> int:
        await store.reserve(CHANNEL_ID, voucher(number), 1, f"r{number}")
        return (await store.charge(CHANNEL_ID, f"r{number}", 1)).charged

    batches.clear()
    charged = await asyncio.gather(*(pay(number) for number in range(1, 51)))
    assert charged == list(range(1, 51))
    assert batches == [50, 50]


async def test_a_refusal_spoils_nothing_that_travels_with_it(store: SqliteStore) -> None:
    outcomes = await asyncio.gather(
        store.reserve(CHANNEL_ID, voucher(10), 10, "a"),
        store.reserve(CHANNEL_ID, voucher(10), 10, "replay"),
        store.charge(CHANNEL_ID, "unknown", 1),
        store.charge(CHANNEL_ID, "a", 99),
        store.reserve(CHANNEL_ID, voucher(20), 10, "b"),
        return_exceptions=True,
    )
    kinds = [type(outcome).__name__ for outcome in outcomes]
    assert kinds == ["Standing", "RefusedByChannel", "HoldLost", "AssertionError", "Standing"]
    record = await store.channel(CHANNEL_ID)
    assert record is not None
    assert sorted(record.holds) == ["a", "b"]


async def test_an_answer_waits_for_its_commit(
    monkeypatch: pytest.MonkeyPatch, store: SqliteStore, path: Path
) -> None:
    written, go_on = Event(), Event()
    write = ChannelFile._write

    def slowly(self: ChannelFile, changed: list[Channel]) -> None:
        write(self, changed)
        written.set()
        go_on.wait()

    monkeypatch.setattr(ChannelFile, "_write", slowly)
    answer = asyncio.ensure_future(store.reserve(CHANNEL_ID, voucher(5), 5, "a"))
    await asyncio.to_thread(written.wait)
    await asyncio.sleep(0.02)
    assert not answer.done()
    go_on.set()
    assert await answer == (await reopened(path)).standing


async def test_verbs_happen_in_the_order_in_which_they_were_called(store: SqliteStore) -> None:
    reserved, charged, _, _ = await asyncio.gather(
        store.reserve(CHANNEL_ID, voucher(5), 5, "a"),
        store.charge(CHANNEL_ID, "a", 5),
        store.release(CHANNEL_ID, "a"),
        store.renew([(CHANNEL_ID, "a")]),
    )
    assert (reserved.held, charged.held, charged.charged) == (5, 0, 5)


async def test_case_10_a_cancelled_caller_loses_only_the_answer(store: SqliteStore) -> None:
    waiting = asyncio.ensure_future(store.reserve(CHANNEL_ID, voucher(5), 5, "a"))
    refused = asyncio.ensure_future(store.reserve(CHANNEL_ID, voucher(10**10), 5, "b"))
    await asyncio.sleep(0)
    waiting.cancel()
    refused.cancel()
    record = await store.channel(CHANNEL_ID)
    assert waiting.cancelled()
    assert record is not None
    assert list(record.holds) == ["a"]
    await store.release(CHANNEL_ID, "a")
    assert (await store.reserve(CHANNEL_ID, voucher(5), 5, "again")).held == 5


async def test_closing_finishes_what_was_asked_for(path: Path) -> None:
    store = SqliteStore(path, clock=at_noon)
    await store.open()
    await store.record(CHANNEL_ID, NETWORK, CONFIG, chain(), 0)
    pending = [
        asyncio.ensure_future(store.reserve(CHANNEL_ID, voucher(100 - n), 1, f"r{n}"))
        for n in range(30)
    ]
    await asyncio.sleep(0)
    await store.close()
    await store.close()
    assert [(await answer).held for answer in pending] == list(range(1, 31))
    assert (await reopened(path)).held == 30
    assert not path.with_name("store.db-wal").exists()


async def test_a_store_that_is_not_open_is_unavailable(path: Path, store: SqliteStore) -> None:
    await store.close()
    with pytest.raises(StoreUnavailable, match="not open"):
        await store.channel(CHANNEL_ID)
    with pytest.raises(StoreUnavailable, match="not open"):
        await SqliteStore(path).claimable()


# -- The file ------------------------------------------------------------------------------------


def test_claimable_is_read_from_the_index(path: Path) -> None:
    ChannelFile(path, 1).close()
    query = "SELECT record FROM channel WHERE owed IS NOT NULL ORDER BY owed DESC, id LIMIT 9"
    plan = ask(path, "EXPLAIN QUERY PLAN " + query)
    assert [row[3] for row in plan] == ["SEARCH channel USING INDEX channel_owed (owed>?)"]


def test_commits_are_synchronous_and_logged(path: Path) -> None:
    with closing(ChannelFile(path, 1)) as file:
        assert file._db.execute("PRAGMA synchronous").fetchone() == (2,)
        assert file._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_more_channels_than_the_cache_holds_are_still_right(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paywall.stores.sqlite_file.CACHED_RECORDS", 3)
    ids = [config(number).channel_id(NETWORK) for number in range(10)]

    def opening(number: int) -> Step:
        opened = open_channel(ids[number], NETWORK, config(number), chain(number), 0)
        return Step(ids[number], lambda slot, now_ms: Slot(slot.record or opened))

    def raising(number: int) -> Step:
        newer = chain(100 + number, block=2)
        return Step(
            ids[number],
            lambda slot, now_ms: Slot(observe(slot.record, newer) if slot.record else None),
        )

    with closing(ChannelFile(path, 1)) as file:
        file.run([opening(number) for number in range(10)])
        outcomes = [file.run([raising(number)])[0] for number in (0, 9, 5, 0)]
        assert len(file._cache) == 3
    balances = [isinstance(it, Slot) and it.record and it.record.balance for it in outcomes]
    assert balances == [100, 109, 105, 100]


# -- What is remembered of payments --------------------------------------------------------------


async def test_answers_that_expired_are_dropped_as_new_ones_come(path: Path, time: Time) -> None:
    store = SqliteStore(path, clock=time)
    await store.open()
    await store.record(CHANNEL_ID, NETWORK, CONFIG, chain(10**9), 0)
    for number in range(1, 101):
        await store.reserve(CHANNEL_ID, voucher(number), 1, f"r{number}", ticket(number))
        await store.charge(CHANNEL_ID, f"r{number}", 1, ticket(number), b"x")
    assert kept_answers(path) == 100
    time.seconds += ANSWER_SECONDS
    await store.record(CHANNEL_ID, NETWORK, CONFIG, chain(10**9, read_at_ms=time.ms()), 0)
    for number in range(101, 131):
        await store.reserve(CHANNEL_ID, voucher(number), 1, f"r{number}", ticket(number))
        await store.charge(CHANNEL_ID, f"r{number}", 1, ticket(number), b"x")
        assert kept_answers(path) <= 100
    assert kept_answers(path) == 30
    await store.close()


async def test_a_released_payment_leaves_nothing_behind(store: SqliteStore, path: Path) -> None:
    await store.reserve(CHANNEL_ID, voucher(5), 5, "a", ticket(1))
    assert kept_answers(path) == 1
    await store.release(CHANNEL_ID, "a", ticket(1))
    assert kept_answers(path) == 0


async def test_a_full_batch_of_payments_is_one_transaction(
    batches: list[int], store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has an id of its own, and all are looked up in one statement."""
    gather = [store.look_up(CHANNEL_ID, ticket(number)) for number in range(2 * MAX_BATCH_VERBS)]
    assert await asyncio.gather(*gather) == [None] * (2 * MAX_BATCH_VERBS)
    assert max(batches) <= MAX_BATCH_VERBS
    assert len(batches) < MAX_BATCH_VERBS / 8


async def test_a_full_batch_of_answers_is_one_transaction(path: Path) -> None:
    entries = [
        once.answered(ticket(number), "a", b"x", 2**128 - 1, NOW * 1000)
        for number in range(MAX_BATCH_VERBS)
    ]
    opened = open_channel(CHANNEL_ID, NETWORK, CONFIG, chain(), 0)

    def answering(number: int) -> Step:
        after = Slot(opened, entries[number])
        return Step(CHANNEL_ID, lambda slot, now_ms: after, ticket(number).payment_id)

    with closing(ChannelFile(path, 1, at_noon)) as file:
        file.run([answering(number) for number in range(MAX_BATCH_VERBS)])
        same = Step(CHANNEL_ID, lambda slot, now_ms: slot, ticket(7).payment_id)
        assert file.run([same]) == [Slot(opened, entries[7])]
    assert kept_answers(path) == MAX_BATCH_VERBS


async def test_in_one_batch_each_verb_sees_the_entry_that_the_last_one_left(
    store: SqliteStore,
) -> None:
    outcomes = await asyncio.gather(
        store.reserve(CHANNEL_ID, voucher(5), 5, "a", ticket(1)),
        store.look_up(CHANNEL_ID, ticket(1)),
        store.release(CHANNEL_ID, "a", ticket(1)),
        store.look_up(CHANNEL_ID, ticket(1)),
        store.reserve(CHANNEL_ID, voucher(5), 5, "b", ticket(1)),
        store.charge(CHANNEL_ID, "b", 5, ticket(1), b"x"),
        store.look_up(CHANNEL_ID, ticket(1)),
        return_exceptions=True,
    )
    kinds = [type(outcome).__name__ for outcome in outcomes]
    assert kinds == [
        *("Standing", "Refused", "NoneType", "NoneType"),
        *("Standing", "Standing", "AnsweredBefore"),
    ]


def test_expired_answers_are_found_by_the_index(path: Path) -> None:
    ChannelFile(path, 1).close()
    query = "SELECT 1 FROM answer WHERE expires_ms <= 5 ORDER BY expires_ms LIMIT 2"
    plan = ask(path, "EXPLAIN QUERY PLAN " + query)
    assert [row[3] for row in plan] == [
        "SEARCH answer USING COVERING INDEX answer_expires (expires_ms<?)"
    ]


def kept_answers(path: Path) -> int:
    return len(ask(path, "SELECT 1 FROM answer"))


@pytest.mark.parametrize("keys", [1, 2, 64])
def test_entries_are_looked_up_by_their_key_however_many_are_asked_for(keys: int) -> None:
    with closing(sqlite3.connect(":memory:")) as db:
        for statement in sqlite_entries.SCHEMA:
            db.execute(statement)
        plan = db.execute(f"EXPLAIN QUERY PLAN {sqlite_entries.looking(keys)}", ["", ""] * keys)
        steps = [detail for *_, detail in plan]
    assert any(step.startswith("SEARCH answer USING PRIMARY KEY") for step in steps)
    assert not any(step.startswith("SCAN answer") for step in steps)
