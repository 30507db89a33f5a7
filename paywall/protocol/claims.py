"""What to claim now, and in which transactions: a plan, not an action.

A claim moves nothing: it raises the contract's record of what a channel owes, up to `charged` and
never above the payer's signature. Rows of many channels travel in one transaction, so the fee per
request goes to nothing. This module decides; it does not know a chain.
"""

from collections.abc import Iterable
from itertools import groupby
from typing import NamedTuple

from paywall.protocol.channel import Channel
from paywall.protocol.limits import MAX_CLAIM_ROWS
from paywall.protocol.money import Address


class Batch(NamedTuple):
    """One claim transaction: channels of one network under one receiver authorizer."""

    network: str
    receiver_authorizer: Address
    channels: tuple[Channel, ...]

    @property
    def amount(self) -> int:
        """What this claim adds to the contract's record, in atomic units."""
        return sum(channel.unclaimed for channel in self.channels)


def plan(channels: Iterable[Channel], min_amount: int = 1) -> list[Batch]:
    """Batches of every channel that owes at least `min_amount`, the largest sums first."""
    due = [channel for channel in channels if channel.voucher and channel.unclaimed >= min_amount]
    due.sort(key=lambda channel: (*_group(channel), -channel.unclaimed, channel.channel_id))
    batches = []
    for (network, authorizer), members in groupby(due, key=_group):
        rows = tuple(members)
        batches += [
            Batch(network, Address(authorizer), rows[at : at + MAX_CLAIM_ROWS])
            for at in range(0, len(rows), MAX_CLAIM_ROWS)
        ]
    return sorted(batches, key=lambda batch: -batch.amount)


def _group(channel: Channel) -> tuple[str, bytes]:
    return channel.network, channel.config.receiver_authorizer
