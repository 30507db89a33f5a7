"""Refusals of one channel are told in turn, and none of them waits for nobody."""

import asyncio

import pytest

from paywall import refusal_queue
from paywall.protocol.limits import MAX_HOLDS
from paywall.refusal_queue import RefusalQueue

CHANNEL = bytes(32)
OTHER = bytes([1]) * 32


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> RefusalQueue:
    """One whose turns end by a payment that comes, and not by the time."""
    monkeypatch.setattr(refusal_queue, "TURN_SECONDS", 3600)
    return RefusalQueue()


async def waiting(queue: RefusalQueue, count: int) -> list["asyncio.Task[bool]"]:
    tasks = [asyncio.create_task(queue.wait(CHANNEL)) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


async def told(tasks: list["asyncio.Task[bool]"]) -> list[bool]:
    for _ in range(3):
        await asyncio.sleep(0)
    return [task.done() for task in tasks]


async def test_the_first_is_told_at_once_and_the_others_one_for_each_payment_that_comes(
    queue: RefusalQueue,
) -> None:
    assert await queue.wait(CHANNEL) is False
    tasks = await waiting(queue, 3)
    assert await told(tasks) == [False, False, False]
    queue.passed(CHANNEL)
    assert await told(tasks) == [True, False, False]
    queue.passed(CHANNEL)
    queue.passed(CHANNEL)
    assert await told(tasks) == [True, True, True]
    assert [await task for task in tasks] == [True, True, True]
    queue.passed(CHANNEL)
    assert await queue.wait(CHANNEL) is False, "the line is over"


async def test_other_channels_are_not_waited_for(queue: RefusalQueue) -> None:
    await queue.wait(CHANNEL)
    (task,) = await waiting(queue, 1)
    assert await queue.wait(OTHER) is False
    queue.passed(OTHER)
    assert await told([task]) == [False]
    queue.passed(CHANNEL)
    assert await task


async def test_all_are_told_when_nobody_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusal_queue, "TURN_SECONDS", 0.01)
    queue = RefusalQueue()
    await queue.wait(CHANNEL)
    assert await asyncio.gather(*(queue.wait(CHANNEL) for _ in range(5))) == [True] * 5
    assert await queue.wait(CHANNEL) is False


async def test_one_that_hangs_up_gives_its_turn_to_the_next(queue: RefusalQueue) -> None:
    await queue.wait(CHANNEL)
    first, second, third = await waiting(queue, 3)
    first.cancel()
    queue.passed(CHANNEL)  # the first one's turn is the second one's
    assert await told([second, third]) == [True, False]
    queue.passed(CHANNEL)
    third.cancel()  # its turn has come, and it will not be told any more
    await told([third])
    assert third.cancelled()
    assert await queue.wait(CHANNEL) is False, "nobody is waited for"


async def test_a_line_has_no_more_places_than_a_channel_has_requests(queue: RefusalQueue) -> None:
    await queue.wait(CHANNEL)
    tasks = await waiting(queue, MAX_HOLDS)
    assert await queue.wait(CHANNEL) is False
    for _ in range(MAX_HOLDS):
        queue.passed(CHANNEL)
    assert await asyncio.gather(*tasks) == [True] * MAX_HOLDS
