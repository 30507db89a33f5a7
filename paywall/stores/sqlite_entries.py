"""The answers of paid requests in the same SQLite file: what each payment's id stands for.

Written in the transaction of the channel that they belong to, so a charge and its answer are both
there or neither is. Expired ones are dropped a few at a time, as new ones come.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from typing import Final

from paywall.protocol.once import Entry

Key = tuple[bytes, str]
"""Channel id and payment id."""

SCHEMA: Final = (
    "CREATE TABLE answer (channel BLOB NOT NULL, id TEXT NOT NULL,"
    " expires_ms INTEGER NOT NULL, fingerprint BLOB NOT NULL, request TEXT NOT NULL, answer BLOB,"
    " total TEXT NOT NULL,"
    " PRIMARY KEY (channel, id)) WITHOUT ROWID",
    "CREATE INDEX answer_expires ON answer (expires_ms)",
)
_UPSERT: Final = (
    " ON CONFLICT (channel, id) DO UPDATE SET expires_ms = excluded.expires_ms,"
    " fingerprint = excluded.fingerprint, request = excluded.request, answer = excluded.answer,"
    " total = excluded.total"
)


def looking(keys: int) -> str:
    """The question for so many entries: each is looked up by its key.

    SQLite would read the whole table for `(channel, id) IN (VALUES …)` of more than one row.
    """
    return (
        f"WITH wanted (channel, id) AS (VALUES {','.join(['(?,?)'] * keys)})"
        " SELECT channel, id, fingerprint, request, expires_ms, answer, total"
        " FROM wanted CROSS JOIN answer USING (channel, id)"
    )


def load(db: sqlite3.Connection, keys: Iterable[Key]) -> dict[Key, Entry]:
    """The entries of these payments that are known."""
    wanted = [value for key in keys for value in key]
    if not wanted:
        return {}
    rows = db.execute(looking(len(wanted) // 2), wanted)
    return {
        (channel, name): Entry(fingerprint, request, expires_ms, answer, int(total))
        for channel, name, fingerprint, request, expires_ms, answer, total in rows.fetchall()
    }


def write(db: sqlite3.Connection, changed: Mapping[Key, Entry | None]) -> None:
    """Writes the entries that are there and drops those that are None."""
    kept = [(key, entry) for key, entry in changed.items() if entry]
    if kept:
        values = [
            value
            for (channel, name), entry in kept
            for value in (
                channel,
                name,
                entry.expires_ms,
                entry.fingerprint,
                entry.request,
                entry.answer,
                str(entry.total),
            )
        ]
        rows = ",".join(["(?,?,?,?,?,?,?)"] * len(kept))
        db.execute(f"INSERT INTO answer VALUES {rows}{_UPSERT}", values)
    dropped = [key for key, entry in changed.items() if entry is None]
    db.executemany("DELETE FROM answer WHERE channel = ? AND id = ?", dropped)


def forget(db: sqlite3.Connection, now_ms: int, limit: int) -> None:
    """Drops up to `limit` entries that have expired."""
    db.execute(
        "DELETE FROM answer WHERE (channel, id) IN (SELECT channel, id FROM answer"
        " WHERE expires_ms <= ? ORDER BY expires_ms LIMIT ?)",
        (now_ms, limit),
    )
