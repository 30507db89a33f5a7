"""The accounts of payers in the store: how often each lets us pay gas, and for how many channels.

The rule is `paywall.protocol.payers`; here it is applied over all workers of a store. One account
more is that of all payers together, the crowd. It is looked at first and written last, so that who
is refused, for whatever reason, takes nothing from the others; nor does a deposit that the chain
refuses before it has cost gas, as one without funds: those cost their signers nothing.
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
_CROWD_KEPT_MS: Final = 2 * payers.HOUR_MS


class Payers:
    """All payers of one provider on one network. Who has bought for `worth` units may top up."""

    def __init__(self, limits: PayerLimits, worth: int, network: str, store: Store) -> None:
        self._limits = limits
        self._worth = worth
        self._network = network
        self._store = store
        self._slips = slips_of(store)
        self._crowd = keccak(b"paywall:payers:" + network.encode())

    async def deposits(self, payer: Address, channel_id: bytes, charged: int) -> bool:
        """A deposit is about to be made into a channel that was charged this much so far.

        Returns whether it is counted among those of all payers. Raises Refused when this payer
        makes too many, or has too many channels, or when all payers together make too many.
        """
        key = self._key(payer)
        known = payers.decode((await self._slips.read(key))[0])
        closed: frozenset[bytes] = frozenset()
        if payers.is_full(known, channel_id, self._limits):
            closed = await self._closed(known)
        counts = payers.bought(known, channel_id, charged) < self._worth
        if counts:
            await self._refuse_crowd()

        def rule(data: bytes | None, now_ms: int) -> bytes:
            account = payers.decode(data)
            if counts:
                account = payers.counted(account, self._limits, now_ms)
            account = payers.with_channel(account, channel_id, charged, closed)
            if len(account.channels) > self._limits.channels:
                raise Refused(Reason.TOO_MANY_CHANNELS)
            return payers.encode(account)

        await change(self._slips, key, rule, _KEPT_MS)
        if counts:
            await self._join_crowd()
        return counts

    async def leave_crowd(self) -> None:
        """What was counted among the deposits of all payers has cost no gas: it is another's."""

        def rule(data: bytes | None, now_ms: int) -> bytes | None:
            if data is None:
                return None
            return payers.encode(payers.uncounted_in_all(payers.decode(data), self._limits))

        await change(self._slips, self._crowd, rule, _CROWD_KEPT_MS)

    async def refunds(self, payer: Address, channel_id: bytes, charged: int) -> None:
        """A refund is about to be made from a channel that was charged this much.

        Raises Refused when this payer asks for too many, or all payers together that bought little.
        """
        key = self._key(payer)
        known = payers.decode((await self._slips.read(key))[0])
        joins = payers.bought(known, channel_id, charged) < self._worth
        if joins:
            await self._refuse_crowd()

        def rule(data: bytes | None, now_ms: int) -> bytes:
            account = payers.counted(payers.decode(data), self._limits, now_ms)
            return payers.encode(payers.emptied(account, channel_id, charged))

        await change(self._slips, key, rule, _KEPT_MS)
        if joins:
            await self._join_crowd()

    async def _refuse_crowd(self) -> None:
        """Raises Refused when the next errand would be one too many of all."""
        data, now_ms = await self._slips.read(self._crowd)
        self._in_all(data, now_ms)

    async def _join_crowd(self) -> None:
        await change(self._slips, self._crowd, self._in_all, _CROWD_KEPT_MS)

    def _in_all(self, data: bytes | None, now_ms: int) -> bytes:
        return payers.encode(payers.counted_in_all(payers.decode(data), self._limits, now_ms))

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
