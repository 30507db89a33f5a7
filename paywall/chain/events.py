"""What the contracts tell in logs, as values: one frozen class per event, and one way to read them.

A log is an address, up to four topics of 32 bytes, and data. The first topic says which event it
is; indexed fields are topics, the rest is data. Every contract may write every topic, so the events
of the settlement contract count only when its address wrote them, and those of a token carry the
token's address for the reader to judge. What does not fit is not one of our events.

Sources: batch-settlement EVM specification, "Contract"; ERC-20 and EIP-3009, "Events".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from eth_abi import abi
from eth_abi.exceptions import DecodingError

from paywall.protocol.channel import ChannelConfig
from paywall.protocol.eip712 import SETTLEMENT_ADDRESS, keccak
from paywall.protocol.money import Address

CONFIG_TYPE: Final = "(address,address,address,address,address,uint40,bytes32)"


@dataclass(frozen=True, slots=True)
class ChannelCreated:
    """Money came into an empty channel: the first time, or again after all of it went back."""

    channel_id: bytes
    config: ChannelConfig


@dataclass(frozen=True, slots=True)
class ChannelClosed:
    """All money went back to the payer and none was ever claimed."""

    channel_id: bytes
    config: ChannelConfig


@dataclass(frozen=True, slots=True)
class Deposited:
    channel_id: bytes
    sender: Address
    amount: int
    balance: int


@dataclass(frozen=True, slots=True)
class Claimed:
    """`amount` was added, and `claimed` is the total since."""

    channel_id: bytes
    sender: Address
    amount: int
    claimed: int


@dataclass(frozen=True, slots=True)
class Settled:
    receiver: Address
    token: Address
    sender: Address
    amount: int


@dataclass(frozen=True, slots=True)
class Refunded:
    channel_id: bytes
    sender: Address
    amount: int


@dataclass(frozen=True, slots=True)
class WithdrawInitiated:
    """`finalize_after` is in Unix seconds."""

    channel_id: bytes
    amount: int
    finalize_after: int


@dataclass(frozen=True, slots=True)
class WithdrawFinalized:
    channel_id: bytes
    sender: Address
    amount: int


@dataclass(frozen=True, slots=True)
class Transfer:
    token: Address
    payer: Address
    to: Address
    value: int


@dataclass(frozen=True, slots=True)
class AuthorizationUsed:
    token: Address
    authorizer: Address
    authorization_nonce: bytes


Event = (
    ChannelCreated
    | ChannelClosed
    | Deposited
    | Claimed
    | Settled
    | Refunded
    | WithdrawInitiated
    | WithdrawFinalized
    | Transfer
    | AuthorizationUsed
)


@dataclass(frozen=True, slots=True)
class _Layout:
    """How an event lies in a log; its fields are first the indexed ones, then those in data."""

    event: Callable[..., Event]
    indexed: tuple[str, ...]
    data: tuple[str, ...]

    @property
    def topic(self) -> bytes:
        name = self.event.__name__
        return keccak(f"{name}({','.join(self.indexed + self.data)})".encode())


def _layouts(*layouts: _Layout) -> dict[bytes, _Layout]:
    return {layout.topic: layout for layout in layouts}


_ID: Final = "bytes32"
_SETTLEMENT: Final = _layouts(
    _Layout(ChannelCreated, (_ID,), (CONFIG_TYPE,)),
    _Layout(ChannelClosed, (_ID,), (CONFIG_TYPE,)),
    _Layout(Deposited, (_ID, "address"), ("uint128", "uint128")),
    _Layout(Claimed, (_ID, "address"), ("uint128", "uint128")),
    _Layout(Settled, ("address", "address", "address"), ("uint128",)),
    _Layout(Refunded, (_ID, "address"), ("uint128",)),
    _Layout(WithdrawInitiated, (_ID,), ("uint128", "uint40")),
    _Layout(WithdrawFinalized, (_ID, "address"), ("uint128",)),
)
_TOKEN: Final = _layouts(
    _Layout(Transfer, ("address", "address"), ("uint256",)),
    _Layout(AuthorizationUsed, ("address", "bytes32"), ()),
)
_TOPICS: Final = {layout.event: topic for topic, layout in (*_SETTLEMENT.items(), *_TOKEN.items())}


def topic_of(event: type[Event]) -> bytes:
    """The first topic of an event's logs, to ask a node for them."""
    return _TOPICS[event]


def decode_log(address: Address, topics: Sequence[bytes], data: bytes) -> Event | None:
    """The event that a log tells, or None when it is none of ours."""
    layouts = _SETTLEMENT if address == SETTLEMENT_ADDRESS else _TOKEN
    layout = layouts.get(bytes(topics[0])) if topics else None
    if layout is None or len(topics) != 1 + len(layout.indexed):
        return None
    try:
        values = (
            *abi.decode(layout.indexed, b"".join(topics[1:])),
            *abi.decode(layout.data, data),
        )
    except (DecodingError, OverflowError, ValueError):
        return None
    fields = [
        _inside(kind, v) for kind, v in zip(layout.indexed + layout.data, values, strict=True)
    ]
    return layout.event(address, *fields) if layouts is _TOKEN else layout.event(*fields)


def _inside(kind: str, value: Any) -> object:
    """A decoded value as we hold it: eth_abi gives addresses as text."""
    if kind == "address":
        return _address(value)
    if kind == CONFIG_TYPE:
        payer, payer_authorizer, receiver, receiver_authorizer, token, delay, salt = value
        return ChannelConfig(
            payer=_address(payer),
            payer_authorizer=_address(payer_authorizer),
            receiver=_address(receiver),
            receiver_authorizer=_address(receiver_authorizer),
            token=_address(token),
            withdraw_delay_seconds=delay,
            salt=salt,
        )
    return value


def _address(text: str) -> Address:
    return Address(bytes.fromhex(text[2:]))
