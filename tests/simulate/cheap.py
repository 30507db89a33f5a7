"""What a world does without for speed: the curve of its signatures, and the disk of its wallets.

A cheap signature is the signer's address and a keyed hash of the digest, in the shape of a real
one. Only `sign` with the key makes it; for another digest, or with any bit altered, `recover` finds
another address, as on the curve. A cheap wallet file is a dict that outlives its process: a change
is whole or not there, a dead process leaves what it had committed, and after a power cut what is
left is what was flushed and some of what came after, in order, as SQLite leaves it. As no other
process has a wallet's file, who waits for a turn looks less often whether another made room.

Some worlds are drawn to have the real ones: see `simulate.world`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import Final

from coincurve import PrivateKey

import paywall.turns
import paywall.wallet
from paywall.protocol import eip712
from paywall.protocol.money import Address
from paywall.walletstate import WalletState

_PAD: Final = bytes(12)
_QUOTE: Final = "a quote of "
_TURN_SECONDS: Final = 0.5
_LOW: Final = 0x3F
"""A mask for the first byte of s: below half of the curve's order, and by one bit not zero."""


class Signatures:
    """`sign` and `recover` of one world, in the place of the curve's."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._addresses: dict[bytes, Address] = {}

    def sign(self, key: PrivateKey, digest: bytes) -> bytes:
        address = self._addresses.get(key.secret)
        if address is None:
            address = self._addresses[key.secret] = eip712.address_of(key)
        return _PAD + address + self._mark(address, digest) + b"\x1b"

    def recover(self, digest: bytes, signature: bytes) -> Address:
        """Who signed, and for what was not signed here, a stranger. Raises BadSignature."""
        if len(signature) != 65 or signature[64] not in (27, 28):
            raise eip712.BadSignature("a signature is 65 bytes with v of 27 or 28")
        if signature[32] > 0x7F:
            raise eip712.BadSignature("s is not low")
        address = Address(signature[12:32])
        mark = self._mark(address, digest)
        if signature == _PAD + address + mark + b"\x1b":
            return address
        return Address(blake2b(digest + signature, digest_size=20, key=self._secret).digest())

    def _mark(self, address: Address, digest: bytes) -> bytes:
        mark = blake2b(address + digest, digest_size=32, key=self._secret).digest()
        return bytes((mark[0] & _LOW | 0x40,)) + mark[1:]


class Disk:
    """One wallet's file, as it is for whoever opens it next."""

    def __init__(self) -> None:
        self.rows: dict[str, bytes] = {}
        self._unflushed: list[dict[str, bytes | None]] = []

    def write(self, rows: dict[str, bytes | None]) -> None:
        self._unflushed.append({key: self.rows.get(key) for key in rows})
        self._put(rows)

    def flush(self) -> None:
        self._unflushed.clear()

    def cut_power(self, random: Random) -> int:
        """The newest changes since the last flush are gone; returns how many."""
        lost = random.randrange(len(self._unflushed) + 1)
        for _ in range(lost):
            self._put(self._unflushed.pop())
        return lost

    def _put(self, rows: dict[str, bytes | None]) -> None:
        for key, value in rows.items():
            if value is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = value


class DiskRows:
    """A disk as the `Rows` of a wallet (`paywall.walletrows`), in one process at a time."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._changing = False

    def close(self) -> None:
        """The disk stays."""

    def begin(self) -> None:
        assert not self._changing, "one change at a time"
        self._changing = True

    def commit(self, rows: dict[str, bytes | None], entries: Sequence[tuple[float, bytes]]) -> None:
        self._disk.write(rows)
        self._changing = False

    def rollback(self) -> None:
        self._changing = False

    def flush(self) -> None:
        self._disk.flush()

    def read(self, keys: Sequence[str]) -> list[bytes | None]:
        return [self._disk.rows.get(key) for key in keys]

    def between(self, first: str, last: str) -> list[tuple[str, bytes]]:
        return sorted((key, row) for key, row in self._disk.rows.items() if first <= key < last)

    def entries(self, since: float, until: float, limit: int) -> list[bytes]:
        raise AssertionError("nobody here asks for the history")

    def quote(self, places: Sequence[str]) -> bytes | None:
        found = (self._disk.rows.get(_QUOTE + place) for place in places)
        return next((quote for quote in found if quote), None)

    def put_quotes(self, places: Sequence[str], quote: bytes, now: float) -> None:
        self._disk.write({_QUOTE + place: quote for place in places})


@contextmanager
def cheaply(secret: bytes, disks: dict[str, Disk]) -> Iterator[None]:
    """All that signs, recovers, or opens a wallet's file does so cheaply; `disks` by path."""

    def open_state(where: str | Path, clock: Callable[[], float], max_history: int) -> WalletState:
        return WalletState(DiskRows(disks.setdefault(str(where), Disk())), clock)

    signatures = Signatures(secret)
    with ExitStack() as put_back:
        for owner, name, cheap in (
            (eip712, "sign", signatures.sign),
            (eip712, "recover", signatures.recover),
            (paywall.wallet, "open_state", open_state),
            (paywall.turns, "TURN_SECONDS", _TURN_SECONDS),
        ):
            put_back.callback(setattr, owner, name, vars(owner)[name])
            setattr(owner, name, cheap)
        yield
