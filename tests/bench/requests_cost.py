"""What a paid request costs in a worker, from socket to socket: uvicorn, the paywall, the store.

Payments are signed beforehand, and sent over raw connections, so that the client is no part of what
is measured. The same app's free route is the comparison.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from urllib.parse import urlsplit

from helpers.channels import TERMS, config
from helpers.fleet import Fleet
from helpers.provider import Agent
from helpers.redis_server import running
from helpers.worker_app import PRICE
from msgspec import Raw

from bench.cells import Cell, Clock, cpu_of, measure
from bench.redis_cost import Findings, _redis_cpu
from paywall.protocol import once
from paywall.protocol.schemes import batch
from paywall.protocol.x402 import VERSION, PaymentPayload, encode_header, encode_json

CONNECTIONS: Final = 32
"""Each is a payer with a channel of its own."""


class Connection:
    """A payer with a connection that it keeps."""

    def __init__(self, fleet: Fleet, number: int) -> None:
        self._agent = Agent(config(number))
        parts = urlsplit(fleet.url)
        self._place = parts.hostname, parts.port
        self._total = 0
        fleet.chain.fund(self._agent.channel_id, 10**9)

    async def open(self) -> None:
        self._reader, self._writer = await asyncio.open_connection(*self._place)

    def close(self) -> None:
        self._writer.close()

    def paid(self, requests: int, named: bool) -> list[bytes]:
        """So many requests with a payment each."""
        return [
            _request("/item/a", f"payment-signature: {self._payment(named)}\r\n")
            for _ in range(requests)
        ]

    def _payment(self, named: bool) -> str:
        self._total += PRICE
        agent = self._agent
        wire, signed = batch.config_wire(agent.config), agent.sign(self._total)
        name = once.with_id(f"payment-{self._total:012}")
        return encode_header(
            PaymentPayload(
                x402_version=VERSION,
                accepted=Raw(encode_json(TERMS.offer(PRICE).requirements)),
                payload=batch.voucher_payload(wire, agent.channel_id, signed),
                extensions={once.EXTENSION: name} if named else {},
            )
        )

    async def send(self, requests: list[bytes]) -> None:
        """One after the other; each must be answered well."""
        for request in requests:
            self._writer.write(request)
            head = await self._reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]
            await self._reader.readexactly(int(length))


def _request(path: str, headers: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: bench\r\n{headers}\r\n".encode()


@contextmanager
def _fleets(folder: Path) -> Iterator[dict[str, tuple[Fleet, dict[str, Clock]]]]:
    """A worker over each store, and whose processor time counts."""
    with running(fsync="everysec") as server:
        redis_folder, sqlite_folder = folder / "redis", folder / "sqlite"
        redis_folder.mkdir()
        sqlite_folder.mkdir()
        with (
            Fleet(redis_folder, server.url, 1) as by_redis,
            Fleet(sqlite_folder, f"sqlite:///{sqlite_folder}/store.db", 1) as by_sqlite,
        ):
            yield {
                "redis": (
                    by_redis,
                    {"worker": cpu_of(by_redis.pids[0]), "redis": _redis_cpu(server)},
                ),
                "sqlite": (by_sqlite, {"worker": cpu_of(by_sqlite.pids[0])}),
            }


async def whole_requests(found: Findings, requests: int, rounds: int) -> None:
    """Free and paid requests over each store, taking turns."""
    each = requests // CONNECTIONS
    with TemporaryDirectory(prefix="paywall-bench-") as name, _fleets(Path(name)) as fleets:
        cells: dict[tuple[str, str], Cell] = {}
        crowds = {
            store: [Connection(fleet, n) for n in range(CONNECTIONS)]
            for store, (fleet, _) in fleets.items()
        }
        for crowd in crowds.values():
            await _open(crowd)
            await _send(crowd, [one.paid(2, True) for one in crowd])  # opens the channels
            _close(crowd)
        for _ in range(rounds):
            for store, (_, clocks) in fleets.items():
                for kind in ("free", "paid", "paid, with an id"):
                    cell = cells.setdefault((store, kind), Cell(f"{store}: {kind}"))
                    await _round(cell, clocks, crowds[store], each)
    found.cells += cells.values()
    for store in fleets:
        paid, free = cells[store, "paid, with an id"], cells[store, "free"]
        extra = paid.cpu_us["worker"] - free.cpu_us["worker"]
        found.figures[f"worker_us_of_paying_{store}"] = round(extra, 1)


async def _round(cell: Cell, clocks: dict[str, Clock], crowd: list[Connection], each: int) -> None:
    kind = cell.name.partition(": ")[2]
    if kind == "free":
        work = [[_request("/free")] * each for _ in crowd]
    else:
        work = [one.paid(each, kind != "paid") for one in crowd]
    await _open(crowd)  # each time: a server closes connections on which nothing happens
    await measure(cell, clocks, each * len(crowd), lambda: _send(crowd, work))
    _close(crowd)


async def _open(crowd: list[Connection]) -> None:
    await asyncio.gather(*(one.open() for one in crowd))


def _close(crowd: list[Connection]) -> None:
    for one in crowd:
        one.close()


async def _send(crowd: list[Connection], work: list[list[bytes]]) -> None:
    await asyncio.gather(*(one.send(requests) for one, requests in zip(crowd, work, strict=True)))


def today() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
