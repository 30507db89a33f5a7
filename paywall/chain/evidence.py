"""What must be seen on chain before somebody else's word for it counts.

A facilitator says that it sent a transaction. It may lie, or its answer may be lost on the way. In
both cases the chain decides: a `Wanted` says which events of which contract would show that it was
done, and where to look for them when no transaction was named. A transaction that is older than the
question is no answer to it, whatever it shows.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from paywall.chain.contract import Event, topic_of
from paywall.chain.events import AuthorizationUsed, Claimed, Deposited, Refunded, Settled, Transfer
from paywall.chain.gas import Receipt, receipt_of
from paywall.chain.relay import events_of
from paywall.chain.rpc import Rpc, octets, quantity
from paywall.protocol.channel import Channel
from paywall.protocol.claims import claimable_total
from paywall.protocol.eip712 import SETTLEMENT_ADDRESS, Authorization
from paywall.protocol.errors import ChainUnavailable, Reverted, TransactionPending
from paywall.protocol.money import Address
from paywall.protocol.schemes.batch import Deposit
from paywall.protocol.x402 import show_address, show_bytes

PAUSES_SECONDS: Final = (0.05, 0.1, 0.2, 0.4, 0.8)
MAX_CANDIDATES: Final = 16


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a transaction must have done; `topics` find its log at `contract`."""

    contract: Address
    topics: tuple[bytes, ...]
    shown: Callable[[Sequence[Event]], bool]


def deposited(deposit: Deposit) -> Wanted:
    """That this authorization was used, and filled this channel."""
    told = deposit.authorization()
    used = AuthorizationUsed(deposit.config.token, told.payer, told.authorization_nonce)

    def shown(events: Sequence[Event]) -> bool:
        return used in events and any(
            isinstance(event, Deposited)
            and (event.channel_id, event.amount) == (deposit.channel_id, deposit.amount)
            for event in events
        )

    return _at_settlement(Deposited, deposit.channel_id, shown=shown)


def transferred(token: Address, told: Authorization) -> Wanted:
    """That this authorization was used, and moved its value to its receiver."""
    used = AuthorizationUsed(token, told.payer, told.authorization_nonce)
    transfer = Transfer(token, told.payer, told.to, told.value)
    topics = (topic_of(AuthorizationUsed), _padded(told.payer), told.authorization_nonce)
    return Wanted(token, topics, lambda events: used in events and transfer in events)


def claimed(channels: Sequence[Channel]) -> Wanted:
    """That all that these channels have charged was claimed, as far as it was not before."""
    totals = {channel.channel_id: claimable_total(channel) for channel in channels}
    due = {c.channel_id: totals[c.channel_id] for c in channels if totals[c.channel_id] > c.claimed}
    first = max(channels, key=lambda channel: channel.unclaimed).channel_id

    def shown(events: Sequence[Event]) -> bool:
        done = {e.channel_id: e.claimed for e in events if isinstance(e, Claimed)}
        return all(done.get(channel_id, -1) >= total for channel_id, total in due.items())

    return _at_settlement(Claimed, first, shown=shown)


def settled(receiver: Address, token: Address) -> Wanted:
    """That something went to the receiver."""

    def shown(events: Sequence[Event]) -> bool:
        return any(
            isinstance(event, Settled) and (event.receiver, event.token) == (receiver, token)
            for event in events
        )

    return _at_settlement(Settled, _padded(receiver), _padded(token), shown=shown)


def refunded(channel_id: bytes, amount: int) -> Wanted:
    def shown(events: Sequence[Event]) -> bool:
        return any(
            isinstance(event, Refunded) and (event.channel_id, event.amount) == (channel_id, amount)
            for event in events
        )

    return _at_settlement(Refunded, channel_id, shown=shown)


def _at_settlement(
    kind: type[Event], *topics: bytes, shown: Callable[[Sequence[Event]], bool]
) -> Wanted:
    return Wanted(SETTLEMENT_ADDRESS, (topic_of(kind), *topics), shown)


def _padded(address: Address) -> bytes:
    return bytes(12) + address


class _LogWire(msgspec.Struct, rename="camel"):
    transaction_hash: str


def _transactions(answer: object) -> list[bytes]:
    logs = msgspec.convert(answer, list[_LogWire])
    found = {octets(log.transaction_hash): None for log in logs}
    return list(found)[-MAX_CANDIDATES:]


class Evidence:
    """Looks for what is wanted, until it is there or time is up."""

    def __init__(self, rpc: Rpc, confirmations: int) -> None:
        self._rpc = rpc
        self._confirmations = confirmations

    async def now(self) -> int:
        """The newest block: what is wanted must be in a later one."""
        return await self._rpc.ask(quantity, "eth_blockNumber")

    async def of(
        self, wanted: Wanted, since: int, transaction: bytes | None, seconds: float
    ) -> Receipt:
        """The receipt that shows what is wanted, in a block after `since`.

        `transaction` is what somebody says that it was. Raises Reverted when that one failed,
        ChainUnavailable when it did something else, and TransactionPending when nothing is seen.
        """
        deadline = asyncio.get_running_loop().time() + seconds
        for turn in range(10**6):
            found = await self._look(wanted, since, transaction)
            if found is not None:
                return found
            pause = PAUSES_SECONDS[min(turn, len(PAUSES_SECONDS) - 1)]
            if asyncio.get_running_loop().time() + pause > deadline:
                break
            await asyncio.sleep(pause)
        raise TransactionPending(
            f"{self._rpc} does not show what a facilitator may have sent", transaction or b""
        )

    async def _look(self, wanted: Wanted, since: int, transaction: bytes | None) -> Receipt | None:
        try:
            receipt = await self._receipt(transaction) if transaction else None
            candidates = [] if receipt else await self._candidates(wanted, since)
            for candidate in candidates:
                other = await self._receipt(candidate)
                if other and _answers(other, wanted, since) and await self._is_deep(other):
                    return other
            if receipt is None or not await self._is_deep(receipt):
                return None
        except ChainUnavailable:
            return None  # asked again until time is up
        if not receipt.succeeded:
            raise Reverted("the transaction was mined and reverted", receipt.transaction)
        if not _answers(receipt, wanted, since):
            raise ChainUnavailable(
                f"0x{receipt.transaction.hex()} did not do what a facilitator says that it did"
            )
        return receipt

    async def _receipt(self, transaction: bytes) -> Receipt | None:
        receipt = await self._rpc.ask(
            receipt_of, "eth_getTransactionReceipt", show_bytes(transaction)
        )
        return receipt if receipt and receipt.transaction == transaction else None

    async def _candidates(self, wanted: Wanted, since: int) -> list[bytes]:
        query = {
            "address": show_address(wanted.contract),
            "topics": [show_bytes(topic) for topic in wanted.topics],
            "fromBlock": hex(since + 1),
            "toBlock": "latest",
        }
        return await self._rpc.ask(_transactions, "eth_getLogs", query)

    async def _is_deep(self, receipt: Receipt) -> bool:
        if self._confirmations == 1:
            return True
        return await self.now() - receipt.block + 1 >= self._confirmations


def _answers(receipt: Receipt, wanted: Wanted, since: int) -> bool:
    return receipt.succeeded and receipt.block > since and wanted.shown(events_of(receipt))
