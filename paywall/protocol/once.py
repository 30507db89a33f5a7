"""Exactly once: what a provider remembers of a payment's id.

A client may name its payment (the x402 extension `payment-identifier`) and send the very same
payment again when no answer came. The first one runs; while it runs, a second is told to wait; once
it was charged, a second gets the answer that was stored, receipt included, and nothing is charged;
when it was released, a second runs as if it were the first; and one that was refused is refused
again, for its payer may have paid in its place. An id belongs to one payload on one resource:
anything else under it is a conflict, but for a payment in the place of one that was refused.

When the worker died, its hold expires and nothing was charged, so the same payment is let in again
as its channel allows.

Source: extensions/payment_identifier.md, "Idempotency Behavior", "Recovering a Lost Response".
"""

import re
from typing import Final

import msgspec
from msgspec import Raw, UnsetType

from paywall.protocol.eip712 import keccak
from paywall.protocol.errors import PaymentError, Reason, Refused
from paywall.protocol.limits import (
    ANSWER_SECONDS,
    HOLD_SECONDS,
    MAX_PAYMENT_ID_CHARS,
    MIN_PAYMENT_ID_CHARS,
)
from paywall.protocol.x402 import Malformed, decode_json, encode_json

EXTENSION: Final = "payment-identifier"
REFUSED: Final = "-"
"""In the place of the request's name: there was none."""

_ID = re.compile(f"[A-Za-z0-9_-]{{{MIN_PAYMENT_ID_CHARS},{MAX_PAYMENT_ID_CHARS}}}", re.ASCII)


class Ticket(msgspec.Struct, frozen=True, gc=False):
    """A payment's id, and the hash of the payload and resource that it belongs to."""

    payment_id: str
    fingerprint: bytes


class Entry(msgspec.Struct, frozen=True, gc=False):
    """What is remembered under an id: whose request it is, and its answer once it was charged.

    `answer` is None while the request runs, and empty when it was too large, or a stream; `total`
    is what the channel had been charged in all when it was charged for this request.
    """

    fingerprint: bytes
    request: str
    expires_ms: int
    answer: bytes | None = None
    total: int = 0


class RefusedBefore(Refused):
    """This payment was refused before, and its payer told so."""

    def __init__(self) -> None:
        super().__init__(Reason.CUMULATIVE_MISMATCH)


class AnsweredBefore(PaymentError):
    """This payment was charged before: here is its answer again."""

    def __init__(self, answer: bytes, total: int) -> None:
        super().__init__("this payment was answered before")
        self.answer = answer
        self.total = total


class Answer(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An answer as it was sent, and what its receipt said was charged and deposited.

    `expected_total` is what a client that pays one at a time expects the channel to owe then.
    """

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    charged: int
    expected_total: int
    deposited: int
    transaction: bytes


_encode = msgspec.msgpack.Encoder().encode
decode_answer = msgspec.msgpack.Decoder(Answer, strict=False).decode
"""Not strict: amounts are written as text."""


def encode_answer(answer: Answer) -> bytes:
    """Amounts as text, because a MessagePack integer ends at 2^64 and an amount does not."""
    amounts = (str(answer.charged), str(answer.expected_total), str(answer.deposited))
    return _encode((answer.status, answer.headers, answer.body, *amounts, answer.transaction))


def live(entry: Entry | None, now_ms: int) -> Entry | None:
    """The entry, unless it has expired: a store drops those when it likes."""
    return entry if entry and entry.expires_ms > now_ms else None


def check(entry: Entry | None, ticket: Ticket, request: str, running: bool, now_ms: int) -> None:
    """Lets a payment go on that is new, or that comes again after its worker died.

    `running` says whether the hold of the entry's request is alive. Asking again for the same
    request is no second payment. Raises AnsweredBefore, or Refused.
    """
    entry = live(entry, now_ms)
    if entry is None:
        return
    if entry.fingerprint != ticket.fingerprint:
        if entry.request == REFUSED:
            return
        raise Refused(Reason.PAYMENT_ID_REUSED)
    if entry.request == REFUSED:
        raise RefusedBefore
    if entry.answer:
        raise AnsweredBefore(entry.answer, entry.total)
    if entry.answer is not None:
        raise Refused(Reason.ANSWER_NOT_KEPT)
    if running and entry.request != request:
        raise Refused(Reason.PAYMENT_IN_PROGRESS)


def started(ticket: Ticket, request: str, now_ms: int) -> Entry:
    """The entry of a request that begins. It outlives the request's hold, to recognise it."""
    return Entry(ticket.fingerprint, request, now_ms + 1000 * (ANSWER_SECONDS + HOLD_SECONDS))


def refused(ticket: Ticket, now_ms: int) -> Entry:
    """The entry of a payment that was refused."""
    return Entry(ticket.fingerprint, REFUSED, now_ms + 1000 * ANSWER_SECONDS)


def answered(ticket: Ticket, request: str, answer: bytes, total: int, now_ms: int) -> Entry:
    """The entry of a request that was charged."""
    return Entry(ticket.fingerprint, request, now_ms + 1000 * ANSWER_SECONDS, answer, total)


# -- Wire ----------------------------------------------------------------------------------------


class _Info(msgspec.Struct, omit_defaults=True, frozen=True, gc=False):
    required: bool = False
    id: str | UnsetType | None = msgspec.UNSET


class _Extension(msgspec.Struct, frozen=True, gc=False):
    info: _Info = _Info()


_extension = msgspec.json.Decoder(_Extension)

_SCHEMA: Final = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "required": {"type": "boolean"},
        "id": {
            "type": "string",
            "minLength": MIN_PAYMENT_ID_CHARS,
            "maxLength": MAX_PAYMENT_ID_CHARS,
        },
    },
    "required": ["required"],
}

ADVERTISED: Final = Raw(encode_json({"info": {"required": False}, "schema": _SCHEMA}))
"""The extension as a provider offers it."""


def with_id(payment_id: str) -> Raw:
    """The extension as a client echoes it, with the id of its payment."""
    return Raw(encode_json({"info": {"required": False, "id": payment_id}, "schema": _SCHEMA}))


def ticket_of(extension: Raw | None, payload: bytes, resource: bytes) -> Ticket | None:
    """The ticket of a payment, or None when its client named none.

    `payload` is the payment as JSON, `resource` what was asked for. Raises Refused for an id that
    is not well formed.
    """
    if extension is None:
        return None
    try:
        payment_id = decode_json(_extension, bytes(extension)).info.id
    except Malformed as error:
        raise Refused(Reason.PAYMENT_ID) from error
    if not payment_id:
        return None
    if _ID.fullmatch(payment_id) is None:
        raise Refused(Reason.PAYMENT_ID)
    return Ticket(payment_id, keccak(keccak(payload) + keccak(resource)))
