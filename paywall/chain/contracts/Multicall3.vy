# pragma version ~=0.4.3
# pragma evm-version cancun
"""
@title Many calls in one
@notice Answers to the selectors of the Multicall3 that stands at one address on every chain, which
        clients use to read a consistent set of facts in one round trip.
@dev    Bounded, as everything in Vyper is: 64 calls, 8 KiB of calldata and 2 KiB of answer each.
        A longer answer fails loudly instead of being cut.
"""

MAX_CALLS: constant(uint256) = 64
CALL_BYTES: constant(uint256) = 8192
RESULT_BYTES: constant(uint256) = 2048

struct Call:
    target: address
    callData: Bytes[CALL_BYTES]

struct Call3:
    target: address
    allowFailure: bool
    callData: Bytes[CALL_BYTES]

struct Call3Value:
    target: address
    allowFailure: bool
    value: uint256
    callData: Bytes[CALL_BYTES]

struct Result:
    success: bool
    returnData: Bytes[RESULT_BYTES]


@external
@payable
def aggregate(
    calls: DynArray[Call, MAX_CALLS]
) -> (uint256, DynArray[Bytes[RESULT_BYTES], MAX_CALLS]):
    answers: DynArray[Bytes[RESULT_BYTES], MAX_CALLS] = []
    for call: Call in calls:
        answers.append(self._call(call.target, False, 0, call.callData).returnData)
    return block.number, answers


@external
@payable
def tryAggregate(
    requireSuccess: bool, calls: DynArray[Call, MAX_CALLS]
) -> DynArray[Result, MAX_CALLS]:
    results: DynArray[Result, MAX_CALLS] = []
    for call: Call in calls:
        results.append(self._call(call.target, not requireSuccess, 0, call.callData))
    return results


@external
@payable
def tryBlockAndAggregate(
    requireSuccess: bool, calls: DynArray[Call, MAX_CALLS]
) -> (uint256, bytes32, DynArray[Result, MAX_CALLS]):
    results: DynArray[Result, MAX_CALLS] = []
    for call: Call in calls:
        results.append(self._call(call.target, not requireSuccess, 0, call.callData))
    return block.number, self._this_block_hash(), results


@external
@payable
def blockAndAggregate(
    calls: DynArray[Call, MAX_CALLS]
) -> (uint256, bytes32, DynArray[Result, MAX_CALLS]):
    results: DynArray[Result, MAX_CALLS] = []
    for call: Call in calls:
        results.append(self._call(call.target, False, 0, call.callData))
    return block.number, self._this_block_hash(), results


@external
@payable
def aggregate3(calls: DynArray[Call3, MAX_CALLS]) -> DynArray[Result, MAX_CALLS]:
    results: DynArray[Result, MAX_CALLS] = []
    for call: Call3 in calls:
        results.append(self._call(call.target, call.allowFailure, 0, call.callData))
    return results


@external
@payable
def aggregate3Value(calls: DynArray[Call3Value, MAX_CALLS]) -> DynArray[Result, MAX_CALLS]:
    results: DynArray[Result, MAX_CALLS] = []
    spent: uint256 = 0
    for call: Call3Value in calls:
        results.append(self._call(call.target, call.allowFailure, call.value, call.callData))
        spent += call.value
    assert msg.value == spent, "Multicall3: value mismatch"
    return results


@internal
@payable
def _call(
    target: address, allow_failure: bool, amount: uint256, data: Bytes[CALL_BYTES]
) -> Result:
    success: bool = False
    answer: Bytes[RESULT_BYTES + 1] = b""
    success, answer = raw_call(
        target, data, max_outsize=RESULT_BYTES + 1, value=amount, revert_on_failure=False
    )
    assert success or allow_failure, "Multicall3: call failed"
    assert len(answer) <= RESULT_BYTES, "Multicall3: answer too long"
    return Result(success=success, returnData=convert(answer, Bytes[RESULT_BYTES]))


@internal
@view
def _this_block_hash() -> bytes32:
    # A block's own hash is not known while it runs, and a client that asks gets zero everywhere.
    return empty(bytes32)


@external
@view
def getBlockHash(blockNumber: uint256) -> bytes32:
    if blockNumber >= block.number or blockNumber + 256 < block.number:
        return empty(bytes32)
    return blockhash(blockNumber)


@external
@view
def getBlockNumber() -> uint256:
    return block.number


@external
@view
def getCurrentBlockCoinbase() -> address:
    return block.coinbase


@external
@view
def getCurrentBlockDifficulty() -> uint256:
    return convert(block.prevrandao, uint256)


@external
@view
def getCurrentBlockGasLimit() -> uint256:
    return block.gaslimit


@external
@view
def getCurrentBlockTimestamp() -> uint256:
    return block.timestamp


@external
@view
def getEthBalance(addr: address) -> uint256:
    return addr.balance


@external
@view
def getLastBlockHash() -> bytes32:
    return blockhash(block.number - 1)


@external
@view
def getBasefee() -> uint256:
    return block.basefee


@external
@view
def getChainId() -> uint256:
    return chain.id
