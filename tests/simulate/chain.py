"""The chain in virtual time: a pool of transactions, blocks every two seconds, reorganisations.

Transactions take long or fall out of the pool. A reorganisation is never as deep as the owner's
confirmations: that is what they are for.
"""

from collections.abc import Callable
from random import Random
from typing import Final

from paywall.protocol.channel import ChainState
from paywall.protocol.eip712 import keccak
from simulate.contract import Contract, Transaction, Work
from simulate.faults import Faults
from simulate.loop import Loop, empty_context

BLOCK_SECONDS: Final = 2.0
STUCK_SECONDS: Final = 15.0
EPOCH: Final = 1_800_000_000
"""Unix seconds at which every world begins."""


class Chain:
    """The one chain of a world."""

    def __init__(self, loop: Loop, faults: Faults, random: Random) -> None:
        self.contract = Contract(EPOCH)
        self.confirmations = random.choice((1, 1, 2, 3))
        self.loop = loop
        self._faults = faults
        self._random = random
        self._final = 0  # two reorganisations in a row are no deeper than one
        self._pool: list[Transaction] = []
        self._sent: dict[bytes, Transaction] = {}
        self._context = empty_context()
        self.on_transfer: Callable[[bytes], None] = lambda nonce: None
        """Told of each authorization that is about to be sent."""

    @property
    def head(self) -> int:
        return self.contract.blocks[-1].number

    def start(self) -> None:
        self.loop.call_later(BLOCK_SECONDS, self._next, context=self._context)

    def _next(self) -> None:
        depth = min(self._random.randrange(self.confirmations), self.head - self._final)
        if depth and self._faults.strikes("reorganisation"):
            for loose in self.contract.reorganise(depth):
                if not self._faults.strikes("transaction dropped"):
                    self._pool.append(loose)
            self._random.shuffle(self._pool)
        taken = [t for t in self._pool if not self._faults.strikes("transaction late")]
        self._pool = [t for t in self._pool if t not in taken]
        self.contract.mine(taken, EPOCH + int(self.loop.time()))
        self._final = max(self._final, self.head - self.confirmations + 1)
        self.start()

    def sign(self, work: Work) -> Transaction:
        name = keccak(b"transaction %d" % len(self._sent))
        self._sent[name] = Transaction(name, work)
        return self._sent[name]

    def signed(self, name: bytes) -> Transaction:
        return self._sent[name]

    def send(self, transaction: Transaction) -> None:
        """Into the pool, unless it is there or mined already."""
        if transaction.block is None and transaction not in self._pool:
            self._pool.append(transaction)

    def state(self, channel_id: bytes, block: int, read_at_ms: int = 0) -> ChainState:
        """A channel as of the end of a block."""
        contract = self.contract
        balance, claimed = contract.pair("channel", channel_id, block=block)
        amount, since = contract.pair("withdrawal", channel_id, block=block)
        refunds = contract.get("refunds", channel_id, block=block)
        assert isinstance(refunds, int)
        return ChainState(balance, claimed, amount, since, refunds, block, read_at_ms)

    def depth(self, transaction: Transaction) -> int:
        """How many blocks show it."""
        return self.head - transaction.block.number + 1 if transaction.block else 0
