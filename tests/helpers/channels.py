"""Factories: keys, terms, configs, vouchers, chain readings, channels.

Every value is fixed, so that a failing test prints the same numbers twice. Time starts at `NOW_MS`;
amounts are small and round, because the rules do not care about their size.
"""

from dataclasses import replace
from typing import Final

import msgspec
from coincurve import PrivateKey

from paywall.protocol import eip712
from paywall.protocol.channel import (
    ChainState,
    Channel,
    ChannelConfig,
    Voucher,
    open_channel,
)
from paywall.protocol.money import USDC, Asset
from paywall.protocol.schemes.batch import BatchTerms, Deposit, sign_voucher

NOW: Final = 1_800_000_000
NOW_MS: Final = NOW * 1000

PAYER: Final = PrivateKey(bytes([0x11]) * 32)
DELEGATE: Final = PrivateKey(bytes([0x22]) * 32)
"""The payer's authorizer, when it is another key than the payer's own."""
PROVIDER: Final = PrivateKey(bytes([0x33]) * 32)
AUTHORIZER: Final = PrivateKey(bytes([0x44]) * 32)
STRANGER: Final = PrivateKey(bytes([0x55]) * 32)

ASSET: Final[Asset] = USDC.base_sepolia
NETWORK: Final = ASSET.network
DOMAIN: Final = eip712.settlement_domain(ASSET.chain_id)
TERMS: Final = BatchTerms(
    ASSET,
    pay_to=eip712.address_of(PROVIDER),
    receiver_authorizer=eip712.address_of(AUTHORIZER),
    withdraw_delay_seconds=900,
    min_deposit=10_000,
    max_deposit=1_000_000,
)
CONFIG: Final = ChannelConfig(
    payer=eip712.address_of(PAYER),
    payer_authorizer=eip712.address_of(DELEGATE),
    receiver=TERMS.pay_to,
    receiver_authorizer=TERMS.receiver_authorizer,
    token=ASSET.address,
    withdraw_delay_seconds=TERMS.withdraw_delay_seconds,
    salt=bytes(32),
)
CHANNEL_ID: Final = CONFIG.channel_id(NETWORK)


def config(number: int) -> ChannelConfig:
    """One of many channels of the same payer."""
    return msgspec.structs.replace(CONFIG, salt=number.to_bytes(32, "big"))


def voucher(amount: int) -> Voucher:
    """A voucher for rules that do not look at the signature; it still differs by amount."""
    return Voucher(amount, amount.to_bytes(64, "big") + b"\x1b")


def signed_voucher(
    amount: int, key: PrivateKey = DELEGATE, channel_id: bytes = CHANNEL_ID
) -> Voucher:
    return sign_voucher(key, DOMAIN, channel_id, amount)


def signed_deposit(amount: int = 50_000, **changes: int) -> Deposit:
    """A deposit that the payer signed; `changes` are made before signing."""
    unsigned = Deposit(CHANNEL_ID, CONFIG, amount, 0, NOW + 300, 7, b"")
    unsigned = replace(unsigned, **changes)
    digest = unsigned.authorization().receive_digest(TERMS.token_domain())
    return replace(unsigned, signature=eip712.sign(PAYER, digest))


def chain(balance: int = 10_000, claimed: int = 0, **fields: int) -> ChainState:
    """What the contract says; a reading of block 1, taken now, with nothing being withdrawn."""
    state = {
        "withdraw_amount": 0,
        "withdraw_requested_at": 0,
        "refund_nonce": 0,
        "block": 1,
        "read_at_ms": NOW_MS,
    }
    return ChainState(balance, claimed, **(state | fields))


def channel(balance: int = 10_000, evidence: int = 0, **fields: int) -> Channel:
    """A channel that was just opened."""
    return open_channel(CHANNEL_ID, NETWORK, CONFIG, chain(balance, **fields), evidence)
