"""Claimers that are killed: a process that forks one after the other, each with a life of its own.

    python -m helpers.nursery        reads lives as JSON lines; says the pid and then how it ended,
                                     and waits for an empty line

A life is so many *steps*: each question to the store or to the chain is one before it is asked and
one after it was answered. When they are used up the process kills itself with SIGKILL, there and
then: no handler runs, nothing is given back. So a seed names the very point of death, however fast
the machine is. The nursery has loaded everything that a claimer needs, so a claimer begins at once.
"""

import asyncio
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import msgspec

from helpers.chain import NETWORK
from helpers.collecting import EAGER, Bell
from paywall import open_store
from paywall.alarms import PoisonRow
from paywall.chain import claimer
from paywall.chain.claimer import Claimer
from paywall.chain.node import Node
from paywall.chain.rpc import Rpc
from paywall.protocol.errors import Unavailable
from paywall.protocol.lease import LeaseLost

POLL_SECONDS: Final = 0.1
OLD_AGE_SECONDS: Final = 300
"""Nobody lives longer, so that a claimer whose test has died is not left behind."""


class Told(msgspec.Struct, frozen=True):
    """What a claimer is told. `steps` is None for one that lives until it is killed by others."""

    rpc: str
    store: str
    key: str
    authorizer_key: str
    steps: int | None
    lease_seconds: int


class Life:
    def __init__(self, steps: int | None) -> None:
        self._left = steps

    def step(self) -> None:
        if self._left is None:
            return
        self._left -= 1
        if self._left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def shortens(self, verb: Callable[..., Any]) -> Callable[..., Any]:
        """The verb as one who may die before it or after it calls it."""

        async def mortal(*args: Any, **kwargs: Any) -> Any:
            self.step()
            answer = await verb(*args, **kwargs)
            self.step()
            return answer

        return mortal


class MortalStore:
    """A store in the hands of one who may die at each of its verbs."""

    def __init__(self, inner: Any, life: Life) -> None:
        self._inner = inner
        self._life = life

    def __getattr__(self, name: str) -> Any:
        return self._life.shortens(getattr(self._inner, name))


async def _claim(told: Told) -> None:
    life = Life(told.steps)
    claimer.LEASE_SECONDS = told.lease_seconds  # type: ignore[misc]
    claimer.RENEW_SECONDS = told.lease_seconds / 3  # type: ignore[misc, assignment]
    Rpc.ask = life.shortens(Rpc.ask)  # type: ignore[method-assign]
    store: Any = MortalStore(open_store(told.store), life)
    node = Node(told.rpc, told.key, network=NETWORK, authorizer_key=told.authorizer_key)
    bell = Bell()
    await store.open()
    await node.open()
    worker = Claimer(store, node, EAGER, bell)
    give_up_at = time.monotonic() + OLD_AGE_SECONDS
    while time.monotonic() < give_up_at:
        with suppress(Unavailable, LeaseLost):
            await worker.run_once()
        assert not bell.rung(PoisonRow), bell.alarms
        await asyncio.sleep(POLL_SECONDS)


def _live(told: Told) -> None:
    try:
        asyncio.run(_claim(told))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def main() -> None:
    logging.getLogger("paywall").setLevel(logging.CRITICAL)
    while line := sys.stdin.readline():
        told = msgspec.json.decode(line, type=Told)
        pid = os.fork()
        if pid == 0:
            _live(told)
        print(pid, flush=True)
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert ended
        by_itself = ended.si_code == os.CLD_EXITED
        print(ended.si_status if by_itself else -ended.si_status, flush=True)
        sys.stdin.readline()  # until this was heard, nobody else gets its pid
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
