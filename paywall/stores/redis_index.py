"""Lists of channels, put together from the indexes of all buckets. For maintenance, not requests.

Every list is asked of all buckets in one pipeline per server, and only as much as is needed: a page
in the order of ids is one bucket after the other, since a bucket is an id's first byte; the largest
sums are drawn from all buckets, deeper only where a bucket gave nothing but winners.
"""

import asyncio
from collections.abc import Sequence
from heapq import nsmallest
from itertools import chain
from typing import cast

from paywall.stores.redis_calls import Calls

_Scored = tuple[float, bytes]
"""What a channel owes, negated and rounded, and its id."""


class Index:
    """The indexes of one store."""

    def __init__(self, calls: Calls, tags: Sequence[bytes], slots: Sequence[int]) -> None:
        self._calls = calls
        self._tags = tags
        self._slots = slots

    async def page(self, after: bytes, limit: int) -> list[bytes]:
        """The next ids in their order."""
        start = b"(" + after if after else b"-"
        buckets = range(after[0] if after else 0, len(self._tags))
        counts = await asyncio.gather(
            *(self._ask("ZLEXCOUNT", bucket, b"all", start, b"+") for bucket in buckets)
        )
        wanted, left = [], limit
        for bucket, count in zip(buckets, cast("list[int]", counts), strict=True):
            if count and left:
                wanted.append((bucket, min(count, left)))
                left -= min(count, left)
        pages = await asyncio.gather(
            *(
                self._ask("ZRANGE", bucket, b"all", start, b"+", "BYLEX", "LIMIT", 0, count)
                for bucket, count in wanted
            )
        )
        return list(chain.from_iterable(cast("list[list[bytes]]", pages)))

    async def largest(self, limit: int) -> list[bytes]:
        """The ids of those who owe most."""
        step = 8 + 2 * limit // len(self._tags)
        found: dict[bytes, float] = {}
        asking, depth = list(range(len(self._tags))), 0
        while True:
            drawn = await self._draw(asking, depth, step)
            for scored in drawn:
                found.update((channel_id, score) for score, channel_id in scored)
            top = nsmallest(limit, ((score, channel_id) for channel_id, score in found.items()))
            asking = [
                bucket
                for bucket, scored in zip(asking, drawn, strict=True)
                if len(scored) == step and (len(top) < limit or scored[-1] < top[-1])
            ]
            if not asking:
                return [channel_id for _, channel_id in top]
            depth += step

    async def _draw(self, buckets: list[int], depth: int, step: int) -> list[list[_Scored]]:
        replies = await asyncio.gather(
            *(
                self._ask("ZRANGE", bucket, b"due", depth, depth + step - 1, "WITHSCORES")
                for bucket in buckets
            )
        )
        flats = cast("list[list[bytes]]", replies)
        return [
            [(float(score), name) for name, score in zip(flat[::2], flat[1::2], strict=True)]
            for flat in flats
        ]

    def _ask(
        self, command: str, bucket: int, name: bytes, *words: str | bytes | int
    ) -> "asyncio.Future[object]":
        reply = self._calls.ask(self._slots[bucket], command, self._tags[bucket] + name, *words)
        return cast("asyncio.Future[object]", reply)
