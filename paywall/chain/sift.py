"""Finding the rows of a batch that the contract will not take: one bad row reverts all of them.

By bisection, on rehearsals that cost nothing: of n rows with one bad one, about 2 log2(n) of them.
"""

from paywall.chain.own import OwnChain
from paywall.protocol.channel import Channel
from paywall.protocol.claims import Batch
from paywall.protocol.errors import Reverted


async def sift(chain: OwnChain, batch: Batch) -> tuple[Batch, list[tuple[Channel, str]]]:
    """The batch without its bad rows, and these with the contract's reason.

    Raises ChainUnavailable; then nothing is known of any row.
    """
    if not batch.channels:
        return batch, []
    try:
        await chain.rehearse(batch)
        return batch, []
    except Reverted as error:
        if len(batch.channels) == 1:
            return batch._replace(channels=()), [(batch.channels[0], error.reason)]
    middle = len(batch.channels) // 2
    left, bad = await sift(chain, batch._replace(channels=batch.channels[:middle]))
    right, worse = await sift(chain, batch._replace(channels=batch.channels[middle:]))
    return batch._replace(channels=(*left.channels, *right.channels)), [*bad, *worse]
