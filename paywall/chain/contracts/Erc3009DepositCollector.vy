# pragma version ~=0.4.3
# pragma evm-version cancun
"""
@title Deposits by signature
@notice Fetches a deposit from a payer who signed the token's ReceiveWithAuthorization to this
        contract, and hands it on to the settlement contract: the payer needs no gas.
@dev    The nonce of the authorization is bound to the channel, so what was signed for one channel
        cannot be put into another. Only the settlement contract may call; its address is the same
        on every chain and is written here.
"""

DATA_BYTES: constant(uint256) = 2048
SIGNATURE_BYTES: constant(uint256) = 1856

interface Token:
    def receiveWithAuthorization(
        payer: address,
        to: address,
        amount: uint256,
        validAfter: uint256,
        validBefore: uint256,
        nonce: bytes32,
        signature: Bytes[SIGNATURE_BYTES],
    ): nonpayable
    def transfer(to: address, amount: uint256) -> bool: nonpayable

x402BatchSettlement: public(constant(address)) = 0x4020074e9dF2ce1deE5A9C1b5c3f541D02a10003


@external
def collect(
    payer: address,
    token: address,
    amount: uint256,
    channelId: bytes32,
    collectorData: Bytes[DATA_BYTES],
):
    """
    @notice `collectorData` is abi.encode(validAfter, validBefore, salt, signature).
    """
    if msg.sender != x402BatchSettlement:
        raw_revert(method_id("OnlyX402BatchSettlement()"))
    valid_after: uint256 = 0
    valid_before: uint256 = 0
    salt: uint256 = 0
    signature: Bytes[SIGNATURE_BYTES] = b""
    valid_after, valid_before, salt, signature = abi_decode(
        collectorData, (uint256, uint256, uint256, Bytes[SIGNATURE_BYTES])
    )
    nonce: bytes32 = keccak256(abi_encode(channelId, salt))
    extcall Token(token).receiveWithAuthorization(
        payer, self, amount, valid_after, valid_before, nonce, signature
    )
    if not extcall Token(token).transfer(x402BatchSettlement, amount, default_return_value=True):
        raw_revert(
            concat(method_id("SafeERC20FailedOperation(address)"), convert(token, bytes32))
        )
