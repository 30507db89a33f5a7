"""A channel as Redis keeps it: one string, and a hash of the holds that have no place in it.

What stands where is written in `lua/prelude.lua`; the scripts alone write records, here they are
read. What never changes of a channel is packed once, and so is not known to the scripts.
"""

from collections.abc import Callable
from functools import lru_cache
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
from paywall.protocol.limits import REMEMBERED_CHARGES
from paywall.protocol.money import Address

SCHEMA_VERSION: Final = 2
_SIGNATURE_BYTES: Final = 65

Flat = list[bytes]
"""A hash as Redis returns it: name, value, name, value."""


class _Static(msgspec.Struct, array_like=True, frozen=True):
    """`s`. Append, never insert."""

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


def standing(text: bytes) -> Standing:
    """What a verb says of a channel: charged, held, then the chain's reading."""
    charged, held, chain = text.split(b" ", 2)
    return Standing(_chain(chain), int(charged), int(held))


@lru_cache(maxsize=8192)
def _chain(words: bytes) -> ChainState:
    """The same reading comes with every request until the chain is asked again."""
    return ChainState(*map(int, words.split()))


def channel(channel_id: bytes, record: bytes, holds: Flat, now_ms: int = 0) -> Channel:
    """The channel of a record, without what has expired at `now_ms`.

    Raises StoreUnavailable for a record that cannot be read.
    """
    try:
        return _channel(channel_id, record, holds, now_ms)
    except (IndexError, ValueError, TypeError, msgspec.DecodeError) as error:
        raise StoreUnavailable("a channel record is damaged") from error


def _channel(channel_id: bytes, record: bytes, others: Flat, now_ms: int) -> Channel:
    head, told, rare, hold, window, done, tail = record[1:].split(b"\n", 6)
    charged, _, _, _, promised, floor, _, used_at_ms = head.split()
    refunding, proven = _rare(rare, now_ms)
    voucher, tail = _voucher(promised, tail)
    proof, tail = _voucher(proven, tail)
    static = _decode(tail)
    every = _holds(hold, others)
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
        ChainState(*map(int, told.split()[:-1])),
        charged=int(charged),
        voucher=voucher,
        holds=live,
        seen=tuple(sorted(set(map(int, window.split())) - dead)),
        floor=int(floor),
        refunding=refunding,
        used_at_ms=int(used_at_ms),
        done=tuple(done.decode().split()[-REMEMBERED_CHARGES:]),
        proof=proof,
    )


def _voucher(amount: bytes, tail: bytes) -> tuple[Voucher | None, bytes]:
    """A voucher whose signature is the next of the bytes, and what comes behind it."""
    if amount == b"-":
        return None, tail
    return Voucher(int(amount), tail[:_SIGNATURE_BYTES]), tail[_SIGNATURE_BYTES:]


def _holds(first: bytes, others: Flat) -> dict[str, Hold]:
    pairs = [*zip(others[::2], others[1::2], strict=True)]
    if first:
        *words, request = first.split(b" ", 3)
        pairs.append((request, b" ".join(words)))
    return {request.decode(): Hold(*map(int, words.split())) for request, words in pairs}


def _rare(words: bytes, now_ms: int) -> tuple[Refunding | None, bytes]:
    """What is set aside, and the amount of the proof."""
    if not words:
        return None, b"-"
    amount, deadline_ms, request, proven = words.split()
    if amount == b"-" or (amount == b"0" and int(deadline_ms) <= now_ms):
        return None, proven
    return Refunding(int(amount), int(deadline_ms), request.decode()), proven
