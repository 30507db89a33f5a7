"""How a transfer of `exact` is settled: sent once, and from then on the chain is only asked.

    sent -- mined --> its transaction
         -- refused by the token --> refused for good, the answer withheld
         -- nobody saw the end --> pending: its client comes again, and finds what became of it

That it is sent is written down before it leaves (`paywall.slipbook`), so that no worker sends it a
second time, whatever happens to this one. When nobody saw it mined in time the answer is kept, the
client is told to come again with the same payment, and meanwhile the chain is asked for a while. A
payer whose transfer was seen is a customer from then on.

Source: exact EVM specification, "Phase 3".
"""

import asyncio
import logging
from contextlib import suppress

from paywall.admission import ExactAdmission
from paywall.chain import Chain, Mined
from paywall.chores import Chores
from paywall.customers import Customers
from paywall.mirror import PAUSES_SECONDS
from paywall.protocol import slip
from paywall.protocol.errors import HoldLost, Reason, Refused, TransactionPending, Unavailable
from paywall.protocol.slip import Slip
from paywall.slipbook import LAID_DOWN, SlipBook

log = logging.getLogger("paywall.gate")


class Settlements:
    """The settlements of one provider."""

    def __init__(self, slips: SlipBook, chain: Chain, chores: Chores, customers: Customers) -> None:
        self._slips = slips
        self._chain = chain
        self._chores = chores
        self._customers = customers

    async def settle(self, admission: ExactAdmission, answer: bytes) -> bytes:
        """Makes the transfer and returns its transaction.

        Raises Refused when the token will not take it, or nobody saw it mined in time; HoldLost;
        or Unavailable: then nothing was sent.
        """
        try:
            await self._slips.advance(admission, lambda mine: slip.sent(mine, answer))
            mined = await self._chores.once(b"exact" + admission.key, self._transfer(admission))
        except Refused as refusal:
            reason = refusal.reason
            log.warning("an answer is withheld, its transfer failed: %s", refusal)
            await self._slips.conclude(admission, lambda mine: slip.failed(mine, reason))
            raise
        except TransactionPending as pending:
            log.warning("an answer is withheld, its transfer is pending: %s", pending)
            await self._slips.conclude(admission, slip.laid_down)
            self._chores.behind(self._reconcile(admission))
            raise Refused(Reason.SETTLEMENT_PENDING) from pending
        except Unavailable:
            await self._slips.conclude(admission, slip.unsent)
            raise
        self._chores.behind(self._remember(admission))
        return mined.transaction

    async def _transfer(self, admission: ExactAdmission) -> Mined:
        """Sends it, also if nobody waits for it any more."""
        payment = admission.payment
        told, token = payment.authorization, payment.token
        mined = await self._chain.transfer_with_authorization(told, payment.signature, token)
        if mined is None:
            raise Refused(Reason.EXACT_USED)
        return mined

    async def _remember(self, admission: ExactAdmission) -> None:
        """Its payer is a customer from now on; where the store is down, from the next time on."""
        with suppress(Unavailable):
            await self._customers.remember(admission.payer)

    async def found_out(self, admission: ExactAdmission, holder: str | None = None) -> Slip:
        """What became of a transfer that was sent before. Raises Refused, also while it is open."""
        payment = admission.payment
        try:
            mined = await self._chain.transferred(payment.authorization, payment.token)
        except Refused as refusal:
            reason = refusal.reason
            await self._slips.conclude(admission, lambda mine: slip.failed(mine, reason), holder)
            raise
        if mined is None:
            raise Refused(Reason.SETTLEMENT_PENDING)
        self._chores.behind(self._remember(admission))
        transaction = mined.transaction
        return await self._slips.advance(
            admission, lambda mine: slip.mined(mine, transaction), holder
        )

    async def _reconcile(self, admission: ExactAdmission) -> None:
        """Looks a while for a transfer that nobody waits for, so that a client finds it settled."""
        for pause_seconds in PAUSES_SECONDS:
            await asyncio.sleep(pause_seconds)
            try:
                await self.found_out(admission, LAID_DOWN)
                return
            except HoldLost:  # the client has come again, and looks for itself
                return
            except Refused as refusal:
                if refusal.reason is not Reason.SETTLEMENT_PENDING:
                    return
            except Unavailable:
                continue
