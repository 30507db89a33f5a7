"""A chain that is reached by a node and a gas key of our own: one that can be collected from.

What a claimer and a watcher ask, beyond what requests need: to rehearse a claim, to be told of each
signature before it leaves, to take up again what was sent, and to read the contract's log. A chain
behind somebody else's facilitator offers none of this, and does its own collecting.
"""

from abc import abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from paywall.chain import Chain, Mined
from paywall.protocol.channel import Channel
from paywall.protocol.claims import Batch
from paywall.protocol.errors import ChainUnavailable
from paywall.protocol.money import Address


class FeeTooHigh(ChainUnavailable):
    """A transaction would cost more than the owner allows for one; nothing was sent."""


@dataclass(frozen=True, slots=True)
class InFlight:
    """A transaction that was signed; `data` is what `resume` needs, and means nothing else."""

    transaction: bytes
    data: bytes


Written = Callable[[InFlight], Awaitable[None]]
"""Told of each signature before it is sent; by raising it forbids that."""


@dataclass(frozen=True, slots=True)
class Head:
    """The newest block; `mined_at` is in Unix seconds of the chain."""

    number: int
    mined_at: int


@dataclass(frozen=True, slots=True)
class Seen:
    """A log line that concerns a channel. `place` is its own: the same line in another block, after
    a reorganisation, has another."""

    place: tuple[bytes, int]
    block: int
    channel_id: bytes


class OwnChain(Chain):
    """All raise ChainUnavailable."""

    @property
    @abstractmethod
    def gas_wallet(self) -> Address:
        """Who pays for transactions."""

    @abstractmethod
    async def rehearse(self, batch: Batch) -> int:
        """The gas that a claim would use. Raises Reverted when the contract will not have it."""

    @abstractmethod
    async def claim(self, batch: Batch, written: Written | None = None) -> Mined: ...

    @abstractmethod
    async def settle(
        self, receiver: Address, token: Address, written: Written | None = None
    ) -> Mined | None: ...

    @abstractmethod
    async def resume(self, in_flight: InFlight, written: Written | None = None) -> Mined | None:
        """Waits for what was sent before; None when it can never be mined. Raises Reverted."""

    @abstractmethod
    async def to_settle(self, receiver: Address, token: Address) -> int:
        """What was claimed for a receiver and is not in its hands yet."""

    @abstractmethod
    async def rehearse_settlement(self, receiver: Address, token: Address) -> int:
        """The gas that a settlement would use. Raises Reverted."""

    @abstractmethod
    async def rehearse_refund(self, channel: Channel, amount: int) -> int:
        """The gas that a refund would use. Raises Reverted."""

    @abstractmethod
    async def gas_price_wei(self) -> int:
        """What a unit of gas costs now."""

    @abstractmethod
    async def head(self) -> Head: ...

    @abstractmethod
    async def log(self, first: int, last: int) -> list[Seen]:
        """What the contract tells of channels in these blocks, both included."""
