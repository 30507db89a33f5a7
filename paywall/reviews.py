"""Transfers that a provider has refused, and that the chain is asked about.

Who refuses a transfer has its signature, and may use it in its time all the same. So its price
counts against the ceilings until the chain, after that time, has not seen it: then it is free
again. One that was used was a lie, and its provider is not paid any more.

Source: EIP-3009, "authorizationState".
"""

from dataclasses import dataclass
from typing import Protocol

from paywall.protocol.money import Address
from paywall.wallet import Wallet


class TransferChain(Protocol):
    """What is needed of the chain; `paywall.chain.payer.PayerNode` is it over an RPC."""

    network: str

    async def time(self) -> int: ...
    async def is_used(self, token: Address, payer: Address, authorization_nonce: bytes) -> bool: ...


@dataclass(frozen=True, slots=True)
class Review:
    """What became of a transfer that was refused; `amount` in atomic units."""

    origin: str
    payment_id: str
    amount: int
    was_used: bool


async def review_refused(wallet: Wallet, chain: TransferChain) -> list[Review]:
    """Asks the chain about every refused transfer whose time has passed. Raises ChainUnavailable.

    Safe to repeat, and by several processes.
    """
    transfers = wallet.books.transfers
    with wallet.file.change():
        transfers.end_expired(int(wallet.clock()))
    found = []
    for row in wallet.file.refused_transfers():
        if row.network != chain.network or await chain.time() <= row.valid_before:
            continue
        token = Address(row.asset)
        was_used = await chain.is_used(token, wallet.payer.account, row.authorization_nonce)
        if transfers.reviewed(row, was_used):
            found.append(Review(row.origin, row.payment_id, row.price, was_used))
    return found
