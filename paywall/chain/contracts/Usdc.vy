# pragma version ~=0.4.3
# pragma evm-version cancun
"""
@title A dollar to play with
@notice Looks and answers like USDC: six decimals, ERC-20, transfers by signature (EIP-3009) in both
        forms, approval by signature (EIP-2612), and the same words when it refuses.
@dev    No blacklist, no pause, no upgrade. The domain is computed at every use, so the runtime code
        is right on any chain and at any address. Vyper has no overloading: the forms with
        `signature` are ordinary functions, those with `v, r, s` arrive in __default__.
"""

SIGNATURE_BYTES: constant(uint256) = 2048

event Transfer:
    from_: indexed(address)
    to: indexed(address)
    value: uint256

event Approval:
    owner: indexed(address)
    spender: indexed(address)
    value: uint256

event AuthorizationUsed:
    authorizer: indexed(address)
    nonce: indexed(bytes32)

event AuthorizationCanceled:
    authorizer: indexed(address)
    nonce: indexed(bytes32)

event Mint:
    minter: indexed(address)
    to: indexed(address)
    amount: uint256

name: public(constant(String[4])) = "USDC"
symbol: public(constant(String[4])) = "USDC"
version: public(constant(String[1])) = "2"
currency: public(constant(String[3])) = "USD"
decimals: public(constant(uint8)) = 6

DOMAIN_TYPEHASH: constant(bytes32) = keccak256(
    "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
)
TRANSFER_WITH_AUTHORIZATION_TYPEHASH: public(constant(bytes32)) = keccak256(
    "TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
)
RECEIVE_WITH_AUTHORIZATION_TYPEHASH: public(constant(bytes32)) = keccak256(
    "ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
)
CANCEL_AUTHORIZATION_TYPEHASH: public(constant(bytes32)) = keccak256(
    "CancelAuthorization(address authorizer,bytes32 nonce)"
)
PERMIT_TYPEHASH: public(constant(bytes32)) = keccak256(
    "Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"
)
HALF_CURVE_ORDER: constant(uint256) = (
    57896044618658097711785492504343953926418782139537452191302581570759080747168
)
EIP1271_MAGIC: constant(bytes4) = 0x1626ba7e

struct Authorization:
    from_: address
    to: address
    value: uint256
    validAfter: uint256
    validBefore: uint256
    nonce: bytes32

minter: public(address)
totalSupply: public(uint256)
balanceOf: public(HashMap[address, uint256])
allowance: public(HashMap[address, HashMap[address, uint256]])
nonces: public(HashMap[address, uint256])
authorizationState: public(HashMap[address, HashMap[bytes32, bool]])


# --- ERC-20 -----------------------------------------------------------------------------------


@external
def transfer(to: address, value_: uint256) -> bool:
    self._transfer(msg.sender, to, value_)
    return True


@external
def transferFrom(from_: address, to: address, value_: uint256) -> bool:
    allowed: uint256 = self.allowance[from_][msg.sender]
    assert value_ <= allowed, "ERC20: transfer amount exceeds allowance"
    self._transfer(from_, to, value_)
    self.allowance[from_][msg.sender] = allowed - value_
    return True


@external
def approve(spender: address, value_: uint256) -> bool:
    self._approve(msg.sender, spender, value_)
    return True


@external
def mint(to: address, amount: uint256) -> bool:
    assert msg.sender == self.minter, "FiatToken: caller is not a minter"
    assert to != empty(address), "FiatToken: mint to the zero address"
    self.totalSupply += amount
    self.balanceOf[to] += amount
    log Mint(minter=msg.sender, to=to, amount=amount)
    log Transfer(from_=empty(address), to=to, value=amount)
    return True


# --- EIP-3009: transfers by signature ---------------------------------------------------------


@external
def transferWithAuthorization(
    from_: address,
    to: address,
    value_: uint256,
    validAfter: uint256,
    validBefore: uint256,
    nonce: bytes32,
    signature: Bytes[SIGNATURE_BYTES],
):
    """
    @notice Anyone may carry out what `from` signed.
    """
    self._transfer_with_authorization(
        TRANSFER_WITH_AUTHORIZATION_TYPEHASH,
        Authorization(
            from_=from_,
            to=to,
            value=value_,
            validAfter=validAfter,
            validBefore=validBefore,
            nonce=nonce,
        ),
        signature,
    )


@external
def receiveWithAuthorization(
    from_: address,
    to: address,
    value_: uint256,
    validAfter: uint256,
    validBefore: uint256,
    nonce: bytes32,
    signature: Bytes[SIGNATURE_BYTES],
):
    """
    @notice Only the payee may carry out what `from` signed, so nobody can run ahead of it.
    """
    assert to == msg.sender, "FiatTokenV2: caller must be the payee"
    self._transfer_with_authorization(
        RECEIVE_WITH_AUTHORIZATION_TYPEHASH,
        Authorization(
            from_=from_,
            to=to,
            value=value_,
            validAfter=validAfter,
            validBefore=validBefore,
            nonce=nonce,
        ),
        signature,
    )


@external
def cancelAuthorization(
    authorizer: address, nonce: bytes32, signature: Bytes[SIGNATURE_BYTES]
):
    self._cancel_authorization(authorizer, nonce, signature)


@external
def __default__():
    """
    @notice The forms of the three functions above that take `v, r, s` in place of `signature`.
    """
    selector: bytes4 = empty(bytes4)
    if len(msg.data) >= 4:
        selector = convert(slice(msg.data, 0, 4), bytes4)
    if selector == method_id("cancelAuthorization(address,bytes32,uint8,bytes32,bytes32)", output_type=bytes4):
        authorizer: address = empty(address)
        nonce: bytes32 = empty(bytes32)
        v: uint8 = 0
        r: bytes32 = empty(bytes32)
        s: bytes32 = empty(bytes32)
        authorizer, nonce, v, r, s = abi_decode(
            slice(msg.data, 4, 160), (address, bytes32, uint8, bytes32, bytes32)
        )
        self._cancel_authorization(authorizer, nonce, self._packed(v, r, s))
        return

    type_hash: bytes32 = empty(bytes32)
    if selector == method_id("transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,uint8,bytes32,bytes32)", output_type=bytes4):
        type_hash = TRANSFER_WITH_AUTHORIZATION_TYPEHASH
    elif selector == method_id("receiveWithAuthorization(address,address,uint256,uint256,uint256,bytes32,uint8,bytes32,bytes32)", output_type=bytes4):
        type_hash = RECEIVE_WITH_AUTHORIZATION_TYPEHASH
    else:
        raw_revert(b"")
    authorization: Authorization = abi_decode(
        slice(msg.data, 4, 192), Authorization, unwrap_tuple=False
    )
    if type_hash == RECEIVE_WITH_AUTHORIZATION_TYPEHASH:
        assert authorization.to == msg.sender, "FiatTokenV2: caller must be the payee"
    v: uint8 = 0
    r: bytes32 = empty(bytes32)
    s: bytes32 = empty(bytes32)
    v, r, s = abi_decode(slice(msg.data, 196, 96), (uint8, bytes32, bytes32))
    self._transfer_with_authorization(type_hash, authorization, self._packed(v, r, s))


# --- EIP-2612: approval by signature ----------------------------------------------------------


@external
def permit(
    owner: address,
    spender: address,
    value_: uint256,
    deadline: uint256,
    v: uint8,
    r: bytes32,
    s: bytes32,
):
    assert deadline >= block.timestamp, "FiatTokenV2: permit is expired"
    nonce: uint256 = self.nonces[owner]
    self.nonces[owner] = nonce + 1
    struct_hash: bytes32 = keccak256(
        abi_encode(PERMIT_TYPEHASH, owner, spender, value_, nonce, deadline)
    )
    assert self._signed_by(owner, struct_hash, self._packed(v, r, s)), "EIP2612: invalid signature"
    self._approve(owner, spender, value_)


@external
@view
def DOMAIN_SEPARATOR() -> bytes32:
    return self._domain_separator()


# --- the rules --------------------------------------------------------------------------------


@internal
def _transfer(from_: address, to: address, value_: uint256):
    assert from_ != empty(address), "ERC20: transfer from the zero address"
    assert to != empty(address), "ERC20: transfer to the zero address"
    assert value_ <= self.balanceOf[from_], "ERC20: transfer amount exceeds balance"
    self.balanceOf[from_] -= value_
    self.balanceOf[to] += value_
    log Transfer(from_=from_, to=to, value=value_)


@internal
def _approve(owner: address, spender: address, value_: uint256):
    assert owner != empty(address), "ERC20: approve from the zero address"
    assert spender != empty(address), "ERC20: approve to the zero address"
    self.allowance[owner][spender] = value_
    log Approval(owner=owner, spender=spender, value=value_)


@internal
def _transfer_with_authorization(
    type_hash: bytes32, authorization: Authorization, signature: Bytes[SIGNATURE_BYTES]
):
    payer: address = authorization.from_
    assert (
        block.timestamp > authorization.validAfter
    ), "FiatTokenV2: authorization is not yet valid"
    assert block.timestamp < authorization.validBefore, "FiatTokenV2: authorization is expired"
    self._require_unused(payer, authorization.nonce)
    struct_hash: bytes32 = keccak256(abi_encode(type_hash, authorization))
    assert self._signed_by(payer, struct_hash, signature), "FiatTokenV2: invalid signature"
    self.authorizationState[payer][authorization.nonce] = True
    log AuthorizationUsed(authorizer=payer, nonce=authorization.nonce)
    self._transfer(payer, authorization.to, authorization.value)


@internal
def _cancel_authorization(
    authorizer: address, nonce: bytes32, signature: Bytes[SIGNATURE_BYTES]
):
    self._require_unused(authorizer, nonce)
    struct_hash: bytes32 = keccak256(
        abi_encode(CANCEL_AUTHORIZATION_TYPEHASH, authorizer, nonce)
    )
    assert self._signed_by(authorizer, struct_hash, signature), "FiatTokenV2: invalid signature"
    self.authorizationState[authorizer][nonce] = True
    log AuthorizationCanceled(authorizer=authorizer, nonce=nonce)


@internal
@view
def _require_unused(authorizer: address, nonce: bytes32):
    assert not self.authorizationState[authorizer][
        nonce
    ], "FiatTokenV2: authorization is used or canceled"


@internal
@view
def _domain_separator() -> bytes32:
    return keccak256(
        abi_encode(DOMAIN_TYPEHASH, keccak256(name), keccak256(version), chain.id, self)
    )


@internal
@view
def _signed_by(
    signer: address, struct_hash: bytes32, signature: Bytes[SIGNATURE_BYTES]
) -> bool:
    digest: bytes32 = keccak256(concat(x"1901", self._domain_separator(), struct_hash))
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
    assert len(signature) == 65, "ECRecover: invalid signature length"
    s: uint256 = convert(slice(signature, 32, 32), uint256)
    v: uint256 = convert(slice(signature, 64, 1), uint256)
    assert s <= HALF_CURVE_ORDER, "ECRecover: invalid signature 's' value"
    assert v == 27 or v == 28, "ECRecover: invalid signature 'v' value"
    recovered: address = ecrecover(digest, v, convert(slice(signature, 0, 32), uint256), s)
    assert recovered != empty(address), "ECRecover: invalid signature"
    return recovered == signer


@internal
@pure
def _packed(v: uint8, r: bytes32, s: bytes32) -> Bytes[65]:
    return concat(r, s, convert(v, bytes1))
