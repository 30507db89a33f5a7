"""What stands on the embedded chain before its first block.

Our contracts at the addresses where the real ones stand on every chain, and ten funded accounts of
the mnemonic that every development chain uses, so that people recognise them. Their keys are known
to the whole world. The token is the one that x402 uses on Base Sepolia; its balances are written
straight into its storage. An eleventh key may mint more of it.
"""

from dataclasses import dataclass
from functools import cache
from typing import Final

from eth.typing import AccountDetails
from eth_account import Account
from eth_account.hdaccount import seed_from_mnemonic
from eth_account.hdaccount.deterministic import HDPath
from eth_typing import Address

from paywall.chain.contract import (
    COLLECTOR_ADDRESS,
    MULTICALL3_ADDRESS,
    SETTLEMENT_ADDRESS,
)
from paywall.chain.contracts import artifact
from paywall.protocol.eip712 import keccak

MNEMONIC: Final = "test test test test test test test test test test test junk"
ACCOUNTS: Final = 10
ETHER: Final = 10**18
USDC: Final = 10**6
ETH_EACH_WEI: Final = 10_000 * ETHER
USDC_EACH: Final = 1_000_000 * USDC

USDC_ADDRESS: Final = bytes.fromhex("036CbD53842c5426634e7929541eC2318f3dCF7e")


@dataclass(frozen=True, slots=True)
class DevAccount:
    """A funded account: its checksum address and its private key as 0x hex."""

    address: str
    key: str

    @property
    def raw(self) -> Address:
        return Address(bytes.fromhex(self.address[2:]))


@cache
def dev_accounts() -> tuple[DevAccount, ...]:
    """The funded accounts, and last the minter."""
    seed = seed_from_mnemonic(MNEMONIC, "")
    keys = (HDPath(f"m/44'/60'/0'/0/{i}").derive(seed) for i in range(ACCOUNTS + 1))
    return tuple(DevAccount(Account.from_key(key).address, "0x" + key.hex()) for key in keys)


def genesis_state() -> dict[Address, AccountDetails]:
    state = {account.raw: _account(balance=ETH_EACH_WEI) for account in dev_accounts()}
    for address, name in (
        (SETTLEMENT_ADDRESS, "BatchSettlement"),
        (COLLECTOR_ADDRESS, "Erc3009DepositCollector"),
        (MULTICALL3_ADDRESS, "Multicall3"),
    ):
        state[Address(address)] = _account(code=artifact(name).runtime)
    state[Address(USDC_ADDRESS)] = _account(code=artifact("Usdc").runtime, storage=_usdc_storage())
    return state


def _account(
    *, balance: int = 0, code: bytes = b"", storage: dict[int, int] | None = None
) -> AccountDetails:
    # A contract's nonce starts at one (EIP-161), so that an empty one is not swept away.
    return {
        "balance": balance,
        "nonce": 1 if code else 0,
        "code": code,
        "storage": storage or {},
    }


def _usdc_storage() -> dict[int, int]:
    slots = artifact("Usdc").storage
    *holders, minter = dev_accounts()
    balances = {_entry(slots["balanceOf"], holder.raw): USDC_EACH for holder in holders}
    return {
        slots["minter"]: int.from_bytes(minter.raw, "big"),
        slots["totalSupply"]: USDC_EACH * len(holders),
        **balances,
    }


def _entry(slot: int, key: bytes) -> int:
    """Where Vyper keeps `map[key]`: the slot comes first, other than in Solidity."""
    word = keccak(slot.to_bytes(32, "big") + key.rjust(32, b"\0"))
    return int.from_bytes(word, "big")
