"""How a channel is written down: a compact, versioned record for stores that keep bytes.

MessagePack arrays, because a record is written twice per paid request. Fields stand in a fixed
order and new ones are added at the end with a default: an older record reads with the default, a
newer one with its extra fields passed over. The version changes only when a field changes its
meaning; a record of a higher version is not guessed at.

Amounts are uint128. MessagePack integers end at 2^64, so a larger amount is a decimal string. The
window is written as its first amount and then the steps between neighbours, which are small.
"""

from collections.abc import Callable
from itertools import accumulate, pairwise
from typing import Final

import msgspec

from paywall.protocol.channel import (
    ChainState,
    Channel,
    ChannelConfig,
    Hold,
    Refunding,
    Voucher,
)
from paywall.protocol.errors import StoreUnavailable
from paywall.protocol.money import Address

VERSION: Final = 1
_INTEGER_MAX: Final = 2**64 - 1

_Amount = int | str
_Hold = tuple[_Amount, _Amount, int]


class _Record(msgspec.Struct, array_like=True, frozen=True):
    """Version 1. The order is the format: append, never insert."""

    version: int
    channel_id: bytes
    network: str
    config: tuple[bytes, bytes, bytes, bytes, bytes, int, bytes]
    chain: tuple[_Amount, _Amount, _Amount, int, _Amount, int, int]
    charged: _Amount
    voucher: tuple[_Amount, bytes] | None
    holds: dict[str, _Hold]
    window: list[_Amount]
    floor: _Amount
    refunding: tuple[_Amount, int] | None
    used_at_ms: int
    refund_request: str = ""
    done: tuple[str, ...] = ()
    proof: tuple[_Amount, bytes] | None = None


class _Head(msgspec.Struct, array_like=True, frozen=True):
    """What is read of a record that could not be read whole."""

    version: int


_encode: Final[Callable[[_Record], bytes]] = msgspec.msgpack.Encoder().encode
_decode: Final[Callable[[bytes], _Record]] = msgspec.msgpack.Decoder(_Record).decode
_decode_head: Final[Callable[[bytes], _Head]] = msgspec.msgpack.Decoder(_Head).decode


def encode(channel: Channel) -> bytes:
    """The record of a channel."""
    chain, voucher, refunding = channel.chain, channel.voucher, channel.refunding
    return _encode(
        _Record(
            VERSION,
            channel.channel_id,
            channel.network,
            msgspec.structs.astuple(channel.config),
            (
                _pack(chain.balance),
                _pack(chain.claimed),
                _pack(chain.withdraw_amount),
                chain.withdraw_requested_at,
                _pack(chain.refund_nonce),
                chain.block,
                chain.read_at_ms,
            ),
            _pack(channel.charged),
            (_pack(voucher.amount), voucher.signature) if voucher else None,
            {
                request: (_pack(hold.price), _pack(hold.amount), hold.deadline_ms)
                for request, hold in channel.holds.items()
            },
            _steps(channel.seen),
            _pack(channel.floor),
            (_pack(refunding.amount), refunding.deadline_ms) if refunding else None,
            channel.used_at_ms,
            refunding.request if refunding else "",
            channel.done,
            (_pack(channel.proof.amount), channel.proof.signature) if channel.proof else None,
        )
    )


def decode(data: bytes) -> Channel:
    """The channel of a record. Raises StoreUnavailable for one that cannot be read."""
    try:
        return _channel(_decode(data))
    except (msgspec.DecodeError, ValueError) as error:
        raise StoreUnavailable(_complaint(data)) from error


def _channel(record: _Record) -> Channel:
    if record.version != VERSION:
        raise ValueError("another version")
    payer, authorizer, receiver, receiver_authorizer, token, delay, salt = record.config
    balance, claimed, withdrawn, requested_at, nonce, block, read_at_ms = record.chain
    voucher, refunding = record.voucher, record.refunding
    return Channel(
        record.channel_id,
        record.network,
        ChannelConfig(
            Address(payer),
            Address(authorizer),
            Address(receiver),
            Address(receiver_authorizer),
            Address(token),
            delay,
            salt,
        ),
        ChainState(
            int(balance), int(claimed), int(withdrawn), requested_at, int(nonce), block, read_at_ms
        ),
        charged=int(record.charged),
        voucher=Voucher(int(voucher[0]), voucher[1]) if voucher else None,
        holds={
            request: Hold(int(price), int(amount), deadline_ms)
            for request, (price, amount, deadline_ms) in record.holds.items()
        },
        seen=tuple(accumulate(map(int, record.window))),
        floor=int(record.floor),
        refunding=Refunding(int(refunding[0]), refunding[1], record.refund_request)
        if refunding
        else None,
        used_at_ms=record.used_at_ms,
        done=record.done,
        proof=Voucher(int(record.proof[0]), record.proof[1]) if record.proof else None,
    )


def _complaint(data: bytes) -> str:
    try:
        version = _decode_head(data).version
    except msgspec.DecodeError:
        return "a channel record is damaged"
    if version > VERSION:
        return f"a channel record has version {version}; this paywall reads up to {VERSION}"
    return "a channel record is damaged"


def _pack(amount: int) -> _Amount:
    return amount if amount <= _INTEGER_MAX else str(amount)


def _steps(window: tuple[int, ...]) -> list[_Amount]:
    """The first amount, then each one's distance from the one before it."""
    if not window:
        return []
    steps = [after - before for before, after in pairwise(window)]
    if window[-1] <= _INTEGER_MAX:
        return [window[0], *steps]
    return [_pack(window[0]), *map(_pack, steps)]
