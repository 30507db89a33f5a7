"""How a channel is written down: a compact, versioned record for stores that keep bytes.

MessagePack arrays, because a record is written twice per paid request. Fields stand in a fixed
order and new ones are added at the end with a default: an older record reads with the default, a
newer one with its extra fields passed over. The version changes only when a field changes its
meaning; a record of a higher version is not guessed at.

Amounts are uint128. MessagePack integers end at 2^64, so a larger amount is a decimal string. The
window is written as its first amount and then the steps between neighbours, which are small.
"""

from collections.abc import Callable
from itertools import accumulate
from operator import sub
from typing import Final

import msgspec
from msgspec.structs import astuple, replace

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
    record = _record(channel)
    try:
        return _encode(record)
    except OverflowError:
        return _encode(_spelt(record))


def _record(channel: Channel) -> _Record:
    """With every amount as an integer, as nearly all can be written."""
    voucher, proof, refunding = channel.voucher, channel.proof, channel.refunding
    return _Record(
        VERSION,
        channel.channel_id,
        channel.network,
        astuple(channel.config),
        astuple(channel.chain),
        channel.charged,
        astuple(voucher) if voucher else None,
        {request: astuple(hold) for request, hold in channel.holds.items()},
        _steps(channel.seen),
        channel.floor,
        (refunding.amount, refunding.deadline_ms) if refunding else None,
        channel.used_at_ms,
        refunding.request if refunding else "",
        channel.done,
        astuple(proof) if proof else None,
    )


def _spelt(record: _Record) -> _Record:
    """With the amounts as text that are too large for an integer."""
    balance, claimed, withdrawn, requested_at, nonce, block, read_at_ms = record.chain
    voucher, proof, refunding = record.voucher, record.proof, record.refunding
    sums = (_pack(balance), _pack(claimed), _pack(withdrawn))
    return replace(
        record,
        chain=(*sums, requested_at, _pack(nonce), block, read_at_ms),
        charged=_pack(record.charged),
        voucher=(_pack(voucher[0]), voucher[1]) if voucher else None,
        holds={
            request: (_pack(price), _pack(amount), deadline_ms)
            for request, (price, amount, deadline_ms) in record.holds.items()
        },
        window=[*map(_pack, record.window)],
        floor=_pack(record.floor),
        refunding=(_pack(refunding[0]), refunding[1]) if refunding else None,
        proof=(_pack(proof[0]), proof[1]) if proof else None,
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


def _pack(amount: _Amount) -> _Amount:
    return str(amount) if isinstance(amount, int) and amount > _INTEGER_MAX else amount


def _steps(window: tuple[int, ...]) -> list[_Amount]:
    """The first amount, then each one's distance from the one before it."""
    return [*window[:1], *map(sub, window[1:], window)]
