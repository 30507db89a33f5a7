"""Every store that the suite runs over, and a clock that tests move by hand."""

from collections.abc import Callable
from pathlib import Path

from helpers.channels import NOW
from helpers.redis_server import shared_cluster, shared_server
from helpers.redis_store import TimedRedisStore
from paywall.stores import Store
from paywall.stores.memory import MemoryStore
from paywall.stores.sqlite import SqliteStore

Clock = Callable[[], float]
Maker = Callable[[Path, Clock], Store]

STORES: dict[str, Maker] = {
    "memory": lambda folder, clock: MemoryStore(clock=clock),
    "sqlite": lambda folder, clock: SqliteStore(folder / "store.db", clock=clock),
    "redis": lambda folder, clock: TimedRedisStore(shared_server().url, clock),
    "redis-cluster": lambda folder, clock: TimedRedisStore(shared_cluster().url, clock),
}


class Time:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.seconds = float(NOW)

    def __call__(self) -> float:
        return self.seconds

    def ms(self) -> int:
        return int(self.seconds * 1000)
