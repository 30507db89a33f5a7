"""The embedded chain: py-evm with a pool of transactions, a clock that travels, and snapshots.

A transaction waits in the pool and runs when a block is mined: at once by default, on demand when
automine is off. Blocks are kept in memory beside py-evm's own database, which is one dictionary; a
snapshot is a copy of it, and going back to one opens the chain again, so what is mined afterwards
gets other hashes, as in a real reorganisation.

The clock is the wall's plus what was travelled, and every block is later than the one before, as
the protocol wants it. So a burst of blocks runs ahead of the wall by a second each; who keeps time
by the wall is then behind the chain until the wall has caught up, or `travel(0)` was called and its
clock was set by the head.

Nothing here knows of JSON. Not thread-safe: the server holds one lock around it.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, cast

from eth import EVM_RECURSION_LIMIT
from eth.abc import (
    BlockAPI,
    BlockHeaderAPI,
    ReceiptAPI,
    SignedTransactionAPI,
    StateAPI,
    VirtualMachineAPI,
)
from eth.chains.base import MiningChain
from eth.consensus.applier import ConsensusApplier
from eth.consensus.noproof import NoProofConsensus
from eth.constants import POST_MERGE_DIFFICULTY, POST_MERGE_MIX_HASH, POST_MERGE_NONCE
from eth.db.atomic import AtomicDB
from eth.db.backends.memory import MemoryDB
from eth.typing import HeaderParams
from eth.vm.forks.prague import PragueVM
from eth_typing import Address, BlockNumber
from eth_utils.exceptions import ValidationError

from paywall.chain.devnet_genesis import genesis_state
from paywall.chain.devnet_pool import Pool, TransactionRejected

# py-evm's libraries raise the limit to 100,000 frames, where nested JSON runs a thread out of its
# stack and the process dies. What py-evm itself asks for is enough for calls 1024 deep.
sys.setrecursionlimit(EVM_RECURSION_LIMIT)

GAS_LIMIT: Final = 60_000_000
GENESIS_BASE_FEE_WEI: Final = 10_000_000
TIP_WEI: Final = 10_000_000
"""The tip that is suggested to callers: more than the base fee can rise from block to block."""


@dataclass(frozen=True, slots=True)
class Mined:
    """A block with its receipts."""

    block: BlockAPI
    receipts: tuple[ReceiptAPI, ...]


@dataclass(frozen=True, slots=True)
class _Snapshot:
    database: dict[bytes, bytes]
    blocks: list[Mined]
    places: dict[bytes, tuple[int, int]]
    waiting: list[SignedTransactionAPI]
    offset_seconds: int


class _Chain(MiningChain):
    vm_configuration = ConsensusApplier(NoProofConsensus).amend_vm_configuration(
        ((BlockNumber(0), PragueVM),)
    )

    def create_header_from_parent(
        self, parent_header: BlockHeaderAPI, **header_params: HeaderParams
    ) -> BlockHeaderAPI:
        header_params.setdefault("gas_limit", parent_header.gas_limit)
        return super().create_header_from_parent(parent_header, **header_params)


def _now() -> int:
    return int(time.time())


class EmbeddedChain:
    """One chain, from genesis on."""

    def __init__(self, chain_id: int, clock: Callable[[], int] = _now) -> None:
        self.chain_id: Final = chain_id
        self.automine = True
        self.blocks: list[Mined] = []
        self.pool: Final = Pool(chain_id)
        self._clock = clock
        self._places: dict[bytes, tuple[int, int]] = {}
        self._offset_seconds = 0
        self._next_timestamp: int | None = None
        self._snapshots: list[_Snapshot] = []
        self._database: dict[bytes, bytes] = {}
        self._chain = self._begin()

    def _begin(self) -> _Chain:
        params: dict[str, HeaderParams] = {
            "difficulty": POST_MERGE_DIFFICULTY,
            "mix_hash": POST_MERGE_MIX_HASH,
            "nonce": POST_MERGE_NONCE,
            "gas_limit": GAS_LIMIT,
            "base_fee_per_gas": GENESIS_BASE_FEE_WEI,
            "timestamp": self._clock(),
        }
        chain = _Chain.configure(chain_id=self.chain_id).from_genesis(
            AtomicDB(MemoryDB(self._database)), params, genesis_state()
        )
        self.blocks.append(Mined(chain.get_canonical_block_by_number(BlockNumber(0)), ()))
        return cast(_Chain, chain)

    # -- Reading

    @property
    def head(self) -> BlockHeaderAPI:
        return self.blocks[-1].block.header

    def state(self, header: BlockHeaderAPI | None = None) -> StateAPI:
        """The state after a block; changes to the value that is returned go nowhere."""
        return self._chain.get_vm(header or self.head).state

    def live_state(self) -> StateAPI:
        """The state of the head as a call made now finds it: a quiet chain has no stale clock."""
        return self.state(self.head.copy(timestamp=max(self.head.timestamp, self._time())))

    def pending(self) -> tuple[VirtualMachineAPI, Mined]:
        """The next block as it would be mined now."""
        header = self._next_header()
        vm = self._chain.get_vm(header)
        transactions: list[SignedTransactionAPI] = []
        receipts: list[ReceiptAPI] = []
        for transaction in self.pool.executable(self.state()):
            if header.gas_used + transaction.gas > header.gas_limit:
                continue
            try:
                receipt, _ = vm.apply_transaction(header, transaction)
            except ValidationError:
                continue
            header = vm.add_receipt_to_header(header, receipt)
            transactions.append(transaction)
            receipts.append(receipt)
        block = vm.get_block().copy(header=header, transactions=transactions)
        return vm, Mined(block, tuple(receipts))

    def place(self, transaction_hash: bytes) -> tuple[Mined, int] | None:
        """The block that holds a transaction, and its index there."""
        found = self._places.get(transaction_hash)
        return (self.blocks[found[0]], found[1]) if found else None

    def next_base_fee_wei(self) -> int:
        fee = self._chain.header.base_fee_per_gas
        assert fee is not None
        return fee

    # -- Transactions and blocks

    def submit(self, raw: bytes) -> bytes:
        """Takes a signed transaction, mines it when automine is on, and returns its hash."""
        transaction = self._decode(raw)
        if transaction.hash in self._places:
            raise TransactionRejected("already known")
        self.pool.add(transaction, self.state(), self.next_base_fee_wei())
        if self.automine:
            self.mine_pool()
        return bytes(transaction.hash)

    def mine_only(self, raw: bytes) -> None:
        """Mines a transaction by itself, whatever waits and whether automine is on or not."""
        self.mine([self._decode(raw)])

    def _decode(self, raw: bytes) -> SignedTransactionAPI:
        try:
            transaction = self._chain.get_vm().get_transaction_builder().decode(raw)
            transaction.check_signature_validity()
        except Exception as error:  # py-evm and rlp raise a dozen unrelated kinds here
            raise TransactionRejected(f"invalid transaction: {error}") from error
        if transaction.gas > GAS_LIMIT:
            raise TransactionRejected("exceeds block gas limit")
        return transaction

    def mine_pool(self) -> None:
        """Mines blocks until nothing that waits can run."""
        while ready := self.pool.executable(self.state()):
            self.mine(ready)

    def mine(self, transactions: Sequence[SignedTransactionAPI] | None = None) -> None:
        """Mines one block, of the pool unless told otherwise."""
        chosen = self.pool.executable(self.state()) if transactions is None else transactions
        self._chain.header = self._next_header()
        receipts = [r for t in chosen if (r := self._apply(t)) is not None]
        block = self._chain.mine_block()
        self._next_timestamp = None
        for index, transaction in enumerate(block.transactions):
            self._places[transaction.hash] = (block.number, index)
        self.blocks.append(Mined(block, tuple(receipts)))
        self.pool.drop_used(self.state())

    def _apply(self, transaction: SignedTransactionAPI) -> ReceiptAPI | None:
        header = self._chain.header
        if header.gas_used + transaction.gas > header.gas_limit:
            return None
        try:
            _, receipt, _ = self._chain.apply_transaction(transaction)
        except ValidationError:
            # It was good when it came in; money or fees have changed since. A node drops it too.
            self.pool.drop(transaction)
            return None
        return receipt

    def _next_header(self) -> BlockHeaderAPI:
        return self._chain.header.copy(
            timestamp=self._next_timestamp or max(self.head.timestamp + 1, self._time()),
            mix_hash=os.urandom(32),
        )

    # -- What only a development chain can do

    def set_balance(self, address: Address, wei: int) -> None:
        """Gives an account a balance, in a block of its own."""
        state = self._chain.get_vm().state
        state.set_balance(address, wei)
        state.persist()
        self._chain.header = self._chain.header.copy(state_root=state.state_root)
        self.mine([])

    def _time(self) -> int:
        return self._clock() + self._offset_seconds

    def travel(self, seconds: int) -> int:
        """Moves the clock forward; returns how far it is ahead now.

        Counted from the last block: blocks mined in one second are a second apart all the same.
        """
        self._offset_seconds += seconds + max(0, self.head.timestamp - self._time())
        return self._offset_seconds

    def set_next_timestamp(self, timestamp: int) -> None:
        """Raises ValueError when the last block is later."""
        if timestamp <= self.head.timestamp:
            raise ValueError(f"timestamp must be later than the last block's {self.head.timestamp}")
        self._next_timestamp = timestamp
        self._offset_seconds = timestamp - self._clock()

    def snapshot(self) -> int:
        """Remembers everything as it is; ids count from one."""
        saved = _Snapshot(
            database=dict(self._database),
            blocks=list(self.blocks),
            places=dict(self._places),
            waiting=list(self.pool.waiting),
            offset_seconds=self._offset_seconds,
        )
        self._snapshots.append(saved)
        return len(self._snapshots)

    def revert(self, snapshot: int) -> bool:
        """Goes back to a snapshot, which is used up with all later ones. False if unknown."""
        if not 1 <= snapshot <= len(self._snapshots):
            return False
        saved = self._snapshots[snapshot - 1]
        del self._snapshots[snapshot - 1 :]
        self._database, self.blocks, self._places = saved.database, saved.blocks, saved.places
        self.pool.waiting = saved.waiting
        self._offset_seconds, self._next_timestamp = saved.offset_seconds, None
        self._chain = type(self._chain)(AtomicDB(MemoryDB(self._database)))
        return True
