"""Which place asks which price: an agent's memory of quotes, for paying on the first try.

A place is a method, an origin and a path. A quote counts for the path that gave it, and for its
siblings in the same directory until one of them names a price of its own. What was paid there and
not confirmed is not paid there again unasked.
"""

from typing import Final

import httpx
import msgspec
from msgspec import Raw

from paywall.protocol import sign_in
from paywall.protocol.errors import InvalidQuote
from paywall.protocol.limits import MAX_QUOTE_HEADER_BYTES, MAX_TEXT_BYTES
from paywall.protocol.x402 import (
    PAYMENT_REQUIRED,
    VERSION,
    Malformed,
    PaymentRequired,
    Resource,
    decode_required,
    encode_json,
)
from paywall.wallet import Wallet
from paywall.walletrows import KnownQuote

_NO_PRICE: Final = KnownQuote(b"[]", None)

_quotes = msgspec.json.Decoder(list[Raw])
_extensions = msgspec.json.Decoder(dict[str, Raw])


def origin_of(url: httpx.URL) -> str:
    """Scheme, host and port, as the unit of trust."""
    default = {"http": 80, "https": 443}.get(url.scheme)
    return f"{url.scheme}://{url.host}:{url.port or default}"


def place_of(request: httpx.Request) -> str:
    """The directory that a request is for: siblings have one price until one of them says more."""
    return _places(request)[1]


def shown_url(request: httpx.Request) -> str:
    """A request's URL as it may be shown: without a password, and without its query, which may hold
    a key."""
    return f"{origin_of(request.url)}{request.url.path}"


def resource_of(request: httpx.Request) -> Resource | None:
    """What a payment for this request says that it is for; nothing where that would be very long.

    It is the URL as the provider sees it, without what is the caller's own (a password in it).
    """
    url = str(request.url.copy_with(userinfo=b"", fragment=None))
    return Resource(url) if len(url) <= MAX_TEXT_BYTES else None


def _places(request: httpx.Request) -> list[str]:
    """Where a price is remembered: for this path, and for its siblings."""
    url = request.url
    parent = url.path.rsplit("/", 1)[0]
    base = f"{request.method} {origin_of(url)}"
    return [f"{base}{url.path}", f"{base}{parent}/*"]


def known_quote(wallet: Wallet, request: httpx.Request) -> PaymentRequired | None:
    """What this place, or a sibling of it, asked when it was last seen."""
    known = wallet.file.recall(_places(request))
    if known is None or known == _NO_PRICE:
        return None
    return PaymentRequired(
        x402_version=VERSION,
        accepts=_quotes.decode(known.accepts),
        extensions=_extensions.decode(known.extensions) if known.extensions else None,
    )


def remember(wallet: Wallet, request: httpx.Request, quote: PaymentRequired) -> None:
    """Keeps a quote for the siblings too, unless they are known to cost something else."""
    if any(b'"channelState"' in bytes(raw) for raw in quote.accepts):
        return  # a correction speaks of one moment, and of one payer
    places = _places(request)
    extensions = encode_json(_lasting(quote.extensions)) if quote.extensions else None
    fresh = KnownQuote(encode_json(quote.accepts), extensions)
    if wallet.file.recall(places) == fresh:
        return
    siblings_known = wallet.file.recall(places[1:]) is not None
    wallet.file.remember(places[:1] if siblings_known else places[1:], fresh, wallet.clock())


def _lasting(extensions: dict[str, Raw]) -> dict[str, Raw]:
    """Without what is new in every quote, so that the same one is the same."""
    told = extensions.get(sign_in.EXTENSION)
    asked = sign_in.read_challenge(told) if told is not None else None
    if asked is None:
        return extensions
    return {**extensions, sign_in.EXTENSION: sign_in.lasting(asked)}


def unlearn(wallet: Wallet, request: httpx.Request) -> None:
    """It was paid and nobody confirmed it: this place is not paid again unasked, and its siblings
    only at prices that they have named themselves."""
    places = _places(request)
    if wallet.file.recall(places[:1]) != _NO_PRICE:
        wallet.file.remember(places, _NO_PRICE, wallet.clock())


def quote_of(response: httpx.Response) -> PaymentRequired | None:
    """The quote of a 402; None when the answer is no 402 of x402. Raises InvalidQuote."""
    header = response.headers.get(PAYMENT_REQUIRED)
    if response.status_code != 402 or header is None:
        return None
    if len(header) > MAX_QUOTE_HEADER_BYTES:
        raise InvalidQuote("the provider's quote is too large")
    try:
        quote = decode_required(header)
    except Malformed as error:
        raise InvalidQuote(f"the provider's quote cannot be read: {error}") from error
    if quote.x402_version != VERSION:
        raise InvalidQuote(f"the provider speaks x402 version {quote.x402_version}, not {VERSION}")
    return quote
