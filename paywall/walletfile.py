"""The agent's memory on disk: what it has promised, what it was charged, what it has locked up.

One SQLite file, shared safely by every task, thread and process of an agent. A row is written
before the signature that it describes leaves, so a crash never makes a wallet forget a promise. An
entry of a payment whose process died is, after a while, counted as spent: better too much than too
little. This module knows amounts and channels; it knows no policy, no key and no HTTP.

    channel.charged     what the provider was paid so far, as receipts have said
    channel.signed      the highest total ever promised; never lowered
    channel.balance     what is in the channel, as far as this agent knows
    channel.flying      prices of the requests in flight; one payment row for each of them
    channel.doubtful    prices of payments that were refused or failed, and perhaps taken after all
    total               both ceilings' sums over all channels, kept with every change
"""

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from paywall import transferfile
from paywall.protocol.errors import ConfigurationError
from paywall.protocol.limits import STORE_BUSY_SECONDS
from paywall.transferfile import SignedTransfer

FORGOTTEN_SECONDS: Final = 600
"""A payment in flight for longer than this belongs to a process that has died."""

MAX_QUOTES: Final = 2048
"""How many quotes are remembered: a provider that names ever new prices cannot fill a disk."""

_VERSION: Final = 2
_SCHEMA: Final = """
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


class PendingDeposit(msgspec.Struct, frozen=True):
    """A deposit whose signature has left, and that no receipt has confirmed.

    While it is valid it is sent again as it is. When it has expired it is supposed to be mined, and
    if the provider denies that, it is signed again with its own salt: the token takes one of them.
    """

    amount: int
    valid_before: int
    salt: bytes
    signature: bytes
    supposed: bool = False


class Account(msgspec.Struct, frozen=True):
    """A channel as its payer knows it. Amounts are atomic units."""

    channel_id: bytes
    origin: str
    network: str
    asset: bytes
    config: bytes
    in_flight: int
    balance: int = 0
    charged: int = 0
    signed: int = 0
    deposited: int = 0
    flying: int = 0
    doubtful: int = 0
    deposit: PendingDeposit | None = None
    deposit_until: float = 0.0
    stopped: str | None = None

    @property
    def spent(self) -> int:
        """What was charged, and what will be if every request in flight is."""
        return self.charged + self.flying

    @property
    def outlay(self) -> int:
        """The most that can have left the wallet for this channel, used up there or locked up."""
        pending = self.deposit.amount if self.deposit else 0
        return max(self.deposited + pending, self.spent)


class Totals(msgspec.Struct, frozen=True):
    """Sums over all channels."""

    spent: int
    outlay: int


class InFlight(msgspec.Struct, frozen=True):
    """A payment that has left, or is about to."""

    payment_id: str
    channel_id: bytes
    price: int
    amount: int
    alone: bool
    started: float


class KnownQuote(msgspec.Struct, frozen=True):
    """What a place asked when it was last seen; `accepts` is JSON, as it was spelled."""

    accepts: bytes
    extensions: bytes | None


_deposit = msgspec.json.Decoder(PendingDeposit)


class WalletFile:
    """The file. Everything happens inside `with file.change():`, one writer at a time."""

    def __init__(self, path: str | Path) -> None:
        self._path = str(path)
        self._lock = threading.RLock()
        # What this transaction has read: nobody else changes it before the end.
        self._accounts: dict[bytes, Account] = {}
        self._totals: Totals | None = None
        try:
            if self._path != ":memory:":
                Path(self._path).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._db = sqlite3.connect(
                self._path,
                timeout=STORE_BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
            )
        except (sqlite3.Error, OSError) as error:
            raise ConfigurationError(f"the wallet file {self._path}: {error}") from error
        try:
            self._prepare()
        except sqlite3.Error as error:
            self._db.close()
            raise ConfigurationError(f"the wallet file {self._path}: {error}") from error
        except ConfigurationError:
            self._db.close()
            raise

    def _prepare(self) -> None:
        self._write_ahead()
        # A crash of the machine may cost the last rows; the provider's corrective answer, with
        # our own signature as proof, brings them back. A crash of the process costs nothing, and
        # a deposit, which nothing would bring back, is flushed to the disk before it leaves.
        self._db.execute("PRAGMA synchronous = NORMAL")
        with self.change():
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version > _VERSION:
                raise ConfigurationError(f"the wallet file {self._path} is of a newer paywall")
            schemas = (_SCHEMA, transferfile.SCHEMA)[version:]  # what each version has added
            for statement in ";".join(schemas).split(";"):
                self._db.execute(statement)
            if schemas:
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
        with self._lock:
            self._db.close()

    @contextmanager
    def change(self) -> Iterator[None]:
        """A transaction: seen whole by other processes, or not at all."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk may have ended it already
                    self._db.execute("ROLLBACK")
                raise
            finally:
                self._accounts.clear()
                self._totals = None

    def flush(self) -> None:
        """Everything so far survives a crash of the machine too."""
        with self._lock:
            self._db.execute("PRAGMA wal_checkpoint(FULL)")

    # -- Channels --------------------------------------------------------------------------------

    def account(self, channel_id: bytes) -> Account | None:
        with self._lock:
            if channel_id in self._accounts:
                return self._accounts[channel_id]
            row = self._db.execute(
                f"SELECT {_COLUMNS} FROM channel WHERE id = ?", (channel_id,)
            ).fetchone()
            if row is None:
                return None
            found = _account(row)
            if self._db.in_transaction:
                self._accounts[channel_id] = found
            return found

    def accounts(self) -> list[Account]:
        with self._lock:
            rows = self._db.execute(f"SELECT {_COLUMNS} FROM channel ORDER BY origin, id")
            return [_account(row) for row in rows]

    def totals(self) -> Totals:
        with self._lock:
            if self._totals:
                return self._totals
            spent, outlay = self._db.execute("SELECT spent, outlay FROM total").fetchone()
            found = Totals(int(spent), int(outlay))
            if self._db.in_transaction:
                self._totals = found
            return found

    def put(self, account: Account) -> None:
        """Writes a channel, and what it changes in the totals."""
        before = self.account(account.channel_id)
        spent = account.spent - (before.spent if before else 0)
        outlay = account.outlay - (before.outlay if before else 0)
        if spent or outlay:
            self._add_up(spent, outlay)
        self._accounts[account.channel_id] = account
        deposit = msgspec.json.encode(account.deposit) if account.deposit else None
        self._db.execute(
            f"INSERT OR REPLACE INTO channel ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (
                account.channel_id,
                account.origin,
                account.network,
                account.asset,
                account.config,
                account.in_flight,
                str(account.balance),
                str(account.charged),
                str(account.signed),
                str(account.deposited),
                str(account.flying),
                str(account.doubtful),
                deposit,
                account.deposit_until,
                account.stopped,
            ),
        )

    def _add_up(self, spent: int, outlay: int) -> None:
        totals = self.totals()
        self._totals = Totals(totals.spent + spent, totals.outlay + outlay)
        self._db.execute(
            "UPDATE total SET spent = ?, outlay = ?",
            (str(self._totals.spent), str(self._totals.outlay)),
        )

    # -- Transfers -------------------------------------------------------------------------------

    def count_transfer(self, amount: int) -> None:
        """Adds a single transfer to both totals, or takes it off again (negative)."""
        self._add_up(amount, amount)

    def put_transfer(self, row: SignedTransfer) -> None:
        transferfile.put(self._db, row)

    def take_transfer(self, payment_id: str) -> SignedTransfer | None:
        """Removes a transfer and returns it; None when it has ended already."""
        return transferfile.take(self._db, payment_id)

    def take_expired_transfers(self, time: int) -> list[SignedTransfer]:
        """Removes and returns those that nobody can make any more at `time`."""
        return transferfile.take_expired(self._db, time)

    def transfers(self) -> list[SignedTransfer]:
        """What was signed and may still be taken."""
        with self._lock:
            return transferfile.all_of(self._db)

    def stop(self, origin: str, why: str) -> None:
        transferfile.stop(self._db, origin, why)

    def stopped(self, origin: str) -> str | None:
        """Why an origin is not paid any more."""
        with self._lock:
            return transferfile.stopped(self._db, origin)

    # -- Payments --------------------------------------------------------------------------------

    def add(self, payment: InFlight) -> None:
        self._db.execute(
            "INSERT INTO payment VALUES (?,?,?,?,?,?)",
            (
                payment.payment_id,
                payment.channel_id,
                str(payment.price),
                str(payment.amount),
                payment.alone,
                payment.started,
            ),
        )

    def take(self, payment_id: str) -> InFlight | None:
        """Removes a payment and returns it; None when somebody has counted it already."""
        row = self._db.execute(
            "DELETE FROM payment WHERE id = ? RETURNING *", (payment_id,)
        ).fetchone()
        return _in_flight(row) if row else None

    def take_older(self, channel_id: bytes, started: float) -> list[InFlight]:
        """Removes and returns the payments of a channel that began before `started`."""
        rows = self._db.execute(
            "DELETE FROM payment WHERE channel = ? AND started < ? RETURNING *",
            (channel_id, started),
        ).fetchall()
        return [_in_flight(row) for row in rows]

    def count(self, channel_id: bytes) -> int:
        """How many requests of a channel are in flight."""
        with self._lock:
            row = self._db.execute(
                "SELECT count(*) FROM payment WHERE channel = ?", (channel_id,)
            ).fetchone()
        return int(row[0])

    def crowd(self, channel_id: bytes) -> None:
        """Nobody in flight on this channel is alone any more."""
        self._db.execute("UPDATE payment SET alone = 0 WHERE channel = ? AND alone", (channel_id,))

    # -- Quotes ----------------------------------------------------------------------------------

    def remember(self, places: list[str], quote: KnownQuote, now: float) -> None:
        with self.change():
            self._db.executemany(
                "INSERT OR REPLACE INTO quote VALUES (?,?,?,?)",
                [(place, quote.accepts, quote.extensions, now) for place in places],
            )
            self._db.execute(
                "DELETE FROM quote WHERE place IN (SELECT place FROM quote ORDER BY seen "
                "LIMIT max(0, (SELECT count(*) FROM quote) - ?))",
                (MAX_QUOTES,),
            )

    def recall(self, places: list[str]) -> KnownQuote | None:
        """The quote of the first of these places that is known."""
        with self._lock:
            for place in places:
                row = self._db.execute(
                    "SELECT accepts, extensions FROM quote WHERE place = ?", (place,)
                ).fetchone()
                if row:
                    return KnownQuote(*row)
        return None


_COLUMNS: Final = (
    "id, origin, network, asset, config, in_flight, balance, charged, signed, deposited, "
    "flying, doubtful, deposit, deposit_until, stopped"
)


def _account(row: tuple[Any, ...]) -> Account:
    channel_id, origin, network, asset, config, in_flight, *amounts, deposit, until, stopped = row
    balance, charged, signed, deposited, flying, doubtful = map(int, amounts)
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
        flying=flying,
        doubtful=doubtful,
        deposit=_deposit.decode(deposit) if deposit else None,
        deposit_until=until,
        stopped=stopped,
    )


def _in_flight(row: tuple[str, bytes, str, str, int, float]) -> InFlight:
    payment_id, channel, price, amount, alone, started = row
    return InFlight(payment_id, channel, int(price), int(amount), bool(alone), started)
