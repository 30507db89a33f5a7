"""The verbs of a store as rules over one record, written once for every store that runs Python.

A *rule* is a function of (record or None, now in ms) that returns the record as it should be, or
raises; returning the very record it was given means that there is nothing to write. A store that
builds on `RuleStore` only says how one rule is applied atomically. It may run rules of several
callers one after the other in one transaction, because a rule that raises has changed nothing.
The money is decided in `paywall.protocol.channel`; here stands only what a record's absence means.
"""

import asyncio
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TypeVar

from paywall.protocol import channel as channels
from paywall.protocol.channel import ChainState, Channel, ChannelConfig, NeedsChain, Voucher
from paywall.protocol.errors import HoldLost

R = TypeVar("R", bound=Channel | None)
Rule = Callable[[Channel | None, int], R]


def owed(channel: Channel) -> int:
    """What a claim could collect now. Without a signature nothing can be claimed."""
    return channel.unclaimed if channel.voucher else 0


class RuleStore(ABC):
    """The verbs of `paywall.stores.Store`, for a store that can apply a rule to a record."""

    @abstractmethod
    async def _apply(self, channel_id: bytes, rule: Rule[R]) -> R:
        """Atomically: read, apply, write what changed, and return what the rule returned."""

    async def channel(self, channel_id: bytes) -> Channel | None:
        return await self._apply(channel_id, lambda record, now_ms: record)

    async def reserve(
        self, channel_id: bytes, voucher: Voucher, price: int, request: str
    ) -> Channel:
        def rule(record: Channel | None, now_ms: int) -> Channel:
            held = channels.reserve(_known(record), voucher, price, request, now_ms)
            return channels.check(held)

        return await self._apply(channel_id, rule)

    async def charge(self, channel_id: bytes, request: str, amount: int) -> Channel:
        def rule(record: Channel | None, now_ms: int) -> Channel:
            if record is None:
                raise HoldLost("the channel of this request is gone")
            return channels.charge(record, request, amount)

        return await self._apply(channel_id, rule)

    async def release(self, channel_id: bytes, request: str) -> None:
        def rule(record: Channel | None, now_ms: int) -> Channel | None:
            if record is None or request not in record.holds:
                return record
            return channels.release(record, request)

        await self._apply(channel_id, rule)

    async def renew(self, holds: list[tuple[bytes, str]]) -> None:
        requests: dict[bytes, list[str]] = defaultdict(list)
        for channel_id, request in holds:
            requests[channel_id].append(request)
        await asyncio.gather(*(self._renew(*item) for item in requests.items()))

    async def _renew(self, channel_id: bytes, requests: Sequence[str]) -> None:
        def rule(record: Channel | None, now_ms: int) -> Channel | None:
            if record is None:
                return None
            for request in requests:
                if request in record.holds:
                    record = channels.renew(record, request, now_ms)
            return record

        await self._apply(channel_id, rule)

    async def record(
        self,
        channel_id: bytes,
        network: str,
        config: ChannelConfig,
        chain: ChainState,
        evidence: int,
    ) -> Channel:
        def rule(record: Channel | None, now_ms: int) -> Channel:
            if record is None:
                return channels.open_channel(channel_id, network, config, chain, evidence)
            return channels.observe(record, chain)

        return await self._apply(channel_id, rule)

    async def begin_refund(
        self, channel_id: bytes, voucher: Voucher, amount: int | None
    ) -> Channel:
        return await self._apply(
            channel_id,
            lambda record, now_ms: channels.begin_refund(_known(record), voucher, amount, now_ms),
        )

    async def end_refund(self, channel_id: bytes, chain: ChainState | None) -> Channel:
        return await self._apply(
            channel_id, lambda record, now_ms: channels.end_refund(_known(record), chain)
        )


def _known(record: Channel | None) -> Channel:
    if record is None:
        raise NeedsChain("no record of this channel")
    return record
