"""Waiting for a turn on a channel: in one process a queue, between processes a look now and then.

A provider takes so many requests of a channel at once, some only one; and while a deposit is on its
way, what it will pay for has to wait. Who waits is woken in the order of coming: the first one for
a place that became free, all of them after a deposit.
"""

import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final

TURN_SECONDS: Final = 0.05
"""How often the first of those who wait looks for itself, in case another process made room."""
MAX_TURN_SECONDS: Final = 2.0


@dataclass(frozen=True, eq=False)
class Turn:
    """A place in the queue of a channel: worth another look when `done`, or after `seconds`."""

    done: "Future[None]"
    seconds: float


class Wait(Exception):
    """Not now: the channel's room, or its deposit, is somebody else's."""

    def __init__(self, turn: Turn) -> None:
        super().__init__("waiting for a turn on the channel")
        self.turn = turn


class Turns:
    """The queues of one process."""

    def __init__(self) -> None:
        self._queues: dict[bytes, deque[Future[None]]] = {}
        self._lock = threading.Lock()

    def take(self, queue: bytes, before: Turn | None) -> Turn:
        """A place in the queue: the one that is held already, in front for who was called once."""
        with self._lock:
            waiting = self._queues.setdefault(queue, deque())
            while waiting and waiting[0].done():
                waiting.popleft()
            done = before.done if before else Future()
            if before is None:
                waiting.append(done)
            elif done.done():
                done = Future()
                waiting.appendleft(done)
            return Turn(done, min(TURN_SECONDS * max(1, len(waiting)), MAX_TURN_SECONDS))

    def leave(self, queue: bytes, turn: Turn) -> None:
        """Waits no more, whether it began or not; a call that it does not follow is passed on."""
        if not turn.done.cancel():
            self.pass_on(queue, everybody=False)

    def pass_on(self, queue: bytes, everybody: bool) -> None:
        """Wakes those who wait: the first for a place that became free, or all."""
        called: list[Future[None]] = []
        with self._lock:
            waiting = self._queues.get(queue)
            while waiting and (everybody or not called):
                turn = waiting.popleft()
                if turn.set_running_or_notify_cancel():
                    called.append(turn)
            if not waiting:
                self._queues.pop(queue, None)
        for turn in called:
            turn.set_result(None)
