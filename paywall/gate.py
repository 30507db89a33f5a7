"""The provider's conversation: offer, admit, charge, release. It knows a Store and a Chain.

    header -- check (pure) --> payment -- store.reserve --> Admission -- handler --
        success -- store.charge --> receipt          otherwise -- store.release

Each value is made from the last and handed on; nothing is verified or looked up twice. The gate
does not know HTTP: an edge shows it the payment header and sends what it returns. It raises
`Refused` for the other side's fault and `Unavailable` for ours, and then nothing was charged.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache
from secrets import token_urlsafe
from typing import Final

from paywall import receipts, telling
from paywall.chain import Chain
from paywall.chores import Chores
from paywall.clock import steady_time
from paywall.deposit_gate import DepositRules, Deposits, Filled, has_failed
from paywall.exact_gate import ExactGate, ExactRules, is_exact
from paywall.mirror import PAUSES_SECONDS, Mirror
from paywall.notices import NOBODY, News
from paywall.protocol import once
from paywall.protocol.channel import NeedsChain, RefusedByChannel, Standing
from paywall.protocol.errors import (
    ChainUnavailable,
    ConfigurationError,
    HoldLost,
    Reason,
    Refused,
    Unavailable,
)
from paywall.protocol.limits import HOLD_RENEW_SECONDS
from paywall.protocol.once import Answer, Ticket
from paywall.protocol.schemes.batch import (
    BatchOffer,
    BatchPayment,
    BatchTerms,
    DepositPayment,
    VoucherPayment,
    channel_id_of,
)
from paywall.protocol.schemes.exact import ExactOffer, ExactTerms
from paywall.protocol.x402 import PaymentPayload, decode_payment
from paywall.quote import Offer, Quote
from paywall.receipts import Admission, Admitted, ExactAdmission, Repeated
from paywall.refunds import Refunded, Refunds
from paywall.refusal_memory import RefusalMemory
from paywall.refusal_queue import RefusalQueue
from paywall.running import Cut, Running
from paywall.stores import Store

log = logging.getLogger("paywall.gate")

_DEPOSITS: Final = DepositRules()
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


class Gate:
    """One provider's terms over a store and a chain. `clock` gives Unix seconds.

    `exact` says how transfers are taken, if at all; `channels` whether vouchers are, and `deposits`
    how those of channels are.
    """

    def __init__(
        self,
        terms: BatchTerms,
        store: Store,
        chain: Chain,
        clock: Callable[[], float] = steady_time,
        exact: ExactRules | None = None,
        channels: bool = True,
        deposits: DepositRules = _DEPOSITS,
        news: News = NOBODY,
    ) -> None:
        self.terms = terms
        self.store = store
        self.chain = chain
        self._clock = clock
        self._news = news
        self._chores = Chores()
        self._refused = RefusalQueue()
        self._memory = RefusalMemory(store, clock)
        self._mirror = Mirror(store, chain, self._chores, clock)
        self._deposits = Deposits(
            terms,
            deposits,
            store,
            chain,
            self._mirror,
            self._chores,
            self._reserve,
            clock,
        )
        payers = self._deposits.payers
        self._refunds = Refunds(store, chain, self._mirror, self._chores, payers, clock)
        self._channels = channels
        self._exact: ExactGate | None = None
        if exact:
            paid = ExactTerms(terms.asset, terms.pay_to, terms.timeout_seconds)
            self._exact = ExactGate(
                paid, exact, store, chain, self._chores, clock, self._mirror.strangers
            )
        self._names = _names()
        self._running = Running(terms.withdraw_delay_seconds, clock)
        self._renewer: asyncio.Task[None] | None = None
        self.quote = lru_cache(maxsize=1024)(self._quote)

    async def open(self) -> None:
        self._names = _names()  # of this process: a fork of it draws its own
        await self.store.open()
        try:
            await self.chain.open()
        except BaseException:
            await self.store.close()
            raise
        self._renewer = asyncio.create_task(self._renew_forever())

    async def close(self) -> None:
        if self._renewer:
            self._renewer.cancel()
            with suppress(asyncio.CancelledError):
                await self._renewer
        await self._chores.close()
        await self.chain.close()
        await self.store.close()

    def _quote(self, price: int, metered: bool = False) -> Quote:
        """Every way to pay a price. A transfer pays exactly, so it cannot pay for what is metered.

        Raises ConfigurationError when there is none.
        """
        offers: list[Offer] = [self.terms.offer(price)] if self._channels else []
        if self._exact and not metered:
            offers += self._exact.offers(price)
        if not offers:
            show = self.terms.asset.show(price)
            raise ConfigurationError(f"no scheme is offered for {show}: see schemes, exact_minimum")
        return Quote.of(price, tuple(offers))

    # -- Admitting -------------------------------------------------------------------------------

    async def admit(
        self, header: str, quote: Quote, resource: bytes, route: str = ""
    ) -> Admitted | Refunded | Repeated:
        """Lets a paid request in, makes the refund that is asked for, or answers once more.

        `resource` is what is asked for; a payment's id is good for it alone. `route` is the name
        under which the ledger has it. Raises Refused or Unavailable; then nothing is held and
        nothing charged.
        """
        payload = decode_payment(header)
        extension = payload.extensions.get(once.EXTENSION) if payload.extensions else None
        ticket = once.ticket_of(extension, header.encode(), resource) if extension else None
        offer = _accepted(quote, payload)
        if self._exact and (isinstance(offer, ExactOffer) if offer else is_exact(payload)):
            return await self._exact.admit(payload, quote, ticket, resource, route)
        try:
            try:
                payment = self._checked(payload, quote, offer)
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

    def _checked(self, payload: PaymentPayload, quote: Quote, offer: Offer | None) -> BatchPayment:
        """What the payment is worth."""
        if isinstance(offer, BatchOffer):
            return offer.check(payload.payload, int(self._clock()))
        if offer is None:
            quote.offer_for(bytes(payload.accepted))  # says why there is none
        raise Refused(Reason.OFFER_MISMATCH)

    async def _look_up(self, payload: PaymentPayload, ticket: Ticket | None) -> None:
        """A payment that is worth nothing now may have been answered before, so a client that lost
        its answer gets it although the price has changed meanwhile, or its deposit's authorization
        has expired.
        """
        if ticket:
            with suppress(Refused):
                await self.store.look_up(self._channel_id(payload), ticket)

    def _channel_id(self, payload: PaymentPayload) -> bytes:
        return channel_id_of(payload.payload, self.terms.asset.network)

    async def _repeat(self, payload: PaymentPayload, before: once.AnsweredBefore) -> Repeated:
        answer = once.decode_answer(before.answer)
        channel = await self.store.channel(self._channel_id(payload))
        if channel is None:
            raise Refused(Reason.ANSWER_NOT_KEPT)
        return Repeated(answer, receipts.repeated(channel, answer, before.total))

    async def _admit_voucher(
        self, payment: VoucherPayment, price: int, ticket: Ticket | None, route: str
    ) -> Admission:
        request = next(self._names)
        try:
            standing = await self._reserve(payment, price, request, ticket)
        except RefusedByChannel as refusal:
            standing = await self._in_turn(refusal, payment, price, request, ticket)
        self._refused.passed(payment.channel_id)
        return self._admitted(request, price, payment, standing, ticket, route)

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

    async def _remember(self, refusal: RefusedByChannel, ticket: Ticket | None) -> None:
        if refusal.reason in _PAID_ANEW:
            await self._memory.keep(refusal.channel.channel_id, ticket)

    async def _admit_deposit(
        self, payment: DepositPayment, price: int, ticket: Ticket | None, route: str
    ) -> Admission:
        try:
            filled = await self._filled(payment, price, ticket)
        except RefusedByChannel as refusal:
            await self._remember(refusal, ticket)
            raise
        request, standing, amount = filled.request, filled.standing, payment.deposit.amount
        voucher = payment.payment
        return self._admitted(request, price, voucher, standing, ticket, route, filled, amount)

    async def _filled(self, payment: DepositPayment, price: int, ticket: Ticket | None) -> Filled:
        """Makes a deposit; once more, when a refund was in its way of which nobody saw the end."""
        try:
            return await self._deposits.admit(payment, price, ticket)
        except RefusedByChannel as refusal:
            is_closing = refusal.reason is Reason.CHANNEL_CLOSING
            if not is_closing or not await self._refunds.make_way(refusal.channel):
                raise
        return await self._deposits.admit(payment, price, ticket)

    def _admitted(
        self,
        request: str,
        price: int,
        payment: VoucherPayment,
        standing: Standing,
        ticket: Ticket | None,
        route: str,
        filled: Filled | None = None,
        deposited: int = 0,
    ) -> Admission:
        self._running.begin((payment.channel_id, request))
        network = self.terms.asset.network
        if filled is None:
            return Admission(request, price, payment, standing, network, ticket, route=route)
        admission = Admission(
            request,
            price,
            payment,
            standing,
            network,
            ticket,
            deposited,
            filled.transaction,
            filled.funding,
            route,
        )
        telling.deposited(self._news, admission)
        return admission

    async def _reserve(
        self, payment: VoucherPayment, price: int, request: str, ticket: Ticket | None
    ) -> Standing:
        """Once, and once more when a new reading of the chain may mend what stood in the way."""
        channel_id, voucher = payment.channel_id, payment.voucher
        is_read = False
        while True:
            try:
                return await self.store.reserve(channel_id, voucher, price, request, ticket)
            except (Unavailable, asyncio.CancelledError):
                self._chores.behind(self._clear(channel_id, request, ticket))
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
            if not await self._deposits.mined(payment.channel_id):
                raise Refused(Reason.DEPOSIT_UNDER_WAY) from None
        elif not self._mirror.is_old(obstacle.channel.chain):
            raise obstacle
        self._refunds.take_up(await self._mirror.observe(payment, 0))

    # -- Ending ----------------------------------------------------------------------------------

    async def charge(
        self, admission: Admitted, amount: int, answer: Answer | None = None, is_out: bool = False
    ) -> str:
        """Charges a served request and returns its receipt. Raises HoldLost or Unavailable.

        `answer` is kept for a client that loses it, when its payment has an id. A transfer may
        fail even now, and so may a deposit that was trusted, unless the answer `is_out`: Refused.
        """
        if isinstance(admission, ExactAdmission):
            receipt = await self._transfers.charge(admission, amount, answer)
            telling.charged(self._news, admission, admission.fits(amount))
            return receipt
        if admission.funding and has_failed(admission.funding) and not is_out:
            await self.release(admission)
            raise Refused(Reason.DEPOSIT_FAILED)
        channel_id, ticket = admission.payment.channel_id, admission.ticket
        kept = once.encode_answer(answer) if answer and ticket else b""
        try:
            standing = await self.store.charge(
                channel_id, admission.request, amount, ticket, kept, admission.line(amount)
            )
        finally:
            self._running.end((channel_id, admission.request))
        telling.charged(self._news, admission, amount)
        return receipts.paid(admission, standing.chain, amount, standing.charged)

    def ceiling_receipt(self, admission: Admitted) -> str:
        """The receipt at the head of a metered answer: the most that it can cost."""
        assert isinstance(admission, Admission), "what is metered is not paid by transfers"
        price, standing = admission.price, admission.standing
        return receipts.paid(admission, standing.chain, price, standing.charged + price)

    def cut_by(self, admission: Admitted, cut: Cut) -> None:
        """How a metered answer is ended and charged that takes too long."""
        assert isinstance(admission, Admission), "what is metered is not paid by transfers"
        self._running.cut_by((admission.payment.channel_id, admission.request), cut)

    async def release(self, admission: Admitted) -> str | None:
        """Lets a request go uncharged; a receipt only where money was moved for it."""
        if isinstance(admission, ExactAdmission):
            return await self._transfers.release(admission)
        channel_id, standing = admission.payment.channel_id, admission.standing
        self._running.end((channel_id, admission.request))
        await self.store.release(channel_id, admission.request, admission.ticket)
        if not admission.deposited or has_failed(admission.funding):
            return None
        return receipts.paid(admission, standing.chain, 0, standing.charged)

    def failure(self, refusal: Refused) -> str:
        """The receipt of a payment that was refused."""
        return receipts.failed(refusal, self.terms.asset.network)

    # -- In the background -----------------------------------------------------------------------

    @property
    def _transfers(self) -> ExactGate:
        assert self._exact is not None, "somebody else let this request in"
        return self._exact

    def abandon(self, admission: Admitted) -> None:
        """Lets a request go of which nobody knows whether it was charged; its answer is withheld.

        If it was charged after all, this changes nothing.
        """
        if isinstance(admission, ExactAdmission):
            return  # its charge has seen to that
        channel_id = admission.payment.channel_id
        self._chores.behind(self._clear(channel_id, admission.request, admission.ticket))

    async def _clear(self, channel_id: bytes, request: str, ticket: Ticket | None) -> None:
        """Drops a hold of which nobody knows whether it is there.

        So that the same payment is good again when the store is.
        """
        for pause_seconds in (0.0, *PAUSES_SECONDS):
            await asyncio.sleep(pause_seconds)
            with suppress(Unavailable):
                return await self.store.release(channel_id, request, ticket)
        log.warning("a hold is left to expire: the store does not answer")

    def collect(self, admission: Admitted, amount: int, answer: Answer | None = None) -> None:
        """Charges, in the background, what is owed already: the store was away, or the charge was
        cut off."""
        assert isinstance(admission, Admission), "transfers are settled before the answer leaves"
        self._chores.behind(self._collect(admission, amount, answer))

    async def _collect(self, admission: Admission, amount: int, answer: Answer | None) -> None:
        for pause_seconds in (0.0, *PAUSES_SECONDS):
            await asyncio.sleep(pause_seconds)
            try:
                await self.charge(admission, amount, answer, is_out=True)
                return
            except Unavailable:
                continue
            except HoldLost:
                break
        log.error("a request of channel %s was not charged", admission.payment.channel_id.hex())

    def _end_overdue(self) -> None:
        """A request that its client can draw out is not charged when its channel is empty."""
        for (channel_id, request), cut in self._running.overdue():
            log.warning("a request of channel %s took too long", channel_id.hex())
            if cut:
                cut()
            else:
                self._chores.behind(self._clear(channel_id, request, None))

    async def _renew_forever(self) -> None:
        """Keeps the holds of requests that take longer than a hold lasts."""
        while True:
            before = self._running.keys()
            await asyncio.sleep(HOLD_RENEW_SECONDS)
            try:
                self._end_overdue()
                held = [*(before & self._running.keys())]
                if held:
                    await self.store.renew(held)
                if self._exact:
                    await self._exact.renew()
                await self._deposits.review()
            except Unavailable as error:
                log.warning("holds of running requests not renewed: %s", error)
            except Exception:  # a renewer that dies would drop everybody's holds
                log.exception("holds of running requests not renewed")


def _accepted(quote: Quote, payload: PaymentPayload) -> Offer | None:
    """What a payment accepts of what is offered; None for anything else."""
    try:
        return quote.offer_for(bytes(payload.accepted))
    except Refused:
        return None
