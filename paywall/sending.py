"""One payment on its way: sent, sent again when no answer came, and booked as its answer says.

Where the provider knows payments by their id, the very same payment is sent again: it is served at
most once and charged at most once. A single transfer is sent again in any case, for no token makes
it twice. Nothing else is ever signed in the place of a payment whose fate is unknown.

Silence is given a few tries. A provider that says that the payment is being served is given as long
as a hold of its lasts: a worker that died lets it go then, and the same payment is served by
another. Who gives up meanwhile has spent it.
"""

import itertools
from collections.abc import Generator
from concurrent.futures import Future
from typing import Final, TypeVar

import httpx

from paywall.asking import AnyCall
from paywall.books import AnyPromise
from paywall.confirmations import settlement
from paywall.either import can_be_replayed, library_of, with_header
from paywall.offers import AnyIntent, ExactIntent
from paywall.old_providers import spoken
from paywall.places import resource_of
from paywall.protocol import once
from paywall.protocol.errors import PaymentLost, PaymentRefused, Reason
from paywall.protocol.limits import HOLD_SECONDS
from paywall.protocol.x402 import SettlementResponse
from paywall.transfers import ExactPromise
from paywall.turns import Turn
from paywall.wallet import Wallet

Step = httpx.Request | Turn | AnyCall
T = TypeVar("T")
Agreement = Generator[Step, httpx.Response | None, T]
Flow = Agreement[httpx.Response]
_Outcome = httpx.Response | httpx.TransportError

RESEND_PAUSES_SECONDS: Final = (0.1, 0.4, 1.0, 2.0, 4.0)
"""How long to wait before the same payment is sent again; so many times silence is borne."""
PATIENCE_SECONDS: Final = HOLD_SECONDS + 15
"""How long a provider may go on saying that the payment is being served."""
_UNKNOWN_STATUSES: Final = frozenset((408, 499, 502, 504))
"""Answers of something in between: whether the provider was reached, nobody knows."""
_COME_AGAIN: Final = (Reason.PAYMENT_IN_PROGRESS.code, Reason.SETTLEMENT_PENDING.code)


def send(wallet: Wallet, promise: AnyPromise, request: httpx.Request) -> Flow:
    """Sends a payment and books what came of it. Raises PaymentLost or PaymentRefused."""
    resource = resource_of(request) if isinstance(promise, ExactPromise) else None
    header = yield from wallet.signing(promise, resource)
    paid = with_header(request, *spoken(promise.intent.accepted, header))
    outcome = yield from _attempt(wallet, promise, paid, again=False)
    resent = False
    if _can_resend(promise.intent, request):
        resent, outcome = yield from _insist(wallet, promise, paid, outcome)
    if isinstance(outcome, Exception):
        raise _lost(wallet, promise, outcome) from outcome
    if _is_lost(promise, outcome, resent):
        raise _lost(wallet, promise, outcome)
    _book(wallet, promise, outcome)
    return outcome


def ask_refund(asking: httpx.Request, is_named: bool) -> Flow:
    """Sends the request for a refund, and the very same again when no answer came.

    Only where the provider knows it by its id: then it is made once, and confirmed each time. While
    the first copy is on its way to the chain, the channel is busy with it.
    """
    waited, resent = 0.0, False
    pauses = itertools.chain(RESEND_PAUSES_SECONDS, itertools.repeat(RESEND_PAUSES_SECONDS[-1]))
    for pause in pauses if is_named else ():
        try:
            response = yield asking
            assert response is not None
        except library_of(asking).TransportError:
            if waited >= sum(RESEND_PAUSES_SECONDS):
                raise
        else:
            if not (_is_undecided(response) or (resent and _is_busy(response))):
                return response
            if waited >= PATIENCE_SECONDS:
                return response
        yield Turn(Future(), pause)
        waited, resent = waited + pause, True
    response = yield asking
    assert response is not None
    return response


def _is_busy(response: httpx.Response) -> bool:
    told = _told(response)
    return told is not None and told.error_reason == Reason.CHANNEL_BUSY.code


def _insist(
    wallet: Wallet, promise: AnyPromise, paid: httpx.Request, outcome: _Outcome
) -> Agreement[tuple[bool, _Outcome]]:
    """The same payment again, until there is an answer that says something; and whether it was."""
    tries, silent, waited = 0, 0, 0.0
    while isinstance(outcome, Exception) or _is_undecided(outcome):
        silent += isinstance(outcome, Exception) or not _is_told_to_wait(outcome)
        if silent > len(RESEND_PAUSES_SECONDS) or waited >= PATIENCE_SECONDS:
            break
        pause = RESEND_PAUSES_SECONDS[min(tries, len(RESEND_PAUSES_SECONDS) - 1)]
        yield from _pause(wallet, promise, pause)
        tries, waited = tries + 1, waited + pause
        outcome = yield from _attempt(wallet, promise, paid, again=True)
    return tries > 0, outcome


def _pause(wallet: Wallet, promise: AnyPromise, seconds: float) -> Agreement[None]:
    try:
        yield Turn(Future(), seconds)
    except BaseException:
        wallet.books.keep(promise)  # who gives up now does not know what became of it
        raise


def _lost(wallet: Wallet, promise: AnyPromise, outcome: _Outcome) -> PaymentLost:
    wallet.books.keep(promise)
    price = promise.intent.asset.show(promise.intent.price)
    return PaymentLost(
        f"a payment of {price} to {promise.intent.origin} was sent and no answer came: {outcome!r}"
    )


def _is_lost(promise: AnyPromise, response: httpx.Response, resent: bool) -> bool:
    """Whether what was paid for is still on its way, and this answer is not it.

    Of a single transfer also when a provider asks for another payment after the first answer was
    lost: it may have made the transfer, and paying anew could be paying twice.
    """
    if _is_told_to_wait(response):
        return True
    if not isinstance(promise, ExactPromise):
        return False
    told = _told(response)
    taken = told is not None and told.success
    return _is_undecided(response) or (resent and response.status_code == 402 and not taken)


def _attempt(
    wallet: Wallet, promise: AnyPromise, paid: httpx.Request, again: bool
) -> Agreement[_Outcome]:
    """The answer to one sending, or why there is none; nobody's fault leaves the books open."""
    library = library_of(paid)
    never_sent = (library.ConnectError, library.ConnectTimeout, library.PoolTimeout)
    try:
        response = yield paid
    except library.TransportError as error:
        if isinstance(error, never_sent) and not again:
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
    return known and can_be_replayed(request)


def _is_undecided(response: httpx.Response) -> bool:
    """Whether this answer says nothing about the payment: it runs still, or was it never there?"""
    return response.status_code in _UNKNOWN_STATUSES or _is_told_to_wait(response)


def _is_told_to_wait(response: httpx.Response) -> bool:
    settled = _told(response)
    return settled is not None and settled.error_reason in _COME_AGAIN


def _told(response: httpx.Response) -> SettlementResponse | None:
    """What an answer says of the payment; one that cannot be read says nothing."""
    try:
        return settlement(response)
    except PaymentRefused:
        return None


def _book(wallet: Wallet, promise: AnyPromise, response: httpx.Response) -> None:
    goes_on = response.status_code == 402
    try:
        settled = settlement(response)
    except PaymentRefused:
        wallet.books.keep(promise)
        raise
    if settled and settled.success:
        charged = wallet.books.settle(promise, settled, goes_on)
        if charged and goes_on:
            wallet.books.stop(promise, "it took a payment and asked for another", settled)
    elif response.status_code in _UNKNOWN_STATUSES or response.status_code < 400:
        wallet.books.keep(promise)
    elif isinstance(promise, ExactPromise) and settled is None and not goes_on:
        wallet.books.keep(promise)  # its receiver has it, and did not say that it failed
    else:
        wallet.books.release(promise, goes_on)
