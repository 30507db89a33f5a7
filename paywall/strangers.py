"""What strangers may cost us in readings of the chain.

Anybody can sign a voucher under a channel of its own invention, or a transfer of funds that it does
not have, and only the chain can tell. So such readings are bounded for each worker, and an answer
of "not there" holds for a moment. A channel that the store knows never comes here, nor does who has
made a transfer: strangers cannot slow them down. That a new customer may have to wait while
strangers knock is the price.
"""

from collections import OrderedDict
from collections.abc import Callable

from paywall.protocol.errors import Reason, Refused
from paywall.protocol.limits import (
    MAX_STRANGERS,
    STRANGER_READS_AT_ONCE,
    STRANGER_READS_PER_SECOND,
    STRANGER_SECONDS,
)
from paywall.throttle import Throttle


class Strangers:
    """The channels that were not found lately, and how many may be looked for."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._throttle = Throttle(STRANGER_READS_PER_SECOND, STRANGER_READS_AT_ONCE, clock)
        self._absent: OrderedDict[bytes, float] = OrderedDict()

    def look_for(self, channel_id: bytes) -> None:
        """Raises Refused unless the chain may be asked for it now."""
        if self._clock() < self._absent.get(channel_id, 0.0):
            raise Refused(Reason.CHANNEL_NOT_FOUND)
        self.knock()

    def knock(self, reason: Reason = Reason.TOO_MANY_STRANGERS) -> None:
        """Raises Refused unless the chain may be asked something for a stranger now."""
        if self._throttle.wait_seconds(""):
            raise Refused(reason)

    def absent(self, channel_id: bytes) -> None:
        self._absent[channel_id] = self._clock() + STRANGER_SECONDS
        self._absent.move_to_end(channel_id)
        if len(self._absent) > MAX_STRANGERS:
            self._absent.popitem(last=False)

    def present(self, channel_id: bytes) -> None:
        self._absent.pop(channel_id, None)
