"""The same small app behind different paywalls, under the same load, taking turns.

The servers share one core and are asked one at a time; the load generator, Redis and the chain have
the other. A round asks every server for every cell once, and a figure is the median of the rounds,
so what else the machine does disturbs all of them alike.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
from coincurve import PrivateKey

from bench.cells import Cell, Clock
from bench.customers import PATH, Customer, Shop, plain
from bench.load import Result, Work

CHANNELS: Final = 64
IN_FLIGHT: Final = 16
SERVER_CORE: Final = 1
LOAD_CORE: Final = 0
_TESTS: Final = Path(__file__).parent.parent


@dataclass
class Contestant:
    """A running server, whose processor time counts, and who has channels with it."""

    name: str
    port: int
    clocks: dict[str, Clock]
    share: float = 1.0
    customers: list[Customer] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def load(port: int, connections: list[list[bytes]]) -> Result:
    """Sends all of it from a process of its own."""
    work = msgspec.msgpack.encode(Work(port, LOAD_CORE, connections))
    command = [sys.executable, "-m", "bench.load"]
    done = subprocess.run(
        command, input=work, stdout=subprocess.PIPE, check=True, env=environment()
    )
    return msgspec.json.decode(done.stdout, type=Result)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{_TESTS}{os.pathsep}{_TESTS.parent}"}


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port: int = place.getsockname()[1]
        return port


@contextmanager
def process(command: list[str], folder: Path | None = None) -> Iterator["subprocess.Popen[bytes]"]:
    """A server that says when it listens, and ends when its input does."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment(), cwd=folder) as child:
        try:
            assert child.stdout is not None
            if not child.stdout.readline():
                raise RuntimeError(f"a server did not start: {' '.join(command)[:200]}")
            yield child
        finally:
            assert child.stdin is not None
            child.stdin.close()
            child.terminate()


class Contest:
    """Who takes part, and what was measured so far."""

    def __init__(self, requests: int) -> None:
        self.requests = requests
        self.contestants: dict[str, Contestant] = {}
        self.cells: dict[tuple[str, str], Cell] = {}

    def enter(
        self, contestant: Contestant, key: PrivateKey | None = None, channels: int = 0
    ) -> None:
        """`channels` customers open a channel each; their requests are signed when needed."""
        self.contestants[contestant.name] = contestant
        if key:
            shop = Shop.at(contestant.url)
            contestant.customers = [Customer(shop, key) for _ in range(channels)]
            for customer in contestant.customers:
                customer.open()

    def round(self, name: str, kind: str, requests: int | None = None) -> None:
        """One cell of one round. `kind` may end in how many connections there are."""
        contestant = self.contestants[name]
        number = requests or max(CHANNELS, int(self.requests * contestant.share))
        what, _, most = kind.partition(IN_TURN)
        connections, status = KINDS[what](contestant.customers, number, int(most or CHANNELS))
        cell = self.cells.setdefault((contestant.name, kind), Cell(f"{contestant.name}: {kind}"))
        before = {who: clock() for who, clock in contestant.clocks.items()}
        result = load(contestant.port, connections)
        sent = sum(map(len, connections))
        assert result.statuses == {str(status): sent}, (cell.name, result.statuses)
        cell.seconds.append(result.seconds)
        cell.requests.append(sent)
        for who, clock in contestant.clocks.items():
            cell.cpu_seconds.setdefault(who, []).append(clock() - before[who])
        cell.milliseconds.append(result.milliseconds)

    def rate(self, name: str, kind: str) -> float:
        return self.cells[name, kind].requests_per_second

    def cpu_us(self, name: str, kind: str, who: str = "worker") -> float:
        return self.cells[name, kind].cpu_us[who]


Load = tuple[list[list[bytes]], int]
"""The requests of each connection, and the status of every answer."""


def _alike(path: str, status: int) -> Callable[[list[Customer], int, int], Load]:
    def load_of(customers: list[Customer], number: int, most: int) -> Load:
        connections = min(IN_FLIGHT, most)
        return [[plain(path)] * max(1, number // connections) for _ in range(connections)], status

    return load_of


def _one_channel(customers: list[Customer], number: int, most: int) -> Load:
    """The totals of one channel over several connections: they arrive in any order."""
    requests = customers[0].vouchers(number)
    return [requests[at::IN_FLIGHT] for at in range(IN_FLIGHT)], 200


def _many_channels(named: bool) -> Callable[[list[Customer], int, int], Load]:
    def load_of(customers: list[Customer], number: int, most: int) -> Load:
        some = customers[:most]
        return [one.vouchers(max(1, number // len(some)), named) for one in some], 200

    return load_of


def _transfers(customers: list[Customer], number: int, most: int) -> Load:
    return [customers[0].transfers(number // IN_FLIGHT) for _ in range(IN_FLIGHT)], 200


FREE: Final = "free"
ITEM: Final = "item"
UNPAID: Final = "unpaid 402"
MANY: Final = "paid, many channels"
NAMED: Final = "paid, many channels, with ids"
ONE_CHANNEL: Final = "paid, one channel, 16 in flight"
TRANSFERS: Final = "exact, admission"
IN_TURN: Final = ", connections: "
KINDS: Final = {
    FREE: _alike("/free", 200),
    ITEM: _alike(PATH, 200),
    UNPAID: _alike(PATH, 402),
    MANY: _many_channels(named=False),
    NAMED: _many_channels(named=True),
    ONE_CHANNEL: _one_channel,
    TRANSFERS: _transfers,
}
"""What is asked of a server: (customers, requests, most connections) -> load."""
