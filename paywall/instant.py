"""Serving a first request before its deposit is mined, up to a total that the owner allows.

A deposit whose authorization is signed and unused, and whose payer has the money, is as good as
mined, most of the time. The first request of a channel may then run at once. All that it can cost
us is its price: the store's record says for now that this is all the channel holds, so nothing
else passes until the chain confirms the rest. The price is booked first
(`paywall.protocol.exposure`), in the store, for all workers together:

    booked -- recorded on trust -- reserved -- handler | deposit
        mined                                        taken off
        failed before the answer left                the answer is withheld; taken off
        failed after that                            lost: an alarm, and it stays counted

An entry whose worker has died is looked after by any other, which asks the chain.
"""

from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from paywall.alarms import Board, DepositLost
from paywall.chain import Chain
from paywall.mirror import Mirror
from paywall.protocol import exposure
from paywall.protocol.channel import ChainState, Channel
from paywall.protocol.eip712 import keccak
from paywall.protocol.exposure import Bet, Exposure
from paywall.protocol.limits import (
    BET_LOOK_SECONDS,
    MAX_AUTHORIZATION_SECONDS,
    SLIP_MARGIN_SECONDS,
)
from paywall.protocol.money import Asset
from paywall.protocol.schemes.batch import DepositPayment
from paywall.protocol.x402 import show_bytes
from paywall.stores import Store
from paywall.stores.slips import change, slips_of

_KEPT_MS: Final = 10 * 365 * 24 * 3600 * 1000
"""Ten years: what is lost stays counted."""


class Instant:
    """What one provider serves on trust. `up_to` is in atomic units; `clock` gives Unix seconds."""

    def __init__(
        self,
        up_to: int,
        asset: Asset,
        store: Store,
        chain: Chain,
        mirror: Mirror,
        board: Board,
        clock: Callable[[], float],
    ) -> None:
        self._up_to = up_to
        self._asset = asset
        self._store = store
        self._slips = slips_of(store)
        self._chain = chain
        self._mirror = mirror
        self._board = board
        self._clock = clock
        self._key = keccak(b"paywall:exposure:" + asset.network.encode() + asset.address)

    async def book(self, payment: DepositPayment, price: int, chain: ChainState) -> bool:
        """Whether this request may run before its deposit is mined; then its price is booked.

        Raises Unavailable; an entry that was written all the same is looked after later.
        """
        voucher, deposit = payment.payment, payment.deposit
        now = int(self._clock())
        if price > self._up_to or voucher.voucher.amount != price:
            return False
        if chain.balance or chain.claimed or await self._store.channel(voucher.channel_id):
            return False
        if deposit.valid_before > now + MAX_AUTHORIZATION_SECONDS or deposit.valid_after > now:
            return False
        token = voucher.config.token
        used, balance = await self._chain.authorization(deposit.authorization(), token)
        if used or balance < deposit.amount:
            return False
        look_at_ms = (now + BET_LOOK_SECONDS) * 1000
        bet = Bet(price, deposit.amount, deposit.valid_before, look_at_ms)
        return await self._booked(voucher.channel_id, bet)

    async def _booked(self, channel_id: bytes, bet: Bet) -> bool:
        fits = False

        def rule(before: Exposure) -> Exposure:
            nonlocal fits
            after = exposure.booked(before, channel_id, bet, self._up_to)
            fits = after is not None
            return after or before

        await self._change(rule)
        return fits

    async def trust(self, payment: DepositPayment, price: int) -> None:
        """Records the channel as if it held this price, and no block had confirmed it."""
        voucher = payment.payment
        trusted = ChainState(price, 0, 0, 0, 0, 0, int(self._clock() * 1000))
        await self._store.record(
            voucher.channel_id, self._asset.network, voucher.config, trusted, 0
        )

    async def mined(self, channel_id: bytes) -> None:
        await self._end(channel_id, 0)

    async def failed(self, channel_id: bytes) -> None:
        """The deposit will not be mined: what did its request cost?"""
        bet = (await self._read()).bets.get(channel_id)
        if bet:
            bet = replace(bet, failed=True, look_at_ms=0)
            await self._change(lambda before: exposure.changed(before, channel_id, bet))
            await self._settle(channel_id, bet)

    async def review(self) -> None:
        """Looks after entries that nobody has closed in time. Raises Unavailable."""
        now_ms = self._clock() * 1000
        for channel_id, bet in (await self._read()).bets.items():
            if bet.look_at_ms <= now_ms:
                await self._settle(channel_id, bet)

    async def _settle(self, channel_id: bytes, bet: Bet) -> None:
        """Closes an entry by what the chain and the store say, if they decide it yet."""
        chain = await self._mirror.read(channel_id, 0)
        is_mined = chain.balance >= bet.deposit
        is_over = bet.failed or self._clock() > bet.valid_before + SLIP_MARGIN_SECONDS
        if not is_mined and not is_over:
            return
        record = await self._store.channel(channel_id)
        if record:  # from here on nothing more is let in on trust
            record = await self._store.record(channel_id, record.network, record.config, chain, 0)
        if not is_mined and record and await self._runs(record):
            return
        await self._end(channel_id, 0 if is_mined else _cost(record, bet))

    async def _runs(self, record: Channel) -> bool:
        """Whether the request still runs. One whose worker has died is fenced: never charged."""
        now_ms = self._clock() * 1000
        dead = [name for name, hold in record.holds.items() if hold.deadline_ms <= now_ms]
        for request in dead:
            await self._store.release(record.channel_id, request)
        return len(dead) < len(record.holds)

    async def _end(self, channel_id: bytes, lost: int) -> None:
        if lost:  # rung first: once it is written, heard of or not, nobody looks at it again
            after = exposure.ended(await self._read(), channel_id, lost)
            show, name = self._asset.show, show_bytes(channel_id)
            self._board.ring(
                DepositLost,
                name,
                f"{name} was served for {show(lost)} before its deposit was mined, and the deposit"
                f" failed. Of instant_up_to={show(self._up_to)}, {show(after.lost)} is lost by now",
            )
        await self._change(lambda before: exposure.ended(before, channel_id, lost))

    async def _read(self) -> Exposure:
        return exposure.decode((await self._slips.read(self._key))[0])

    async def _change(self, rule: Callable[[Exposure], Exposure]) -> Exposure:
        def apply(data: bytes | None, now_ms: int) -> bytes | None:
            before = exposure.decode(data)
            after = rule(before)
            return data if after is before else exposure.encode(after)

        return exposure.decode(await change(self._slips, self._key, apply, _KEPT_MS))


def _cost(record: Channel | None, bet: Bet) -> int:
    return min(bet.amount, record.unclaimed) if record else 0
