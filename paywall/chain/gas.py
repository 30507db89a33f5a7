"""What a transaction of ours is: what it does, what it may cost, who pays, and what came of it.

Values and one key. Nothing here asks a node anything; answers of a node become values here, or a
ValueError when no node would say such a thing.
"""

from dataclasses import dataclass
from typing import Never

import msgspec
from coincurve import PrivateKey
from eth_account import Account
from eth_account.signers.local import LocalAccount

from paywall.chain.rpc import octets, quantity
from paywall.protocol.errors import ConfigurationError
from paywall.protocol.money import Address
from paywall.protocol.x402 import show_address


@dataclass(frozen=True, slots=True)
class Call:
    """What a transaction does."""

    to: Address
    data: bytes


@dataclass(frozen=True, slots=True)
class Fees:
    """Prices of a unit of gas, in wei; `tip_wei` is None where the chain knows no base fee."""

    max_wei: int
    tip_wei: int | None

    def fields(self) -> dict[str, int]:
        if self.tip_wei is None:
            return {"gasPrice": self.max_wei}
        return {"type": 2, "maxFeePerGas": self.max_wei, "maxPriorityFeePerGas": self.tip_wei}

    def instead_of(self, other: "Fees") -> "Fees":
        """These, or an eighth above the other's: nodes replace for a tenth more, not less."""
        tip = None
        if self.tip_wei is not None and other.tip_wei is not None:
            tip = max(self.tip_wei, _eighth_above(other.tip_wei))
        return Fees(max(self.max_wei, _eighth_above(other.max_wei)), tip)


@dataclass(frozen=True, slots=True)
class Signed:
    """A transaction as it is sent, with what it may cost at most."""

    transaction: bytes
    raw: bytes
    transaction_nonce: int
    gas: int
    fees: Fees

    @property
    def ceiling_wei(self) -> int:
        return self.gas * self.fees.max_wei


@dataclass(frozen=True, slots=True)
class Sent:
    """What was signed by a wallet to do one call: one transaction, then what replaced it.

    Any of them may be mined, and whichever is has done the call.
    """

    call: Call
    wallet: Address
    versions: tuple[Signed, ...]

    @property
    def latest(self) -> Signed:
        return self.versions[-1]

    def also(self, signed: Signed) -> "Sent":
        return Sent(self.call, self.wallet, (*self.versions, signed))


_encode_sent = msgspec.msgpack.Encoder().encode
_decode_sent = msgspec.msgpack.Decoder(Sent).decode


def encode_sent(sent: Sent) -> bytes:
    return _encode_sent(sent)


def decode_sent(data: bytes) -> Sent:
    return _decode_sent(data)


def _eighth_above(wei: int) -> int:
    return -(-wei * 9 // 8)


@dataclass(frozen=True, slots=True)
class Log:
    address: Address
    topics: tuple[bytes, ...]
    data: bytes


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the chain says of a mined transaction."""

    transaction: bytes
    block: int
    succeeded: bool
    gas: int
    fee_wei: int
    logs: tuple[Log, ...]


class GasWallet:
    """A key that pays for gas. It shows its address and nothing else, and cannot be pickled."""

    def __init__(self, key: PrivateKey) -> None:
        self._account: LocalAccount = Account.from_key(key.secret)
        self.address = Address(bytes.fromhex(self._account.address[2:]))

    def __repr__(self) -> str:
        return f"GasWallet({show_address(self.address)})"

    def __reduce__(self) -> Never:
        raise TypeError("a gas wallet holds a key and is not pickled")

    def sign(
        self, call: Call, chain_id: int, transaction_nonce: int, gas: int, fees: Fees
    ) -> Signed:
        signed = self._account.sign_transaction(
            {
                "chainId": chain_id,
                "nonce": transaction_nonce,
                "to": call.to,
                "value": 0,
                "data": call.data,
                "gas": gas,
                **fees.fields(),
            }
        )
        return Signed(
            bytes(signed.hash), bytes(signed.raw_transaction), transaction_nonce, gas, fees
        )


def parse_key(key: str | bytes, name: str) -> PrivateKey:
    """A private key from hex or 32 bytes. Raises ConfigurationError, which does not show it."""
    try:
        secret = bytes.fromhex(key.removeprefix("0x")) if isinstance(key, str) else key
        if len(secret) == 32:
            return PrivateKey(secret)
    except ValueError:
        pass
    raise ConfigurationError(f"the {name} key is not a private key: 32 bytes, or 64 hex digits")


# -- What a node says ----------------------------------------------------------------------------


class _LogWire(msgspec.Struct):
    address: str
    topics: list[str]
    data: str


class _ReceiptWire(msgspec.Struct, rename="camel"):
    transaction_hash: str
    block_number: str
    status: str
    gas_used: str
    logs: list[_LogWire]
    effective_gas_price: str = "0x0"
    l1_fee: str | None = None


class _HeadWire(msgspec.Struct, rename="camel"):
    base_fee_per_gas: str | None = None


def base_fee_of(answer: object) -> int | None:
    head = msgspec.convert(answer, _HeadWire)
    return None if head.base_fee_per_gas is None else quantity(head.base_fee_per_gas)


def receipt_of(answer: object) -> Receipt | None:
    """A receipt, None before there is one. What an L2 took for its L1 data is part of the fee."""
    if answer is None:
        return None
    wire = msgspec.convert(answer, _ReceiptWire)
    gas, status = quantity(wire.gas_used), quantity(wire.status)
    fee_wei = gas * quantity(wire.effective_gas_price) + quantity(wire.l1_fee or "0x0")
    logs = tuple(
        Log(Address(octets(log.address)), tuple(map(octets, log.topics)), octets(log.data))
        for log in wire.logs
    )
    return Receipt(
        octets(wire.transaction_hash), quantity(wire.block_number), status == 1, gas, fee_wei, logs
    )
