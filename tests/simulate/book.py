"""What the oracle writes down: of every channel, every sending and every run of a handler."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

from paywall.protocol.channel import Channel
from paywall.protocol.limits import CHAIN_TIMEOUT_SECONDS, HOLD_SECONDS

TRACE: Final = 60
"""How many events of a channel are kept."""
HOLD_MS: Final = 1000 * HOLD_SECONDS
CLAIM_SECONDS: Final = 2 * 30 + CHAIN_TIMEOUT_SECONDS
"""What is owed is claimed so soon: two rounds at the slowest pace, and a transaction's time."""


@dataclass(eq=False)
class Asked:
    """One sending of one payment, as the network saw it.

    `goal` is what an agent wanted, once; a stranger's replay has none, and is `goal` zero. What was
    signed for it is a `payment`; of a single transfer, `transfer` is the nonce. A `copy` was made
    by the network. One whose original was refused is good at another moment, once a store has
    forgotten the refusal: no signature can be taken back. Then the agent has paid twice, which it
    has promised, and that is counted. So it is where a payment was let in at `since`, and refused
    when it came again, to a store whose clock had jumped ahead meanwhile: that store has forgotten
    what it let in.
    """

    goal: int
    payment: int = 0
    copy: bool = False
    request: str = ""
    channel: bytes = b""
    transfer: bytes = b""
    since: float = 0.0


@dataclass
class Run:
    """A handler's work for one sending, and what it says that this costs."""

    asked: Asked
    due: int = 0


@dataclass
class Op:
    """One verb that a worker asks of the store, and for which sending."""

    verb: str
    request: str = ""
    amount: int = 0
    price: int = 0
    asked: Asked | None = None


@dataclass(frozen=True)
class Held:
    """A request that was let in, as the oracle saw it."""

    price: int
    total: int
    deadline_ms: int
    asked: Asked


@dataclass(frozen=True)
class Charge:
    """A charge that the store has, and for which sending."""

    amount: int
    asked: Asked


@dataclass
class Book:
    """What the oracle believes of one channel.

    What a fault can take back is written through `put`, which remembers what stood there. `late` is
    what a record owed that came back too late to be claimed.
    """

    sums: dict[str, int] = field(default_factory=lambda: {"charged": 0})
    held: dict[str, Held] = field(default_factory=dict)
    charges: dict[str, Charge] = field(default_factory=dict)
    used: dict[int, str] = field(default_factory=dict)
    ever: dict[str, int] = field(default_factory=dict)
    earned: int = 0
    signed: int = 0
    known: bool = False
    late: int = 0
    losses: int = 0
    trace: deque[tuple[Any, ...]] = field(default_factory=lambda: deque(maxlen=TRACE))
    changes: list[tuple[dict[Any, Any], object, object]] = field(default_factory=list)

    @property
    def charged(self) -> int:
        return self.sums["charged"]

    def put(self, table: dict[Any, Any], key: object, value: object) -> None:
        """Writes, or drops (None)."""
        self.changes.append((table, key, table.get(key)))
        put(table, key, value)


def put(table: dict[Any, Any], key: object, value: object) -> None:
    if value is None:
        table.pop(key, None)
    else:
        table[key] = value


def too_late(restored: Channel, now: float) -> int:
    """What a record owes that came back when its payer's withdrawal was as good as over. `now` is
    in Unix seconds.
    """
    begun = restored.chain.withdraw_requested_at
    ends = begun + restored.config.withdraw_delay_seconds
    return restored.unclaimed if begun and now > ends - CLAIM_SECONDS else 0
