"""The chain's newest block, and the settlement contract's log between two blocks.

Endpoints differ in how many blocks they search at once, so a range that is refused is halved.
"""

from typing import Final

import msgspec

from paywall.chain.events import (
    ChannelClosed,
    Claimed,
    Deposited,
    Event,
    Refunded,
    WithdrawFinalized,
    WithdrawInitiated,
    decode_log,
    topic_of,
)
from paywall.chain.own import Head, Seen
from paywall.chain.rpc import Rpc, RpcRefused, octets, quantity
from paywall.protocol.eip712 import SETTLEMENT_ADDRESS
from paywall.protocol.money import Address
from paywall.protocol.x402 import show_address, show_bytes

_ChannelEvent = Deposited | Claimed | Refunded | WithdrawInitiated | WithdrawFinalized
_KINDS: Final[tuple[type[Event], ...]] = (
    Deposited,
    Claimed,
    Refunded,
    WithdrawInitiated,
    WithdrawFinalized,
    ChannelClosed,
)
_TOPICS: Final = [show_bytes(topic_of(kind)) for kind in _KINDS]


class _HeadWire(msgspec.Struct):
    number: str
    timestamp: str


class _LogWire(msgspec.Struct, rename="camel"):
    address: str
    topics: list[str]
    data: str
    block_number: str
    block_hash: str
    log_index: str
    removed: bool = False


class Blocks:
    """Reads one endpoint. All raise ChainUnavailable."""

    def __init__(self, rpc: Rpc) -> None:
        self._rpc = rpc

    async def head(self) -> Head:
        return await self._rpc.ask(_head, "eth_getBlockByNumber", "latest", False)

    async def log(self, first: int, last: int) -> list[Seen]:
        """What is told of channels in these blocks."""
        try:
            return await self._log(first, last)
        except RpcRefused:
            if first == last:
                raise
        middle = (first + last) // 2
        return await self.log(first, middle) + await self.log(middle + 1, last)

    async def _log(self, first: int, last: int) -> list[Seen]:
        query = {
            "address": show_address(SETTLEMENT_ADDRESS),
            "topics": [_TOPICS],
            "fromBlock": hex(first),
            "toBlock": hex(last),
        }
        return await self._rpc.ask(_seen, "eth_getLogs", query)


def _head(answer: object) -> Head:
    wire = msgspec.convert(answer, _HeadWire)
    return Head(quantity(wire.number), quantity(wire.timestamp))


def _seen(answer: object) -> list[Seen]:
    lines = (_line(wire) for wire in msgspec.convert(answer, list[_LogWire]) if not wire.removed)
    return [line for line in lines if line]


def _line(wire: _LogWire) -> Seen | None:
    topics = [octets(topic) for topic in wire.topics]
    event = decode_log(Address(octets(wire.address)), topics, octets(wire.data))
    if not isinstance(event, _ChannelEvent | ChannelClosed):
        return None
    place = (octets(wire.block_hash), quantity(wire.log_index))
    return Seen(place, quantity(wire.block_number), event.channel_id)
