"""The window of a channel: the totals that have come of late, in ascending order, and its floor.

A total is good once: it is fresh when it stands above the floor and is not in the window. What
falls out below raises the floor, which never sinks. Most totals come in their order, so that is
looked at first. Source: RFC 6479, with amounts in the place of sequence numbers.
"""

from bisect import bisect_left, bisect_right

from paywall.protocol.limits import WINDOW_VOUCHERS

Seen = tuple[int, ...]


def is_fresh(seen: Seen, floor: int, amount: int) -> bool:
    """Whether this total was never seen, as far as anybody can know."""
    if amount <= floor:
        return False
    return not seen or amount > seen[-1] or seen[bisect_left(seen, amount)] != amount


def with_one_more(seen: Seen, floor: int, amount: int) -> tuple[Seen, int]:
    """The window and its floor with one more amount, which is fresh."""
    if not seen or amount > seen[-1]:
        seen += (amount,)
    else:
        at = bisect_left(seen, amount)
        seen = (*seen[:at], amount, *seen[at:])
    if len(seen) > WINDOW_VOUCHERS:
        return seen[1:], seen[0]
    return seen, floor


def without(seen: Seen, amount: int) -> Seen:
    """The window without an amount, which is good again; it may have fallen out already."""
    at = bisect_left(seen, amount)
    return seen[:at] + seen[bisect_right(seen, amount) :]


def above(seen: Seen, floor: int) -> Seen:
    """What is left of the window above a floor that has risen."""
    return seen[bisect_right(seen, floor) :]
