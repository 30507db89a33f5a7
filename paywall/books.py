"""The agent's books: every payment from promise to receipt, under the owner's budget.

A payment is begun (the budget is checked and the promise written down, in one transaction), then
signed and sent by others, and in the end settled, released or kept, as its answer says. So tasks,
threads and processes that share a wallet's state never together exceed the budget. This module
holds no key and does not know HTTP.

    amount = max(signed + 1, charged + in flight + price)    a provider that keeps a window
    amount = charged + price                                 one that serves one at a time

A provider is believed where that costs nothing more. All that may have left the wallet counts
against the total. A state that fails at the end of a payment leaves it in flight, and so counted.

Sources: batch-settlement EVM specification, "Client: Payment Construction"; the window is ours.
"""

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass
from secrets import token_hex
from typing import Final, Never

from msgspec.structs import replace

from paywall.asking import Approval, ApprovalNeeded
from paywall.budget import Wish, refuse_over_budget
from paywall.corrections import Corrections
from paywall.deposits import (
    DEPOSIT_WAIT_SECONDS,
    TOP_UP_PAUSE_SECONDS,
    Filling,
    confirmed,
    is_on_its_way,
    may_be_supposed,
    suppose,
)
from paywall.endings import EVIDENCE, Ending, evidence_of, refuse_stopped
from paywall.events import Deposited, Event, Events, Stopped
from paywall.offers import AnyIntent, Intent, Payer
from paywall.policy import Policy
from paywall.protocol.errors import (
    OverBudget,
    PaymentRefused,
    ProviderMisbehaved,
    SigningFailed,
    StoreUnavailable,
)
from paywall.protocol.money import parse_amount
from paywall.protocol.schemes import batch
from paywall.protocol.x402 import PaymentRequired, SettlementResponse
from paywall.transfers import ExactPromise, Transfers
from paywall.turns import Turn, Turns, Wait
from paywall.walletrows import Account, InFlight, PendingDeposit, Withdrawal
from paywall.walletstate import FORGOTTEN_SECONDS, WalletState

log = logging.getLogger("paywall.wallet")

MAX_PATH_CHARS: Final = 512


@dataclass(frozen=True)
class Promise:
    """A payment that is written down: what to sign, and for which channel.

    `intent` is of the lane that was taken, `queue` of the provider's channel that was asked for.
    `first_deposit`: its deposit has not left before; `top_up`: it could have done without.
    """

    intent: Intent
    payment_id: str
    amount: int
    config: bytes
    queue: bytes
    path: str = ""
    deposit: PendingDeposit | None = None
    first_deposit: bool = False
    top_up: bool = False


AnyPromise = Promise | ExactPromise
_Outcome = Callable[[Account, InFlight], Account]


class _Busy(Exception):
    """This lane has no room now."""


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
        self._policy = policy
        self._clock = clock
        self._events = events
        self._can_deposit = can_deposit
        self.transfers = Transfers(payer.account, file, policy, clock, events)
        self.corrections = Corrections(payer.authorizer, file, clock, events)
        self._turns = Turns()

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
        """Writes down what is about to be promised, for a request to `path` (without its query).

        `turn` is the one that was waited for, `approved` what the owner has allowed. Raises Wait
        when it is not this payment's turn, ApprovalNeeded, OverBudget, or ProviderMisbehaved for a
        provider that is not paid any more; then nothing is written.
        """
        events: list[Event] = []
        with self.file.change():
            now = self._clock()
            promise, account = self._in_some_lane(intent, turn, now, events)
            promise = dataclasses.replace(promise, path=path[:MAX_PATH_CHARS])
            self._refuse_unapproved(promise, approved)
            self._write(account, promise, now)
        if promise.first_deposit:
            self.file.flush()
        for event in events:
            self._events.tell(event)
        return promise

    def _in_some_lane(
        self, intent: Intent, turn: Turn | None, now: float, events: list[Event]
    ) -> tuple[Promise, Account]:
        """The promise over the first channel that has room for it."""
        refusal: OverBudget | None = None
        busy = False
        for number in range(self._policy.lanes):
            lane = intent.lane(number)
            try:
                return self._in_lane(lane, intent.channel_id, now, events)
            except _Busy:
                busy = True
            except OverBudget as error:
                refusal = refusal or error
        if busy:
            raise Wait(self._turns.take(intent.channel_id, turn))
        assert refusal is not None
        raise refusal

    def _in_lane(
        self, intent: Intent, queue: bytes, now: float, events: list[Event]
    ) -> tuple[Promise, Account]:
        self.file.prefetch(intent.channel_id, intent.origin)
        refuse_stopped(self.file, intent.origin)
        account = self._count_forgotten(self._account(intent), now, events)
        if account.flight >= intent.in_flight:
            raise _Busy
        self._refuse_over_budget(account, intent, now)
        return self._promised(account, intent, queue, now), account

    def _promised(self, account: Account, intent: Intent, queue: bytes, now: float) -> Promise:
        amount = _next_total(account, intent)
        promise = Promise(
            intent=intent,
            payment_id="pay_" + token_hex(16),
            amount=amount,
            config=account.config,
            queue=queue,
        )
        if amount <= account.balance:
            early = (
                self._filling(account, intent, amount, now).early() if self._can_deposit else None
            )
            if early is None:
                return promise
            return dataclasses.replace(promise, deposit=early, first_deposit=True, top_up=True)
        if may_be_supposed(account, amount, now):
            return promise
        if is_on_its_way(account, now):
            raise _Busy
        if not self._can_deposit:
            raise SigningFailed(
                f"the channel with {intent.origin} needs a deposit, and there is no money key here"
            )
        deposit = self._filling(account, intent, amount, now).needed()
        return dataclasses.replace(promise, deposit=deposit, first_deposit=not account.deposit)

    def _filling(self, account: Account, intent: Intent, amount: int, now: float) -> Filling:
        return Filling(self._policy, account, intent, self.file.totals(), amount, now)

    def _write(self, account: Account, promise: Promise, now: float) -> None:
        intent = promise.intent
        if promise.deposit:
            account = replace(
                account, deposit=promise.deposit, deposit_until=now + DEPOSIT_WAIT_SECONDS
            )
        elif promise.amount > account.balance:
            account = suppose(account)
        serial, first = account.begun + 1, account.flight == 0
        self.file.put(
            replace(
                account,
                signed=max(account.signed, promise.amount),
                flying=account.flying + intent.price,
                in_flight=intent.in_flight,
                flight=account.flight + 1,
                begun=serial,
                oldest=now if first else min(account.oldest, now),
            ),
            at=now,
        )
        self.file.add(
            InFlight(
                payment_id=promise.payment_id,
                channel_id=intent.channel_id,
                price=intent.price,
                amount=promise.amount,
                started=now,
                serial=serial,
                first=first,
                path=promise.path,
            )
        )

    def _account(self, intent: Intent) -> Account:
        return self.file.account(intent.channel_id) or _new_account(intent)

    def _count_forgotten(self, account: Account, now: float, events: list[Event]) -> Account:
        """Payments of a process that died: nobody knows, so they count as spent."""
        if not account.flight or account.oldest >= now - FORGOTTEN_SECONDS:
            return account
        flying = self.file.payments(account.channel_id)
        old = [payment for payment in flying if payment.started < now - FORGOTTEN_SECONDS]
        for payment in old:
            self.file.take(account.channel_id, payment.payment_id)
            ending = _ending(account, payment, "forgotten", payment.price)
            self.file.record(ending.entry(now))
            events.append(ending.event(now))
        price = sum(payment.price for payment in old)
        remaining = [payment.started for payment in flying if payment not in old]
        account = replace(
            account,
            charged=account.charged + price,
            flying=account.flying - price,
            flight=len(remaining),
            oldest=min(remaining, default=now),
        )
        self.file.put(account)
        return account

    def _refuse_over_budget(self, account: Account, intent: Intent, now: float) -> None:
        more = max(0, account.spent + intent.price - account.outlay)
        wish = Wish(intent.origin, intent.asset, intent.price, more)
        totals, host_spent = self.file.totals(), self.file.host_spent(intent.origin)
        refuse_over_budget(self._policy, totals, host_spent, wish, now)

    def _refuse_unapproved(self, promise: Promise, approved: int) -> None:
        """Raises ApprovalNeeded for more than the owner wants to leave the wallet unasked."""
        above = self._policy.approve_above
        if above is None:
            return
        intent = promise.intent
        kind, amount = "payment", intent.price
        if promise.deposit and promise.first_deposit and promise.deposit.amount > amount:
            kind, amount = "deposit", promise.deposit.amount
        if amount > max(above, approved):
            told = (kind, intent.origin, promise.path, batch.SCHEME, amount, intent.asset)
            raise ApprovalNeeded(Approval(*told))

    # -- Settling --------------------------------------------------------------------------------

    def settle(self, promise: AnyPromise, receipt: SettlementResponse) -> int:
        """Takes over a receipt, and returns what it says was charged.

        Raises ProviderMisbehaved when it says more than was agreed, and then pays this provider
        no more; PaymentRefused when it cannot be read, and then the payment counts as spent.
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
        outcome = _settled(promise, charged, total)
        self._end(promise, outcome, "paid", charged, receipt.transaction)
        return charged

    def release(self, promise: AnyPromise) -> None:
        """The payment was not taken: its price is free again. What was signed stays signed."""
        if isinstance(promise, ExactPromise):
            return self.transfers.release(promise)

        def released(account: Account, payment: InFlight) -> Account:
            if promise.top_up:
                pause = self._clock() + TOP_UP_PAUSE_SECONDS
                account = replace(account, no_top_up_before=pause)
            return replace(account, doubtful=account.doubtful + payment.price)

        self._end(promise, released, "refused", promise.intent.price)

    def unsent(self, promise: AnyPromise) -> None:
        """Nothing has left: the payment is free again, and so is a deposit that was made for it."""
        if isinstance(promise, ExactPromise):
            return self.transfers.unsent(promise)

        def undone(account: Account, payment: InFlight) -> Account:
            nobody_else = self._clock() < payment.started + DEPOSIT_WAIT_SECONDS
            first = promise.first_deposit and nobody_else
            return replace(account, deposit=None) if first else account

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
                channel = _hex(account.channel_id)
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
    ) -> None:
        """The end of a payment: taken out, its channel changed, and those who wait woken.

        One that took so long that it was counted as forgotten has ended already.
        """
        try:
            events = self._ended(promise, outcome, word, amount, transaction)
        except StoreUnavailable as error:
            log.error("a payment's end cannot be written down, it counts as spent: %s", error)
            events = []
        self._turns.pass_on(promise.queue, everybody=promise.deposit is not None)
        for event in events:
            self._events.tell(event)

    def _ended(
        self, promise: Promise, outcome: _Outcome, word: str, amount: int, transaction: str
    ) -> list[Event]:
        channel_id, now = promise.intent.channel_id, self._clock()
        with self.file.change():
            self.file.prefetch(channel_id, promise.intent.origin, promise.payment_id)
            payment = self.file.take(channel_id, promise.payment_id)
            if payment is None:
                return []
            before = self._account(promise.intent)
            account = replace(
                before, flying=before.flying - payment.price, flight=before.flight - 1
            )
            if promise.deposit:
                account = replace(account, deposit_until=0.0)
            after = outcome(account, payment)
            self.file.put(after, at=payment.started)
            ending = _ending(after, payment, word, amount, transaction)
            self.file.record(ending.entry(now))
        events = [ending.event(now)]
        grown = after.deposited - before.deposited
        if grown > 0:
            events.append(Deposited(now, after.origin, _hex(channel_id), grown, transaction))
        return events

    # -- What a provider says of a channel -------------------------------------------------------

    def correct(self, intent: Intent, refusal: PaymentRequired, refused: int = 0) -> bool:
        """As `Corrections.correct`."""
        return self.corrections.correct(_new_account(intent), intent, refusal, refused)

    def lost_channel(self, intent: Intent) -> None:
        """The provider finds no funded channel: the next payment makes a deposit."""
        with self.file.change():
            self.file.put(replace(self._account(intent), balance=0))

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


def _new_account(intent: Intent) -> Account:
    return Account(
        channel_id=intent.channel_id,
        origin=intent.origin,
        network=intent.asset.network,
        asset=intent.asset.address,
        config=bytes(batch.config_wire(intent.config)),
        in_flight=intent.in_flight,
    )


def _next_total(account: Account, intent: Intent) -> int:
    if intent.in_flight == 1:
        return account.charged + intent.price
    return max(account.signed + 1, account.spent + intent.price)


def _kept(account: Account, payment: InFlight) -> Account:
    return replace(account, charged=account.charged + payment.price)


def _settled(promise: Promise, charged: int, total: int | None) -> _Outcome:
    def settled(account: Account, payment: InFlight) -> Account:
        now_charged = account.charged + charged
        alone = payment.first and payment.serial == account.begun
        if alone and total is not None and total < now_charged:
            now_charged = total  # nobody else was in flight: the provider's lower count holds
        if account.deposit and (promise.deposit or account.deposit.supposed):
            account = confirmed(account, account.deposit)
        return replace(account, charged=now_charged)

    return settled


def _charged(receipt: SettlementResponse) -> tuple[int, int | None]:
    """What a receipt says was charged, and the provider's total if it names one."""
    extra = batch.decode_receipt_extra(receipt.extra) if receipt.extra else None
    charged = parse_amount(extra.charged_amount) if extra and extra.charged_amount else 0
    return charged, batch.receipt_total(extra) if extra else None


def _ending(
    account: Account, payment: InFlight, outcome: str, amount: int, transaction: str = ""
) -> Ending:
    return Ending(
        origin=account.origin,
        path=payment.path,
        payment_id=payment.payment_id,
        scheme=batch.SCHEME,
        amount=amount,
        outcome=outcome,
        channel=_hex(account.channel_id),
        transaction=transaction,
    )


def _hex(channel_id: bytes) -> str:
    return "0x" + channel_id.hex()
