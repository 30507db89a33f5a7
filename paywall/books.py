"""The agent's books: every payment from promise to receipt, under the owner's budget.

A payment is begun (the budget is checked and the promise written down, in one transaction), then
signed and sent by others, and in the end settled, released or kept, as its answer says. So tasks,
threads and processes that share a wallet file never together exceed the budget. This module holds
no key and does not know HTTP.

    amount = max(signed + 1, charged + in flight + price)    a provider that keeps a window
    amount = charged + price                                 one that serves one at a time

A provider is believed where that costs nothing more: a total is adopted up to what our own
signatures explain without the payment that it refuses, and of a deposit only one can ever be mined
until a receipt has confirmed it. All that may have left the wallet counts against the total.

Sources: batch-settlement EVM specification, "Client: Payment Construction"; the window is ours.
"""

import dataclasses
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from secrets import token_hex
from typing import Final, Never

from msgspec.structs import replace

from paywall.policy import AnyIntent, Intent, Policy
from paywall.protocol import eip712
from paywall.protocol.errors import OverBudget, PaymentRefused, ProviderMisbehaved
from paywall.protocol.limits import MAX_OFFERS, MIN_AUTHORIZATION_LEFT_SECONDS
from paywall.protocol.money import Address, parse_amount
from paywall.protocol.schemes import batch
from paywall.protocol.x402 import (
    PaymentRequired,
    SettlementResponse,
    decode_requirements,
    encode_json,
    parse_bytes,
)
from paywall.transfers import ExactPromise, Transfers
from paywall.walletfile import FORGOTTEN_SECONDS, Account, InFlight, PendingDeposit, WalletFile

DEPOSIT_WAIT_SECONDS: Final = 120
"""How long others wait for a deposit that is on its way before one of them tries again."""
TURN_SECONDS: Final = 0.05
"""How often the first of those who wait looks for itself, in case another process made room."""
MAX_TURN_SECONDS: Final = 2.0
MAX_EVIDENCE_BYTES: Final = 4096
_EVIDENCE: Final = "; its receipt: "

SignDeposit = Callable[[Intent, int, int, bytes | None], PendingDeposit]
"""(intent, amount in atomic units, now in Unix seconds, salt or None) -> the authorization."""


@dataclass(frozen=True)
class Promise:
    """A payment that is written down: what to sign, and for which channel.

    `first_deposit`: its deposit has not left before.
    """

    intent: Intent
    payment_id: str
    amount: int
    config: bytes
    deposit: PendingDeposit | None = None
    first_deposit: bool = False


AnyPromise = Promise | ExactPromise


@dataclass(frozen=True, eq=False)
class Turn:
    """A place in the queue of a channel: worth another look when `done`, or after `seconds`."""

    done: "Future[None]"
    seconds: float


class Wait(Exception):
    """Not now: the channel's room, or its deposit, is somebody else's."""

    def __init__(self, turn: Turn) -> None:
        super().__init__("waiting for a turn on the channel")
        self.turn = turn


class Books:
    """What one payer has promised and spent, kept in its wallet's file."""

    def __init__(
        self,
        payer: Address,
        file: WalletFile,
        policy: Policy,
        clock: Callable[[], float],
        sign_deposit: SignDeposit,
    ) -> None:
        self.file = file
        self._payer = payer
        self._policy = policy
        self._clock = clock
        self._sign_deposit = sign_deposit
        self.transfers = Transfers(payer, file, policy, clock)
        self._turns: dict[bytes, deque[Future[None]]] = {}
        self._turns_lock = threading.Lock()

    def spent(self) -> int:
        """What was charged and what is in flight, over all channels and single transfers."""
        return self.file.totals().spent

    # -- Promising -------------------------------------------------------------------------------

    def begin_any(self, intent: AnyIntent, turn: Turn | None = None) -> AnyPromise:
        """As `begin`, for whichever way to pay."""
        if isinstance(intent, Intent):
            return self.begin(intent, turn)
        return self.transfers.begin(intent)

    def begin(self, intent: Intent, turn: Turn | None = None) -> Promise:
        """Writes down what is about to be promised; `turn` is the one that was waited for.

        Raises Wait when it is not this payment's turn, OverBudget, or ProviderMisbehaved for a
        provider that is not paid any more; then nothing is written.
        """
        now = self._clock()
        with self.file.change():
            account = self._count_forgotten(self._account(intent), now)
            if account.stopped:
                why = account.stopped.partition(_EVIDENCE)[0]
                raise ProviderMisbehaved(f"{account.origin} is not paid any more: {why}")
            flying = self.file.count(intent.channel_id)
            if flying >= intent.in_flight:
                raise Wait(self._turn(intent.channel_id, turn))
            self._refuse_over_budget(account, intent)
            promise = self._promised(account, intent, now, turn)
            self._write(account, promise, alone=not flying, now=now)
        if promise.first_deposit:
            self.file.flush()
        return promise

    def _promised(self, account: Account, intent: Intent, now: float, turn: Turn | None) -> Promise:
        amount = _next_total(account, intent)
        promise = Promise(
            intent=intent,
            payment_id="pay_" + token_hex(16),
            amount=amount,
            config=account.config,
        )
        if amount <= account.balance or _supposed(account, amount, now):
            return promise
        if 0 < account.deposit_until - now <= DEPOSIT_WAIT_SECONDS:
            raise Wait(self._turn(intent.channel_id, turn))
        deposit = self._deposit_for(account, intent, amount, now)
        return dataclasses.replace(promise, deposit=deposit, first_deposit=not account.deposit)

    def _write(self, account: Account, promise: Promise, alone: bool, now: float) -> None:
        intent = promise.intent
        if promise.deposit:
            account = replace(
                account, deposit=promise.deposit, deposit_until=now + DEPOSIT_WAIT_SECONDS
            )
        elif promise.amount > account.balance:
            account = _suppose(account)
        if not alone:
            self.file.crowd(intent.channel_id)
        self.file.put(
            replace(
                account,
                signed=max(account.signed, promise.amount),
                flying=account.flying + intent.price,
                in_flight=intent.in_flight,
            )
        )
        self.file.add(
            InFlight(
                promise.payment_id, intent.channel_id, intent.price, promise.amount, alone, now
            )
        )

    def _account(self, intent: Intent) -> Account:
        known = self.file.account(intent.channel_id)
        return known or Account(
            channel_id=intent.channel_id,
            origin=intent.origin,
            network=intent.asset.network,
            asset=intent.asset.address,
            config=bytes(batch.config_wire(intent.config)),
            in_flight=intent.in_flight,
        )

    def _count_forgotten(self, account: Account, now: float) -> Account:
        """Payments of a process that died: nobody knows, so they count as spent."""
        for payment in self.file.take_older(account.channel_id, now - FORGOTTEN_SECONDS):
            account = replace(
                account,
                charged=account.charged + payment.price,
                flying=account.flying - payment.price,
            )
        return account

    def _refuse_over_budget(self, account: Account, intent: Intent) -> None:
        totals, total, show = self.file.totals(), self._policy.total, intent.asset.show
        more = max(0, account.spent + intent.price - account.outlay)
        if totals.spent + intent.price > total or (more and totals.outlay + more > total):
            locked = totals.outlay - totals.spent
            raise OverBudget(
                f"{intent.origin} asks {show(intent.price)}; of the total of {show(total)}, "
                f"{show(totals.spent)} is spent or in flight and {show(locked)} is locked up"
            )

    def _deposit_for(
        self, account: Account, intent: Intent, amount: int, now: float
    ) -> PendingDeposit:
        """The deposit that lets `amount` be promised.

        One that has left already is sent again, or signed again under its own salt, so that the
        token takes one of them at most; a new one is made only when receipts confirmed the last.
        """
        least = max(intent.min_deposit, amount - account.balance)
        known = account.deposit
        if known and _valid(known, now) and known.amount >= least:
            return known
        size = self._deposit_amount(account, intent, least)
        return self._sign_deposit(intent, size, int(now), known.salt if known else None)

    def _deposit_amount(self, account: Account, intent: Intent, least: int) -> int:
        """What to lock up: what policy says, at least what is needed, at most what is left."""
        policy, show = self._policy, intent.asset.show
        if least > max(policy.deposit, intent.price):
            raise OverBudget(
                f"{intent.origin} asks a deposit of {show(least)}; this wallet locks up at most "
                f"{show(policy.deposit)} at a time"
            )
        elsewhere = self.file.totals().outlay - account.outlay
        room = policy.total - elsewhere - account.deposited
        if least > room:
            raise OverBudget(
                f"{intent.origin} needs a deposit of {show(least)}; {show(max(0, room))} is left "
                f"of the total of {show(policy.total)}"
            )
        pending = account.deposit.amount if account.deposit else 0
        return max(least, min(max(policy.deposit, pending), room))

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
        if charged > promise.intent.price:
            self.keep(promise)
            agreed = promise.intent.price
            self.stop(promise, f"it charged {charged} where {agreed} was agreed", receipt)

        def settled(account: Account, payment: InFlight) -> Account:
            now_charged = account.charged + charged
            if payment.alone and total is not None and total < now_charged:
                now_charged = total  # nobody else was in flight: the provider's lower count holds
            if account.deposit and (promise.deposit or account.deposit.supposed):
                account = _deposited(account, account.deposit)
            return replace(account, charged=now_charged)

        self._end(promise, settled)
        return charged

    def release(self, promise: AnyPromise) -> None:
        """The payment was not taken: its price is free again. What was signed stays signed."""
        if isinstance(promise, ExactPromise):
            return self.transfers.release(promise)
        self._end(promise, lambda account, p: replace(account, doubtful=account.doubtful + p.price))

    def unsent(self, promise: AnyPromise) -> None:
        """Nothing has left: the payment is free again, and so is a deposit that was made for it."""
        if isinstance(promise, ExactPromise):
            return self.transfers.unsent(promise)

        def undone(account: Account, payment: InFlight) -> Account:
            nobody_else = self._clock() < payment.started + DEPOSIT_WAIT_SECONDS
            first = promise.first_deposit and nobody_else
            return replace(account, deposit=None) if first else account

        self._end(promise, undone)

    def keep(self, promise: AnyPromise) -> None:
        """Nobody knows whether the payment was taken: it counts as spent."""
        if isinstance(promise, ExactPromise):
            return self.transfers.keep(promise)
        self._end(promise, lambda account, p: replace(account, charged=account.charged + p.price))

    def stop(self, promise: AnyPromise, why: str, receipt: SettlementResponse) -> Never:
        """Pays this provider no more, and keeps its receipt as evidence."""
        if isinstance(promise, ExactPromise):
            self.transfers.stop(promise, why, receipt)
        intent = promise.intent
        evidence = encode_json(receipt)[:MAX_EVIDENCE_BYTES].decode(errors="replace")
        with self.file.change():
            self.file.put(replace(self._account(intent), stopped=why + _EVIDENCE + evidence))
        raise ProviderMisbehaved(f"{intent.origin} broke the agreement: {why}")

    def _end(self, promise: Promise, outcome: Callable[[Account, InFlight], Account]) -> None:
        """The end of a payment: taken out, its channel changed, and those who wait woken.

        One that took so long that it was counted as forgotten has ended already.
        """
        with self.file.change():
            payment = self.file.take(promise.payment_id)
            if payment:
                account = self._account(promise.intent)
                account = replace(account, flying=account.flying - payment.price)
                if promise.deposit:
                    account = replace(account, deposit_until=0.0)
                self.file.put(outcome(account, payment))
        self._pass_on(promise.intent.channel_id, everybody=promise.deposit is not None)

    def correct(self, intent: Intent, refusal: PaymentRequired, refused: int = 0) -> bool:
        """Adopts a corrective 402 as far as our own signature proves it; False when it does not.

        `refused` is the price of all that was refused for this request, which it was not to cost.
        What the provider says of the balance is believed too: it only decides whether to deposit,
        and deposits are bounded by policy.
        """
        extra = _corrective_extra(intent, refusal)
        if extra is None or not isinstance(extra.channel_state, batch.ChannelStateWire):
            return False
        try:
            total = _total(extra.channel_state)
            balance = parse_amount(extra.channel_state.balance)
        except ValueError:
            return False
        proof = self._proven(intent, extra.voucher_state)
        with self.file.change():
            account = self._account(intent)
            if not _explained(account, total, proof, refused):
                return False
            flying = account.flying
            charged = max(account.charged, total - flying) if flying else total
            found = charged - account.charged if flying else account.doubtful
            if account.deposit and balance >= account.balance + account.deposit.amount:
                account = _deposited(account, account.deposit)
            self.file.put(
                replace(
                    account,
                    charged=charged,
                    signed=max(account.signed, proof),
                    balance=balance,
                    doubtful=max(0, account.doubtful - found),
                    # What was charged was deposited once, by whoever else has this key.
                    deposited=max(account.deposited, charged),
                )
            )
        return True

    def _proven(self, intent: Intent, proof: object) -> int:
        """The total that this payer itself has signed, as far as the proof shows one."""
        if not isinstance(proof, batch.VoucherStateWire):
            return 0
        domain = eip712.settlement_domain(intent.asset.chain_id)
        try:
            signed = parse_amount(proof.signed_max_claimable)
            digest = eip712.voucher_digest(domain, intent.channel_id, signed)
            signer = eip712.recover(digest, parse_bytes(proof.signature, 65))
        except ValueError:
            return 0
        return signed if signer == self._payer else 0

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

    def _turn(self, channel_id: bytes, before: Turn | None) -> Turn:
        """A place in the queue: the one that is held already, in front for who was called once."""
        with self._turns_lock:
            waiting = self._turns.setdefault(channel_id, deque())
            while waiting and waiting[0].done():
                waiting.popleft()
            done = before.done if before else Future()
            if before is None:
                waiting.append(done)
            elif done.done():
                done = Future()
                waiting.appendleft(done)
            return Turn(done, min(TURN_SECONDS * max(1, len(waiting)), MAX_TURN_SECONDS))

    def leave(self, intent: Intent, turn: Turn) -> None:
        """Waits no more, whether it began or not; a call that it does not follow is passed on."""
        if not turn.done.cancel():
            self._pass_on(intent.channel_id, everybody=False)

    def _pass_on(self, channel_id: bytes, everybody: bool) -> None:
        """Wakes those who wait: the first for a place that became free, all after a deposit."""
        called: list[Future[None]] = []
        with self._turns_lock:
            waiting = self._turns.get(channel_id)
            while waiting and (everybody or not called):
                turn = waiting.popleft()
                if turn.set_running_or_notify_cancel():
                    called.append(turn)
            if not waiting:
                self._turns.pop(channel_id, None)
        for turn in called:
            turn.set_result(None)


def _next_total(account: Account, intent: Intent) -> int:
    if intent.in_flight == 1:
        return account.charged + intent.price
    return max(account.signed + 1, account.spent + intent.price)


def _valid(deposit: PendingDeposit, now: float) -> bool:
    return deposit.valid_before > now + MIN_AUTHORIZATION_LEFT_SECONDS


def _supposed(account: Account, amount: int, now: float) -> bool:
    """Whether a deposit of which nobody said what became of it has expired, and would do."""
    known = account.deposit
    if known is None or known.supposed or _valid(known, now):
        return False
    return amount <= account.balance + known.amount


def _suppose(account: Account) -> Account:
    """Supposes that the deposit was mined: a voucher alone will find out, and risks nothing."""
    assert account.deposit is not None
    supposed = replace(account.deposit, supposed=True)
    return replace(account, deposit=supposed, balance=account.balance + supposed.amount)


def _explained(account: Account, total: int, proof: int, refused: int) -> bool:
    """Whether a provider's total follows from our own signatures.

    What our books count already needs no proof. More needs one: a signature that our books do not
    know (somebody else has this key), or one of ours for a payment that was released. Never one
    that was refused for the same request: that would be a second price for one answer.
    """
    if total <= account.spent:
        return True
    known = account.spent + max(0, account.doubtful - refused)
    return total <= proof and (proof > account.signed or total <= known)


def _deposited(account: Account, deposit: PendingDeposit) -> Account:
    """The channel with a deposit that is confirmed; a supposed one is in its balance already."""
    return replace(
        account,
        balance=account.balance + (0 if deposit.supposed else deposit.amount),
        deposited=account.deposited + deposit.amount,
        deposit=None,
        deposit_until=0.0,
    )


def _charged(receipt: SettlementResponse) -> tuple[int, int | None]:
    """What a receipt says was charged, and the provider's total if it names one."""
    extra = batch.decode_receipt_extra(receipt.extra) if receipt.extra else None
    charged = parse_amount(extra.charged_amount) if extra and extra.charged_amount else 0
    return charged, batch.receipt_total(extra) if extra else None


def _total(state: batch.ChannelStateWire) -> int:
    return parse_amount(state.charged_cumulative_amount or "")


def _corrective_extra(intent: Intent, refusal: PaymentRequired) -> batch.BatchExtra | None:
    """`extra` of the offer that speaks of this channel, if one does."""
    for raw in refusal.accepts[:MAX_OFFERS]:
        try:
            extra = batch.decode_extra(decode_requirements(raw))
            state = extra.channel_state
            if (
                isinstance(state, batch.ChannelStateWire)
                and parse_bytes(state.channel_id, 32) == intent.channel_id
            ):
                return extra
        except ValueError:
            continue
    return None
