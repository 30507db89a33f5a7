"""Two moves that tests of the channel make all the time."""

import pytest

from helpers.channels import NOW_MS, voucher
from paywall.protocol.channel import (
    Channel,
    RefusedByChannel,
    check,
    reserve,
)
from paywall.protocol.errors import Reason


def held(start: Channel, *requests: tuple[str, int, int]) -> Channel:
    """A channel on which these (request, voucher amount, price) were admitted."""
    for request, amount, price in requests:
        start = reserve(start, voucher(amount), price, request, NOW_MS)
    return check(start)


def refusal(start: Channel, amount: int, price: int, now_ms: int = NOW_MS) -> Reason:
    with pytest.raises(RefusedByChannel) as refused:
        reserve(start, voucher(amount), price, "refused", now_ms)
    assert refused.value.channel.channel_id == start.channel_id
    return refused.value.reason
