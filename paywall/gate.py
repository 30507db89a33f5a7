"""The provider's conversation: offer, admit, charge, release. It knows a Store and a Chain.

    header -- check (pure) --> payment -- store.reserve --> Admission -- handler --
        success -- store.charge --> receipt          otherwise -- store.release

Each value is made from the last and handed on; nothing is verified or looked up twice. The gate
does not know HTTP: an edge shows it the payment header and sends what it returns. It raises
`Refused` for the other side's fault and `Unavailable` for ours, and then nothing was charged.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from secrets import token_hex
from typing import Any, Final, TypeVar
from weakref import WeakValueDictionary

from msgspec import UNSET, Raw, UnsetType
from msgspec.structs import replace

from paywall.chain import Chain, Mined
from paywall.protocol import channel as rules
from paywall.protocol.channel import ChainState, Channel, NeedsChain, RefusedByChannel, Standing
from paywall.protocol.eip712 import word
from paywall.protocol.errors import (
    ChainUnavailable,
    HoldLost,
    Reason,
    Refused,
    Reverted,
    Unavailable,
)
from paywall.protocol.limits import HOLD_RENEW_SECONDS
from paywall.protocol.schemes.batch import (
    BatchOffer,
    BatchTerms,
    DepositPayment,
    ReceiptExtra,
    RefundPayment,
    VoucherPayment,
    channel_state,
)
from paywall.protocol.x402 import (
    VERSION,
    Malformed,
    PaymentRequired,
    PaymentRequirements,
    Resource,
    SettlementResponse,
    decode_payment,
    decode_requirements,
    encode_header,
    encode_json,
    show_address,
    show_bytes,
)
from paywall.stores import Store

log = logging.getLogger("paywall.gate")

REREAD_MS: Final = 5_000
"""A refusal that the chain might take back is checked there when its reading is older than this."""

READ_PAUSES_SECONDS: Final = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)

_BY_CHAIN: Final = (Reason.EXCEEDS_BALANCE, Reason.CHANNEL_CLOSING)
"""What a top-up, or the end of a withdrawal, would mend without telling us."""

_MAX_KEPT_BYTES: Final = 2048
"""An `accepted` that is longer than any honest one is read each time: memory is ours."""

_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class Quote:
    """Every way to pay one price, encoded once."""

    price: int
    offers: tuple[BatchOffer, ...]
    accepts: list[Raw] = field(repr=False)

    def offer_for(self, accepted: bytes) -> BatchOffer:
        """The offer that a payment accepts. The same bytes come each time, so this is kept."""
        if len(accepted) > _MAX_KEPT_BYTES:
            return self._offer_for(accepted)
        return self._offer_kept(accepted)

    @lru_cache(maxsize=4096)  # noqa: B019 - quotes are few and live as long as their gate
    def _offer_kept(self, accepted: bytes) -> BatchOffer:
        return self._offer_for(accepted)

    def _offer_for(self, accepted: bytes) -> BatchOffer:
        try:
            requirements = decode_requirements(accepted)
        except Malformed as error:
            raise Refused(Reason.MALFORMED_PAYMENT, f"(accepted: {error})") from error
        for offer in self.offers:
            if offer.matches(requirements):
                return offer
        raise Refused(Reason.OFFER_MISMATCH)

    def header(self, resource: Resource, error: str, refusal: Refused | None = None) -> str:
        """The PAYMENT-REQUIRED header; corrective when a channel's own state is the reason."""
        accepts = self.accepts
        if isinstance(refusal, RefusedByChannel):
            accepts = [_raw(offer.corrected(refusal.channel)) for offer in self.offers]
        return encode_header(
            PaymentRequired(x402_version=VERSION, error=error, resource=resource, accepts=accepts)
        )


@dataclass(frozen=True, slots=True, eq=False)
class Admission:
    """A request that may be served: its hold, and what the chain has taken for it."""

    request: str
    price: int
    payment: VoucherPayment
    standing: Standing
    deposited: int = 0
    transaction: bytes = b""


@dataclass(frozen=True, slots=True)
class Refunded:
    """A refund that was made instead of a request."""

    receipt: str
    channel_id: bytes


class Gate:
    """One provider's terms over a store and a chain."""

    def __init__(
        self,
        terms: BatchTerms,
        store: Store,
        chain: Chain,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.terms = terms
        self.store = store
        self.chain = chain
        self._clock = clock
        self._running: dict[str, bytes] = {}
        self._flights: dict[bytes, asyncio.Task[Any]] = {}
        self._chores: set[asyncio.Task[None]] = set()
        self._renewer: asyncio.Task[None] | None = None
        self._depositing: WeakValueDictionary[bytes, asyncio.Lock] = WeakValueDictionary()
        self.quote = lru_cache(maxsize=1024)(self._quote)

    async def open(self) -> None:
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
        # What was sent to the chain is recorded before we go, and what is owed is charged.
        await asyncio.gather(*self._chores, *self._flights.values(), return_exceptions=True)
        await self.chain.close()
        await self.store.close()

    def _quote(self, price: int) -> Quote:
        offers = (self.terms.offer(price),)
        return Quote(price, offers, [_raw(offer.requirements) for offer in offers])

    # -- Admitting -------------------------------------------------------------------------------

    async def admit(self, header: str, quote: Quote) -> Admission | Refunded:
        """Lets a paid request in, or makes the refund that is asked for.

        Raises Refused or Unavailable; then nothing is held and nothing charged.
        """
        payload = decode_payment(header)
        offer = quote.offer_for(bytes(payload.accepted))
        payment = offer.check(payload.payload, int(self._clock()))
        if isinstance(payment, VoucherPayment):
            return await self._admit_voucher(payment, quote.price)
        if isinstance(payment, DepositPayment):
            return await self._admit_deposit(payment, quote.price)
        return await self._refund(payment)

    async def _admit_voucher(self, payment: VoucherPayment, price: int) -> Admission:
        request = token_hex(16)
        standing = await self._reserve(payment, price, request)
        return self._admitted(Admission(request, price, payment, standing))

    async def _admit_deposit(self, payment: DepositPayment, price: int) -> Admission:
        # One at a time: the first one's voucher makes the others useless, and then their deposits
        # must not reach the chain.
        async with self._depositing.setdefault(payment.payment.channel_id, asyncio.Lock()):
            return await self._admit_next_deposit(payment, price)

    async def _admit_next_deposit(self, payment: DepositPayment, price: int) -> Admission:
        voucher, deposit = payment.payment, payment.deposit
        await self._rehearse(payment, price)
        key = deposit.authorization().authorization_nonce
        mined = await self._once(key, self._deposit(payment, price))
        request = token_hex(16)
        standing = await self._reserve(voucher, price, request)
        return self._admitted(
            Admission(
                request,
                price,
                voucher,
                standing,
                deposited=deposit.amount,
                transaction=mined.transaction if mined else b"",
            )
        )

    def _admitted(self, admission: Admission) -> Admission:
        self._running[admission.request] = admission.payment.channel_id
        return admission

    async def _deposit(self, payment: DepositPayment, price: int) -> Mined | None:
        """Puts a deposit on chain and records it, also if nobody waits for it any more."""
        voucher = payment.payment
        mined = await self.chain.deposit(payment.deposit)
        await self._observe(voucher, voucher.voucher.amount - price, mined.block if mined else 0)
        return mined

    async def _rehearse(self, payment: DepositPayment, price: int) -> None:
        """Refuses, before anything is put on chain, a voucher that its deposit would not save."""
        voucher, deposit = payment.payment, payment.deposit
        known = await self.store.channel(voucher.channel_id)
        chain = await self._state(voucher.channel_id, known.chain.block if known else 0)
        filled = replace(chain, balance=chain.balance + deposit.amount)
        if known:
            then = rules.observe(known, filled)
        else:
            evidence = voucher.voucher.amount - price
            then = self._opened(voucher, filled, evidence)
        try:
            rules.reserve(then, voucher.voucher, price, "", int(self._clock() * 1000))
        except NeedsChain as error:
            raise ChainUnavailable("the chain's word on this channel is too old") from error

    def _opened(self, payment: VoucherPayment, chain: ChainState, evidence: int) -> Channel:
        network = self.terms.asset.network
        return rules.open_channel(
            payment.channel_id, network, payment.config, chain, max(0, evidence)
        )

    async def _reserve(self, payment: VoucherPayment, price: int, request: str) -> Standing:
        try:
            return await self._ask(payment, price, request)
        except NeedsChain:
            await self._observe(payment, payment.voucher.amount - price)
        except RefusedByChannel as refusal:
            age_ms = self._clock() * 1000 - refusal.channel.chain.read_at_ms
            if refusal.reason not in _BY_CHAIN or age_ms < REREAD_MS:
                raise
            await self._observe(payment, 0)
        try:
            return await self._ask(payment, price, request)
        except NeedsChain as error:
            raise ChainUnavailable("the chain's last word on this channel is too old") from error

    async def _ask(self, payment: VoucherPayment, price: int, request: str) -> Standing:
        try:
            return await self.store.reserve(payment.channel_id, payment.voucher, price, request)
        except (Unavailable, asyncio.CancelledError):
            self._clear(payment.channel_id, request)
            raise

    def _clear(self, channel_id: bytes, request: str) -> None:
        """Drops, in the background, a hold of which nobody knows whether it is there.

        So that the same payment is good again when the store is.
        """
        self._behind(self._clear_now(channel_id, request))

    def _behind(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

    async def _clear_now(self, channel_id: bytes, request: str) -> None:
        for pause_seconds in (0.0, *READ_PAUSES_SECONDS):
            await asyncio.sleep(pause_seconds)
            with suppress(Unavailable):
                return await self.store.release(channel_id, request)
        log.warning("a hold is left to expire: the store does not answer")

    async def _observe(self, payment: VoucherPayment, evidence: int, block: int = 0) -> Channel:
        """Reads the channel from the chain into the store; one reading serves all who wait."""
        chain = await self._state(payment.channel_id, block)
        if chain.balance == 0 and await self.store.channel(payment.channel_id) is None:
            raise Refused(Reason.CHANNEL_NOT_FOUND)  # strangers' inventions are not written down
        channel = await self.store.record(
            payment.channel_id,
            self.terms.asset.network,
            payment.config,
            chain,
            max(0, evidence),
        )
        if channel.balance == 0:
            raise Refused(Reason.CHANNEL_NOT_FOUND)
        return channel

    async def _state(self, channel_id: bytes, block: int) -> ChainState:
        return await self._once(channel_id + word(block), self._read(channel_id, block))

    async def _read(self, channel_id: bytes, block: int) -> ChainState:
        """The channel as of `block` or later: an RPC behind a balancer may lag behind itself."""
        for pause_seconds in READ_PAUSES_SECONDS:
            chain = await self.chain.channel(channel_id)
            if chain.block >= block:
                return chain
            await asyncio.sleep(pause_seconds)
        raise ChainUnavailable(f"the chain's view stays behind block {block}")

    async def _once(self, key: bytes, work: Coroutine[Any, Any, _T]) -> _T:
        """Lets everybody who asks for the same thing at the same time share one answer.

        Who gives up waiting does not stop the work: a deposit that was sent must be recorded.
        """
        flight: asyncio.Task[_T] | None = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = asyncio.create_task(work)
            flight.add_done_callback(lambda done: self._land(key, done))
        else:
            work.close()
        return await asyncio.shield(flight)

    def _land(self, key: bytes, flight: asyncio.Task[Any]) -> None:
        del self._flights[key]
        if not flight.cancelled() and (error := flight.exception()):
            log.debug("a chain call failed: %s", error)  # whoever still waits is told as well

    # -- Ending ----------------------------------------------------------------------------------

    async def charge(self, admission: Admission, amount: int) -> str:
        """Charges a served request and returns its receipt. Raises HoldLost or Unavailable."""
        channel_id = admission.payment.channel_id
        try:
            standing = await self.store.charge(channel_id, admission.request, amount)
        finally:
            self._running.pop(admission.request, None)
        return self._receipt(admission, standing.chain, amount, standing.charged)

    def collect(self, admission: Admission, amount: int) -> None:
        """Charges, in the background, for an answer that is out already while the store is not."""
        self._behind(self._collect(admission, amount))

    async def _collect(self, admission: Admission, amount: int) -> None:
        for pause_seconds in READ_PAUSES_SECONDS:
            await asyncio.sleep(pause_seconds)
            try:
                await self.charge(admission, amount)
                return
            except Unavailable:
                continue
            except HoldLost:
                break
        log.error("a request of channel %s was not charged", admission.payment.channel_id.hex())

    def ceiling_receipt(self, admission: Admission) -> str:
        """The receipt at the head of a metered answer: the most that it can cost."""
        price, standing = admission.price, admission.standing
        return self._receipt(admission, standing.chain, price, standing.charged + price)

    def abandon(self, admission: Admission) -> None:
        """Lets a request go of which nobody knows whether it was charged; its answer is withheld.

        If it was charged after all, this changes nothing.
        """
        self._clear(admission.payment.channel_id, admission.request)

    async def release(self, admission: Admission) -> str | None:
        """Lets a request go uncharged; a receipt only where a deposit was made for it."""
        self._running.pop(admission.request, None)
        await self.store.release(admission.payment.channel_id, admission.request)
        if not admission.deposited:
            return None
        standing = admission.standing
        return self._receipt(admission, standing.chain, 0, standing.charged)

    def _receipt(self, admission: Admission, chain: ChainState, amount: int, total: int) -> str:
        deposited, payment = admission.deposited, admission.payment
        return encode_header(
            SettlementResponse(
                success=True,
                payer=show_address(payment.config.payer),
                transaction=show_bytes(admission.transaction) if admission.transaction else "",
                network=self.terms.asset.network,
                amount=str(deposited) if deposited else "",
                extra=_extra(payment.channel_id, chain, total, str(amount)),
            )
        )

    def failure(self, refusal: Refused) -> str:
        """The receipt of a payment that was refused."""
        return encode_header(
            SettlementResponse(
                success=False,
                transaction="",
                network=self.terms.asset.network,
                error_reason=refusal.reason.code,
            )
        )

    async def _renew_forever(self) -> None:
        """Keeps the holds of requests that take longer than a hold lasts."""
        while True:
            before = set(self._running)
            await asyncio.sleep(HOLD_RENEW_SECONDS)
            held = [(self._running[key], key) for key in before if key in self._running]
            try:
                if held:
                    await self.store.renew(held)
            except Unavailable as error:
                log.warning("holds of %d running requests not renewed: %s", len(held), error)
            except Exception:  # a renewer that dies would drop everybody's holds
                log.exception("holds of %d running requests not renewed", len(held))

    # -- Refunding -------------------------------------------------------------------------------

    async def _refund(self, wish: RefundPayment) -> Refunded:
        """The cooperative refund: set aside, claimed and returned on chain, recorded."""
        payment = wish.payment
        await self._refresh(payment)
        before = await self.store.begin_refund(
            payment.channel_id, payment.voucher, wish.amount, token_hex(16)
        )
        assert before.refunding is not None
        amount = before.refunding.amount
        task = self._once(
            b"refund" + payment.channel_id, self._send_refund(payment, before, amount)
        )
        mined, after = await task
        receipt = SettlementResponse(
            success=True,
            payer=show_address(after.config.payer),
            transaction=show_bytes(mined.transaction),
            network=after.network,
            amount=str(amount),
            extra=_extra(payment.channel_id, after.chain, after.charged, UNSET),
        )
        return Refunded(encode_header(receipt), payment.channel_id)

    async def _refresh(self, payment: VoucherPayment) -> None:
        """What goes back is worked out from the chain's present balance and refund nonce."""
        known = await self.store.channel(payment.channel_id)
        if known is None or self._clock() * 1000 - known.chain.read_at_ms >= REREAD_MS:
            await self._observe(payment, payment.voucher.amount)

    async def _send_refund(
        self, payment: VoucherPayment, channel: Channel, amount: int
    ) -> tuple[Mined, Channel]:
        try:
            mined = await self.chain.refund(channel, amount)
        except Refused:
            await self.store.end_refund(payment.channel_id, None)
            raise
        except Reverted as error:  # somebody moved the channel on chain meanwhile
            chain = await self._read(payment.channel_id, channel.chain.block)
            await self.store.end_refund(payment.channel_id, chain)
            raise ChainUnavailable(f"the refund was not made: {error}") from error
        chain = await self._read(payment.channel_id, mined.block)
        return mined, await self.store.end_refund(payment.channel_id, chain)


def _raw(requirements: PaymentRequirements) -> Raw:
    return Raw(encode_json(requirements))


def _extra(channel_id: bytes, chain: ChainState, total: int, charged: str | UnsetType) -> Raw:
    state = channel_state(channel_id, chain, total)
    return Raw(encode_json(ReceiptExtra(state, charged_amount=charged)))
