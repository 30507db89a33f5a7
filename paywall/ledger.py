"""The provider's books: read from the store in order, written to files, and held against the rest.

Rows are read up to a moment ago, for workers' servers may differ by that much, so what was read is
complete. `reconcile` compares three accounts of the same money: the ledger's rows, the store's
channels, and the contract; each difference is named to the unit.
"""

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from paywall.protocol import ledger
from paywall.protocol.channel import ChainState, Channel
from paywall.protocol.ledger import Row
from paywall.protocol.money import Address
from paywall.protocol.x402 import show_address, show_bytes
from paywall.stores import Store

MARGIN_MS: Final = 5_000
"""Rows younger than this are left for the next time."""
PAGE: Final = 1_000
_END_OF_TIME_MS: Final = 2**53


async def rows(
    store: Store, after: str = "", until_ms: int = _END_OF_TIME_MS
) -> AsyncIterator[Row]:
    """All rows behind a position and before a time."""
    while page := await store.ledger(after, until_ms, PAGE):
        for row in page:
            yield row
        after = page[-1].position


async def channels(store: Store) -> AsyncIterator[Channel]:
    """All channels, in the order of their ids."""
    after = b""
    while page := await store.channels(after, PAGE):
        for channel in page:
            yield channel
        after = page[-1].channel_id


class Contract(Protocol):
    """What is asked of the chain."""

    async def channel(self, channel_id: bytes) -> ChainState: ...

    async def earned(self, receiver: Address, token: Address) -> tuple[int, int]:
        """What was ever claimed for a receiver, and what of it was settled."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Two accounts that should agree. `amount` is the first less the second, in atomic units."""

    where: str
    what: str
    amount: int


@dataclass
class Sums:
    """What the books come to, in atomic units."""

    rows: int = 0
    charged: int = 0
    transferred: int = 0
    adopted: int = 0
    channels: int = 0
    claimed: int = 0
    unclaimed: int = 0
    unsettled: int = 0
    differences: list[Difference] = field(default_factory=list)

    def compare(self, where: str, what: str, one: int, other: int) -> None:
        if one != other:
            self.differences.append(Difference(where, what, one - other))

    def at_most(self, where: str, what: str, one: int, other: int) -> None:
        if one > other:
            self.differences.append(Difference(where, what, one - other))


async def reconcile(
    store: Store, contract: Contract | None = None, archive: Iterable[Row] = ()
) -> Sums:
    """Compares ledger, channels and, where there is a way to it, the contract.

    `archive` are rows that were exported, and perhaps trimmed since; one that is still there counts
    once. Requests that are charged meanwhile would show as differences, for what is read last is
    newest: so the ledger is read again behind the channels, and later rows are counted off.
    """
    sums = Sums()
    by_channel: dict[bytes, int] = {}
    archived = set()
    for row in archive:
        if row.position not in archived:
            archived.add(row.position)
            _count(sums, by_channel, row)
    position = ""
    async for row in rows(store):
        if row.position not in archived:
            _count(sums, by_channel, row)
        position = row.position
    known = [channel async for channel in channels(store)]
    later: dict[bytes, int] = {}
    async for row in rows(store, position):
        _count(Sums(), later, row)
    for channel in known:
        _compare(sums, channel, by_channel, later)
    known_ids = {channel.channel_id for channel in known}
    for channel_id, amount in by_channel.items():
        if channel_id not in known_ids:
            sums.compare(show_bytes(channel_id), "rows of a channel that is not there", amount, 0)
    if contract:
        await _ask(sums, contract, known)
    return sums


def _count(sums: Sums, by_channel: dict[bytes, int], row: Row) -> None:
    sums.rows += 1
    if row.kind == ledger.TRANSFER:
        sums.transferred += row.amount
        return
    by_channel[row.channel_id] = by_channel.get(row.channel_id, 0) + row.amount
    if row.kind == ledger.CHARGE:
        sums.charged += row.amount
    else:
        sums.adopted += row.amount


def _compare(
    sums: Sums, channel: Channel, by_channel: dict[bytes, int], later: dict[bytes, int]
) -> None:
    where = show_bytes(channel.channel_id)
    sums.channels += 1
    sums.claimed += channel.claimed
    sums.unclaimed += channel.unclaimed
    rows_sum = by_channel.get(channel.channel_id, 0)
    if not rows_sum <= channel.charged <= rows_sum + later.get(channel.channel_id, 0):
        sums.compare(
            where, "rows of the ledger against what was charged", rows_sum, channel.charged
        )
    if channel.voucher:
        sums.at_most(where, "charged above the voucher", channel.charged, channel.signed)
    sums.at_most(where, "charged above the balance", channel.charged, channel.balance)


async def _ask(sums: Sums, contract: Contract, known: Sequence[Channel]) -> None:
    receivers: dict[tuple[Address, Address], int] = {}
    for channel in known:
        where, chain = show_bytes(channel.channel_id), await contract.channel(channel.channel_id)
        sums.compare(
            where, "claimed in the store against the chain", channel.claimed, chain.claimed
        )
        sums.compare(
            where, "balance in the store against the chain", channel.balance, chain.balance
        )
        pair = (channel.config.receiver, channel.config.token)
        receivers[pair] = receivers.get(pair, 0) + chain.claimed
    for (receiver, token), claimed in receivers.items():
        total, settled = await contract.earned(receiver, token)
        sums.unsettled += total - settled
        sums.compare(
            show_address(receiver), "claims of our channels against the contract's", claimed, total
        )
