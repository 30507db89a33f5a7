"""The verbs of a store as rules over one record, written once for every store that runs Python.

A *rule* is a function of (what is stored, now in ms) that returns what should be stored, or
raises; returning the very record it was given means that there is nothing to write. A store that
builds on `RuleStore` only says how one rule is applied atomically. It may run rules of several
callers one after the other in one transaction, because a rule that raises has changed nothing.
The money is decided in `paywall.protocol.channel`, and what a payment's id means in
`paywall.protocol.once`; here stands only what a record's absence means.
"""

import asyncio
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from paywall.protocol import channel as channels
from paywall.protocol import ledger, once
from paywall.protocol.channel import (
    ChainState,
    Channel,
    ChannelConfig,
    NeedsChain,
    Standing,
    Voucher,
)
from paywall.protocol.errors import HoldLost
from paywall.protocol.once import Entry, Ticket
from paywall.stores.leases import EntryRule, RuleLeases
from paywall.stores.tallies import RuleTallies


class Slot(msgspec.Struct, frozen=True, gc=False):
    """A channel's record, and the entry of one payment's id when a rule asks for it.

    What a rule returns may have a `line` for the ledger.
    """

    record: Channel | None
    entry: Entry | None = None
    line: bytes = b""


Rule = Callable[[Slot, int], Slot]

_LEASE: Final = "lease"
_SPENT: Final = "spent"
"""What is spent is kept as an entry too, under a name that is too short for a payment's id."""


def owed(channel: Channel) -> int:
    """What a claim could collect now. Without a signature nothing can be claimed."""
    return channel.unclaimed if channel.voucher else 0


class RuleStore(RuleLeases, RuleTallies):
    """The verbs of `paywall.stores.Store`, for a store that can apply a rule to a record."""

    @abstractmethod
    async def _apply(self, channel_id: bytes, rule: Rule, payment_id: str = "") -> Slot:
        """Atomically: read, apply, write what changed, and return what the rule returned.

        With a `payment_id` the slot has that payment's entry; returned as None, it is dropped.
        """

    async def channel(self, channel_id: bytes) -> Channel | None:
        return (await self._apply(channel_id, lambda slot, now_ms: slot)).record

    async def look_up(self, channel_id: bytes, ticket: Ticket) -> None:
        def rule(slot: Slot, now_ms: int) -> Slot:
            once.check(slot.entry, ticket, "", _running(slot, now_ms), now_ms)
            return slot

        await self._apply(channel_id, rule, ticket.payment_id)

    async def refuse(self, channel_id: bytes, ticket: Ticket) -> None:
        def rule(slot: Slot, now_ms: int) -> Slot:
            once.check(slot.entry, ticket, "", _running(slot, now_ms), now_ms)
            record, entry = slot.record, once.live(slot.entry, now_ms)
            if record and entry and entry.request in record.holds:
                # Its time is over; should its worker only have been slow, it is not charged either.
                record = channels.release(record, entry.request)
            return Slot(record, once.refused(ticket, now_ms))

        await self._apply(channel_id, rule, ticket.payment_id)

    async def reserve(
        self,
        channel_id: bytes,
        voucher: Voucher,
        price: int,
        request: str,
        ticket: Ticket | None = None,
    ) -> Standing:
        def rule(slot: Slot, now_ms: int) -> Slot:
            record, entry = _known(slot.record), slot.entry
            if ticket:
                once.check(entry, ticket, request, _running(slot, now_ms), now_ms)
                entry = once.started(ticket, request, now_ms)
            held = channels.reserve(record, voucher, price, request, now_ms)
            return Slot(channels.check(held), entry)

        payment_id = ticket.payment_id if ticket else ""
        return _standing(await self._apply(channel_id, rule, payment_id))

    async def charge(
        self,
        channel_id: bytes,
        request: str,
        amount: int,
        ticket: Ticket | None = None,
        answer: bytes = b"",
        line: bytes = b"",
    ) -> Standing:
        def rule(slot: Slot, now_ms: int) -> Slot:
            record, entry = slot.record, once.live(slot.entry, now_ms)
            if record is None:
                raise HoldLost("the channel of this request is gone")
            if entry and entry.request == request and entry.answer is not None:
                return slot
            # A charge of nothing leaves no entry that could remember it.
            remember = ticket is None or amount == 0
            charged = channels.charge(record, request, amount, remember)
            if charged is record:
                return slot  # charged before; the entry may be another request's by now
            row = line if amount else b""
            if ticket is None or amount == 0:
                return Slot(charged, None, row)
            total = charged.charged
            return Slot(charged, once.answered(ticket, request, answer, total, now_ms), row)

        payment_id = ticket.payment_id if ticket else ""
        return _standing(await self._apply(channel_id, rule, payment_id))

    async def release(self, channel_id: bytes, request: str, ticket: Ticket | None = None) -> None:
        def rule(slot: Slot, now_ms: int) -> Slot:
            if slot.record is None or request not in slot.record.holds:
                return slot
            return Slot(channels.release(slot.record, request))

        await self._apply(channel_id, rule, ticket.payment_id if ticket else "")

    async def renew(self, holds: list[tuple[bytes, str]]) -> None:
        requests: dict[bytes, list[str]] = defaultdict(list)
        for channel_id, request in holds:
            requests[channel_id].append(request)
        await asyncio.gather(*(self._renew(*item) for item in requests.items()))

    async def _keep(self, name: bytes, rule: EntryRule) -> Entry | None:
        return await self._entry(name, _LEASE, rule)

    async def _entry(self, key: bytes, name: str, rule: EntryRule) -> Entry | None:
        def apply(slot: Slot, now_ms: int) -> Slot:
            return Slot(slot.record, rule(slot.entry, now_ms))

        return (await self._apply(key, apply, name)).entry

    async def _renew(self, channel_id: bytes, requests: Sequence[str]) -> None:
        def rule(slot: Slot, now_ms: int) -> Slot:
            record = slot.record
            for request in requests:
                if record and request in record.holds:
                    record = channels.renew(record, request, now_ms)
            return Slot(record)

        await self._apply(channel_id, rule)

    async def spend(self, key: bytes, owner: str, ttl_ms: int) -> bool:
        def rule(slot: Slot, now_ms: int) -> Slot:
            if once.live(slot.entry, now_ms):
                return slot
            return Slot(slot.record, Entry(b"", owner, now_ms + ttl_ms))

        entry = (await self._apply(key, rule, _SPENT)).entry
        return entry is not None and entry.request == owner

    async def record(
        self,
        channel_id: bytes,
        network: str,
        config: ChannelConfig,
        chain: ChainState,
        evidence: int,
        proof: Voucher | None = None,
    ) -> Channel:
        def rule(slot: Slot, now_ms: int) -> Slot:
            before = slot.record
            if before is None:
                known = (channel_id, network, config)
                after = channels.open_channel(*known, chain, evidence, proof)
            else:
                after = channels.observe(before, chain)
            return Slot(after, None, _risen(before, after))

        return _known((await self._apply(channel_id, rule)).record)

    async def begin_refund(
        self, channel_id: bytes, voucher: Voucher | None, amount: int | None, request: str
    ) -> Channel:
        def rule(slot: Slot, now_ms: int) -> Slot:
            record = _known(slot.record)
            return Slot(channels.begin_refund(record, voucher, amount, request, now_ms))

        return _known((await self._apply(channel_id, rule)).record)

    async def end_refund(
        self, channel_id: bytes, request: str, chain: ChainState | None
    ) -> Channel:
        def rule(slot: Slot, now_ms: int) -> Slot:
            before = _known(slot.record)
            after = channels.end_refund(before, request, chain)
            return Slot(after, None, _risen(before, after))

        return _known((await self._apply(channel_id, rule)).record)


def _risen(before: Channel | None, after: Channel) -> bytes:
    """The ledger's line for a total that rose without a request."""
    risen = after.charged - (before.charged if before else 0)
    return ledger.adopted(after.channel_id, risen) if risen else b""


def _known(record: Channel | None) -> Channel:
    if record is None:
        raise NeedsChain("no record of this channel")
    return record


def _standing(slot: Slot) -> Standing:
    return _known(slot.record).standing


def _running(slot: Slot, now_ms: int) -> bool:
    """Whether the request that the entry belongs to is alive."""
    if slot.record is None or slot.entry is None:
        return False
    hold = slot.record.holds.get(slot.entry.request)
    return hold is not None and hold.deadline_ms > now_ms
