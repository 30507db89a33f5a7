"""The deposit that comes with a first request, or tops a channel up: put on chain, then counted.

    turn -- rehearsed -- counted -- on chain, recorded -- voucher reserved -- turn over

A deposit is made in the turn of its channel (`paywall.deposit_turns`), so that no other worker
makes one meanwhile, and only when it would save its voucher. It goes on although nobody waits for
it any more: what was sent must be recorded. What it does not know: HTTP, and how a request ends.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from secrets import token_hex
from typing import Final

from msgspec.structs import replace

from paywall.admission import Funding
from paywall.alarms import Board, Listener, to_log
from paywall.chain import Chain, Mined
from paywall.chain.own import FeeTooHigh
from paywall.chores import Chores
from paywall.crowd import Crowd
from paywall.deposit_turns import Turns
from paywall.instant import Instant
from paywall.mirror import PAUSES_SECONDS, Mirror
from paywall.payers import Payers
from paywall.protocol import channel as rules
from paywall.protocol.channel import (
    ChainState,
    Channel,
    NeedsChain,
    RefusedByChannel,
    Standing,
)
from paywall.protocol.errors import (
    ChainUnavailable,
    ConfigurationError,
    OutOfGas,
    PaymentError,
    Reason,
    Refused,
    Reverted,
    TransactionPending,
    Unavailable,
)
from paywall.protocol.limits import MAX_CLOCK_SKEW_SECONDS
from paywall.protocol.once import AnsweredBefore, Ticket
from paywall.protocol.payers import Errand, PayerLimits
from paywall.protocol.schemes.batch import BatchTerms, Deposit, DepositPayment, VoucherPayment
from paywall.stores import Store

log = logging.getLogger("paywall.gate")

Reserve = Callable[[VoucherPayment, int, str, Ticket | None], Awaitable[Standing]]
_LIMITS: Final = PayerLimits()


@dataclass(frozen=True, slots=True)
class DepositRules:
    """How an owner takes deposits. `instant_up_to` is what may be served, in all and in atomic
    units, before the deposits that pay for it are mined; zero waits for every deposit.
    """

    limits: PayerLimits = _LIMITS
    instant_up_to: int = 0
    alarms: Listener | Board = to_log

    def __post_init__(self) -> None:
        if self.instant_up_to < 0:
            raise ConfigurationError("instant_up_to cannot be negative")


@dataclass(frozen=True, slots=True, eq=False)
class Filled:
    """What a deposit's request goes on with; with `funding`, its deposit is not mined yet."""

    request: str
    standing: Standing
    transaction: bytes = b""
    funding: Funding | None = None


class Deposits:
    """The deposits of one provider. `reserve` admits a voucher; `clock` gives Unix seconds."""

    def __init__(
        self,
        terms: BatchTerms,
        how: DepositRules,
        store: Store,
        chain: Chain,
        mirror: Mirror,
        chores: Chores,
        reserve: Reserve,
        clock: Callable[[], float],
    ) -> None:
        self._terms = terms
        self._store = store
        self._chain = chain
        self._mirror = mirror
        self._chores = chores
        self._reserve = reserve
        self._clock = clock
        self._turns = Turns(store)
        board, network = Board.of(how.alarms), terms.asset.network
        self._crowd = Crowd(how.limits, network, store, board)
        worth = max(1, terms.min_deposit // 2)
        self.payers = Payers(how.limits, worth, network, store, self._crowd)
        self._instant: Instant | None = None
        if how.instant_up_to:
            up_to, asset = how.instant_up_to, terms.asset
            self._instant = Instant(up_to, asset, store, chain, mirror, board, clock)

    async def admit(self, payment: DepositPayment, price: int, ticket: Ticket | None) -> Filled:
        """Makes the deposit and lets its request in. Raises Refused or Unavailable."""
        admitted: asyncio.Future[Filled] = asyncio.get_running_loop().create_future()
        self._chores.behind(self._take_in(payment, price, ticket, admitted))
        try:
            return await asyncio.shield(admitted)
        except asyncio.CancelledError:
            self._chores.behind(self._forsake(payment, ticket, admitted))
            raise

    async def mined(self, channel_id: bytes) -> bool:
        """Waits a while until the deposit of a channel is decided; False when it is not."""
        return await self._turns.over(channel_id)

    async def review(self) -> None:
        """Looks after what was served on trust and never closed, and whether newcomers are still
        turned away. Raises Unavailable.
        """
        await self._crowd.review()
        if self._instant:
            await self._instant.review()

    # -- In the turn of its channel --------------------------------------------------------------

    async def _take_in(
        self,
        payment: DepositPayment,
        price: int,
        ticket: Ticket | None,
        admitted: "asyncio.Future[Filled]",
    ) -> None:
        try:
            async with self._turns.of(payment.payment.channel_id):
                await self._in_turn(payment, price, ticket, admitted)
        except BaseException as error:
            if not admitted.done():
                admitted.set_exception(error)
            if not isinstance(error, Exception):
                raise

    async def _in_turn(
        self,
        payment: DepositPayment,
        price: int,
        ticket: Ticket | None,
        admitted: "asyncio.Future[Filled]",
    ) -> None:
        voucher = payment.payment
        if ticket:
            await self._store.look_up(voucher.channel_id, ticket)
        known = await self._store.channel(voucher.channel_id)
        if known and ticket:
            known = self._not_running(known, voucher.voucher.amount)
        chain = await self._rehearse(known, payment, price)
        charged = known.charged if known else 0
        errand = await self.payers.deposits(voucher.config.payer, voucher.channel_id, charged)
        if self._instant and await self._instant.book(payment, price, chain):
            await self._on_trust(self._instant, payment, price, ticket, admitted)
            return
        mined = await self._make(payment, price, errand)
        request = token_hex(8)
        standing = await self._reserve(voucher, price, request, ticket)
        admitted.set_result(Filled(request, standing, mined.transaction if mined else b""))

    def _not_running(self, channel: Channel, amount: int) -> Channel:
        """Without the hold of this very payment. The store has just said that its time is over, and
        our own clock may be behind the store's."""
        soon_ms = int(self._clock() + MAX_CLOCK_SKEW_SECONDS) * 1000
        for request, hold in channel.holds.items():
            if hold.amount == amount and hold.deadline_ms <= soon_ms:
                return rules.release(channel, request)
        return channel

    async def _rehearse(
        self, known: Channel | None, payment: DepositPayment, price: int
    ) -> ChainState:
        """Refuses, before anything is put on chain, a voucher that its deposit would not save."""
        voucher, deposit = payment.payment, payment.deposit
        if known is None:
            self._mirror.strangers.knock()
        chain = await self._mirror.state(voucher.channel_id, known.chain.block if known else 0)
        filled = replace(chain, balance=chain.balance + deposit.amount)
        if known:
            then = rules.observe(known, filled)
        else:
            evidence = max(0, voucher.voucher.amount - price) if chain.balance else 0
            network = self._terms.asset.network
            then = rules.open_channel(voucher.channel_id, network, voucher.config, filled, evidence)
        try:
            rules.reserve(then, voucher.voucher, price, "", int(self._clock() * 1000))
        except NeedsChain as error:
            raise ChainUnavailable("the chain's word on this channel is too old") from error
        except RefusedByChannel as refusal:
            # Nothing was put on chain: the payer sees what is there.
            shown = replace(refusal.channel, chain=chain)
            raise RefusedByChannel(_reason(refusal.reason, shown, payment), shown) from refusal
        return chain

    async def _make(
        self, payment: DepositPayment, price: int, errand: Errand | None = None
    ) -> Mined | None:
        """Puts a deposit on chain and records it. Without an `errand` it stays counted."""
        voucher = payment.payment
        mined = await self._put(payment.deposit, errand)
        self._mirror.strangers.present(voucher.channel_id)
        evidence = voucher.voucher.amount - price
        # Also one that was there already: a payer sends it again when no answer has told of it.
        block, deposited = mined.block if mined else 0, payment.deposit.amount
        await self._mirror.observe(voucher, evidence, block, deposited)
        return mined

    async def _put(self, deposit: Deposit, errand: Errand | None) -> Mined | None:
        """Strangers without funds must not use up what all payers have: see `paywall.payers`."""
        mined, is_free = None, False
        try:
            mined = await self._chain.deposit(deposit)
            is_free = mined is None  # it was there already
        except (Refused, OutOfGas, FeeTooHigh) as error:
            is_free = not _has_left(error)
            raise
        finally:
            if errand and is_free:
                with suppress(Unavailable):
                    await self.payers.undo(errand)
        return mined

    async def _forsake(
        self,
        payment: DepositPayment,
        ticket: Ticket | None,
        admitted: "asyncio.Future[Filled]",
    ) -> None:
        """Lets a request go whose client did not wait for its deposit."""
        with suppress(PaymentError, AnsweredBefore):
            filled = await admitted
            await self._store.release(payment.payment.channel_id, filled.request, ticket)

    # -- On trust --------------------------------------------------------------------------------

    async def _on_trust(
        self,
        instant: Instant,
        payment: DepositPayment,
        price: int,
        ticket: Ticket | None,
        admitted: "asyncio.Future[Filled]",
    ) -> None:
        """Lets the request in and makes its deposit meanwhile. The turn lasts until both are known:

        other requests of the channel wait for it.
        """
        voucher, request = payment.payment, token_hex(8)
        try:
            await instant.trust(payment, price)
            standing = await self._reserve(voucher, price, request, ticket)
        except BaseException:
            self._chores.behind(self._close(instant, voucher.channel_id, False))
            raise
        funding = asyncio.create_task(self._patiently(payment, price))
        admitted.set_result(Filled(request, standing, funding=funding))
        await asyncio.wait([funding])
        error = funding.exception()
        if error:
            log.warning("a deposit that was trusted is not there: %s", error)
        if error is None or isinstance(error, Refused):
            await self._close(instant, voucher.channel_id, error is None)
        if isinstance(error, TransactionPending):
            raise error

    async def _patiently(self, payment: DepositPayment, price: int) -> Mined | None:
        """Tries for a while to make a deposit whose request is served already."""
        for pause_seconds in PAUSES_SECONDS:
            try:
                return await self._make(payment, price)
            except TransactionPending:
                raise  # it was sent: a review finds it when it is mined
            except Unavailable as error:
                log.warning("a trusted deposit is tried again: %s", error)
                await asyncio.sleep(pause_seconds)
        return await self._make(payment, price)

    async def _close(self, instant: Instant, channel_id: bytes, mined: bool) -> None:
        try:
            await (instant.mined(channel_id) if mined else instant.failed(channel_id))
        except Unavailable as error:  # it stays counted until a review finds it
            log.warning("the books on a trusted deposit are closed later: %s", error)


def _has_left(error: PaymentError) -> bool:
    """Whether a deposit that was refused was sent all the same, and has cost gas."""
    return isinstance(error.__cause__, Reverted) and error.__cause__.has_left


def _reason(reason: Reason, channel: Channel, payment: DepositPayment) -> Reason:
    """Why a deposit would not save its voucher.

    Its payer may have withdrawn what was set aside for a refund. Then only the refund's end is
    missing, and its payer need not take the deposit for gone.
    """
    is_enough = payment.payment.voucher.amount <= channel.balance + payment.deposit.amount
    if channel.refunding and channel.remaining < 0 and is_enough:
        return Reason.CHANNEL_CLOSING if reason is Reason.EXCEEDS_BALANCE else reason
    return reason
