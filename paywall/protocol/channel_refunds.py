"""Refunds: what is set aside of a channel's balance, on its way back to the payer.

What was signed under a refund nonce may be mined until the contract has counted that nonce, however
late and by whoever sends it. So the part is kept until a reading of the chain shows a higher nonce
than there was when it was set aside. From then on nothing of it can leave, and it is remembered
until its deadline only for copies of the same wish. After its deadline who sent it is not waited
for: another may send it again, under the same nonce, and at most one of the two is mined.
Pure, like all the rules of a channel: `paywall.protocol.channel`.
"""

from typing import Final

import msgspec

from paywall.protocol.channel_state import (
    AGAIN,
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
    answer. One that is overdue is made again with this one, which is at least as much. Raises
    RefusedByChannel.
    """
    under_way = channel.refunding
    is_live = under_way is not None and under_way.deadline_ms > now_ms
    if under_way and is_live and under_way.request in (request, AGAIN + request):
        return channel
    channel = without_expired(channel, now_ms)
    if channel.holds or is_live:
        raise RefusedByChannel(Reason.CHANNEL_BUSY, channel)
    shown = voucher or channel.voucher
    # Without any signature nothing can be claimed, so nothing may be owed.
    if (shown.amount if shown else channel.claimed) != channel.charged:
        raise RefusedByChannel(Reason.CUMULATIVE_MISMATCH, channel)
    left, overdue = channel.refundable, channel.refunding
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
        refunding=Refunding(
            max(amount or left, overdue.amount if overdue else 0),
            now_ms + REFUND_MS,
            AGAIN + request if overdue else request,
        ),
    )


def end_refund(channel: Channel, request: str, chain: ChainState | None) -> Channel:
    """`chain` is what the contract says of a refund that was sent; or it never was (None).

    It stays set aside while the contract does not show that its nonce is counted, and where it was
    not sent, but another before it may have been. `request` is as it was when it was set aside: an
    end that comes late, or twice, is not the end of the next one, which may have been sent.
    """
    if chain:
        channel = observe(channel, chain)
    refunding = channel.refunding
    if refunding is None or refunding.request != request:
        return channel
    if refunding.amount > 0 and (chain or refunding.is_again):
        return channel
    return msgspec.structs.replace(channel, refunding=None)


def is_overdue(refunding: Refunding, now_ms: int) -> bool:
    """Whether nobody waits for it any more, and the chain has not shown its end."""
    return refunding.amount > 0 and refunding.deadline_ms <= now_ms


def is_unasked(refunding: Refunding, chain: ChainState, now_ms: int) -> bool:
    """Whether it is overdue, and the chain was not asked since."""
    return is_overdue(refunding, now_ms) and chain.read_at_ms < refunding.deadline_ms
