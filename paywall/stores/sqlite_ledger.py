"""The ledger in the same SQLite file: written in the transaction of the charge that it tells of."""

import sqlite3
from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import Final

from paywall.protocol import ledger
from paywall.protocol.channel import Channel
from paywall.protocol.ledger import Row

_CREATE: Final = (
    "CREATE TABLE ledger (number INTEGER PRIMARY KEY AUTOINCREMENT, at_ms INTEGER NOT NULL,"
    " line BLOB NOT NULL)"
)
_INSERT: Final = "INSERT INTO ledger (at_ms, line) VALUES"


def exists(db: sqlite3.Connection) -> bool:
    return db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'ledger'").fetchone() is not None


def begin(db: sqlite3.Connection, known: Iterable[Channel], now_ms: int) -> None:
    """A file of before there was a ledger begins it with what its channels have charged."""
    db.execute(_CREATE)
    lines = (ledger.adopted(one.channel_id, one.charged) for one in known if one.charged)
    db.executemany(f"{_INSERT} (?,?)", [(now_ms, line) for line in lines])


def write(db: sqlite3.Connection, lines: Sequence[tuple[int, bytes]]) -> None:
    """In one statement: `executemany` would give up the interpreter lock for each line."""
    rows = ",".join(["(?,?)"] * len(lines))
    db.execute(f"{_INSERT} {rows}", [value for line in lines for value in line])


def read(db: sqlite3.Connection, after: str, until_ms: int, limit: int) -> list[Row]:
    """The next rows, up to the first that is not old enough: processes' clocks may differ, and a
    row that was passed over would never be read."""
    rows = db.execute(
        "SELECT number, at_ms, line FROM ledger WHERE number > ? ORDER BY number LIMIT ?",
        (int(after or 0), limit),
    )
    old = takewhile(lambda row: row[1] < until_ms, rows)
    return [ledger.row_of(str(number), at_ms, line) for number, at_ms, line in old]


def trim(db: sqlite3.Connection, through: str) -> int:
    """Drops the rows up to this position; how many there were."""
    return db.execute("DELETE FROM ledger WHERE number <= ?", (int(through),)).rowcount
