"""The devnet's side of JSON-RPC: reading parameters, writing blocks, transactions and receipts.

Numbers are minimal 0x hex ("quantities"), bytes are full 0x hex ("data"), as the Ethereum JSON-RPC
specification has it. A parameter that cannot be read is an `RpcError`; nothing here knows a method.
"""

from collections.abc import Sequence
from typing import Any, Final

import rlp  # type: ignore[import-untyped]
from eth._utils.address import generate_contract_address
from eth.abc import BlockAPI, LogAPI, SignedTransactionAPI
from eth_typing import Address
from eth_utils.address import to_checksum_address

from paywall.chain.devnet_chain import Mined

INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
PARSE_ERROR: Final = -32700
SERVER_ERROR: Final = -32000
EXECUTION_REVERTED: Final = 3

Json = Any
"""What `json` reads and writes. It stays in the modules of the devnet that speak JSON-RPC."""


class RpcError(Exception):
    """An answer that is an error."""

    def __init__(self, code: int, message: str, data: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.data = data

    def as_json(self) -> Json:
        error = {"code": self.code, "message": str(self)}
        return error if self.data is None else {**error, "data": self.data}


def invalid(message: str) -> RpcError:
    return RpcError(INVALID_PARAMS, message)


# -- Reading --------------------------------------------------------------------------------------


class Params:
    """The parameters of one request, read one by one."""

    def __init__(self, values: Sequence[Json]) -> None:
        self._values = values

    def get(self, index: int) -> Json:
        """A parameter as it came; None when it was left out."""
        return self._values[index] if index < len(self._values) else None

    def address(self, index: int) -> Address:
        return address(self.get(index))

    def data(self, index: int, length: int | None = None) -> bytes:
        return data(self.get(index), length)

    def quantity(self, index: int, default: int | None = None) -> int:
        value = self.get(index)
        return default if value is None and default is not None else quantity(value)

    def flag(self, index: int, default: bool | None = None) -> bool:
        value = self.get(index)
        if value is None and default is not None:
            return default
        if not isinstance(value, bool):
            raise invalid("expected a boolean")
        return value

    def fields(self, index: int) -> dict[str, Json]:
        value = self.get(index)
        if not isinstance(value, dict):
            raise invalid("expected an object")
        return value


def quantity(value: Json) -> int:
    """A number: 0x hex as the specification has it, or a JSON number as many tools send it."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and value.startswith("0x"):
        try:
            return int(value, 16)
        except ValueError:
            pass
    raise invalid(f"expected a quantity, not {value!r:.80}")


def data(value: Json, length: int | None = None) -> bytes:
    if not isinstance(value, str) or not value.startswith("0x"):
        raise invalid(f"expected 0x hex, not {value!r:.80}")
    try:
        raw = bytes.fromhex(value[2:])
    except ValueError as error:
        raise invalid(f"expected 0x hex, not {value!r:.80}") from error
    if length is not None and len(raw) != length:
        raise invalid(f"expected {length} bytes, not {len(raw)}")
    return raw


def address(value: Json) -> Address:
    return Address(data(value, 20))


# -- Writing --------------------------------------------------------------------------------------


def show_data(raw: bytes) -> str:
    return "0x" + bytes(raw).hex()


def show_address(raw: bytes) -> str | None:
    return to_checksum_address(raw) if raw else None


def show_header(block: BlockAPI, *, pending: bool = False) -> dict[str, Json]:
    # py-evm's types allow every field since London to be missing; in Prague's headers none is.
    header: Any = block.header
    return {
        "number": hex(header.block_number),
        "hash": None if pending else show_data(header.hash),
        "parentHash": show_data(header.parent_hash),
        "nonce": None if pending else show_data(header.nonce),
        "sha3Uncles": show_data(header.uncles_hash),
        "logsBloom": show_data(header.bloom.to_bytes(256, "big")),
        "transactionsRoot": show_data(header.transaction_root),
        "stateRoot": show_data(header.state_root),
        "receiptsRoot": show_data(header.receipt_root),
        "miner": show_address(header.coinbase),
        "difficulty": "0x0",
        "totalDifficulty": "0x0",
        "extraData": show_data(header.extra_data),
        "mixHash": show_data(header.mix_hash),
        "gasLimit": hex(header.gas_limit),
        "gasUsed": hex(header.gas_used),
        "timestamp": hex(header.timestamp),
        "baseFeePerGas": hex(header.base_fee_per_gas),
        "withdrawalsRoot": show_data(header.withdrawals_root),
        "blobGasUsed": hex(header.blob_gas_used),
        "excessBlobGas": hex(header.excess_blob_gas),
        "parentBeaconBlockRoot": show_data(header.parent_beacon_block_root),
        "requestsHash": show_data(header.requests_hash),
    }


def show_block(mined: Mined, *, full: bool, pending: bool = False) -> Json:
    block = mined.block
    return {
        **show_header(block, pending=pending),
        "size": hex(len(rlp.encode(block))),
        "uncles": [],
        "withdrawals": [],
        "transactions": [
            show_transaction(t, None if pending else mined, index) if full else show_data(t.hash)
            for index, t in enumerate(block.transactions)
        ],
    }


def show_transaction(transaction: SignedTransactionAPI, mined: Mined | None, index: int) -> Json:
    """A transaction in its block; a block of None means that it still waits."""
    kind = transaction.type_id or 0
    shown = {
        "type": hex(kind),
        "hash": show_data(transaction.hash),
        "nonce": hex(transaction.nonce),
        "blockHash": show_data(mined.block.hash) if mined else None,
        "blockNumber": hex(mined.block.number) if mined else None,
        "transactionIndex": hex(index) if mined else None,
        "from": show_address(transaction.sender),
        "to": show_address(transaction.to),
        "value": hex(transaction.value),
        "gas": hex(transaction.gas),
        "gasPrice": hex(_price(transaction, mined)),
        "input": show_data(transaction.data),
        "r": hex(transaction.r),
        "s": hex(transaction.s),
        "v": hex(_v(transaction)),
    }
    if transaction.chain_id is not None:
        shown["chainId"] = hex(transaction.chain_id)
    return shown | _show_typed(transaction, kind)


def _show_typed(transaction: SignedTransactionAPI, kind: int) -> dict[str, Json]:
    """What later types have more: an access list (EIP-2930), fees (1559), delegations (7702)."""
    shown: dict[str, Json] = {}
    if kind >= 1:
        shown["yParity"] = hex(transaction.y_parity)
        shown["accessList"] = [
            {"address": show_address(a), "storageKeys": [f"0x{slot:064x}" for slot in slots]}
            for a, slots in transaction.access_list
        ]
    if kind >= 2:
        shown["maxFeePerGas"] = hex(transaction.max_fee_per_gas)
        shown["maxPriorityFeePerGas"] = hex(transaction.max_priority_fee_per_gas)
    if kind >= 4:
        shown["authorizationList"] = [
            {
                "chainId": hex(a.chain_id),
                "address": show_address(a.address),
                "nonce": hex(a.nonce),
                "yParity": hex(a.y_parity),
                "r": hex(a.r),
                "s": hex(a.s),
            }
            for a in transaction.authorization_list
        ]
    return shown


def _v(transaction: SignedTransactionAPI) -> int:
    """The parity, in typed transactions; older ones add the chain to it (EIP-155)."""
    if transaction.type_id:
        return transaction.y_parity
    chain_id = transaction.chain_id
    return transaction.y_parity + (27 if chain_id is None else 35 + 2 * chain_id)


def _price(transaction: SignedTransactionAPI, mined: Mined | None) -> int:
    """What a unit of gas cost, or may cost at most while the transaction waits."""
    if mined is None:
        return transaction.max_fee_per_gas
    base_fee = mined.block.header.base_fee_per_gas or 0
    return min(transaction.max_fee_per_gas, transaction.max_priority_fee_per_gas + base_fee)


def show_receipt(mined: Mined, index: int) -> Json:
    transaction, receipt = mined.block.transactions[index], mined.receipts[index]
    before = mined.receipts[index - 1].gas_used if index else 0
    first_log = sum(len(earlier.logs) for earlier in mined.receipts[:index])
    created = generate_contract_address(transaction.sender, transaction.nonce)
    return {
        **_place(mined, index),
        "type": hex(transaction.type_id or 0),
        "from": show_address(transaction.sender),
        "to": show_address(transaction.to),
        "contractAddress": None if transaction.to else show_address(created),
        "status": "0x1" if receipt.state_root == b"\x01" else "0x0",
        "gasUsed": hex(receipt.gas_used - before),
        "cumulativeGasUsed": hex(receipt.gas_used),
        "effectiveGasPrice": hex(_price(transaction, mined)),
        "logsBloom": show_data(receipt.bloom.to_bytes(256, "big")),
        "logs": [
            show_log(log, mined, index, first_log + at) for at, log in enumerate(receipt.logs)
        ],
    }


def show_log(log: LogAPI, mined: Mined, index: int, log_index: int) -> Json:
    return {
        **_place(mined, index),
        "address": show_address(log.address),
        "topics": [f"0x{topic:064x}" for topic in log.topics],
        "data": show_data(log.data),
        "logIndex": hex(log_index),
        "removed": False,
    }


def _place(mined: Mined, index: int) -> dict[str, Json]:
    return {
        "transactionHash": show_data(mined.block.transactions[index].hash),
        "transactionIndex": hex(index),
        "blockHash": show_data(mined.block.hash),
        "blockNumber": hex(mined.block.number),
    }
