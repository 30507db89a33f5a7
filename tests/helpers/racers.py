"""What other processes do to a store file: race for it, or die while they use it."""

import asyncio
import os
import signal
from collections.abc import Coroutine
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from helpers.channels import CHANNEL_ID, NOW, voucher
from paywall.protocol.channel import RefusedByChannel
from paywall.stores.sqlite import SqliteStore


def spawn(work: object, *arguments: object) -> tuple[BaseProcess, Connection]:
    """Starts `work(connection, *arguments)` in a fresh interpreter."""
    spawning = get_context("spawn")
    ours, theirs = spawning.Pipe()
    process = spawning.Process(target=work, args=(theirs, *arguments))  # type: ignore[arg-type]
    process.start()
    theirs.close()
    return process, ours


def race_for_vouchers(pipe: Connection, path: str, name: str, amounts: int) -> None:
    """Tries every amount, many at once, and reports those that it was granted and charged."""

    async def attempt(store: SqliteStore, amount: int) -> int:
        try:
            await store.reserve(CHANNEL_ID, voucher(amount), 1, f"{name}-{amount}")
        except RefusedByChannel:
            return 0
        await store.charge(CHANNEL_ID, f"{name}-{amount}", 1)
        return amount

    async def race() -> list[int]:
        store = SqliteStore(path, clock=lambda: NOW)
        await store.open()
        pipe.send("ready")
        pipe.recv()
        granted: list[int] = []
        for start in range(1, amounts, 8):
            attempts = (attempt(store, amount) for amount in range(start, start + 8))
            granted += [amount for amount in await asyncio.gather(*attempts) if amount]
        await store.close()
        return granted

    _report(pipe, race())


def reserve_and_die(pipe: Connection, path: str, amount: int) -> None:
    """Killed by the kernel the moment that `reserve` has returned."""

    async def reserve() -> None:
        store = SqliteStore(path, clock=lambda: NOW)
        await store.open()
        await store.reserve(CHANNEL_ID, voucher(amount), 7, "doomed")
        os.kill(os.getpid(), signal.SIGKILL)

    _report(pipe, reserve())


def _report(pipe: Connection, work: Coroutine[object, object, object]) -> None:
    pipe.send(asyncio.run(work))
    pipe.close()
