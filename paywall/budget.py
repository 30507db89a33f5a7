"""Ceilings over time: what has been spent, in which minutes and hours, and whether more may be.

Pure arithmetic over one frozen value. A window is counted in slots (a minute in 12 of five
seconds, a day in 24 hours), and the slot that is partly past counts whole: so what is spent in any
60 seconds, or any 24 hours, never exceeds its ceiling, wherever they begin. What is given back goes
back to the slot that it was taken from; where nobody knows from which, no slot has room for more. A
clock that is set back frees nothing.
"""

from dataclasses import dataclass
from typing import Final

import msgspec

from paywall.policy import Policy
from paywall.protocol.errors import OverBudget
from paywall.protocol.money import Asset

Slots = tuple[tuple[int, int], ...]
"""(number of the slot since 1970, atomic units), in the order of time."""


@dataclass(frozen=True)
class Window:
    """A stretch of time that has a ceiling of its own."""

    slot_seconds: int
    count: int

    def live(self, slots: Slots, now: float) -> Slots:
        """What still counts at `now`."""
        oldest = int(now) // self.slot_seconds - self.count
        if not slots or slots[0][0] >= oldest:
            return slots
        return tuple(slot for slot in slots if slot[0] >= oldest)

    def added(self, slots: Slots, amount: int, at: float, now: float) -> Slots:
        """With `amount` more (or less) in the slot of the time `at`."""
        number = int(at) // self.slot_seconds
        if amount > 0 and slots and slots[-1][0] == number:  # as nearly always
            return self.live((*slots[:-1], (number, slots[-1][1] + amount)), now)
        kept = dict(self.live(slots, now))
        changed = max(0, kept.pop(number, 0) + amount)
        if changed:
            kept[number] = changed
        return self.live(tuple(sorted(kept.items())), now)

    def renews_at(self, slots: Slots, now: float, too_much: int) -> float | None:
        """When `too_much` of what counts now will not count any more; None when never."""
        for number, amount in self.live(slots, now):
            too_much -= amount
            if too_much <= 0:
                return float((number + self.count + 1) * self.slot_seconds)
        return None


MINUTE: Final = Window(5, 12)
DAY: Final = Window(3600, 24)


class Spending(msgspec.Struct, frozen=True, omit_defaults=True):
    """Sums over all channels and transfers, in atomic units.

    `spent` was charged or is spoken for by requests in flight; `outlay` is the most that can have
    left the wallet, what is locked up in channels included. `minute` and `day` hold what was spent
    as providers say, the other two what was signed for them: who says that it took nothing can
    claim it still.
    """

    spent: int = 0
    outlay: int = 0
    minute: Slots = ()
    day: Slots = ()
    signed_minute: Slots = ()
    signed_day: Slots = ()

    def changed(
        self, spent: int, outlay: int, at: float, now: float, dated: int | None = None
    ) -> "Spending":
        """After so much more, or less, of which `dated` (or all) belongs to the time `at`."""
        minute, day = self.minute, self.day
        belongs = spent if dated is None else dated
        if belongs:
            minute = MINUTE.added(minute, belongs, at, now)
            day = DAY.added(day, belongs, at, now)
        sums = (self.spent + spent, self.outlay + outlay)
        return Spending(*sums, minute, day, self.signed_minute, self.signed_day)

    def signed(self, more: int, at: float, now: float) -> "Spending":
        """After so much more (or less, of what never left) was signed at the time `at`."""
        minute = MINUTE.added(self.signed_minute, more, at, now)
        day = DAY.added(self.signed_day, more, at, now)
        return Spending(self.spent, self.outlay, self.minute, self.day, minute, day)


@dataclass(frozen=True)
class Wish:
    """A payment that is about to be promised, by how much it raises the outlay, and what its host
    can have."""

    origin: str
    asset: Asset
    price: int
    outlay: int
    promised: int


def refuse_over_budget(
    policy: Policy, spending: Spending, host_promised: int, wish: Wish, now: float
) -> None:
    """Raises OverBudget for what the owner's ceilings do not leave room for."""
    if wish.price > policy.per_request:
        _refuse(wish, "per_request", policy.per_request, 0, None)
    if policy.per_host is not None and host_promised + wish.promised > policy.per_host:
        _refuse(wish, "per_host", policy.per_host, host_promised, None)
    for name, ceiling, window, slots, more in (
        ("per_minute", policy.per_minute, MINUTE, spending.minute, wish.price),
        ("per_minute", policy.per_minute, MINUTE, spending.signed_minute, wish.promised),
        ("per_day", policy.per_day, DAY, spending.day, wish.price),
        ("per_day", policy.per_day, DAY, spending.signed_day, wish.promised),
    ):
        if ceiling is None:
            continue
        used = sum(amount for _, amount in window.live(slots, now))
        too_much = used + more - ceiling
        if too_much > 0:
            _refuse(wish, name, ceiling, used, window.renews_at(slots, now, too_much))
    _refuse_over_total(policy, spending, wish)


def _refuse_over_total(policy: Policy, spending: Spending, wish: Wish) -> None:
    total, show = policy.total, wish.asset.show
    over = spending.spent + wish.price > total
    if over or (wish.outlay and spending.outlay + wish.outlay > total):
        locked = spending.outlay - spending.spent
        left = max(0, total - (spending.spent if over else spending.outlay))
        raise OverBudget(
            f"{wish.origin} asks {show(wish.price)}; of the total of {show(total)}, "
            f"{show(spending.spent)} is spent or in flight and {show(locked)} is locked up; "
            f"{show(left)} is left, until the owner raises total",
            limit="total",
            left=left,
        )


def _refuse(wish: Wish, limit: str, ceiling: int, used: int, renews_at: float | None) -> None:
    show, left = wish.asset.show, max(0, ceiling - used)
    when = "until the owner raises it" if renews_at is None else f"until {int(renews_at)} (Unix)"
    raise OverBudget(
        f"{wish.origin} asks {show(wish.price)}; {limit} is {show(ceiling)}, of which "
        f"{show(left)} is left {when}",
        limit=limit,
        left=left,
        renews_at=renews_at,
    )
