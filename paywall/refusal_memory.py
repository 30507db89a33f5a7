"""What was refused stays refused: its payer may pay in its place, and must not pay twice.

A refusal by totals holds for a moment: a hold ends, and the same voucher would be good. So a copy
of a refused payment that somebody on the way has made could be served beside the payment that its
payer sends instead. A refusal is therefore written down under the payment's id before it is told.
Where the copy was faster, that is what the payer is told: its payment is being served.

To be refused costs a payer nothing, so that so many are remembered of a channel in a minute and no
more; whoever is refused more often is not one that pays.
"""

from collections import Counter
from collections.abc import Callable

from paywall.protocol.channel import RefusedByChannel
from paywall.protocol.errors import Reason
from paywall.protocol.limits import REFUSALS_PER_MINUTE
from paywall.protocol.once import RefusedBefore, Ticket
from paywall.stores import Store


class RefusalMemory:
    """The refusals of one gate. `clock` gives Unix seconds."""

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._minute = 0
        self._told: Counter[bytes] = Counter()

    async def keep(self, channel_id: bytes, ticket: Ticket | None) -> None:
        """Before a refusal is told. Raises AnsweredBefore, Refused or Unavailable instead."""
        if ticket and self._may_keep(channel_id):
            await self._store.refuse(channel_id, ticket)

    async def again(
        self, channel_id: bytes, before: RefusedBefore
    ) -> RefusedByChannel | RefusedBefore:
        """The refusal of a payment that was refused before, with the channel as it is now.

        With every hold that the store has: by its clock, and not by ours, their time is over.
        """
        channel = await self._store.channel(channel_id)
        return RefusedByChannel(Reason.CUMULATIVE_MISMATCH, channel) if channel else before

    def _may_keep(self, channel_id: bytes) -> bool:
        minute = int(self._clock() // 60)
        if minute != self._minute:
            self._minute = minute
            self._told.clear()
        self._told[channel_id] += 1
        return self._told[channel_id] <= REFUSALS_PER_MINUTE
