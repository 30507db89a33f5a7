"""The errors of paywall, one tree.

    PaymentError
     ├── ConfigurationError     the owner's settings cannot work; raised at start, not later
     ├── Refused(Reason)        the other side's fault: a 4xx with a reason, nothing charged
     ├── Unavailable            our own fault on the provider's side: a 503 that invites a retry
     │    ├── StoreUnavailable
     │    └── ChainUnavailable
     │         ├── TransactionPending  sent, or perhaps sent, and not seen mined
     │         └── OutOfGas            the gas wallet is empty
     ├── Reverted               a contract will not take our transaction; repeating is useless
     ├── HoldLost               a charge came after its hold was dropped: the late worker is fenced
     └── AgentError             the agent's side
          ├── OverBudget        the owner's ceilings do not allow this payment; nothing was signed
          ├── NotApproved       the owner was asked and said no; nothing was signed
          ├── SigningFailed     the signer did not sign, or signed something else
          ├── NoAcceptableOffer the provider asks for nothing that policy allows
          ├── InvalidQuote      the provider's 402 cannot be understood
          ├── PaymentRefused    the provider refused a payment, and why
          ├── ProviderMisbehaved the provider broke the rules; the channel is stopped
          └── PaymentLost       paid, and no answer came, even after sending it again

There is one way to refuse, `raise Refused(Reason.X)`, and one place that catches it: the edge that
answers. The table of reasons is `paywall.protocol.reasons`, and is imported from here.
"""

from paywall.protocol.reasons import Reason


class PaymentError(Exception):
    """The root of the tree."""


class ConfigurationError(PaymentError, ValueError):
    """The owner's settings cannot work; the text says which and how to mend it."""


class Refused(PaymentError):
    """The other side's fault. `detail` adds facts that the sender already knows, never secrets."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason.text} {detail}".rstrip())
        self.reason = reason


class Unavailable(PaymentError):
    """Our own fault: nothing was charged, and trying again later is right."""


class StoreUnavailable(Unavailable):
    """The store did not answer, or not in time."""


class ChainUnavailable(Unavailable):
    """The chain, or the way to it, did not answer, or not in time."""


class TransactionPending(ChainUnavailable):
    """A transaction was sent, or may have been, and nobody saw it mined in time.

    It may still be mined: ask the chain what became of it before you act on either outcome.
    """

    def __init__(self, message: str, transaction: bytes) -> None:
        super().__init__(f"{message}: 0x{transaction.hex()}")
        self.transaction = transaction


class OutOfGas(ChainUnavailable):
    """The gas wallet cannot pay for a transaction; nothing was sent."""


class Reverted(PaymentError):
    """A contract will not take a transaction: simulated, or mined (`transaction` is its hash).

    `has_left` says whether others have the call by now, and could send what was signed in it.
    """

    def __init__(
        self, reason: str, transaction: bytes | None = None, has_left: bool = False
    ) -> None:
        super().__init__(
            f"refused by the contract: {reason}" if reason else "refused by the contract"
        )
        self.reason = reason
        self.transaction = transaction
        self.has_left = has_left or transaction is not None


class HoldLost(PaymentError):
    """The hold of this request is gone: it expired, or was charged or released before."""


class AgentError(PaymentError):
    """Something that stops an agent from paying, or from getting what it paid for."""


class OverBudget(AgentError):
    """The owner's ceilings do not allow this payment. Nothing was signed.

    `limit` is the setting that stands in the way, `left` what it leaves in atomic units, and
    `renews_at` the Unix time at which it leaves enough; None when only the owner can raise it.
    """

    def __init__(
        self, message: str, limit: str, left: int = 0, renews_at: float | None = None
    ) -> None:
        super().__init__(message)
        self.limit = limit
        self.left = left
        self.renews_at = renews_at


class NotApproved(AgentError):
    """The owner was asked for this payment and did not allow it. Nothing was signed."""


class SigningFailed(AgentError):
    """The signer is not there, did not sign, or signed something else. Nothing has left."""


class NoAcceptableOffer(AgentError):
    """None of the provider's offers is one that the wallet's policy allows. Nothing was signed."""


class InvalidQuote(AgentError):
    """The provider answered 402 with a quote that cannot be understood."""


class PaymentRefused(AgentError):
    """The provider refused a payment; `reason` is the word that it gave."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class ProviderMisbehaved(AgentError):
    """The provider charged more than agreed, or forged a total. The channel is stopped."""


class PaymentLost(AgentError):
    """A payment left, and no answer came back, even to the same payment sent again; or a refusal
    did, when the payment counted as spent already."""


__all__ = [
    "AgentError",
    "ChainUnavailable",
    "ConfigurationError",
    "HoldLost",
    "InvalidQuote",
    "NoAcceptableOffer",
    "NotApproved",
    "OutOfGas",
    "OverBudget",
    "PaymentError",
    "PaymentLost",
    "PaymentRefused",
    "ProviderMisbehaved",
    "Reason",
    "Refused",
    "Reverted",
    "SigningFailed",
    "StoreUnavailable",
    "TransactionPending",
    "Unavailable",
]
