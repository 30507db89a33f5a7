"""The rules of a store over one channel, and no store: nothing in it is ever awaited."""

from collections.abc import Awaitable, Callable, Coroutine
from typing import cast

from paywall.protocol.channel import Channel, RefusedByChannel
from paywall.protocol.errors import PaymentError, Refused
from paywall.protocol.once import AnsweredBefore, Entry
from paywall.stores import Store
from paywall.stores.rules import Rule, RuleStore, Slot

Move = Callable[[Store], Awaitable[object]]
"""One verb with its arguments, to be played to the model and to any store."""


class Model(RuleStore):
    """What every store must agree with. `clock` gives Unix seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.stored: Channel | None = None
        self.entries: dict[str, Entry] = {}

    async def _apply(self, channel_id: bytes, rule: Rule, payment_id: str = "") -> Slot:
        now_ms = int(self._clock() * 1000)
        after = rule(Slot(self.stored, self.entries.get(payment_id)), now_ms)
        self.stored = after.record
        self.entries.pop(payment_id, None)
        if after.entry:
            self.entries[payment_id] = after.entry
        return after

    async def renew(self, holds: list[tuple[bytes, str]]) -> None:
        for channel_id, request in holds:
            await self._renew(channel_id, [request])

    def play(self, move: Move) -> object:
        """What the verb returned, or the PaymentError that it raised."""
        coroutine = cast(Coroutine[object, object, object], move(cast(Store, self)))
        try:
            coroutine.send(None)
        except StopIteration as end:
            return end.value
        except PaymentError as error:
            return error
        raise AssertionError("a rule waits for nothing")


def essence(outcome: object) -> object:
    """What two stores must agree on: a value, or the kind of an error and what it says."""
    if isinstance(outcome, RefusedByChannel | Refused):
        return type(outcome), outcome.reason
    if isinstance(outcome, AnsweredBefore):
        return AnsweredBefore, outcome.answer, outcome.total
    if isinstance(outcome, Exception):
        return type(outcome)
    return outcome
