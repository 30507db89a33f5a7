"""`exact` with real worker processes over one store: one authorization buys once, `kill -9` or not.

The chain is a file that all workers see. It counts every transfer that was ever sent.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from secrets import token_bytes, token_hex

import httpx
import pytest
from helpers.exact import PRICE, Signer, header_of
from helpers.fleet import Fleet
from helpers.redis_server import shared_server
from helpers.worker_app import digest_of

HOLD_SECONDS = 2


@pytest.fixture(params=["sqlite", "redis"])
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    """Three workers, whose slips expire while a test waits."""
    urls = {
        "sqlite": f"sqlite:///{tmp_path}/store.db",
        "redis": f"{shared_server().url}?prefix=x{token_hex(8)}",
    }
    with Fleet(tmp_path, urls[request.param], 3, hold_seconds=HOLD_SECONDS) as running:
        yield running


def transfer() -> str:
    return header_of(Signer().sign(authorization_nonce=token_bytes(32)))


async def send(fleet: Fleet, payment: str, path: str = "/once/a") -> httpx.Response:
    """By a connection of its own, so that any worker may get it."""
    async with httpx.AsyncClient(base_url=fleet.url, verify=False, timeout=30) as client:
        return await client.get(path, headers={"payment-signature": payment})


async def until_answered(fleet: Fleet, payment: str) -> httpx.Response:
    async with asyncio.timeout(30):
        while (answer := await send(fleet, payment)).status_code == 503:
            assert answer.headers["retry-after"]
            assert "payment-required" not in answer.headers, "nobody is invited to pay again"
            await asyncio.sleep(0.1)
    return answer


async def test_case_17_sent_500_times_at_once_to_several_processes_it_buys_one_answer(
    fleet: Fleet,
) -> None:
    payment, waiting = transfer(), asyncio.Semaphore(100)

    async def one() -> httpx.Response:
        async with waiting:
            return await send(fleet, payment)

    answers = await asyncio.gather(*(one() for _ in range(500)))
    statuses = Counter(answer.status_code for answer in answers)
    assert set(statuses) <= {200, 503}
    assert statuses[200] >= 1
    assert len(fleet.runs(digest_of(payment.encode()))) == 1
    assert fleet.chain.sent() == [(PRICE, 1)]
    last = await send(fleet, payment)
    bodies = {answer.content for answer in answers if answer.status_code == 200}
    assert bodies == {last.content}, "one answer, given again"


async def test_case_24_a_transfer_that_was_sent_is_never_sent_again_by_whoever_follows(
    fleet: Fleet,
) -> None:
    """Its worker is killed between sending and seeing it mined; so is the next that looks."""
    payment = transfer()
    fleet.chain.clog(True)
    request = asyncio.create_task(send(fleet, payment))
    async with asyncio.timeout(30):
        while not fleet.chain.sent():  # noqa: ASYNC110 - it happens in other processes
            await asyncio.sleep(0.01)
    (run,) = fleet.runs(digest_of(payment.encode()))
    fleet.kill(run.pid)
    with pytest.raises(httpx.TransportError):
        await request
    fleet.add()
    for _ in range(30):
        again = await send(fleet, payment)
        assert again.status_code == 503
        assert again.json()["error"] in ("settlement_pending", "payment_in_progress")
        assert "payment-required" not in again.headers
        await asyncio.sleep(0.1)
    assert fleet.chain.sent() == [(PRICE, 0)], "it was asked for, and not sent again"
    for pid in fleet.pids:
        fleet.kill(pid)
    fleet.add()
    fleet.chain.clog(False)
    answer = await until_answered(fleet, payment)
    assert answer.status_code == 200
    assert fleet.chain.sent() == [(PRICE, 1)]
    assert (await send(fleet, payment)).content == answer.content
    assert len(fleet.runs(digest_of(payment.encode()))) == 1, "the answer was kept with it"


async def test_case_26_what_was_answered_is_remembered_by_every_worker_and_after_a_restart(
    fleet: Fleet,
) -> None:
    payment = transfer()
    first = await until_answered(fleet, payment)
    for pid in fleet.pids:
        fleet.kill(pid)
    fleet.add()
    assert (await send(fleet, payment)).content == first.content
    other = await send(fleet, payment, "/once/other")
    assert (other.status_code, other.json()["error"]) == (
        402,
        "invalid_exact_evm_nonce_already_used",
    )
    assert fleet.chain.sent() == [(PRICE, 1)]
