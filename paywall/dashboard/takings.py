"""What came in, added up from the ledger as it grows: over time, by route, by payer.

The ledger is read on from where it was read before, so much at a time: looking costs what is new.
It keeps sums and no rows; a minute's sums for a day, a day's for as long as the ledger goes back.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from heapq import nlargest
from typing import Final, NamedTuple

from paywall.ledger import MARGIN_MS, PAGE
from paywall.protocol import ledger
from paywall.protocol.ledger import Row
from paywall.protocol.money import Address
from paywall.stores import Store

MINUTE_MS: Final = 60_000
DAY_MS: Final = 1440 * MINUTE_MS
KEPT_MINUTES: Final = 1500
ROWS_AT_ONCE: Final = 20_000
"""Rows that one look reads; a ledger with more is read over several."""
MAX_PAYERS: Final = 100_000
"""Payers that are told apart; whoever comes later is counted with the others."""
OTHERS: Final = "others"


class Token(NamedTuple):
    """What is paid with."""

    network: str
    address: Address


@dataclass
class Sum:
    """So many requests, and what they brought in atomic units."""

    amount: int = 0
    count: int = 0

    def add(self, amount: int, count: int = 1) -> None:
        self.amount += amount
        self.count += count


@dataclass
class Takings:
    """The sums of one token. `adopted` came back by signatures, without a request that we know."""

    total: Sum = field(default_factory=Sum)
    adopted: int = 0
    minutes: dict[int, Sum] = field(default_factory=dict)
    days: dict[int, Sum] = field(default_factory=dict)
    routes: dict[str, Sum] = field(default_factory=dict)
    payers: dict[Address | str, Sum] = field(default_factory=dict)

    def take(self, row: Row) -> None:
        if row.kind == ledger.ADOPTED:
            self.adopted += row.amount
            return
        payer: Address | str = row.payer
        if payer not in self.payers and len(self.payers) >= MAX_PAYERS:
            payer = OTHERS
        self.total.add(row.amount)
        minute = row.at_ms // MINUTE_MS
        for sums, key in ((self.minutes, minute), (self.days, row.at_ms // DAY_MS)):
            sums.setdefault(key, Sum()).add(row.amount)
        self.routes.setdefault(row.route, Sum()).add(row.amount)
        self.payers.setdefault(payer, Sum()).add(row.amount)

    def forget(self, now_ms: int) -> None:
        """Minutes of before yesterday."""
        oldest = now_ms // MINUTE_MS - KEPT_MINUTES
        for minute in [minute for minute in self.minutes if minute < oldest]:
            del self.minutes[minute]

    def over(self, now_ms: int, minutes: int, bars: int) -> list[tuple[int, Sum]]:
        """So many bars of so many minutes, the last of them now: (when it begins, its sum)."""
        last = now_ms // MINUTE_MS // minutes
        found = {number: Sum() for number in range(last - bars + 1, last + 1)}
        for minute, part in self.minutes.items():
            if minute // minutes in found:
                found[minute // minutes].add(part.amount, part.count)
        return [(number * minutes * MINUTE_MS, part) for number, part in found.items()]

    def over_days(self, now_ms: int, bars: int) -> list[tuple[int, Sum]]:
        last = now_ms // DAY_MS
        numbers = range(last - bars + 1, last + 1)
        return [(number * DAY_MS, self.days.get(number, Sum())) for number in numbers]


def largest(sums: Mapping[str, Sum], count: int) -> list[tuple[str, Sum]]:
    return nlargest(count, sums.items(), key=lambda item: (item[1].amount, item[0]))


class Reader:
    """Reads a store's ledger on."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._position = ""
        self._tokens: dict[bytes, Token] = {}
        self.takings: dict[Token, Takings] = {}

    async def read_on(self, now_ms: int) -> bool:
        """Reads what is new; whether that was all. Raises StoreUnavailable."""
        for _ in range(ROWS_AT_ONCE // PAGE):
            page = await self._store.ledger(self._position, now_ms - MARGIN_MS, PAGE)
            if not page:
                break
            self._take(page)
            self._position = page[-1].position
        else:
            return False
        for takings in self.takings.values():
            takings.forget(now_ms)
        return True

    def know(self, channels: Iterable[tuple[bytes, Token]]) -> None:
        """Which token a channel is of: a row of a total that was adopted does not say it."""
        self._tokens.update(channels)

    def _take(self, page: list[Row]) -> None:
        for row, token in self._with_tokens(page):
            self.takings.setdefault(token, Takings()).take(row)

    def _with_tokens(self, page: list[Row]) -> Iterator[tuple[Row, Token]]:
        for row in page:
            if row.kind != ledger.ADOPTED:
                yield row, Token(row.network, row.asset)
            elif token := self._tokens.get(row.channel_id):
                yield row, token
