"""Slips of payments in the store: taken in hand, moved on stage by stage, and laid down again.

Each step reads, decides by the pure rules of `paywall.protocol.slip`, and swaps; whoever is faster
wins, and the other decides again on what it finds. Steps that nothing waits for are made in the
background when the store is down. This module does not know the chain.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from paywall.admission import ExactAdmission
from paywall.chores import Chores
from paywall.mirror import PAUSES_SECONDS
from paywall.protocol import slip
from paywall.protocol.errors import HoldLost, Unavailable
from paywall.protocol.limits import SLIP_MARGIN_SECONDS
from paywall.protocol.slip import Slip
from paywall.stores import Found, Store
from paywall.stores.slips import slips_of

log = logging.getLogger("paywall.gate")

Change = Callable[[Slip], Slip | None]
"""The next stage, or None to forget the payment."""

LAID_DOWN: Final = ""
"""In place of a request: nobody has the payment in hand."""
_MARGIN_MS: Final = SLIP_MARGIN_SECONDS * 1000


class SlipBook:
    """The slips of one provider."""

    def __init__(self, store: Store, chores: Chores) -> None:
        self._slips = slips_of(store)
        self._chores = chores

    async def find(self, admission: ExactAdmission) -> Found:
        return await self._slips.read(admission.key)

    async def claim(self, admission: ExactAdmission, fingerprint: bytes, found: Found) -> Slip:
        """The payment's slip in the hands of this request, or the answer that it was given.

        Raises Refused for one in other hands, or that is over; or Unavailable.
        """
        before, now_ms = found
        while True:
            mine = slip.claim(slip.decode(before), fingerprint, admission.request, now_ms)
            if mine.stage == slip.ANSWERED:
                return mine
            after, ttl_ms = slip.encode(mine), ttl_of(admission, now_ms)
            try:
                before, now_ms = await self._slips.swap(admission.key, before, after, ttl_ms)
            except (Unavailable, asyncio.CancelledError):  # perhaps it was written all the same
                self.let_go(admission)
                raise
            if before == after:
                return mine

    async def step(
        self, admission: ExactAdmission, change: Change, holder: str | None = None
    ) -> Slip | None:
        """Writes the next stage of a payment that this request (or `holder`) has in hand.

        Raises HoldLost when somebody else has it or it is over, and Unavailable.
        """
        request = admission.request if holder is None else holder
        before, now_ms = await self._slips.read(admission.key)
        while True:
            held = slip.held(slip.decode(before), request)
            mine = change(held)
            if mine and mine.request:
                mine = slip.renewed(mine, now_ms)
            after, ttl_ms = slip.encode(mine) if mine else None, ttl_of(admission, now_ms)
            line = b""
            if mine and not held.transaction and mine.transaction:
                line = admission.line(mine.transaction)
            before, now_ms = await self._slips.swap(admission.key, before, after, ttl_ms, line)
            if before == after:
                return mine

    async def advance(
        self, admission: ExactAdmission, change: Callable[[Slip], Slip], holder: str | None = None
    ) -> Slip:
        """A step to a stage that is remembered. Raises as `step` does."""
        after = await self.step(admission, change, holder)
        assert after is not None
        return after

    async def conclude(
        self, admission: ExactAdmission, change: Change, holder: str | None = None
    ) -> None:
        """A step that nothing waits for. A slip that is in other hands by now is left to them."""
        try:
            with suppress(HoldLost):
                await self.step(admission, change, holder)
        except Unavailable:
            self._chores.behind(self._insist(admission, change, holder))

    def let_go(self, admission: ExactAdmission) -> None:
        """In the background: forgotten when nothing was sent, else good for going on."""
        self._chores.behind(self.conclude(admission, let_go))

    async def _insist(self, admission: ExactAdmission, change: Change, holder: str | None) -> None:
        for pause_seconds in PAUSES_SECONDS:
            await asyncio.sleep(pause_seconds)
            try:
                await self.step(admission, change, holder)
                return
            except HoldLost:
                return
            except Unavailable:
                continue
        log.warning("a payment's slip is left to expire: the store does not answer")


def let_go(mine: Slip) -> Slip | None:
    """Out of hand: forgotten when nothing was sent, else good for going on."""
    return None if mine.stage == slip.RUNNING else slip.laid_down(mine)


def ttl_of(admission: ExactAdmission, now_ms: int) -> int:
    """A payment is remembered for as long as it is valid, and a while longer."""
    expires_ms = admission.payment.authorization.valid_before * 1000
    return max(0, expires_ms - now_ms) + _MARGIN_MS
