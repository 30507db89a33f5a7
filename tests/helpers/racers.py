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
from paywall.protocol.errors import Reason, Refused
from paywall.protocol.once import AnsweredBefore, Ticket
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


def ticket(number: int) -> Ticket:
    return Ticket(f"payment-{number:08}", number.to_bytes(32, "big"))


def race_with_payments(pipe: Connection, path: str, name: str, payments: int) -> None:
    """Sends every payment until it is answered; reports how many it ran, and all answers."""

    async def send(store: SqliteStore, number: int) -> tuple[bool, bytes]:
        request, answer = f"{name}-{number}", f"answered by {name}".encode()
        while True:
            try:
                await store.reserve(CHANNEL_ID, voucher(number), 1, request, ticket(number))
            except AnsweredBefore as before:
                return False, before.answer
            except Refused as refused:
                if refused.reason is not Reason.PAYMENT_IN_PROGRESS:
                    raise
                continue
            await store.charge(CHANNEL_ID, request, 1, ticket(number), answer)
            return True, answer

    async def race() -> tuple[int, dict[int, bytes]]:
        store = SqliteStore(path, clock=lambda: NOW)
        await store.open()
        pipe.send("ready")
        pipe.recv()
        outcomes: dict[int, tuple[bool, bytes]] = {}
        for start in range(1, payments, 8):
            numbers = range(start, start + 8)
            sent = await asyncio.gather(*(send(store, number) for number in numbers))
            outcomes |= dict(zip(numbers, sent, strict=True))
        await store.close()
        answers = {number: answer for number, (_, answer) in outcomes.items()}
        return sum(ran for ran, _ in outcomes.values()), answers

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
