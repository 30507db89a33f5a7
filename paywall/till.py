"""The till: one priced request, from its price to the exchange that serves it, or to a refusal.

    exempt, a pass, a free request   served, and charged with nothing
    no payment                       402, with the quote
    a payment                        the gate admits it: an `Exchange` serves and charges it
    a refusal                        a 4xx with its reason
    our own fault                    503 with `Retry-After`, never a fresh 402

It decides nothing about money: the gate does. It knows headers, and which answer is whose.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Final

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from paywall import notices
from paywall.admission import Admission, ExactAdmission
from paywall.answers import send_refund, send_repeated, send_unavailable
from paywall.counts import FREE, QUOTED
from paywall.crier import Crier
from paywall.entrance import Entrance, Leave, without_token
from paywall.exchange import Exchange
from paywall.free import FreeExchange, nothing
from paywall.gate import Gate
from paywall.notices import News
from paywall.old_payers import answering
from paywall.protocol.errors import Reason, Refused, Unavailable
from paywall.protocol.limits import MAX_HEADERS, MAX_PAYMENT_HEADER_BYTES
from paywall.protocol.money import ZERO_ADDRESS
from paywall.protocol.x402 import show_bytes
from paywall.protocol.x402_v1 import upgraded_payment
from paywall.quote import Quote
from paywall.refunds import Refunded
from paywall.sights import Sight
from paywall.tariff import Tariff, asked
from paywall.terms import exchange_with_terms

log = logging.getLogger("paywall")

_SIGNATURE: Final = b"payment-signature"
_V1: Final = b"x-payment"
_PAYMENTS: Final = frozenset((_SIGNATURE, _V1))
_ADMITTED: Final = (Admission, ExactAdmission)
_ANYBODY: Final = Leave(ZERO_ADDRESS, nothing)
"""Of whom the owner has let by: nobody is known, and nothing was counted."""

Exempt = Callable[[Request], Awaitable[bool]]
"""The owner's own check: whether a request may pass without paying."""


class Till:
    """Sells what one paywall's app does. With `v1`, payments of x402 v1 are taken too."""

    def __init__(
        self,
        app: ASGIApp,
        gate: Gate,
        entrance: Entrance,
        crier: Crier,
        news: News,
        exempt: Exempt | None,
        v1: bool,
    ) -> None:
        self._app = app
        self._gate = gate
        self._entrance = entrance
        self._crier = crier
        self._news = news
        self._exempt = exempt
        self._v1 = v1

    async def sell(
        self, quote: Quote, tariff: Tariff, scope: Scope, receive: Receive, sight: Sight
    ) -> None:
        if self._exempt:
            exempt, receive = await asked(self._exempt, scope, receive)
            if exempt:
                return await self._free(tariff, scope, receive, sight, _ANYBODY)
        if tariff.terms:
            return await self._with_terms(quote, tariff, scope, receive, sight)
        await self._priced(quote, tariff, scope, receive, sight)

    async def _free(
        self, tariff: Tariff, scope: Scope, receive: Receive, sight: Sight, leave: Leave
    ) -> None:
        sight.outcome = FREE
        asset = self._gate.terms.asset
        free = FreeExchange(tariff.units, asset, scope, sight, leave.payer, leave.give_back)
        await free.run(self._app, receive)

    async def _with_terms(
        self, quote: Quote, tariff: Tariff, scope: Scope, receive: Receive, sight: Sight
    ) -> None:
        """A request that may be free, by a pass or because it is one of the first."""
        try:
            leave = await self._entrance.leave(tariff, scope)
        except Refused as refusal:
            sight.refused(refusal.reason)
            return await self._crier.refuse_sign_in(refusal, quote, tariff, scope, sight)
        except Unavailable as error:
            log.error("not available: %s", error)
            sight.unavailable()
            return await send_unavailable(scope, sight)
        scope = without_token(scope)
        if leave is None:
            return await self._priced(quote, tariff, scope, receive, sight)
        await self._free(tariff, scope, receive, sight, leave)

    async def _priced(
        self, quote: Quote, tariff: Tariff, scope: Scope, receive: Receive, sight: Sight
    ) -> None:
        send: Send = sight
        try:
            found = _payment_header(scope["headers"])
            if found is None:
                sight.outcome = QUOTED
                return await self._crier.quote(quote, tariff, scope, send)
            name, header = found
            if name == _V1:
                if not self._v1:
                    raise Refused(Reason.UNSUPPORTED_VERSION)
                send = answering(send)
                header = upgraded_payment(header, quote.accepts)
            gate = self._gate
            admission = await gate.admit(header, quote, _asked(scope), tariff.name)
            if isinstance(admission, _ADMITTED):
                if tariff.terms:
                    exchange = await exchange_with_terms(
                        gate, self._entrance, tariff, admission, scope, receive, send
                    )
                else:
                    exchange = Exchange(gate, admission, tariff.metered, scope, receive, send)
        except Refused as refusal:
            sight.refused(refusal.reason)
            return await self._crier.refuse(refusal, quote, scope, send)
        except Unavailable as error:
            log.error("payment not processed: %s", error)
            sight.unavailable()
            return await send_unavailable(scope, send)
        if isinstance(admission, _ADMITTED):
            await exchange.run(self._app)
        elif isinstance(admission, Refunded):
            channel_id = show_bytes(admission.channel_id)
            sight.outcome = FREE
            self._news.tell(notices.Refunded(self._news.now, channel_id))
            await send_refund(scope, send, channel_id, admission.receipt)
        else:
            await send_repeated(send, admission.answer, admission.receipt)


def _asked(scope: Scope) -> bytes:
    """What a payment's id is good for: the request, less its headers and body."""
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    return b" ".join((scope["method"].encode(), path, scope.get("query_string", b"")))


def _payment_header(headers: list[tuple[bytes, bytes]]) -> tuple[bytes, str] | None:
    """The one payment header, or None. Raises Refused for two, a joined or an overlong one."""
    if len(headers) > MAX_HEADERS:
        raise Refused(Reason.HEADER_TOO_LARGE)
    found = [header for header in headers if header[0] in _PAYMENTS]
    if not found:
        return None
    name, value = found[0]
    if len(found) > 1 or b"," in value:
        raise Refused(Reason.DUPLICATE_PAYMENT)
    if len(value) > MAX_PAYMENT_HEADER_BYTES:
        raise Refused(Reason.HEADER_TOO_LARGE)
    return name, value.decode("latin-1")
