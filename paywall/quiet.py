"""Requests of ours whose URL is a secret: a webhook's, a facilitator's with a key in its path.

httpx logs every URL that its clients ask, whole, at level INFO. What is asked under `unsaid` is not
logged by it; our own words name such a place by its scheme and host.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

_unsaid: Final[ContextVar[bool]] = ContextVar("paywall_unsaid", default=False)


class _Silence(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not _unsaid.get()


for _library in ("httpx", "httpx2"):
    logging.getLogger(_library).addFilter(_Silence())


@contextmanager
def unsaid() -> Iterator[None]:
    """Nothing that this task asks meanwhile is logged by httpx."""
    token = _unsaid.set(True)
    try:
        yield
    finally:
        _unsaid.reset(token)
