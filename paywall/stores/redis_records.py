"""A channel as Redis keeps it: a hash of decimal strings, and a second one of holds.

What each field is called stands in `lua/prelude.lua`. Fields are found by name, so an older record
that lacks one reads with its default, and one that a newer version has added is passed over. What
never changes of a channel is packed once into one field.
"""

from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from paywall.protocol.channel import (
    ChainState,
    Channel,
    ChannelConfig,
    Hold,
    Refunding,
    Standing,
    Voucher,
)
from paywall.protocol.errors import StoreUnavailable
from paywall.protocol.money import Address

SCHEMA_VERSION: Final = 1

Flat = list[bytes]
"""A hash as Redis returns it: name, value, name, value."""


class _Static(msgspec.Struct, array_like=True, frozen=True):
    """Field `s`. Append, never insert."""

    network: str
    payer: bytes
    payer_authorizer: bytes
    receiver: bytes
    receiver_authorizer: bytes
    token: bytes
    withdraw_delay_seconds: int
    salt: bytes


_encode: Final[Callable[[_Static], bytes]] = msgspec.msgpack.Encoder().encode
_decode: Final[Callable[[bytes], _Static]] = msgspec.msgpack.Decoder(_Static).decode


def pack_static(network: str, config: ChannelConfig) -> bytes:
    """What never changes of a channel."""
    return _encode(_Static(network, *msgspec.structs.astuple(config)))


def chain_words(chain: ChainState) -> tuple[str, ...]:
    """The chain's reading in the order in which the scripts take it."""
    return tuple(map(str, msgspec.structs.astuple(chain)))


def standing(words: Iterable[bytes]) -> Standing:
    """What a verb says of a channel: charged, held, then the chain's reading."""
    charged, held, *chain = map(int, words)
    return Standing(ChainState(*chain), charged, held)


def channel(channel_id: bytes, record: Flat, holds: Flat, now_ms: int = 0) -> Channel:
    """The channel of a record, without what has expired at `now_ms`.

    Raises StoreUnavailable for a record that cannot be read.
    """
    try:
        return _channel(channel_id, _fields(record), _fields(holds), now_ms)
    except (KeyError, ValueError, TypeError, msgspec.DecodeError) as error:
        raise StoreUnavailable("a channel record is damaged") from error


def _fields(flat: Flat) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _channel(
    channel_id: bytes, record: dict[bytes, bytes], holds: dict[bytes, bytes], now_ms: int
) -> Channel:
    static = _decode(record[b"s"])
    every = _holds(holds)
    live = {key: hold for key, hold in every.items() if hold.deadline_ms > now_ms}
    dead = {hold.amount for key, hold in every.items() if key not in live}
    return Channel(
        channel_id,
        static.network,
        ChannelConfig(
            Address(static.payer),
            Address(static.payer_authorizer),
            Address(static.receiver),
            Address(static.receiver_authorizer),
            Address(static.token),
            static.withdraw_delay_seconds,
            static.salt,
        ),
        ChainState(
            *(int(record[name]) for name in (b"b", b"k", b"wa", b"wt", b"rn", b"bl", b"rd"))
        ),
        charged=int(record[b"c"]),
        voucher=_voucher(record, b"v", b"g"),
        holds=live,
        seen=tuple(sorted(set(map(int, record[b"w"].split())) - dead)),
        floor=int(record[b"f"]),
        refunding=_refunding(record, now_ms),
        used_at_ms=int(record.get(b"u", 0)),
        done=tuple(record.get(b"d", b"").decode().split()),
        proof=_voucher(record, b"pv", b"pg"),
    )


def _voucher(record: dict[bytes, bytes], amount: bytes, signature: bytes) -> Voucher | None:
    return Voucher(int(record[amount]), record[signature]) if amount in record else None


def _holds(holds: dict[bytes, bytes]) -> dict[str, Hold]:
    return {request.decode(): Hold(*map(int, words.split())) for request, words in holds.items()}


def _refunding(record: dict[bytes, bytes], now_ms: int) -> Refunding | None:
    if b"ra" not in record:
        return None
    refunding = Refunding(int(record[b"ra"]), int(record[b"rx"]), record[b"rq"].decode())
    return refunding if refunding.deadline_ms > now_ms else None
