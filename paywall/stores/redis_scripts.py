"""The verbs as Lua: one script each, behind what it uses of the prelude and of our bounds.

A script is known to a server by its hash. It is loaded when a connection is made; a server that
has lost its scripts since (flushed, restarted, failed over) says so, and is given it again.

Where the URL asks for replicas, the answer to whatever writes waits for them. What is lost in a
fail-over costs money if it let somebody in or has money leave (a voucher, a refund that is set
aside, an id that is spent, a pass's call, a slip, a refusal that its payer acts on), or if a
restart goes on from it (a lease, a note). Such a verb fails while too few replicas have it: nothing
has happened yet. The others do not. A charge whose request has run must not fail for it, nor what
ends a request or keeps it; and what the chain says is read again when its record is old.

A server makes every function of a script anew each time it runs it, whether it is called or not, so
a script has none that it does not name. Bounds are a part of its text: workers that were given
others run another script, and none is sent with a request.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Final

from paywall.protocol.channel import HOLD_MS, REFUND_MS
from paywall.protocol.limits import (
    ANSWER_SECONDS,
    HOLD_SECONDS,
    MAX_HOLDS,
    REMEMBERED_CHARGES,
    WINDOW_VOUCHERS,
)

_FOLDER: Final = files("paywall.stores") / "lua"

_BOUNDS: Final = {
    "ANSWER_MS": 1000 * ANSWER_SECONDS,
    "STARTED_MS": 1000 * (ANSWER_SECONDS + HOLD_SECONDS),
    "HOLD_MS": HOLD_MS,
    "REFUND_MS": REFUND_MS,
    "WINDOW": WINDOW_VOUCHERS,
    "MAX_HOLDS": MAX_HOLDS,
    "REMEMBERED": REMEMBERED_CHARGES,
}
"""What the scripts call by name."""

_COMMENT: Final = re.compile(rb"^ *--.*\n", re.MULTILINE)
_PIECE: Final = re.compile(
    rb"^local (?:function )?(\w+).*?(?=^local |\Z)", re.MULTILINE | re.DOTALL
)
_WORD: Final = re.compile(rb"(?<!\w\.)\b[A-Za-z_]\w*")


@dataclass(frozen=True, slots=True, eq=False)
class Script:
    """One verb."""

    name: str
    text: bytes
    sha: bytes
    writes: bool
    strict: bool
    """Fails unless as many replicas as asked for have it."""


READING: Final = ("channel", "look_up")
WRITING: Final = (
    *("reserve", "charge", "release", "renew", "refuse"),
    *("record", "begin_refund", "end_refund", "spend", "take", "give_back"),
    *("lease", "put_note"),
)
STRICT: Final = ("reserve", "refuse", "begin_refund", "spend", "take", "lease", "put_note")


def make(name: str, text: bytes) -> Script:
    sha = sha1(text, usedforsecurity=False).hexdigest().encode()
    return Script(name, text, sha, name in WRITING, name in STRICT)


def source(name: str) -> bytes:
    """A file as it stands, without its comments."""
    return _COMMENT.sub(b"", (_FOLDER / f"{name}.lua").read_bytes())


@cache
def prelude() -> dict[str, bytes]:
    """What a verb may use, by name: each uses at most what stands before it."""
    bounds = {name: b"local %b = %b\n" % (name.encode(), _number(name)) for name in _BOUNDS}
    pieces = _PIECE.finditer(source("prelude"))
    return bounds | {piece[1].decode(): piece[0] for piece in pieces}


def _number(bound: str) -> bytes:
    """A time as a text, for commands take texts; Lua calculates with it all the same."""
    return b"'%d'" % _BOUNDS[bound] if bound.endswith("_MS") else b"%d" % _BOUNDS[bound]


def whole_text(name: str, pieces: dict[str, bytes]) -> bytes:
    """A verb, behind those pieces that it names, or that one of them names."""
    verb = source(name)
    return b"".join([*reversed([*_needed(verb, pieces)]), verb])


def _needed(verb: bytes, pieces: dict[str, bytes]) -> Iterator[bytes]:
    """The last first."""
    named = set(_WORD.findall(verb))
    for name, piece in reversed(pieces.items()):
        if name.encode() in named:
            named.update(_WORD.findall(piece))
            yield piece


@cache
def scripts() -> dict[str, Script]:
    """All of them by name."""
    return {name: make(name, whole_text(name, prelude())) for name in READING + WRITING}
