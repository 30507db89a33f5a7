"""The claimer's desk: what it has written down, in the store, under the fencing token of its lease.

Whoever holds the lease next finds it as it was left. All of it is small: how far the log was read,
what was sent and not seen mined, which rows were set aside, who is withdrawing, when all was swept.
"""

from collections.abc import Callable
from typing import Final, TypeVar

import msgspec

from paywall.protocol.channel import Channel
from paywall.protocol.limits import (
    CLAIM_AGAIN_LEAVING_SECONDS,
    CLAIM_AGAIN_LONGEST_SECONDS,
    CLAIM_AGAIN_SECONDS,
)
from paywall.protocol.money import ZERO_ADDRESS, Address
from paywall.stores import Store

MAX_DEEDS: Final = 100
"""Deeds that the journal keeps."""


class Cursor(msgspec.Struct, frozen=True, array_like=True):
    """The log was read up to `block`, at `read_at_ms`."""

    block: int
    read_at_ms: int


class Errand(msgspec.Struct, frozen=True, array_like=True):
    """A transaction that was sent: which channels it claims (none: it settles)."""

    name: str
    transaction: bytes
    data: bytes
    channels: tuple[bytes, ...]


class Aside(msgspec.Struct, frozen=True, array_like=True):
    """A row that the contract would not take, as it stood then."""

    reason: str
    charged: int
    signed: int
    balance: int
    at_ms: int

    @classmethod
    def of(cls, channel: Channel, reason: str, now_ms: int) -> "Aside":
        return cls(reason, channel.charged, channel.signed, channel.balance, now_ms)

    def is_about(self, channel: Channel) -> bool:
        """Whether nothing has changed since."""
        return (self.charged, self.signed, self.balance) == (
            channel.charged,
            channel.signed,
            channel.balance,
        )


CLAIM: Final = "claim"
SETTLEMENT: Final = "settlement"
RESUMED: Final = "resumed"


class Deed(msgspec.Struct, frozen=True, array_like=True):
    """A transaction that was mined, for people who want to know what was done. Append fields only.

    A journal and not the books: whoever dies between the mining and the writing leaves a gap.
    `amount` is in atomic units of `token`, zero where it is not known (a transaction that a
    predecessor had sent: `resumed`).
    """

    at_ms: int
    kind: str
    transaction: bytes
    fee_wei: int
    gas: int
    channels: int = 0
    amount: int = 0
    receiver: Address = ZERO_ADDRESS
    token: Address = ZERO_ADDRESS


class Deeds(msgspec.Struct, frozen=True, array_like=True):
    """The journal's last pages, and what all of it came to. Append fields only."""

    last: tuple[Deed, ...] = ()
    fee_wei: int = 0
    transactions: int = 0
    claimed: int = 0

    def also(self, deed: Deed) -> "Deeds":
        return Deeds(
            (*self.last, deed)[-MAX_DEEDS:],
            self.fee_wei + deed.fee_wei,
            self.transactions + 1,
            self.claimed + (deed.amount if deed.kind == CLAIM else 0),
        )


class Outlook(msgspec.Struct, frozen=True, array_like=True):
    """What the last round found: what waits and why, what gas costs, and which alarms stand.

    `waiting` is (reason, channels, atomic units), `alarms` (name, subject, text).
    Append fields only.
    """

    at_ms: int
    price_wei: int = 0
    swept_at_ms: int | None = None
    waiting: tuple[tuple[str, int, int], ...] = ()
    alarms: tuple[tuple[str, str, str], ...] = ()


class Setback(msgspec.Struct, frozen=True, array_like=True):
    """Claims in a row that were mined and changed nothing, and when the last one was seen."""

    times: int = 0
    at_ms: int = 0

    def ends_at_ms(self, leaves: bool) -> int:
        """When to claim again: at once after the first, then twice as long after each; of a payer
        that `leaves`, soon all the same."""
        if self.times < 2:
            return 0
        longest = CLAIM_AGAIN_LEAVING_SECONDS if leaves else CLAIM_AGAIN_LONGEST_SECONDS
        return self.at_ms + 1000 * min(longest, CLAIM_AGAIN_SECONDS << min(self.times, 32))


def job_on(network: str) -> str:
    """The name of a claimer's lease, under which the desk's notes are."""
    return f"claims:{network}"


_T = TypeVar("_T")
_encode: Final[Callable[[object], bytes]] = msgspec.msgpack.Encoder().encode


class Desk:
    """Typed notes. Writing raises LeaseLost when somebody else has taken over."""

    def __init__(
        self, store: Store, job: str, token: int, hear: Callable[[Deed], None] = lambda deed: None
    ) -> None:
        self._store = store
        self._job = job
        self._hear = hear
        self.token = token

    async def cursor(self) -> Cursor | None:
        return await self._read("cursor", Cursor | None, None)

    async def put_cursor(self, cursor: Cursor) -> None:
        await self._write("cursor", cursor)

    async def errands(self) -> dict[str, Errand]:
        """What was sent and not seen mined, by name."""
        none: tuple[Errand, ...] = ()
        found = await self._read("sent", tuple[Errand, ...], none)
        return {errand.name: errand for errand in found}

    async def put_errand(self, errand: Errand) -> None:
        errands = {**await self.errands(), errand.name: errand}
        await self._write("sent", tuple(errands.values()))

    async def drop_errand(self, name: str) -> None:
        errands = await self.errands()
        if errands.pop(name, None):
            await self._write("sent", tuple(errands.values()))

    async def asides(self) -> dict[bytes, Aside]:
        return await self._read("aside", dict[bytes, Aside], {})

    async def put_asides(self, asides: dict[bytes, Aside]) -> None:
        await self._write("aside", asides)

    async def withdrawing(self) -> dict[bytes, int]:
        """Channels whose payer is withdrawing: when they were claimed since, or zero."""
        return await self._read("withdrawing", dict[bytes, int], {})

    async def put_withdrawing(self, channels: dict[bytes, int]) -> None:
        await self._write("withdrawing", channels)

    async def setback(self) -> Setback:
        return await self._read("setback", Setback, Setback())

    async def put_setback(self, setback: Setback) -> None:
        await self._write("setback", setback)

    async def pots(self) -> set[tuple[Address, Address]]:
        """Receivers and tokens for which something was claimed."""
        return await self._read("pots", set[tuple[Address, Address]], set())

    async def put_pots(self, pots: set[tuple[Address, Address]]) -> None:
        await self._write("pots", sorted(pots))

    async def swept_at_ms(self) -> int | None:
        return await self._read("swept", int | None, None)

    async def put_swept_at_ms(self, now_ms: int) -> None:
        await self._write("swept", now_ms)

    async def deeds(self) -> Deeds:
        return await self._read("deeds", Deeds, Deeds())

    async def put_deed(self, deed: Deed) -> None:
        """Writes it into the journal, and tells whoever wants to hear of it."""
        self._hear(deed)
        await self._write("deeds", (await self.deeds()).also(deed))

    async def outlook(self) -> Outlook | None:
        return await self._read("outlook", Outlook | None, None)

    async def put_outlook(self, outlook: Outlook) -> None:
        await self._write("outlook", outlook)

    async def _read(self, key: str, kind: object, default: _T) -> _T:
        data = await self._store.note(f"{self._job}/{key}")
        if data is None:
            return default
        value: _T = msgspec.msgpack.decode(data, type=kind)
        return value

    async def _write(self, key: str, value: object) -> None:
        await self._store.put_note(f"{self._job}/{key}", _encode(value), self.token)
