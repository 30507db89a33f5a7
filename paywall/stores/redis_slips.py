"""Slips in Redis: one script, and keys beside those of the channels, in the bucket of their digest.

A slip is the only thing that keeps a payment from buying twice, so writing one waits for replicas
as strictly as a voucher does. Reading one does not: nothing is let in by that alone, and whoever
looks after a store that has lost a replica must be able to look.
"""

from dataclasses import replace
from hashlib import sha256
from typing import Final, cast

from paywall.stores import Found, Slips, Store
from paywall.stores.redis import RedisStore
from paywall.stores.redis_scripts import Script, make, prelude, whole_text

_READ: Final = make("slip", whole_text("slip", prelude()))
"""With nothing to write it writes nothing."""
_SWAP: Final = replace(_READ, writes=True, strict=True)


def slips_of(store: Store) -> Slips | None:
    return RedisSlips(store) if isinstance(store, RedisStore) else None


class RedisSlips:
    def __init__(self, store: RedisStore) -> None:
        self._store = store

    async def read(self, key: bytes) -> Found:
        return await self._run(_READ, key, None, None, 0)

    async def swap(
        self,
        key: bytes,
        before: bytes | None,
        after: bytes | None,
        ttl_ms: int,
        line: bytes = b"",
    ) -> Found:
        return await self._run(_SWAP, key, before, after, ttl_ms, line)

    async def _run(
        self,
        script: Script,
        key: bytes,
        before: bytes | None,
        after: bytes | None,
        ttl_ms: int,
        line: bytes = b"",
    ) -> Found:
        digest = sha256(key).digest()
        tag = self._store._tags[digest[0]]
        keys = (tag + b"s:" + digest.hex().encode(), tag + b"log")
        arguments = (before or b"", after or b"", ttl_ms, line)
        reply = await self._store._ask(script, digest, keys, arguments)
        found, now_ms = cast("list[bytes]", reply)
        return found or None, int(now_ms)
