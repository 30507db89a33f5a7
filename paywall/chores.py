"""Work that outlives the request that asked for it: shared chain calls, and tidying up."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

log = logging.getLogger("paywall.gate")

_T = TypeVar("_T")


class Chores:
    """The tasks of one gate; `close` waits for what must not be left half done."""

    def __init__(self) -> None:
        self._flights: dict[bytes, asyncio.Task[Any]] = {}
        self._behind: set[asyncio.Task[None]] = set()

    async def once(self, key: bytes, work: Coroutine[Any, Any, _T]) -> _T:
        """Lets everybody who asks for the same thing at the same time share one answer.

        Who gives up waiting does not stop the work: a deposit that was sent must be recorded.
        """
        flight: asyncio.Task[_T] | None = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = asyncio.create_task(work)
            flight.add_done_callback(lambda done: self._land(key, done))
        else:
            work.close()
        return await asyncio.shield(flight)

    def runs(self, key: bytes) -> bool:
        """Whether somebody has asked for this already and still waits."""
        return key in self._flights

    def _land(self, key: bytes, flight: asyncio.Task[Any]) -> None:
        del self._flights[key]
        if not flight.cancelled() and (error := flight.exception()):
            log.debug("a chain call failed: %s", error)  # whoever still waits is told as well

    def behind(self, work: Coroutine[Any, Any, None]) -> None:
        """Does it in the background."""
        task = asyncio.create_task(work)
        self._behind.add(task)
        task.add_done_callback(self._behind.discard)

    async def close(self) -> None:
        """What was sent to the chain is recorded before we go, and what is owed is charged."""
        while work := [*self._behind, *self._flights.values()]:
            await asyncio.gather(*work, return_exceptions=True)
