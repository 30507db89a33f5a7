"""Every way in which a file can fail is a sentence, and nothing has happened then."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from helpers.channels import CHANNEL_ID, CONFIG, NETWORK, NOW, chain, config, voucher

from paywall.protocol.channel import Standing, open_channel
from paywall.protocol.errors import (
    ConfigurationError,
    HoldLost,
    Reason,
    Refused,
    StoreUnavailable,
)
from paywall.protocol.once import AnsweredBefore, Ticket
from paywall.stores.rules import Slot
from paywall.stores.sqlite import SqliteStore
from paywall.stores.sqlite_file import SCHEMA_VERSION, ChannelFile, Step

TICKET = Ticket("payment-00000001", b"\x01" * 32)


def at_noon() -> float:
    return NOW


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path, busy_seconds=0.1, clock=at_noon)
    await store.open()
    await store.record(CHANNEL_ID, NETWORK, CONFIG, chain(10**9), 0)
    yield store
    await store.close()


def ask(path: Path, statement: str, *values: object) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        return db.execute(statement, values).fetchall()


async def fails_to_open(path: Path) -> str:
    with pytest.raises(ConfigurationError) as error:
        await SqliteStore(path, busy_seconds=0.1).open()
    return str(error.value)


def overwrite(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def spoil_all_but_the_first_page(path: Path) -> None:
    data = bytearray(path.read_bytes())
    page = int.from_bytes(data[16:18], "big")
    data[page:] = b"\xaa" * (len(data) - page)
    path.write_bytes(data)


async def test_a_path_that_cannot_be_opened_is_a_configuration_error(tmp_path: Path) -> None:
    assert "cannot be opened" in await fails_to_open(tmp_path / "nowhere" / "store.db")
    assert "cannot be opened" in await fails_to_open(tmp_path)


async def test_a_file_that_is_not_a_database_is_a_configuration_error(path: Path) -> None:
    overwrite(path, b"not a database at all, just some text\n" * 100)
    assert "not an SQLite database" in await fails_to_open(path)


async def test_another_programs_database_is_a_configuration_error(path: Path) -> None:
    ask(path, "CREATE TABLE meta (name TEXT)")
    assert "store.db" in await fails_to_open(path)
    assert ask(path, "SELECT name FROM sqlite_schema") == [("meta",)]


async def test_case_43_a_newer_schema_is_a_configuration_error_that_says_so(path: Path) -> None:
    ChannelFile(path, 1).close()
    ask(path, "UPDATE meta SET value = ?", SCHEMA_VERSION + 1)
    assert "newer paywall" in await fails_to_open(path)


async def test_after_a_failed_open_the_store_may_be_opened_again(path: Path) -> None:
    store = SqliteStore(path)
    overwrite(path, b"dirt" * 1000)
    with pytest.raises(ConfigurationError):
        await store.open()
    overwrite(path, b"")
    await store.open()
    await store.close()


async def test_case_12_a_file_that_stays_locked_is_unavailable_and_nothing_happened(
    store: SqliteStore, path: Path
) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="another process keeps it locked"):
            await store.reserve(CHANNEL_ID, voucher(5), 5, "a")
        other.execute("ROLLBACK")
    with pytest.raises(HoldLost):
        await store.charge(CHANNEL_ID, "a", 5)
    assert (await store.reserve(CHANNEL_ID, voucher(5), 5, "a")).held == 5


async def test_case_12_a_locked_file_does_not_block_the_event_loop(path: Path) -> None:
    patient = SqliteStore(path, busy_seconds=5, clock=at_noon)
    await patient.open()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        answer = asyncio.ensure_future(patient.record(CHANNEL_ID, NETWORK, CONFIG, chain(10**9), 0))
        longest = 0.0
        for _ in range(20):
            started_at = time.perf_counter()
            await asyncio.sleep(0.01)
            longest = max(longest, time.perf_counter() - started_at)
        assert not answer.done()
        other.execute("COMMIT")
    assert (await answer).balance == 10**9
    assert longest < 1
    await patient.close()


async def test_a_damaged_record_is_unavailable_and_spoils_no_other(
    store: SqliteStore, path: Path
) -> None:
    other_id = config(2).channel_id(NETWORK)
    await store.record(other_id, NETWORK, config(2), chain(), 0)
    ask(path, "UPDATE channel SET record = x'00' WHERE id = ?", CHANNEL_ID)
    damaged, sound = await asyncio.gather(
        store.reserve(CHANNEL_ID, voucher(5), 5, "a"),
        store.reserve(other_id, voucher(5), 5, "a"),
        return_exceptions=True,
    )
    assert isinstance(damaged, StoreUnavailable)
    assert isinstance(sound, Standing)


async def test_a_charge_and_its_answer_are_both_written_or_neither(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise sqlite3.OperationalError("the answers cannot be written")

    await store.reserve(CHANNEL_ID, voucher(5), 5, "a", TICKET)
    before = await store.channel(CHANNEL_ID)
    with monkeypatch.context() as patched:
        patched.setattr("paywall.stores.sqlite_entries.write", broken)
        with pytest.raises(StoreUnavailable):
            await store.charge(CHANNEL_ID, "a", 5, TICKET, b"an answer")
    assert await store.channel(CHANNEL_ID) == before
    with pytest.raises(Refused) as refused:
        await store.look_up(CHANNEL_ID, TICKET)
    assert refused.value.reason is Reason.PAYMENT_IN_PROGRESS
    assert (await store.charge(CHANNEL_ID, "a", 5, TICKET, b"an answer")).charged == 5
    with pytest.raises(AnsweredBefore):
        await store.look_up(CHANNEL_ID, TICKET)


async def test_a_damaged_file_is_unavailable(path: Path) -> None:
    with closing(ChannelFile(path, 1)) as file:
        opened = open_channel(CHANNEL_ID, NETWORK, CONFIG, chain(), 0)
        file.run([Step(CHANNEL_ID, lambda slot, now_ms: Slot(opened))])
    spoil_all_but_the_first_page(path)
    store = SqliteStore(path)
    with pytest.raises(StoreUnavailable, match="it is damaged"):
        await store.open()


def test_a_full_disk_is_unavailable_and_nothing_happened(path: Path) -> None:
    def opening(number: int) -> Step:
        terms = config(number)
        opened = open_channel(terms.channel_id(NETWORK), NETWORK, terms, chain(), 0)
        return Step(opened.channel_id, lambda slot, now_ms: Slot(opened))

    with closing(ChannelFile(path, 1)) as file:
        (pages,) = file._db.execute("PRAGMA page_count").fetchone()
        file._db.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StoreUnavailable, match="the disk is full"):
            file.run([opening(number) for number in range(100)])
        assert file.page(b"", 1000) == []
        file._db.execute("PRAGMA max_page_count = 100000")
        file.run([opening(number) for number in range(100)])
        assert len(file.page(b"", 1000)) == 100


def test_a_file_that_became_read_only_is_unavailable(path: Path) -> None:
    opened = open_channel(CHANNEL_ID, NETWORK, CONFIG, chain(), 0)
    with closing(ChannelFile(path, 1)) as file:
        file._db.execute("PRAGMA query_only = ON")
        with pytest.raises(StoreUnavailable, match="cannot be written to"):
            file.run([Step(CHANNEL_ID, lambda slot, now_ms: Slot(opened))])


async def test_case_16_an_error_shows_the_name_of_the_file_and_no_more(
    store: SqliteStore, path: Path
) -> None:
    ask(path, "DROP TABLE channel")
    with pytest.raises(StoreUnavailable) as error:
        await store.claimable()
    assert str(path.parent) not in str(error.value)
    assert "no such table" in str(error.value)
