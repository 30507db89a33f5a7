"""The cooperative refund: set aside in the store, claimed and returned on chain, recorded.

The contract claims what the channel owes and returns the rest in one transaction, so nothing is
half done. What is set aside cannot be promised by a request meanwhile, and stays set aside until
the chain shows its end: a transaction of which nobody saw the end may be mined at any time, and
what was signed in it may be sent by anybody. So such a refund is sent again, under its nonce, when
the channel is used the next time: one of the two is mined, whichever it is.

Source: batch-settlement EVM specification, "Refund Payload".
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from secrets import token_hex

from msgspec.structs import replace

from paywall import receipts
from paywall.chain import Chain
from paywall.chain.own import FeeTooHigh
from paywall.chores import Chores
from paywall.mirror import PAUSES_SECONDS, Mirror
from paywall.payers import Payers
from paywall.protocol import channel as rules
from paywall.protocol.channel import (
    ChainState,
    Channel,
    NeedsChain,
    Refunding,
    RefusedByChannel,
)
from paywall.protocol.eip712 import keccak
from paywall.protocol.errors import (
    ChainUnavailable,
    OutOfGas,
    PaymentError,
    Reason,
    Refused,
    Reverted,
    Unavailable,
)
from paywall.protocol.limits import ANSWER_SECONDS
from paywall.protocol.once import Ticket
from paywall.protocol.payers import Errand
from paywall.protocol.schemes.batch import RefundPayment, VoucherPayment
from paywall.stores import Store
from paywall.stores.slips import slips_of

log = logging.getLogger("paywall.gate")


@dataclass(frozen=True, slots=True)
class Refunded:
    """A refund that was made instead of a request."""

    receipt: str
    channel_id: bytes


class Refunds:
    """Makes the refunds that payers ask for."""

    def __init__(
        self,
        store: Store,
        chain: Chain,
        mirror: Mirror,
        chores: Chores,
        payers: Payers,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._chain = chain
        self._mirror = mirror
        self._chores = chores
        self._payers = payers
        self._clock = clock
        self._slips = slips_of(store)

    async def make(self, wish: RefundPayment, ticket: Ticket | None) -> Refunded:
        """Raises Refused (also RefusedByChannel), or Unavailable: then nothing was seen to go back.

        With a ticket the same wish is fulfilled once, and gets its receipt again.
        """
        payment = wish.payment
        if made := await self._made_before(payment, ticket):
            return made
        await self._mirror.refresh(payment)
        before = await self._set_aside(wish)
        found = await self._made_or_counted(payment, before, ticket)
        if isinstance(found, Refunded):
            await self._over(before, None)
            return found
        # In a task of its own: a payer that hangs up does not leave the refund unrecorded.
        work = self._send(payment, before, found, ticket)
        key = b"refund" + payment.channel_id + _set_aside_of(before).request.encode()
        receipt = await self._chores.once(key, work)
        return Refunded(receipt, payment.channel_id)

    async def _set_aside(self, wish: RefundPayment) -> Channel:
        channel_id, voucher, request = wish.payment.channel_id, wish.payment.voucher, token_hex(8)
        try:
            return await self._store.begin_refund(channel_id, voucher, wish.amount, request)
        except (Unavailable, asyncio.CancelledError):
            self._chores.behind(self._forget(channel_id, request))
            raise
        except RefusedByChannel as refusal:
            raise RefusedByChannel(refusal.reason, refusal.channel, zero_charge=True) from refusal

    async def _forget(self, channel_id: bytes, request: str) -> None:
        """Ends a refund of which nobody knows whether it was set aside: it will not be sent."""
        for pause_seconds in (0.0, *PAUSES_SECONDS):
            await asyncio.sleep(pause_seconds)
            with suppress(Unavailable):
                with suppress(NeedsChain):
                    await self._store.end_refund(channel_id, request, None)
                return
        log.warning("a refund that was asked for may be made later: the store does not answer")

    async def _made_or_counted(
        self, payment: VoucherPayment, channel: Channel, ticket: Ticket | None
    ) -> Refunded | Errand:
        """What the wish has brought, for it may have ended a moment ago, or what it counts as."""
        try:
            made = await self._made_before(payment, ticket)
            payer, charged = payment.config.payer, channel.charged
            return made or await self._payers.refunds(payer, payment.channel_id, charged)
        except BaseException:
            await self._over(channel, None)
            raise

    async def _send(
        self, payment: VoucherPayment, channel: Channel, errand: Errand, ticket: Ticket | None
    ) -> str:
        amount, request = _set_aside_of(channel).amount, _set_aside_of(channel).request
        try:
            mined = await self._chain.refund(channel, amount)
        except (Refused, OutOfGas, FeeTooHigh):  # nothing was sent
            await self._unsent(channel, errand)
            raise
        except Reverted as error:  # somebody moved the channel on chain meanwhile
            await self._look(channel, channel.chain.block)
            if not error.has_left:
                await self._unsent(channel, errand)
            raise ChainUnavailable(f"the refund was not made: {error}") from error
        chain = await self._mirror.read(payment.channel_id, mined.block)
        after = rules.end_refund(channel, request, chain)
        receipt = receipts.refunded(after, mined.transaction, amount)
        # Noted while it is still set aside, so that no copy finds neither the one nor the other.
        await self._note(payment, ticket, receipt)
        await self._over(channel, chain)
        return receipt

    async def _unsent(self, channel: Channel, errand: Errand) -> None:
        await self._over(channel, None)
        with suppress(Unavailable):  # why it was not sent is the better answer
            await self._payers.undo(errand)

    async def _look(self, channel: Channel, block: int) -> None:
        await self._over(channel, await self._mirror.read(channel.channel_id, block))

    async def _over(self, channel: Channel, chain: ChainState | None) -> None:
        """What was set aside then is no more, unless it may still be mined; nor is it where the
        store has lost the channel meanwhile: the payer's next voucher brings it back as the chain
        has it.
        """
        with suppress(NeedsChain):
            request = _set_aside_of(channel).request
            await self._store.end_refund(channel.channel_id, request, chain)

    # -- Again -----------------------------------------------------------------------------------

    def take_up(self, channel: Channel) -> None:
        """Sees to a refund that was sent, or should have been, and that nobody waits for any more.

        The channel is as the chain has it now. What is sent is what its payer has asked for then.
        """
        refunding = channel.refunding
        if refunding and rules.is_overdue(refunding, int(self._clock() * 1000)):
            self._chores.behind(self._take_up(channel))

    async def make_way(self, channel: Channel) -> bool:
        """Ends a refund that nobody waits for any more, for a deposit that it keeps away.

        False where there is none. Its payer may have withdrawn meanwhile what was to go back: then
        nothing moves any more, but what was signed could return the deposit until its nonce is
        counted. Raises Unavailable while that is not seen.
        """
        refunding = channel.refunding
        if not refunding or not rules.is_overdue(refunding, int(self._clock() * 1000)):
            return False
        await self._again(channel)
        known = await self._store.channel(channel.channel_id)
        if known and known.refunding and known.refunding.amount:
            raise ChainUnavailable("a refund of this channel is not seen to be made yet")
        return True

    async def _again(self, channel: Channel) -> None:
        await self._chores.once(b"refund again" + channel.channel_id, self._resend(channel))

    async def _take_up(self, channel: Channel) -> None:
        try:
            await self._again(channel)
        except PaymentError as error:
            log.warning("a refund whose end nobody saw is not made yet: %s", error)

    async def _resend(self, channel: Channel) -> None:
        """Where nothing was left to return, nothing is shown to have moved, and it is over too."""
        block = channel.chain.block
        # What was withdrawn cannot be claimed with it: that would revert.
        there = max(channel.claimed, min(channel.charged, channel.balance))
        try:
            wanted = replace(channel, charged=there), _set_aside_of(channel).amount
            block = (await self._chain.refund(*wanted)).block
        except (Reverted, Refused, ChainUnavailable) as error:
            log.warning("a refund that was sent again is not seen to be made: %s", error)
        await self._look(channel, block)

    # -- Once ------------------------------------------------------------------------------------

    async def _made_before(self, payment: VoucherPayment, ticket: Ticket | None) -> Refunded | None:
        """What this very wish has brought before. Raises Refused for another under its id."""
        if ticket is None:
            return None
        found, _ = await self._slips.read(_key(payment, ticket))
        if found is None:
            return None
        size = len(ticket.fingerprint)
        if found[:size] != ticket.fingerprint:
            raise Refused(Reason.PAYMENT_ID_REUSED)
        return Refunded(found[size:].decode(), payment.channel_id)

    async def _note(self, payment: VoucherPayment, ticket: Ticket | None, receipt: str) -> None:
        if ticket:
            told = ticket.fingerprint + receipt.encode()
            await self._slips.swap(_key(payment, ticket), None, told, ANSWER_SECONDS * 1000)


def _set_aside_of(channel: Channel) -> Refunding:
    assert channel.refunding is not None
    return channel.refunding


def _key(payment: VoucherPayment, ticket: Ticket) -> bytes:
    return keccak(b"paywall:refund:" + payment.channel_id + ticket.payment_id.encode())
