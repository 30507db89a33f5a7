"""The account of all payers together: so many deposits an hour are made for who has bought little.

It is one record in the store, for all workers. While it is used up, new payers are turned away, and
the owner hears of it: whichever worker writes down that it is so rings, and whichever writes down
that it is over tells that. So it is told once, and who looks at the store sees it too. What this
does not know: whose errands they are (`paywall.payers`).
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from paywall.alarms import Alarm, Board, DepositsUsedUp
from paywall.protocol import payers
from paywall.protocol.eip712 import keccak
from paywall.protocol.errors import Refused
from paywall.protocol.payers import Account, PayerLimits
from paywall.stores import Store
from paywall.stores.slips import change, slips_of

_KEPT_MS: Final = 2 * payers.HOUR_MS

MEND: Final = (
    "let min_deposit be well above what a deposit costs you, raise all_deposits_per_hour if these"
    " payers are welcome, or leave deposits to a facilitator"
)


class Crowd:
    """The account of all payers of one network. Its verbs raise Unavailable."""

    def __init__(self, limits: PayerLimits, network: str, store: Store, board: Board) -> None:
        self._limits = limits
        self._network = network
        self._slips = slips_of(store)
        self._key = _key(network)
        self._board = board
        self._untold: Account | None = None
        """As it was before a change of which nobody knows whether it was written."""

    async def knock(self) -> None:
        """Raises Refused when the next errand would be one too many of all."""
        data, now_ms = await self._slips.read(self._key)
        try:
            payers.counted_in_all(payers.decode(data), self._limits, now_ms)
        except Refused:
            await self.review()
            raise

    async def join(self) -> None:
        """One errand more. Raises Refused when it is one too many."""
        try:
            await self._change(lambda crowd, now: payers.counted_in_all(crowd, self._limits, now))
        except Refused:
            await self.review()
            raise

    async def leave(self) -> None:
        """What was counted has cost no gas: it is another's."""
        await self._change(lambda crowd, now: payers.uncounted_in_all(crowd, self._limits))

    async def review(self) -> None:
        """Sees whether newcomers are turned away, and tells when that has changed."""
        before = untold = self._untold
        after, self._untold = Account(), None

        def rule(crowd: Account, now_ms: int) -> Account:
            nonlocal before, after
            before, after = untold or crowd, payers.turning_away(crowd, self._limits, now_ms)
            return after

        try:
            await self._change(rule)
        except BaseException:  # perhaps it was written all the same: the next review tells of it
            self._untold = before
            raise
        assert before is not None
        if bool(before.used_up_at_ms) != bool(after.used_up_at_ms):
            is_over = not after.used_up_at_ms
            since_ms = before.used_up_at_ms if is_over else after.used_up_at_ms
            self._board.tell(_alarm(self._network, _sentence(since_ms), is_over))

    async def _change(self, rule: Callable[[Account, int], Account]) -> None:
        def apply(data: bytes | None, now_ms: int) -> bytes | None:
            before = payers.decode(data)
            after = rule(before, now_ms)
            return data if after == before else payers.encode(after)

        await change(self._slips, self._key, apply, _KEPT_MS)


async def turned_away(store: Store, network: str) -> str | None:
    """What is to be said of newcomers while they are turned away. Raises StoreUnavailable."""
    found, _ = await slips_of(store).read(_key(network))
    since_ms = payers.decode(found).used_up_at_ms
    return _sentence(since_ms) if since_ms else None


async def crowd_alarm(store: Store, network: str) -> Alarm | None:
    """The alarm that stands, as the workers have written it down. Raises StoreUnavailable."""
    sentence = await turned_away(store, network)
    return _alarm(network, sentence) if sentence else None


def _alarm(network: str, sentence: str, over: bool = False) -> DepositsUsedUp:
    return DepositsUsedUp(network, f"{sentence}; {MEND}", over)


def _sentence(since_ms: int) -> str:
    since = datetime.fromtimestamp(since_ms // 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return (
        f"since {since} new payers are turned away (503): deposits and refunds of who bought little"
        " have used up all_deposits_per_hour; customers are served as before"
    )


def _key(network: str) -> bytes:
    return keccak(b"paywall:payers:" + network.encode())
