"""What a transaction will use, and what a unit of gas costs now; whether the owner pays that."""

import re

from paywall.chain.gas import Call, Fees, base_fee_of
from paywall.chain.own import FeeTooHigh
from paywall.chain.rpc import Rpc, RpcRefused, quantity
from paywall.protocol.errors import ChainUnavailable, OutOfGas, Reverted
from paywall.protocol.limits import MAX_FEE_PER_GAS_WEI, MAX_GAS
from paywall.protocol.money import Address
from paywall.protocol.x402 import show_address, show_bytes

_EMPTY_WALLET = re.compile(
    r"insufficient (?:funds|balance)|enough (?:funds|balance)|gas required exceeds allowance",
    re.IGNORECASE,
)


class Pricing:
    """The prices that one wallet meets on one network. `max_fee_wei` is for one transaction."""

    def __init__(self, rpc: Rpc, wallet: Address, network: str, max_fee_wei: int | None) -> None:
        self._rpc = rpc
        self._wallet = wallet
        self._network = network
        self._max_fee_wei = max_fee_wei

    async def gas_of(self, call: Call) -> int:
        """What a call would use. This is the simulation too: raises Reverted."""
        question = {
            "from": show_address(self._wallet),
            "to": show_address(call.to),
            "data": show_bytes(call.data),
        }
        try:
            gas = await self._rpc.ask(quantity, "eth_estimateGas", question)
        except RpcRefused as refusal:
            if refusal.reverted:
                raise Reverted(refusal.reason) from None
            await self.raise_if_empty(refusal, 1)
            raise
        if not 21_000 <= gas <= MAX_GAS:
            raise ChainUnavailable(f"{self._rpc} estimates {gas} units of gas")
        return gas

    async def price_wei(self) -> int:
        """What a unit of gas costs in the next block."""
        base, tip = await self._market()
        return base + tip

    async def _market(self) -> tuple[int, int]:
        """The base fee (zero where there is none), and what block makers ask on top."""
        base = await self._rpc.ask(base_fee_of, "eth_getBlockByNumber", "latest", False)
        if base is None:
            return 0, await self._rpc.ask(quantity, "eth_gasPrice")
        try:
            return base, await self._rpc.ask(quantity, "eth_maxPriorityFeePerGas")
        except RpcRefused:
            return base, max(0, await self._rpc.ask(quantity, "eth_gasPrice") - base)

    async def fees(self) -> Fees:
        """Twice the base fee, for it may rise while we wait, and what block makers ask on top."""
        base, tip = await self._market()
        return Fees(2 * base + tip, tip) if base else Fees(tip, None)

    def affordable(self, fees: Fees, gas: int) -> Fees:
        """The fees, unless the owner's ceiling for one transaction forbids them."""
        if fees.max_wei > MAX_FEE_PER_GAS_WEI:
            raise ChainUnavailable(f"{self._rpc} names an absurd price of gas")
        if self._max_fee_wei is not None and gas * fees.max_wei > self._max_fee_wei:
            raise FeeTooHigh(
                f"gas is too dear on {self._network}: up to {gas * fees.max_wei} wei,"
                f" and {self._max_fee_wei} are allowed"
            )
        return fees

    async def raise_if_empty(self, refusal: RpcRefused, needed_wei: int) -> None:
        """Raises OutOfGas when the wallet cannot pay; otherwise the refusal had another cause."""
        wallet = show_address(self._wallet)
        balance = await self._rpc.ask(quantity, "eth_getBalance", wallet, "latest")
        if balance < needed_wei or _EMPTY_WALLET.search(refusal.text):
            raise OutOfGas(f"the gas wallet {wallet} is empty on {self._network}") from None
