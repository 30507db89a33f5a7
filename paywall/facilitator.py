"""Our node, served as an x402 facilitator to anybody's server: `/verify`, `/settle`, `/supported`.

    facilitator_app(Node(rpc, key, network="eip155:8453"), api_keys=["…"])

It serves `exact` and `batch-settlement`. A verdict about a payment, good or bad, is 200 with the
official words; 4xx is for who asked in a wrong way, and 5xx for what is wrong with us, so that a
server never takes our trouble for a payer's fault. Callers are bounded: an API key if wanted, a
rate for each key or address, bodies and their reading. Whoever calls makes us pay gas; the node's
`max_fee_wei` and the list of tokens bound what a call can cost.

Source: x402 v2 §7 "Facilitator Interface".
"""

import asyncio
import hashlib
import hmac
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import msgspec
from msgspec import UNSET, UnsetType
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from paywall.chain.node import Node
from paywall.facilitator_batch import BatchDesk
from paywall.facilitator_desk import Denied, Served, payer_of
from paywall.facilitator_exact import ExactDesk
from paywall.protocol.errors import (
    ConfigurationError,
    Refused,
    TransactionPending,
    Unavailable,
)
from paywall.protocol.facilitation import (
    INVALID_NETWORK,
    INVALID_PAYLOAD,
    INVALID_VERSION,
    SETTLEMENT_PENDING,
    UNEXPECTED_SETTLE,
    UNEXPECTED_VERIFY,
    UNSUPPORTED_SCHEME,
    Question,
    SettleAnswer,
    Supported,
    VerifyAnswer,
)
from paywall.protocol.limits import (
    FACILITATOR_BODY_SECONDS,
    MAX_FACILITATOR_BODY_BYTES,
    RETRY_AFTER_SECONDS,
)
from paywall.protocol.money import Asset
from paywall.protocol.schemes import batch, exact
from paywall.protocol.x402 import (
    VERSION,
    Malformed,
    decode_json,
    encode_json,
    show_address,
    show_bytes,
)
from paywall.throttle import Throttle, caller_of

log = logging.getLogger("paywall.facilitator")


_questions = msgspec.json.Decoder(Question)
_Desk = BatchDesk | ExactDesk


class _TurnedAway(Exception):
    """The request itself is wrong; nothing was looked at."""

    def __init__(self, status: int, word: str, text: str, wait_seconds: float = 0) -> None:
        super().__init__(text)
        self.status = status
        self.word = word
        self.headers = {"Retry-After": str(math.ceil(wait_seconds))} if wait_seconds else {}


class Doorkeeper:
    """Who may come in, and how often. Keys are compared by their digests, in constant time."""

    def __init__(self, api_keys: Sequence[str], rate: float, burst: float | None) -> None:
        if not all(api_keys):
            raise ConfigurationError("an API key of the facilitator is empty")
        self._keys = [_digest(key) for key in api_keys]
        self._throttle = Throttle(rate, burst if burst is not None else max(1.0, 2 * rate))

    def admit(self, request: Request, key_needed: bool) -> None:
        """Raises _TurnedAway. Who has no good key is counted by address: keys are not guessed."""
        host = request.client.host if request.client else ""
        known = self._known(request) if self._keys else None
        wait = self._throttle.wait_seconds(known or caller_of(host))
        if wait:
            raise _TurnedAway(429, "rate_limited", "Too many requests.", wait)
        if self._keys and key_needed and known is None:
            raise _TurnedAway(401, "unauthorized", "An API key is needed here.")

    def _known(self, request: Request) -> str | None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            token = request.headers.get("X-API-Key", "")
        given = _digest(token.strip())
        matches = [hmac.compare_digest(given, key) for key in self._keys]
        return "key " + given.hex() if any(matches) else None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


class Facility:
    """The three endpoints."""

    def __init__(
        self,
        node: Node,
        door: Doorkeeper,
        served: Served,
        delegate: bool,
        clock: Callable[[], float],
    ) -> None:
        self._node = node
        self._door = door
        self._network = served.network
        desks = (
            (batch.SCHEME, BatchDesk(node, served, clock, delegate)),
            (exact.SCHEME, ExactDesk(node, served, clock)),
        )
        self._desks: dict[str, _Desk] = dict(desks)

    async def supported(self, request: Request) -> Response:
        try:
            self._door.admit(request, key_needed=False)
        except _TurnedAway as away:
            return _json({"error": away.word}, away.status, away.headers)
        kinds = [desk.kind for desk in self._desks.values()]
        signers = {"eip155:*": [show_address(self._node.gas_wallet)]}
        return _json(Supported(kinds, [], signers))

    async def verify(self, request: Request) -> Response:
        def no(word: str, text: str, payer: str | UnsetType = UNSET) -> VerifyAnswer:
            return VerifyAnswer(False, word, text or UNSET, payer)

        return await self._answer(request, lambda desk, q: desk.verify(q), no, UNEXPECTED_VERIFY)

    async def settle(self, request: Request) -> Response:
        def no(word: str, text: str, payer: str | UnsetType = UNSET) -> SettleAnswer:
            return SettleAnswer(False, "", self._network, word, text or UNSET, payer)

        async def settle(desk: _Desk, question: Question) -> SettleAnswer:
            try:
                # A server that gives up waiting does not stop what was sent.
                return await asyncio.shield(desk.settle(question))
            except TransactionPending as pending:
                payer = payer_of(question.payment_payload.payload)
                answer = no(SETTLEMENT_PENDING, "Sent, and not seen mined yet: ask again.", payer)
                sent = show_bytes(pending.transaction)
                return msgspec.structs.replace(answer, transaction=sent)

        return await self._answer(request, settle, no, UNEXPECTED_SETTLE)

    async def _answer(
        self,
        request: Request,
        act: Callable[[_Desk, Question], Awaitable[VerifyAnswer | SettleAnswer]],
        no: Callable[..., VerifyAnswer | SettleAnswer],
        trouble: str,
    ) -> Response:
        try:
            self._door.admit(request, key_needed=True)
            question = _question(await _body(request))
        except _TurnedAway as away:
            return _json(no(away.word, str(away)), away.status, away.headers)
        payer = payer_of(question.payment_payload.payload)
        try:
            return _json(await act(self._desk(question), question))
        except Denied as denied:
            return _json(no(denied.word, denied.detail, payer))
        except Refused as refusal:
            return _json(no(refusal.reason.code, str(refusal), payer))
        except (Unavailable, ConfigurationError) as error:
            log.warning("%s: %s", trouble, error)
            headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
            return _json(no(trouble, "The chain is out of reach.", payer), 503, headers)

    def _desk(self, question: Question) -> _Desk:
        terms = question.payment_requirements
        if (question.x402_version, question.payment_payload.x402_version) != (VERSION, VERSION):
            raise Denied(INVALID_VERSION)
        desk = self._desks.get(terms.scheme)
        if desk is None:
            raise Denied(UNSUPPORTED_SCHEME)
        if terms.network != self._network:
            raise Denied(INVALID_NETWORK)
        return desk


def facilitator_app(
    node: Node,
    *,
    api_keys: Sequence[str] = (),
    rate: float = 50,
    burst: float | None = None,
    assets: Sequence[Asset] | None = None,
    delegate: bool | None = None,
    clock: Callable[[], float] = time.time,
) -> Starlette:
    """An ASGI app that opens and closes the node with its own life.

    `rate` is requests a second for each key, or address. `assets` are the tokens that are moved;
    those that we know unless told. `delegate` lets callers have claims and refunds signed by the
    node's authorizer key; it is on only when API keys say who calls, for a stranger could have
    somebody else's earnings refunded. Raises ConfigurationError.
    """
    keyed = bool(api_keys)
    door = Doorkeeper(api_keys, rate, burst)
    served = Served(node.network, assets)
    facility = Facility(node, door, served, keyed if delegate is None else delegate, clock)

    @asynccontextmanager
    async def life(_: Starlette) -> AsyncIterator[None]:
        await node.open()
        try:
            yield
        finally:
            await node.close()

    routes = [
        Route("/supported", facility.supported),
        Route("/verify", facility.verify, methods=["POST"]),
        Route("/settle", facility.settle, methods=["POST"]),
    ]
    return Starlette(routes=routes, lifespan=life)


async def _body(request: Request) -> bytes:
    """The body, bounded in size and time. Raises _TurnedAway."""
    body = bytearray()
    try:
        async with asyncio.timeout(FACILITATOR_BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_FACILITATOR_BODY_BYTES:
                    raise _TurnedAway(413, INVALID_PAYLOAD, "The body is too large.")
    except TimeoutError:
        raise _TurnedAway(408, INVALID_PAYLOAD, "The body came too slowly.") from None
    except ClientDisconnect:
        raise _TurnedAway(400, INVALID_PAYLOAD, "The body broke off.") from None
    return bytes(body)


def _question(body: bytes) -> Question:
    try:
        return decode_json(_questions, body)
    except Malformed as error:
        raise _TurnedAway(400, INVALID_PAYLOAD, f"({error})") from error


def _json(message: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(
        encode_json(message),
        status,
        {"Cache-Control": "no-store", **(headers or {})},
        media_type="application/json",
    )
