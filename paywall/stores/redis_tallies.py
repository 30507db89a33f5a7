"""Counting requests in Redis: the rule of `paywall.stores.tallies`, restated in two scripts.

A count stands in the bucket of its key's digest, and expires by itself.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from hashlib import sha256

from paywall.protocol.limits import REMEMBERED_TAKES
from paywall.stores.redis_scripts import Script
from paywall.stores.redis_wire import Reply


class RedisTallies(ABC):
    """The counting verbs of `paywall.stores.Store`."""

    _tags: list[bytes]

    @abstractmethod
    def _script(self, name: str) -> Script: ...

    @abstractmethod
    def _ask(
        self,
        script: Script,
        channel_id: bytes,
        keys: Sequence[bytes],
        arguments: Sequence[str | bytes | int],
    ) -> "asyncio.Future[Reply]": ...

    async def take(self, key: bytes, request: str, limit: int, ttl_ms: int) -> bool:
        arguments = (request, limit, ttl_ms, REMEMBERED_TAKES)
        return bool(await self._tally("take", key, arguments))

    async def give_back(self, key: bytes, request: str) -> None:
        await self._tally("give_back", key, (request,))

    async def _tally(self, name: str, key: bytes, arguments: Sequence[str | bytes | int]) -> Reply:
        digest = sha256(key).digest()
        place = self._tags[digest[0]] + b"q:" + digest.hex().encode()
        return await self._ask(self._script(name), digest, (place,), arguments)
