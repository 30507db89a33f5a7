"""The commands of a paid request as they are sent: made by one formatting each.

They go out with every request, and to pack them word by word takes longer than all else that a
worker does to send them. Every length is counted, whatever a word should be like.
"""

from functools import lru_cache
from typing import Final

from paywall.protocol.channel import Voucher
from paywall.protocol.once import Ticket
from paywall.stores.redis_scripts import Script

_ANY: Final = b"$%d\r\n%b\r\n"
_PLACE: Final = b"$%d\r\n%b\r\n$%d\r\n%b:h\r\n$%d\r\n%bdue\r\n"
_LOG: Final = b"$%d\r\n%blog\r\n"
_ENTRY: Final = b"$%d\r\n%b:a:%b\r\n"


def _command(keys: int, words: int, more: bytes = b"") -> bytes:
    """How EVALSHA is written with so many keys, the first three as one, and so many words."""
    sizes = 3 + keys + words, keys
    head = b"*%d\r\n$7\r\nEVALSHA\r\n$40\r\n%%b\r\n$1\r\n%d\r\n%%b" % sizes
    return head + more + words * _ANY


_RESERVE: Final = _command(3, 4)
_RESERVE_ONCE: Final = _command(4, 5, _ENTRY)
_CHARGE: Final = _command(4, 4, _LOG)
_CHARGE_ONCE: Final = _command(5, 6, _LOG + _ENTRY)


@lru_cache(maxsize=4096)
def _place(tag: bytes, channel_id: bytes) -> tuple[bytes, bytes]:
    """The key of a channel's record, and the keys that every request names, as they are written."""
    key = tag + channel_id.hex().encode()
    return key, _PLACE % (len(key), key, len(key) + 2, key, len(tag) + 3, tag)


def reserve(
    script: Script,
    tag: bytes,
    channel_id: bytes,
    voucher: Voucher,
    price: int,
    request: str,
    ticket: Ticket | None,
) -> bytes:
    """Keys and words as `lua/reserve.lua` takes them; `tag` is that of the channel's bucket."""
    key, place = _place(tag, channel_id)
    total, signature = b"%d" % voucher.amount, voucher.signature
    cost, name = b"%d" % price, request.encode()
    if ticket is None:
        return _RESERVE % (
            *(script.sha, place, len(total), total, len(signature), signature),
            *(len(cost), cost, len(name), name),
        )
    payment_id, mark = ticket.payment_id.encode(), ticket.fingerprint
    return _RESERVE_ONCE % (
        *(script.sha, place, len(key) + 3 + len(payment_id), key, payment_id),
        *(len(total), total, len(signature), signature, len(cost), cost, len(name), name),
        *(len(mark), mark),
    )


def charge(
    script: Script,
    tag: bytes,
    channel_id: bytes,
    request: str,
    amount: int,
    line: bytes,
    ticket: Ticket | None,
    answer: bytes,
) -> bytes:
    """Keys and words as `lua/charge.lua` takes them."""
    key, place = _place(tag, channel_id)
    name, cost = request.encode(), b"%d" % amount
    if ticket is None:
        return _CHARGE % (
            *(script.sha, place, len(tag) + 3, tag),
            *(len(name), name, len(cost), cost, len(channel_id), channel_id, len(line), line),
        )
    payment_id, mark = ticket.payment_id.encode(), ticket.fingerprint
    return _CHARGE_ONCE % (
        *(script.sha, place, len(tag) + 3, tag, len(key) + 3 + len(payment_id), key, payment_id),
        *(len(name), name, len(cost), cost, len(channel_id), channel_id, len(line), line),
        *(len(mark), mark, len(answer), answer),
    )
