"""A chain in an SQLite file: all that several worker processes need of one, and no more.

A deposit is a row; a channel's balance is the sum of its rows, and the block is how many rows
there are. Nothing is ever claimed or withdrawn. It is no model of the contract: it is there so that
a test of the store has channels with money in them.
"""

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
from paywall.protocol.money import Address
from paywall.protocol.schemes.batch import Deposit

_SCHEMA = """
CREATE TABLE IF NOT EXISTS deposit (
    block INTEGER PRIMARY KEY AUTOINCREMENT, authorization BLOB UNIQUE, channel BLOB, amount INTEGER
)
"""


class FileChain:
    """`paywall.chain.Chain`, as far as requests need it."""

    network = NETWORK
    receiver_authorizer = TERMS.receiver_authorizer

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._file() as db:
            db.execute(_SCHEMA)

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

    async def claim(self, batch: Batch) -> Mined:
        raise NotImplementedError

    async def settle(self, receiver: Address, token: Address) -> Mined | None:
        raise NotImplementedError

    async def refund(self, channel: Channel, amount: int) -> Mined:
        raise NotImplementedError

    async def token_balance(self, token: Address, holder: Address) -> int:
        raise NotImplementedError
