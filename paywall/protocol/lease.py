"""Who of many does a job that one must do, and what is written down about it. Pure.

Any number of processes offer to claim; the one that holds the *lease* does. A lease ends by itself,
so a process that died is followed by another. One that only slept would wake up and go on: so every
lease of a new owner carries a higher *fencing token*, and what is written under an older one is
refused. A token never comes again. The *notes* of a job (how far it has read, what it has sent) are
kept with its lease, and so the next owner finds them.

Source: M. Kleppmann, "How to do distributed locking" (2016), on fencing tokens.
"""

import msgspec

from paywall.protocol.errors import PaymentError


class LeaseLost(PaymentError):
    """Somebody else does this job by now; whoever is told so stops."""


class Lease(msgspec.Struct, frozen=True, array_like=True):
    """A job in the hands of `owner`. Append fields, never insert."""

    owner: str
    token: int
    deadline_ms: int
    notes: dict[str, bytes]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Lease).decode


def encode(lease: Lease) -> bytes:
    return _encode(lease)


def decode(data: bytes | None) -> Lease | None:
    return None if data is None else _decode(data)


def take(lease: Lease | None, owner: str, ttl_ms: int, now_ms: int) -> Lease | None:
    """The lease in the hands of `owner` until `ttl_ms` from now, or None while it is another's.

    Asking again renews it under the same token. A `ttl_ms` of zero gives it back.
    """
    assert owner and ttl_ms >= 0
    if lease is None:
        return Lease(owner, 1, now_ms + ttl_ms, {})
    if lease.owner == owner:
        return msgspec.structs.replace(lease, deadline_ms=now_ms + ttl_ms)
    if now_ms < lease.deadline_ms:
        return None
    return Lease(owner, lease.token + 1, now_ms + ttl_ms, lease.notes)


def write(lease: Lease | None, key: str, value: bytes | None, token: int) -> Lease:
    """With one note written, or dropped (None). Raises LeaseLost for an older lease's token."""
    if lease is None or lease.token != token:
        raise LeaseLost("this lease has passed to somebody else")
    notes = {name: note for name, note in lease.notes.items() if name != key}
    return msgspec.structs.replace(lease, notes=notes if value is None else {**notes, key: value})


def parts(name: str) -> tuple[str, str]:
    """The lease and the key of a note, which is named `lease/key`."""
    lease, slash, key = name.partition("/")
    assert lease and slash and key, "a note is named after its lease"
    return lease, key
