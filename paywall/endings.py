"""How payments end: the word for it in the history, the event, and the evidence that is kept.

    paid        the provider confirmed it
    refused     it was not taken: free again
    lost        nobody knows: it counts as spent
    forgotten   its process died: it counts as spent
    unsent      it never left: free again

A receipt on which a provider charges more than agreed is kept, cut to a bound, with the reason why
it is not paid any more.
"""

from dataclasses import dataclass
from typing import Final

from paywall.events import Event, Lost, Paid, Refused, Unsent
from paywall.protocol.errors import ProviderMisbehaved
from paywall.protocol.limits import MAX_EVIDENCE_BYTES, MAX_TEXT_BYTES
from paywall.protocol.schemes import batch
from paywall.protocol.x402 import SettlementResponse, encode_json, show_bytes
from paywall.walletrows import Account, Entry, InFlight
from paywall.walletstate import WalletState

EVIDENCE: Final = "; its receipt: "

_EVENTS: Final = {
    "paid": Paid,
    "refused": Refused,
    "lost": Lost,
    "forgotten": Lost,
    "unsent": Unsent,
}


@dataclass(frozen=True)
class Ending:
    """One payment's end."""

    origin: str
    path: str
    payment_id: str
    scheme: str
    amount: int
    outcome: str
    channel: str = ""
    transaction: str = ""

    def entry(self, now: float) -> Entry:
        return Entry(
            time=now,
            origin=self.origin,
            path=self.path,
            amount=self.amount,
            scheme=self.scheme,
            payment_id=self.payment_id,
            outcome=self.outcome,
            channel=self.channel,
            transaction=self.transaction[:MAX_TEXT_BYTES],
        )

    def event(self, now: float) -> Event:
        return _EVENTS[self.outcome](
            now,
            self.origin,
            self.path,
            self.payment_id,
            self.scheme,
            self.amount,
            self.channel,
            self.transaction[:MAX_TEXT_BYTES],
        )


def evidence_of(receipt: SettlementResponse) -> str:
    return encode_json(receipt)[:MAX_EVIDENCE_BYTES].decode(errors="replace")


def refuse_stopped(state: WalletState, origin: str) -> None:
    """Raises ProviderMisbehaved for a provider that is not paid any more."""
    why = state.stopped(origin)
    if why:
        told = why.partition(EVIDENCE)[0]
        raise ProviderMisbehaved(f"{origin} is not paid any more: {told}")


def ending_of(
    account: Account, payment: InFlight, outcome: str, amount: int, transaction: str = ""
) -> Ending:
    """The end of a payment over a channel."""
    return Ending(
        origin=account.origin,
        path=payment.path,
        payment_id=payment.payment_id,
        scheme=batch.SCHEME,
        amount=amount,
        outcome=outcome,
        channel=show_bytes(account.channel_id),
        transaction=transaction,
    )
