"""The agent's books: every payment from promise to receipt, under the owner's budget.

A payment is begun (the budget is checked and the promise written down, in one transaction), then
signed and sent by others, and in the end settled, released or kept, as its answer says. So tasks,
threads and processes that share a wallet file never together exceed the budget. This module holds
no key and does not know HTTP.

    amount = max(signed + 1, charged + in flight + price)    a provider that keeps a window
    amount = charged + price                                 one that serves one at a time

Sources: batch-settlement EVM specification, "Client: Payment Construction"; the window is ours.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from secrets import token_hex
from typing import Final, Never

from msgspec.structs import replace

from paywall.policy import Intent, Policy
from paywall.protocol import eip712
from paywall.protocol.errors import OverBudget, PaymentRefused, ProviderMisbehaved
from paywall.protocol.limits import MAX_OFFERS, MIN_AUTHORIZATION_LEFT_SECONDS
from paywall.protocol.money import Address, parse_amount
from paywall.protocol.schemes import batch
from paywall.protocol.x402 import (
    PaymentRequired,
    SettlementResponse,
    decode_requirements,
    parse_bytes,
)
from paywall.walletfile import FORGOTTEN_SECONDS, Account, InFlight, PendingDeposit, WalletFile

DEPOSIT_WAIT_SECONDS: Final = 120
"""How long others wait for a deposit that is on its way before one of them tries again."""
TURN_SECONDS: Final = 0.05
"""How often a waiting payment looks for itself, in case another process made room."""

SignDeposit = Callable[[Intent, int, int], PendingDeposit]
"""(intent, amount in atomic units, now in Unix seconds) -> the signed authorization."""


@dataclass(frozen=True)
class Promise:
    """A payment that is written down: what to sign, and for which channel."""

    intent: Intent
    payment_id: str
    amount: int
    config: bytes
    deposit: PendingDeposit | None = None


class Wait(Exception):
    """Not now: the channel's room, or its deposit, is somebody else's. `turn` is done when it is
    worth looking again."""

    def __init__(self, turn: "Future[None]") -> None:
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
        self._turns: dict[bytes, deque[Future[None]]] = {}

    def spent(self) -> int:
        """What was charged, and the prices of all requests in flight, over all channels."""
        charged = sum(account.charged for account in self.file.accounts())
        return charged + sum(payment.price for payment in self.file.in_flight())

    # -- Promising -------------------------------------------------------------------------------

    def begin(self, intent: Intent) -> Promise:
        """Writes down what is about to be promised.

        Raises Wait when it is not this payment's turn, OverBudget, or ProviderMisbehaved for a
        provider that is not paid any more; then nothing is written.
        """
        now = self._clock()
        with self.file.change():
            account = self._count_forgotten(self._account(intent), now)
            flying = self.file.in_flight(intent.channel_id)
            if account.stopped:
                raise ProviderMisbehaved(
                    f"{account.origin} is not paid any more: {account.stopped}"
                )
            if len(flying) >= intent.in_flight:
                raise Wait(self._turn(intent.channel_id))
            self._refuse_over_budget(intent)
            amount = _next_total(account, flying, intent)
            deposit = None
            if amount > account.balance:
                deposit = self._deposit_for(account, intent, amount, now)
                account = replace(
                    account, deposit=deposit, deposit_until=now + DEPOSIT_WAIT_SECONDS
                )
            return self._write(account, flying, intent, amount, deposit)

    def _write(
        self,
        account: Account,
        flying: list[InFlight],
        intent: Intent,
        amount: int,
        deposit: PendingDeposit | None,
    ) -> Promise:
        payment_id = "pay_" + token_hex(16)
        alone, now = not flying, self._clock()
        if flying:
            self.file.crowd(intent.channel_id)
        signed = max(account.signed, amount)
        self.file.put(replace(account, signed=signed, in_flight=intent.in_flight))
        self.file.add(InFlight(payment_id, intent.channel_id, intent.price, amount, alone, now))
        return Promise(intent, payment_id, amount, account.config, deposit)

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
        for payment in self.file.in_flight(account.channel_id):
            if payment.started < now - FORGOTTEN_SECONDS:
                self.file.take(payment.payment_id)
                account = replace(account, charged=account.charged + payment.price)
        return account

    def _refuse_over_budget(self, intent: Intent) -> None:
        spent, show = self.spent(), intent.asset.show
        if spent + intent.price > self._policy.total:
            raise OverBudget(
                f"{intent.origin} asks {show(intent.price)}; {show(spent)} of the total of "
                f"{show(self._policy.total)} is spent or in flight"
            )

    def _deposit_for(
        self, account: Account, intent: Intent, amount: int, now: float
    ) -> PendingDeposit:
        """The deposit that lets `amount` be promised: the one that is under way, or a new one."""
        if account.deposit_until > now:
            raise Wait(self._turn(intent.channel_id))
        known = account.deposit
        if known and known.valid_before > now + MIN_AUTHORIZATION_LEFT_SECONDS:
            return known
        least = max(intent.min_deposit, amount - account.balance)
        return self._sign_deposit(intent, self._deposit_amount(intent, least), int(now))

    def _deposit_amount(self, intent: Intent, least: int) -> int:
        """What to lock up: what policy says, at least what is needed, at most what is left."""
        policy, show = self._policy, intent.asset.show
        if least > max(policy.deposit, intent.price):
            raise OverBudget(
                f"{intent.origin} asks a deposit of {show(least)}; this wallet locks up at most "
                f"{show(policy.deposit)} at a time"
            )
        locked = sum(other.deposited - other.charged for other in self.file.accounts())
        room = policy.total - self.spent() - max(0, locked)
        if least > room:
            raise OverBudget(
                f"{intent.origin} needs a deposit of {show(least)}; {show(max(0, room))} is left "
                f"of the total of {show(policy.total)}"
            )
        return max(least, min(policy.deposit, room))

    # -- Settling --------------------------------------------------------------------------------

    def settle(self, promise: Promise, receipt: SettlementResponse) -> None:
        """Takes over a receipt.

        Raises ProviderMisbehaved when it says more than was agreed, and then pays this provider
        no more; PaymentRefused when it cannot be read, and then the payment counts as spent.
        """
        try:
            charged, total = _charged(receipt)
        except ValueError as error:
            self.keep(promise)
            raise PaymentRefused(f"the receipt cannot be read: {error}", "malformed") from error
        if charged > promise.intent.price:
            self._stop(promise, f"it charged {charged} where {promise.intent.price} was agreed")
        with self._ending(promise) as (account, payment):
            if payment is None:
                return
            if promise.deposit:
                account = _deposited(account, promise.deposit)
            now_charged = account.charged + charged
            if payment.alone and total is not None and total < now_charged:
                now_charged = total  # nobody else was in flight: the provider's lower count holds
            self.file.put(replace(account, charged=now_charged))

    def release(self, promise: Promise) -> None:
        """The payment was not taken: its price is free again. What was signed stays signed."""
        with self._ending(promise) as (account, _):
            if promise.deposit:
                self.file.put(replace(account, deposit_until=0.0))

    def keep(self, promise: Promise) -> None:
        """Nobody knows whether the payment was taken: it counts as spent."""
        with self._ending(promise) as (account, payment):
            if payment:
                charged = account.charged + payment.price
                self.file.put(replace(account, charged=charged, deposit_until=0.0))

    def _stop(self, promise: Promise, why: str) -> Never:
        with self._ending(promise) as (account, _):
            charged = account.charged + promise.intent.price
            self.file.put(replace(account, charged=charged, stopped=why))
        raise ProviderMisbehaved(f"{promise.intent.origin} broke the agreement: {why}")

    def correct(self, intent: Intent, refusal: PaymentRequired) -> bool:
        """Adopts a corrective 402 as far as our own signature proves it; False when it does not.

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
        signed = self._proven(intent, extra.voucher_state)
        if total > signed:
            return False
        with self.file.change():
            account = self._account(intent)
            flying = sum(p.price for p in self.file.in_flight(intent.channel_id))
            charged = max(account.charged, total - flying) if flying else total
            signed = max(account.signed, signed)
            self.file.put(replace(account, charged=charged, signed=signed, balance=balance))
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

    @contextmanager
    def _ending(self, promise: Promise) -> Iterator[tuple[Account, InFlight | None]]:
        """The end of a payment: taken out, its channel changed, and those who wait woken."""
        with self.file.change():
            payment = self.file.take(promise.payment_id)
            yield self._account(promise.intent), payment
        self._pass_on(promise.intent.channel_id, everybody=promise.deposit is not None)

    # -- Turns -----------------------------------------------------------------------------------

    def _turn(self, channel_id: bytes) -> "Future[None]":
        turn: Future[None] = Future()
        self._turns.setdefault(channel_id, deque()).append(turn)
        return turn

    def _pass_on(self, channel_id: bytes, everybody: bool) -> None:
        """Wakes those who wait: the first for a place that became free, all after a deposit."""
        waiting = self._turns.get(channel_id)
        while waiting:
            turn = waiting.popleft()
            if turn.set_running_or_notify_cancel():
                turn.set_result(None)
                if not everybody:
                    break


def _next_total(account: Account, flying: list[InFlight], intent: Intent) -> int:
    if intent.in_flight == 1:
        return account.charged + intent.price
    committed = account.charged + sum(payment.price for payment in flying)
    return max(account.signed + 1, committed + intent.price)


def _deposited(account: Account, deposit: PendingDeposit) -> Account:
    return replace(
        account,
        balance=account.balance + deposit.amount,
        deposited=account.deposited + deposit.amount,
        deposit=None,
        deposit_until=0.0,
    )


def _charged(receipt: SettlementResponse) -> tuple[int, int | None]:
    """What a receipt says was charged, and the provider's total if it names one."""
    extra = batch.decode_receipt_extra(receipt.extra) if receipt.extra else None
    charged = parse_amount(extra.charged_amount) if extra and extra.charged_amount else 0
    return charged, _total(extra.channel_state) if extra else None


def _total(state: batch.ChannelStateWire) -> int:
    return parse_amount(state.charged_cumulative_amount)


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
