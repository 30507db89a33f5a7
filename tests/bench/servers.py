"""Who takes part in the contest, and on which core.

Each server is a process on the servers' core; a store of ours that is a server too, and the chain,
stay on the other. Customers open their channels by real deposits on the embedded chain.
"""

import os
import shutil
import sys
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Final

import msgspec
from helpers.chain import Payer, new_address
from helpers.official import facilitator_app
from helpers.redis_server import RedisServer, running
from helpers.servers import served

from bench.cells import Clock, cpu_of
from bench.contest import (
    CHANNELS,
    LOAD_CORE,
    SERVER_CORE,
    Contest,
    Contestant,
    free_port,
    process,
)
from bench.redis_cost import redis_cpu
from bench.serve import Settings
from paywall.chain.devnet import Devnet
from paywall.protocol.x402 import show_address

PURSE: Final = 10**14
PEER_CHANNELS: Final = 16
PEER_SHARE: Final = 0.15
"""Slower servers are sent fewer requests, so that a round is no longer for them than for us."""
_NODE: Final = Path(__file__).parent.parent / "interop" / "node"


class Arena:
    """Starts contestants, on one chain, and stops them all."""

    def __init__(self, contest: Contest, folder: Path, stack: ExitStack) -> None:
        self._contest = contest
        self._folder = folder
        self._stack = stack
        self._devnet = stack.enter_context(Devnet(port=0))
        self._payer = Payer()
        self._devnet.fund_usdc(show_address(self._payer.address), PURSE)

    def bare(self, kind: str) -> None:
        port = free_port()
        pid = self._python(kind, port, SERVER_CORE)
        self._contest.enter(Contestant(kind, port, {"worker": cpu_of(pid)}))

    def ours(
        self,
        name: str,
        store: str,
        redis: RedisServer | None = None,
        workers: int = 1,
        kind: str = "ours",
        upstream: str = "",
    ) -> None:
        """Workers share a port; the second one has the load generator's core."""
        told = {
            "upstream": upstream,
            "store": store,
            "rpc": self._devnet.url,
            "key": self._devnet.accounts[0].key,
        }
        told |= {"pay_to": self._receiver()}
        port = free_port()
        cores = (SERVER_CORE, LOAD_CORE)[:workers]
        used = [cpu_of(self._python(kind, port, core, **told)) for core in cores]
        clocks: dict[str, Clock] = {"worker": lambda: sum(clock() for clock in used)}
        if redis:
            clocks["redis"] = redis_cpu(redis)
        self._contest.enter(Contestant(name, port, clocks), self._payer.key, CHANNELS)

    def by_proxy(self, name: str) -> None:
        """The service behind it has the load generator's core."""
        port = free_port()
        self._python("bare", port, LOAD_CORE)
        self.ours(name, "memory://", kind="by_proxy", upstream=f"http://127.0.0.1:{port}")

    def sqlite(self, name: str) -> None:
        self.ours(name, f"sqlite:///{self._folder}/bench.db")

    def redis(self, name: str, fsync: str, workers: int = 1) -> None:
        server = self._stack.enter_context(running(fsync=fsync))
        os.sched_setaffinity(server.info("server")["process_id"], {LOAD_CORE})
        self.ours(name, server.url, server, workers)

    def x402_python(self, name: str) -> None:
        port = free_port()
        told = {"facilitator": self._facilitator, "pay_to": self._receiver()}
        pid = self._python("x402_python", port, SERVER_CORE, **told)
        self._peer(name, port, pid)

    def has_node(self) -> bool:
        return shutil.which("node") is not None and (_NODE / "node_modules").exists()

    def x402_node(self, name: str) -> None:
        """`name` ends in the framework's."""
        port = free_port()
        told = [name.rpartition(" ")[2], str(port), self._facilitator, self._receiver()]
        command = ["taskset", "-c", str(SERVER_CORE), "node", "peer/alone.mjs", *told]
        self._peer(name, port, self._stack.enter_context(process(command, _NODE)).pid)

    def _peer(self, name: str, port: int, pid: int) -> None:
        contestant = Contestant(name, port, {"worker": cpu_of(pid)}, PEER_SHARE)
        self._contest.enter(contestant, self._payer.key, PEER_CHANNELS)

    def _python(self, kind: str, port: int, core: int, **told: str) -> int:
        """The process id of one of `bench.serve`."""
        settings = Settings(kind=kind, port=port, core=core, **told)
        command = [sys.executable, "-m", "bench.serve", msgspec.json.encode(settings).decode()]
        return self._stack.enter_context(process(command)).pid

    def _receiver(self) -> str:
        return show_address(new_address())

    @cached_property
    def _facilitator(self) -> str:
        return self._stack.enter_context(served(facilitator_app(self._devnet)))
