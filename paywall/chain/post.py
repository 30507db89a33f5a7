"""Handing signed transactions to a node, and asking what it knows of them.

A node's answer to a transaction is a stranger's text, worded differently by each kind of node. What
it means is decided here, once: taken, known already, of a wrong number, refused for good.
"""

import re
from typing import Final

from paywall.chain.gas import GasWallet, Receipt, Signed, receipt_of
from paywall.chain.pricing import Pricing
from paywall.chain.rpc import Rpc, RpcRefused, octets, presence, quantity
from paywall.protocol.errors import ChainUnavailable, Reverted, TransactionPending
from paywall.protocol.money import Address
from paywall.protocol.x402 import show_address, show_bytes

SENDINGS: Final = 2

_ALREADY_KNOWN = re.compile(
    r"already ?known|known transaction|already imported|already exists", re.IGNORECASE
)
_WRONG_NUMBER = re.compile(r"nonce|replac", re.IGNORECASE)


class Post:
    """One wallet's dealings with one endpoint. All raise ChainUnavailable."""

    def __init__(self, rpc: Rpc, wallet: GasWallet, pricing: Pricing) -> None:
        self._rpc = rpc
        self._wallet = wallet.address
        self._pricing = pricing

    async def count(self, block: str, wallet: Address | None = None) -> int:
        """How many transactions of a wallet are mined, or wait without a gap ("pending")."""
        holder = show_address(wallet or self._wallet)
        return await self._rpc.ask(quantity, "eth_getTransactionCount", holder, block)

    async def has(self, signed: Signed) -> bool:
        """Whether the node has a transaction, mined or waiting."""
        return await self._rpc.ask(
            presence, "eth_getTransactionByHash", show_bytes(signed.transaction)
        )

    async def surely_has(self, signed: Signed) -> bool:
        """The same, False when nobody says."""
        try:
            return await self.has(signed)
        except ChainUnavailable:
            return False

    async def submit(self, signed: Signed) -> bool:
        """Hands the transaction to the node; False when its number is wrong.

        A reply that was lost says nothing, so the same bytes are sent once more. Raises RpcRefused,
        OutOfGas and Reverted when the node surely does not have it, and TransactionPending.
        """
        for _ in range(SENDINGS):
            try:
                await self._rpc.ask(octets, "eth_sendRawTransaction", show_bytes(signed.raw))
                return True
            except RpcRefused as refusal:
                if _ALREADY_KNOWN.search(refusal.text) or await self.surely_has(signed):
                    return True
                if _WRONG_NUMBER.search(refusal.text):
                    return False
                if refusal.reverted:
                    raise Reverted(refusal.reason) from None
                await self._pricing.raise_if_empty(refusal, signed.ceiling_wei)
                raise
            except ChainUnavailable:
                continue
        raise TransactionPending(f"{self._rpc} may have a transaction", signed.transaction)

    async def receipt(self, signed: Signed, confirmations: int) -> Receipt | None:
        """What came of it, once that is so deep; a receipt of something else is none."""
        receipt = await self._rpc.ask(
            receipt_of, "eth_getTransactionReceipt", show_bytes(signed.transaction)
        )
        if receipt is None or receipt.transaction != signed.transaction:
            return None
        if confirmations == 1:
            return receipt
        head = await self._rpc.ask(quantity, "eth_blockNumber")
        return receipt if head - receipt.block + 1 >= confirmations else None
