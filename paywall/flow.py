"""The agent's conversation, without sockets: one generator, driven by whoever has the wire.

    flow = pay(wallet, request)
    step = next(flow)                   a request to send, or a turn to wait for
    step = flow.send(response)          after a request;  flow.send(None) after a turn
    ... StopIteration                   its value is the response for the caller

A request to a place whose price is known is paid on the first try. Otherwise it goes out unpaid,
and only a 402 with a quote leads to a payment. One request is paid once: after a refusal the same
price may be offered again at most once for each cause that the refusal names (a total to correct,
a deposit to make, terms that changed), never twice for the same. Text in a 402 is data.

Payments ride below redirects, on one hop to one origin, so no payment header leaves for another.
"""

import logging
from collections.abc import Generator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeVar

import httpx
import msgspec
from msgspec import Raw

from paywall.books import AnyPromise, Turn, Wait
from paywall.policy import AnyIntent, ExactIntent, Intent
from paywall.protocol import once
from paywall.protocol.errors import (
    AgentError,
    InvalidQuote,
    OverBudget,
    PaymentLost,
    PaymentRefused,
    Reason,
)
from paywall.protocol.limits import MAX_QUOTE_HEADER_BYTES
from paywall.protocol.money import parse_amount
from paywall.protocol.schemes import batch
from paywall.protocol.x402 import (
    PAYMENT_REQUIRED,
    PAYMENT_RESPONSE,
    PAYMENT_SIGNATURE,
    VERSION,
    Malformed,
    PaymentRequired,
    SettlementResponse,
    decode_required,
    decode_response,
    encode_json,
)
from paywall.transfers import ExactPromise
from paywall.wallet import Wallet
from paywall.walletfile import KnownQuote

log = logging.getLogger("paywall.client")

Step = httpx.Request | Turn
_T = TypeVar("_T")
Agreement = Generator[Step, httpx.Response | None, _T]
Flow = Agreement[httpx.Response]

_CORRECTABLE: Final = frozenset(
    (Reason.CUMULATIVE_MISMATCH.code, Reason.BELOW_CLAIMED.code, Reason.EXCEEDS_BALANCE.code)
)
MAX_REASON_CHARS: Final = 200
_NEVER_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
RESEND_PAUSES_SECONDS: Final = (0.1, 0.4, 1.0, 2.0, 4.0)
"""How long to wait before the same payment is sent again."""
_UNKNOWN_STATUSES: Final = frozenset((408, 499, 502, 504))
"""Answers of something in between: whether the provider was reached, nobody knows."""
_COME_AGAIN: Final = (Reason.PAYMENT_IN_PROGRESS.code, Reason.SETTLEMENT_PENDING.code)

_NO_PRICE: Final = KnownQuote(b"[]", None)

_quotes = msgspec.json.Decoder(list[Raw])
_extensions = msgspec.json.Decoder(dict[str, Raw])


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a provider confirms: `charged` in atomic units (None on a refund), the channel's total,
    and for a deposit or a refund its transaction and amount. Of a single transfer it is the
    transaction that counts; what moved is what was signed."""

    success: bool
    charged: int | None
    total: int | None
    channel: str | None
    transaction: str
    amount: int | None
    network: str
    reason: str | None = None


def receipt(response: httpx.Response) -> Receipt | None:
    """The receipt that a response carries, or None when it was free. Raises PaymentRefused when
    it cannot be read."""
    settled = _settlement(response)
    if settled is None:
        return None
    try:
        # Of a single transfer it holds nothing, or what somebody else has added.
        told = settled.extra or Raw(b"")
        extra = batch.decode_receipt_extra(told) if b'"channelState"' in bytes(told) else None
        charged = extra.charged_amount if extra else None
        return Receipt(
            success=settled.success,
            charged=parse_amount(charged) if charged else None,
            total=batch.receipt_total(extra) if extra else None,
            channel=extra.channel_state.channel_id if extra else None,
            transaction=settled.transaction,
            amount=parse_amount(settled.amount) if settled.amount else None,
            network=settled.network,
            reason=_printable(settled.error_reason) if settled.error_reason else None,
        )
    except ValueError as error:
        raise PaymentRefused(f"the receipt cannot be read: {error}", "malformed") from error


def pay(wallet: Wallet, request: httpx.Request) -> Flow:
    """The conversation for one request. Raises an AgentError, or the transport's own errors."""
    promise = yield from _first_try(wallet, request)
    if promise is None:
        unpaid = yield request
        assert unpaid is not None
        quote = _quote_of(unpaid)
        if quote is None:
            return unpaid
        _remember(wallet, request, quote)
        promise = yield from _agree(wallet, request, quote)
    tried: set[str] = set()
    refused = 0
    while True:
        response = yield from _send(wallet, promise, request)
        refusal = _quote_of(response) if response.status_code == 402 else None
        if refusal is None:
            if response.status_code < 400 and PAYMENT_RESPONSE not in response.headers:
                _unlearn(wallet, request)
            return response
        _remember(wallet, request, refusal)
        refused += promise.intent.price
        quote = _next_quote(wallet, promise.intent, refusal, tried, refused)
        promise = yield from _agree(wallet, request, quote)


def _first_try(wallet: Wallet, request: httpx.Request) -> Agreement[AnyPromise | None]:
    """A payment of the price that this place had last, or None to ask for it again.

    What it asks now may be less, or nothing, so a refusal of our own is no reason to stay away.
    """
    quote = known_quote(wallet, request)
    if quote is None:
        return None
    try:
        return (yield from _begin(wallet, wallet.rank(origin_of(request.url), quote)))
    except AgentError:
        return None


def _agree(wallet: Wallet, request: httpx.Request, quote: PaymentRequired) -> Agreement[AnyPromise]:
    """A payment of what was just asked, for a request that can still be sent."""
    intents = wallet.rank(origin_of(request.url), quote)
    _refuse_unreplayable(request)
    return (yield from _begin(wallet, intents))


def refund(wallet: Wallet, request: httpx.Request, amount: int | None) -> Flow:
    """Asks the provider of `request` for what is left of the channel (or `amount` of it) back."""
    quote = known_quote(wallet, request)
    if quote is None:
        response = yield request
        assert response is not None
        quote = _quote_of(response)
        if quote is None:
            raise InvalidQuote(f"{request.url} asks for no payment: there is no channel to refund")
    tried: set[str] = set()
    while True:
        intent = wallet.choose(origin_of(request.url), quote)
        account = wallet.file.account(intent.channel_id)
        if account is None:
            raise AgentError(f"this wallet has no channel with {intent.origin}")
        header = wallet.sign_refund(intent, account, amount)
        response = yield _with_payment(request, header)
        assert response is not None
        settled = _settlement(response)
        if settled and settled.success:
            wallet.books.refunded(intent, _amount(settled))
            return response
        refusal = _quote_of(response)
        if refusal is None or (settled and settled.error_reason):
            reason = _printable(str((settled and settled.error_reason) or response.status_code))
            raise PaymentRefused(f"{intent.origin} made no refund: {reason}", reason)
        quote = _next_quote(wallet, intent, refusal, tried)


def _amount(settled: SettlementResponse) -> int:
    try:
        return parse_amount(settled.amount or "")
    except ValueError as error:
        raise PaymentRefused(f"the receipt cannot be read: {error}", "malformed") from error


def _begin(wallet: Wallet, intents: list[AnyIntent]) -> Agreement[AnyPromise]:
    """A payment by the first of these ways that the budget allows."""
    *others, last = intents
    for intent in others:
        with suppress(OverBudget):
            return (yield from _begin_one(wallet, intent))
    return (yield from _begin_one(wallet, last))


def _begin_one(wallet: Wallet, intent: AnyIntent) -> Agreement[AnyPromise]:
    turn: Turn | None = None
    try:
        while True:
            try:
                return wallet.books.begin_any(intent, turn)
            except Wait as wait:
                turn = wait.turn
            yield turn
    finally:
        if turn and isinstance(intent, Intent):
            wallet.books.leave(intent, turn)


def _send(wallet: Wallet, promise: AnyPromise, request: httpx.Request) -> Flow:
    """Sends one payment and books what came of it.

    Where the provider knows payments by their id, the very same payment is sent again when no
    answer came: it is served at most once and charged at most once. A single transfer is sent
    again in any case, for no token makes it twice; no other is signed in its place.
    """
    resent = False
    paid = _with_payment(request, wallet.sign(promise))
    outcome = yield from _attempt(wallet, promise, paid, again=False)
    for pause_seconds in RESEND_PAUSES_SECONDS if _can_resend(promise.intent, request) else ():
        if isinstance(outcome, httpx.Response) and not _undecided(outcome):
            break
        yield Turn(Future(), pause_seconds)
        resent = True
        outcome = yield from _attempt(wallet, promise, paid, again=True)
    if isinstance(outcome, httpx.Response) and not _is_lost(promise, outcome, resent):
        _book(wallet, promise, outcome)
        return outcome
    wallet.books.keep(promise)
    price = promise.intent.asset.show(promise.intent.price)
    raise PaymentLost(
        f"a payment of {price} to {promise.intent.origin} was sent and no answer came: {outcome!r}"
    ) from (outcome if isinstance(outcome, httpx.TransportError) else None)


def _is_lost(promise: AnyPromise, response: httpx.Response, resent: bool) -> bool:
    """Whether a single transfer may be made, or was, and this answer is not what it paid for.

    A provider that asks for another payment after the first answer was lost may have made the
    transfer: paying anew could be paying twice.
    """
    if not isinstance(promise, ExactPromise):
        return False
    settled = _settlement(response)
    taken = settled is not None and settled.success
    return _undecided(response) or (resent and response.status_code == 402 and not taken)


def _attempt(
    wallet: Wallet, promise: AnyPromise, paid: httpx.Request, again: bool
) -> Agreement[httpx.Response | httpx.TransportError]:
    """The answer to one sending, or why there is none; nobody's fault leaves the books open."""
    try:
        response = yield paid
    except httpx.TransportError as error:
        if isinstance(error, _NEVER_SENT) and not again:
            wallet.books.unsent(promise)
            raise
        return error
    except GeneratorExit:  # a driver that gives up before it sends
        (wallet.books.keep if again else wallet.books.unsent)(promise)
        raise
    except BaseException:
        wallet.books.keep(promise)  # cancelled: nobody knows how far it came
        raise
    assert response is not None
    return response


def _can_resend(intent: AnyIntent, request: httpx.Request) -> bool:
    """Whether a second copy is known for what it is, and the request can be sent twice."""
    known = isinstance(intent, ExactIntent) or once.EXTENSION in (intent.extensions or {})
    return known and isinstance(request.stream, httpx.ByteStream)


def _undecided(response: httpx.Response) -> bool:
    """Whether this answer says nothing about the payment: it runs still, or was it never there?"""
    if response.status_code in _UNKNOWN_STATUSES:
        return True
    settled = _settlement(response)
    return settled is not None and settled.error_reason in _COME_AGAIN


def _book(wallet: Wallet, promise: AnyPromise, response: httpx.Response) -> None:
    try:
        settled = _settlement(response)
    except PaymentRefused:
        wallet.books.keep(promise)
        raise
    if settled and settled.success:
        charged = wallet.books.settle(promise, settled)
        if charged and response.status_code == 402:
            wallet.books.stop(promise, "it took a payment and asked for another", settled)
    elif response.status_code in _UNKNOWN_STATUSES or response.status_code < 400:
        wallet.books.keep(promise)
    elif isinstance(promise, ExactPromise) and settled is None and response.status_code != 402:
        wallet.books.keep(promise)  # its receiver has it, and did not say that it failed
    else:
        wallet.books.release(promise)


def _next_quote(
    wallet: Wallet,
    intent: AnyIntent,
    refusal: PaymentRequired,
    tried: set[str],
    refused: int = 0,
) -> PaymentRequired:
    """What to accept after a refusal, when its cause can be mended and was not tried before."""
    reason = _printable(str(refusal.error or ""))
    cause = reason if reason in _CORRECTABLE else "terms"
    mended = False
    if cause not in tried:
        tried.add(cause)
        if isinstance(intent, ExactIntent):
            pass  # who has refused a transfer has it still: a second one could be a second price
        elif reason in _CORRECTABLE:
            mended = wallet.books.correct(intent, refusal, refused)
        elif reason == Reason.CHANNEL_NOT_FOUND.code:
            wallet.books.lost_channel(intent)
            mended = True
        else:
            mended = all(bytes(raw) != bytes(intent.accepted) for raw in refusal.accepts)
    if not mended:
        raise PaymentRefused(
            f"{intent.origin} refused the payment: {reason or 'no reason given'}", reason
        )
    log.info("payment to %s is tried again after %s", intent.origin, reason)
    return refusal


def _printable(text: str) -> str:
    """A stranger's words, fit for a log and an exception: one short line without controls."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:MAX_REASON_CHARS])


def _with_payment(request: httpx.Request, header: str) -> httpx.Request:
    """The same request, paid. The caller's own request object is never changed."""
    headers = request.headers.copy()
    headers[PAYMENT_SIGNATURE] = header
    return httpx.Request(
        request.method,
        request.url,
        headers=headers,
        stream=request.stream,
        extensions=request.extensions,
    )


def _refuse_unreplayable(request: httpx.Request) -> None:
    """A body that was streamed away cannot be sent again; say so before anything is paid."""
    if not isinstance(request.stream, httpx.ByteStream):
        raise AgentError(
            f"{request.method} {request.url} must be paid, and its streamed body cannot be sent "
            "twice. Its price is known now: send it again with a fresh body."
        )


# -- Quotes --------------------------------------------------------------------------------------


def origin_of(url: httpx.URL) -> str:
    """Scheme, host and port, as the unit of trust."""
    default = {"http": 80, "https": 443}.get(url.scheme)
    return f"{url.scheme}://{url.host}:{url.port or default}"


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


def _remember(wallet: Wallet, request: httpx.Request, quote: PaymentRequired) -> None:
    """Keeps a quote for the siblings too, unless they are known to cost something else."""
    if any(b'"channelState"' in bytes(raw) for raw in quote.accepts):
        return  # a correction speaks of one moment, and of one payer
    places = _places(request)
    extensions = encode_json(quote.extensions) if quote.extensions else None
    fresh = KnownQuote(encode_json(quote.accepts), extensions)
    if wallet.file.recall(places) == fresh:
        return
    siblings_known = wallet.file.recall(places[1:]) is not None
    wallet.file.remember(places[:1] if siblings_known else places[1:], fresh, wallet.clock())


def _unlearn(wallet: Wallet, request: httpx.Request) -> None:
    """It was paid and nobody confirmed it: this place is not paid again unasked, and its siblings
    only at prices that they have named themselves."""
    places = _places(request)
    if wallet.file.recall(places[:1]) != _NO_PRICE:
        wallet.file.remember(places, _NO_PRICE, wallet.clock())


def _quote_of(response: httpx.Response) -> PaymentRequired | None:
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


def _settlement(response: httpx.Response) -> SettlementResponse | None:
    header = response.headers.get(PAYMENT_RESPONSE)
    if header is None:
        return None
    try:
        return decode_response(header[:MAX_QUOTE_HEADER_BYTES])
    except Malformed as error:
        raise PaymentRefused(f"the receipt cannot be read: {error}", "malformed") from error
