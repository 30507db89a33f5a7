"""Refunds: what is set aside of a channel's balance, on its way back to the payer.

Between the two steps a transaction is on its way, and nobody knows whether it has left. So the part
is kept until the chain says so, or was asked after the time in which it could have been mined.
Pure, like all the rules of a channel: `paywall.protocol.channel`.
"""

from typing import Final

import msgspec

from paywall.protocol.channel_state import (
    ChainState,
    Channel,
    Refunding,
    RefusedByChannel,
    Voucher,
    highest_voucher,
    observe,
    without_expired,
)
from paywall.protocol.errors import Reason
from paywall.protocol.limits import REFUND_HOLD_SECONDS

REFUND_MS: Final = REFUND_HOLD_SECONDS * 1000


def begin_refund(
    channel: Channel, voucher: Voucher | None, amount: int | None, request: str, now_ms: int
) -> Channel:
    """Sets aside what goes back to the payer (all that is left when `amount` is None).

    The voucher is zero-charge: it promises exactly what was charged. It takes the place of all
    earlier ones, which buy nothing from now on. Without one it is the provider's own wish, and the
    voucher that is known must say just that. Asking again for the same request gives the same
    answer. Raises RefusedByChannel.
    """
    under_way = channel.refunding
    if under_way and under_way.request == request and under_way.deadline_ms > now_ms:
        return channel
    channel = without_expired(channel, now_ms)
    if channel.holds or channel.refunding:
        raise RefusedByChannel(Reason.CHANNEL_BUSY, channel)
    shown = voucher or channel.voucher
    # Without any signature nothing can be claimed, so nothing may be owed.
    if (shown.amount if shown else channel.claimed) != channel.charged:
        raise RefusedByChannel(Reason.CUMULATIVE_MISMATCH, channel)
    left = channel.balance - channel.charged
    if left <= 0:
        raise RefusedByChannel(Reason.REFUND_NOTHING_LEFT, channel)
    if amount is not None and not 0 < amount <= left:
        raise RefusedByChannel(Reason.REFUND_AMOUNT, channel)
    return msgspec.structs.replace(
        channel,
        voucher=shown,
        proof=highest_voucher(channel) if channel.signed > channel.charged else channel.proof,
        seen=(),
        floor=max(channel.floor, channel.signed, *channel.seen),
        refunding=Refunding(amount or left, now_ms + REFUND_MS, request),
    )


def end_refund(channel: Channel, chain: ChainState | None) -> Channel:
    """The refund was mined and `chain` is what the contract says now, or it was given up (None)."""
    channel = msgspec.structs.replace(channel, refunding=None)
    return observe(channel, chain) if chain else channel


def is_overdue(refunding: Refunding, chain: ChainState, now_ms: int) -> bool:
    """Whether what was set aside may have left by now, and the chain was not asked since."""
    return refunding.deadline_ms <= now_ms and chain.read_at_ms < refunding.deadline_ms
