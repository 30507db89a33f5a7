"""Corrective 402s: another's total is adopted only as far as our own signature proves it.

What our books count already needs no proof. More is explained by payments that were refused, failed
or cost less, as far as we have signed so much; or needs a signature that our books do not know
(somebody else has this key, or the state was lost). A payment explains nothing while its request
goes on, nor when another was made in its place: that would be a second price for one answer. So a
provider that lies gains, at most, one price of each request on a channel, and a unit where it is
paid anew.
Where a stranger has used such a payment, one more request is refused, and that price explains it.
A provider that keeps a window names our highest total where a lower one is not new to it. Where
others of our payments have signed that, so much of it is adopted as is explained; what we sign next
is new to it anyway, and higher by a unit.
What a channel is said to hold needs none where it is less than was thought: then a deposit is due,
and those the policy bounds.

Sources: batch-settlement EVM specification, "Client: Payment Construction", corrective 402.
"""

from collections.abc import Callable
from dataclasses import dataclass

from msgspec.structs import replace

from paywall.deposits import confirmed, without
from paywall.events import Corrected, Events
from paywall.offers import Intent
from paywall.promises import Promise
from paywall.protocol import eip712
from paywall.protocol.errors import Reason
from paywall.protocol.limits import MAX_OFFERS
from paywall.protocol.money import Address, parse_amount
from paywall.protocol.schemes import batch
from paywall.protocol.x402 import PaymentRequired, decode_requirements, parse_bytes
from paywall.walletrows import Account, PendingDeposit
from paywall.walletstate import WalletState


class Corrections:
    """Adopts what a provider can prove; `authorizer` is who signs our vouchers."""

    def __init__(
        self, authorizer: Address, state: WalletState, clock: Callable[[], float], events: Events
    ) -> None:
        self._authorizer = authorizer
        self._state = state
        self._clock = clock
        self._events = events

    def correct(
        self,
        unknown: Account,
        intent: Intent,
        refusal: PaymentRequired,
        promise: Promise | None = None,
    ) -> bool:
        """Adopts a corrective 402 as far as it is proven; False when it is not.

        `unknown` is the channel as it is when nothing is known of it, `promise` what was refused.
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
        with self._state.change():
            before = self._state.account(intent.channel_id) or unknown
            too_little = refusal.error == Reason.EXCEEDS_BALANCE.code
            presented = _in_vain(promise, balance) if too_little else None
            word = Word(total, proof, balance, _since(before, promise))
            others = intent.in_flight > 1 and total > (promise.amount if promise else 0)
            if word.is_explained(before, others):
                after = without(word.adopted(before), presented)
            elif too_little and balance < before.balance:
                after = replace(without(before, presented), balance=balance)
            else:
                return False
            self._state.put(after)
        told = (intent.origin, "0x" + intent.channel_id.hex(), before.charged, after.charged)
        self._events.tell(Corrected(self._clock(), *told))
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
        return signed if signer == self._authorizer else 0


@dataclass(frozen=True)
class Word:
    """What a provider says of a channel. `since` is what others have cost while its refusal, and
    the payment before it, were on their way: its total may be older than that."""

    total: int
    proof: int
    balance: int
    since: int

    def is_explained(self, account: Account, by_others: bool) -> bool:
        """Whether the total follows from our own signatures, or tells that a higher one is due,
        because others were signed since, in a window."""
        if self.total <= account.spent or self._is_news(account):
            return self.total <= max(account.spent, self.proof)
        if self.total > max(account.signed, self.proof):
            return False
        is_known = self.total <= account.spent + account.doubtful
        return is_known or (by_others and self.total == self.proof)

    def adopted(self, account: Account) -> Account:
        """The channel as far as the word is explained."""
        flying, signed = account.flying, max(account.signed, self.proof)
        charged = self._charged(account)
        # What is given back now, or was refused, may be taken after all, up to what was signed: a
        # copy comes late, or a store that has lost its count is told of it by our own signature.
        doubtful = max(0, account.doubtful + account.charged - charged)
        pending = account.deposit
        if pending and self.balance >= account.balance + _new_in(pending):
            account = confirmed(account, pending)
        return replace(
            account,
            charged=charged,
            signed=signed,
            balance=self.balance,
            doubtful=min(doubtful, max(0, signed - charged - flying)),
            # What was charged was deposited once, by whoever else has this key.
            deposited=max(account.deposited, charged),
        )

    def _charged(self, account: Account) -> int:
        """How much of what is in flight the total counts already, nobody says, nor whether it
        counts what has ended since. As far as there is doubt enough: nothing of it. Who counts too
        little is refused again; what is too much, a later receipt gives back."""
        told = self.total + self.since
        if not account.flying and told <= account.charged:
            return told
        most = account.charged + account.doubtful
        if self._is_news(account):
            most = max(most, self.total)
        return max(account.charged, min(told, most))

    def _is_news(self, account: Account) -> bool:
        """Whether the proof is a signature that our books do not know."""
        return self.proof > account.signed


def _since(account: Account, promise: Promise | None) -> int:
    return max(0, account.charged - promise.charged) if promise else 0


def _new_in(deposit: PendingDeposit) -> int:
    """What a deposit adds to a balance; a supposed one is in it already."""
    return 0 if deposit.supposed else deposit.amount


def _in_vain(promise: Promise | None, balance: int) -> PendingDeposit | None:
    """The deposit of a promise that it would have saved, had it been made: so it is not to come."""
    deposit = promise.deposit if promise else None
    if promise is None or deposit is None or balance + deposit.amount < promise.amount:
        return None
    return deposit


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
