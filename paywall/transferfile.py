"""Transfers in the wallet's file: what was signed for single requests, and what may still be taken.

A signed transfer can be made by whoever has it until its time has passed, whatever its receiver
says. So a row stays until then, and its price stays counted. Rows only; the sums are the file's.
"""

import sqlite3
from typing import Final

import msgspec

SCHEMA: Final = """
CREATE TABLE transfer (
    id TEXT PRIMARY KEY, origin TEXT NOT NULL, network TEXT NOT NULL, asset BLOB NOT NULL,
    receiver BLOB NOT NULL, price TEXT NOT NULL, nonce BLOB NOT NULL, valid_before INTEGER NOT NULL,
    refused INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX transfer_expires ON transfer (valid_before);
CREATE TABLE stopped (origin TEXT PRIMARY KEY, why TEXT NOT NULL) WITHOUT ROWID;
"""


class SignedTransfer(msgspec.Struct, frozen=True):
    """One authorization, counted as spent. `refused`: its receiver says that it was not taken."""

    payment_id: str
    origin: str
    network: str
    asset: bytes
    receiver: bytes
    price: int
    authorization_nonce: bytes
    valid_before: int
    refused: bool = False


def put(db: sqlite3.Connection, row: SignedTransfer) -> None:
    """Writes a transfer, in the place of what was known of it."""
    payment_id, origin, network, asset, receiver, price, *rest = msgspec.structs.astuple(row)
    values = (payment_id, origin, network, asset, receiver, str(price), *rest)
    db.execute("INSERT OR REPLACE INTO transfer VALUES (?,?,?,?,?,?,?,?,?)", values)


def take(db: sqlite3.Connection, payment_id: str) -> SignedTransfer | None:
    """Removes a transfer and returns it; None when it has ended already."""
    found = db.execute("DELETE FROM transfer WHERE id = ? RETURNING *", (payment_id,)).fetchone()
    return _row(found) if found else None


def take_expired(db: sqlite3.Connection, time: int) -> list[SignedTransfer]:
    """Removes and returns those that nobody can make any more at `time`."""
    rows = db.execute("DELETE FROM transfer WHERE valid_before < ? RETURNING *", (time,))
    return [_row(found) for found in rows.fetchall()]


def all_of(db: sqlite3.Connection) -> list[SignedTransfer]:
    return [_row(found) for found in db.execute("SELECT * FROM transfer ORDER BY valid_before, id")]


def _row(
    row: tuple[str, str, str, bytes, bytes, str, bytes, int, int],
) -> SignedTransfer:
    payment_id, origin, network, asset, receiver, price, nonce, valid_before, refused = row
    return SignedTransfer(
        payment_id, origin, network, asset, receiver, int(price), nonce, valid_before, bool(refused)
    )


def stop(db: sqlite3.Connection, origin: str, why: str) -> None:
    db.execute("INSERT OR REPLACE INTO stopped VALUES (?,?)", (origin, why))


def stopped(db: sqlite3.Connection, origin: str) -> str | None:
    """Why an origin is not paid any more."""
    found = db.execute(
        "SELECT why FROM stopped WHERE origin = ? UNION ALL "
        "SELECT stopped FROM channel WHERE origin = ? AND stopped IS NOT NULL",
        (origin, origin),
    ).fetchone()
    return str(found[0]) if found else None
