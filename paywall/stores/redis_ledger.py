"""The ledger in Redis: a stream in every bucket, written by the script that charges.

A stream's entries are named by the time of its server and a number, so all buckets are one ledger
in the order of time. Of equal times the smaller bucket comes first; a position names all three.
"""

import asyncio
from collections.abc import Sequence
from typing import Final, NamedTuple, cast

from paywall.protocol import ledger
from paywall.protocol.ledger import Row
from paywall.stores.redis_calls import Calls

_AHEAD: Final = 16
"""Rows that are read of a bucket besides its share of a page."""

_Entry = tuple[bytes, list[bytes]]
"""What Redis says of an entry: its name, and its fields and values, flat."""


class Position(NamedTuple):
    """Where a row stands."""

    at_ms: int
    number: int
    bucket: int

    @classmethod
    def of(cls, text: str) -> "Position":
        """Raises ValueError."""
        at_ms, number, bucket = map(int, text.split("-")) if text else (0, 0, -1)
        return cls(at_ms, number, bucket)

    def __str__(self) -> str:
        return f"{self.at_ms}-{self.number}-{self.bucket}"

    def first_of(self, bucket: int) -> bytes:
        """What comes behind this position in a bucket, as the beginning of a range."""
        exclusive = b"(" if bucket <= self.bucket else b""
        return exclusive + b"%d-%d" % (self.at_ms, self.number)


class RedisLedger:
    """The streams of one store."""

    def __init__(self, calls: Calls, tags: Sequence[bytes], slots: Sequence[int]) -> None:
        self._calls = calls
        self._tags = tags
        self._slots = slots

    async def read(self, after: str, until_ms: int, limit: int) -> list[Row]:
        """The next rows; a page may be shorter than its limit, and an empty one is the end."""
        start = Position.of(after)
        count = _AHEAD + limit // len(self._tags)
        end = b"(%d-0" % until_ms
        replies = await asyncio.gather(
            *(
                self._ask("XRANGE", bucket, start.first_of(bucket), end, b"COUNT", b"%d" % count)
                for bucket in range(len(self._tags))
            )
        )
        pages = [
            [_row(bucket, entry) for entry in cast("list[_Entry]", reply)]
            for bucket, reply in enumerate(replies)
        ]
        # Behind the last row of a bucket that may have more, others' rows have to wait.
        full = [page[-1][0] for page in pages if len(page) == count]
        found = sorted(row for page in pages for row in page)
        if full:
            found = [row for row in found if row[0] <= min(full)]
        return [row for _, row in found[:limit]]

    async def trim(self, through: str) -> int:
        """Drops the rows up to this position; how many there were."""
        position = Position.of(through)
        replies = await asyncio.gather(
            *(
                self._ask("XTRIM", bucket, b"MINID", b"=", _kept_from(position, bucket))
                for bucket in range(len(self._tags))
            )
        )
        return sum(cast("list[int]", replies))

    def _ask(self, command: str, bucket: int, *words: bytes) -> "asyncio.Future[object]":
        reply = self._calls.ask(self._slots[bucket], command, self._tags[bucket] + b"log", *words)
        return cast("asyncio.Future[object]", reply)


def _kept_from(position: Position, bucket: int) -> bytes:
    number = position.number + (1 if bucket <= position.bucket else 0)
    return b"%d-%d" % (position.at_ms, number)


def _row(bucket: int, entry: _Entry) -> tuple[Position, Row]:
    name, fields = entry
    at_ms, _, number = name.partition(b"-")
    position = Position(int(at_ms), int(number), bucket)
    told = dict(zip(fields[::2], fields[1::2], strict=True))
    line = told.get(b"l") or ledger.adopted(told[b"i"], int(told[b"a"]))
    return position, ledger.row_of(str(position), position.at_ms, line)
