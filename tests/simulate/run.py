"""One world from its seed to its figures, and nothing else in the process notices it.

A world is small (some thousands of payments) and whole: a long run is many of them, each with its
own seed, so that a failure is replayed in seconds.
"""

import gc
import logging
import secrets
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, Final

from paywall import exchange
from simulate.cheap import Disk, cheaply
from simulate.loop import Loop
from simulate.oracle import Oracle
from simulate.rest import Rest
from simulate.world import World

REAL_SHARE: Final = 0.05
"""In so many worlds every signature is one of the curve, and every wallet has its SQLite file."""
_SHM: Final = Path("/dev/shm")


@dataclass
class Result:
    """What one world came to. `violations` should be empty."""

    seed: str
    payments: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    outcomes: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    digest: int = 0
    steps: int = 0
    virtual_seconds: float = 0.0
    real: bool = False


@contextmanager
def seeded(seed: str) -> Iterator[None]:
    """All that asks the operating system for randomness gets it from the seed."""
    real = secrets._sysrand  # type: ignore[attr-defined]
    secrets._sysrand = Random(f"{seed}/secrets")  # type: ignore[attr-defined]
    try:
        yield
    finally:
        secrets._sysrand = real  # type: ignore[attr-defined]


@contextmanager
def _uncollected() -> Iterator[None]:
    """A world is small and over soon: its garbage is collected with it."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class _Alarm(logging.Handler):
    """Tells the oracle of every exception that the product did not expect."""

    def __init__(self, oracle: Oracle) -> None:
        super().__init__()
        self._oracle = oracle

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            self._oracle.violated(b"", f"unexpected in {record.name}: {error!r}")


@contextmanager
def listening(oracle: Oracle) -> Iterator[None]:
    log, alarm = logging.getLogger("paywall"), _Alarm(oracle)
    kept = log.propagate, log.level
    log.propagate = False
    log.setLevel(logging.ERROR)
    log.addHandler(alarm)
    try:
        yield
    finally:
        log.removeHandler(alarm)
        log.propagate, log.level = kept


def simulate(seed: str, payments: int, real: bool | None = None) -> Result:
    """One world. The same seed and number make the same result, to the last event.

    `real`: with the curve under its signatures and files under its wallets; None: as is drawn.
    """
    where = str(_SHM) if _SHM.is_dir() else None
    loop = Loop()
    if real is None:
        real = Random(f"{seed}/real").random() < REAL_SHARE
    disks: dict[str, Disk] = {}
    with (
        TemporaryDirectory(prefix="paywall-simulate-", dir=where) as name,
        seeded(seed),
        nullcontext() if real else cheaply(seed.encode()[:64], disks),
        _uncollected(),
    ):
        world = World(seed, payments, Path(name), disks, loop)
        loop.set_exception_handler(lambda _, told: _unexpected(world.oracle, told))
        with listening(world.oracle):
            try:
                loop.run_until_complete(_life_of(world))
            finally:
                world.oracle.close()
                exchange._PENDING.clear()  # the endings of the dead
                loop.bury()
                for agent in world.agents:
                    agent.wallet.close()
    return _result(world, real)


async def _life_of(world: World) -> None:
    await world.run()
    if not world.oracle.violations:
        await Rest(world).come()


def _unexpected(oracle: Oracle, told: dict[str, Any]) -> None:
    error = told.get("exception")
    if isinstance(error, ConnectionError):
        return  # the app's own, which the server logs
    where = traceback.format_exception(error)[-6:] if error else []
    oracle.violated(b"", f"unexpected: {told.get('message')}: {error!r} {''.join(where)}")


def _result(world: World, real: bool) -> Result:
    oracle = world.oracle
    outcomes: dict[str, int] = {}
    for agent in world.agents:
        for outcome, times in agent.outcomes.items():
            outcomes[outcome] = outcomes.get(outcome, 0) + times
    fault = oracle.at_fault
    trace = oracle.books[fault].trace if fault is not None else ()
    return Result(
        seed=world.seed,
        payments=oracle.counts["payments"],
        counts=dict(oracle.counts),
        faults=dict(world.faults.struck),
        outcomes=outcomes,
        violations=oracle.violations,
        trace=[" ".join(map(str, event)) for event in trace],
        digest=oracle.digest,
        steps=world.loop.steps,
        virtual_seconds=round(world.loop.time(), 1),
        real=real,
    )
