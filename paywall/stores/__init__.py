"""Where a provider keeps its channels: the Store protocol, and `open_store(url)`.

A store is a small set of verbs, each atomic, each the same rule of `paywall.protocol.channel`
applied to one record. Every verb is safe to repeat with the same arguments. A store refuses
(`RefusedByChannel`), asks for the chain (`NeedsChain`), or fails as itself (`StoreUnavailable`);
it decides nothing of its own.
"""

from importlib import import_module
from typing import Final, Protocol
from urllib.parse import urlsplit

from paywall.protocol.channel import ChainState, Channel, ChannelConfig, Standing, Voucher
from paywall.protocol.errors import ConfigurationError
from paywall.protocol.ledger import Row
from paywall.protocol.once import Ticket

DEFAULT_STORE: Final = "sqlite:///paywall.db"


class Store(Protocol):
    """The verbs. Amounts are atomic units; `request` names one request of a channel."""

    async def open(self) -> None:
        """Connects and checks; raises ConfigurationError or StoreUnavailable."""

    async def close(self) -> None: ...

    async def channel(self, channel_id: bytes) -> Channel | None:
        """The record as it is, or None."""

    async def look_up(self, channel_id: bytes, ticket: Ticket) -> None:
        """Lets a payment go on that is new, or whose worker has died.

        Raises AnsweredBefore, or Refused when it is running or its id belongs to another.
        """

    async def refuse(self, channel_id: bytes, ticket: Ticket) -> None:
        """Remembers that a payment was refused: from now on `look_up` and `reserve` raise
        RefusedBefore for it. Raises as `look_up` does when something else was decided meanwhile.
        """

    async def reserve(
        self,
        channel_id: bytes,
        voucher: Voucher,
        price: int,
        request: str,
        ticket: Ticket | None = None,
    ) -> Standing:
        """Admits a request; with a ticket, also as `look_up` says.

        Raises RefusedByChannel, or NeedsChain (also for an unknown channel). When it returns, the
        voucher is as durable as the store can make it.
        """

    async def charge(
        self,
        channel_id: bytes,
        request: str,
        amount: int,
        ticket: Ticket | None = None,
        answer: bytes = b"",
        line: bytes = b"",
    ) -> Standing:
        """Turns a hold into a charge, and keeps the answer under the ticket. Raises HoldLost.

        `line` goes into the ledger (`paywall.protocol.ledger`) with it, when anything is charged.
        """

    async def release(self, channel_id: bytes, request: str, ticket: Ticket | None = None) -> None:
        """Drops a hold; one that is gone already is no error."""

    async def renew(self, holds: list[tuple[bytes, str]]) -> None:
        """Keeps the holds of requests that still run; one that is gone is passed over."""

    async def spend(self, key: bytes, owner: str, ttl_ms: int) -> bool:
        """Claims a key for an owner, once, for so long; True also when the owner asks again."""

    async def take(self, key: bytes, request: str, limit: int, ttl_ms: int) -> bool:
        """Counts a request under a key, unless `limit` are counted; True also when it is asked
        again. The first one begins a count that lasts `ttl_ms`."""

    async def give_back(self, key: bytes, request: str) -> None:
        """Takes a request out of its count; one that is not in it is no error."""

    async def record(
        self,
        channel_id: bytes,
        network: str,
        config: ChannelConfig,
        chain: ChainState,
        evidence: int,
        proof: Voucher | None = None,
    ) -> Channel:
        """Takes over what the chain says; an unknown channel is opened with `evidence`, and the
        voucher that it was taken from."""

    async def begin_refund(
        self, channel_id: bytes, voucher: Voucher | None, amount: int | None, request: str
    ) -> Channel:
        """Sets a refund aside. Raises RefusedByChannel, or NeedsChain for an unknown channel."""

    async def end_refund(
        self, channel_id: bytes, request: str, chain: ChainState | None
    ) -> Channel:
        """A refund was sent (`chain` is what the contract says now) or never was (None).

        It stays set aside until the contract has counted its nonce. `request` is that of what was
        set aside; anything else that is set aside stays so.
        """

    async def channels(self, after: bytes = b"", limit: int = 1000) -> list[Channel]:
        """All channels in the order of their ids, a page at a time."""

    async def claimable(self, limit: int = 1000) -> list[Channel]:
        """Channels that owe more than is claimed, the largest sums first."""

    async def ledger(self, after: str, until_ms: int, limit: int = 1000) -> list[Row]:
        """The rows behind a position ("" is the beginning) and before a time, in their order.

        A page may be shorter than its limit; an empty one is the end.
        """

    async def trim_ledger(self, through: str) -> int:
        """Drops the rows up to and with a position; how many there were."""

    async def lease(self, name: str, owner: str, ttl_ms: int) -> int | None:
        """Takes a job for so long, or renews it: its fencing token, or None while it is another's.

        A `ttl_ms` of zero gives it back.
        """

    async def note(self, name: str) -> bytes | None:
        """What was written down about a job, under `lease/key`."""

    async def put_note(self, name: str, value: bytes | None, token: int) -> None:
        """Writes a note, or drops it (None). Raises LeaseLost when the token is an older one."""


_REDIS: Final = ("paywall.stores.redis", "RedisStore")
Found = tuple[bytes | None, int]
"""What a slip is, and the store's time in ms."""


class Slips(Protocol):
    """The verbs of the small records beside channels: see `paywall.stores.slips`.

    Both are safe to repeat with the same arguments.
    """

    async def read(self, key: bytes) -> Found: ...

    async def swap(
        self,
        key: bytes,
        before: bytes | None,
        after: bytes | None,
        ttl_ms: int,
        line: bytes = b"",
    ) -> Found:
        """Writes `after` (None: drops it) if `before` is there; returns what is there now.

        With it, and only then, `line` goes into the ledger.
        """


_STORES: Final = {
    "memory": ("paywall.stores.memory", "MemoryStore"),
    "sqlite": ("paywall.stores.sqlite", "SqliteStore"),
    "redis": _REDIS,
    "rediss": _REDIS,
    "redis+unix": _REDIS,
    "unix": _REDIS,
    "redis+sentinel": _REDIS,
    "rediss+sentinel": _REDIS,
    "redis+cluster": _REDIS,
    "rediss+cluster": _REDIS,
}
"""Scheme of the URL -> module and class. Loaded when named, so that nobody pays for the others."""


def open_store(url: str = DEFAULT_STORE) -> Store:
    """The store that a URL names: `sqlite:///file` (relative), `sqlite:////file`, `memory://`,
    `redis://host` and its relatives (`paywall.stores.redis_url`).

    It is not connected yet. Raises ConfigurationError for a URL that names none.
    """
    try:
        scheme = urlsplit(url).scheme
    except ValueError as error:
        raise ConfigurationError("the store's URL cannot be read") from error
    if scheme not in _STORES:
        known = ", ".join(f"{name}://" for name in _STORES)
        raise ConfigurationError(f"no store is called {scheme!r}; known are {known}")
    module, name = _STORES[scheme]
    try:
        store: Store = getattr(import_module(module), name).from_url(url)
    except ModuleNotFoundError as error:
        if error.name not in ("redis", "hiredis"):
            raise
        raise ConfigurationError(
            f"{scheme}:// needs a package more: pip install 'paywall[redis]'"
        ) from error
    return store
