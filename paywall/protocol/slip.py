"""A one-shot payment as the provider remembers it: what stage it is in, and whose turn it is. Pure.

An `exact` payment needs no channel; what it needs is to buy once. Its slip is written before
anything else happens and kept for as long as the authorization is valid, and a while longer. Each
step is written before it is taken, so that whoever comes after a crash knows how far it may have
come:

    running    its handler runs and nothing was sent: a handler that fails drops the slip
    sent       the transfer is on its way, or may be: it is never sent again, the chain is asked
    settled    the transfer is mined, and the answer has not left yet: the same payment is let in
    answered   over: the same payment gets the same answer
    failed     over: the token did not take it, and the same payment is refused again

A slip is held by one request at a time, under a deadline that its worker renews. When the deadline
has passed, the same payment may go on from the stage that it finds.

Sources: exact EVM specification, "Phase 3: Settlement Logic"; extensions/payment_identifier.md,
"Idempotency Behavior".
"""

from typing import Final

import msgspec

from paywall.protocol.errors import HoldLost, Reason, Refused
from paywall.protocol.limits import HOLD_SECONDS

RUNNING: Final = "running"
SENT: Final = "sent"
SETTLED: Final = "settled"
ANSWERED: Final = "answered"
FAILED: Final = "failed"

_HOLD_MS: Final = HOLD_SECONDS * 1000


class Slip(msgspec.Struct, frozen=True, array_like=True):
    """What is remembered of one payment. Append fields, never insert.

    `fingerprint` is of what was signed and what was asked for; `answer` is empty when it was not
    kept; `reason` is the name of the Reason for which it failed.
    """

    fingerprint: bytes
    stage: str
    request: str
    deadline_ms: int
    transaction: bytes = b""
    answer: bytes = b""
    reason: str = ""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Slip).decode


def encode(slip: Slip) -> bytes:
    return _encode(slip)


def decode(data: bytes | None) -> Slip | None:
    return None if data is None else _decode(data)


def claim(slip: Slip | None, fingerprint: bytes, request: str, now_ms: int) -> Slip:
    """The slip in the hands of `request`: a new one, or one that nobody works on any more.

    One that was answered is returned as it is. Raises Refused.
    """
    deadline_ms = now_ms + _HOLD_MS
    if slip is None:
        return Slip(fingerprint, RUNNING, request, deadline_ms)
    if slip.fingerprint != fingerprint:
        raise Refused(Reason.EXACT_USED)
    if slip.stage == FAILED:
        raise Refused(Reason[slip.reason])
    if slip.stage == ANSWERED:
        if not slip.answer:
            raise Refused(Reason.ANSWER_NOT_KEPT)
        return slip
    if slip.deadline_ms > now_ms and slip.request != request:
        sending = slip.stage == SENT
        raise Refused(Reason.SETTLEMENT_PENDING if sending else Reason.PAYMENT_IN_PROGRESS)
    return msgspec.structs.replace(slip, request=request, deadline_ms=deadline_ms)


def held(slip: Slip | None, request: str) -> Slip:
    """The slip, if this request still holds it. Raises HoldLost."""
    if slip is None or slip.request != request or slip.stage in (ANSWERED, FAILED):
        raise HoldLost("this payment is in other hands")
    return slip


def renewed(slip: Slip, now_ms: int) -> Slip:
    return msgspec.structs.replace(slip, deadline_ms=now_ms + _HOLD_MS)


def laid_down(slip: Slip) -> Slip:
    """Held by nobody: the same payment may go on from here at once."""
    return msgspec.structs.replace(slip, request="", deadline_ms=0)


def sent(slip: Slip, answer: bytes) -> Slip:
    """About to be sent; `answer` is what it pays for, when that is known and small.

    Said again, by a store that lost its own answer, it changes nothing.
    """
    if slip.stage == SENT and slip.answer == answer:
        return slip
    assert slip.stage == RUNNING, "a transfer is sent once"
    return msgspec.structs.replace(slip, stage=SENT, answer=answer)


def unsent(slip: Slip) -> Slip:
    """It was not sent after all, and the answer was withheld."""
    return laid_down(msgspec.structs.replace(slip, stage=RUNNING, answer=b""))


def mined(slip: Slip, transaction: bytes) -> Slip:
    """The chain shows the transfer; an answer that was kept for it may be given."""
    stage = ANSWERED if slip.answer else SETTLED
    return msgspec.structs.replace(slip, stage=stage, transaction=transaction)


def answered(slip: Slip, transaction: bytes, answer: bytes) -> Slip:
    """The answer leaves."""
    return msgspec.structs.replace(slip, stage=ANSWERED, transaction=transaction, answer=answer)


def failed(slip: Slip, reason: Reason) -> Slip:
    return msgspec.structs.replace(slip, stage=FAILED, answer=b"", reason=reason.name)
