"""The accounts of payers in the store: how often each lets us pay gas, and for how many channels.

The rule is `paywall.protocol.payers`; here it is applied over all workers of a store.
"""

from typing import Final

from paywall.protocol import payers
from paywall.protocol.channel import Channel
from paywall.protocol.eip712 import keccak
from paywall.protocol.errors import Reason, Refused
from paywall.protocol.limits import PAYER_SECONDS
from paywall.protocol.money import Address
from paywall.protocol.payers import Account, PayerLimits
from paywall.stores import Store
from paywall.stores.slips import change, slips_of

_KEPT_MS: Final = PAYER_SECONDS * 1000


class Payers:
    """All payers of one provider on one network. Who has bought for `worth` units may top up."""

    def __init__(self, limits: PayerLimits, worth: int, network: str, store: Store) -> None:
        self._limits = limits
        self._worth = worth
        self._network = network
        self._store = store
        self._slips = slips_of(store)

    async def deposits(self, payer: Address, channel_id: bytes, charged: int) -> None:
        """A deposit is about to be made into a channel that was charged this much so far.

        Raises Refused when this payer makes too many, or has too many channels.
        """
        key = self._key(payer)
        known = payers.decode((await self._slips.read(key))[0])
        closed: frozenset[bytes] = frozenset()
        if payers.is_full(known, channel_id, self._limits):
            closed = await self._closed(known)

        def rule(data: bytes | None, now_ms: int) -> bytes:
            account = payers.decode(data)
            if payers.bought(account, channel_id, charged) < self._worth:
                account = payers.counted(account, self._limits, now_ms)
            account = payers.with_channel(account, channel_id, charged, closed)
            if len(account.channels) > self._limits.channels:
                raise Refused(Reason.TOO_MANY_CHANNELS)
            return payers.encode(account)

        await change(self._slips, key, rule, _KEPT_MS)

    async def refunds(self, payer: Address) -> None:
        """A refund is about to be made. Raises Refused when this payer asks for too many."""

        def rule(data: bytes | None, now_ms: int) -> bytes:
            account = payers.decode(data)
            return payers.encode(payers.counted(account, self._limits, now_ms))

        await change(self._slips, self._key(payer), rule, _KEPT_MS)

    async def _closed(self, account: Account) -> frozenset[bytes]:
        """Its channels that hold nothing any more."""
        closed = set()
        for channel_id in account.channels:
            channel = await self._store.channel(channel_id)
            if channel is None or _is_closed(channel):
                closed.add(channel_id)
        return frozenset(closed)

    def _key(self, payer: Address) -> bytes:
        return keccak(b"paywall:payer:" + self._network.encode() + payer)


def _is_closed(channel: Channel) -> bool:
    return channel.remaining <= 0 and not channel.holds and channel.unclaimed <= 0
