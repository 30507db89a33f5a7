"""Collecting: from the store's charges to the provider's wallet.

`collect` claims what every channel owes, in batches, and then settles: one transfer for all. The
contract's totals are cumulative, so doing it again, or in two places, claims nothing twice.
"""

from collections.abc import Callable
from dataclasses import dataclass

from paywall.chain import Chain, Mined
from paywall.protocol import claims
from paywall.protocol.claims import Batch
from paywall.protocol.money import Address
from paywall.stores import Store


@dataclass(frozen=True, slots=True)
class Claimed:
    """One claim that was mined."""

    batch: Batch
    mined: Mined


async def claim(
    store: Store,
    chain: Chain,
    min_amount: int = 1,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> list[Claimed]:
    """Claims every channel of the chain's network that owes at least `min_amount` atomic units.

    Calls `progress(batches done, of)`. Raises ChainUnavailable; what was claimed until then stays
    claimed, and the store knows it.
    """
    due = [channel for channel in await store.claimable() if channel.network == chain.network]
    batches = claims.plan(due, min_amount)
    done = []
    for number, batch in enumerate(batches):
        progress(number, len(batches))
        mined = await chain.claim(batch)
        for channel in batch.channels:
            state = await chain.channel(channel.channel_id)
            await store.record(channel.channel_id, channel.network, channel.config, state, 0)
        done.append(Claimed(batch, mined))
    progress(len(batches), len(batches))
    return done


async def receivers(store: Store, network: str) -> set[tuple[Address, Address]]:
    """Every (receiver, token) that the store's channels pay on this network."""
    found, after = set(), b""
    while page := await store.channels(after):
        found |= {(c.config.receiver, c.config.token) for c in page if c.network == network}
        after = page[-1].channel_id
    return found


async def settle(store: Store, chain: Chain) -> list[tuple[Address, Address, Mined]]:
    """Moves what was claimed to its receivers; nothing for those with nothing to move."""
    moved = []
    for receiver, token in sorted(await receivers(store, chain.network)):
        mined = await chain.settle(receiver, token)
        if mined:
            moved.append((receiver, token, mined))
    return moved
