"""The methods of the devnet, as one table, and the envelope of JSON-RPC 2.0 around them.

What a wallet, an indexer or a facilitator asks of a node, and the controls of a development chain
in the dialect of anvil and hardhat: mining by hand, time travel, snapshots. Errors are worded and
numbered as go-ethereum does it, for that is what clients look for.
"""

import json
import logging
from collections.abc import Callable
from threading import RLock
from typing import Final

from eth.exceptions import Revert

from paywall.chain.devnet_calls import CALL_GAS, CREATE, Call, Outcome, estimate_gas, run
from paywall.chain.devnet_chain import GAS_LIMIT, TIP_WEI, EmbeddedChain
from paywall.chain.devnet_pool import TransactionRejected
from paywall.chain.devnet_reads import Reads
from paywall.chain.devnet_wire import (
    EXECUTION_REVERTED,
    INTERNAL_ERROR,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    SERVER_ERROR,
    Json,
    Params,
    RpcError,
    address,
    data,
    invalid,
    quantity,
    show_data,
    show_receipt,
    show_transaction,
)
from paywall.chain.reverts import decode_revert

CLIENT_VERSION: Final = "paywall-devnet/py-evm"
MAX_BATCH: Final = 1000
MAX_MINED_BLOCKS: Final = 100_000

log = logging.getLogger(__name__)


class Rpc:
    """Answers requests about one chain, one at a time."""

    def __init__(self, chain: EmbeddedChain, accounts: tuple[str, ...] = ()) -> None:
        self.lock: Final = RLock()
        self._chain = chain
        self._reads = reads = Reads(chain)
        self._methods: dict[str, Callable[[Params], Json]] = {
            "web3_clientVersion": lambda _: CLIENT_VERSION,
            "net_version": lambda _: str(chain.chain_id),
            "net_listening": lambda _: True,
            "eth_chainId": lambda _: hex(chain.chain_id),
            "eth_syncing": lambda _: False,
            "eth_accounts": lambda _: list(accounts),
            "eth_blockNumber": lambda _: hex(chain.head.block_number),
            "eth_gasPrice": lambda _: hex(chain.next_base_fee_wei() + TIP_WEI),
            "eth_maxPriorityFeePerGas": lambda _: hex(TIP_WEI),
            "eth_feeHistory": reads.fee_history,
            "eth_getBalance": lambda p: hex(reads.state(p.get(1)).get_balance(p.address(0))),
            "eth_getCode": lambda p: show_data(reads.state(p.get(1)).get_code(p.address(0))),
            "eth_getStorageAt": self._storage_at,
            "eth_getTransactionCount": self._transaction_count,
            "eth_call": self._call,
            "eth_estimateGas": self._estimate_gas,
            "eth_sendRawTransaction": self._send_raw_transaction,
            "eth_getTransactionByHash": self._transaction_by_hash,
            "eth_getTransactionReceipt": self._transaction_receipt,
            "eth_getBlockByNumber": reads.block_by_number,
            "eth_getBlockByHash": reads.block_by_hash,
            "eth_getBlockReceipts": reads.block_receipts,
            "eth_getLogs": reads.logs,
            "evm_mine": self._mine,
            "anvil_mine": self._mine_many,
            "hardhat_mine": self._mine_many,
            "evm_increaseTime": lambda p: hex(chain.travel(p.quantity(0))),
            "evm_setNextBlockTimestamp": self._set_next_timestamp,
            "evm_setAutomine": self._set_automine,
            "evm_snapshot": lambda _: hex(chain.snapshot()),
            "evm_revert": lambda p: chain.revert(p.quantity(0)),
            "anvil_setBalance": self._set_balance,
            "hardhat_setBalance": self._set_balance,
        }

    # -- The envelope

    def handle(self, body: bytes) -> bytes | None:
        """The answer to one HTTP body: a request or a batch. None when nothing is to be said."""
        try:
            request = json.loads(body)
        except (ValueError, RecursionError):
            return _encode(_failure(None, RpcError(PARSE_ERROR, "parse error")))
        if isinstance(request, list):
            if not 0 < len(request) <= MAX_BATCH:
                return _encode(_failure(None, RpcError(INVALID_REQUEST, "invalid batch")))
            answers = [a for r in request if (a := self._answer(r)) is not None]
            return _encode(answers) if answers else None
        answer = self._answer(request)
        return None if answer is None else _encode(answer)

    def _answer(self, request: Json) -> Json:
        if not isinstance(request, dict) or not isinstance(request.get("method"), str):
            return _failure(None, RpcError(INVALID_REQUEST, "invalid request"))
        identity = request.get("id")
        try:
            result = self.call(request["method"], request.get("params"))
        except RpcError as error:
            answer = _failure(identity, error)
        except Exception:
            log.exception("devnet failed at %.80s", request["method"])
            answer = _failure(identity, RpcError(INTERNAL_ERROR, "internal error"))
        else:
            answer = {"jsonrpc": "2.0", "id": identity, "result": result}
        return answer if "id" in request else None

    def call(self, name: str, params: Json = None) -> Json:
        """Runs one method. Raises RpcError."""
        method = self._methods.get(name)
        if method is None:
            raise RpcError(METHOD_NOT_FOUND, f"the method {name} does not exist/is not available")
        if not isinstance(params, list | None):
            raise invalid("parameters must be a list")
        with self.lock:
            return method(Params(params or []))

    # -- State and calls

    def _storage_at(self, params: Params) -> Json:
        state = self._reads.state(params.get(2))
        return f"0x{state.get_storage(params.address(0), params.quantity(1)):064x}"

    def _transaction_count(self, params: Params) -> Json:
        if params.get(1) == "pending":
            return hex(self._chain.pool.next_nonce(params.address(0), self._chain.state()))
        return hex(self._reads.state(params.get(1)).get_nonce(params.address(0)))

    def _call(self, params: Params) -> Json:
        call = _read_call(params.fields(0), CALL_GAS)
        if params.get(2):
            raise invalid("state overrides are not supported")
        return show_data(_succeeded(run(self._reads.state(params.get(1)), call)).output)

    def _estimate_gas(self, params: Params) -> Json:
        call = _read_call(params.fields(0), GAS_LIMIT)
        tag = params.get(1)
        return hex(_succeeded(estimate_gas(lambda: self._reads.state(tag), call)).gas_used)

    # -- Transactions

    def _send_raw_transaction(self, params: Params) -> Json:
        try:
            return show_data(self._chain.submit(params.data(0)))
        except TransactionRejected as error:
            raise RpcError(SERVER_ERROR, str(error)) from error

    def _transaction_by_hash(self, params: Params) -> Json:
        transaction_hash = params.data(0, 32)
        if place := self._chain.place(transaction_hash):
            mined, index = place
            return show_transaction(mined.block.transactions[index], mined, index)
        waiting = (t for t in self._chain.pool.waiting if t.hash == transaction_hash)
        return next((show_transaction(t, None, 0) for t in waiting), None)

    def _transaction_receipt(self, params: Params) -> Json:
        place = self._chain.place(params.data(0, 32))
        return show_receipt(*place) if place else None

    # -- What only a development chain can do

    def _mine(self, params: Params) -> Json:
        if params.get(0) is not None:
            self._set_next_timestamp(params)
        self._chain.mine()
        return "0x0"

    def _mine_many(self, params: Params) -> Json:
        blocks = params.quantity(0, default=1)
        if blocks > MAX_MINED_BLOCKS:
            raise invalid(f"at most {MAX_MINED_BLOCKS} blocks at once")
        for _ in range(blocks):
            self._chain.mine()
        return None

    def _set_next_timestamp(self, params: Params) -> Json:
        try:
            self._chain.set_next_timestamp(params.quantity(0))
        except ValueError as error:
            raise invalid(str(error)) from error
        return None

    def _set_automine(self, params: Params) -> Json:
        self._chain.automine = params.flag(0)
        if self._chain.automine:
            self._chain.mine_pool()
        return None

    def _set_balance(self, params: Params) -> Json:
        self._chain.set_balance(params.address(0), params.quantity(1))
        return None


def _encode(answer: Json) -> bytes:
    return json.dumps(answer, separators=(",", ":")).encode()


def _failure(identity: Json, error: RpcError) -> Json:
    return {"jsonrpc": "2.0", "id": identity, "error": error.as_json()}


def _read_call(fields: dict[str, Json], max_gas: int) -> Call:
    gas = fields.get("gas")
    return Call(
        sender=address(fields.get("from") or "0x" + "00" * 20),
        to=address(fields["to"]) if fields.get("to") else CREATE,
        data=data(fields.get("input") or fields.get("data") or "0x"),
        value=quantity(fields.get("value") or 0),
        gas=max_gas if gas is None else min(quantity(gas), max_gas),
        gas_price_wei=quantity(fields.get("gasPrice") or fields.get("maxFeePerGas") or 0),
    )


def _succeeded(outcome: Outcome) -> Outcome:
    """The outcome of a call that worked. Raises RpcError for any other."""
    if outcome.error is None:
        return outcome
    if not isinstance(outcome.error, Revert):
        raise RpcError(SERVER_ERROR, str(outcome.error) or type(outcome.error).__name__)
    reason = decode_revert(outcome.output)
    message = "execution reverted" + (f": {reason}" if reason else "")
    raise RpcError(EXECUTION_REVERTED, message, show_data(outcome.output))
