"""Makes new inputs from old ones: bits, runs, splices, and edits inside base64 and JSON.

Deterministic from its seed, and fast, so that a million inputs take minutes. An input is taken
apart as far as it goes (base64, then JSON), changed there, and put together again, because noise
outside is refused at the first gate and reaches nothing.
"""

import base64
import binascii
import json
from random import Random
from typing import Any, Final

MAX_BYTES: Final = 20_000
_WORDS: Final[tuple[object, ...]] = (
    *(None, True, False, "", "0", "-1", "1e3", "0x", "0x10", " 5", "007", "4_0", "５", "\u0000"),
    *(0, -1, 1.5, 2**64, 2**128, 10**40, [], {}, [[]], "a" * 300, "\ud800", str(2**128), "NaN"),
    *("0x" + "0" * 40, "0x" + "f" * 64, "0x" + "F" * 130, "exact", "batch-settlement", "refund"),
)
_BYTES: Final = (b"\x00", b"\r\n", b"%2f", b"%252e", b"..", b"//", b";", b"\\", b"\xff", b"{" * 400)


class Mutator:
    """`next` is one more input."""

    def __init__(self, seeds: list[bytes], seed: int) -> None:
        self._luck = Random(seed)
        self._pool = seeds

    def next(self) -> bytes:
        data = self._luck.choice(self._pool)
        for _ in range(self._luck.choice((0, 1, 1, 1, 2, 3, 6))):
            data = self._changed(data)
        return data[:MAX_BYTES]

    def _changed(self, data: bytes) -> bytes:
        inside = _opened(data)
        if inside is not None and self._luck.random() < 0.8:
            return base64.b64encode(self._changed(inside))
        if data[:1] == b"{" and self._luck.random() < 0.7:
            return self._json(data)
        return self._bytes(data)

    def _json(self, data: bytes) -> bytes:
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            return self._bytes(data)
        self._edit(value)
        text = json.dumps(value, separators=(",", ":"))
        return text.encode(errors="surrogatepass")

    def _edit(self, value: Any) -> None:
        """Goes down to somewhere and changes one thing there."""
        luck = self._luck
        while True:
            keys = list(value) if isinstance(value, dict) else list(range(len(value)))
            if not keys:
                return
            key = luck.choice(keys)
            inner = value[key]
            if isinstance(inner, dict | list) and inner and luck.random() < 0.8:
                value = inner
                continue
            what = luck.randrange(5)
            if what == 0:
                del value[key]
            elif what == 1:
                value[key] = luck.choice(_WORDS)
            elif what == 2 and isinstance(value, dict):
                value[f"x{luck.randrange(9)}"] = inner
            elif isinstance(inner, str) and inner:
                value[key] = self._bytes(inner.encode(errors="replace")).decode("latin-1")
            else:
                value[key] = [inner]
            return

    def _bytes(self, data: bytes) -> bytes:
        luck = self._luck
        at = luck.randrange(len(data) + 1)
        what = luck.randrange(7)
        if what == 0 and data:
            at = luck.randrange(len(data))
            return data[:at] + bytes([data[at] ^ (1 << luck.randrange(8))]) + data[at + 1 :]
        if what == 1:
            return data[:at] + luck.randbytes(luck.randrange(1, 5)) + data[at:]
        if what == 2:
            return data[:at] + data[at + luck.randrange(1, 9) :]
        if what == 3:
            return data[:at] + luck.choice(_BYTES) + data[at:]
        if what == 4:
            other = luck.choice(self._pool)
            return data[:at] + other[luck.randrange(len(other) + 1) :]
        if what == 5:
            return data[:at] + data[at : at + luck.randrange(1, 9)].swapcase() + data[at:]
        return data[:at]


def _opened(data: bytes) -> bytes | None:
    """What base64 holds, when it is base64."""
    if len(data) < 8 or data[:1] == b"{":
        return None
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        return None
