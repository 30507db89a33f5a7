"""The cooperative refund: set aside in the store, claimed and returned on chain, recorded.

The contract claims what the channel owes and returns the rest in one transaction, so nothing is
half done. What is set aside cannot be promised by a request meanwhile.

Source: batch-settlement EVM specification, "Refund Payload".
"""

from dataclasses import dataclass
from secrets import token_hex

from paywall import receipts
from paywall.chain import Chain, Mined
from paywall.chores import Chores
from paywall.mirror import Mirror
from paywall.payers import Payers
from paywall.protocol.channel import Channel, RefusedByChannel
from paywall.protocol.errors import ChainUnavailable, Refused, Reverted
from paywall.protocol.schemes.batch import RefundPayment, VoucherPayment
from paywall.stores import Store


@dataclass(frozen=True, slots=True)
class Refunded:
    """A refund that was made instead of a request."""

    receipt: str
    channel_id: bytes


class Refunds:
    """Makes the refunds that payers ask for."""

    def __init__(
        self, store: Store, chain: Chain, mirror: Mirror, chores: Chores, payers: Payers
    ) -> None:
        self._store = store
        self._chain = chain
        self._mirror = mirror
        self._chores = chores
        self._payers = payers

    async def make(self, wish: RefundPayment) -> Refunded:
        """Raises Refused (also RefusedByChannel), or Unavailable: then nothing went back yet."""
        payment = wish.payment
        await self._mirror.refresh(payment)
        try:
            before = await self._store.begin_refund(
                payment.channel_id, payment.voucher, wish.amount, token_hex(8)
            )
        except RefusedByChannel as refusal:
            raise RefusedByChannel(refusal.reason, refusal.channel, zero_charge=True) from refusal
        assert before.refunding is not None
        try:
            await self._payers.refunds(payment.config.payer)
        except BaseException:
            await self._store.end_refund(payment.channel_id, None)
            raise
        amount = before.refunding.amount
        # In a task of its own: a payer that hangs up does not leave the refund unrecorded.
        mined, after = await self._chores.once(
            b"refund" + payment.channel_id, self._send(payment, before, amount)
        )
        return Refunded(receipts.refunded(after, mined.transaction, amount), payment.channel_id)

    async def _send(
        self, payment: VoucherPayment, channel: Channel, amount: int
    ) -> tuple[Mined, Channel]:
        try:
            mined = await self._chain.refund(channel, amount)
        except Refused:
            await self._store.end_refund(payment.channel_id, None)
            raise
        except Reverted as error:  # somebody moved the channel on chain meanwhile
            chain = await self._mirror.read(payment.channel_id, channel.chain.block)
            await self._store.end_refund(payment.channel_id, chain)
            raise ChainUnavailable(f"the refund was not made: {error}") from error
        chain = await self._mirror.read(payment.channel_id, mined.block)
        return mined, await self._store.end_refund(payment.channel_id, chain)
