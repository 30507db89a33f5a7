"""Sending for a claimer: rehearsed, written down, sent, waited for, recorded, crossed out.

A transaction is written down before it leaves, and its note is dropped only when the chain was read
and the store told. So whoever comes after a crash, at whatever point, takes up what it finds: it
waits for the same transaction, or learns from the chain that it can never be mined; it neither
repeats nor forgets. A holder whose lease has passed on is stopped at the writing down.
"""

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from secrets import token_hex

from paywall.alarms import (
    Board,
    ClaimFailed,
    GasTooDear,
    GasWalletEmpty,
    PoisonRow,
    TransactionStuck,
)
from paywall.chain import Mined
from paywall.chain.desk import CLAIM, RESUMED, SETTLEMENT, Aside, Deed, Desk, Errand, Setback
from paywall.chain.own import FeeTooHigh, InFlight, OwnChain, Written
from paywall.chain.sift import sift
from paywall.chain.watcher import in_turns, note_withdrawals, reread
from paywall.protocol.channel import Channel
from paywall.protocol.claims import Batch, Plan, claimable_total
from paywall.protocol.errors import OutOfGas, Reverted, TransactionPending
from paywall.protocol.money import ZERO_ADDRESS, Address
from paywall.protocol.x402 import show_address, show_bytes
from paywall.stores import Store


@dataclass(frozen=True, slots=True)
class Claimed:
    """One claim that was mined."""

    batch: Batch
    mined: Mined


@dataclass(frozen=True, slots=True)
class Settled:
    """One settlement that was mined."""

    receiver: Address
    token: Address
    amount: int
    mined: Mined


@dataclass(slots=True)
class Done:
    """What a round came to; `resumed` are transactions that an earlier one had sent."""

    plan: Plan = field(default_factory=Plan)
    claimed: list[Claimed] = field(default_factory=list)
    settled: list[Settled] = field(default_factory=list)
    resumed: list[Mined] = field(default_factory=list)


class Errands:
    """One round's transactions. Raises LeaseLost when it is over, and ChainUnavailable."""

    def __init__(
        self, store: Store, chain: OwnChain, desk: Desk, board: Board, now_ms: int
    ) -> None:
        self._store = store
        self._chain = chain
        self._desk = desk
        self._board = board
        self._now_ms = now_ms
        self.done = Done()

    async def take_up(self) -> bool:
        """Waits for every transaction whose fate is not known. Whether to go on sending."""
        errands = (await self._desk.errands()).values()
        return all([await self._guarded(self._resume(errand)) for errand in errands])

    async def claim(self, batch: Batch) -> bool:
        """Claims what the contract will take of a batch. Whether to go on sending."""
        return await self._guarded(self._claim(batch))

    async def settle(self, receiver: Address, token: Address, amount: int) -> bool:
        return await self._guarded(self._settle(receiver, token, amount))

    async def _resume(self, errand: Errand) -> None:
        in_flight = InFlight(errand.transaction, errand.data)
        written = self._written(errand.name, errand.channels)
        try:
            mined = await self._chain.resume(in_flight, written)
        except Reverted as error:  # mined, and somebody had moved a channel: the next plan sees it
            await self._set_back(error.transaction)
            mined = None
        await self._finish(errand.name, errand.channels, mined is not None)
        if mined:
            self.done.resumed.append(mined)
            await self._desk.put_deed(self._deed(RESUMED, mined, len(errand.channels)))

    async def _claim(self, batch: Batch) -> None:
        good, bad = await sift(self._chain, batch)
        await self._set_aside(bad)
        if not good.channels:
            return
        name = f"claim-{token_hex(4)}"
        ids = tuple(channel.channel_id for channel in good.channels)
        try:
            mined = await self._chain.claim(good, self._written(name, ids))
        except Reverted as error:
            await self._set_back(error.transaction)
            await self._finish(name, ids, False)
            return
        shown = await self._finish(name, ids, True)
        if any(claimable_total(row) > shown.get(row.channel_id, 0) for row in good.channels):
            return await self._set_back(mined.transaction)
        if (await self._desk.setback()).times:
            await self._desk.put_setback(Setback())
        self._board.lift(ClaimFailed, self._chain.network)
        self.done.claimed.append(Claimed(good, mined))
        config = good.channels[0].config
        deed = self._deed(
            CLAIM, mined, len(good.channels), good.amount, config.receiver, config.token
        )
        await self._desk.put_deed(deed)

    async def _settle(self, receiver: Address, token: Address, amount: int) -> None:
        name = f"settle-{token_hex(4)}"
        try:
            mined = await self._chain.settle(receiver, token, self._written(name, ()))
        except Reverted as error:
            text = f"the token will not pay {show_address(receiver)}: {error.reason}"
            self._board.ring(PoisonRow, show_address(receiver), text)
            await self._finish(name, (), True)
            return
        await self._finish(name, (), True)
        self._board.lift(PoisonRow, show_address(receiver))
        if mined:
            self.done.settled.append(Settled(receiver, token, amount, mined))
            await self._desk.put_deed(self._deed(SETTLEMENT, mined, 0, amount, receiver, token))

    def _deed(
        self,
        kind: str,
        mined: Mined,
        channels: int = 0,
        amount: int = 0,
        receiver: Address = ZERO_ADDRESS,
        token: Address = ZERO_ADDRESS,
    ) -> Deed:
        at_ms, transaction = self._now_ms, mined.transaction
        fee_wei, gas = mined.fee_wei, mined.gas
        return Deed(at_ms, kind, transaction, fee_wei, gas, channels, amount, receiver, token)

    # -- Books -----------------------------------------------------------------------------------

    def _written(self, name: str, channels: tuple[bytes, ...]) -> Written:
        async def written(in_flight: InFlight) -> None:
            errand = Errand(name, in_flight.transaction, in_flight.data, channels)
            await self._desk.put_errand(errand)

        return written

    async def _finish(
        self, name: str, channels: tuple[bytes, ...], succeeded: bool
    ) -> dict[bytes, int]:
        """Crosses an errand out; what the contract shows as claimed of its channels now."""
        shown = await self._record(channels, succeeded)
        await self._desk.drop_errand(name)
        self._board.lift(TransactionStuck, name)
        return shown

    async def _record(self, channel_ids: Sequence[bytes], succeeded: bool) -> dict[bytes, int]:
        """Tells the store what the chain says, and notes who leaves and was claimed."""
        found = await in_turns(self._reread, channel_ids)
        known = [channel for channel in found if channel]
        await note_withdrawals(self._desk, known)
        withdrawing = await self._desk.withdrawing()
        claimed = {key: self._now_ms for key in channel_ids if key in withdrawing}
        if claimed and succeeded:
            await self._desk.put_withdrawing({**withdrawing, **claimed})
        return {channel.channel_id: channel.claimed for channel in known}

    async def _reread(self, channel_id: bytes) -> Channel | None:
        known = await self._store.channel(channel_id)
        return await reread(self._store, self._chain, known) if known else None

    async def _set_aside(self, bad: Sequence[tuple[Channel, str]]) -> None:
        if not bad:
            return
        rows = {channel.channel_id: Aside.of(channel, why, self._now_ms) for channel, why in bad}
        await self._desk.put_asides({**await self._desk.asides(), **rows})
        for channel, reason in bad:
            ring_poison(self._board, channel, reason)

    # -- Trouble ---------------------------------------------------------------------------------

    async def _guarded(self, work: Awaitable[None]) -> bool:
        """Whether to go on sending. What time or the owner can help becomes an alarm."""
        wallet, network = show_address(self._chain.gas_wallet), self._chain.network
        try:
            await work
        except OutOfGas as error:
            self._board.ring(GasWalletEmpty, wallet, str(error))
        except FeeTooHigh as error:
            self._board.ring(GasTooDear, network, str(error))
        except TransactionPending as error:
            await self._ring_stuck(error)
        else:
            self._board.lift(GasWalletEmpty, wallet)
            self._board.lift(GasTooDear, network)
            return True
        return False

    async def _set_back(self, transaction: bytes | None) -> None:
        """A claim came to nothing: the owner hears of it, and it is not made in every round."""
        times = (await self._desk.setback()).times + 1
        await self._desk.put_setback(Setback(times, self._now_ms))
        named = show_bytes(transaction) if transaction else "a claim"
        text = f"{named} is said to be mined, and the contract does not show what it claims"
        self._board.ring(ClaimFailed, self._chain.network, text)

    async def _ring_stuck(self, error: TransactionPending) -> None:
        for errand in (await self._desk.errands()).values():
            if errand.transaction == error.transaction:
                self._board.ring(TransactionStuck, errand.name, str(error))


def ring_poison(board: Board, channel: Channel, reason: str) -> None:
    subject = show_bytes(channel.channel_id)
    text = f"the contract will not take the claim of {subject}: {reason or 'no reason'}"
    board.ring(PoisonRow, subject, text)
