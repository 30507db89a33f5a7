"""Carrying to the chain what others have signed, and paying its gas.

A relay decides nothing: the contracts check the signatures. It tells what would happen, makes it
happen, and shows what came of it. What moved is read from events, never assumed.
"""

from paywall.chain.contract import Event, decode_log
from paywall.chain.gas import Call, Receipt, receipt_of
from paywall.chain.reads import Reads
from paywall.chain.rpc import Rpc, RpcRefused
from paywall.chain.transactions import Sender
from paywall.protocol.eip712 import Authorization
from paywall.protocol.errors import Reverted
from paywall.protocol.money import Address
from paywall.protocol.x402 import show_bytes


class Witness:
    """Sees what came of a transaction and of an authorization. Raises ChainUnavailable."""

    def __init__(self, rpc: Rpc, reads: Reads) -> None:
        self._rpc = rpc
        self._reads = reads

    async def receipt(self, transaction: bytes) -> Receipt | None:
        """What came of a transaction; None while it is not mined."""
        return await self._rpc.ask(receipt_of, "eth_getTransactionReceipt", show_bytes(transaction))

    async def authorization(self, token: Address, authorization: Authorization) -> tuple[bool, int]:
        """Whether the token knows it as used (or cancelled), and the payer's balance."""
        return await self._reads.authorization_of(token, authorization)


class Relay(Witness):
    """One gas wallet at the service of other people's signatures."""

    def __init__(self, rpc: Rpc, reads: Reads, sender: Sender) -> None:
        super().__init__(rpc, reads)
        self._sender = sender

    async def rehearse(self, call: Call) -> None:
        """Asks the chain whether it would do this now. Raises Reverted, or ChainUnavailable."""
        try:
            await self._rpc.call(bytes, call.to, call.data)
        except RpcRefused as refusal:
            if refusal.reverted:
                raise Reverted(refusal.reason) from None
            raise

    async def send(self, call: Call) -> Receipt:
        """Makes it happen and waits. Raises Reverted, TransactionPending, or ChainUnavailable."""
        receipt = await self._sender.transact(call)
        self._reads.seen(receipt.block)
        return receipt


def events_of(receipt: Receipt) -> list[Event]:
    """What the contracts tell in a receipt, as far as it concerns us."""
    found = (decode_log(log.address, log.topics, log.data) for log in receipt.logs)
    return [event for event in found if event]
