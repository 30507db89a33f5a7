"""One SQLite file of channels, as one thread of one process sees it. No event loop here.

Several processes may work on the same file. Every batch of steps is one `BEGIN IMMEDIATE …
COMMIT` with the write-ahead log and `synchronous=FULL`, so what `run` returned survives a crash.
A step is computed in Python and only the records that are left at the end are written, in one
statement: each call into SQLite gives up the interpreter lock, and under load taking it back costs
more than the call. For the same reason records are kept in memory and read again only when
`data_version` says that another process has written.

Every failure of SQLite becomes a sentence: StoreUnavailable while working, ConfigurationError for
a file that cannot be opened or is not ours.
"""

import random
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from paywall.clock import steady_time
from paywall.files import make_private
from paywall.protocol.channel import Channel
from paywall.protocol.errors import ConfigurationError, PaymentError, StoreUnavailable
from paywall.protocol.ledger import Row
from paywall.protocol.once import Entry
from paywall.stores import records, sqlite_entries, sqlite_ledger
from paywall.stores.rules import Rule, Slot, owed
from paywall.stores.sqlite_entries import Key

SCHEMA_VERSION: Final = 1
CACHED_RECORDS: Final = 4096
"""Channels kept decoded; about ten kilobytes each when their window is full."""
_RETRY_SECONDS: Final = 0.001

_SCHEMA: Final = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    # `owed` is 16 bytes big-endian, so that it sorts as the number; NULL when nothing is owed.
    "CREATE TABLE channel (id BLOB PRIMARY KEY, network TEXT NOT NULL, owed BLOB,"
    " used_at_ms INTEGER NOT NULL, record BLOB NOT NULL)",
    "CREATE INDEX channel_owed ON channel (owed DESC, id) WHERE owed IS NOT NULL",
    f"INSERT INTO meta VALUES ('schema_version', {SCHEMA_VERSION})",
)
_UPSERT: Final = (
    " ON CONFLICT (id) DO UPDATE SET"
    " owed = excluded.owed, used_at_ms = excluded.used_at_ms, record = excluded.record"
)
_SENTENCES: Final = {
    sqlite3.SQLITE_BUSY: "another process keeps it locked",
    sqlite3.SQLITE_LOCKED: "another process keeps it locked",
    sqlite3.SQLITE_NOMEM: "out of memory",
    sqlite3.SQLITE_READONLY: "it cannot be written to",
    sqlite3.SQLITE_IOERR: "reading or writing it failed",
    sqlite3.SQLITE_CORRUPT: "it is damaged",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened",
    sqlite3.SQLITE_NOTADB: "it is not an SQLite database",
}
_OUR_LUCK: Final = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_FULL,
}
"""Failures that may pass by themselves; at open, all others are the owner's to mend."""


class Step(NamedTuple):
    """One verb on one record."""

    channel_id: bytes
    rule: Rule
    payment_id: str = ""


DatedLine = tuple[int, bytes]
"""Unix time in ms, and a line of the ledger."""

Outcome = Slot | BaseException
"""What a step returned or raised."""


class ChannelFile:
    """The file, opened. To be used by the thread that made it."""

    def __init__(
        self, path: Path, busy_seconds: float, clock: Callable[[], float] = steady_time
    ) -> None:
        self._path = path
        self._busy_seconds = busy_seconds
        self._clock = clock
        self._cache: dict[bytes, Channel] = {}
        self._cached_version = -1
        make_private(path)
        try:
            self._db = sqlite3.connect(path, timeout=busy_seconds, isolation_level=None)
        except sqlite3.Error as error:
            raise self._at_open(error) from error
        try:
            self._patiently(self._prepare)
        except sqlite3.Error as error:
            self._db.close()
            raise self._at_open(error) from error
        except ConfigurationError:
            self._db.close()
            raise

    def close(self) -> None:
        """Folds the log into the file when nobody else has it open."""
        self._db.close()

    def run(self, steps: Sequence[Step]) -> list[Outcome]:
        """Every step in one transaction; when this returns, all of it is durable.

        A step that raises changes nothing and spoils no other. Raises StoreUnavailable when the
        transaction failed: then no step has happened.
        """
        try:
            self._patiently(lambda: self._db.execute("BEGIN IMMEDIATE"))
            outcomes, changed, entries, lines = self._apply(steps)
            if changed:
                self._write(list(changed.values()))
            if lines:
                sqlite_ledger.write(self._db, lines)
            if entries:
                sqlite_entries.write(self._db, entries)
                sqlite_entries.forget(self._db, self._now_ms(), 2 * len(entries))
            self._db.execute("COMMIT")
        except BaseException as error:
            self._abandon()
            if isinstance(error, sqlite3.Error):
                raise self._while_working(error) from error
            raise
        self._keep(changed)
        return outcomes

    def page(self, after: bytes, limit: int) -> list[Channel]:
        """Channels in the order of their ids."""
        return self._select("WHERE id > ? ORDER BY id LIMIT ?", after, limit)

    def claimable(self, limit: int) -> list[Channel]:
        """Channels that owe something, the largest sums first."""
        return self._select("WHERE owed IS NOT NULL ORDER BY owed DESC, id LIMIT ?", limit)

    def ledger(self, after: str, until_ms: int, limit: int) -> list[Row]:
        try:
            return sqlite_ledger.read(self._db, after, until_ms, limit)
        except sqlite3.Error as error:
            raise self._while_working(error) from error

    def trim_ledger(self, through: str) -> int:
        try:
            return sqlite_ledger.trim(self._db, through)
        except sqlite3.Error as error:
            raise self._while_working(error) from error

    # -- A batch ---------------------------------------------------------------------------------

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

    def _apply(
        self, steps: Sequence[Step]
    ) -> tuple[list[Outcome], dict[bytes, Channel], dict[Key, Entry | None], list[DatedLine]]:
        """What each step came to, and what of it must be written."""
        damaged = self._load({step.channel_id for step in steps})
        keys = {(step.channel_id, step.payment_id) for step in steps if step.payment_id}
        entries = sqlite_entries.load(self._db, keys)
        now_ms = self._now_ms()
        changed: dict[bytes, Channel] = {}
        new_entries: dict[Key, Entry | None] = {}
        outcomes: list[Outcome] = []
        lines: list[DatedLine] = []
        for channel_id, rule, payment_id in steps:
            if channel_id in damaged:
                outcomes.append(damaged[channel_id])
                continue
            key = (channel_id, payment_id)
            record = changed.get(channel_id) or self._cache.get(channel_id)
            entry = new_entries[key] if key in new_entries else entries.get(key)
            try:
                after = rule(Slot(record, entry), now_ms)
            except Exception as error:
                outcomes.append(error)
                continue
            if after.record is not None and after.record is not record:
                changed[channel_id] = after.record
            if after.entry is not entry:
                new_entries[key] = after.entry
            if after.line:
                lines.append((now_ms, after.line))
            outcomes.append(after)
        return outcomes, changed, new_entries, lines

    def _load(self, ids: set[bytes]) -> dict[bytes, StoreUnavailable]:
        """Brings the cache up to date for these records; returns those that cannot be read."""
        (version,) = self._db.execute("PRAGMA data_version").fetchone()
        if version != self._cached_version:
            self._cache.clear()
            self._cached_version = version
        missing = [channel_id for channel_id in ids if channel_id not in self._cache]
        if not missing:
            return {}
        marks = ",".join("?" * len(missing))
        rows = self._db.execute(f"SELECT id, record FROM channel WHERE id IN ({marks})", missing)
        damaged = {}
        for channel_id, record in rows.fetchall():
            try:
                self._cache[channel_id] = records.decode(record)
            except StoreUnavailable as error:
                damaged[channel_id] = error
        return damaged

    def _write(self, changed: list[Channel]) -> None:
        rows = ",".join(["(?,?,?,?,?)"] * len(changed))
        values = [value for record in changed for value in _row(record)]
        self._db.execute(f"INSERT INTO channel VALUES {rows}{_UPSERT}", values)

    def _keep(self, changed: dict[bytes, Channel]) -> None:
        for channel_id, record in changed.items():
            self._cache.pop(channel_id, None)
            self._cache[channel_id] = record
        while len(self._cache) > CACHED_RECORDS:
            del self._cache[next(iter(self._cache))]

    def _abandon(self) -> None:
        self._cache.clear()
        if self._db.in_transaction:
            with suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")

    def _select(self, where: str, *values: object) -> list[Channel]:
        try:
            rows = self._db.execute(f"SELECT record FROM channel {where}", values).fetchall()
        except sqlite3.Error as error:
            raise self._while_working(error) from error
        return [records.decode(record) for (record,) in rows]

    # -- Opening and failing ---------------------------------------------------------------------

    def _prepare(self) -> None:
        db = self._db
        (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise ConfigurationError(f"{self._path} cannot have a write-ahead log ({mode})")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("BEGIN IMMEDIATE")
        try:
            if not db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'meta'").fetchone():
                for statement in (*_SCHEMA, *sqlite_entries.SCHEMA):
                    db.execute(statement)
            self._refuse_newer()
            if not sqlite_ledger.exists(db):
                sqlite_ledger.begin(db, self._select(""), self._now_ms())
            db.execute("COMMIT")
        finally:
            if db.in_transaction:
                db.execute("ROLLBACK")
        # From here on we wait in our own way: SQLite's sleeps grow to a tenth of a second.
        db.execute("PRAGMA busy_timeout = 0")

    def _refuse_newer(self) -> None:
        found = self._db.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()
        if found is None:
            raise ConfigurationError(f"{self._path} is a database, but not one of paywall")
        if found[0] > SCHEMA_VERSION:
            raise ConfigurationError(
                f"{self._path} has schema version {found[0]}, written by a newer paywall; "
                f"this one reads up to {SCHEMA_VERSION}"
            )

    def _patiently(self, action: Callable[[], object]) -> None:
        """Tries again while another process holds the lock, up to the busy time."""
        give_up_at = time.monotonic() + self._busy_seconds
        while True:
            try:
                action()
                return
            except sqlite3.OperationalError as error:
                if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() >= give_up_at:
                    raise
            time.sleep(_RETRY_SECONDS * random.random())

    def _at_open(self, error: sqlite3.Error) -> PaymentError:
        if _code(error) in _OUR_LUCK:
            return self._while_working(error)
        return ConfigurationError(f"{self._path}: {_sentence(error)}")

    def _while_working(self, error: sqlite3.Error) -> StoreUnavailable:
        return StoreUnavailable(f"{self._path.name}: {_sentence(error)}")


def _row(record: Channel) -> tuple[bytes, str, bytes | None, int, bytes]:
    sum_owed = owed(record)
    return (
        record.channel_id,
        record.network,
        sum_owed.to_bytes(16, "big") if sum_owed > 0 else None,
        record.used_at_ms,
        records.encode(record),
    )


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code. Errors that Python itself raises have none."""
    code: int = vars(error).get("sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return code & 0xFF


def _sentence(error: sqlite3.Error) -> str:
    return _SENTENCES.get(_code(error), f"SQLite failed ({error})")
