# pragma version ~=0.4.3
# pragma evm-version cancun
"""
@title x402 batch settlement: many one-way payment channels in one contract
@notice A payer escrows tokens once, signs vouchers with a growing total off chain, and the receiver
        claims the highest of them when it likes. Money of a claimed voucher waits in a pot per
        receiver and token until anyone calls settle. What is unclaimed goes back to the payer: at
        once when the receiver agrees (refund), or after a delay when it does not (withdraw).
@dev    The interface, the signed messages, the conditions and the errors are those of the contract
        that x402 deploys at one address on every chain, so tools cannot tell them apart. Two things
        are bounded here that are not there: a claim has at most 128 rows, and a multicall at most
        16 calls. There is no constructor and no immutable: the runtime code works wherever it is put.
"""

struct ChannelConfig:
    payer: address
    payerAuthorizer: address
    receiver: address
    receiverAuthorizer: address
    token: address
    withdrawDelay: uint40
    salt: bytes32

struct ChannelState:
    balance: uint128
    totalClaimed: uint128

struct WithdrawalState:
    amount: uint128
    initiatedAt: uint40

struct ReceiverState:
    totalClaimed: uint128
    totalSettled: uint128

struct Voucher:
    channel: ChannelConfig
    maxClaimableAmount: uint128

struct VoucherClaim:
    voucher: Voucher
    signature: Bytes[SIGNATURE_BYTES]
    totalClaimed: uint128

interface Token:
    def balanceOf(owner: address) -> uint256: view
    def transfer(to: address, amount: uint256) -> bool: nonpayable

interface DepositCollector:
    def collect(
        payer: address,
        token: address,
        amount: uint256,
        channelId: bytes32,
        collectorData: Bytes[COLLECTOR_DATA_BYTES],
    ): nonpayable

event ChannelCreated:
    channelId: indexed(bytes32)
    config: ChannelConfig

event ChannelClosed:
    channelId: indexed(bytes32)
    config: ChannelConfig

event Deposited:
    channelId: indexed(bytes32)
    sender: indexed(address)
    amount: uint128
    newBalance: uint128

event Claimed:
    channelId: indexed(bytes32)
    sender: indexed(address)
    claimAmount: uint128
    newTotalClaimed: uint128

event Settled:
    receiver: indexed(address)
    token: indexed(address)
    sender: indexed(address)
    amount: uint128

event Refunded:
    channelId: indexed(bytes32)
    sender: indexed(address)
    amount: uint128

event WithdrawInitiated:
    channelId: indexed(bytes32)
    amount: uint128
    finalizeAfter: uint40

event WithdrawFinalized:
    channelId: indexed(bytes32)
    sender: indexed(address)
    amount: uint128

# Memory in Vyper is laid out for the largest input, and touching its end is paid for. These bounds
# hold a hundred claims with room to spare and keep a claim of one row near its natural price.
MAX_CLAIMS: constant(uint256) = 128
MAX_CALLS: constant(uint256) = 16
CALL_WORDS: constant(uint256) = 1600
RESULT_BYTES: constant(uint256) = 384
SIGNATURE_BYTES: constant(uint256) = 768
COLLECTOR_DATA_BYTES: constant(uint256) = 2048

MIN_WITHDRAW_DELAY: public(constant(uint40)) = 900
MAX_WITHDRAW_DELAY: public(constant(uint40)) = 2592000

HALF_CURVE_ORDER: constant(uint256) = (
    57896044618658097711785492504343953926418782139537452191302581570759080747168
)
EIP1271_MAGIC: constant(bytes4) = 0x1626ba7e

DOMAIN_TYPEHASH: constant(bytes32) = keccak256(
    "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
)
DOMAIN_NAME: constant(String[21]) = "x402 Batch Settlement"
DOMAIN_VERSION: constant(String[1]) = "1"
CHANNEL_CONFIG_TYPEHASH: public(constant(bytes32)) = keccak256(
    "ChannelConfig(address payer,address payerAuthorizer,address receiver,address receiverAuthorizer,address token,uint40 withdrawDelay,bytes32 salt)"
)
VOUCHER_TYPEHASH: public(constant(bytes32)) = keccak256(
    "Voucher(bytes32 channelId,uint128 maxClaimableAmount)"
)
REFUND_TYPEHASH: public(constant(bytes32)) = keccak256(
    "Refund(bytes32 channelId,uint256 nonce,uint128 amount)"
)
CLAIM_ENTRY_TYPEHASH: public(constant(bytes32)) = keccak256(
    "ClaimEntry(bytes32 channelId,uint128 maxClaimableAmount,uint128 totalClaimed)"
)
CLAIM_BATCH_TYPEHASH: public(constant(bytes32)) = keccak256(
    "ClaimBatch(ClaimEntry[] claims)ClaimEntry(bytes32 channelId,uint128 maxClaimableAmount,uint128 totalClaimed)"
)

channels: public(HashMap[bytes32, ChannelState])
refundNonce: public(HashMap[bytes32, uint256])
pendingWithdrawals: public(HashMap[bytes32, WithdrawalState])
receivers: public(HashMap[address, HashMap[address, ReceiverState]])


# --- money in ---------------------------------------------------------------------------------


@external
@nonreentrant
def deposit(
    config: ChannelConfig,
    amount: uint128,
    collector: address,
    collectorData: Bytes[COLLECTOR_DATA_BYTES],
):
    """
    @notice Escrow `amount` in the channel; the collector fetches it from the payer.
    """
    if (
        config.payer == empty(address)
        or config.receiver == empty(address)
        or config.receiverAuthorizer == empty(address)
        or config.token == empty(address)
    ):
        raw_revert(method_id("InvalidChannel()"))
    if config.withdrawDelay < MIN_WITHDRAW_DELAY or config.withdrawDelay > MAX_WITHDRAW_DELAY:
        raw_revert(method_id("WithdrawDelayOutOfRange()"))
    if amount == 0:
        raw_revert(method_id("ZeroDeposit()"))
    if collector == empty(address):
        raw_revert(method_id("InvalidCollector()"))

    channel_id: bytes32 = self._channel_id(config)
    before: ChannelState = self.channels[channel_id]
    if amount > max_value(uint128) - before.balance:
        raw_revert(method_id("DepositOverflow()"))
    self.channels[channel_id].balance = before.balance + amount

    # A collector is anybody's contract: what counts is the money that arrived, not what it says.
    held: uint256 = staticcall Token(config.token).balanceOf(self)
    extcall DepositCollector(collector).collect(
        config.payer, config.token, convert(amount, uint256), channel_id, collectorData
    )
    if staticcall Token(config.token).balanceOf(self) != held + convert(amount, uint256):
        raw_revert(method_id("DepositCollectionFailed()"))

    if before.balance == 0 and before.totalClaimed == 0:
        log ChannelCreated(channelId=channel_id, config=config)
    log Deposited(
        channelId=channel_id,
        sender=msg.sender,
        amount=amount,
        newBalance=before.balance + amount,
    )


# --- money to the receiver --------------------------------------------------------------------


@external
@nonreentrant
def claim(voucherClaims: DynArray[VoucherClaim, MAX_CLAIMS]):
    """
    @notice Record vouchers, sent by the receiver's side of every channel in the batch.
    """
    if len(voucherClaims) == 0:
        raw_revert(method_id("EmptyBatch()"))
    for row: VoucherClaim in voucherClaims:
        if not self._is_receiver_side(row.voucher.channel):
            raw_revert(method_id("NotAuthorizedToClaim()"))
        self._claim(row)


@external
@nonreentrant
def claimWithSignature(
    voucherClaims: DynArray[VoucherClaim, MAX_CLAIMS],
    authorizerSignature: Bytes[SIGNATURE_BYTES],
):
    """
    @notice Record vouchers, sent by anyone with a signature of the batch by the one
            receiverAuthorizer that all its channels share.
    """
    if len(voucherClaims) == 0:
        raw_revert(method_id("EmptyBatch()"))
    authorizer: address = voucherClaims[0].voucher.channel.receiverAuthorizer
    entries: DynArray[bytes32, MAX_CLAIMS] = []
    for row: VoucherClaim in voucherClaims:
        entries.append(self._entry_hash(row))
    if not self._signed_by(authorizer, self._batch_digest(entries), authorizerSignature):
        raw_revert(method_id("InvalidSignature()"))
    for row: VoucherClaim in voucherClaims:
        if row.voucher.channel.receiverAuthorizer != authorizer:
            raw_revert(method_id("NotReceiverAuthorizer()"))
        self._claim(row)


@external
@nonreentrant
def settle(receiver: address, token: address):
    """
    @notice Pay the receiver all that was claimed for it in this token and not yet paid.
    """
    pot: ReceiverState = self.receivers[receiver][token]
    amount: uint128 = pot.totalClaimed - pot.totalSettled
    if amount == 0:
        return
    self.receivers[receiver][token].totalSettled = pot.totalClaimed
    self._pay(token, receiver, amount)
    log Settled(receiver=receiver, token=token, sender=msg.sender, amount=amount)


# --- money back to the payer ------------------------------------------------------------------


@external
@nonreentrant
def initiateWithdraw(config: ChannelConfig, amount: uint128):
    """
    @notice Start the delay after which the payer takes unclaimed money back by itself.
    """
    if not self._is_payer_side(config):
        raw_revert(method_id("InvalidChannel()"))
    if amount == 0:
        raw_revert(method_id("NothingToWithdraw()"))
    channel_id: bytes32 = self._channel_id(config)
    if self.pendingWithdrawals[channel_id].initiatedAt != 0:
        raw_revert(method_id("WithdrawalAlreadyPending()"))
    if amount > self._unclaimed(channel_id):
        raw_revert(method_id("WithdrawAmountExceedsAvailable()"))

    now: uint40 = convert(block.timestamp, uint40)
    self.pendingWithdrawals[channel_id] = WithdrawalState(amount=amount, initiatedAt=now)
    log WithdrawInitiated(
        channelId=channel_id, amount=amount, finalizeAfter=now + config.withdrawDelay
    )


@external
@nonreentrant
def finalizeWithdraw(config: ChannelConfig):
    """
    @notice Take what was asked for, or what is still unclaimed if that is less.
    """
    if not self._is_payer_side(config):
        raw_revert(method_id("NotAuthorizedToFinalizeWithdraw()"))
    channel_id: bytes32 = self._channel_id(config)
    pending: WithdrawalState = self.pendingWithdrawals[channel_id]
    if pending.initiatedAt == 0:
        raw_revert(method_id("WithdrawalNotPending()"))
    if block.timestamp < convert(pending.initiatedAt, uint256) + convert(
        config.withdrawDelay, uint256
    ):
        raw_revert(method_id("WithdrawDelayNotElapsed()"))

    amount: uint128 = min(pending.amount, self._unclaimed(channel_id))
    self.pendingWithdrawals[channel_id] = empty(WithdrawalState)
    self.channels[channel_id].balance -= amount
    log WithdrawFinalized(channelId=channel_id, sender=msg.sender, amount=amount)
    self._log_if_closed(channel_id, config)
    if amount > 0:
        self._pay(config.token, config.payer, amount)


@external
@nonreentrant
def refund(config: ChannelConfig, amount: uint128):
    """
    @notice The receiver's side gives unclaimed money back to the payer.
    """
    if not self._is_receiver_side(config):
        raw_revert(method_id("NotAuthorizedToRefund()"))
    self._refund(config, amount)


@external
@nonreentrant
def refundWithSignature(
    config: ChannelConfig,
    amount: uint128,
    nonce: uint256,
    receiverAuthorizerSignature: Bytes[SIGNATURE_BYTES],
):
    """
    @notice The same, sent by anyone with the receiverAuthorizer's signature.
    """
    channel_id: bytes32 = self._channel_id(config)
    if nonce != self.refundNonce[channel_id]:
        raw_revert(method_id("InvalidRefundNonce()"))
    digest: bytes32 = self._refund_digest(channel_id, nonce, amount)
    if not self._signed_by(config.receiverAuthorizer, digest, receiverAuthorizerSignature):
        raw_revert(method_id("InvalidSignature()"))
    self._refund(config, amount)


# --- several calls in one ---------------------------------------------------------------------


@external
@raw_return
def __default__() -> Bytes[MAX_CALLS * (RESULT_BYTES + 64) + 64]:
    """
    @notice multicall(bytes[] data) returns (bytes[]): run calls of this contract on the sender's
            behalf; one that fails takes all of them with it.
    @dev Declared as a function, its argument would be laid out in memory for the worst case, which
         costs two million gas. So it is answered here, and each call is read from calldata in turn.
    """
    if len(msg.data) < 4 or convert(slice(msg.data, 0, 4), bytes4) != method_id(
        "multicall(bytes[])", output_type=bytes4
    ):
        raw_revert(b"")
    array: uint256 = 4 + self._word(4)
    results: DynArray[Bytes[RESULT_BYTES], MAX_CALLS] = []
    for i: uint256 in range(self._word(array), bound=MAX_CALLS):
        call: uint256 = array + 32 + self._word(array + 32 + 32 * i)
        length: uint256 = self._word(call)
        words: DynArray[bytes32, CALL_WORDS] = []
        for j: uint256 in range((length + 31) // 32, bound=CALL_WORDS):
            words.append(convert(self._word(call + 32 + 32 * j), bytes32))
        results.append(
            raw_call(
                self,
                slice(abi_encode(words), 64, length),
                max_outsize=RESULT_BYTES,
                is_delegate_call=True,
            )
        )
    return abi_encode(results)


@internal
@view
def _word(position: uint256) -> uint256:
    return convert(slice(msg.data, position, 32), uint256)


# --- reading ----------------------------------------------------------------------------------


@external
@view
def getChannelId(config: ChannelConfig) -> bytes32:
    return self._channel_id(config)


@external
@view
def getVoucherDigest(channelId: bytes32, maxClaimableAmount: uint128) -> bytes32:
    return self._voucher_digest(channelId, maxClaimableAmount)


@external
@view
def getRefundDigest(channelId: bytes32, nonce: uint256, amount: uint128) -> bytes32:
    return self._refund_digest(channelId, nonce, amount)


@external
@view
def getClaimBatchDigest(voucherClaims: DynArray[VoucherClaim, MAX_CLAIMS]) -> bytes32:
    entries: DynArray[bytes32, MAX_CLAIMS] = []
    for row: VoucherClaim in voucherClaims:
        entries.append(self._entry_hash(row))
    return self._batch_digest(entries)


@external
@view
def eip712Domain() -> (
    bytes1, String[21], String[1], uint256, address, bytes32, DynArray[uint256, 1]
):
    # 0x0f: name, version, chainId and verifyingContract are in use (ERC-5267).
    return (
        0x0f, DOMAIN_NAME, DOMAIN_VERSION, chain.id, self, empty(bytes32), empty(DynArray[uint256, 1])
    )


# --- the rules --------------------------------------------------------------------------------


@internal
def _claim(row: VoucherClaim):
    config: ChannelConfig = row.voucher.channel
    channel_id: bytes32 = self._channel_id(config)
    state: ChannelState = self.channels[channel_id]
    # Totals only grow: an old voucher, or the same one again, changes nothing and hurts nobody.
    if row.totalClaimed <= state.totalClaimed:
        return
    if row.totalClaimed > row.voucher.maxClaimableAmount:
        raw_revert(method_id("ClaimExceedsCeiling()"))
    if row.totalClaimed > state.balance:
        raw_revert(method_id("ClaimExceedsBalance()"))

    digest: bytes32 = self._voucher_digest(channel_id, row.voucher.maxClaimableAmount)
    if config.payerAuthorizer != empty(address):
        if self._recover_or_revert(digest, row.signature) != config.payerAuthorizer:
            raw_revert(method_id("InvalidSignature()"))
    elif not self._signed_by(config.payer, digest, row.signature):
        raw_revert(method_id("InvalidSignature()"))

    delta: uint128 = row.totalClaimed - state.totalClaimed
    self.channels[channel_id].totalClaimed = row.totalClaimed
    self.receivers[config.receiver][config.token].totalClaimed += delta
    log Claimed(
        channelId=channel_id,
        sender=msg.sender,
        claimAmount=delta,
        newTotalClaimed=row.totalClaimed,
    )


@internal
def _refund(config: ChannelConfig, amount: uint128):
    if amount == 0:
        raw_revert(method_id("ZeroRefund()"))
    channel_id: bytes32 = self._channel_id(config)
    # The nonce is used up even when nothing moves, so that no signature is ever good twice.
    self.refundNonce[channel_id] = unsafe_add(self.refundNonce[channel_id], 1)
    refunded: uint128 = min(amount, self._unclaimed(channel_id))
    if refunded == 0:
        return
    self.channels[channel_id].balance -= refunded

    # What went back now is not withdrawn once more later.
    pending: WithdrawalState = self.pendingWithdrawals[channel_id]
    if pending.initiatedAt != 0:
        if refunded >= pending.amount:
            self.pendingWithdrawals[channel_id] = empty(WithdrawalState)
        else:
            self.pendingWithdrawals[channel_id].amount = pending.amount - refunded

    log Refunded(channelId=channel_id, sender=msg.sender, amount=refunded)
    self._log_if_closed(channel_id, config)
    self._pay(config.token, config.payer, refunded)


@internal
def _log_if_closed(channel_id: bytes32, config: ChannelConfig):
    state: ChannelState = self.channels[channel_id]
    if state.balance == 0 and state.totalClaimed == 0:
        log ChannelClosed(channelId=channel_id, config=config)


@internal
def _pay(token: address, to: address, amount: uint128):
    # Some tokens return nothing: that is a success. False is not.
    if not extcall Token(token).transfer(to, convert(amount, uint256), default_return_value=True):
        raw_revert(
            concat(method_id("SafeERC20FailedOperation(address)"), convert(token, bytes32))
        )


@internal
@view
def _unclaimed(channel_id: bytes32) -> uint128:
    state: ChannelState = self.channels[channel_id]
    return state.balance - state.totalClaimed


@internal
@view
def _is_receiver_side(config: ChannelConfig) -> bool:
    return msg.sender == config.receiverAuthorizer or msg.sender == config.receiver


@internal
@view
def _is_payer_side(config: ChannelConfig) -> bool:
    return msg.sender == config.payer or msg.sender == config.payerAuthorizer


# --- signatures -------------------------------------------------------------------------------


@internal
@view
def _signed_by(signer: address, digest: bytes32, signature: Bytes[SIGNATURE_BYTES]) -> bool:
    # An account with code decides for itself (EIP-1271), also a key that delegates (EIP-7702).
    if signer.is_contract:
        success: bool = False
        answer: Bytes[32] = b""
        success, answer = raw_call(
            signer,
            abi_encode(digest, signature, method_id=method_id("isValidSignature(bytes32,bytes)")),
            max_outsize=32,
            is_static_call=True,
            revert_on_failure=False,
        )
        return success and len(answer) == 32 and convert(answer, bytes32) == convert(
            EIP1271_MAGIC, bytes32
        )
    if len(signature) != 65 or convert(slice(signature, 32, 32), uint256) > HALF_CURVE_ORDER:
        return False
    recovered: address = self._recover(digest, signature)
    return recovered != empty(address) and recovered == signer


@internal
@view
def _recover_or_revert(digest: bytes32, signature: Bytes[SIGNATURE_BYTES]) -> address:
    if len(signature) != 65:
        raw_revert(
            concat(
                method_id("ECDSAInvalidSignatureLength(uint256)"),
                convert(len(signature), bytes32),
            )
        )
    s: bytes32 = convert(slice(signature, 32, 32), bytes32)
    if convert(s, uint256) > HALF_CURVE_ORDER:
        raw_revert(concat(method_id("ECDSAInvalidSignatureS(bytes32)"), s))
    recovered: address = self._recover(digest, signature)
    if recovered == empty(address):
        raw_revert(method_id("ECDSAInvalidSignature()"))
    return recovered


@internal
@pure
def _recover(digest: bytes32, signature: Bytes[SIGNATURE_BYTES]) -> address:
    # A `v` other than 27 or 28 recovers nobody: that is the precompile's own rule.
    return ecrecover(
        digest,
        convert(slice(signature, 64, 1), uint256),
        convert(slice(signature, 0, 32), uint256),
        convert(slice(signature, 32, 32), uint256),
    )


# --- what is signed (EIP-712) -----------------------------------------------------------------


@internal
@view
def _typed_digest(struct_hash: bytes32) -> bytes32:
    domain: bytes32 = keccak256(
        abi_encode(
            DOMAIN_TYPEHASH, keccak256(DOMAIN_NAME), keccak256(DOMAIN_VERSION), chain.id, self
        )
    )
    return keccak256(concat(x"1901", domain, struct_hash))


@internal
@view
def _channel_id(config: ChannelConfig) -> bytes32:
    return self._typed_digest(keccak256(abi_encode(CHANNEL_CONFIG_TYPEHASH, config)))


@internal
@view
def _voucher_digest(channel_id: bytes32, max_claimable_amount: uint128) -> bytes32:
    return self._typed_digest(
        keccak256(abi_encode(VOUCHER_TYPEHASH, channel_id, max_claimable_amount))
    )


@internal
@view
def _refund_digest(channel_id: bytes32, nonce: uint256, amount: uint128) -> bytes32:
    return self._typed_digest(keccak256(abi_encode(REFUND_TYPEHASH, channel_id, nonce, amount)))


@internal
@view
def _entry_hash(row: VoucherClaim) -> bytes32:
    return keccak256(
        abi_encode(
            CLAIM_ENTRY_TYPEHASH,
            self._channel_id(row.voucher.channel),
            row.voucher.maxClaimableAmount,
            row.totalClaimed,
        )
    )


@internal
@view
def _batch_digest(entries: DynArray[bytes32, MAX_CLAIMS]) -> bytes32:
    # The encoding of an array starts with its offset and length; EIP-712 hashes the items alone.
    items: Bytes[32 * MAX_CLAIMS + 64] = slice(abi_encode(entries), 64, 32 * len(entries))
    return self._typed_digest(keccak256(abi_encode(CLAIM_BATCH_TYPEHASH, keccak256(items))))
