"""Paid requests whose price has terms: one that sells a pass, and one whose payer need not pay.

Both are exchanges like others, and reach the same ends by the same rule.
"""

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from paywall.admission import Admitted, ExactAdmission, FreeAdmission
from paywall.entrance import PASS, Entrance, new_token
from paywall.exchange import Exchange, finish
from paywall.free import GiveBack
from paywall.gate import Gate
from paywall.kinds import Pass
from paywall.payment import Payment, with_payment
from paywall.tariff import Tariff


async def exchange_with_terms(
    gate: Gate,
    entrance: Entrance,
    tariff: Tariff,
    admission: Admitted,
    scope: Scope,
    receive: Receive,
    send: Send,
) -> Exchange:
    """The exchange of a paid request under a tariff with terms. Raises Unavailable; then nothing
    is held."""
    payer = admission.payer
    leave = None
    if not (isinstance(admission, ExactAdmission) and admission.transaction):  # it is paid already
        try:
            leave = await entrance.take(tariff, payer)
        except BaseException:
            await finish(gate.release(admission))
            raise
    if leave:
        return WaivedExchange(
            gate, admission, tariff.metered, scope, receive, send, leave.give_back
        )
    if not isinstance(tariff.terms, Pass):
        return Exchange(gate, admission, tariff.metered, scope, receive, send)
    token, secret = new_token(payer)
    sell = partial(entrance.sell, tariff, payer, secret)
    return SellingExchange(gate, admission, scope, receive, send, token, sell)


class WaivedExchange(Exchange):
    """Its payer has a pass, or a free request: the payment is taken, and charged with nothing."""

    __slots__ = ("_give_back",)

    def __init__(
        self,
        gate: Gate,
        admission: Admitted,
        metered: bool,
        scope: Scope,
        receive: Receive,
        send: Send,
        give_back: GiveBack,
    ) -> None:
        super().__init__(gate, admission, metered, scope, receive, send)
        self.payment = Payment(FreeAdmission(admission.price, admission.payer), gate.terms.asset)
        self.payment.charge(0)
        self._scope = with_payment(scope, self.payment)
        self._give_back = give_back

    async def _charge_or_apologise(self, head: Message, body: Message | None) -> str | None:
        receipt = await super()._charge_or_apologise(head, body)
        if receipt is None:
            await finish(self._give_back())
        return receipt

    async def _release(self) -> str | None:
        receipt = await super()._release()
        await self._give_back()
        return receipt


class SellingExchange(Exchange):
    """When it is charged, a pass is opened before the answer leaves with the pass's token."""

    __slots__ = ("_sell", "_token")

    def __init__(
        self,
        gate: Gate,
        admission: Admitted,
        scope: Scope,
        receive: Receive,
        send: Send,
        token: str,
        sell: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        super().__init__(gate, admission, False, scope, receive, send)
        self._token = token
        self._sell = sell

    async def _head(self, message: Message, body: Message | None) -> Message:
        if message["status"] < 400:
            told = ((PASS, self._token.encode()), (b"access-control-expose-headers", PASS))
            message = {**message, "headers": [*message["headers"], *told]}
        return await super()._head(message, body)

    async def _charge_or_apologise(self, head: Message, body: Message | None) -> str | None:
        # The answer to a transfer that is mined later would be given again without its pass; one
        # that is not kept is made once more, and the pass with it.
        kept = None if isinstance(self._open, ExactAdmission) else body
        return await finish(self._charge_and_sell(head, kept))

    async def _charge_and_sell(self, head: Message, body: Message | None) -> str | None:
        """Both, also if the request is cancelled between the two."""
        receipt = await super()._charge_or_apologise(head, body)
        if receipt is not None:
            await self._sell()
        return receipt
