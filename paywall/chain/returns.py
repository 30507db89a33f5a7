"""Giving deposits back by the provider's own wish: one channel that is named, or all idle ones.

The same refund as a payer asks for: set aside in the store, so that no request can promise it
meanwhile, claimed and returned on chain in one transaction, recorded. It needs no word of the payer
as long as the highest voucher is exactly what was charged; a payer that has promised more may still
mean to use it, and asks for its refund itself.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from secrets import token_hex
from typing import Final

from paywall.chain import Chain, Mined
from paywall.chain.own import FeeTooHigh, OwnChain
from paywall.clock import steady_time
from paywall.protocol.channel import Channel, NeedsChain
from paywall.protocol.claims import Assets, ClaimPolicy, Costs
from paywall.protocol.errors import OutOfGas, PaymentError, Reverted, Unavailable
from paywall.protocol.money import KNOWN_ASSETS
from paywall.protocol.x402 import show_bytes
from paywall.stores import Store

log = logging.getLogger("paywall.claimer")

_LOOKS_PER_PERIOD: Final = 10


async def give_back(store: Store, chain: Chain, channel: Channel, amount: int | None) -> Mined:
    """Returns `amount` (all that is left when None) to the payer of a channel.

    Raises PaymentError, also Refused, Reverted and ChainUnavailable; a refund that may be on its
    way keeps its part of the balance until the contract has counted its nonce.
    """
    refuse_promised(channel)
    set_aside = await _set_aside(store, channel, amount)
    assert set_aside.refunding is not None
    this = channel.channel_id, set_aside.refunding.request
    try:
        mined = await chain.refund(set_aside, set_aside.refunding.amount)
    except Reverted as error:
        await store.end_refund(*this, await chain.channel(channel.channel_id))
        if not error.has_left:
            await store.end_refund(*this, None)
        raise
    except (OutOfGas, FeeTooHigh):  # nothing was sent, so nothing stays set aside
        await store.end_refund(*this, None)
        raise
    await store.end_refund(*this, await chain.channel(channel.channel_id))
    return mined


async def _set_aside(store: Store, channel: Channel, amount: int | None) -> Channel:
    request = token_hex(8)
    try:
        return await store.begin_refund(channel.channel_id, None, amount, request)
    except Unavailable:  # it may be set aside all the same, and will not be sent
        with suppress(Unavailable, NeedsChain):
            await store.end_refund(channel.channel_id, request, None)
        raise


def refuse_promised(channel: Channel) -> None:
    """Raises PaymentError when the payer has promised more than it was charged."""
    if channel.signed > channel.charged:
        raise PaymentError(
            f"the payer has promised {channel.signed} units and was charged {channel.charged}:"
            " it may still use the difference, and asks for its refund itself"
        )


class Returns:
    """Gives back the deposits of channels that nobody uses, as the owner's policy says.

    What is worth less than its fee stays: the owner pays the fee, and a payer must not be able to
    make it pay more than it brought.
    """

    def __init__(
        self,
        store: Store,
        chain: OwnChain,
        policy: ClaimPolicy,
        assets: Assets = KNOWN_ASSETS,
        clock: Callable[[], float] = steady_time,
    ) -> None:
        self._store = store
        self._chain = chain
        self._policy = policy
        self._assets = assets
        self._seconds = policy.refund_idle_seconds
        self._clock = clock
        self._next_look = 0.0

    async def idle(self) -> None:
        """Looks for idle channels, a few times in each period, and refunds them."""
        now = self._clock()
        if self._seconds is None or now < self._next_look:
            return
        costs = Costs(await self._chain.gas_price_wei())
        self._next_look = now + self._seconds / _LOOKS_PER_PERIOD
        after = b""
        while page := await self._store.channels(after):
            for channel in page:
                if self._is_idle(channel, now) and self._is_worth_it(channel, costs):
                    await self._give_back(channel)
            after = page[-1].channel_id

    def _is_idle(self, channel: Channel, now: float) -> bool:
        assert self._seconds is not None
        used_at_ms = channel.used_at_ms or channel.chain.read_at_ms
        return (
            channel.network == self._chain.network
            and channel.refundable > 0
            and channel.signed == channel.charged
            and not channel.holds
            and not channel.chain.withdraw_requested_at
            and now * 1000 - used_at_ms >= self._seconds * 1000
        )

    def _is_worth_it(self, channel: Channel, costs: Costs) -> bool:
        asset = self._assets.get((channel.network, channel.config.token))
        if asset is None:
            return True  # nobody says what it is worth
        return channel.refundable > self._policy.of(asset).fee(costs.refund_wei())

    async def _give_back(self, channel: Channel) -> None:
        try:
            await give_back(self._store, self._chain, channel, None)
        except PaymentError as error:
            log.warning("no refund of idle %s: %s", show_bytes(channel.channel_id), error)
