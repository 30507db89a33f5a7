"""One round of collecting: take up what was sent before, plan, claim batch by batch, settle.

The plan is `paywall.protocol.claims`, the sending `paywall.chain.errands`. Here stands what they
work on: who owes, who withdraws, what was set aside, and of what the owner must hear.
"""

from typing import Final

from paywall.alarms import Board, ClaimLate, GasTooDear, MoneyLost, PoisonRow
from paywall.chain.desk import Aside, Desk, Outlook
from paywall.chain.errands import Done, Errands
from paywall.chain.own import OwnChain
from paywall.chain.rota import Rota
from paywall.chain.watcher import in_turns, note_withdrawals, reread
from paywall.protocol import claims
from paywall.protocol.channel import Channel
from paywall.protocol.claim_policy import is_worth_settling
from paywall.protocol.claims import Assets, Batch, ClaimPolicy, Costs, Plan, Situation, Why
from paywall.protocol.money import Address
from paywall.protocol.x402 import show_address, show_bytes
from paywall.stores import Store

MAX_ALARMS: Final = 50
"""Standing alarms that are written down for people to see."""
ASIDE_MS: Final = 3_600_000
"""How long a row stays set aside that does not change."""


class Round:
    """One holder's turn. Raises LeaseLost when it is over, and Unavailable."""

    def __init__(
        self,
        store: Store,
        chain: OwnChain,
        desk: Desk,
        board: Board,
        policy: ClaimPolicy,
        assets: Assets,
        now_ms: int,
        rota: Rota,
    ) -> None:
        self._store = store
        self._rota = rota
        self._chain = chain
        self._desk = desk
        self._board = board
        self._policy = policy
        self._assets = assets
        self._now_ms = now_ms
        self._errands = Errands(store, chain, desk, board, now_ms)
        self._looked_at: list[bytes] = []

    async def run(self) -> Done:
        goes_on = await self._errands.take_up()
        plan, situation = await self.plan()
        self._errands.done.plan = plan
        if goes_on and await self._claim_all(plan):
            await self._settle_all(plan, situation)
        await self._report(plan, situation)
        await self._desk.put_outlook(self._outlook(plan, situation))
        return self._errands.done

    def _outlook(self, plan: Plan, situation: Situation) -> Outlook:
        waiting: dict[str, tuple[int, int]] = {}
        for channel in plan.waiting:
            why = plan.why[channel.channel_id].value
            count, amount = waiting.get(why, (0, 0))
            waiting[why] = count + 1, amount + channel.unclaimed
        alarms = tuple((type(a).__name__, a.subject, a.text) for a in self._board.standing)
        return Outlook(
            self._now_ms,
            situation.costs.price_wei,
            situation.swept_at_ms,
            tuple((why, *sums) for why, sums in sorted(waiting.items())),
            alarms[:MAX_ALARMS],
        )

    async def plan(self) -> tuple[Plan, Situation]:
        """What is to be done now, and what that depends on."""
        situation = await self._situation()
        return claims.plan(await self._due(), self._policy, situation), situation

    async def _claim_all(self, plan: Plan) -> bool:
        pots = await self._desk.pots()
        due = pots | {_pot(channel) for batch in plan.batches for channel in batch.channels}
        if due != pots:
            await self._desk.put_pots(due)  # first: who settles may be another process
        for batch in plan.batches:
            if await self._waits(batch, plan):
                continue
            if not await self._errands.claim(batch):
                return False
        return True

    async def _waits(self, batch: Batch, plan: Plan) -> bool:
        """Whether so many claims were mined for nothing that the next one waits: each costs gas."""
        leaves = any(plan.why[row.channel_id] is Why.WITHDRAWAL for row in batch.channels)
        return self._now_ms < (await self._desk.setback()).ends_at_ms(leaves)

    async def _settle_all(self, plan: Plan, situation: Situation) -> None:
        """What was claimed goes to its receivers, where that is worth its fee, or long overdue."""
        swept = Why.AGE in plan.why.values()
        for receiver, token in sorted(await self._desk.pots()):
            amount = await self._chain.to_settle(receiver, token)
            terms = situation.terms(self._policy, self._chain.network, token)
            if not is_worth_settling(amount, situation.costs, terms, swept):
                continue
            if not await self._errands.settle(receiver, token, amount):
                return
        if swept:
            await self._desk.put_swept_at_ms(self._now_ms)

    # -- What there is to do ---------------------------------------------------------------------

    async def _situation(self) -> Situation:
        swept = await self._desk.swept_at_ms()
        if swept is None:
            await self._desk.put_swept_at_ms(self._now_ms)
        costs = Costs(await self._chain.gas_price_wei())
        withdrawing = await self._desk.withdrawing()
        return Situation(self._now_ms, costs, swept, withdrawing, self._assets)

    async def _due(self) -> list[Channel]:
        """Who owes, and who withdraws, less what is under way or set aside."""
        owing = await self._rota.owing()
        for channel_id in await self._desk.withdrawing():
            if channel := await self._store.channel(channel_id):
                owing[channel_id] = channel
        sent = {key for errand in (await self._desk.errands()).values() for key in errand.channels}
        mine = [c for c in owing.values() if self._is_mine(c) and c.channel_id not in sent]
        self._looked_at = [channel.channel_id for channel in mine]
        return await self._without_asides(await self._refreshed(mine))

    def _is_mine(self, channel: Channel) -> bool:
        return (
            channel.network == self._chain.network
            and channel.config.receiver_authorizer == self._chain.receiver_authorizer
        )

    async def _refreshed(self, channels: list[Channel]) -> list[Channel]:
        """With readings that are not too old, in case the log hides something."""

        async def fresh(channel: Channel) -> Channel | None:
            if self._now_ms < channel.stale_at_ms():
                return channel
            return await reread(self._store, self._chain, channel)

        found = await in_turns(fresh, channels)
        known = [channel for channel in found if channel]
        await note_withdrawals(self._desk, known)
        return known

    async def _without_asides(self, channels: list[Channel]) -> list[Channel]:
        """Less the rows that were set aside; what may be lost soon is tried again every time."""
        asides = await self._desk.asides()
        kept: dict[bytes, Aside] = {}
        for channel in channels:
            aside = asides.get(channel.channel_id)
            if aside and aside.is_about(channel) and self._still_counts(aside, channel):
                kept[channel.channel_id] = aside
                text = f"set aside: {show_bytes(channel.channel_id)}: {aside.reason}"
                self._board.ring(PoisonRow, show_bytes(channel.channel_id), text)
        for channel_id in asides.keys() - kept.keys():
            self._board.lift(PoisonRow, show_bytes(channel_id))
        if kept != asides:
            await self._desk.put_asides(kept)
        pressing = {c.channel_id for c in channels if c.chain.withdraw_requested_at}
        return [c for c in channels if c.channel_id not in kept.keys() - pressing]

    def _still_counts(self, aside: Aside, channel: Channel) -> bool:
        return channel.unclaimed > 0 and self._now_ms - aside.at_ms < ASIDE_MS

    # -- What the owner must hear ----------------------------------------------------------------

    async def _report(self, plan: Plan, situation: Situation) -> None:
        for risk in plan.risks:
            self._judge_waiting(risk.receiver, risk.token, plan, situation)
        late, lost = set(), set()
        for channel_id in dict.fromkeys([*self._looked_at, *await self._desk.withdrawing()]):
            channel = await self._store.channel(channel_id)
            name = show_bytes(channel_id)
            if channel and self._is_late(channel):
                late.add(name)
                text = f"{channel.unclaimed} units of {name} are not claimed, and time runs out"
                self._board.ring(ClaimLate, name, text)
            if channel and claims.claimable_total(channel) < channel.charged:
                lost.add(name)
                short = channel.charged - claims.claimable_total(channel)
                self._board.ring(MoneyLost, name, f"{name} cannot pay {short} units that it owes")
        self._board.lift_all_but(ClaimLate, late)
        self._board.lift_all_but(MoneyLost, lost)

    def _judge_waiting(
        self, receiver: Address, token: Address, plan: Plan, situation: Situation
    ) -> None:
        """Rings when half of what may be at risk waits for cheaper gas."""
        dear = [c for c in plan.waiting if plan.why[c.channel_id] is Why.DEAR]
        amount = sum(c.unclaimed for c in dear if _pot(c) == (receiver, token))
        terms = situation.terms(self._policy, self._chain.network, token)
        subject = show_address(receiver)
        if terms and 2 * amount > terms.max_at_risk:
            text = f"{amount} units for {subject} wait for cheaper gas on {self._chain.network}"
            self._board.ring(GasTooDear, subject, text)
        else:
            self._board.lift(GasTooDear, subject)

    def _is_late(self, channel: Channel) -> bool:
        closing_at_ms = channel.closing_at_ms()
        owes = claims.claimable_total(channel) > channel.claimed
        return closing_at_ms is not None and self._now_ms >= closing_at_ms and owes


def _pot(channel: Channel) -> tuple[Address, Address]:
    return channel.config.receiver, channel.config.token
