"""What a fuzz target is: something that takes any bytes and must not be surprised by them.

`run` returns one word for what became of the input, for the statistics, and raises `Fault` (or
anything else) when a promise was broken. `seeds` are inputs to begin from. The same targets serve
the suite, the long run and a coverage-guided fuzzer.
"""

import asyncio
import atexit
from collections.abc import Callable, Coroutine, Sequence
from typing import Final, Protocol

LOOP: Final = asyncio.new_event_loop()
"""Targets that await do it here, one input at a time."""
atexit.register(LOOP.close)


def close_at_end(close: Callable[[], Coroutine[None, None, None]]) -> None:
    """What a target has opened is closed before the loop is."""
    atexit.register(lambda: LOOP.run_until_complete(close()))


class Fault(AssertionError):
    """A promise was broken."""


class Target(Protocol):
    name: str

    def seeds(self) -> Sequence[bytes]: ...

    def run(self, data: bytes) -> str: ...


def promise(holds: bool, what: str) -> None:
    if not holds:
        raise Fault(what)
