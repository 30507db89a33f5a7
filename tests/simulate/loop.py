"""Virtual time, and processes that can be killed at any step.

The loop has no sockets and never sleeps: when nothing is ready, its clock jumps to the next timer.
A *process* is a set of tasks that share a memory. One that is killed runs no step any more: no
`finally`, no `except`, as after `kill -9`. Its tasks are kept until the world ends, because a
coroutine that is collected would run its `finally` after all.
"""

import asyncio
import gc
import sys
import warnings
from asyncio.base_events import BaseEventLoop
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from heapq import heappop, heappush
from typing import Any, Final
from weakref import WeakSet

PROCESS: Final[ContextVar["Process | None"]] = ContextVar("process", default=None)


class Process:
    """Tasks that live and die together. `steps` is after how many it is killed; 0 is never."""

    def __init__(self, name: str, steps: int = 0) -> None:
        self.name = name
        self.alive = True
        self.steps = steps
        self.tasks: WeakSet[asyncio.Task[Any]] = WeakSet()
        self.on_death: dict[object, Callable[[], None]] = {}
        self._context = copy_context()
        self._context.run(PROCESS.set, self)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Runs a coroutine as a part of this process."""
        return asyncio.get_running_loop().create_task(work, context=self._context.copy())


class Handle:
    """A callback that is due: asyncio's own, less what real time and debugging need."""

    __slots__ = ("_args", "_callback", "_cancelled", "_context")

    def __init__(
        self, callback: Callable[..., Any], args: tuple[Any, ...], context: Context | None
    ) -> None:
        self._callback = callback
        self._args = args
        self._context = copy_context() if context is None else context
        self._cancelled = False

    def cancel(self) -> None:
        self._cancelled = True

    def cancelled(self) -> bool:
        return self._cancelled


class Loop(BaseEventLoop):
    """An event loop in virtual time, which starts at zero."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._timers: list[tuple[float, int, Handle | asyncio.Future[None]]] = []
        self._pushed = 0
        self._buried: list[object] = []
        self.deaths = 0
        self.steps = 0
        self.set_task_factory(self._task)

    def time(self) -> float:
        return self._now

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def call_soon(
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> Any:
        handle = Handle(callback, args, context)
        self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # there are no others

    def call_at(
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> Any:
        timer = Handle(callback, args, context)
        self._pushed += 1  # timers of one moment go in the order in which they were set
        heappush(self._timers, (when, self._pushed, timer))
        return timer

    def call_later(
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> Any:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def pause(self, seconds: float) -> asyncio.Future[None]:
        """To be awaited, as `asyncio.sleep`; who is woken takes one step for it, not two."""
        over: asyncio.Future[None] = asyncio.Future(loop=self)
        self._pushed += 1
        heappush(self._timers, (self._now + seconds, self._pushed, over))
        return over

    def _write_to_self(self) -> None:
        """Nobody waits in a selector."""

    def _task(
        self, loop: asyncio.AbstractEventLoop, work: Any, context: Context | None = None
    ) -> asyncio.Task[Any]:
        process = context.get(PROCESS) if context else PROCESS.get()
        task = asyncio.Task(work, loop=loop, name="", context=context)
        if process is not None:
            process.tasks.add(task)
        return task

    def kill(self, process: Process) -> None:
        """Ends a process here and now."""
        if not process.alive:
            return
        process.alive = False
        self.deaths += 1
        self._buried.extend(process.tasks)
        for told in list(process.on_death.values()):
            told()

    def _run_once(self) -> None:
        """All that is ready, again and again: the base class would come here for each moment."""
        ready = self._ready
        while not self._stopping:  # type: ignore[attr-defined]
            if not ready:
                self._wait()
            self._run_ready(ready)

    def _run_ready(self, ready: deque[Handle]) -> None:
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            self.steps += 1
            context = handle._context
            process = context.get(PROCESS)
            if process is not None:
                if process.alive and process.steps:
                    process.steps -= 1
                    if not process.steps:
                        self.kill(process)
                if not process.alive:
                    self._buried.append(handle)
                    continue
            try:
                context.run(handle._callback, *handle._args)
            except Exception as error:
                told = {"message": f"in a callback {handle._callback}", "exception": error}
                self.call_exception_handler(told)

    def _wait(self) -> None:
        """Jumps to the next timer, and makes ready all that are due then."""
        timers, ready = self._timers, self._ready
        while timers and timers[0][2].cancelled():
            heappop(timers)
        if not timers:
            raise RuntimeError("everybody waits for ever")
        self._now = max(self._now, timers[0][0])
        while timers and timers[0][0] <= self._now:
            due = heappop(timers)[2]
            if isinstance(due, Handle):
                ready.append(due)
            elif not due.done():
                due.set_result(None)

    def bury(self) -> None:
        """Lets go of the dead when nothing runs any more; whatever their `finally` wants, fails."""
        assert not self.is_running()
        hook, sys.unraisablehook = sys.unraisablehook, _ignore
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for task in asyncio.all_tasks(self):
                    task._log_destroy_pending = False  # type: ignore[attr-defined]
                    _close(task.get_coro())
                self._ready.clear()
                self._timers.clear()
                self._buried.clear()
                self.close()
                gc.collect()
        finally:
            sys.unraisablehook = hook


def _ignore(told: object) -> None:
    """What a dead coroutine could not do any more."""


def _close(work: Any) -> None:
    """Ends a coroutine, however often it would wait once more on its way out."""
    for _ in range(10):
        try:
            return work.close()
        except BaseException:
            continue


def empty_context() -> Context:
    """For what belongs to no process: packets on their way, blocks being made."""
    return Context()
