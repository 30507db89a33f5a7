"""The store's server, which forgets under some faults, and a worker's way to it.

The server is the memory store with the product's rules; around it stands a log of what each write
has replaced. A fail-over takes back the newest entries of that log, as a replica that lagged has
not got them; a flush takes everything. Every verb travels: it may be refused on the way, or carried
out and its reply lost, and is then repeated, as a real client repeats it.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from functools import wraps
from typing import Any, Final, TypeVar

from paywall.protocol.channel import Channel
from paywall.protocol.errors import StoreUnavailable
from paywall.protocol.ledger import Row
from paywall.stores.memory import MemoryStore
from paywall.stores.rules import Rule, RuleStore, Slot
from simulate.book import Asked, Op
from simulate.faults import Faults
from simulate.loop import Loop
from simulate.oracle import Oracle

T = TypeVar("T")

CALL: Final[ContextVar[Asked | None]] = ContextVar("call", default=None)
"""For which sending of which payment this task works."""
ATTEMPTS: Final = 3
LOG_SECONDS: Final = 5.0


class Server:
    """The records of one provider. `clock` is the server's own, in Unix seconds."""

    def __init__(self, host: str, oracle: Oracle, loop: Loop, clock: Callable[[], float]) -> None:
        self._host = host
        self.loop = loop
        self.memory = MemoryStore(clock)
        self._oracle = oracle
        self._clock = clock
        self._log: deque[tuple[float, Callable[[], None]]] = deque()
        self.down_until = 0.0
        self.loss = 0

    async def apply(self, op: Op, channel_id: bytes, rule: Rule, payment_id: str) -> Slot:
        """One verb, whole. It does not wait, so nothing comes between."""
        records, entries, key = (
            self.memory._records,
            self.memory._entries,
            (channel_id, payment_id),
        )
        before, entry = records.get(channel_id), entries.get(key)
        written = self.memory._written
        slot = await self.memory._apply(channel_id, rule, payment_id)
        after = records.get(channel_id)
        undone: Callable[[], None] | None = None
        if after is not None and (after is not before or op.verb in ("charge", "reserve")):
            now_ms = int(self._clock() * 1000)
            undone = self._oracle.applied(op, channel_id, before, after, now_ms)
        if after is not before or entries.get(key) is not entry:
            self._keep(key, before, entry, undone, written)
        return slot

    def _keep(
        self,
        key: tuple[bytes, str],
        before: Channel | None,
        entry: object,
        undone: Callable[[], None] | None,
        written: int,
    ) -> None:
        def undo() -> None:
            _restore(self.memory._records, key[0], before)
            _restore(self.memory._entries, key, entry)
            if self.memory._written > written:
                self.memory._lines.pop(self.memory._written, None)
                self.memory._written -= 1
            if undone:
                undone()

        now = self.loop.time()
        self._log.append((now, undo))
        while self._log[0][0] < now - LOG_SECONDS:
            self._log.popleft()

    def fail_over(self, lag_seconds: float) -> int:
        """Another server takes over, which has not heard the last so many seconds."""
        self._oracle.forgetful.add(self._host)
        since = self.loop.time() - lag_seconds
        lost = 0
        while self._log and self._log[-1][0] > since:
            self._log.pop()[1]()
            lost += 1
        return lost

    def flush(self) -> None:
        """Everything is gone."""
        self._oracle.forgetful.add(self._host)
        self._log.clear()
        for channel_id in list(self.memory._records):
            self._oracle.flushed(channel_id)
        self.memory._records.clear()
        self.memory._entries.clear()
        self.memory._lines.clear()


def _restore(table: dict, key: object, value: object) -> None:  # type: ignore[type-arg]
    if value is None:
        table.pop(key, None)
    else:
        table[key] = value


def _told(verb: Callable[..., Awaitable[T]], op: Callable[..., Op]) -> Callable[..., Awaitable[T]]:
    """A verb that tells the server what it is, by its arguments after the channel."""

    @wraps(verb)
    async def telling(link: "StoreLink", channel_id: bytes, *told: Any, **named: Any) -> T:
        link._op = op(*told, **named)
        return await verb(link, channel_id, *told, **named)

    return telling


class StoreLink(RuleStore):
    """One worker's connection."""

    def __init__(self, server: Server, faults: Faults) -> None:
        self._server = server
        self._loop = server.loop
        self._pause = server.loop.pause
        self._faults = faults
        self._op = Op("read")

    async def open(self) -> None:
        """It is there."""

    async def close(self) -> None:
        """It stays."""

    async def channels(self, after: bytes = b"", limit: int = 1000) -> list[Channel]:
        await self._trip()
        return await self._server.memory.channels(after, limit)

    async def claimable(self, limit: int = 1000) -> list[Channel]:
        await self._trip()
        return await self._server.memory.claimable(limit)

    async def ledger(self, after: str, until_ms: int, limit: int = 1000) -> list[Row]:
        await self._trip()
        return await self._server.memory.ledger(after, until_ms, limit)

    async def trim_ledger(self, through: str) -> int:
        await self._trip()
        return await self._server.memory.trim_ledger(through)

    async def _trip(self) -> None:
        await self._pause(self._faults.delay("store"))
        down = self._loop.time() < self._server.down_until
        if down or self._faults.strikes("store refuses"):
            raise StoreUnavailable("the store is not reached")

    async def _apply(self, channel_id: bytes, rule: Rule, payment_id: str = "") -> Slot:
        op, self._op = self._op, Op("read")
        for _ in range(ATTEMPTS):
            await self._trip()
            try:
                slot = await self._server.apply(op, channel_id, rule, payment_id)
            except Exception:
                await self._pause(self._faults.delay("store"))
                raise
            await self._pause(self._faults.delay("store"))
            if not self._faults.strikes("store reply lost"):
                return slot
        raise StoreUnavailable("no reply of the store arrives")

    # -- The verbs, with what the oracle must know of each ---------------------------------------

    reserve = _told(
        RuleStore.reserve,
        lambda voucher, price, request, ticket=None: Op(
            "reserve", request, voucher.amount, price, CALL.get()
        ),
    )
    charge = _told(RuleStore.charge, lambda request, amount, *rest: Op("charge", request, amount))
    release = _told(RuleStore.release, lambda request, ticket=None: Op("release", request))
    _renew = _told(RuleStore._renew, lambda requests: Op("renew"))
    record = _told(
        RuleStore.record,
        lambda network, config, chain, evidence, proof=None: Op("record", amount=evidence),
    )
    begin_refund = _told(
        RuleStore.begin_refund,
        lambda voucher, amount, request: Op("begin refund", request, amount or 0),
    )
    end_refund = _told(RuleStore.end_refund, lambda request, chain: Op("end refund", request))
