"""A chain in an SQLite file: all that several worker processes need of one, and no more.

A deposit is a row; a channel's balance is the sum of its rows, and the block is how many rows there
are. A transfer is a row too. Nothing is ever claimed or withdrawn. It is no model of the contract:
it is there so that a test of the store has channels with money in them.
"""

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_bytes

from helpers.channels import NETWORK, TERMS
from paywall.chain import Mined
from paywall.protocol.channel import ChainState, Channel
from paywall.protocol.claims import Batch
from paywall.protocol.eip712 import Authorization
from paywall.protocol.money import Address
from paywall.protocol.schemes.batch import Deposit

_SCHEMA = """
CREATE TABLE IF NOT EXISTS deposit (
    block INTEGER PRIMARY KEY AUTOINCREMENT, authorization BLOB UNIQUE, channel BLOB, amount INTEGER
);
CREATE TABLE IF NOT EXISTS transfer (authorization BLOB, value INTEGER, mined INTEGER)
"""
PURSE = 10**12
"""What every payer of transfers owns."""


class FileChain:
    """`paywall.chain.Chain`, as far as requests need it."""

    network = NETWORK
    receiver_authorizer = TERMS.receiver_authorizer

    def __init__(self, path: Path) -> None:
        self._path = path
        self._clogged = path.with_name("clogged")
        with self._file() as db:
            for statement in _SCHEMA.split(";"):
                db.execute(statement)

    def clog(self, is_clogged: bool) -> None:
        """Transfers are sent and not mined from now on, or mined again, those of before too."""
        if is_clogged:
            self._clogged.touch()
            return
        self._clogged.unlink()
        with self._file() as db:
            db.execute("UPDATE transfer SET mined = 1")

    def sent(self) -> list[tuple[int, int]]:
        """Every transfer that was ever sent: its value, and whether it was mined."""
        with self._file() as db:
            return db.execute("SELECT value, mined FROM transfer").fetchall()

    @contextmanager
    def _file(self) -> Iterator[sqlite3.Connection]:
        db = sqlite3.connect(self._path, timeout=20, isolation_level=None)
        try:
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")
        finally:
            db.close()

    def fund(self, channel_id: bytes, amount: int) -> None:
        """Somebody fills a channel and tells nobody."""
        self._deposit(token_bytes(32), channel_id, amount)

    def _deposit(self, authorization: bytes, channel_id: bytes, amount: int) -> int | None:
        """The block; None when this authorization was used before."""
        with self._file() as db:
            row = db.execute(
                "INSERT OR IGNORE INTO deposit (authorization, channel, amount) VALUES (?,?,?) "
                "RETURNING block",
                (authorization, channel_id, amount),
            ).fetchone()
        return row[0] if row else None

    async def open(self) -> None:
        """Nothing to connect to."""

    async def close(self) -> None:
        """Nothing to give back."""

    async def channel(self, channel_id: bytes) -> ChainState:
        with self._file() as db:
            balance, block = db.execute(
                "SELECT (SELECT coalesce(sum(amount), 0) FROM deposit WHERE channel = ?),"
                " (SELECT count(*) FROM deposit)",
                (channel_id,),
            ).fetchone()
        return ChainState(balance, 0, 0, 0, 0, block + 1, int(time.time() * 1000))

    async def deposit(self, deposit: Deposit) -> Mined | None:
        authorization = deposit.authorization().authorization_nonce
        block = self._deposit(authorization, deposit.channel_id, deposit.amount)
        return Mined(authorization, block, 1, 1) if block else None

    async def authorization(self, told: Authorization, token: Address) -> tuple[bool, int]:
        return await self.transferred(told, token) is not None, PURSE

    async def transfer_with_authorization(
        self, told: Authorization, signature: bytes, token: Address
    ) -> Mined | None:
        if await self.transferred(told, token):
            return None
        clogged = self._clogged.exists()
        row = (told.authorization_nonce, told.value, not clogged)
        with self._file() as db:
            db.execute("INSERT INTO transfer VALUES (?,?,?)", row)
        if clogged:
            await asyncio.sleep(3600)  # until this worker is killed
        return Mined(told.authorization_nonce, 1, 1, 1)

    async def transferred(self, told: Authorization, token: Address) -> Mined | None:
        with self._file() as db:
            found = db.execute(
                "SELECT 1 FROM transfer WHERE authorization = ? AND mined",
                (told.authorization_nonce,),
            ).fetchone()
        return Mined(told.authorization_nonce, 1, 1, 1) if found else None

    async def claim(self, batch: Batch) -> Mined:
        raise NotImplementedError

    async def settle(self, receiver: Address, token: Address) -> Mined | None:
        raise NotImplementedError

    async def refund(self, channel: Channel, amount: int) -> Mined:
        raise NotImplementedError

    async def token_balance(self, token: Address, holder: Address) -> int:
        raise NotImplementedError
