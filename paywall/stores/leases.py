"""Leases and notes in a store that applies Python's rules to a record.

A lease and its notes are one entry under the lease's name, so they change together; the rule is
`paywall.protocol.lease`. An entry expires, a lease's does not: its token must never come again.

A clock that was ahead and steps back leaves the lease of a worker that died in the meantime for
as long as the step: to take it earlier would be to take it, at every such step, from those that
live. No claim is made meanwhile, so a payer that withdraws then may be faster.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final

from paywall.protocol import lease as leases
from paywall.protocol.lease import Lease
from paywall.protocol.once import Entry

_NEVER_MS: Final = 2**62

EntryRule = Callable[[Entry | None, int], Entry | None]
LeaseRule = Callable[[Lease | None, int], Lease | None]


class RuleLeases(ABC):
    """The maintenance verbs of `paywall.stores.Store`."""

    @abstractmethod
    async def _keep(self, name: bytes, rule: EntryRule) -> Entry | None:
        """Applies a rule to the entry of a lease, atomically, and returns what it returned."""

    async def lease(self, name: str, owner: str, ttl_ms: int) -> int | None:
        taken: Lease | None = None

        def rule(lease: Lease | None, now_ms: int) -> Lease | None:
            nonlocal taken
            taken = leases.take(lease, owner, ttl_ms, now_ms)
            return taken or lease

        await self._lease(name, rule)
        return taken.token if taken else None

    async def note(self, name: str) -> bytes | None:
        job, key = leases.parts(name)
        lease = await self._lease(job, lambda lease, now_ms: lease)
        return lease.notes.get(key) if lease else None

    async def put_note(self, name: str, value: bytes | None, token: int) -> None:
        job, key = leases.parts(name)
        await self._lease(job, lambda lease, now_ms: leases.write(lease, key, value, token))

    async def _lease(self, name: str, rule: LeaseRule) -> Lease | None:
        def apply(entry: Entry | None, now_ms: int) -> Entry | None:
            before = leases.decode(entry.answer if entry else None)
            after = rule(before, now_ms)
            if after is before or after is None:
                return entry
            return Entry(b"", "", _NEVER_MS, leases.encode(after))

        entry = await self._keep(name.encode(), apply)
        return leases.decode(entry.answer if entry else None)
