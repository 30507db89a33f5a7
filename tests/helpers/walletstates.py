"""Every keeper of a wallet's rows that the suite runs over."""

from collections.abc import Callable
from pathlib import Path
from secrets import token_hex

from helpers.redis_server import shared_cluster, shared_server

Where = Callable[[Path], str]

STATES: dict[str, Where] = {
    "file": lambda folder: str(folder / "w.db"),
    "redis": lambda folder: f"{shared_server().url}?prefix=w{token_hex(8)}",
    "redis-cluster": lambda folder: f"{shared_cluster().url}?prefix=w{token_hex(8)}",
}
