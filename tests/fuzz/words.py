"""Small readers: amounts, prices, signatures, hex. Each is held to another reading of its rule."""

import re
from collections.abc import Sequence
from typing import Final

from coincurve import PrivateKey, PublicKey
from coincurve.utils import GROUP_ORDER_INT

from fuzz.target import promise
from paywall.protocol import eip712
from paywall.protocol.errors import ConfigurationError
from paywall.protocol.money import USDC, parse_address, parse_amount
from paywall.protocol.x402 import parse_bytes, show_address, show_bytes

_DIGITS: Final = frozenset("0123456789")


class Amounts:
    """Text that claims to be an amount: what is read is spelled just so, or it is refused."""

    name = "amounts"

    def seeds(self) -> Sequence[bytes]:
        words = ("0", "1", "1000", "-1", "1e3", " 5", "+5", "4_0", "0x10", "007", "５", "$0.001")
        words += (str(2**128 - 1), str(2**128), "9" * 5000, "$1.", "$.5", "$0.0000001")
        return [word.encode() for word in words]

    def run(self, data: bytes) -> str:
        text = data.decode(errors="replace")
        word = "refused"
        try:
            amount = parse_amount(text)
        except ValueError:
            promise(not _is_amount(text), f"{text!r} is an amount")
        else:
            promise(_is_amount(text) and str(amount) == text, f"{text!r} was read as {amount}")
            word = "an amount"
        try:
            units = USDC.base.units(text)
        except ConfigurationError:
            return word
        promise(type(units) is int and 0 < units < 2**128, f"{text!r} was priced at {units!r}")
        return "a price"


def _is_amount(text: str) -> bool:
    plain = 0 < len(text) <= 39 and set(text) <= _DIGITS and (text == "0" or text[0] != "0")
    return plain and int(text) < 2**128


class Signatures:
    """Bytes that claim to be a signature: those are taken that the contract takes, no others."""

    name = "signatures"

    def __init__(self) -> None:
        self._key = PrivateKey(bytes([9]) * 32)
        self._digest = eip712.keccak(b"something that is signed")

    def seeds(self) -> Sequence[bytes]:
        good = eip712.sign(self._key, self._digest)
        s = int.from_bytes(good[32:64], "big")
        high = good[:32] + (GROUP_ORDER_INT - s).to_bytes(32, "big") + bytes([55 - good[64]])
        zero, order = bytes(32), GROUP_ORDER_INT.to_bytes(32, "big")
        odd = (zero + good[32:], good[:32] + zero + good[64:], order + good[32:], good[:64])
        return [good, high, *odd, good[:64] + b"\x00", good[:64] + b"\x1d", good + b"\x00"]

    def run(self, data: bytes) -> str:
        try:
            signer = eip712.recover(self._digest, data)
        except eip712.BadSignature:
            promise(not self._is_good(data), f"{data.hex()} is a signature")
            return "refused"
        promise(self._is_good(data), f"{data.hex()} is not canonical")
        public = PublicKey.from_signature_and_message(
            data[:64] + bytes([data[64] - 27]), self._digest, hasher=None
        )
        promise(signer == eip712.keccak(public.format(compressed=False)[1:])[12:], "another signer")
        return "taken"

    def _is_good(self, data: bytes) -> bool:
        if len(data) != 65 or data[64] not in (27, 28):
            return False
        r, s = int.from_bytes(data[:32], "big"), int.from_bytes(data[32:64], "big")
        if not 0 < r < GROUP_ORDER_INT or not 0 < s <= GROUP_ORDER_INT // 2:
            return False
        try:
            compact = data[:64] + bytes([data[64] - 27])
            PublicKey.from_signature_and_message(compact, self._digest, hasher=None)
        except Exception:
            return False
        return True


class Hex:
    """Text that claims to be bytes or an address."""

    name = "hex"
    _ADDRESS = re.compile(r"0[xX][0-9a-fA-F]{40}", re.ASCII)

    def seeds(self) -> Sequence[bytes]:
        address = show_address(USDC.base.address)
        return [
            word.encode() for word in (address, address.lower(), address[2:], "0x", "0X" + "a" * 64)
        ]

    def run(self, data: bytes) -> str:
        text = data.decode(errors="replace")
        found = "refused"
        try:
            address = parse_address(text)
        except ValueError:
            pass
        else:
            promise(show_address(address).lower() == text.lower(), f"{text!r} was read as another")
            found = "an address"
        for length in (32, 65):
            try:
                value = parse_bytes(text, length)
            except ValueError:
                continue
            promise(show_bytes(value) == text.lower(), f"{text!r} was read as {value.hex()}")
            found = f"{length} bytes"
        return found
