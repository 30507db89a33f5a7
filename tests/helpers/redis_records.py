"""Records in Redis as older versions wrote them, made of those that the present one has written."""

from typing import cast

from paywall.stores.redis import RedisStore

Words = dict[str, bytes]

ONE_LINE = (
    *("b", "k", "c", "v", "f", "n", "hp", "hn", "he", "wa", "wt", "dl", "rd", "rn", "bl", "u"),
    *("ra", "rx", "rq", "pv"),
)
"""The words of version 1, in their order."""
_SIGNATURE_BYTES = 65


async def downgraded(store: RedisStore, channel_id: bytes, version: int) -> None:
    """Writes a channel's record as version 1 did, or (0) as the hash that it was before that.

    All its holds stand in their own hash then. A record that is older already stays as it is.
    """
    calls, slot = store._opened(), store._slots[channel_id[0]]
    key, holds = store._pair(channel_id)
    if await calls.ask(slot, "TYPE", key) != b"string":
        return
    record = cast("bytes", await calls.ask(slot, "GET", key))
    if record[:1] != b"\2":
        return
    words, hold, (window, done, tail) = _read(record[1:])
    if hold:
        *told, request = hold.split(b" ", 3)
        await calls.ask(slot, "HSET", holds, request, b" ".join(told))
    if version == 1:
        line = b"".join(words[name] + b" " for name in ONE_LINE)
        older = b"\1" + b"\n".join((line, window, done, tail))
        await calls.ask(slot, "SET", key, older)
        return
    fields = {name: word for name, word in words.items() if word != b"-"}
    fields |= {"w": window, "d": done, **_signed(fields, tail)}
    await calls.ask(slot, "DEL", key)
    await calls.ask(slot, "HSET", key, *[word for pair in fields.items() for word in pair])


def _read(record: bytes) -> tuple[Words, bytes, list[bytes]]:
    """The words, the hold that stands in the record, and what stands behind it."""
    head, told, rare, hold, *rest = record.split(b"\n", 6)
    words = dict(zip(("c", "hp", "hn", "he", "v", "f", "n", "u"), head.split(), strict=True))
    words |= zip(("b", "k", "wa", "wt", "rn", "bl", "rd", "dl"), told.split(), strict=True)
    words |= zip(("ra", "rx", "rq", "pv"), rare.split() or [b"-"] * 4, strict=True)
    return words, hold, rest


def _signed(fields: Words, tail: bytes) -> Words:
    """The signatures by name, and what never changes of a channel."""
    signatures = {}
    for amount, name in (("v", "g"), ("pv", "pg")):
        if amount in fields:
            signatures[name], tail = tail[:_SIGNATURE_BYTES], tail[_SIGNATURE_BYTES:]
    return {**signatures, "s": tail}
