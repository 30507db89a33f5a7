"""Leases and notes in Redis: one hash per lease, in a slot of their own, beside all channels.

The rule is that of `paywall.protocol.lease`, restated in two scripts.
"""

from abc import ABC, abstractmethod
from typing import Final, cast

from paywall.protocol.lease import LeaseLost, parts
from paywall.stores.redis_calls import Calls
from paywall.stores.redis_nodes import slot_of
from paywall.stores.redis_scripts import Script

_TAG: Final = b"lease"


class RedisLeases(ABC):
    """The maintenance verbs of `paywall.stores.Store`."""

    @abstractmethod
    def _opened(self) -> Calls: ...

    @abstractmethod
    def _script(self, name: str) -> Script: ...

    @abstractmethod
    def _prefix(self) -> str: ...

    async def lease(self, name: str, owner: str, ttl_ms: int) -> int | None:
        script, slot, keys = self._script("lease"), slot_of(_TAG), (self._lease_key(name),)
        token = await self._opened().run(script, slot, keys, (owner, ttl_ms))
        return cast(int, token) or None

    async def note(self, name: str) -> bytes | None:
        job, key = parts(name)
        reply = await self._opened().ask(slot_of(_TAG), "HGET", self._lease_key(job), f"n:{key}")
        return cast("bytes | None", reply)

    async def put_note(self, name: str, value: bytes | None, token: int) -> None:
        job, key = parts(name)
        arguments = (token, key) if value is None else (token, key, value)
        keys = (self._lease_key(job),)
        script = self._script("put_note")
        if not await self._opened().run(script, slot_of(_TAG), keys, arguments):
            raise LeaseLost("this lease has passed to somebody else")

    def _lease_key(self, name: str) -> bytes:
        return f"{self._prefix()}:{{{_TAG.decode()}}}:".encode() + name.encode().hex().encode()
