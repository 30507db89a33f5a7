"""Money: networks, assets, and how a human price becomes atomic units.

All amounts inside paywall are `int` atomic units (for USDC, millionths of a dollar). A price such
as `"$0.001"` is turned into units once, exactly, with decimal digits and no float; a price that is
not a whole number of units is a mistake of the owner, never rounded. This module does not know
what a payment is.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NewType

from paywall.protocol.errors import ConfigurationError
from paywall.protocol.limits import MAX_AMOUNT_DIGITS, UINT128_MAX

Address = NewType("Address", bytes)
"""20 bytes. Hex and its spellings exist only on the wire."""

ZERO_ADDRESS: Final = Address(bytes(20))

_PRICE = re.compile(r"\$?([0-9]{1,39})(?:\.([0-9]{1,39}))?(?: ([A-Za-z][A-Za-z.]{0,9}))?", re.ASCII)
_UINT256_DIGITS: Final = 2 * MAX_AMOUNT_DIGITS
_AMOUNT = re.compile(rf"0|[1-9][0-9]{{0,{_UINT256_DIGITS - 1}}}", re.ASCII)
_HEX_ADDRESS = re.compile(r"0[xX][0-9a-fA-F]{40}", re.ASCII)
_CAIP2_EVM = re.compile(r"eip155:([1-9][0-9]{0,17})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Asset:
    """A token on a network: where it is, how it counts, and the domain that its signatures name.

    `name` and `version` are the token contract's own EIP-712 domain; they differ from chain to
    chain and a wrong one makes every signature worthless.
    """

    network: str
    address: Address
    symbol: str
    decimals: int
    name: str
    version: str

    @property
    def chain_id(self) -> int:
        return chain_id_of(self.network)

    def units(self, price: str) -> int:
        """Atomic units of a human price such as "$0.001", "0.001" or "0.001 USDC".

        Raises ConfigurationError for anything else, for zero, and for a fraction of a unit.
        """
        match = _PRICE.fullmatch(price)
        if match is None or match[3] not in (None, self.symbol):
            raise ConfigurationError(
                f'{price!r} is not a price in {self.symbol}; write it like "$0.001"'
            )
        fraction = (match[2] or "").rstrip("0")
        if len(fraction) > self.decimals:
            raise ConfigurationError(
                f"{price} is finer than {self.symbol} can pay: it has {self.decimals} decimals"
            )
        units = int(match[1] + fraction.ljust(self.decimals, "0"))
        if not 0 < units <= UINT128_MAX:
            raise ConfigurationError(f"{price} is not a payable amount of {self.symbol}")
        return units

    def show(self, units: int) -> str:
        """A human amount, exact, without trailing zeros beyond the second decimal."""
        whole, fraction = divmod(abs(units), 10**self.decimals)
        digits = str(fraction).rjust(self.decimals, "0").rstrip("0").ljust(2, "0")
        sign = "-" if units < 0 else ""
        return f"{sign}${whole:,}.{digits}" if self.is_dollar else f"{sign}{whole}.{digits}"

    @property
    def is_dollar(self) -> bool:
        return "USD" in self.symbol or "USD" in self.name


@lru_cache(maxsize=64)
def chain_id_of(network: str) -> int:
    """The EVM chain id of a CAIP-2 network such as "eip155:8453"."""
    match = _CAIP2_EVM.fullmatch(network)
    if match is None:
        raise ConfigurationError(f'{network!r} is not an EVM network; write it like "eip155:8453"')
    return int(match[1])


def parse_amount(text: str, maximum: int = UINT128_MAX) -> int:
    """Units from a wire amount: ASCII digits, canonical, in range. Raises ValueError.

    No sign, space, exponent, underscore or leading zero: one number has one spelling.
    """
    if _AMOUNT.fullmatch(text) is None:
        raise ValueError("not a canonical decimal amount")
    value = int(text)
    if value > maximum:
        raise ValueError("amount out of range")
    return value


def parse_address(text: str) -> Address:
    """An address from hex in any case. Raises ValueError; the checksum spelling is not enforced."""
    if _HEX_ADDRESS.fullmatch(text) is None:
        raise ValueError("not an address")
    return Address(bytes.fromhex(text[2:]))


def _usdc(chain_id: int, address: str, name: str = "USD Coin", symbol: str = "USDC") -> Asset:
    return Asset(f"eip155:{chain_id}", parse_address(address), symbol, 6, name, "2")


class USDC:
    """USDC where x402 lists it and EIP-3009 moves it, with the domain name of each contract.

    What is called USDC.e is bridged: backed by USDC elsewhere, and not Circle's own there.
    """

    base: Final = _usdc(8453, "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913")
    base_sepolia: Final = _usdc(84532, "0x036CbD53842c5426634e7929541eC2318f3dCF7e", "USDC")
    ethereum: Final = _usdc(1, "0xA0b86991c6218b36c1d19D4a2e9Eb0cE3606eB48")
    arbitrum: Final = _usdc(42161, "0xaf88d065e77c8cC2239327C5EDb3A432268e5831")
    arbitrum_sepolia: Final = _usdc(421614, "0x75faf114eafb1BDbe2F0316DF893fd58CE46AA4d")
    polygon: Final = _usdc(137, "0x3c499c542cEF5E3811e1192ce70d8cC03d5c3359")
    avalanche: Final = _usdc(43114, "0xB97EF9Ef8734C71904D8002F8b6Bc66Dd9c48a6E")
    celo: Final = _usdc(42220, "0xcebA9300f2b948710d2653dD7B07f33A8B32118C", "USDC")
    celo_sepolia: Final = _usdc(11142220, "0x01C5C0122039549AD1493B8220cABEdD739BC44E", "USDC")
    sei: Final = _usdc(1329, "0xe15fC38F6D8c56aF07bbCBe3BAf5708A2Bf42392", "USDC")
    sei_testnet: Final = _usdc(1328, "0x4fCF1784B31630811181f670Aea7A7bEF803eaED", "USDC")
    monad: Final = _usdc(143, "0x754704Bc059F8C67012fEd69BC8A327a5aafb603", "USDC")
    monad_testnet: Final = _usdc(10143, "0x534b2f3A21130d7a60830c2Df862319e593943A3", "USDC")
    xdc: Final = _usdc(50, "0xfA2958CB79b0491CC627c1557F441eF849Ca8eb1", "USDC")
    xdc_apothem: Final = _usdc(51, "0xb5AB69F7bBada22B28e79C8FFAECe55eF1c771D4", "USDC")
    arc: Final = _usdc(5042, "0x3600000000000000000000000000000000000000", "USDC")
    arc_testnet: Final = _usdc(5042002, "0x3600000000000000000000000000000000000000", "USDC")
    adi: Final = _usdc(36900, "0x9cb8142aEBBcdc60AF7c97Af897A67A8f3CA71C2", "USDC.e", "USDC.e")
    hpp: Final = _usdc(
        190415, "0x401eCb1D350407f13ba348573E5630B83638E30D", "Bridged USDC", "USDC.e"
    )
    hpp_sepolia: Final = _usdc(
        181228, "0x401eCb1D350407f13ba348573E5630B83638E30D", "Bridged USDC", "USDC.e"
    )


KNOWN_ASSETS: Final[dict[tuple[str, bytes], Asset]] = {
    (asset.network, asset.address): asset
    for asset in vars(USDC).values()
    if isinstance(asset, Asset)
}
"""Tokens whose value is known without asking anybody: by network and address."""
