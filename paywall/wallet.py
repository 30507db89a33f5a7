"""The agent's wallet: who signs, the owner's policy, and the books.

The wallet signs, and only what its books have written down before. It does not know HTTP: the
client shows it quotes and receipts. Private keys leave it in no way: not by repr, not by pickle.

    Wallet(per_request="$0.01", total="$5")                   its key is in PAYWALL_KEY
    Wallet(open_keystore("key.json"))                         in an encrypted file
    Wallet(kms, voucher_key=os.environ["VOUCHER_KEY"])        elsewhere; vouchers are signed here
    Wallet(address="0x…", voucher_key=…)                      no money key at all: no deposits

Sources: batch-settlement EVM specification, "Client: Payment Construction"; EIP-3009.
"""

import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Never, TypeVar, Unpack

from msgspec import UNSET, Raw

from paywall.asking import Approval, Approve, Asking, Call
from paywall.books import AnyPromise, Books
from paywall.choice import Choice
from paywall.events import Denied, Events, OnEvent
from paywall.keyring import find_signer, find_voucher_key, payer_of
from paywall.keys import LocalKey, Signer
from paywall.offers import AnyIntent, Intent
from paywall.policy import Limits, policy_of
from paywall.protocol import eip712, once
from paywall.protocol.channel import Voucher
from paywall.protocol.errors import (
    AgentError,
    ConfigurationError,
    NotApproved,
    OverBudget,
    SigningFailed,
)
from paywall.protocol.schemes import batch, exact
from paywall.protocol.x402 import (
    VERSION,
    PaymentPayload,
    PaymentRequired,
    Resource,
    encode_header,
    encode_json,
    show_address,
)
from paywall.questions import Question, Questions
from paywall.signing import (
    deposit_request,
    signature,
    transfer_request,
    voucher_request,
)
from paywall.transfers import ExactPromise
from paywall.walletrows import Account, Entry, PendingDeposit
from paywall.walletstate import MAX_HISTORY, open_state

_T = TypeVar("_T")


class Wallet:
    """A signer and a budget.

    `key` is a private key (hex or bytes) or any `Signer`; without one it is read from PAYWALL_KEY,
    or from the encrypted file that PAYWALL_KEYSTORE names. With a `voucher_key` (or
    PAYWALL_VOUCHER_KEY) vouchers are signed by that, and `key` only signs deposits and transfers;
    a wallet with an `address` and a voucher key alone pays from channels that others have filled.
    `state` is the wallet's file, or the URL of a Redis that many wallets share. `approve` is asked
    above the amount `approve_above`; `on_event` is told what happens. Everything else is a limit
    (`paywall.policy.Limits`), in dollars.

    `approve` must not wait for a payment by this wallet that needs the very deposit that it is
    asked for: made in the callback, or in a task that it starts, that payment is NotApproved. Made
    elsewhere (in another thread, or by an `approve` that waits for this one), nobody can tell, and
    both wait for ever.

    Raises ConfigurationError when a key, an amount or the state cannot be used.
    """

    address: str = ""
    """The payer, in hex."""

    def __init__(
        self,
        key: str | bytes | Signer | None = None,
        *,
        voucher_key: str | bytes | None = None,
        address: str | None = None,
        state: str | Path | None = None,
        approve: Approve | None = None,
        on_event: OnEvent | None = None,
        clock: Callable[[], float] = time.time,
        **limits: Unpack[Limits],
    ) -> None:
        voucher = find_voucher_key(voucher_key)
        del voucher_key  # a frame that shows its variables must not show a key
        signer = find_signer(key, needed=address is None or voucher is None)
        del key
        if isinstance(signer, ConfigurationError):
            raise signer
        if isinstance(voucher, ConfigurationError):
            raise voucher
        self.signer = signer
        self.payer = payer_of(signer, voucher, address)
        self.address = show_address(self.payer.account)
        self._vouchers: Signer | None = voucher or signer
        self.policy = policy_of(limits)
        self.clock = clock
        self._approve = approve
        self.events = Events(on_event)
        self.questions = Questions()
        self._choice = Choice(self.policy, self.payer)
        self.file = open_state(state or default_state(self.address), clock, self.policy.history)
        self.books = Books(
            self.payer, self.file, self.policy, clock, self.events, can_deposit=signer is not None
        )

    def __repr__(self) -> str:
        return f"<Wallet {self.address}>"

    def __reduce__(self) -> Never:
        raise TypeError("a wallet holds a private key and is not pickled")

    def close(self) -> None:
        self.file.close()

    def spent(self) -> int:
        """Millionths of a dollar that were charged, or are spoken for by requests in flight."""
        return self.books.spent()

    def history(
        self,
        *,
        since: float = 0.0,
        until: float = float("inf"),
        origin: str | None = None,
        outcome: str | None = None,
        limit: int = MAX_HISTORY,
    ) -> list[Entry]:
        """How payments ended, in the order in which they did: the newest `limit` of what is kept,
        from `since` to just before `until` (Unix seconds), with one origin or of one outcome.
        """
        found = self.file.history(since, until)
        chosen = [
            entry
            for entry in found
            if origin in (None, entry.origin) and outcome in (None, entry.outcome)
        ]
        return chosen[max(0, len(chosen) - limit) :]

    def own_channel(self, origin: str, quote: PaymentRequired, lane: int) -> tuple[Intent, Account]:
        """The channel of ours with this number, as the provider's terms name it, whatever it asks
        for a request by now. Raises NoAcceptableOffer, or AgentError when there is none.
        """
        for intent in self._choice.channels(origin, quote):
            its = intent.lane(lane)
            if (account := self.file.account(its.channel_id)) is not None:
                return its, account
        raise AgentError(f"this wallet has no channel with {origin}")

    def rank(self, origin: str, quote: PaymentRequired) -> list[AnyIntent]:
        """The offers that policy allows, the best first. Raises NoAcceptableOffer or OverBudget."""
        return self._choice.rank(origin, quote, self._is_open)

    def denied(self, origin: str, error: AgentError) -> None:
        """Tells whoever listens that a payment was not made, and by which limit."""
        limit = error.limit if isinstance(error, OverBudget) else ""
        self.events.tell(Denied(self.clock(), origin, limit, str(error)))

    def _is_open(self, intent: Intent) -> bool:
        account = self.file.account(intent.channel_id)
        return account is not None and account.balance > account.spent

    # -- Asking the owner ------------------------------------------------------------------------

    def ask(self, approval: Approval, question: Question) -> Asking[int]:
        """Asks the owner, and returns the amount that is approved. Raises NotApproved."""
        approve = self._approve
        if approve is None:
            raise NotApproved(f"{approval} is above approve_above, and there is nobody to ask")
        call = Call(lambda: approve(approval), question.asking)
        yield call
        if call.answer is not True:  # whatever else a callback returns is no consent
            raise NotApproved(f"the owner did not allow a {approval}")
        return approval.amount

    # -- Signing ---------------------------------------------------------------------------------

    def sign(self, promise: AnyPromise) -> str:
        """As `signing`, by signers that answer at once."""
        return _at_once(self.signing(promise))

    def signing(self, promise: AnyPromise, resource: Resource | None = None) -> Asking[str]:
        """The PAYMENT-SIGNATURE header of a payment that is written down.

        A single transfer says what it is for, where `resource` is known: some servers of x402 want
        to hear it. Raises SigningFailed; then nothing has left, and the payment is free again.
        """
        try:
            return (yield from self._signed(promise, resource))
        except BaseException:
            self.books.unsent(promise)
            raise

    def _signed(self, promise: AnyPromise, resource: Resource | None) -> Asking[str]:
        if isinstance(promise, ExactPromise):
            signed = yield from self._transfer(promise)
            return _header(promise.intent, exact.payload(signed), _with_id(promise), resource)
        intent, config = promise.intent, Raw(promise.config)
        voucher = yield from self._voucher(intent, promise.amount)
        if promise.deposit is None:
            payload = batch.voucher_payload(config, intent.channel_id, voucher)
        else:
            deposit = yield from self._deposit(intent, promise.deposit)
            payload = batch.deposit_payload(config, voucher, deposit)
        return _header(intent, payload, _with_id(promise))

    def signing_refund(
        self, intent: Intent, account: Account, amount: int | None, payment_id: str
    ) -> Asking[str]:
        """The header that asks for `amount` back (None: all that is left), under a name.

        Raises SigningFailed.
        """
        voucher = yield from self._voucher(intent, account.charged)
        payload = batch.refund_payload(Raw(account.config), intent.channel_id, voucher, amount)
        return _header(intent, payload, _named(intent.extensions, payment_id))

    def _voucher(self, intent: Intent, amount: int) -> Asking[Voucher]:
        key, chain_id = self._vouchers, intent.asset.chain_id
        if isinstance(key, LocalKey):  # the way of every request
            domain = eip712.settlement_domain(chain_id)
            digest = eip712.voucher_digest(domain, intent.channel_id, amount)
            return Voucher(amount, key.sign_digest(digest))
        assert key is not None
        request = voucher_request(chain_id, intent.channel_id, amount)
        return Voucher(amount, (yield from signature(key, request)))

    def _transfer(self, promise: ExactPromise) -> Asking[exact.ExactPayment]:
        asset, authorization = promise.intent.asset, promise.authorization
        request = transfer_request(asset, authorization)
        given = yield from signature(self._money(), request)
        return exact.ExactPayment(asset.address, authorization, given)

    def _deposit(self, intent: Intent, pending: PendingDeposit) -> Asking[batch.Deposit]:
        deposit = _deposit_of(intent, pending)
        request = deposit_request(intent.asset, deposit.authorization())
        given = yield from signature(self._money(), request)
        return dataclasses.replace(deposit, signature=given)

    def _money(self) -> Signer:
        if self.signer is None:
            raise SigningFailed("this wallet has no money key: it signs vouchers only")
        return self.signer


def default_state(address: str) -> Path:
    """Where a wallet keeps its file when the owner does not say."""
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "paywall" / f"wallet-{address.lower()}.db"


# -- Headers -------------------------------------------------------------------------------------


def _at_once(asking: Asking[_T]) -> _T:
    """The answer, from signers that do not have to be awaited."""
    try:
        call = next(asking)
        while True:
            try:
                call.make()
            except BaseException as error:
                call = asking.throw(error)
            else:
                call = next(asking)
    except StopIteration as done:
        answer: _T = done.value
        return answer


def _with_id(promise: AnyPromise) -> dict[str, Raw] | None:
    """The extensions as they are echoed: with the payment's id where ids are honoured."""
    return _named(promise.intent.extensions, promise.payment_id)


def _named(extensions: dict[str, Raw] | None, payment_id: str) -> dict[str, Raw] | None:
    if not extensions or once.EXTENSION not in extensions:
        return extensions
    return {**extensions, once.EXTENSION: once.with_id(payment_id)}


def _header(
    intent: AnyIntent,
    payload: Raw,
    extensions: dict[str, Raw] | None,
    resource: Resource | None = None,
) -> str:
    return encode_header(
        PaymentPayload(
            x402_version=VERSION,
            accepted=intent.accepted,
            payload=payload,
            resource=Raw(encode_json(resource)) if resource else UNSET,
            extensions=extensions or UNSET,
        )
    )


def _deposit_of(intent: Intent, pending: PendingDeposit) -> batch.Deposit:
    return batch.Deposit(
        channel_id=intent.channel_id,
        config=intent.config,
        amount=pending.amount,
        valid_after=0,
        valid_before=pending.valid_before,
        salt=int.from_bytes(pending.salt, "big"),
        signature=b"",
    )
