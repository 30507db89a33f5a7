"""The agent's books: every payment from promise to receipt, under the owner's budget.

A payment is begun (the budget is checked and the promise written down, in one transaction), then
signed and sent by others, and in the end settled, released or kept, as its answer says. So tasks,
threads and processes that share a wallet's state never together exceed the budget. This module
holds no key and does not know HTTP.

A provider is believed where that costs nothing more. All that may have left the wallet counts
against the total. A state that fails at the end of a payment leaves it in flight, and so counted.

Sources: batch-settlement EVM specification, "Client: Payment Construction".
"""

import logging
from collections.abc import Callable
from typing import Never

from msgspec.structs import replace

from paywall.corrections import Corrections
from paywall.deposits import (
    DEPOSIT_WAIT_SECONDS,
    TOP_UP_PAUSE_SECONDS,
    confirmed,
    without,
)
from paywall.endings import EVIDENCE, ending_of, evidence_of
from paywall.events import Deposited, Event, Events, Stopped
from paywall.offers import AnyIntent, Intent, Payer
from paywall.policy import Policy
from paywall.promises import Promise, Promises, new_account
from paywall.protocol.errors import (
    PaymentLost,
    PaymentRefused,
    ProviderMisbehaved,
    StoreUnavailable,
)
from paywall.protocol.limits import MAX_PATH_CHARS
from paywall.protocol.money import parse_amount
from paywall.protocol.schemes import batch
from paywall.protocol.x402 import PaymentRequired, SettlementResponse, show_bytes
from paywall.transfers import ExactPromise, Transfers
from paywall.turns import Turn, Turns
from paywall.walletrows import Account, InFlight, Withdrawal
from paywall.walletstate import WalletState

log = logging.getLogger("paywall.wallet")

AnyPromise = Promise | ExactPromise
_Outcome = Callable[[Account, InFlight], Account]


class Books:
    """What one payer has promised and spent, kept in its wallet's state."""

    def __init__(
        self,
        payer: Payer,
        file: WalletState,
        policy: Policy,
        clock: Callable[[], float],
        events: Events,
        can_deposit: bool = True,
    ) -> None:
        self.file = file
        self._clock = clock
        self._events = events
        self.transfers = Transfers(payer.account, file, policy, clock, events)
        self.corrections = Corrections(payer.authorizer, file, clock, events)
        self._turns = Turns()
        self._promises = Promises(file, policy, clock, events, self._turns, can_deposit)

    def spent(self) -> int:
        """What was charged and what is in flight, over all channels and single transfers."""
        return self.file.totals().spent

    # -- Promising -------------------------------------------------------------------------------

    def begin_any(
        self, intent: AnyIntent, turn: Turn | None = None, path: str = "", approved: int = 0
    ) -> AnyPromise:
        """As `begin`, for whichever way to pay."""
        if isinstance(intent, Intent):
            return self.begin(intent, turn, path, approved)
        return self.transfers.begin(intent, path[:MAX_PATH_CHARS], approved)

    def begin(
        self, intent: Intent, turn: Turn | None = None, path: str = "", approved: int = 0
    ) -> Promise:
        """As `Promises.begin`."""
        return self._promises.begin(intent, turn, path, approved)

    def _account(self, intent: Intent) -> Account:
        return self.file.account(intent.channel_id) or new_account(intent)

    # -- Settling --------------------------------------------------------------------------------

    def settle(
        self, promise: AnyPromise, receipt: SettlementResponse, goes_on: bool = False
    ) -> int:
        """Takes over a receipt, and returns what it says was charged.

        `goes_on`: its request may be paid for anew. Raises ProviderMisbehaved when it says more
        than was agreed, and then pays this provider no more; PaymentRefused when it cannot be read,
        and then the payment counts as spent; PaymentLost as `release` does.
        """
        if isinstance(promise, ExactPromise):
            return self.transfers.settle(promise, receipt)
        try:
            charged, total = _charged(receipt)
        except ValueError as error:
            self.keep(promise)
            raise PaymentRefused(f"the receipt cannot be read: {error}", "malformed") from error
        agreed = promise.intent.price
        if charged > agreed:
            self._end(promise, _kept, "paid", agreed, receipt.transaction)
            self.stop(promise, f"it charged {charged} where {agreed} was agreed", receipt)
        outcome = _settled(promise, charged, total, goes_on)
        is_open = self._end(promise, outcome, "paid", charged, receipt.transaction)
        if goes_on and not is_open:
            raise _too_late(promise)
        return charged

    def release(self, promise: AnyPromise, goes_on: bool = False) -> None:
        """The payment was not taken: its price is free again. What was signed stays signed.

        Perhaps it is taken after all, and then that was the price of its request; so there is no
        doubt about it while the request `goes_on`, and may be paid for anew. Raises PaymentLost
        when it would, and this payment counts as spent already.
        """
        if isinstance(promise, ExactPromise):
            return self.transfers.release(promise)

        def released(account: Account, payment: InFlight) -> Account:
            if promise.top_up:
                pause = self._clock() + TOP_UP_PAUSE_SECONDS
                account = replace(account, no_top_up_before=pause)
            return account if goes_on else _doubting(account, payment.price)

        is_open = self._end(promise, released, "refused", promise.intent.price)
        if goes_on and not is_open:
            raise _too_late(promise)

    def given_up(self, promise: AnyPromise) -> None:
        """The request of a refused payment has ended, and nothing else was paid for it."""
        if not isinstance(promise, Promise):
            return
        try:
            with self.file.change():
                account = self._account(promise.intent)
                self.file.put(_doubting(account, promise.intent.price))
        except StoreUnavailable as error:
            log.error("what a refusal leaves in doubt cannot be written down: %s", error)

    def unsent(self, promise: AnyPromise) -> None:
        """Nothing has left: the payment is free again, and so is a deposit that was made for it."""
        if isinstance(promise, ExactPromise):
            return self.transfers.unsent(promise)

        def undone(account: Account, payment: InFlight) -> Account:
            nobody_else = self._clock() < payment.started + DEPOSIT_WAIT_SECONDS
            if promise.first_deposit and nobody_else:
                account = replace(account, deposit=None)
            if account.signed == payment.amount:
                account = replace(account, signed=account.signed - payment.raised)
            return _doubting(account, promise.instead_of)

        self._end(promise, undone, "unsent", promise.intent.price)

    def keep(self, promise: AnyPromise) -> None:
        """Nobody knows whether the payment was taken: it counts as spent."""
        if isinstance(promise, ExactPromise):
            return self.transfers.keep(promise)
        self._end(promise, _kept, "lost", promise.intent.price)

    def stop(self, promise: AnyPromise, why: str, receipt: SettlementResponse) -> Never:
        """Pays this provider no more, and keeps its receipt as evidence.

        A channel with it is marked for withdrawal.
        """
        now, origin, channel = self._clock(), promise.intent.origin, ""
        told = why + EVIDENCE + evidence_of(receipt)
        with self.file.change():
            self.file.stop(origin, told)
            if isinstance(promise, Promise):
                account = self._account(promise.intent)
                channel = show_bytes(account.channel_id)
                wanted = account.withdrawal or Withdrawal(wanted_since=now, why=why)
                self.file.put(replace(account, stopped=told, withdrawal=wanted))
        self._events.tell(Stopped(now, origin, channel, why))
        raise ProviderMisbehaved(f"{origin} broke the agreement: {why}")

    def _end(
        self,
        promise: Promise,
        outcome: _Outcome,
        word: str,
        amount: int,
        transaction: str = "",
    ) -> bool:
        """The end of a payment: taken out, its channel changed, and those who wait woken.

        Whether it was open until now. One that is not is spent: it took so long that it was counted
        as forgotten, or will be, because this could not be written down.
        """
        try:
            events = self._ended(promise, outcome, word, amount, transaction)
        except StoreUnavailable as error:
            log.error("a payment's end cannot be written down, it counts as spent: %s", error)
            events = None
        self._turns.pass_on(promise.queue, everybody=promise.deposit is not None)
        for event in events or ():
            self._events.tell(event)
        return events is not None

    def _ended(
        self, promise: Promise, outcome: _Outcome, word: str, amount: int, transaction: str
    ) -> list[Event] | None:
        channel_id, now = promise.intent.channel_id, self._clock()
        with self.file.change():
            self.file.prefetch(channel_id, promise.intent.origin, promise.payment_id)
            payment = self.file.take(channel_id, promise.payment_id)
            if payment is None:
                return None
            before = self._account(promise.intent)
            account = replace(
                before, flying=before.flying - payment.price, flight=before.flight - 1
            )
            if promise.deposit:
                account = replace(account, deposit_until=0.0)
            after = outcome(account, payment)
            cost = amount if word in ("paid", "lost") else 0
            self.file.put(after, at=payment.started, dated=cost - payment.price)
            ending = ending_of(after, payment, word, amount, transaction)
            self.file.record(ending.entry(now))
        events = [ending.event(now)]
        grown = after.deposited - before.deposited
        if grown > 0:
            events.append(Deposited(now, after.origin, show_bytes(channel_id), grown, transaction))
        return events

    # -- What a provider says of a channel -------------------------------------------------------

    def correct(
        self,
        intent: Intent,
        refusal: PaymentRequired,
        promise: Promise | None = None,
    ) -> bool:
        """As `Corrections.correct`."""
        return self.corrections.correct(new_account(intent), intent, refusal, promise)

    def lost_channel(self, intent: Intent, promise: Promise | None = None) -> None:
        """The provider finds no funded channel for this promise: the next one makes a deposit."""
        with self.file.change():
            account = without(self._account(intent), promise.deposit if promise else None)
            self.file.put(replace(account, balance=0))

    def refunded(self, intent: Intent, amount: int) -> None:
        with self.file.change():
            account = self._account(intent)
            left = max(0, account.balance - amount)
            deposited = max(account.charged, account.deposited - amount)
            self.file.put(replace(account, balance=left, deposited=deposited))

    # -- Turns -----------------------------------------------------------------------------------

    def leave(self, intent: Intent, turn: Turn) -> None:
        """Waits no more, whether it began or not; a call that it does not follow is passed on."""
        self._turns.leave(intent.channel_id, turn)


def _kept(account: Account, payment: InFlight) -> Account:
    return replace(account, charged=account.charged + payment.price)


def _settled(promise: Promise, charged: int, total: int | None, goes_on: bool) -> _Outcome:
    def settled(account: Account, payment: InFlight) -> Account:
        now_charged = account.charged + charged
        alone = payment.first and payment.serial == account.begun
        if alone and total is not None and total < now_charged:
            # Nobody else was in flight: the provider's lower count holds. What a stream that runs
            # still will cost is not in it yet, so what it gives back is doubtful.
            doubtful = account.doubtful + now_charged - total
            account = replace(account, doubtful=min(doubtful, max(0, account.signed - total)))
            now_charged = total
        if account.deposit and (promise.deposit or account.deposit.supposed):
            account = confirmed(account, account.deposit)
        account = replace(account, charged=now_charged)
        # What bought nothing is good again at the provider, for whoever has a copy of it.
        return account if charged or goes_on else _doubting(account, payment.price)

    return settled


def _doubting(account: Account, price: int) -> Account:
    """With a price more that may have been charged after all."""
    return replace(account, doubtful=account.doubtful + price)


def _too_late(promise: Promise) -> PaymentLost:
    return PaymentLost(
        f"a payment to {promise.intent.origin} was refused when it counted as spent already"
    )


def _charged(receipt: SettlementResponse) -> tuple[int, int | None]:
    """What a receipt says was charged, and the provider's total if it names one."""
    extra = batch.decode_receipt_extra(receipt.extra) if receipt.extra else None
    charged = parse_amount(extra.charged_amount) if extra and extra.charged_amount else 0
    return charged, batch.receipt_total(extra) if extra else None
