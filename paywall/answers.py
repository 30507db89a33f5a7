"""What the paywall itself answers: the quote, a refusal, a refund, an apology. Plain ASGI.

The header is what machines read; the small JSON body is for the person who looks. Every answer is
kept out of shared caches, and both payment headers are shown to scripts in a browser.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from starlette.types import Message, Scope, Send

from paywall.protocol.errors import Refused
from paywall.protocol.limits import RETRY_AFTER_SECONDS
from paywall.protocol.money import Asset
from paywall.protocol.once import Answer
from paywall.protocol.x402 import PAYMENT_REQUIRED, PAYMENT_RESPONSE, encode_json

_QUOTE: Final = PAYMENT_REQUIRED.lower().encode()
_RECEIPT: Final = PAYMENT_RESPONSE.lower().encode()
_RECEIPTS: Final = (_RECEIPT, b"x-payment-response")
"""What clients take for a receipt, in either version of x402."""
_FOR_SHARED_CACHES: Final = (b"surrogate-control", b"edge-control", b"x-accel-expires")
"""With CDN-Cache-Control and its like (RFC 9213), these overrule Cache-Control in shared caches."""
_SHARING: Final = frozenset((b"access-control-expose-headers", *_FOR_SHARED_CACHES))
EXPOSED: Final = f"{PAYMENT_REQUIRED}, {PAYMENT_RESPONSE}".encode()
_PRIVATE: Final = ((b"cache-control", b"private"), (b"access-control-expose-headers", EXPOSED))
CLIENT_GONE: Final = 499
"""The status that nginx logs for a request whose client did not wait. No client sees it."""
_NONE: Final[Mapping[str, object]] = {}
_HOW: Final = (
    "Send the payment in a PAYMENT-SIGNATURE header (x402 version 2), made from the terms in the "
    "PAYMENT-REQUIRED header. In Python: pip install paywall, then "
    "paywall.Client(wallet=paywall.Wallet(key)).get(url)."
)

Headers = list[tuple[bytes, bytes]]
_NOTHING: Final[Mapping[str, object]] = MappingProxyType({})


async def send_json(
    scope: Scope, send: Send, status: int, body: dict[str, object], headers: Headers
) -> None:
    """One whole answer, as JSON."""
    await _send_whole(scope, send, status, encode_json(body) + b"\n", headers)


async def _send_whole(
    scope: Scope,
    send: Send,
    status: int,
    content: bytes,
    headers: Headers,
    kind: bytes = b"application/json",
) -> None:
    """A HEAD gets the same head and no body."""
    start: Message = {
        "type": "http.response.start",
        "status": status,
        "headers": [
            (b"content-type", kind),
            (b"content-length", str(len(content)).encode()),
            (b"cache-control", b"no-store"),
            *headers,
        ],
    }
    await send(start)
    await send(
        {"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else content}
    )


async def send_quote(scope: Scope, send: Send, body: bytes, header: str) -> None:
    """402 for a request without a payment: what it costs and how to pay."""
    await _send_whole(scope, send, 402, body, _exposed(_QUOTE, header))


async def send_page(scope: Scope, send: Send, page: bytes, header: str, more: Headers) -> None:
    """The same 402 for a person: `more` are the headers that the page itself needs."""
    headers = [*_exposed(_QUOTE, header), *more]
    await _send_whole(scope, send, 402, page, headers, b"text/html; charset=utf-8")


def asking(asset: Asset, price: int, metered: bool, old: Mapping[str, object] = _NONE) -> bytes:
    """The body of a quote, with `old` for x402 v1."""
    cost = f"{'at most ' if metered else ''}{asset.show(price)}"
    body: dict[str, object] = {
        "error": "payment_required",
        "message": f"This request costs {cost} in {asset.symbol} on {asset.network}.",
        "price": asset.show(price),
        "amount": str(price),
        "asset": asset.symbol,
        "network": asset.network,
        "how_to_pay": _HOW,
        **old,
    }
    return encode_json(body) + b"\n"


async def send_manifest(scope: Scope, send: Send, body: bytes) -> None:
    """What is public, and the same for everybody."""
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"public, max-age=60"),
        (b"access-control-allow-origin", b"*"),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


async def send_refusal(
    scope: Scope,
    send: Send,
    refusal: Refused,
    headers: Headers | None = None,
    old: Mapping[str, object] = _NOTHING,
) -> None:
    """A 4xx with its reason: nothing was charged, and the handler did not run."""
    body: dict[str, object] = {
        "error": refusal.reason.code,
        "message": f"{refusal} Nothing was charged.",
        **old,
    }
    await send_json(scope, send, refusal.reason.status, body, headers or [])


async def send_unavailable(scope: Scope, send: Send) -> None:
    """503: our own fault. Never a 402, which would invite a second payment."""
    body: dict[str, object] = {
        "error": "payment_service_unavailable",
        "message": "The payment could not be processed just now. It was not charged; "
        "send the same request again.",
    }
    retry = (b"retry-after", str(RETRY_AFTER_SECONDS).encode())
    await send_json(scope, send, 503, body, [retry])


async def send_gone(scope: Scope, send: Send) -> None:
    """To nobody: for middleware in between, to which an app that sends nothing has failed."""
    await _send_whole(scope, send, CLIENT_GONE, b"", [])


async def send_repeated(send: Send, answer: Answer, receipt: str) -> None:
    """An answer that was charged before, once more."""
    headers = paid_headers(answer.headers, receipt)
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


async def send_refund(scope: Scope, send: Send, channel_id: str, receipt: str) -> None:
    body: dict[str, object] = {"message": "Refund acknowledged", "channelId": channel_id}
    await send_json(scope, send, 200, body, _exposed(_RECEIPT, receipt))


def _exposed(name: bytes, value: str) -> Headers:
    return [
        (name, value.encode()),
        (b"access-control-expose-headers", EXPOSED),
    ]


def refusal_headers(failure: str, refusal: Refused) -> Headers:
    """The headers of a refusal that asks for no other payment; some may be tried again."""
    headers = _exposed(_RECEIPT, failure)
    if refusal.reason.status in (429, 503):
        headers.append((b"retry-after", str(RETRY_AFTER_SECONDS).encode()))
    return headers


def quote_headers(required: str, response: str | None) -> Headers:
    """The headers of a 402 that refuses a payment."""
    headers = _exposed(_QUOTE, required)
    if response:
        headers.append((_RECEIPT, response.encode()))
    return headers


def unforged(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """The app's own headers; content cannot forge a receipt."""
    told = [(bytes(name), bytes(value)) for name, value in headers]
    if not _forge(_names(told)):
        return told
    return [(name, value) for name, value in told if name.lower() not in _RECEIPTS]


def _names(headers: Headers) -> tuple[bytes, ...]:
    """An app sends the same names each time, so what they come to is kept."""
    return tuple([name for name, _ in headers])


@lru_cache(maxsize=256)
def _forge(names: tuple[bytes, ...]) -> bool:
    return any(name.lower() in _RECEIPTS for name in names)


@lru_cache(maxsize=256)
def _are_about_sharing(names: tuple[bytes, ...]) -> bool:
    return any(name.endswith(b"control") or name in _SHARING for name in map(bytes.lower, names))


def paid_headers(headers: Headers, receipt: str) -> Headers:
    """The app's own headers, kept private, with the receipt."""
    return [*private_headers(headers), (_RECEIPT, receipt.encode())]


def private_headers(headers: Headers) -> Headers:
    """The app's own headers, so that no shared cache gives the answer to somebody else."""
    if not _are_about_sharing(_names(headers)):
        return [*headers, *_PRIVATE]
    exposed, cache = [EXPOSED], []
    kept = []
    for name, value in headers:
        lower = name.lower()
        if lower == b"access-control-expose-headers":
            exposed.append(value)
        elif lower == b"cache-control":
            cache.append(value)
        elif lower not in _FOR_SHARED_CACHES and not lower.endswith(b"-cache-control"):
            kept.append((name, value))
    return [
        *kept,
        (b"cache-control", _private(b", ".join(cache))),
        (b"access-control-expose-headers", b", ".join(exposed)),
    ]


def _private(cache_control: bytes) -> bytes:
    """The app's wishes for caching, less everything that would let a shared cache keep it."""
    wishes = [wish.strip() for wish in cache_control.split(b",") if wish.strip()]
    kept = [
        wish
        for wish in wishes
        if wish.split(b"=")[0].strip().lower() not in (b"public", b"s-maxage")
    ]
    # `private="set-cookie"` speaks of that field only; the word alone speaks of the whole answer.
    if any(wish.lower() in (b"private", b"no-store") for wish in kept):
        return b", ".join(kept)
    return b", ".join([b"private", *kept])
