"""The agent's books of single transfers (`exact`), under the same budget as its channels.

A transfer is written down, with its authorization nonce, before it is signed; it is sent, and sent
again when no answer came, always the same one. What it can have cost is counted from then on:

    settled      a receipt says that it was made: spent
    refused      the provider says that it was not taken; it has the signature still, so the price
                 is spent until its time has passed. Whether it was used meanwhile only the chain
                 can tell: until that was asked (`paywall.reviews`), all ceilings keep it
    unknown      no answer, or one that says nothing of the payment: spent, for nobody can tell
    unsent       it has not left: free at once

Sources: exact EVM specification, "Phase 1"; EIP-3009 for how long an authorization lives.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from secrets import token_bytes, token_hex
from typing import Never

from msgspec.structs import replace

from paywall.asking import Approval, ApprovalNeeded
from paywall.budget import Wish, refuse_over_budget
from paywall.endings import EVIDENCE, Ending, evidence_of, refuse_stopped
from paywall.events import Event, Events, Stopped
from paywall.offers import ExactIntent
from paywall.policy import Policy
from paywall.protocol.eip712 import Authorization
from paywall.protocol.errors import PaymentRefused, ProviderMisbehaved, StoreUnavailable
from paywall.protocol.limits import MAX_CLOCK_SKEW_SECONDS
from paywall.protocol.money import Address, parse_amount
from paywall.protocol.schemes import exact
from paywall.protocol.x402 import SettlementResponse
from paywall.walletrows import SignedTransfer
from paywall.walletstate import WalletState

log = logging.getLogger("paywall.wallet")


@dataclass(frozen=True)
class ExactPromise:
    """A transfer that is written down: what to sign."""

    intent: ExactIntent
    payment_id: str
    authorization: Authorization
    path: str = ""


class Transfers:
    """What one payer has promised in single transfers, kept in its wallet's state."""

    def __init__(
        self,
        payer: Address,
        file: WalletState,
        policy: Policy,
        clock: Callable[[], float],
        events: Events,
    ) -> None:
        self._payer = payer
        self._file = file
        self._policy = policy
        self._clock = clock
        self._events = events

    def begin(self, intent: ExactIntent, path: str = "", approved: int = 0) -> ExactPromise:
        """Writes down what is about to be signed.

        Raises ApprovalNeeded, OverBudget or ProviderMisbehaved; then nothing is written.
        """
        with self._file.change():
            now = self._clock()
            promise = self._promised(intent, path, int(now))
            self.end_expired(int(now))
            refuse_stopped(self._file, intent.origin)
            price = intent.price
            wish = Wish(intent.origin, intent.asset, price, outlay=price, promised=price)
            promised = self._file.host_promised(intent.origin)
            refuse_over_budget(self._policy, self._file.totals(), promised, wish, now)
            self._refuse_unapproved(promise, approved)
            self._file.put_transfer(_row(promise, now))
            self._count(intent.origin, price, now)
        self._file.flush()
        return promise

    def _promised(self, intent: ExactIntent, path: str, now: int) -> ExactPromise:
        authorization = Authorization(
            payer=self._payer,
            to=intent.pay_to,
            value=intent.price,
            valid_after=0,
            valid_before=now + intent.lifetime_seconds,
            authorization_nonce=token_bytes(32),
        )
        return ExactPromise(intent, "pay_" + token_hex(16), authorization, path)

    def _refuse_unapproved(self, promise: ExactPromise, approved: int) -> None:
        above, intent = self._policy.approve_above, promise.intent
        if above is not None and intent.price > max(above, approved):
            told = ("payment", intent.origin, promise.path, exact.SCHEME, intent.price)
            raise ApprovalNeeded(Approval(*told, intent.asset))

    def end_expired(self, now: int) -> None:
        """In a change: those that were refused are not spent any more, as far as anybody says."""
        for row in self._file.take_expired_transfers(now - MAX_CLOCK_SKEW_SECONDS):
            if row.refused:
                self._file.put_refused(row)
                self._file.count(-row.price, 0, row.started)

    def reviewed(self, row: SignedTransfer, was_used: bool) -> bool:
        """Takes over what the chain says of one that was refused and has expired: it is free, or
        its provider lied and is not paid any more. False when that was done before."""
        why = "it made a transfer that it said it had refused"
        with self._file.change():
            if not self._file.take_refused(row.payment_id):
                return False
            if was_used:
                self._file.count(row.price, 0, row.started, dated=0)
                self._file.stop(row.origin, why)
            else:
                self._file.count(0, -row.price, row.started)
                self._file.count_promised(row.origin, -row.price, row.started)
        if was_used:
            self._events.tell(Stopped(self._clock(), row.origin, "", why))
        return True

    def _count(self, origin: str, amount: int, at: float) -> None:
        self._file.count(amount, amount, at)
        self._file.count_promised(origin, amount, at)

    def settle(self, promise: ExactPromise, receipt: SettlementResponse) -> int:
        """Takes over a receipt, and returns what it says was paid.

        Raises PaymentRefused when it cannot be read; then the payment counts as spent.
        """
        price = promise.intent.price
        try:
            paid = parse_amount(receipt.amount) if receipt.amount else price
        except ValueError as error:
            self.keep(promise)
            raise PaymentRefused(f"the receipt cannot be read: {error}", "malformed") from error
        if paid == 0 and not receipt.transaction:
            self.release(promise)
            return 0
        self._kept(promise, "paid", receipt.transaction)
        return price

    def release(self, promise: ExactPromise) -> None:
        """The provider says that it took nothing: free when it cannot take it any more."""
        with self._ending(promise, "refused") as row:
            if row:
                self._file.put_transfer(replace(row, refused=True))

    def unsent(self, promise: ExactPromise) -> None:
        """Nothing has left: free again."""
        price = promise.intent.price
        with self._ending(promise, "unsent") as row:
            if row:
                self._count(row.origin, -price, row.started)

    def keep(self, promise: ExactPromise) -> None:
        """It was taken, or nobody knows: it is spent."""
        self._kept(promise, "lost")

    def _kept(self, promise: ExactPromise, word: str, transaction: str = "") -> None:
        with self._ending(promise, word, transaction):
            pass

    @contextmanager
    def _ending(
        self, promise: ExactPromise, word: str, transaction: str = ""
    ) -> Iterator[SignedTransfer | None]:
        """A change in which the transfer is taken out; None when it has ended before."""
        now, events = self._clock(), list[Event]()
        ending = _ended(promise, word, transaction)
        try:
            with self._file.change():
                valid_before = promise.authorization.valid_before
                row = self._file.take_transfer(promise.payment_id, valid_before)
                yield row
                if row and not row.refused:
                    self._file.record(ending.entry(now))
                    events.append(ending.event(now))
        except StoreUnavailable as error:
            log.error("a payment's end cannot be written down, it counts as spent: %s", error)
            return
        for event in events:
            self._events.tell(event)

    def stop(self, promise: ExactPromise, why: str, receipt: SettlementResponse) -> Never:
        """Pays this provider no more, and keeps its receipt as evidence."""
        origin = promise.intent.origin
        with self._file.change():
            self._file.stop(origin, why + EVIDENCE + evidence_of(receipt))
        self._events.tell(Stopped(self._clock(), origin, "", why))
        raise ProviderMisbehaved(f"{origin} broke the agreement: {why}")


def _row(promise: ExactPromise, started: float) -> SignedTransfer:
    intent, told = promise.intent, promise.authorization
    return SignedTransfer(
        payment_id=promise.payment_id,
        origin=intent.origin,
        network=intent.asset.network,
        asset=intent.asset.address,
        receiver=intent.pay_to,
        price=intent.price,
        authorization_nonce=told.authorization_nonce,
        valid_before=told.valid_before,
        started=started,
    )


def _ended(promise: ExactPromise, word: str, transaction: str) -> Ending:
    intent = promise.intent
    return Ending(
        origin=intent.origin,
        path=promise.path,
        payment_id=promise.payment_id,
        scheme=exact.SCHEME,
        amount=intent.price,
        outcome=word,
        transaction=transaction,
    )
