"""Keys of an agent: who signs for the wallet, and how a private key stays where it is.

A wallet has two signatures to give. Money moves by the payer's, on a deposit or a single transfer;
it may come from a key in this process or from anything else that has an address and signs: a KMS, a
hardware wallet, a service. Vouchers are signed by the payer too, unless there is a voucher key
(`payerAuthorizer`): then the process that pays all day holds no key that can move money.

A private key leaves in no way: not by repr, not by pickle or copy, not in an error. What somebody
else has signed is checked before it is used: it must be the canonical signature of this digest by
the address that was named. This module knows no budget and no file.

Sources: EIP-712; EIP-2 for the low s; batch-settlement EVM specification, "payerAuthorizer".
"""

import os
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Final, Never, Protocol

from coincurve import PrivateKey

from paywall.protocol import eip712
from paywall.protocol.errors import ConfigurationError, SigningFailed
from paywall.protocol.money import Address
from paywall.protocol.x402 import show_address

_N: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_DER_SEQUENCE: Final = 0x30
_DER_INTEGER: Final = 0x02


@dataclass(frozen=True)
class SigningRequest:
    """What a signer is asked to sign: a digest, and the EIP-712 typed data that it stands for.

    `typed_data` is the JSON that `eth_signTypedData_v4` takes; "" where there is none. `purpose`
    is for people: "deposit", "transfer".
    """

    purpose: str
    digest: bytes
    typed_data: str = field(default="", repr=False)


class Signer(Protocol):
    """Anything with an address that signs: a KMS, a hardware wallet, another process."""

    @property
    def address(self) -> str:
        """The payer, in hex."""

    def sign(self, request: SigningRequest) -> bytes | Awaitable[bytes]:
        """The signature of `request.digest`: 65 bytes, 64 without v, or DER as a KMS gives it.

        An awaitable is for `AsyncClient` only.
        """


class LocalKey:
    """A private key in this process. It shows its address and nothing else."""

    __slots__ = ("__key", "account", "address")

    def __init__(self, key: PrivateKey) -> None:
        self.__key = key
        self.account: Final = eip712.address_of(key)
        self.address: Final = show_address(self.account)

    def __repr__(self) -> str:
        return f"<LocalKey {self.address}>"

    def __reduce__(self) -> Never:
        raise TypeError("a private key is not pickled or copied")

    def sign(self, request: SigningRequest) -> bytes:
        return eip712.sign(self.__key, request.digest)

    def sign_digest(self, digest: bytes) -> bytes:
        """A canonical signature of 65 bytes."""
        return eip712.sign(self.__key, digest)


def local_key(key: str | bytes, name: str = "the key") -> LocalKey:
    """A private key, given as 32 bytes or their hex. Raises ConfigurationError, which hides it."""
    found = _parsed(key)
    key = ""  # a trace that shows variables must not show this one
    if found is None:
        raise ConfigurationError(f"{name} is not a private key: it must be 32 bytes of hex")
    return LocalKey(found)


def _parsed(key: str | bytes) -> PrivateKey | None:
    try:
        secret = bytes.fromhex(key.removeprefix("0x")) if isinstance(key, str) else key
        return PrivateKey(secret) if len(secret) == 32 else None
    except ValueError:
        return None


def key_from_environment(variable: str) -> LocalKey | None:
    if not os.environ.get(variable):
        return None
    return local_key(os.environ[variable], f"the key in {variable}")


def canonical(signature: bytes, digest: bytes, account: Address) -> bytes:
    """What a signer gave, as 65 bytes with a low s and v of 27 or 28.

    Raises SigningFailed when it is no signature of `digest` by `account`.
    """
    try:
        r, s = _numbers(signature)
    except (ValueError, IndexError):
        raise SigningFailed("the signer's answer is no signature") from None
    low = eip712.word(r) + eip712.word(min(s, _N - s))
    for v in (b"\x1b", b"\x1c"):
        try:
            if eip712.recover(digest, low + v) == account:
                return low + v
        except eip712.BadSignature:
            continue
    raise SigningFailed(f"the signer's answer is no signature by {show_address(account)}")


def _numbers(signature: bytes) -> tuple[int, int]:
    """r and s, each of 1 to n - 1. Raises ValueError or IndexError."""
    if len(signature) in (64, 65):
        r, s = signature[:32], signature[32:64]
    elif signature[0] == _DER_SEQUENCE and signature[1] == len(signature) - 2:
        r, rest = _der_integer(signature[2:])
        s, rest = _der_integer(rest)
        if rest:
            raise ValueError("there is more than a signature")
    else:
        raise ValueError("not a signature")
    numbers = int.from_bytes(r, "big"), int.from_bytes(s, "big")
    if not all(0 < number < _N for number in numbers):
        raise ValueError("out of range")
    return numbers


def _der_integer(data: bytes) -> tuple[bytes, bytes]:
    """The first integer and what comes after it."""
    length = data[1]
    if data[0] != _DER_INTEGER or not 1 <= length <= 33 or len(data) < 2 + length:
        raise ValueError("not a DER integer")
    return data[2 : 2 + length], data[2 + length :]
