"""The agent's books of single transfers (`exact`), under the same budget as its channels.

A transfer is written down, with its authorization nonce, before it is signed; it is sent, and sent
again when no answer came, always the same one. What it can have cost is counted from then on:

    settled      a receipt says that it was made: spent
    refused      the provider says that it was not taken; it has the signature still, so the price
                 is free again when its time has passed, and not before
    unknown      no answer, or one that says nothing of the payment: spent, for nobody can tell
    unsent       it has not left: free at once

Sources: exact EVM specification, "Phase 1"; EIP-3009 for how long an authorization lives.
"""

from collections.abc import Callable
from dataclasses import dataclass
from secrets import token_bytes, token_hex
from typing import Final, Never

from msgspec.structs import replace

from paywall.policy import ExactIntent, Policy
from paywall.protocol.eip712 import Authorization
from paywall.protocol.errors import OverBudget, PaymentRefused, ProviderMisbehaved
from paywall.protocol.limits import MAX_CLOCK_SKEW_SECONDS
from paywall.protocol.money import Address, parse_amount
from paywall.protocol.x402 import SettlementResponse, encode_json
from paywall.transferfile import SignedTransfer
from paywall.walletfile import WalletFile

MAX_EVIDENCE_BYTES: Final = 4096
_EVIDENCE: Final = "; its receipt: "


@dataclass(frozen=True)
class ExactPromise:
    """A transfer that is written down: what to sign."""

    intent: ExactIntent
    payment_id: str
    authorization: Authorization


class Transfers:
    """What one payer has promised in single transfers, kept in its wallet's file."""

    def __init__(
        self, payer: Address, file: WalletFile, policy: Policy, clock: Callable[[], float]
    ) -> None:
        self._payer = payer
        self._file = file
        self._policy = policy
        self._clock = clock

    def begin(self, intent: ExactIntent) -> ExactPromise:
        """Writes down what is about to be signed. Raises OverBudget or ProviderMisbehaved."""
        now = int(self._clock())
        promise = ExactPromise(
            intent,
            "pay_" + token_hex(16),
            Authorization(
                payer=self._payer,
                to=intent.pay_to,
                value=intent.price,
                valid_after=0,
                valid_before=now + intent.lifetime_seconds,
                authorization_nonce=token_bytes(32),
            ),
        )
        with self._file.change():
            self._free_expired(now)
            why = self._file.stopped(intent.origin)
            if why:
                told = why.partition(_EVIDENCE)[0]
                raise ProviderMisbehaved(f"{intent.origin} is not paid any more: {told}")
            self._refuse_over_budget(intent)
            self._file.put_transfer(_row(promise))
            self._file.count_transfer(intent.price)
        self._file.flush()
        return promise

    def _free_expired(self, now: int) -> None:
        """Those that were refused cost nothing any more; of the others nobody has said that."""
        for row in self._file.take_expired_transfers(now - MAX_CLOCK_SKEW_SECONDS):
            if row.refused:
                self._file.count_transfer(-row.price)

    def _refuse_over_budget(self, intent: ExactIntent) -> None:
        totals, total, show = self._file.totals(), self._policy.total, intent.asset.show
        if max(totals.spent, totals.outlay) + intent.price > total:
            locked = totals.outlay - totals.spent
            raise OverBudget(
                f"{intent.origin} asks {show(intent.price)}; of the total of {show(total)}, "
                f"{show(totals.spent)} is spent or in flight and {show(locked)} is locked up"
            )

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
        self.keep(promise)
        return price

    def release(self, promise: ExactPromise) -> None:
        """The provider says that it took nothing: free when it cannot take it any more."""
        with self._file.change():
            row = self._file.take_transfer(promise.payment_id)
            if row:
                self._file.put_transfer(replace(row, refused=True))

    def unsent(self, promise: ExactPromise) -> None:
        """Nothing has left: free again."""
        with self._file.change():
            if self._file.take_transfer(promise.payment_id):
                self._file.count_transfer(-promise.intent.price)

    def keep(self, promise: ExactPromise) -> None:
        """It was taken, or nobody knows: it is spent."""
        with self._file.change():
            self._file.take_transfer(promise.payment_id)

    def stop(self, promise: ExactPromise, why: str, receipt: SettlementResponse) -> Never:
        """Pays this provider no more, and keeps its receipt as evidence."""
        origin = promise.intent.origin
        evidence = encode_json(receipt)[:MAX_EVIDENCE_BYTES].decode(errors="replace")
        with self._file.change():
            self._file.stop(origin, why + _EVIDENCE + evidence)
        raise ProviderMisbehaved(f"{origin} broke the agreement: {why}")


def _row(promise: ExactPromise) -> SignedTransfer:
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
    )
