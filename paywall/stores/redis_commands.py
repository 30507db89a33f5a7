"""The commands of a paid request as they are sent: made by one formatting each.

They go out with every request, and to pack them word by word takes longer than all else that a
worker does to send them. Every length is counted, whatever a word should be like.
"""

from collections.abc import Sequence
from typing import Final

from paywall.protocol.channel import Voucher
from paywall.protocol.once import Ticket
from paywall.stores.redis_scripts import Script

_ANY: Final = b"$%d\r\n%b\r\n"
_HOLDS: Final = b"$%d\r\n%b:h\r\n"
_DUE: Final = b"$%d\r\n%bdue\r\n"
_LOG: Final = b"$%d\r\n%blog\r\n"
_ENTRY: Final = b"$%d\r\n%b:a:%b\r\n"


def _command(keys: Sequence[bytes], words: int) -> bytes:
    """How EVALSHA is written with these keys and so many words."""
    sizes = 3 + len(keys) + words, len(keys)
    head = b"*%d\r\n$7\r\nEVALSHA\r\n$40\r\n%%b\r\n$1\r\n%d\r\n" % sizes
    return head + b"".join(keys) + words * _ANY


_RESERVE: Final = _command((_ANY, _HOLDS, _DUE), 4)
_RESERVE_ONCE: Final = _command((_ANY, _HOLDS, _DUE, _ENTRY), 5)
_CHARGE: Final = _command((_ANY, _HOLDS, _DUE, _LOG), 4)
_CHARGE_ONCE: Final = _command((_ANY, _HOLDS, _DUE, _LOG, _ENTRY), 6)


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
    key = tag + channel_id.hex().encode()
    size, start = len(key), len(tag) + 3
    total, signature = b"%d" % voucher.amount, voucher.signature
    cost, name = b"%d" % price, request.encode()
    if ticket is None:
        return _RESERVE % (
            *(script.sha, size, key, size + 2, key, start, tag),
            *(len(total), total, len(signature), signature, len(cost), cost, len(name), name),
        )
    payment_id, mark = ticket.payment_id.encode(), ticket.fingerprint
    return _RESERVE_ONCE % (
        *(script.sha, size, key, size + 2, key, start, tag),
        *(size + 3 + len(payment_id), key, payment_id),
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
    key = tag + channel_id.hex().encode()
    size, start = len(key), len(tag) + 3
    name, cost = request.encode(), b"%d" % amount
    if ticket is None:
        return _CHARGE % (
            *(script.sha, size, key, size + 2, key, start, tag, start, tag),
            *(len(name), name, len(cost), cost, len(channel_id), channel_id, len(line), line),
        )
    payment_id, mark = ticket.payment_id.encode(), ticket.fingerprint
    return _CHARGE_ONCE % (
        *(script.sha, size, key, size + 2, key, start, tag, start, tag),
        *(size + 3 + len(payment_id), key, payment_id),
        *(len(name), name, len(cost), cost, len(channel_id), channel_id, len(line), line),
        *(len(mark), mark, len(answer), answer),
    )
