"""Wallet files of older versions, read once and rewritten.

Versions 1 and 2 kept each amount in a column of its own; version 2 added single transfers. Quotes
are not taken over: they are asked for again.
"""

import sqlite3
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from paywall.budget import Spending
from paywall.walletrows import Account, InFlight, PendingDeposit, SignedTransfer

VERSION_1: Final = """
CREATE TABLE channel (
    id BLOB PRIMARY KEY, origin TEXT NOT NULL, network TEXT NOT NULL, asset BLOB NOT NULL,
    config BLOB NOT NULL, balance TEXT NOT NULL, charged TEXT NOT NULL, signed TEXT NOT NULL,
    deposited TEXT NOT NULL, flying TEXT NOT NULL, doubtful TEXT NOT NULL,
    in_flight INTEGER NOT NULL, deposit BLOB, deposit_until REAL NOT NULL, stopped TEXT
) WITHOUT ROWID;
CREATE TABLE total (one INTEGER PRIMARY KEY CHECK (one = 1), spent TEXT, outlay TEXT);
INSERT INTO total VALUES (1, '0', '0');
CREATE TABLE payment (
    id TEXT PRIMARY KEY, channel BLOB NOT NULL, price TEXT NOT NULL, amount TEXT NOT NULL,
    alone INTEGER NOT NULL, started REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX payment_of_channel ON payment (channel, started, alone);
CREATE TABLE quote (
    place TEXT PRIMARY KEY, accepts BLOB NOT NULL, extensions BLOB, seen REAL NOT NULL
) WITHOUT ROWID;
"""
VERSION_2: Final = """
CREATE TABLE transfer (
    id TEXT PRIMARY KEY, origin TEXT NOT NULL, network TEXT NOT NULL, asset BLOB NOT NULL,
    receiver BLOB NOT NULL, price TEXT NOT NULL, nonce BLOB NOT NULL, valid_before INTEGER NOT NULL,
    refused INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX transfer_expires ON transfer (valid_before);
CREATE TABLE stopped (origin TEXT PRIMARY KEY, why TEXT NOT NULL) WITHOUT ROWID;
"""
"""What the second version added to the first."""

_TABLES: Final = (("channel", "total", "payment", "quote"), ("transfer", "stopped"))

_deposit = msgspec.json.Decoder(PendingDeposit)
_encode = msgspec.json.encode


def upgraded_rows(db: sqlite3.Connection, version: int) -> list[tuple[str, bytes]]:
    """The rows that tables of an older version come to; the tables are dropped."""
    if version == 0:
        return []
    rows = _channels(db)
    if version >= 2:
        rows += _transfers(db)
    for table in (name for names in _TABLES[:version] for name in names):
        db.execute(f"DROP TABLE {table}")
    return rows


def _channels(db: sqlite3.Connection) -> list[tuple[str, bytes]]:
    flying = [_payment(row) for row in db.execute("SELECT * FROM payment ORDER BY started")]
    rows, hosts = [], dict[str, int]()
    for found in db.execute("SELECT * FROM channel").fetchall():
        account = _account(found, [one for one in flying if one.channel_id == found[0]])
        rows.append((f"channel/{account.channel_id.hex()}", _encode(account)))
        if account.stopped:
            rows.append((f"stopped/{account.origin}", account.stopped.encode()))
        host = urlsplit(account.origin).hostname or account.origin
        hosts[host] = hosts.get(host, 0) + account.signed
    for one in flying:
        rows.append((f"payment/{one.channel_id.hex()}/{one.payment_id}", _encode(one)))
    rows += [(f"host/{host}", str(signed).encode()) for host, signed in hosts.items() if signed]
    spent, outlay = db.execute("SELECT spent, outlay FROM total").fetchone()
    return [*rows, ("spending", _encode(Spending(int(spent), int(outlay))))]


def _account(row: tuple[Any, ...], flying: list[InFlight]) -> Account:
    channel_id, origin, network, asset, config, *amounts, in_flight, deposit, until, stopped = row
    balance, charged, signed, deposited, in_the_air, doubtful = map(int, amounts)
    return Account(
        channel_id=channel_id,
        origin=origin,
        network=network,
        asset=asset,
        config=config,
        in_flight=in_flight,
        balance=balance,
        charged=charged,
        signed=signed,
        deposited=deposited,
        flying=in_the_air,
        doubtful=doubtful,
        deposit=_deposit.decode(deposit) if deposit else None,
        deposit_until=until,
        stopped=stopped,
        flight=len(flying),
        begun=len(flying),
        oldest=min((one.started for one in flying), default=0.0),
    )


def _payment(row: tuple[str, bytes, str, str, int, float]) -> InFlight:
    payment_id, channel, price, amount, _, started = row
    return InFlight(payment_id, channel, int(price), int(amount), started)


def _transfers(db: sqlite3.Connection) -> list[tuple[str, bytes]]:
    rows = []
    for found in db.execute("SELECT * FROM transfer"):
        payment_id, origin, network, asset, receiver, price, nonce, valid_before, refused = found
        transfer = SignedTransfer(
            payment_id,
            origin,
            network,
            asset,
            receiver,
            int(price),
            nonce,
            valid_before,
            bool(refused),
        )
        rows.append((f"transfer/{valid_before:012d}/{payment_id}", _encode(transfer)))
    stopped = db.execute("SELECT origin, why FROM stopped")
    return rows + [(f"stopped/{origin}", why.encode()) for origin, why in stopped]
