"""What a wallet remembers, as values; and what a keeper of them must be able to do.

    channel.charged     what the provider was paid so far, as receipts have said
    channel.signed      the highest total that a provider can have seen
    channel.balance     what is in the channel, as far as this agent knows
    channel.flying      prices of the requests in flight; one payment row for each of them
    channel.doubtful    what was refused, failed or given back, and perhaps is taken after all

Amounts are atomic units, times Unix seconds. A keeper of rows (`Rows`) knows keys and bytes only:
a file for one machine, Redis for many. Fields are added with defaults and never taken away, so that
rows of an older version can be read.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec


class PendingDeposit(msgspec.Struct, frozen=True, omit_defaults=True):
    """A deposit whose signature has left, and that no receipt has confirmed.

    While it is valid it is sent again as it is. When it has expired it is supposed to be mined, and
    if the provider denies that, it is signed again with its own salt: the token takes one of them.
    One that was presented in vain counts as deposited, and another takes its place.
    """

    amount: int
    valid_before: int
    salt: bytes
    supposed: bool = False


class Withdrawal(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is left in a channel is to be withdrawn, by time, without its provider.

    `wanted_since` is set when the provider broke the agreement; `transaction`, `amount` and
    `ready_at` (when it can be finalized) when the withdrawal was begun on chain.
    """

    wanted_since: float
    why: str = ""
    transaction: str = ""
    amount: int = 0
    ready_at: float = 0.0
    done: bool = False


class Account(msgspec.Struct, frozen=True, omit_defaults=True):
    """A channel as its payer knows it."""

    channel_id: bytes
    origin: str
    network: str
    asset: bytes
    config: bytes
    in_flight: int
    balance: int = 0
    charged: int = 0
    signed: int = 0
    deposited: int = 0
    flying: int = 0
    doubtful: int = 0
    deposit: PendingDeposit | None = None
    deposit_until: float = 0.0
    stopped: str | None = None
    flight: int = 0
    """How many requests are in flight."""
    begun: int = 0
    """How many ever were begun: a payment after which none was begun can tell by it."""
    oldest: float = 0.0
    """No payment in flight began before this."""
    no_top_up_before: float = 0.0
    withdrawal: Withdrawal | None = None

    @property
    def spent(self) -> int:
        """What was charged, and what will be if every request in flight is."""
        return self.charged + self.flying

    @property
    def outlay(self) -> int:
        """The most that can have left the wallet for this channel, used up there or locked up."""
        pending = self.deposit.amount if self.deposit else 0
        return max(self.deposited + pending, self.spent)

    @property
    def must_withdraw(self) -> bool:
        """Whether its provider broke the agreement and the withdrawal is still to be begun."""
        found = self.withdrawal
        return found is not None and not (found.transaction or found.done)


class InFlight(msgspec.Struct, frozen=True, omit_defaults=True):
    """A payment that has left, or is about to. `first`: nobody else was in flight then; `serial`
    is its number among all that were begun on the channel; `raised` by how much it raised what was
    signed."""

    payment_id: str
    channel_id: bytes
    price: int
    amount: int
    started: float
    serial: int = 0
    first: bool = False
    path: str = ""
    raised: int = 0


class SignedTransfer(msgspec.Struct, frozen=True, omit_defaults=True):
    """One authorization, counted as spent. `refused`: its receiver says that it was not taken."""

    payment_id: str
    origin: str
    network: str
    asset: bytes
    receiver: bytes
    price: int
    authorization_nonce: bytes
    valid_before: int
    refused: bool = False
    started: float = 0.0


class KnownQuote(msgspec.Struct, frozen=True):
    """What a place asked when it was last seen; `accepts` is JSON, as it was spelled."""

    accepts: bytes
    extensions: bytes | None


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """How one payment ended, for the history.

    `outcome` is "paid", "refused" (free again), "lost" (nobody knows: counted as spent),
    "forgotten" (its process died: counted as spent) or "unsent". `amount` is what it cost, or for
    "refused" and "unsent" what it would have. `channel` is hex, "" for a single transfer.
    """

    time: float
    origin: str
    path: str
    amount: int
    scheme: str
    payment_id: str
    outcome: str
    channel: str = ""
    transaction: str = ""


class Rows(Protocol):
    """Where rows are kept. One change at a time, by whoever shares them; whole, or not at all.

    Each method raises StoreUnavailable when the place does not answer.
    """

    def begin(self) -> None:
        """Waits for one's turn to change anything."""

    def commit(self, rows: dict[str, bytes | None], entries: Sequence[tuple[float, bytes]]) -> None:
        """Writes rows (None: drops them) and entries of the history, and ends the turn."""

    def rollback(self) -> None:
        """Ends the turn with nothing written."""

    def read(self, keys: Sequence[str]) -> list[bytes | None]: ...

    def between(self, first: str, last: str) -> list[tuple[str, bytes]]:
        """The rows from `first` to just before `last`, in the order of their keys."""

    def entries(self, since: float, until: float, limit: int) -> list[bytes]:
        """Entries of the history from `since` to just before `until`: the newest `limit` of them,
        in the order in which they were written."""

    def quote(self, places: Sequence[str]) -> bytes | None:
        """The quote of the first of these places that is known."""

    def put_quotes(self, places: Sequence[str], quote: bytes, now: float) -> None:
        """Keeps a quote for places; the oldest go when there are too many."""

    def flush(self) -> None:
        """Everything so far survives a crash of the machine too."""

    def close(self) -> None: ...
