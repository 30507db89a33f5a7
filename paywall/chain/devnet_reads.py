"""What the devnet's chain looks like from outside: blocks by name, number or hash, logs, and fees.

Answers are JSON already. A block that does not exist is None where the specification wants null,
and an `RpcError` where a question cannot be answered without it.
"""

from collections.abc import Callable, Iterator
from itertools import count
from typing import Final

from eth.abc import LogAPI, StateAPI

from paywall.chain.devnet_chain import TIP_WEI, EmbeddedChain, Mined
from paywall.chain.devnet_wire import (
    SERVER_ERROR,
    Json,
    Params,
    RpcError,
    address,
    data,
    invalid,
    quantity,
    show_block,
    show_log,
    show_receipt,
)

_LATEST: Final = (None, "latest", "safe", "finalized")
_MAX_FEE_HISTORY: Final = 1024


class Reads:
    """Reads one chain. Finality is instant here: `safe` and `finalized` are the last block."""

    def __init__(self, chain: EmbeddedChain) -> None:
        self._chain = chain

    # -- Blocks

    def mined(self, tag: Json) -> Mined | None:
        """The block that a parameter names: a word, a number, or an object (EIP-1898)."""
        blocks = self._chain.blocks
        if isinstance(tag, dict):
            if "blockHash" in tag:
                return self.by_hash(data(tag["blockHash"], 32))
            tag = tag.get("blockNumber")
        if tag in _LATEST:
            return blocks[-1]
        number = 0 if tag == "earliest" else quantity(tag)
        return blocks[number] if number < len(blocks) else None

    def by_hash(self, block_hash: bytes) -> Mined | None:
        return next((m for m in reversed(self._chain.blocks) if m.block.hash == block_hash), None)

    def state(self, tag: Json) -> StateAPI:
        """The state at a block. Raises RpcError for one that does not exist."""
        if tag == "pending":
            return self._chain.pending()[0].state
        mined = self.mined(tag)
        if mined is None:
            raise RpcError(SERVER_ERROR, "header not found")
        if mined is self._chain.blocks[-1]:
            return self._chain.live_state()
        return self._chain.state(mined.block.header)

    def block_by_number(self, params: Params) -> Json:
        full = params.flag(1, default=False)
        if params.get(0) == "pending":
            return show_block(self._chain.pending()[1], full=full, pending=True)
        mined = self.mined(params.get(0))
        return show_block(mined, full=full) if mined else None

    def block_by_hash(self, params: Params) -> Json:
        mined = self.by_hash(params.data(0, 32))
        return show_block(mined, full=params.flag(1, default=False)) if mined else None

    def block_receipts(self, params: Params) -> Json:
        mined = self.mined(params.get(0))
        return [show_receipt(mined, i) for i in range(len(mined.receipts))] if mined else None

    # -- Fees

    def fee_history(self, params: Params) -> Json:
        newest = self.mined(None if params.get(1) == "pending" else params.get(1))
        if newest is None:
            raise RpcError(SERVER_ERROR, "request beyond head block")
        wanted = min(params.quantity(0), _MAX_FEE_HISTORY)
        end = newest.block.number + 1
        blocks = self._chain.blocks[max(0, end - wanted) : end]
        headers = [mined.block.header for mined in blocks]
        fees = [mined.block.header.base_fee_per_gas or 0 for mined in self._chain.blocks]
        fees.append(self._chain.next_base_fee_wei())
        rewards = [hex(TIP_WEI)] * len(params.get(2) or [])
        return {
            "oldestBlock": hex(end - len(blocks)),
            "baseFeePerGas": [hex(fee) for fee in fees[end - len(blocks) : end + 1]],
            "gasUsedRatio": [h.gas_used / h.gas_limit for h in headers],
            "reward": [rewards for _ in headers],
        }

    # -- Logs

    def logs(self, params: Params) -> Json:
        wanted = params.fields(0)
        matches = _log_filter(wanted)
        return [
            show_log(log, mined, index, log_index)
            for mined in self._range(wanted)
            for index, log_index, log in _logs_of(mined)
            if matches(log)
        ]

    def _range(self, wanted: dict[str, Json]) -> list[Mined]:
        if "blockHash" in wanted:
            if "fromBlock" in wanted or "toBlock" in wanted:
                raise invalid("cannot specify both BlockHash and FromBlock/ToBlock")
            mined = self.by_hash(data(wanted["blockHash"], 32))
            if mined is None:
                raise RpcError(SERVER_ERROR, "unknown block")
            return [mined]
        first, last = (self._number(wanted.get(name)) for name in ("fromBlock", "toBlock"))
        if first > last:
            raise RpcError(SERVER_ERROR, "invalid block range params")
        return self._chain.blocks[first : last + 1]

    def _number(self, tag: Json) -> int:
        """The number that a bound of a range means; it may lie beyond the last block."""
        if tag in _LATEST or tag == "pending":
            return self._chain.head.block_number
        return 0 if tag == "earliest" else quantity(tag)


def _log_filter(wanted: dict[str, Json]) -> Callable[[LogAPI], bool]:
    """Whether a log is wanted: by its address, and by its topics, place by place."""
    given = wanted.get("address")
    addresses = {address(a) for a in _alternatives(given)} if given else None
    choices = [
        {int.from_bytes(data(t, 32), "big") for t in _alternatives(choice)} if choice else None
        for choice in _alternatives(wanted.get("topics") or [])
    ]

    def matches(log: LogAPI) -> bool:
        if addresses is not None and log.address not in addresses:
            return False
        pairs = zip(choices, log.topics, strict=False)
        fit = all(choice is None or topic in choice for choice, topic in pairs)
        return fit and len(choices) <= len(log.topics)

    return matches


def _alternatives(given: Json) -> list[Json]:
    return given if isinstance(given, list) else [given]


def _logs_of(mined: Mined) -> Iterator[tuple[int, int, LogAPI]]:
    """Every log of a block, with its transaction's index and its own."""
    numbers = count()
    for index, receipt in enumerate(mined.receipts):
        for log in receipt.logs:
            yield index, next(numbers), log
