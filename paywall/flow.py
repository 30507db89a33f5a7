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
from contextlib import suppress
from dataclasses import replace
from secrets import token_hex
from typing import Final

import httpx

from paywall import signing_in
from paywall.asking import Approval, ApprovalNeeded
from paywall.books import AnyPromise
from paywall.confirmations import moved, settlement
from paywall.either import can_be_replayed, is_sent_away, with_header
from paywall.offers import AnyIntent, ExactIntent, Intent
from paywall.places import known_quote, origin_of, quote_of, remember, shown_url, unlearn
from paywall.promises import Promise
from paywall.protocol import once
from paywall.protocol.errors import (
    AgentError,
    InvalidQuote,
    NotApproved,
    OverBudget,
    PaymentRefused,
    Reason,
)
from paywall.protocol.x402 import PAYMENT_RESPONSE, PAYMENT_SIGNATURE, PaymentRequired, printable
from paywall.questions import Question
from paywall.sending import Agreement, Flow, ask_refund, send
from paywall.signing_in import payable
from paywall.turns import Turn, Wait
from paywall.wallet import Wallet

log = logging.getLogger("paywall.client")

_CORRECTABLE: Final = frozenset(
    (Reason.CUMULATIVE_MISMATCH.code, Reason.BELOW_CLAIMED.code, Reason.EXCEEDS_BALANCE.code)
)

_REMEDIES: Final = {
    Reason.BELOW_CLAIMED.code: ". If the wallet's file was lost, or lost its newest rows, "
    "`paywall recover` takes over what the chain says is claimed"
}
"""What an owner can do where neither books nor proofs agree: this the chain alone can say."""


def pay(wallet: Wallet, request: httpx.Request) -> Flow:
    """The conversation for one request. Raises an AgentError, or the transport's own errors."""
    # A redirect whose body is gone already is left to fail unpaid.
    unpaid_first = is_sent_away(request) or signing_in.opens(wallet, request)
    promise = None if unpaid_first else (yield from _first_try(wallet, request))
    if promise is None:
        unpaid, quote = yield from signing_in.ask(wallet, request)
        if quote is None:
            return unpaid
        remember(wallet, request, quote)
        promise = yield from _agree(wallet, request, quote)
    tried: set[str] = set()
    while True:
        response = yield from send(wallet, promise, request)
        anew = None
        if response.status_code == 402:
            anew = yield from _anew(wallet, promise, request, response, tried)
        if anew is None:
            if response.status_code < 400 and PAYMENT_RESPONSE not in response.headers:
                unlearn(wallet, request)
            signing_in.sold(wallet, request, response)
            return response
        promise = anew


def _anew(
    wallet: Wallet,
    refused: AnyPromise,
    request: httpx.Request,
    response: httpx.Response,
    tried: set[str],
) -> Agreement[AnyPromise | None]:
    """Another payment in the place of one that was refused; None for a 402 without a quote."""
    anew = None
    try:
        refusal = quote_of(response)
        if refusal:
            remember(wallet, request, refusal)
            made = refused if isinstance(refused, Promise) else None
            quote = _next_quote(wallet, refused.intent, refusal, tried, made)
            anew = _in_place_of(made, (yield from _agree(wallet, request, quote)))
        return anew
    finally:
        if anew is None:
            wallet.books.given_up(refused)


def _in_place_of(refused: Promise | None, anew: AnyPromise) -> AnyPromise:
    """What is paid anew, and knows what was refused on its channel: see `Books.unsent`."""
    if refused is None or not isinstance(anew, Promise):
        return anew
    if anew.intent.channel_id != refused.intent.channel_id:
        return anew
    return replace(anew, instead_of=refused.intent.price)


def _first_try(wallet: Wallet, request: httpx.Request) -> Agreement[AnyPromise | None]:
    """A payment of the price that this place had last, or None to ask for it again.

    What it asks now may be less, or nothing, so a refusal of our own is no reason to stay away.
    """
    quote = known_quote(wallet, request)
    if quote is None:
        return None
    try:
        intents = wallet.rank(origin_of(request.url), payable(quote))
        return (yield from _begin(wallet, request, intents))
    except NotApproved as error:  # who has said no is not asked again
        wallet.denied(origin_of(request.url), error)
        raise
    except AgentError:
        return None


def _agree(wallet: Wallet, request: httpx.Request, quote: PaymentRequired) -> Agreement[AnyPromise]:
    """A payment of what was just asked, for a request that can still be sent."""
    origin = origin_of(request.url)
    try:
        intents = wallet.rank(origin, payable(quote))
        _refuse_unreplayable(request)
        return (yield from _begin(wallet, request, intents))
    except AgentError as error:
        wallet.denied(origin, error)
        raise


def refund(wallet: Wallet, request: httpx.Request, amount: int | None, lane: int = 0) -> Flow:
    """Asks the provider of `request` for what is left of the channel (or `amount` of it) back;
    where there are several, of the one with this number."""
    quote = known_quote(wallet, request)
    if quote is None:
        response = yield request
        assert response is not None
        quote = quote_of(response)
        if quote is None:
            raise InvalidQuote(
                f"{shown_url(request)} asks for no payment: there is no channel to refund"
            )
    tried: set[str] = set()
    while True:
        intent, account = wallet.own_channel(origin_of(request.url), quote, lane)
        header = yield from wallet.signing_refund(intent, account, amount, "ref_" + token_hex(16))
        is_named = once.EXTENSION in (intent.extensions or {})
        asking = with_header(request, PAYMENT_SIGNATURE, header)
        response = yield from ask_refund(asking, is_named)
        settled = settlement(response)
        if settled and settled.success:
            wallet.books.refunded(intent, moved(settled))
            return response
        refusal = quote_of(response)
        if refusal is None or (settled and settled.error_reason):
            reason = printable(str((settled and settled.error_reason) or response.status_code))
            raise PaymentRefused(f"{intent.origin} made no refund: {reason}", reason)
        quote = _next_quote(wallet, intent, refusal, tried)


def _begin(
    wallet: Wallet, request: httpx.Request, intents: list[AnyIntent]
) -> Agreement[AnyPromise]:
    """A payment by the first of these ways that the budget allows."""
    *others, last = intents
    for intent in others:
        with suppress(OverBudget):
            return (yield from _begin_one(wallet, intent, request.url.path))
    return (yield from _begin_one(wallet, last, request.url.path))


def _begin_one(wallet: Wallet, intent: AnyIntent, path: str) -> Agreement[AnyPromise]:
    turn: Turn | None = None
    question: Question | None = None
    approved = 0
    try:
        while True:
            try:
                return wallet.books.begin_any(intent, turn, path, approved)
            except ApprovalNeeded as needed:
                approval = needed.approval
            except Wait as wait:
                turn = wait.turn
                yield turn
                continue
            question = question or Question()
            approved = yield from _approved(wallet, approval, question)
    finally:
        if question:
            wallet.questions.end(question)
        if turn and isinstance(intent, Intent):
            wallet.books.leave(intent, turn)


def _approved(wallet: Wallet, approval: Approval, mine: Question) -> Agreement[int]:
    """The amount that the owner allows; nothing, when another's answer may have made it needless.

    Raises NotApproved.
    """
    question = wallet.questions.put(approval, mine)
    if question is mine:
        try:
            return (yield from wallet.ask(approval, mine))
        except NotApproved:
            mine.denied = approval.amount
            raise
    if question.is_being_answered_here:
        raise NotApproved(f"approve was asked for this {approval}, and would wait for itself")
    yield from question.wait()
    if question.denies(approval):
        raise NotApproved(f"the owner did not allow a {approval}")
    return 0


def _next_quote(
    wallet: Wallet,
    intent: AnyIntent,
    refusal: PaymentRequired,
    tried: set[str],
    promise: Promise | None = None,
) -> PaymentRequired:
    """What to accept after a refusal, when its cause can be mended and was not tried before."""
    reason = printable(str(refusal.error or ""))
    cause = reason if reason in _CORRECTABLE else "terms"
    mended = False
    if cause not in tried:
        tried.add(cause)
        if isinstance(intent, ExactIntent):
            pass  # who has refused a transfer has it still: a second one could be a second price
        elif reason in _CORRECTABLE:
            mended = wallet.books.correct(intent, refusal, promise)
        elif reason == Reason.CHANNEL_NOT_FOUND.code:
            wallet.books.lost_channel(intent, promise)
            mended = True
        else:
            mended = all(bytes(raw) != bytes(intent.accepted) for raw in refusal.accepts)
    if not mended and promise and promise.top_up and "deposit" not in tried:
        tried.add("deposit")  # the channel has enough in it without
        mended = True
    if not mended:
        raise PaymentRefused(
            f"{intent.origin} refused the payment: {reason or 'no reason given'}"
            f"{_REMEDIES.get(reason, '')}",
            reason,
        )
    log.info("payment to %s is tried again after %s", intent.origin, reason)
    return refusal


def _refuse_unreplayable(request: httpx.Request) -> None:
    """A body that was streamed away cannot be sent again; say so before anything is paid."""
    if not can_be_replayed(request):
        raise AgentError(
            f"{request.method} {shown_url(request)} must be paid, and its streamed body cannot be "
            "sent twice. Its price is known now: send it again with a fresh body."
        )
