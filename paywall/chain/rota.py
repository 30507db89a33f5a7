"""Whose debts a round of claims looks at: the largest every time, and of many all in turn.

A store may be shared by networks, by authorizers, by tokens whose units are small. Then the largest
sums may all be somebody else's, or dust. So a round that cannot see everybody looks at a page of
all channels besides, and the next round at the page behind it.
"""

from paywall.protocol.channel import Channel
from paywall.protocol.limits import MAX_CLAIM_CHANNELS
from paywall.stores import Store


class Rota:
    """For one claimer, from round to round."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._after = b""

    async def owing(self) -> dict[bytes, Channel]:
        largest = await self._store.claimable(MAX_CLAIM_CHANNELS)
        page = await self._page() if len(largest) >= MAX_CLAIM_CHANNELS else []
        return {channel.channel_id: channel for channel in (*page, *largest)}

    async def _page(self) -> list[Channel]:
        page = await self._store.channels(self._after, MAX_CLAIM_CHANNELS)
        self._after = page[-1].channel_id if page else b""
        return [channel for channel in page if channel.voucher and channel.unclaimed > 0]
