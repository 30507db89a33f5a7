"""Which headers a proxy hands on, in both directions, and what it says of its own.

What belongs to one connection stays on it (RFC 9110 §7.6.1), and trailers with it, for no server
of ours can send them on over HTTP/1.1 (§6.5.1 allows an intermediary to drop them). What a client
says about its own origin is dropped too, and said anew from the connection. The upstream learns who
paid: `Paywall-Payer` and `Paywall-Price` (atomic units); it may answer `Paywall-Charge: $0.0003` to
charge less than the price. Nobody outside can send or see these three.
"""

from collections.abc import Iterable
from typing import Final

from starlette.types import Scope

from paywall.answers import Headers
from paywall.payment import Payment

PAYER: Final = b"paywall-payer"
PRICE: Final = b"paywall-price"
CHARGE: Final = b"paywall-charge"

_HOP_BY_HOP: Final = frozenset(
    (
        *(b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate"),
        *(b"proxy-authorization", b"te", b"trailer", b"transfer-encoding", b"upgrade"),
    )
)
_OURS: Final = frozenset(
    (
        *(b"payment-signature", b"x-payment", b"sign-in-with-x", b"paywall-pass"),
        *(PAYER, PRICE, CHARGE),
    )
)
_ABOUT_THE_CLIENT: Final = frozenset(
    (
        *(b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"),
        *(b"x-forwarded-port", b"x-forwarded-server", b"x-real-ip"),
    )
)
_NOT_SENT_ON: Final = _OURS | _ABOUT_THE_CLIENT | {b"host", b"expect"}
_VIA: Final = (b"via", b"1.1 paywall")


def sent_on(scope: Scope, own_host: bytes, keep_host: bool) -> Headers:
    """What the upstream sees: of the request, of who has sent it, and of who has paid."""
    given: Headers = scope["headers"]
    host = next((value for name, value in given if name == b"host"), b"")
    # Services that cannot tell the two signs apart would take one name for the other.
    kept = [one for one in end_to_end(given) if one[0].replace(b"_", b"-") not in _NOT_SENT_ON]
    chunked = any(name == b"transfer-encoding" for name, _ in given)
    if chunked:  # a length beside it would be another opinion of where the body ends
        kept = [pair for pair in kept if pair[0] != b"content-length"]
    payment = scope.get("payment")
    paid = _facts(payment) if isinstance(payment, Payment) else []
    client = scope.get("client")
    return [
        (b"host", host if keep_host and host else own_host),
        *kept,
        *([(b"transfer-encoding", b"chunked")] if chunked else []),
        *([(b"x-forwarded-for", client[0].encode())] if client else []),
        (b"x-forwarded-proto", scope.get("scheme", "http").encode()),
        *([(b"x-forwarded-host", host)] if host else []),
        _VIA,
        *paid,
    ]


def _facts(payment: Payment) -> Headers:
    return [(PAYER, payment.payer.encode()), (PRICE, str(payment.amount).encode())]


def handed_back(headers: Headers) -> Headers:
    """What the client sees of the answer's headers that are not the connection's."""
    return [*(pair for pair in headers if pair[0] not in _OURS), _VIA]


def end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Without what belongs to the connection, also by the connection's own word."""
    pairs = [(name.lower(), value) for name, value in headers]
    named = {
        option.strip().lower()
        for name, value in pairs
        if name == b"connection"
        for option in value.split(b",")
    }
    return [pair for pair in pairs if pair[0] not in _HOP_BY_HOP and pair[0] not in named]
