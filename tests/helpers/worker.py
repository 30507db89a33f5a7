"""One worker process of a provider: `python -m helpers.worker '<settings as JSON>'`.

The bounds that a test cannot wait for are shortened first, before anything else is loaded that
has taken them over. The process ends when whoever started it has gone.
"""

import logging
import os
import sys
import threading
from importlib import import_module

import msgspec

from paywall.protocol import limits


class Settings(msgspec.Struct, frozen=True):
    """What a worker is told."""

    folder: str
    store: str
    port: int
    hold_seconds: int = limits.HOLD_SECONDS
    answer_seconds: int = limits.ANSWER_SECONDS
    handler_seconds: float = 0.01
    pass_seconds: int = 3600


def _end_with_the_parent() -> None:
    sys.stdin.read()
    os._exit(1)


def main() -> None:
    settings = msgspec.json.decode(sys.argv[1], type=Settings)
    logging.getLogger("paywall").setLevel(logging.ERROR)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    limits.HOLD_SECONDS = settings.hold_seconds  # type: ignore[misc]
    limits.HOLD_RENEW_SECONDS = settings.hold_seconds / 3  # type: ignore[misc, assignment]
    limits.ANSWER_SECONDS = settings.answer_seconds  # type: ignore[misc]
    import_module("helpers.worker_app").serve(settings)


if __name__ == "__main__":
    main()
