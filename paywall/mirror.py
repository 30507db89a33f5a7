"""The store's mirror of the chain: reads a channel where it lives and records what it says."""

import asyncio
from collections.abc import Callable
from typing import Final

from paywall.chain import Chain
from paywall.chores import Chores
from paywall.protocol.channel import ChainState, Channel
from paywall.protocol.eip712 import word
from paywall.protocol.errors import ChainUnavailable, Reason, Refused
from paywall.protocol.schemes.batch import VoucherPayment
from paywall.stores import Store
from paywall.strangers import Strangers

REREAD_MS: Final = 5_000
"""A reading that is older than this is taken again before the chain's word decides a refusal."""

PAUSES_SECONDS: Final = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)


class Mirror:
    """What the store knows of the chain's channels, brought up to date on demand."""

    def __init__(
        self, store: Store, chain: Chain, chores: Chores, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._chain = chain
        self._chores = chores
        self._clock = clock
        self.strangers = Strangers(clock)

    def is_old(self, chain: ChainState) -> bool:
        return self._clock() * 1000 - chain.read_at_ms >= REREAD_MS

    async def observe(
        self, payment: VoucherPayment, evidence: int, block: int = 0, deposited: int = 0
    ) -> Channel:
        """Reads the channel from the chain into the store; one reading serves all who wait.

        `evidence` is what the payer's own signature implies was charged, for a store that knows
        nothing. It means nothing where all that the channel holds was `deposited` just now: then a
        first payment was signed that never came here. Raises Refused when there is no such
        channel, or too many others were looked for, and ChainUnavailable.
        """
        known = await self._store.channel(payment.channel_id) is not None
        reading = _reading(payment.channel_id, block)
        if not known and not deposited and not self._chores.runs(reading):
            self.strangers.look_for(payment.channel_id)
        chain = await self.state(payment.channel_id, block)
        if chain.balance == deposited and not chain.claimed:
            evidence = 0
        if chain.balance == 0 and not known:
            self.strangers.absent(payment.channel_id)
            raise Refused(Reason.CHANNEL_NOT_FOUND)  # strangers' inventions are not written down
        self.strangers.present(payment.channel_id)
        channel = await self._store.record(
            payment.channel_id,
            self._chain.network,
            payment.config,
            chain,
            max(0, evidence),
            payment.voucher,
        )
        if channel.balance == 0:
            raise Refused(Reason.CHANNEL_NOT_FOUND)
        return channel

    async def refresh(self, payment: VoucherPayment) -> None:
        """Makes sure that the store's record is a fresh one. Raises Refused or ChainUnavailable."""
        known = await self._store.channel(payment.channel_id)
        if known and known.is_unmined:
            raise Refused(Reason.DEPOSIT_UNDER_WAY)
        if known is None or self.is_old(known.chain):
            await self.observe(payment, payment.voucher.amount)

    async def state(self, channel_id: bytes, block: int) -> ChainState:
        """The channel as of `block` or later, read once for all who ask now."""
        return await self._chores.once(_reading(channel_id, block), self.read(channel_id, block))

    async def read(self, channel_id: bytes, block: int) -> ChainState:
        """The channel as of `block` or later: an RPC behind a balancer may lag behind itself."""
        for pause_seconds in PAUSES_SECONDS:
            chain = await self._chain.channel(channel_id)
            if chain.block >= block:
                return chain
            await asyncio.sleep(pause_seconds)
        raise ChainUnavailable(f"the chain's view stays behind block {block}")


def _reading(channel_id: bytes, block: int) -> bytes:
    return channel_id + word(block)
