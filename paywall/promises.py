"""A payment before it leaves: whether it may be promised, over which channel, and written down.

    amount = max(signed + 1, charged + in flight + price)    a provider that keeps a window
    amount = charged + price                                 one that serves one at a time

All in one transaction: what a dead process has left is counted, the budget is checked, a deposit
is added where one is needed, and the promise is written before anybody signs it. When it cannot be
made, nothing is written.

Source: batch-settlement EVM specification, "Client: Payment Construction"; the window is ours.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from secrets import token_hex

from msgspec.structs import replace

from paywall.asking import Approval, ApprovalNeeded
from paywall.budget import Wish, refuse_over_budget
from paywall.deposits import DEPOSIT_WAIT_SECONDS, Filling, is_on_its_way, may_be_supposed, suppose
from paywall.endings import ending_of, refuse_stopped
from paywall.events import Event, Events
from paywall.offers import Intent
from paywall.policy import Policy
from paywall.protocol.errors import OverBudget, SigningFailed
from paywall.protocol.limits import MAX_PATH_CHARS
from paywall.protocol.schemes import batch
from paywall.turns import Turn, Turns, Wait
from paywall.walletrows import Account, InFlight, PendingDeposit
from paywall.walletstate import FORGOTTEN_SECONDS, WalletState


@dataclass(frozen=True)
class Promise:
    """A payment that is written down: what to sign, and for which channel.

    `intent` is of the lane that was taken, `queue` of the provider's channel that was asked for;
    `charged` is what the channel had cost when it was promised, `instead_of` the price of what was
    refused for the same request. `first_deposit`: its deposit has not left before; `top_up`: it
    could have done without.
    """

    intent: Intent
    payment_id: str
    amount: int
    config: bytes
    queue: bytes
    charged: int = 0
    instead_of: int = 0
    path: str = ""
    deposit: PendingDeposit | None = None
    first_deposit: bool = False
    top_up: bool = False


class _Busy(Exception):
    """This lane has no room now."""


class Promises:
    """Makes promises for one payer."""

    def __init__(
        self,
        file: WalletState,
        policy: Policy,
        clock: Callable[[], float],
        events: Events,
        turns: Turns,
        can_deposit: bool,
    ) -> None:
        self._file = file
        self._policy = policy
        self._clock = clock
        self._events = events
        self._turns = turns
        self._can_deposit = can_deposit

    def begin(
        self, intent: Intent, turn: Turn | None = None, path: str = "", approved: int = 0
    ) -> Promise:
        """Writes down what is about to be promised, for a request to `path` (without its query).

        `turn` is the one that was waited for, `approved` what the owner has allowed. Raises Wait
        when it is not this payment's turn, ApprovalNeeded, OverBudget, or ProviderMisbehaved for a
        provider that is not paid any more; then nothing is written.
        """
        events: list[Event] = []
        with self._file.change():
            now = self._clock()
            promise, account = self._in_some_lane(intent, turn, now, events)
            promise = dataclasses.replace(promise, path=path[:MAX_PATH_CHARS])
            self._refuse_unapproved(promise, approved)
            self._write(account, promise, now)
        if promise.first_deposit:
            self._file.flush()
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
        self._file.prefetch(intent.channel_id, intent.origin)
        refuse_stopped(self._file, intent.origin)
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
            charged=account.charged,
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
        return Filling(self._policy, account, intent, self._file.totals(), amount, now)

    def _write(self, account: Account, promise: Promise, now: float) -> None:
        intent = promise.intent
        if promise.deposit:
            account = replace(
                account, deposit=promise.deposit, deposit_until=now + DEPOSIT_WAIT_SECONDS
            )
        elif promise.amount > account.balance:
            account = suppose(account)
        serial, first = account.begun + 1, account.flight == 0
        self._file.put(
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
        self._file.add(
            InFlight(
                payment_id=promise.payment_id,
                channel_id=intent.channel_id,
                price=intent.price,
                amount=promise.amount,
                started=now,
                serial=serial,
                first=first,
                path=promise.path,
                raised=_raised(account, promise.amount),
            )
        )

    def _account(self, intent: Intent) -> Account:
        return self._file.account(intent.channel_id) or new_account(intent)

    def _count_forgotten(self, account: Account, now: float, events: list[Event]) -> Account:
        """Payments of a process that died: nobody knows, so they count as spent."""
        if not account.flight or account.oldest >= now - FORGOTTEN_SECONDS:
            return account
        flying = self._file.payments(account.channel_id)
        old = [payment for payment in flying if payment.started < now - FORGOTTEN_SECONDS]
        for payment in old:
            self._file.take(account.channel_id, payment.payment_id)
            ending = ending_of(account, payment, "forgotten", payment.price)
            self._file.record(ending.entry(now))
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
        self._file.put(account)
        return account

    def _refuse_over_budget(self, account: Account, intent: Intent, now: float) -> None:
        more = max(0, account.spent + intent.price - account.outlay)
        raised = _raised(account, _next_total(account, intent))
        wish = Wish(intent.origin, intent.asset, intent.price, more, raised)
        totals, promised = self._file.totals(), self._file.host_promised(intent.origin)
        refuse_over_budget(self._policy, totals, promised, wish, now)

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


def new_account(intent: Intent) -> Account:
    return Account(
        channel_id=intent.channel_id,
        origin=intent.origin,
        network=intent.asset.network,
        asset=intent.asset.address,
        config=bytes(batch.config_wire(intent.config)),
        in_flight=intent.in_flight,
    )


def _raised(account: Account, amount: int) -> int:
    """How much more than before the provider can claim with a voucher of this total."""
    return max(0, amount - account.signed)


def _next_total(account: Account, intent: Intent) -> int:
    if intent.in_flight == 1:
        return account.charged + intent.price
    return max(account.signed + 1, account.spent + intent.price)
