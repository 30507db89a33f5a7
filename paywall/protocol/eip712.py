"""EIP-712 digests of our fixed types, and canonical ECDSA signatures.

The types are few and never change, so their digests are written out: a type hash, the fields as
32-byte words, one keccak. The domain is hashed once per network. Signatures are 65 bytes with a
low s and v of 27 or 28 and nothing else: the settlement contract refuses the other spellings of
the same signature, and one row that it refuses would revert a whole batch of claims.

Sources: EIP-712 "Definition of hashStruct"; batch-settlement EVM specification "Appendix";
EIP-3009 "Use with relayers"; EIP-2 for the low s.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from coincurve import PrivateKey, PublicKey
from coincurve._libsecp256k1 import ffi, lib
from coincurve.context import GLOBAL_CONTEXT
from sha3 import keccak_256

from paywall.protocol.money import Address

SETTLEMENT_ADDRESS: Final = Address(bytes.fromhex("4020074e9dF2ce1deE5A9C1b5c3f541D02a10003"))
COLLECTOR_ADDRESS: Final = Address(bytes.fromhex("4020806089470a89826cB9fB1f4059150b550004"))
"""The canonical settlement contract and its ERC-3009 deposit collector, the same on every chain."""

_N: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_HALF_N: Final = (_N // 2).to_bytes(32, "big")
_ZERO_WORD: Final = bytes(32)
_PAD: Final = bytes(12)
_CONTEXT: Final = GLOBAL_CONTEXT.ctx
_SIGNATURE: Final = ffi.typeof("secp256k1_ecdsa_recoverable_signature *")
_KEY: Final = ffi.typeof("secp256k1_pubkey *")
_new, _bytes_of = ffi.new, ffi.buffer
_parse: Final = lib.secp256k1_ecdsa_recoverable_signature_parse_compact
_recover: Final = lib.secp256k1_ecdsa_recover


def keccak(data: bytes) -> bytes:
    digest: bytes = keccak_256(data).digest()
    return digest


def word(value: int) -> bytes:
    """A 32-byte big-endian word."""
    return value.to_bytes(32, "big")


_DOMAIN_TYPE: Final = keccak(
    b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
)
_CONFIG_TYPE: Final = keccak(
    b"ChannelConfig(address payer,address payerAuthorizer,address receiver,"
    b"address receiverAuthorizer,address token,uint40 withdrawDelay,bytes32 salt)"
)
_VOUCHER_TYPE: Final = keccak(b"Voucher(bytes32 channelId,uint128 maxClaimableAmount)")
_REFUND_TYPE: Final = keccak(b"Refund(bytes32 channelId,uint256 nonce,uint128 amount)")
_ENTRY: Final = b"ClaimEntry(bytes32 channelId,uint128 maxClaimableAmount,uint128 totalClaimed)"
_ENTRY_TYPE: Final = keccak(_ENTRY)
_BATCH_TYPE: Final = keccak(b"ClaimBatch(ClaimEntry[] claims)" + _ENTRY)
_AUTHORIZATION: Final = (
    b"WithAuthorization(address from,address to,uint256 value,"
    b"uint256 validAfter,uint256 validBefore,bytes32 nonce)"
)
_TRANSFER_TYPE: Final = keccak(b"Transfer" + _AUTHORIZATION)
_RECEIVE_TYPE: Final = keccak(b"Receive" + _AUTHORIZATION)


def domain_separator(name: str, version: str, chain_id: int, contract: Address) -> bytes:
    return keccak(
        _DOMAIN_TYPE
        + keccak(name.encode())
        + keccak(version.encode())
        + word(chain_id)
        + _PAD
        + contract
    )


@lru_cache(maxsize=256)
def settlement_domain(chain_id: int) -> bytes:
    """The domain of the settlement contract on one chain, hashed once."""
    return domain_separator("x402 Batch Settlement", "1", chain_id, SETTLEMENT_ADDRESS)


def _typed(domain: bytes, struct: bytes) -> bytes:
    return keccak(b"\x19\x01" + domain + keccak(struct))


def channel_id(
    domain: bytes,
    payer: Address,
    payer_authorizer: Address,
    receiver: Address,
    receiver_authorizer: Address,
    token: Address,
    withdraw_delay_seconds: int,
    salt: bytes,
) -> bytes:
    """The channel's id: the typed-data digest of its config, in the config's own order."""
    return _typed(
        domain,
        b"".join(
            (
                _CONFIG_TYPE,
                *(
                    _PAD + a
                    for a in (payer, payer_authorizer, receiver, receiver_authorizer, token)
                ),
                word(withdraw_delay_seconds),
                salt,
            )
        ),
    )


def voucher_digest(domain: bytes, channel: bytes, amount: int) -> bytes:
    return _typed(domain, _VOUCHER_TYPE + channel + word(amount))


def refund_digest(domain: bytes, channel: bytes, refund_nonce: int, amount: int) -> bytes:
    return _typed(domain, _REFUND_TYPE + channel + word(refund_nonce) + word(amount))


def claim_batch_digest(domain: bytes, entries: Sequence[tuple[bytes, int, int]]) -> bytes:
    """The digest of a claim batch; each entry is (channel id, signed total, total to claim)."""
    hashes = (
        keccak(_ENTRY_TYPE + channel + word(signed) + word(claimed))
        for channel, signed, claimed in entries
    )
    return _typed(domain, _BATCH_TYPE + keccak(b"".join(hashes)))


@dataclass(frozen=True, slots=True)
class Authorization:
    """An EIP-3009 authorization of a token transfer. Times are Unix seconds, value atomic units."""

    payer: Address
    to: Address
    value: int
    valid_after: int
    valid_before: int
    authorization_nonce: bytes

    def _struct(self) -> bytes:
        return b"".join(
            (
                _PAD + self.payer,
                _PAD + self.to,
                word(self.value),
                word(self.valid_after),
                word(self.valid_before),
                self.authorization_nonce,
            )
        )

    def receive_digest(self, token_domain: bytes) -> bytes:
        """Of `ReceiveWithAuthorization`, which only `to` may submit: the way of deposits."""
        return _typed(token_domain, _RECEIVE_TYPE + self._struct())

    def transfer_digest(self, token_domain: bytes) -> bytes:
        """Of `TransferWithAuthorization`, which anybody may submit: the way of `exact`."""
        return _typed(token_domain, _TRANSFER_TYPE + self._struct())


def deposit_nonce(channel: bytes, salt: int) -> bytes:
    """The authorization nonce that the ERC-3009 collector derives from channel and salt."""
    return keccak(channel + word(salt))


class BadSignature(ValueError):
    """Not a canonical signature, or not one at all."""


def sign(key: PrivateKey, digest: bytes) -> bytes:
    """A deterministic canonical signature: r, s (low, as libsecp256k1 makes it), v of 27 or 28."""
    compact = key.sign_recoverable(digest, hasher=None)
    return compact[:64] + bytes((compact[64] + 27,))


def recover(digest: bytes, signature: bytes) -> Address:
    """Who signed. Raises BadSignature for every spelling that the contract would refuse."""
    if len(signature) != 65 or signature[64] not in (27, 28):
        raise BadSignature("a signature is 65 bytes with v of 27 or 28")
    s = signature[32:64]
    if s > _HALF_N or s == _ZERO_WORD:
        raise BadSignature("s is not low")
    assert len(digest) == 32
    parsed, key = _new(_SIGNATURE), _new(_KEY)
    if not _parse(_CONTEXT, parsed, signature, signature[64] - 27):
        raise BadSignature("r or s is out of range")
    if not _recover(_CONTEXT, key, parsed, digest):
        raise BadSignature("no key made this signature")
    return _address_of(_bytes_of(key)[:])


@lru_cache(maxsize=8192)
def _address_of(key: bytes) -> Address:
    """The address of a key as libsecp256k1 keeps it in this process. The same payers come again."""
    point = _new(_KEY)
    _bytes_of(point)[:] = key
    return Address(keccak(PublicKey(point).format(compressed=False)[1:])[12:])


def address_of(key: PrivateKey) -> Address:
    return Address(keccak(key.public_key.format(compressed=False)[1:])[12:])
