"""How much of a body that the caller did not ask for is read, and for how long.

A timeout of httpx is for each read: a body that drips a byte at a time never meets one. So whoever
reads for reasons of its own counts the bytes and looks at the clock.
"""

import time


class Patience:
    """So many bytes and so many seconds, from now on."""

    def __init__(self, max_bytes: int, max_seconds: float) -> None:
        self._left = max_bytes
        self._until = time.monotonic() + max_seconds

    def is_over(self, chunk: bytes) -> bool:
        """Whether it is, now that this has been read too."""
        self._left -= len(chunk)
        return self._left < 0 or time.monotonic() > self._until
