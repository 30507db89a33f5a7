"""A payment channel and its rules. Pure: a change is a new value, and `now` is an argument.

A payer puts a deposit on chain once. From then on each request carries a *voucher*: the payer's
signature under a running total. The provider holds the price while the request runs, charges what
it really cost when the answer leaves, and some day claims the charged total on chain with the
highest voucher. Always:

    claimed <= charged <= charged + held <= voucher.amount <= balance

    voucher.amount   what the payer has promised so far          (the payer's signature decides)
    held             prices of the requests that run right now   (the provider's store decides)
    charged          what requests have cost so far              (the provider's store decides)
    claimed, balance what the contract has recorded              (the chain decides)

So a channel serves many requests at once. A voucher is good once: the *window* remembers the
amounts of recent vouchers, as IPsec and WireGuard remember sequence numbers, so vouchers that
overtake each other are each accepted and a captured one is not accepted again. What falls out at
the window's lower end raises its *floor*, which never sinks again, whatever happens to the channel.

Sources: batch-settlement specification, "Server: State & Forwarding"; its rule for a serial client
(`amount == charged + price`) is one way to satisfy these rules. RFC 6479 for the window.
"""

from typing import Final, Never

import msgspec

from paywall.protocol import window
from paywall.protocol.channel_refunds import (
    REFUND_MS,
    begin_refund,
    end_refund,
    is_overdue,
    is_unasked,
)
from paywall.protocol.channel_state import (
    AGAIN,
    ChainState,
    Channel,
    ChannelConfig,
    Hold,
    NeedsChain,
    Refunding,
    RefusedByChannel,
    Standing,
    Voucher,
    check,
    highest_voucher,
    observe,
    open_channel,
    prices_of,
    without_expired,
)
from paywall.protocol.errors import HoldLost, Reason
from paywall.protocol.limits import HOLD_SECONDS, MAX_HOLDS, REMEMBERED_CHARGES, WINDOW_VOUCHERS

__all__ = [
    "AGAIN",
    "HOLD_MS",
    "REFUND_MS",
    "ChainState",
    "Channel",
    "ChannelConfig",
    "Hold",
    "NeedsChain",
    "Refunding",
    "RefusedByChannel",
    "Standing",
    "Voucher",
    "agreeable_total",
    "begin_refund",
    "charge",
    "check",
    "end_refund",
    "highest_voucher",
    "is_overdue",
    "observe",
    "open_channel",
    "release",
    "renew",
    "reserve",
]

HOLD_MS: Final = HOLD_SECONDS * 1000


def reserve(channel: Channel, voucher: Voucher, price: int, request: str, now_ms: int) -> Channel:
    """Admits a request: holds its price and remembers its voucher.

    The signature was checked before. Asking again for the same request gives the same answer.
    Raises RefusedByChannel, or NeedsChain when what the chain said last is too old.
    """
    assert price > 0
    held = channel.holds.get(request)
    if held is not None:
        if held.price == price and held.amount == voucher.amount:
            return channel
        _refuse(Reason.PAYMENT_ID_REUSED, channel)
    if now_ms >= channel.stale_at_ms():
        raise NeedsChain("what the chain said last is too old")
    if channel.refunding and is_unasked(channel.refunding, channel.chain, now_ms):
        raise NeedsChain("a refund was sent and never confirmed")
    if channel.refunding or channel.holds:
        channel = without_expired(channel, now_ms)
    _refuse_unfit(channel, voucher.amount, price, now_ms)
    seen, floor = window.with_one_more(channel.seen, channel.floor, voucher.amount)
    hold = Hold(price, voucher.amount, now_ms + HOLD_MS)
    known = channel.voucher
    return msgspec.structs.replace(
        channel,
        voucher=known if known and known.amount >= voucher.amount else voucher,
        holds={**channel.holds, request: hold},
        seen=seen,
        floor=floor,
        used_at_ms=now_ms,
    )


def _refuse_unfit(channel: Channel, amount: int, price: int, now_ms: int) -> None:
    """The conditions under which a voucher buys nothing, in the order that helps the payer."""
    closing = channel.closing_at_ms()
    if closing is not None and now_ms >= closing:
        _refuse(Reason.CHANNEL_CLOSING, channel)
    left = channel.balance - (channel.refunding.amount if channel.refunding else 0)
    wanted = channel.committed + price
    if amount > left:
        _refuse(Reason.EXCEEDS_BALANCE, channel)
    if amount <= channel.claimed:
        _refuse(Reason.BELOW_CLAIMED, channel)
    if not _fresh(channel, amount):
        _refuse(Reason.CUMULATIVE_MISMATCH, channel)
    if wanted > amount and wanted > channel.signed:
        _refuse(Reason.CUMULATIVE_MISMATCH, channel)
    # A voucher from before a withdrawal may promise more than the balance that is left.
    if wanted > left:
        _refuse(Reason.EXCEEDS_BALANCE, channel)
    if len(channel.holds) >= MAX_HOLDS:
        _refuse(Reason.CHANNEL_BUSY, channel)


def charge(channel: Channel, request: str, amount: int, remember: bool = True) -> Channel:
    """Turns a hold into a charge of `amount`, at most its price. Raises HoldLost.

    A charge of nothing is a release: the voucher bought nothing, so it may buy something later.
    Charging the same request again, because the first answer was lost, changes nothing; `remember`
    is False when somebody else sees to that.
    """
    hold = channel.holds.get(request)
    if hold is None and request in channel.done:
        return channel
    hold = _known(hold)
    assert 0 <= amount <= hold.price, "a charge is never above its price"
    charged, holds = channel.charged + amount, _without(channel.holds, request)
    seen = channel.seen if amount else window.without(channel.seen, hold.amount)
    signed = channel.voucher.amount if channel.voucher else charged
    floor = channel.floor
    if charged + prices_of(holds) == signed:
        seen, floor = _shortened(seen, floor, holds, signed)
    done = channel.done
    if remember:
        done = done[1 - REMEMBERED_CHARGES :]
        done += (request,)
    return msgspec.structs.replace(
        channel, charged=charged, holds=holds, seen=seen, floor=floor, done=done
    )


def _shortened(
    seen: tuple[int, ...], floor: int, holds: dict[str, Hold], signed: int
) -> tuple[tuple[int, ...], int]:
    """The window when nothing that was promised is outstanding.

    Then every voucher that was signed has arrived, and only those of running requests can become
    good again, so the floor may rise to just below the lowest of them.
    """
    if not holds:
        floor = max(floor, signed)
    elif len(seen) > WINDOW_VOUCHERS // 2:
        floor = max(floor, min([hold.amount for hold in holds.values()]) - 1)
    else:
        return seen, floor
    return window.above(seen, floor), floor


def release(channel: Channel, request: str) -> Channel:
    """Drops a hold uncharged and makes its voucher good again. Raises HoldLost."""
    hold = _known(channel.holds.get(request))
    return msgspec.structs.replace(
        channel,
        holds=_without(channel.holds, request),
        seen=window.without(channel.seen, hold.amount),
    )


def renew(channel: Channel, request: str, now_ms: int) -> Channel:
    """Keeps the hold of a request that still runs. Raises HoldLost."""
    hold = _known(channel.holds.get(request))
    kept = Hold(hold.price, hold.amount, now_ms + HOLD_MS)
    return msgspec.structs.replace(channel, holds={**channel.holds, request: kept})


def agreeable_total(channel: Channel, price: int) -> int:
    """The total to which a payer that signs `total + price` should count itself.

    What was charged and is held; but where that comes to an amount that was used before, and so
    buys nothing, the highest that the payer has signed. A serial client that reads no correction
    stops there: it signs again what it had signed for a metered answer that cost less. To take that
    for a new payment would be to take a captured one for new too, as both are the same bytes.
    """
    if _fresh(channel, channel.committed + price):
        return channel.committed
    highest = highest_voucher(channel)
    return max(channel.committed, highest.amount if highest else 0)


def _fresh(channel: Channel, amount: int) -> bool:
    return window.is_fresh(channel.seen, channel.floor, amount)


def _refuse(reason: Reason, channel: Channel) -> Never:
    raise RefusedByChannel(reason, channel)


def _known(hold: Hold | None) -> Hold:
    if hold is None:
        raise HoldLost("the hold of this request is gone")
    return hold


def _without(holds: dict[str, Hold], request: str) -> dict[str, Hold]:
    if len(holds) == 1:
        return {}  # a copy that is emptied would keep its room, in every idle channel
    left = holds.copy()
    del left[request]
    return left
