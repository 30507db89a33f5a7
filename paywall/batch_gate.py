"""The provider's conversation for `batch-settlement`, up to where the handler may run.

    voucher -- store.reserve --> Admission
    deposit -- put on chain -- store.reserve --> Admission
    refund  -- claimed and returned on chain --> Refunded

What stands in a voucher's way may be mended by a new reading of the chain, by the payment of the
same channel that is told before it, or by the end of a refund that nobody waits for: each is tried
once. What is refused after that is written down before it is told, for its payer then signs another
payment in its place. Ending an admission is one verb of the store, and the gate's own.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from secrets import token_urlsafe
from typing import Final, NoReturn

from paywall import receipts, telling
from paywall.admission import Admission, Repeated
from paywall.chain import Chain
from paywall.chores import Chores
from paywall.deposit_gate import DepositRules, Deposits, Filled
from paywall.mirror import Mirror
from paywall.notices import News
from paywall.protocol import once
from paywall.protocol.channel import NeedsChain, RefusedByChannel, Standing
from paywall.protocol.errors import ChainUnavailable, Reason, Refused, Unavailable
from paywall.protocol.once import Ticket
from paywall.protocol.schemes.batch import (
    BatchOffer,
    BatchTerms,
    DepositPayment,
    VoucherPayment,
    channel_id_of,
)
from paywall.protocol.x402 import PaymentPayload
from paywall.quote import Offer, Quote
from paywall.refunds import Refunded, Refunds
from paywall.refusal_memory import RefusalMemory
from paywall.refusal_queue import RefusalQueue
from paywall.running import Running
from paywall.stores import Store

_BY_CHAIN: Final = (Reason.EXCEEDS_BALANCE, Reason.CHANNEL_CLOSING)
"""What a top-up, or the end of a withdrawal, would mend without telling us."""
_PAID_ANEW: Final = (Reason.CUMULATIVE_MISMATCH, Reason.EXCEEDS_BALANCE, Reason.BELOW_CLAIMED)
"""After these a client signs another payment for the same request."""

_NAME_BYTES: Final = 6
_NAMES_AT_ONCE: Final = 256


def _names() -> Iterator[str]:
    """Of requests among those of their channel; short, because a store remembers many."""
    while True:
        drawn = token_urlsafe(_NAME_BYTES * _NAMES_AT_ONCE)
        size = len(drawn) // _NAMES_AT_ONCE
        yield from [drawn[at : at + size] for at in range(0, len(drawn), size)]


class BatchGate:
    """The part of a gate that lets in what is paid over channels. `clock` gives Unix seconds."""

    def __init__(
        self,
        terms: BatchTerms,
        how: DepositRules,
        store: Store,
        chain: Chain,
        mirror: Mirror,
        chores: Chores,
        running: Running,
        clock: Callable[[], float],
        news: News,
    ) -> None:
        self._terms = terms
        self._store = store
        self._mirror = mirror
        self._running = running
        self._clock = clock
        self._news = news
        self._refused = RefusalQueue()
        self._memory = RefusalMemory(store, clock)
        self.deposits = Deposits(terms, how, store, chain, mirror, chores, self._reserve, clock)
        self._refunds = Refunds(store, chain, mirror, chores, self.deposits.payers, clock)
        self._names = _names()

    def open(self) -> None:
        self._names = _names()  # of this process: a fork of it draws its own

    async def admit(
        self,
        payload: PaymentPayload,
        quote: Quote,
        offer: Offer | None,
        ticket: Ticket | None,
        route: str,
    ) -> Admission | Refunded | Repeated:
        """Lets a paid request in, makes the refund that is asked for, or answers once more.

        `offer` is the one of the quote that the payment accepts. Raises Refused or Unavailable.
        """
        try:
            try:
                if not isinstance(offer, BatchOffer):
                    _refuse_other(payload, quote, offer)
                payment = offer.check(payload.payload, int(self._clock()))
            except Refused:
                await self._look_up(payload, ticket)
                raise
            if isinstance(payment, VoucherPayment):
                return await self._admit_voucher(payment, quote.price, ticket, route)
            if isinstance(payment, DepositPayment):
                return await self._admit_deposit(payment, quote.price, ticket, route)
            return await self._refunds.make(payment, ticket)
        except once.AnsweredBefore as before:
            return await self._repeat(payload, before)
        except once.RefusedBefore as before:
            raise await self._memory.again(self._channel_id(payload), before) from before

    # -- Once ------------------------------------------------------------------------------------

    async def _look_up(self, payload: PaymentPayload, ticket: Ticket | None) -> None:
        """A payment that is worth nothing now may have been answered before, so a client that lost
        its answer gets it although the price has changed meanwhile, or its deposit's authorization
        has expired.
        """
        if ticket:
            with suppress(Refused):
                await self._store.look_up(self._channel_id(payload), ticket)

    def _channel_id(self, payload: PaymentPayload) -> bytes:
        return channel_id_of(payload.payload, self._terms.asset.network)

    async def _repeat(self, payload: PaymentPayload, before: once.AnsweredBefore) -> Repeated:
        answer = once.decode_answer(before.answer)
        channel = await self._store.channel(self._channel_id(payload))
        if channel is None:
            raise Refused(Reason.ANSWER_NOT_KEPT)
        return Repeated(answer, receipts.repeated(channel, answer, before.total))

    async def _remember(self, refusal: RefusedByChannel, ticket: Ticket | None) -> None:
        if refusal.reason in _PAID_ANEW:
            await self._memory.keep(refusal.channel.channel_id, ticket)

    # -- By a voucher ----------------------------------------------------------------------------

    async def _admit_voucher(
        self, payment: VoucherPayment, price: int, ticket: Ticket | None, route: str
    ) -> Admission:
        channel_id, request = payment.channel_id, next(self._names)
        try:
            standing = await self._reserve(payment, price, request, ticket)
        except RefusedByChannel as refusal:
            standing = await self._in_turn(refusal, payment, price, request, ticket)
        self._refused.passed(channel_id)
        self._running.begin((channel_id, request))
        network = self._terms.asset.network
        return Admission(request, price, payment, standing, network, ticket, route=route)

    async def _in_turn(
        self,
        refusal: RefusedByChannel,
        payment: VoucherPayment,
        price: int,
        request: str,
        ticket: Ticket | None,
    ) -> Standing:
        """Once more, when another payment of this channel was to be told first. Raises Refused."""
        if refusal.reason is Reason.CUMULATIVE_MISMATCH and await self._refused.wait(
            payment.channel_id
        ):
            try:
                return await self._reserve(payment, price, request, ticket)
            except RefusedByChannel as again:
                refusal = again
        await self._remember(refusal, ticket)
        raise refusal

    async def _reserve(
        self, payment: VoucherPayment, price: int, request: str, ticket: Ticket | None
    ) -> Standing:
        """Once, and once more when a new reading of the chain may mend what stood in the way."""
        channel_id, voucher = payment.channel_id, payment.voucher
        is_read = False
        while True:
            try:
                return await self._store.reserve(channel_id, voucher, price, request, ticket)
            except (Unavailable, asyncio.CancelledError):
                self._running.drop(channel_id, request, ticket)
                raise
            except NeedsChain as error:
                if is_read:
                    raise ChainUnavailable(
                        "the chain's last word on this channel is too old"
                    ) from error
                obstacle: NeedsChain | RefusedByChannel = error
            except RefusedByChannel as refusal:
                if is_read:
                    raise
                obstacle = refusal
            await self._ask_chain(obstacle, payment, price)
            is_read = True

    async def _ask_chain(
        self, obstacle: NeedsChain | RefusedByChannel, payment: VoucherPayment, price: int
    ) -> None:
        """Takes a new reading of the channel. Raises the refusal that no reading would mend."""
        if isinstance(obstacle, NeedsChain):
            evidence = payment.voucher.amount - price
            self._refunds.take_up(await self._mirror.observe(payment, evidence))
            return
        if obstacle.reason not in _BY_CHAIN:
            raise obstacle
        if obstacle.channel.is_unmined:
            if not await self.deposits.mined(payment.channel_id):
                raise Refused(Reason.DEPOSIT_UNDER_WAY) from None
        elif not self._mirror.is_old(obstacle.channel.chain):
            raise obstacle
        self._refunds.take_up(await self._mirror.observe(payment, 0))

    # -- With a deposit --------------------------------------------------------------------------

    async def _admit_deposit(
        self, payment: DepositPayment, price: int, ticket: Ticket | None, route: str
    ) -> Admission:
        try:
            filled = await self._filled(payment, price, ticket)
        except RefusedByChannel as refusal:
            await self._remember(refusal, ticket)
            raise
        voucher = payment.payment
        self._running.begin((voucher.channel_id, filled.request))
        admission = Admission(
            filled.request,
            price,
            voucher,
            filled.standing,
            self._terms.asset.network,
            ticket,
            payment.deposit.amount,
            filled.transaction,
            filled.funding,
            route,
        )
        telling.deposited(self._news, admission)
        return admission

    async def _filled(self, payment: DepositPayment, price: int, ticket: Ticket | None) -> Filled:
        """Makes a deposit; once more, when a refund was in its way of which nobody saw the end."""
        try:
            return await self.deposits.admit(payment, price, ticket)
        except RefusedByChannel as refusal:
            is_closing = refusal.reason is Reason.CHANNEL_CLOSING
            if not is_closing or not await self._refunds.make_way(refusal.channel):
                raise
        return await self.deposits.admit(payment, price, ticket)


def _refuse_other(payload: PaymentPayload, quote: Quote, offer: Offer | None) -> NoReturn:
    """Says why a payment is for none of this scheme's offers here."""
    if offer is None:
        quote.offer_for(bytes(payload.accepted))  # knows why there is none
    raise Refused(Reason.OFFER_MISMATCH)
