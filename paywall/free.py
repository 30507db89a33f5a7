"""One request that is served without being charged: the owner's own check has let it by, or it has
a pass, or it is one of those that are free.

The handler sees a payment all the same, one that costs nothing. What was counted for the request
(a call of a pass, a free request) is given back by the rule by which others are released: when the
answer is not below 400, or none began.
"""

from collections.abc import Callable, Coroutine
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from paywall.admission import FreeAdmission
from paywall.answers import private_headers, unforged
from paywall.payment import Payment, with_payment
from paywall.protocol.money import Address, Asset

GiveBack = Callable[[], Coroutine[Any, Any, None]]


async def nothing() -> None:
    """What there is to give back where nothing was counted."""


class FreeExchange:
    """The state of one such request between the app and the server; `price` in atomic units."""

    __slots__ = ("_give_back", "_scope", "_send", "_served", "payment")

    def __init__(
        self,
        price: int,
        asset: Asset,
        scope: Scope,
        send: Send,
        payer: Address,
        give_back: GiveBack,
    ) -> None:
        self.payment: Final = Payment(FreeAdmission(price, payer), asset)
        self.payment.charge(0)
        self._scope = with_payment(scope, self.payment)
        self._send = send
        self._give_back = give_back
        self._served = False

    async def run(self, app: ASGIApp, receive: Receive) -> None:
        try:
            await app(self._scope, receive, self.send)
        finally:
            if not self._served:
                await self._give_back()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = unforged(message.get("headers", []))
            self._served = message["status"] < 400
            message = {**message, "headers": private_headers(headers)}
        await self._send(message)
