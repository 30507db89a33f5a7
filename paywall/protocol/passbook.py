"""The passes of one payer on one part of a site: what is open until when, and who may say so. Pure.

A book is one record. Passes for a time alone are one: another purchase adds its time to the end.
Passes of so many calls are kept one by one, for their calls are counted apart and their times end
apart. A token is good for the whole book; only its hash is kept.
"""

from hashlib import sha256
from typing import Final

import msgspec

from paywall.protocol.limits import MAX_PASSES
from paywall.protocol.money import Address

TOKEN_BYTES: Final = 16


class Opening(msgspec.Struct, frozen=True, array_like=True):
    """One pass: until when, and for how many calls, which are counted under its name."""

    name: str
    until_ms: int
    calls: int | None = None


class Token(msgspec.Struct, frozen=True, array_like=True):
    """What opens the book without a signature."""

    hash: bytes
    until_ms: int


class Passbook(msgspec.Struct, frozen=True, array_like=True):
    """Append fields, never insert."""

    openings: tuple[Opening, ...] = ()
    tokens: tuple[Token, ...] = ()

    @property
    def until_ms(self) -> int:
        """When nothing of it is good any more."""
        ends = [opening.until_ms for opening in self.openings]
        return max(ends + [token.until_ms for token in self.tokens], default=0)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Passbook).decode


def encode(book: Passbook) -> bytes:
    return _encode(book)


def decode(data: bytes | None, now_ms: int) -> Passbook:
    """What of a book is good at this moment."""
    book = Passbook() if data is None else _decode(data)
    return Passbook(
        tuple(one for one in book.openings if one.until_ms > now_ms),
        tuple(one for one in book.tokens if one.until_ms > now_ms),
    )


def bought(
    book: Passbook, name: str, ttl_ms: int, calls: int | None, token: bytes, now_ms: int
) -> Passbook:
    """The book after a purchase, which `name` makes recognisable; twice is once."""
    if any(known.hash == hashed(token) for known in book.tokens):
        return book
    others = [one for one in book.openings if one.calls is not None or calls is not None]
    timed = [one.until_ms for one in book.openings if one not in others]
    until_ms = max([now_ms, *timed]) + ttl_ms
    openings = (*others, Opening(name, until_ms, calls))
    tokens = (*book.tokens, Token(hashed(token), until_ms))
    return Passbook(openings[-MAX_PASSES:], tokens[-MAX_PASSES:])


def opens(book: Passbook, token: bytes) -> bool:
    return any(known.hash == hashed(token) for known in book.tokens)


def hashed(token: bytes) -> bytes:
    return sha256(token).digest()


def key_of(kind: str, name: str, payer: Address) -> bytes:
    """Where something of a payer's is kept; a name of any letters is told apart from its end."""
    return b"\0".join((b"paywall", kind.encode(), payer, name.encode("utf-8", "surrogatepass")))
