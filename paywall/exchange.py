"""One paid request: the charging rule, as the answer goes.

An answer below 400 is charged before its head leaves, so that one which cannot be charged is
withheld; any other answer, an exception, or a client that is gone by then is released. What is
metered is charged when its answer is over, and its head says the most that it can be.

An exchange has three ends and reaches exactly one: charged, released, or (metered) charged when
the stream ends. Whoever wants to end it takes the admission out of `_open`; there is only one.
"""

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final, TypeVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from paywall.admission import Admission, Admitted, ExactAdmission
from paywall.answers import (
    paid_headers,
    refusal_headers,
    send_gone,
    send_json,
    send_unavailable,
    unforged,
)
from paywall.gate import Gate
from paywall.listener import Listener
from paywall.payment import Payment, with_payment
from paywall.protocol.errors import HoldLost, Reason, Refused, Unavailable
from paywall.protocol.limits import MAX_ANSWER_BYTES
from paywall.protocol.once import Answer

log = logging.getLogger("paywall")

_T = TypeVar("_T")
_PENDING: Final[set[asyncio.Task[Any]]] = set()
"""Endings that go on although their request was cancelled; kept here so that they live."""


class Exchange:
    """The state of one paid request between the app and the server."""

    __slots__ = (
        "_answered",
        "_cut_off",
        "_gate",
        "_kept",
        "_listener",
        "_metered",
        "_muted",
        "_open",
        "_scope",
        "_send",
        "payment",
    )

    def __init__(
        self,
        gate: Gate,
        admission: Admitted,
        metered: bool,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        self.payment = Payment(admission, gate.terms.asset)
        self._gate = gate
        self._metered = metered
        self._listener = Listener(receive)
        self._send = send
        self._open: Admitted | None = admission
        self._answered = False
        self._cut_off = False
        self._muted = False
        self._kept: Message | None = None
        self._scope = with_payment(scope, self.payment)

    async def run(self, app: ASGIApp) -> None:
        """Runs the app; whatever happens, the exchange reaches its end."""
        try:
            if self._metered:
                await self._bounded(app)
            else:
                await app(self._scope, self._listener.receive, self.send)
        except Exception:
            if self._cut_off:
                await self._put_off()
            raise
        finally:
            self._listener.close()
            if self._open:
                await finish(self._end())
        if self._cut_off:
            await self._put_off()
        elif self._muted and not self._answered:
            await send_unavailable(self._scope, self._send)

    async def _put_off(self) -> None:
        """The app did not wait for its charge, which goes on: who comes again gets the answer."""
        refusal = Refused(Reason.PAYMENT_IN_PROGRESS)
        await send_withheld(self._gate, self._scope, self._send, refusal)

    async def _bounded(self, app: ASGIApp) -> None:
        """A metered answer that takes too long is charged as far as it went, and breaks off.

        Other answers are charged when they begin.
        """
        assert self._open is not None, "it has not begun"
        limit = asyncio.timeout(None)

        def cut() -> None:
            if self._open:
                self._muted = True
                end_apart(self._end())  # at once, whatever the app makes of being stopped
                limit.reschedule(0)

        try:
            async with limit:
                self._gate.cut_by(self._open, cut)
                await app(self._scope, self._listener.receive, self.send)
        except TimeoutError:
            if not limit.expired():
                raise

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if self._muted:
            return
        if kind == "http.response.start":
            message = {**message, "headers": unforged(message.get("headers", []))}
            if self._comes_whole(message):
                self._kept = message
                return
            message = await self._head(message, None)
        else:
            await self._before_rest(message)
        if not self._muted:
            await self._send(message)

    async def _before_rest(self, message: Message) -> None:
        """Before a part of the body, or what stands for one, as a file that the server sends."""
        whole = message["type"] == "http.response.body" and not message.get("more_body")
        if self._kept:
            head, self._kept = self._kept, None
            head = await self._head(head, message if whole else None)
            if not self._muted:
                await self._send(head)
        elif self._open and whole:
            await finish(self._end())

    def _comes_whole(self, head: Message) -> bool:
        """Whether the head waits for its body: then the true cost is known, and what can be kept.

        An app that names a small length has its body at hand, so nobody waits for anything.
        """
        if head["status"] >= 400:
            return False
        lengths = [value for name, value in head["headers"] if name.lower() == b"content-length"]
        return len(lengths) == 1 and lengths[0].isdigit() and int(lengths[0]) <= MAX_ANSWER_BYTES

    async def _head(self, message: Message, body: Message | None) -> Message:
        """Decides, when the head is about to leave, what this answer costs."""
        receipt: str | None
        is_gone = message["status"] < 400 and await self._listener.hung_up()
        if self._muted:
            return message  # it took too long, and is ended by who has said so
        if message["status"] >= 400:
            receipt = await finish(self._release())
        elif is_gone:
            receipt = await finish(self._release())
            self._muted = True  # whoever says that it is gone and still listens gets nothing
            with suppress(OSError):  # as some servers have it
                await send_gone(self._scope, self._send)
        elif self._metered and body is None:
            assert self._open is not None
            receipt = self._gate.ceiling_receipt(self._open)
        else:
            try:
                receipt = await self._charge_or_apologise(message, body)
            except asyncio.CancelledError:
                self._cut_off = self._muted = True  # an app with a time limit of its own goes on
                raise
        self._answered = True
        if receipt is None:
            return message
        return {**message, "headers": paid_headers(message["headers"], receipt)}

    async def _charge_or_apologise(self, head: Message, body: Message | None) -> str | None:
        """The receipt; when the charge fails, the answer is withheld and a 503 takes its place."""
        admission = self._take()
        amount = self.payment.close()
        answer = _answer(admission, amount, head, body) if body else None
        try:
            charging = self._gate.charge(admission, amount, answer)
            if isinstance(admission, ExactAdmission):
                return await finish(charging)
            return await charging  # in this very task
        except asyncio.CancelledError:
            if isinstance(admission, Admission):  # made again, should it have been made already
                self._gate.collect(admission, amount, answer)
            raise
        except Refused as refusal:
            self._muted = True
            await send_withheld(self._gate, self._scope, self._send, refusal)
            return None
        except (Unavailable, HoldLost) as error:
            log.error("answer withheld, it could not be charged: %s", error)
            self._muted = True
            self._gate.abandon(admission)
            await send_unavailable(self._scope, self._send)
            return None

    async def _end(self) -> None:
        """The answer is over, or will never come: charge what was metered, or release."""
        if self._open is None:
            return  # it took too long, and was ended a moment ago
        if not self._answered:
            await self._release()
            return
        admission = self._take()
        try:
            await self._gate.charge(admission, self.payment.close(), is_out=True)
        except Unavailable as error:
            log.error("a request of channel %s is to be charged: %s", self.payment.channel, error)
            self._gate.collect(admission, self.payment.charged)
        except HoldLost as error:
            log.error("a request of channel %s was not charged: %s", self.payment.channel, error)

    async def _release(self) -> str | None:
        admission = self._take()
        self.payment.close()
        try:
            return await self._gate.release(admission)
        except Unavailable as error:
            log.warning("a hold is left to expire: %s", error)
            return None

    def _take(self) -> Admitted:
        admission, self._open = self._open, None
        assert admission is not None, "an exchange ends once"
        return admission


def _answer(admission: Admitted, amount: int, head: Message, body: Message) -> Answer | None:
    """The answer as it leaves, for a client that loses it."""
    return admission.answer(head["status"], head["headers"], bytes(body.get("body", b"")), amount)


async def send_withheld(gate: Gate, scope: Scope, send: Send, refusal: Refused) -> None:
    """In place of an answer: the chain did not pay for it, or has not yet."""
    body: dict[str, object] = {"error": refusal.reason.code, "message": str(refusal)}
    headers = refusal_headers(gate.failure(refusal), refusal)
    await send_json(scope, send, refusal.reason.status, body, headers)


async def finish(ending: Coroutine[Any, Any, _T]) -> _T:
    """Awaits an ending that goes on even if this request is cancelled meanwhile."""
    return await asyncio.shield(end_apart(ending))


def end_apart(ending: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
    """An ending in a task of its own."""
    task = asyncio.create_task(ending)
    _PENDING.add(task)
    task.add_done_callback(_PENDING.discard)
    return task
