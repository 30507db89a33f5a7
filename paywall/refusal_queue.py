"""Turns: the refused payments of one channel are corrected one after the other.

A client that pays one request at a time signs the same total under each of many that it sends at
once. One is admitted; the others are refused with a corrective 402, and each tries once more. Told
all at once, they would sign the same total again. Told in turn, each is shown what the one before
it has promised meanwhile, and all are answered:

    refused -- its turn -- told (402) -- comes again and is admitted -- the next one's turn

A turn ends when a payment of the channel is admitted, or after TURN_SECONDS: then nobody is coming
back, and all who wait are told at once. So a refusal waits only behind another of the same channel.
It knows nothing of vouchers or of HTTP, and of no other worker's turns.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field

from paywall.protocol.limits import MAX_HOLDS, TURN_SECONDS


@dataclass
class _Line:
    """Who waits for a turn, and when the present one is over."""

    timer: asyncio.TimerHandle
    waiting: deque["asyncio.Future[None]"] = field(default_factory=deque)


class RefusalQueue:
    """The lines of one gate, each as long as somebody was refused and is expected back."""

    def __init__(self) -> None:
        self._lines: dict[bytes, _Line] = {}

    async def wait(self, channel_id: bytes) -> bool:
        """Waits until this refusal may be told; whether it had to, and may be out of date."""
        line = self._lines.get(channel_id)
        if line is None:
            self._lines[channel_id] = _Line(self._timer(channel_id))
            return False
        if len(line.waiting) >= MAX_HOLDS:
            return False
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # its turn had come: it is the next one's
                self.passed(channel_id)
            raise
        return True

    def passed(self, channel_id: bytes) -> None:
        """A payment of the channel was admitted: the next refusal may be told."""
        line = self._lines.get(channel_id)
        if line is None:
            return
        line.timer.cancel()
        while line.waiting:
            turn = line.waiting.popleft()
            if not turn.done():
                line.timer = self._timer(channel_id)
                return turn.set_result(None)
        del self._lines[channel_id]

    def _timer(self, channel_id: bytes) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(TURN_SECONDS, self._give_up, channel_id)

    def _give_up(self, channel_id: bytes) -> None:
        for turn in self._lines.pop(channel_id).waiting:
            if not turn.done():
                turn.set_result(None)
