"""paywall: HTTP 402 for machines that pay machines.

Providers put `Paywall` around an ASGI app; agents use `Client` or `AsyncClient` with a `Wallet`.
The names below are the public ones. Each is loaded when it is first used, so that a provider does
not pay for the client's imports nor an agent for the chain's.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from paywall.asgi import Paywall
    from paywall.callers import payer_of
    from paywall.chain.devnet import Devnet
    from paywall.chain.facilitator import Facilitator
    from paywall.chain.node import Node
    from paywall.chain.payer import PayerNode
    from paywall.client import AsyncClient, AsyncTransport, Client, Transport, patch, receipt
    from paywall.kinds import CLOSED, free_first, pass_for, upto
    from paywall.meter import Meter, per_byte, per_second, per_token
    from paywall.payment import Payment
    from paywall.protocol.errors import (
        AgentError,
        ConfigurationError,
        NoAcceptableOffer,
        NotApproved,
        OverBudget,
        PaymentError,
        PaymentLost,
        PaymentRefused,
        ProviderMisbehaved,
        SigningFailed,
    )
    from paywall.protocol.money import USDC, Asset
    from paywall.routes import charge, paid, payment_of
    from paywall.stores import open_store
    from paywall.wallet import Wallet
    from paywall.webhook import Webhook

_HOME: Final = {
    "paywall.asgi": ("Paywall",),
    "paywall.callers": ("payer_of",),
    "paywall.chain.devnet": ("Devnet",),
    "paywall.chain.facilitator": ("Facilitator",),
    "paywall.chain.node": ("Node",),
    "paywall.chain.payer": ("PayerNode",),
    "paywall.client": (
        "AsyncClient",
        "AsyncTransport",
        "Client",
        "Transport",
        "patch",
        "receipt",
    ),
    "paywall.payment": ("Payment",),
    "paywall.kinds": ("CLOSED", "free_first", "pass_for", "upto"),
    "paywall.meter": ("Meter", "per_byte", "per_second", "per_token"),
    "paywall.routes": ("charge", "paid", "payment_of"),
    "paywall.protocol.errors": (
        "AgentError",
        "ConfigurationError",
        "NoAcceptableOffer",
        "NotApproved",
        "OverBudget",
        "PaymentError",
        "PaymentLost",
        "PaymentRefused",
        "ProviderMisbehaved",
        "SigningFailed",
    ),
    "paywall.protocol.money": ("USDC", "Asset"),
    "paywall.stores": ("open_store",),
    "paywall.wallet": ("Wallet",),
    "paywall.webhook": ("Webhook",),
}
_MODULE_OF: Final = {name: module for module, names in _HOME.items() for name in names}

__version__: Final = "0.1.0"
__all__ = [
    "CLOSED",
    "USDC",
    "AgentError",
    "Asset",
    "AsyncClient",
    "AsyncTransport",
    "Client",
    "ConfigurationError",
    "Devnet",
    "Facilitator",
    "Meter",
    "NoAcceptableOffer",
    "Node",
    "NotApproved",
    "OverBudget",
    "PayerNode",
    "Payment",
    "PaymentError",
    "PaymentLost",
    "PaymentRefused",
    "Paywall",
    "ProviderMisbehaved",
    "SigningFailed",
    "Transport",
    "Wallet",
    "Webhook",
    "charge",
    "free_first",
    "open_store",
    "paid",
    "pass_for",
    "patch",
    "payer_of",
    "payment_of",
    "per_byte",
    "per_second",
    "per_token",
    "receipt",
    "upto",
]


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module 'paywall' has no attribute {name!r}")
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
