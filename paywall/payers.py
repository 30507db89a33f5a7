"""The accounts of payers in the store: how often each lets us pay gas, and for how many channels.

The rule is `paywall.protocol.payers`; here it is applied over all workers of a store. One account
more is that of all payers together (`paywall.crowd`). It is looked at first and written last, so
that who is refused, for whatever reason, takes nothing from the others; nor does what has cost no
gas: a deposit without funds, which costs its signer nothing, or a refund that our wallet cannot pay
for. That is undone for its payer too, except in its own rate.
"""

from collections.abc import Callable
from typing import Final

from paywall.crowd import Crowd
from paywall.protocol import payers
from paywall.protocol.channel import Channel
from paywall.protocol.eip712 import keccak
from paywall.protocol.errors import Reason, Refused
from paywall.protocol.limits import PAYER_SECONDS
from paywall.protocol.money import Address
from paywall.protocol.payers import Account, Errand, PayerLimits
from paywall.stores import Store
from paywall.stores.slips import change, slips_of

_KEPT_MS: Final = PAYER_SECONDS * 1000


class Payers:
    """All payers of one provider on one network. Who has bought for `worth` units may top up."""

    def __init__(
        self, limits: PayerLimits, worth: int, network: str, store: Store, crowd: Crowd
    ) -> None:
        self._limits = limits
        self._worth = worth
        self._network = network
        self._store = store
        self._slips = slips_of(store)
        self._crowd = crowd

    async def deposits(self, payer: Address, channel_id: bytes, charged: int) -> Errand:
        """A deposit is about to be made into a channel that was charged this much so far.

        Raises Refused when this payer makes too many, or has too many channels, or when all payers
        together make too many.
        """
        known = await self._read(payer)
        closed: frozenset[bytes] = frozenset()
        if payers.is_full(known, channel_id, self._limits):
            closed = await self._closed(known)
        errand = await self._begun(payer, known, channel_id, charged)

        def rule(account: Account, now_ms: int) -> Account:
            if errand.is_of_crowd:
                account = payers.counted(account, self._limits, now_ms)
            account = payers.with_channel(account, channel_id, charged, closed)
            if len(account.channels) > self._limits.channels:
                raise Refused(Reason.TOO_MANY_CHANNELS)
            return account

        await self._count(errand, rule)
        return errand

    async def refunds(self, payer: Address, channel_id: bytes, charged: int) -> Errand:
        """A refund is about to be made from a channel that was charged this much.

        Raises Refused when this payer asks for too many, or all payers together that bought little.
        """
        errand = await self._begun(payer, await self._read(payer), channel_id, charged)

        def rule(account: Account, now_ms: int) -> Account:
            account = payers.counted(account, self._limits, now_ms)
            return payers.emptied(account, channel_id, charged)

        await self._count(errand, rule)
        return errand

    async def undo(self, errand: Errand) -> None:
        """It has cost no gas: its place is another's, and its payer may ask again as before."""
        await self._change(errand.payer, lambda account, now_ms: payers.undone(account, errand))
        if errand.is_of_crowd:
            await self._crowd.leave()

    async def _begun(
        self, payer: Address, known: Account, channel_id: bytes, charged: int
    ) -> Errand:
        is_of_crowd = payers.bought(known, channel_id, charged) < self._worth
        if is_of_crowd:
            await self._crowd.knock()
        return Errand(payer, channel_id, charged, known.channels.get(channel_id), is_of_crowd)

    async def _count(self, errand: Errand, rule: Callable[[Account, int], Account]) -> None:
        await self._change(errand.payer, rule)
        if errand.is_of_crowd:
            await self._crowd.join()

    async def _read(self, payer: Address) -> Account:
        return payers.decode((await self._slips.read(self._key(payer)))[0])

    async def _change(self, payer: Address, rule: Callable[[Account, int], Account]) -> None:
        def apply(data: bytes | None, now_ms: int) -> bytes:
            return payers.encode(rule(payers.decode(data), now_ms))

        await change(self._slips, self._key(payer), apply, _KEPT_MS)

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
