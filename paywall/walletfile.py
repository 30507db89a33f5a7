"""A wallet's rows in one SQLite file, shared by every thread and process of a machine.

One writer at a time. A crash of the process costs nothing. A crash of the machine may cost the last
rows; the provider's corrective answer, with our own signature as proof, brings them back; a deposit
or a transfer, which nothing would bring back, is flushed to the disk before it leaves.
"""

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from paywall.files import make_private
from paywall.protocol.errors import ConfigurationError, StoreUnavailable
from paywall.protocol.limits import MAX_QUOTES, STORE_BUSY_SECONDS
from paywall.walletupgrade import upgraded_rows

_CHECKPOINT_PAGES: Final = 4_000
"""How long the log may become (in pages of 4 KiB) before the disk is waited for: 16 MiB."""
_VERSION: Final = 3
_SCHEMA: Final = """
CREATE TABLE row (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE history (
    number INTEGER PRIMARY KEY, time REAL NOT NULL, entry BLOB NOT NULL
);
CREATE TABLE known_quote (
    place TEXT PRIMARY KEY, quote BLOB NOT NULL, seen REAL NOT NULL
) WITHOUT ROWID;
"""


class FileRows:
    """The file. Its caller takes care that one thread at a time uses it."""

    def __init__(self, path: str, max_history: int) -> None:
        self._path = path
        self._max_history = max_history
        try:
            if path != ":memory:":
                Path(path).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                make_private(path)
            self._db = sqlite3.connect(
                path, timeout=STORE_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
        except (sqlite3.Error, OSError) as error:
            raise ConfigurationError(f"the wallet file {path}: {error}") from error
        try:
            self._prepare()
        except (sqlite3.Error, StoreUnavailable) as error:
            self._db.close()
            raise ConfigurationError(f"the wallet file {path}: {error}") from error
        except ConfigurationError:
            self._db.close()
            raise

    def _prepare(self) -> None:
        self._write_ahead()
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        self.begin()
        try:
            self._upgrade()
            self._db.execute("COMMIT")
        except BaseException:
            self.rollback()
            raise

    def _upgrade(self) -> None:
        version = int(self._db.execute("PRAGMA user_version").fetchone()[0])
        if version > _VERSION:
            raise ConfigurationError(f"the wallet file {self._path} is of a newer paywall")
        if version == _VERSION:
            return
        older = upgraded_rows(self._db, version)
        for statement in _SCHEMA.split(";"):
            self._db.execute(statement)
        self._db.executemany("INSERT OR REPLACE INTO row VALUES (?,?)", older)
        self._db.execute(f"PRAGMA user_version = {_VERSION}")

    def _write_ahead(self) -> None:
        """Switches to WAL; SQLite does not wait by itself while another process does the same."""
        patience = time.monotonic() + STORE_BUSY_SECONDS
        while True:
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > patience:
                    raise
                time.sleep(0.01)

    def close(self) -> None:
        self._db.close()

    # -- Changes ---------------------------------------------------------------------------------

    def begin(self) -> None:
        try:
            self._db.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def commit(self, rows: dict[str, bytes | None], entries: Sequence[tuple[float, bytes]]) -> None:
        kept = [(key, value) for key, value in rows.items() if value is not None]
        if not self._db.in_transaction:  # a full disk may have ended it
            raise StoreUnavailable(f"the wallet file {self._path}: the change was given up")
        try:
            self._db.executemany("INSERT OR REPLACE INTO row VALUES (?,?)", kept)
            if len(kept) < len(rows):
                dropped = [(key,) for key, value in rows.items() if value is None]
                self._db.executemany("DELETE FROM row WHERE key = ?", dropped)
            if entries:
                self._append(entries)
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def _append(self, entries: Sequence[tuple[float, bytes]]) -> None:
        for entry in entries:
            last = self._db.execute("INSERT INTO history (time, entry) VALUES (?,?)", entry)
        oldest = (last.lastrowid or 0) - self._max_history
        if oldest > 0:
            self._db.execute("DELETE FROM history WHERE number <= ?", (oldest,))

    def rollback(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def flush(self) -> None:
        with self._reported():
            self._db.execute("PRAGMA wal_checkpoint(FULL)")

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def _failed(self, error: sqlite3.Error) -> StoreUnavailable:
        return StoreUnavailable(f"the wallet file {self._path}: {error}")

    # -- Reading ---------------------------------------------------------------------------------

    def read(self, keys: Sequence[str]) -> list[bytes | None]:
        marks = ",".join("?" * len(keys))
        try:
            rows = self._db.execute(f"SELECT key, value FROM row WHERE key IN ({marks})", keys)
            found = dict(rows.fetchall())
        except sqlite3.Error as error:
            raise self._failed(error) from error
        return [found.get(key) for key in keys]

    def between(self, first: str, last: str) -> list[tuple[str, bytes]]:
        with self._reported():
            rows = self._db.execute(
                "SELECT key, value FROM row WHERE key >= ? AND key < ? ORDER BY key", (first, last)
            )
            return rows.fetchall()

    def entries(self, since: float, until: float, limit: int) -> list[bytes]:
        with self._reported():
            rows = self._db.execute(
                "SELECT entry FROM history WHERE time >= ? AND time < ? "
                "ORDER BY number DESC LIMIT ?",
                (since, until, limit),
            ).fetchall()
        return [row[0] for row in reversed(rows)]

    # -- Quotes ----------------------------------------------------------------------------------

    def quote(self, places: Sequence[str]) -> bytes | None:
        with self._reported():
            for place in places:
                row = self._db.execute(
                    "SELECT quote FROM known_quote WHERE place = ?", (place,)
                ).fetchone()
                if row:
                    found: bytes = row[0]
                    return found
        return None

    def put_quotes(self, places: Sequence[str], quote: bytes, now: float) -> None:
        self.begin()
        try:
            with self._reported():
                self._db.executemany(
                    "INSERT OR REPLACE INTO known_quote VALUES (?,?,?)",
                    [(place, quote, now) for place in places],
                )
                self._db.execute(
                    "DELETE FROM known_quote WHERE place IN (SELECT place FROM known_quote "
                    "ORDER BY seen LIMIT max(0, (SELECT count(*) FROM known_quote) - ?))",
                    (MAX_QUOTES,),
                )
                self._db.execute("COMMIT")
        except BaseException:
            self.rollback()
            raise
