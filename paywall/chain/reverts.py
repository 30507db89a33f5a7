"""Why a contract refused, from the data of its revert.

A revert carries `Error(string)` with words in it, as tokens do, or four bytes that name one of the
errors the settlement contract and its collectors declare. A stranger's contract may say anything.
"""

from typing import Final

from eth_abi import abi
from eth_abi.exceptions import DecodingError

from paywall.protocol.eip712 import keccak

_REASON: Final = keccak(b"Error(string)")[:4]
_CUSTOM_ERRORS: Final = {
    keccak(signature.encode())[:4]: signature.partition("(")[0]
    for signature in (
        "ClaimExceedsBalance()",
        "ClaimExceedsCeiling()",
        "DepositCollectionFailed()",
        "DepositOverflow()",
        "ECDSAInvalidSignature()",
        "ECDSAInvalidSignatureLength(uint256)",
        "ECDSAInvalidSignatureS(bytes32)",
        "EmptyBatch()",
        "InvalidChannel()",
        "InvalidCollector()",
        "InvalidRefundNonce()",
        "InvalidSignature()",
        "NotAuthorizedToClaim()",
        "NotAuthorizedToFinalizeWithdraw()",
        "NotAuthorizedToRefund()",
        "NotReceiverAuthorizer()",
        "NothingToWithdraw()",
        "OnlyX402BatchSettlement()",
        "ReentrancyGuardReentrantCall()",
        "SafeERC20FailedOperation(address)",
        "WithdrawAmountExceedsAvailable()",
        "WithdrawDelayNotElapsed()",
        "WithdrawDelayOutOfRange()",
        "WithdrawalAlreadyPending()",
        "WithdrawalNotPending()",
        "ZeroDeposit()",
        "ZeroRefund()",
    )
}


def decode_revert(data: bytes) -> str | None:
    """Why a contract refused: its words, or the name of its error. None when it did not say."""
    if data[:4] != _REASON:
        return _CUSTOM_ERRORS.get(data[:4])
    try:
        (reason,) = abi.decode(("string",), data[4:])
    except (DecodingError, OverflowError, ValueError):
        return None
    return str(reason)
