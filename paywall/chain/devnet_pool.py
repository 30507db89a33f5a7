"""Signed transactions that wait for a block of the embedded chain.

A transaction is checked when it comes in, with the words of go-ethereum, for those are what
clients look for. One that comes too early for its sender's nonce waits; one with a nonce that
waits already replaces it if it pays a tenth more.
"""

from typing import Final

from eth.abc import SignedTransactionAPI, StateAPI
from eth_typing import Address

from paywall.chain.devnet_calls import floor_gas

_BLOB_TYPE: Final = 3
_REPLACEMENT_PERCENT: Final = 110


class TransactionRejected(Exception):
    """The pool does not take this transaction."""


class Pool:
    """What waits, in the order of arrival."""

    def __init__(self, chain_id: int) -> None:
        self._chain_id = chain_id
        self.waiting: list[SignedTransactionAPI] = []

    def add(self, transaction: SignedTransactionAPI, state: StateAPI, base_fee_wei: int) -> None:
        """Raises TransactionRejected."""
        self._check(transaction)
        _check_fees(transaction, base_fee_wei)
        _check_sender(transaction, state)
        for other in self.waiting:
            if _same_turn(other, transaction) and not _outbids(transaction, other):
                raise TransactionRejected("replacement transaction underpriced")
        self.waiting = [t for t in self.waiting if not _same_turn(t, transaction)]
        self.waiting.append(transaction)

    def _check(self, transaction: SignedTransactionAPI) -> None:
        if transaction.type_id == _BLOB_TYPE:
            raise TransactionRejected("transaction type not supported")
        if transaction.chain_id not in (None, self._chain_id):
            raise TransactionRejected(
                f"invalid chain id for signer: have {transaction.chain_id} want {self._chain_id}"
            )
        if transaction in self.waiting:
            raise TransactionRejected("already known")

    def drop(self, transaction: SignedTransactionAPI) -> None:
        self.waiting = [t for t in self.waiting if t.hash != transaction.hash]

    def drop_used(self, state: StateAPI) -> None:
        """Drops what can never run because its nonce was used."""
        self.waiting = [t for t in self.waiting if t.nonce >= state.get_nonce(t.sender)]

    def next_nonce(self, address: Address, state: StateAPI) -> int:
        """The nonce after all that waits without a gap."""
        nonce = state.get_nonce(address)
        waiting = {t.nonce for t in self.waiting if t.sender == address}
        while nonce in waiting:
            nonce += 1
        return nonce

    def executable(self, state: StateAPI) -> list[SignedTransactionAPI]:
        """What can run now: by arrival, each sender's in the order of their nonces."""
        turns = {t.sender: state.get_nonce(t.sender) for t in self.waiting}
        ready: list[SignedTransactionAPI] = []
        left = list(self.waiting)
        while turn := next((t for t in left if t.nonce == turns[t.sender]), None):
            turns[turn.sender] += 1
            ready.append(turn)
            left.remove(turn)
        return ready


def _check_fees(transaction: SignedTransactionAPI, base_fee_wei: int) -> None:
    if transaction.gas < transaction.intrinsic_gas:
        raise TransactionRejected(
            f"intrinsic gas too low: have {transaction.gas}, want {transaction.intrinsic_gas}"
        )
    floor = floor_gas(transaction.data)
    if transaction.gas < floor:
        raise TransactionRejected(
            f"insufficient gas for floor data gas cost: have {transaction.gas}, want {floor}"
        )
    if transaction.max_fee_per_gas < transaction.max_priority_fee_per_gas:
        raise TransactionRejected("max priority fee per gas higher than max fee per gas")
    if transaction.max_fee_per_gas < base_fee_wei:
        raise TransactionRejected(
            "max fee per gas less than block base fee: "
            f"maxFeePerGas: {transaction.max_fee_per_gas}, baseFee: {base_fee_wei}"
        )


def _check_sender(transaction: SignedTransactionAPI, state: StateAPI) -> None:
    nonce = state.get_nonce(transaction.sender)
    if transaction.nonce < nonce:
        raise TransactionRejected(
            f"nonce too low: next nonce {nonce}, tx nonce {transaction.nonce}"
        )
    have = state.get_balance(transaction.sender)
    want = transaction.gas * transaction.max_fee_per_gas + transaction.value
    if have < want:
        raise TransactionRejected(
            f"insufficient funds for gas * price + value: have {have} want {want}"
        )


def _same_turn(one: SignedTransactionAPI, other: SignedTransactionAPI) -> bool:
    return one.sender == other.sender and one.nonce == other.nonce


def _outbids(new: SignedTransactionAPI, old: SignedTransactionAPI) -> bool:
    return all(
        100 * ours >= _REPLACEMENT_PERCENT * theirs
        for ours, theirs in (
            (new.max_fee_per_gas, old.max_fee_per_gas),
            (new.max_priority_fee_per_gas, old.max_priority_fee_per_gas),
        )
    )
