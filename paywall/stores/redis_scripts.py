"""The verbs as Lua: one script each, every one behind the same prelude.

A script is known to a server by its hash. It is loaded when a connection is made; a server that
has lost its scripts since (flushed, restarted, failed over) says so, and is given it again.
"""

from dataclasses import dataclass
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Final

_FOLDER: Final = files("paywall.stores") / "lua"


@dataclass(frozen=True, slots=True, eq=False)
class Script:
    """One verb."""

    name: str
    text: bytes
    sha: bytes
    writes: bool


READING: Final = ("channel", "look_up")
WRITING: Final = (
    *("reserve", "charge", "release", "renew", "refuse"),
    *("record", "begin_refund", "end_refund", "spend", "take", "give_back"),
    *("lease", "put_note"),
)


def make(name: str, text: bytes) -> Script:
    return Script(
        name, text, sha1(text, usedforsecurity=False).hexdigest().encode(), name in WRITING
    )


def source(name: str) -> bytes:
    return (_FOLDER / f"{name}.lua").read_bytes()


@cache
def scripts() -> dict[str, Script]:
    """All of them by name."""
    return {name: make(name, source("prelude") + source(name)) for name in READING + WRITING}
