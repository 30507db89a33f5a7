"""The provider's conversation: offer, admit, charge, release. It knows a Store and a Chain.

    header -- check (pure) --> payment -- store.reserve --> Admission -- handler --
        success -- store.charge --> receipt          otherwise -- store.release

Each value is made from the last and handed on; nothing is verified or looked up twice. The gate
does not know HTTP: an edge shows it the payment header and sends what it returns. It raises
`Refused` for the other side's fault and `Unavailable` for ours, and then nothing was charged.

How a payment is let in is a matter of its scheme (`paywall.batch_gate`, `paywall.exact_gate`); what
runs, and what became of its holds, `paywall.running` knows.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Final

from paywall import receipts, telling
from paywall.admission import Admission, Admitted, ExactAdmission, Repeated, has_failed
from paywall.alarms import Board
from paywall.batch_gate import BatchGate
from paywall.chain import Chain
from paywall.chores import Chores
from paywall.clock import steady_time
from paywall.deposit_gate import DepositRules
from paywall.exact_gate import ExactGate, ExactRules, is_exact
from paywall.gas_watch import GasWatch
from paywall.mirror import PAUSES_SECONDS, Mirror
from paywall.notices import NOBODY, News
from paywall.protocol import once
from paywall.protocol.errors import ConfigurationError, HoldLost, Reason, Refused, Unavailable
from paywall.protocol.limits import HOLD_RENEW_SECONDS
from paywall.protocol.once import Answer
from paywall.protocol.schemes.batch import BatchTerms
from paywall.protocol.schemes.exact import ExactOffer, ExactTerms
from paywall.protocol.x402 import PaymentPayload, decode_payment
from paywall.quote import Offer, Quote
from paywall.refunds import Refunded
from paywall.running import Cut, Running
from paywall.stores import Store

log = logging.getLogger("paywall.gate")

_DEPOSITS: Final = DepositRules()


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
        self._news = news
        self._chores = Chores()
        self._running = Running(store, self._chores, terms.withdraw_delay_seconds, clock)
        mirror = Mirror(store, chain, self._chores, clock)
        heard = GasWatch(chain, Board.of(deposits.alarms))
        self._batch = BatchGate(
            terms, deposits, store, heard, mirror, self._chores, self._running, clock, news
        )
        self._channels = channels
        self._exact: ExactGate | None = None
        if exact:
            paid = ExactTerms(terms.asset, terms.pay_to, terms.timeout_seconds)
            self._exact = ExactGate(
                paid, exact, store, heard, self._chores, clock, mirror.strangers
            )
        self._renewer: asyncio.Task[None] | None = None
        self.quote = lru_cache(maxsize=1024)(self._quote)

    async def open(self) -> None:
        self._batch.open()
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
        return await self._batch.admit(payload, quote, offer, ticket, route)

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

    @property
    def _transfers(self) -> ExactGate:
        assert self._exact is not None, "somebody else let this request in"
        return self._exact

    # -- In the background -----------------------------------------------------------------------

    def abandon(self, admission: Admitted) -> None:
        """Lets a request go of which nobody knows whether it was charged; its answer is withheld.

        If it was charged after all, this changes nothing.
        """
        if isinstance(admission, ExactAdmission):
            return  # its charge has seen to that
        channel_id = admission.payment.channel_id
        self._running.drop(channel_id, admission.request, admission.ticket)

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

    async def _renew_forever(self) -> None:
        """Keeps the holds of requests that take longer than a hold lasts."""
        while True:
            before = self._running.keys()
            await asyncio.sleep(HOLD_RENEW_SECONDS)
            try:
                self._running.end_overdue()
                await self._running.renew(before)
                if self._exact:
                    await self._exact.renew()
                await self._batch.deposits.review()
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
