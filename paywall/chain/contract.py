"""The settlement contract, the token and Multicall3 in bytes: calldata out, results in.

Pure: no node, no sockets, no clock. Inside, an address is 20 bytes, an id 32 bytes and an amount an
int; ABI encoding happens here and nowhere else. Selectors and topics are computed once, from the
same type strings that encode the arguments, so that the two cannot disagree.

It refuses to know which call is wise: that is for the node that sends it. Results come from a node
that may lie or be broken, so decoding raises `BadAnswer` and nothing else. Logs and reverts
are read beside this module, in `events` and `reverts`, and are here too.

Sources: batch-settlement EVM specification, "Contract"; EIP-3009; the contract ABI specification.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import msgspec
from eth_abi import abi
from eth_abi.exceptions import DecodingError

from paywall.chain.events import CONFIG_TYPE
from paywall.chain.events import Event as Event
from paywall.chain.events import decode_log as decode_log
from paywall.chain.events import topic_of as topic_of
from paywall.chain.reverts import decode_revert as decode_revert
from paywall.protocol.channel import ChannelConfig
from paywall.protocol.eip712 import COLLECTOR_ADDRESS as COLLECTOR_ADDRESS
from paywall.protocol.eip712 import SETTLEMENT_ADDRESS as SETTLEMENT_ADDRESS
from paywall.protocol.eip712 import keccak
from paywall.protocol.money import Address

MULTICALL3_ADDRESS: Final = Address(bytes.fromhex("cA11bde05977b3631167028862bE2a173976CA11"))

CLAIM_TYPE: Final = f"(({CONFIG_TYPE},uint128),bytes,uint128)"


class BadAnswer(ValueError):
    """A result or a log that is not what the contract would have produced."""


@dataclass(frozen=True, slots=True)
class ClaimRow:
    """One voucher of a claim: `amount` is what was signed, `claimed` the total to be recorded."""

    config: ChannelConfig
    amount: int
    signature: bytes
    claimed: int


class _Function:
    """One function: its selector, and how to encode its arguments and decode its results."""

    def __init__(self, name: str, arguments: Sequence[str], results: Sequence[str] = ()) -> None:
        self._arguments = tuple(arguments)
        self._results = tuple(results)
        self.selector: Final = keccak(f"{name}({','.join(arguments)})".encode())[:4]

    def encode(self, *arguments: object) -> bytes:
        return self.selector + abi.encode(self._arguments, arguments)

    def decode(self, result: bytes) -> tuple[Any, ...]:
        return _decode(self._results, result)


def _decode(types: Sequence[str], data: bytes) -> tuple[Any, ...]:
    try:
        return abi.decode(types, data)
    except (DecodingError, OverflowError, ValueError) as error:
        raise BadAnswer(f"not an answer of {len(types)} values") from error


_DEPOSIT = _Function("deposit", (CONFIG_TYPE, "uint128", "address", "bytes"))
_CLAIM = _Function("claim", (f"{CLAIM_TYPE}[]",))
_CLAIM_WITH_SIGNATURE = _Function("claimWithSignature", (f"{CLAIM_TYPE}[]", "bytes"))
_SETTLE = _Function("settle", ("address", "address"))
_REFUND = _Function("refund", (CONFIG_TYPE, "uint128"))
_REFUND_WITH_SIGNATURE = _Function(
    "refundWithSignature", (CONFIG_TYPE, "uint128", "uint256", "bytes")
)
_INITIATE_WITHDRAW = _Function("initiateWithdraw", (CONFIG_TYPE, "uint128"))
_FINALIZE_WITHDRAW = _Function("finalizeWithdraw", (CONFIG_TYPE,))
_MULTICALL = _Function("multicall", ("bytes[]",), ("bytes[]",))
_CHANNELS = _Function("channels", ("bytes32",), ("uint128", "uint128"))
_PENDING_WITHDRAWALS = _Function("pendingWithdrawals", ("bytes32",), ("uint128", "uint40"))
_REFUND_NONCE = _Function("refundNonce", ("bytes32",), ("uint256",))
_RECEIVERS = _Function("receivers", ("address", "address"), ("uint128", "uint128"))
_BALANCE_OF = _Function("balanceOf", ("address",), ("uint256",))
_AUTHORIZATION_STATE = _Function("authorizationState", ("address", "bytes32"), ("bool",))
_TRANSFER_WITH_AUTHORIZATION = _Function(
    "transferWithAuthorization",
    ("address", "address", "uint256", "uint256", "uint256", "bytes32", "bytes"),
)
_MINT = _Function("mint", ("address", "uint256"))
_AGGREGATE3 = _Function("aggregate3", ("(address,bool,bytes)[]",), ("(bool,bytes)[]",))


# -- Calls that move money ------------------------------------------------------------------------


def encode_deposit(
    config: ChannelConfig, amount: int, collector: Address, collector_data: bytes
) -> bytes:
    return _DEPOSIT.encode(_config(config), amount, collector, collector_data)


def erc3009_collector_data(
    valid_after: int, valid_before: int, salt: int, signature: bytes
) -> bytes:
    """What the ERC-3009 collector wants to know about the payer's authorization."""
    return abi.encode(
        ("uint256", "uint256", "uint256", "bytes"), (valid_after, valid_before, salt, signature)
    )


def encode_claim(claims: Iterable[ClaimRow]) -> bytes:
    """For the receiver or its authorizer to send."""
    return _CLAIM.encode([_claim(row) for row in claims])


def encode_claim_with_signature(claims: Iterable[ClaimRow], signature: bytes) -> bytes:
    """For anyone to send, with the receiver authorizer's signature of the batch."""
    return _CLAIM_WITH_SIGNATURE.encode([_claim(row) for row in claims], signature)


def encode_settle(receiver: Address, token: Address) -> bytes:
    return _SETTLE.encode(receiver, token)


def encode_refund(config: ChannelConfig, amount: int) -> bytes:
    """For the receiver or its authorizer to send."""
    return _REFUND.encode(_config(config), amount)


def encode_refund_with_signature(
    config: ChannelConfig, amount: int, refund_nonce: int, signature: bytes
) -> bytes:
    """For anyone to send, with the receiver authorizer's signature."""
    return _REFUND_WITH_SIGNATURE.encode(_config(config), amount, refund_nonce, signature)


def encode_initiate_withdraw(config: ChannelConfig, amount: int) -> bytes:
    return _INITIATE_WITHDRAW.encode(_config(config), amount)


def encode_finalize_withdraw(config: ChannelConfig) -> bytes:
    return _FINALIZE_WITHDRAW.encode(_config(config))


def encode_multicall(calls: Sequence[bytes]) -> bytes:
    """Several calls of the settlement contract as one: all of them happen, or none."""
    return _MULTICALL.encode(calls)


def encode_transfer_with_authorization(
    payer: Address,
    to: Address,
    value: int,
    valid_after: int,
    valid_before: int,
    authorization_nonce: bytes,
    signature: bytes,
) -> bytes:
    """The form with the signature in one piece."""
    return _TRANSFER_WITH_AUTHORIZATION.encode(
        payer, to, value, valid_after, valid_before, authorization_nonce, signature
    )


def encode_mint(to: Address, amount: int) -> bytes:
    """Of the devnet's token."""
    return _MINT.encode(to, amount)


def _config(config: ChannelConfig) -> tuple[object, ...]:
    return msgspec.structs.astuple(config)


def _claim(row: ClaimRow) -> tuple[object, ...]:
    return ((_config(row.config), row.amount), row.signature, row.claimed)


# -- Reading --------------------------------------------------------------------------------------


class ChannelTotals(NamedTuple):
    """`balance` counts what was claimed too."""

    balance: int
    claimed: int


class PendingWithdrawal(NamedTuple):
    """`requested_at` is in Unix seconds; zero when no withdrawal is pending."""

    amount: int
    requested_at: int


class ReceiverTotals(NamedTuple):
    claimed: int
    settled: int


class CallResult(NamedTuple):
    """One call of an aggregate; `data` is the revert's when it did not succeed."""

    success: bool
    data: bytes


def encode_channels(channel_id: bytes) -> bytes:
    return _CHANNELS.encode(channel_id)


def decode_channels(result: bytes) -> ChannelTotals:
    return ChannelTotals(*_CHANNELS.decode(result))


def encode_pending_withdrawals(channel_id: bytes) -> bytes:
    return _PENDING_WITHDRAWALS.encode(channel_id)


def decode_pending_withdrawals(result: bytes) -> PendingWithdrawal:
    return PendingWithdrawal(*_PENDING_WITHDRAWALS.decode(result))


def encode_refund_nonce(channel_id: bytes) -> bytes:
    return _REFUND_NONCE.encode(channel_id)


def decode_refund_nonce(result: bytes) -> int:
    (refund_nonce,) = _REFUND_NONCE.decode(result)
    return int(refund_nonce)


def encode_receivers(receiver: Address, token: Address) -> bytes:
    return _RECEIVERS.encode(receiver, token)


def decode_receivers(result: bytes) -> ReceiverTotals:
    return ReceiverTotals(*_RECEIVERS.decode(result))


def encode_balance_of(owner: Address) -> bytes:
    return _BALANCE_OF.encode(owner)


def decode_balance_of(result: bytes) -> int:
    (balance,) = _BALANCE_OF.decode(result)
    return int(balance)


def encode_authorization_state(authorizer: Address, authorization_nonce: bytes) -> bytes:
    return _AUTHORIZATION_STATE.encode(authorizer, authorization_nonce)


def decode_authorization_state(result: bytes) -> bool:
    """Whether the authorization was used or cancelled."""
    (used,) = _AUTHORIZATION_STATE.decode(result)
    return bool(used)


def encode_aggregate3(
    calls: Iterable[tuple[Address, bytes]], *, allow_failure: bool = True
) -> bytes:
    """Many reads of one block in one round trip."""
    return _AGGREGATE3.encode([(target, allow_failure, data) for target, data in calls])


def decode_aggregate3(result: bytes) -> tuple[CallResult, ...]:
    (results,) = _AGGREGATE3.decode(result)
    return tuple(CallResult(success, data) for success, data in results)
