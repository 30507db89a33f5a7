"""The agent signs in where that may do instead of paying: a pass that it has bought, free requests.

A provider offers it in its quote. The agent takes the offer only for the very origin that it has
asked, only where its policy would pay (a signature tells who it is), and only by a key in this
process: nobody is called to a hardware wallet for each request. It costs one request more at the
first visit. Later ones sign in on the first try, with a nonce of the agent's own; where that did
not open, the next one is paid on the first try, until a pass is sold.
"""

from secrets import token_hex
from typing import Final
from weakref import WeakKeyDictionary

import httpx
from msgspec import Raw
from msgspec.structs import replace

from paywall.either import can_be_replayed, with_header
from paywall.keys import LocalKey
from paywall.places import known_quote, origin_of, place_of, quote_of, remember
from paywall.protocol import sign_in
from paywall.protocol.errors import AgentError, OverBudget
from paywall.protocol.sign_in_message import Challenge
from paywall.protocol.x402 import PaymentRequired
from paywall.sending import Agreement
from paywall.wallet import Wallet

SOLD: Final = "PAYWALL-PASS"
"""The header of an answer that sells a pass."""
_MAX_SHUT: Final = 2048

_shut: Final[WeakKeyDictionary[Wallet, set[str]]] = WeakKeyDictionary()
"""Places of each wallet where signing in did not open the last time."""

Asked = Agreement[tuple[httpx.Response, PaymentRequired | None]]


def ask(wallet: Wallet, request: httpx.Request) -> Asked:
    """Sends a request that is not paid, signed in where that is of use: its answer, and the quote
    when it is one. `request.stream` may be gone then."""
    asked = _remembered(wallet, request)
    header = asked and _header(wallet, request, asked, token_hex(16))
    response = yield with_header(request, sign_in.HEADER, header) if header else request
    assert response is not None
    quote = quote_of(response)
    offered = _challenge_of(quote)
    if offered and quote and _may_try(wallet, request, quote, header is not None):
        remember(wallet, request, quote)
        header = _header(wallet, request, offered, None)
        if header:
            response = yield with_header(request, sign_in.HEADER, header)
            assert response is not None
            quote = quote_of(response)
    if header:
        _note(wallet, request, shut=quote is not None)
    return response, quote


def opens(wallet: Wallet, request: httpx.Request) -> bool:
    """Whether to sign in here rather than to pay on the first try."""
    return _remembered(wallet, request) is not None


def sold(wallet: Wallet, request: httpx.Request, response: httpx.Response) -> None:
    """Takes note of a paid answer: with a pass in it, signing in is worth another try."""
    if SOLD in response.headers:
        _note(wallet, request, shut=False)


def payable(quote: PaymentRequired) -> PaymentRequired:
    """The quote as a payment answers it: the challenge is answered in a header of its own."""
    if not quote.extensions or sign_in.EXTENSION not in quote.extensions:
        return quote
    others = {name: raw for name, raw in quote.extensions.items() if name != sign_in.EXTENSION}
    return replace(quote, extensions=others)


def _remembered(wallet: Wallet, request: httpx.Request) -> Challenge | None:
    if place_of(request) in _shut.get(wallet, ()) or not isinstance(wallet.signer, LocalKey):
        return None
    return _challenge_of(known_quote(wallet, request))


def _challenge_of(quote: PaymentRequired | None) -> Challenge | None:
    extension: Raw | None = (quote.extensions or {}).get(sign_in.EXTENSION) if quote else None
    return sign_in.read_challenge(extension) if extension is not None else None


def _may_try(wallet: Wallet, request: httpx.Request, quote: PaymentRequired, tried: bool) -> bool:
    """Once more when the provider did not like our nonce; else once, where policy would pay."""
    if not can_be_replayed(request) or place_of(request) in _shut.get(wallet, ()):
        return False
    if tried:
        return str(quote.error or "").startswith("invalid_siwx")
    try:
        wallet.rank(origin_of(request.url), payable(quote))
    except OverBudget:
        return True  # what was bought before needs no budget now
    except AgentError:
        return False
    return True


def _header(
    wallet: Wallet, request: httpx.Request, asked: Challenge, nonce: str | None
) -> str | None:
    key, url = wallet.signer, request.url
    if not isinstance(key, LocalKey):
        return None
    port = f":{url.port}" if url.port is not None else ""
    host = f"[{url.host}]" if ":" in url.host else url.host
    origin = f"{url.scheme}://{host}{port}"
    uri = f"{origin}{url.path if url.path.isascii() else '/'}"
    now = int(wallet.clock())
    return sign_in.sign(key.sign_digest, key.account, asked, origin, uri, nonce, now)


def _note(wallet: Wallet, request: httpx.Request, shut: bool) -> None:
    places = _shut.setdefault(wallet, set())
    if len(places) >= _MAX_SHUT:
        places.clear()
    (places.add if shut else places.discard)(place_of(request))
