"""Notices, made of what the gate and the claimer have in hand; none where nobody listens."""

from paywall.admission import Admission, Admitted, ExactAdmission
from paywall.chain.desk import CLAIM, SETTLEMENT, Deed
from paywall.notices import Charged, Claimed, Deposited, News, Settled
from paywall.protocol.x402 import show_address, show_bytes


def charged(news: News, admission: Admitted, amount: int) -> None:
    """A request that was charged; one that cost nothing is no news."""
    if not news.wanted or not amount:
        return
    transaction = admission.transaction if isinstance(admission, ExactAdmission) else b""
    news.tell(
        Charged(
            news.now,
            admission.route,
            show_address(admission.payer),
            amount,
            admission.request,
            admission.channel or "",
            _hash(transaction),
        )
    )


def deposited(news: News, admission: Admission) -> None:
    if news.wanted and admission.deposited:
        payer, channel = show_address(admission.payer), admission.channel or ""
        transaction = _hash(admission.transaction)
        news.tell(Deposited(news.now, payer, channel, admission.deposited, transaction))


def done(news: News, deed: Deed) -> None:
    """What the claimer has done. Of a transaction that a predecessor had sent, the amounts are not
    known: the journal has it, and nobody is told."""
    if not news.wanted:
        return
    transaction = _hash(deed.transaction)
    if deed.kind == CLAIM:
        news.tell(Claimed(news.now, deed.channels, deed.amount, transaction, deed.fee_wei))
    elif deed.kind == SETTLEMENT:
        receiver = show_address(deed.receiver)
        news.tell(Settled(news.now, receiver, deed.amount, transaction, deed.fee_wei))


def _hash(transaction: bytes) -> str:
    return show_bytes(transaction) if transaction else ""
