"""What the channels hold, and what of it could be lost: added up from the store's records."""

from dataclasses import dataclass, field
from heapq import nlargest
from typing import Final

from paywall.dashboard.takings import Token
from paywall.ledger import PAGE
from paywall.protocol import claims
from paywall.protocol.channel import Channel
from paywall.stores import Store

MAX_CHANNELS: Final = 50_000
"""Channels that are looked at; a store with more is shown in part, and says so."""
SHOWN: Final = 20


@dataclass
class Holdings:
    """All channels of one token together, in atomic units, and the largest of them."""

    channels: int = 0
    open: int = 0
    withdrawing: int = 0
    in_flight: int = 0
    balance: int = 0
    charged: int = 0
    unclaimed: int = 0
    remaining: int = 0
    largest: list[Channel] = field(default_factory=list)
    risks: tuple[claims.Risk, ...] = ()


@dataclass
class Survey:
    """Every token's holdings; `whole` unless there were more channels than are looked at."""

    holdings: dict[Token, Holdings] = field(default_factory=dict)
    tokens: dict[bytes, Token] = field(default_factory=dict)
    whole: bool = True

    @property
    def networks(self) -> list[str]:
        return sorted({token.network for token in self.holdings})


async def survey(store: Store) -> Survey:
    """Reads the channels. Raises StoreUnavailable."""
    found, after = Survey(), b""
    members: dict[Token, list[Channel]] = {}
    while page := await store.channels(after, PAGE):
        for channel in page:
            token = Token(channel.network, channel.config.token)
            found.tokens[channel.channel_id] = token
            members.setdefault(token, []).append(channel)
        after = page[-1].channel_id
        if len(found.tokens) >= MAX_CHANNELS:
            found.whole = False
            break
    found.holdings = {token: _holdings(channels) for token, channels in members.items()}
    return found


def _holdings(channels: list[Channel]) -> Holdings:
    held = Holdings(len(channels))
    for channel in channels:
        held.open += channel.remaining > 0 or channel.unclaimed > 0
        held.withdrawing += bool(channel.chain.withdraw_requested_at)
        held.in_flight += len(channel.holds)
        held.balance += channel.balance
        held.charged += channel.charged
        held.unclaimed += channel.unclaimed
        held.remaining += max(0, channel.remaining)
    held.largest = nlargest(SHOWN, channels, key=lambda one: (one.unclaimed, one.balance))
    held.risks = claims.risks_of(channels)
    return held
