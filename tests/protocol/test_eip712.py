"""Digests are those of EIP-712, and only the spelling of a signature that the contract takes."""

import pytest
from coincurve import PrivateKey
from eth_account import Account
from eth_account.messages import SignableMessage, encode_typed_data
from eth_utils import keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from paywall.protocol import eip712
from paywall.protocol.eip712 import Authorization, BadSignature
from paywall.protocol.limits import UINT128_MAX, UINT256_MAX
from paywall.protocol.money import Address

N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
DIGEST = keccak(b"a digest")
KEY = PrivateKey(bytes([7]) * 32)

bytes32 = st.binary(min_size=32, max_size=32)
addresses = st.binary(min_size=20, max_size=20).map(Address)
uint40 = st.integers(0, 2**40 - 1)
uint128 = st.integers(0, UINT128_MAX)
uint256 = st.integers(0, UINT256_MAX)
chain_ids = st.integers(1, 2**63)
keys = st.integers(1, N - 1).map(lambda secret: PrivateKey(secret.to_bytes(32, "big")))

TYPES = {
    "ChannelConfig": [
        {"name": "payer", "type": "address"},
        {"name": "payerAuthorizer", "type": "address"},
        {"name": "receiver", "type": "address"},
        {"name": "receiverAuthorizer", "type": "address"},
        {"name": "token", "type": "address"},
        {"name": "withdrawDelay", "type": "uint40"},
        {"name": "salt", "type": "bytes32"},
    ],
    "Voucher": [
        {"name": "channelId", "type": "bytes32"},
        {"name": "maxClaimableAmount", "type": "uint128"},
    ],
    "Refund": [
        {"name": "channelId", "type": "bytes32"},
        {"name": "nonce", "type": "uint256"},
        {"name": "amount", "type": "uint128"},
    ],
    "ClaimEntry": [
        {"name": "channelId", "type": "bytes32"},
        {"name": "maxClaimableAmount", "type": "uint128"},
        {"name": "totalClaimed", "type": "uint128"},
    ],
    "ClaimBatch": [{"name": "claims", "type": "ClaimEntry[]"}],
}
AUTHORIZATION_TYPE = [
    {"name": "from", "type": "address"},
    {"name": "to", "type": "address"},
    {"name": "value", "type": "uint256"},
    {"name": "validAfter", "type": "uint256"},
    {"name": "validBefore", "type": "uint256"},
    {"name": "nonce", "type": "bytes32"},
]


def expected(kind: str, message: dict[str, object], domain: dict[str, object]) -> bytes:
    """The digest as eth-account's encoder makes it."""
    types = {kind: AUTHORIZATION_TYPE} if "Authorization" in kind else {kind: TYPES[kind]}
    if kind == "ClaimBatch":
        types["ClaimEntry"] = TYPES["ClaimEntry"]
    signable: SignableMessage = encode_typed_data(domain, types, message)
    return keccak(b"\x19" + signable.version + signable.header + signable.body)


def settlement(chain_id: int) -> dict[str, object]:
    return {
        "name": "x402 Batch Settlement",
        "version": "1",
        "chainId": chain_id,
        "verifyingContract": "0x4020074e9dF2ce1deE5A9C1b5c3f541D02a10003",
    }


@given(chain_ids, st.lists(addresses, min_size=5, max_size=5), uint40, bytes32)
def test_a_channel_id_is_the_digest_of_its_config(
    chain_id: int, parties: list[Address], delay: int, salt: bytes
) -> None:
    payer, authorizer, receiver, receiver_authorizer, token = parties
    message = {
        "payer": payer,
        "payerAuthorizer": authorizer,
        "receiver": receiver,
        "receiverAuthorizer": receiver_authorizer,
        "token": token,
        "withdrawDelay": delay,
        "salt": salt,
    }
    found = eip712.channel_id(
        eip712.settlement_domain(chain_id),
        payer,
        authorizer,
        receiver,
        receiver_authorizer,
        token,
        delay,
        salt,
    )
    assert found == expected("ChannelConfig", message, settlement(chain_id))


@given(chain_ids, bytes32, uint128)
def test_a_voucher_digest_is_typed_data(chain_id: int, channel: bytes, amount: int) -> None:
    message = {"channelId": channel, "maxClaimableAmount": amount}
    found = eip712.voucher_digest(eip712.settlement_domain(chain_id), channel, amount)
    assert found == expected("Voucher", message, settlement(chain_id))


@given(chain_ids, bytes32, uint256, uint128)
def test_a_refund_digest_is_typed_data(
    chain_id: int, channel: bytes, refund_nonce: int, amount: int
) -> None:
    message = {"channelId": channel, "nonce": refund_nonce, "amount": amount}
    domain = eip712.settlement_domain(chain_id)
    found = eip712.refund_digest(domain, channel, refund_nonce, amount)
    assert found == expected("Refund", message, settlement(chain_id))


@given(chain_ids, st.lists(st.tuples(bytes32, uint128, uint128), max_size=5))
def test_a_claim_batch_digest_is_typed_data(
    chain_id: int, entries: list[tuple[bytes, int, int]]
) -> None:
    claims = [
        {"channelId": channel, "maxClaimableAmount": signed, "totalClaimed": claimed}
        for channel, signed, claimed in entries
    ]
    found = eip712.claim_batch_digest(eip712.settlement_domain(chain_id), entries)
    assert found == expected("ClaimBatch", {"claims": claims}, settlement(chain_id))


@given(
    st.tuples(st.text(max_size=20), st.text(max_size=5), chain_ids, addresses),
    st.tuples(addresses, addresses, uint256, uint256, uint256, bytes32),
)
def test_token_authorizations_are_typed_data_under_the_tokens_own_domain(
    token: tuple[str, str, int, Address], fields: tuple[Address, Address, int, int, int, bytes]
) -> None:
    name, version, chain_id, contract = token
    domain = dict(zip(("name", "version", "chainId", "verifyingContract"), token, strict=True))
    names = ("from", "to", "value", "validAfter", "validBefore", "nonce")
    message = dict(zip(names, fields, strict=True))
    separator = eip712.domain_separator(name, version, chain_id, contract)
    authorization = Authorization(*fields)
    assert authorization.transfer_digest(separator) == expected(
        "TransferWithAuthorization", message, domain
    )
    assert authorization.receive_digest(separator) == expected(
        "ReceiveWithAuthorization", message, domain
    )


@given(bytes32, uint256)
def test_a_deposit_nonce_is_the_hash_of_channel_and_salt(channel: bytes, salt: int) -> None:
    assert eip712.deposit_nonce(channel, salt) == keccak(channel + salt.to_bytes(32, "big"))


# -- Signatures ----------------------------------------------------------------------------------


@settings(max_examples=50)
@given(keys, bytes32)
def test_who_signed_is_recovered_and_eth_account_agrees(key: PrivateKey, digest: bytes) -> None:
    signature = eip712.sign(key, digest)
    theirs = Account.unsafe_sign_hash(digest, key.secret)
    assert signature == bytes(theirs.signature)
    assert eip712.recover(digest, signature) == eip712.address_of(key)
    assert eip712.address_of(key) == bytes.fromhex(Account.from_key(key.secret).address[2:])


def test_another_digest_recovers_another_signer() -> None:
    signature = eip712.sign(KEY, DIGEST)
    assert eip712.recover(keccak(b"other"), signature) != eip712.address_of(KEY)


def broken() -> dict[str, bytes]:
    good = eip712.sign(KEY, DIGEST)
    r, s, v = good[:32], good[32:64], good[64:]
    high = (N - int.from_bytes(s, "big")).to_bytes(32, "big")
    flipped = bytes((55 - v[0],))
    n, zero = N.to_bytes(32, "big"), bytes(32)
    return {
        "high s with its own v": r + high + flipped,
        "high s": r + high + v,
        "v 0 or 1": r + s + bytes((v[0] - 27,)),
        "v 29": r + s + b"\x1d",
        "v 255": r + s + b"\xff",
        "nothing": b"",
        "64 bytes": good[:64],
        "66 bytes": good + b"\x00",
        "r zero": zero + s + v,
        "r of n": n + s + v,
        "r above n": b"\xff" * 32 + s + v,
        "s zero": r + zero + v,
        "s of n": r + n + v,
        "all zero": bytes(65),
        "zero with v": bytes(64) + b"\x1b",
        "r on no curve point": (5).to_bytes(32, "big") + s + v,
    }


@pytest.mark.parametrize("name", broken())
def test_case_31_every_spelling_that_the_contract_refuses_is_refused(name: str) -> None:
    with pytest.raises(BadSignature):
        eip712.recover(DIGEST, broken()[name])


@given(st.binary(max_size=70))
def test_random_bytes_never_do_more_than_fail_or_name_a_stranger(signature: bytes) -> None:
    try:
        signer = eip712.recover(DIGEST, signature)
    except BadSignature:
        return
    assert signer != eip712.address_of(KEY)
