"""What became of a transfer: found again on chain by its authorization, whoever sent it.

The token marks an authorization as used in the same step in which it moves the money, and says so
in an event that can be searched for. So a transaction whose receipt was never seen, or that another
process sent before it died, is found without being sent again.

Source: EIP-3009, "Events" and "authorizationState".
"""

from typing import Final

import msgspec

from paywall.chain import Mined
from paywall.chain.events import AuthorizationUsed, Transfer, topic_of
from paywall.chain.gas import Receipt
from paywall.chain.relay import Witness, events_of
from paywall.chain.rpc import Rpc, octets, quantity
from paywall.protocol.eip712 import Authorization
from paywall.protocol.errors import Reason, Refused
from paywall.protocol.money import Address
from paywall.protocol.x402 import show_address, show_bytes

LOOK_BACK_BLOCKS: Final = 2_000
"""How far back is searched; public endpoints allow little more in one question."""


class Proofs:
    """Looks for transfers. All questions raise ChainUnavailable."""

    def __init__(self, rpc: Rpc, witness: Witness, confirmations: int) -> None:
        self._rpc = rpc
        self._witness = witness
        self._confirmations = confirmations

    async def transferred(self, authorization: Authorization, token: Address) -> Mined | None:
        """The transaction that made this transfer; None while there is none, and may be one.

        Raises Refused when there will never be one: expired, or used for something else.
        """
        used, _ = await self._witness.authorization(token, authorization)
        head, time = await self._rpc.ask(_head, "eth_getBlockByNumber", "latest", False)
        found = await self._find(authorization, token, head) if used else None
        if found:
            deep = head - found.block + 1 >= self._confirmations
            mined = Mined(found.transaction, found.block, found.gas, found.fee_wei)
            return mined if deep else None
        # Until then a node that lags behind itself is a better explanation.
        if time >= authorization.valid_before:
            raise Refused(Reason.EXACT_USED if used else Reason.EXACT_EXPIRED)
        return None

    async def _find(self, told: Authorization, token: Address, head: int) -> Receipt | None:
        topics = (topic_of(AuthorizationUsed), bytes(12) + told.payer, told.authorization_nonce)
        query = {
            "address": show_address(token),
            "topics": [show_bytes(topic) for topic in topics],
            "fromBlock": hex(max(0, head - LOOK_BACK_BLOCKS)),
            "toBlock": "latest",
        }
        for transaction in await self._rpc.ask(_transactions, "eth_getLogs", query):
            receipt = await self._witness.receipt(transaction)
            if receipt and receipt.succeeded and _shows(receipt, told, token):
                return receipt
        return None


def _shows(receipt: Receipt, told: Authorization, token: Address) -> bool:
    """Whether the token tells that just this money moved, by just this authorization."""
    events = events_of(receipt)
    used = AuthorizationUsed(token, told.payer, told.authorization_nonce)
    return used in events and Transfer(token, told.payer, told.to, told.value) in events


class _LogWire(msgspec.Struct, rename="camel"):
    transaction_hash: str


class _BlockWire(msgspec.Struct):
    number: str
    timestamp: str


def _transactions(answer: object) -> list[bytes]:
    return [octets(log.transaction_hash) for log in msgspec.convert(answer, list[_LogWire])]


def _head(answer: object) -> tuple[int, int]:
    """Number and time of a block."""
    block = msgspec.convert(answer, _BlockWire)
    return quantity(block.number), quantity(block.timestamp)
