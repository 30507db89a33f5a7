"""The chain through an RPC and a gas key of our own: what a provider asks of it, verb by verb.

Two keys may differ. The gas key pays for transactions and decides nothing. The authorizer key is
the `receiverAuthorizer` of the channels: its signatures under claims and refunds are what the
contract obeys, whoever sends them.

Every verb may be repeated. Deposits are told apart by the token's own record of used
authorizations, claims are cumulative, a refund names its refund nonce, and a settlement moves what
there is. Nothing is believed that the contract does not show: what a deposit or a refund moved is
read from its event. Whether a channel is good for a payment is for others to decide.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Never
from weakref import WeakValueDictionary

from paywall.chain import Mined, contract
from paywall.chain.authority import Authority, settle
from paywall.chain.blocks import Blocks
from paywall.chain.events import Deposited, Refunded, decode_log
from paywall.chain.exact import Transfers
from paywall.chain.gas import (
    Call,
    GasWallet,
    Receipt,
    Sent,
    decode_sent,
    encode_sent,
    parse_key,
)
from paywall.chain.own import Head, InFlight, OwnChain, Seen, Written
from paywall.chain.proofs import Proofs
from paywall.chain.reads import Reads
from paywall.chain.relay import Relay
from paywall.chain.rpc import Rpc, quantity
from paywall.chain.transactions import STUCK_SECONDS, Sender
from paywall.protocol.channel import ChainState, Channel
from paywall.protocol.claims import Batch
from paywall.protocol.eip712 import COLLECTOR_ADDRESS, SETTLEMENT_ADDRESS, Authorization
from paywall.protocol.errors import (
    ChainUnavailable,
    ConfigurationError,
    Reason,
    Refused,
    Reverted,
)
from paywall.protocol.limits import CHAIN_TIMEOUT_SECONDS, RPC_SECONDS
from paywall.protocol.money import Address
from paywall.protocol.schemes.batch import Deposit
from paywall.protocol.x402 import show_address


class Node(OwnChain):
    """A `Chain` over JSON-RPC. `rpc` and the keys are secrets; no text of a Node shows them.

    `confirmations` of 1 is satisfied by the block that mined a transaction. `max_fee_wei` is the
    most that one transaction may cost; one that is not mined for `stuck_seconds` is replaced.
    """

    def __init__(
        self,
        rpc: str,
        key: str | bytes,
        *,
        network: str = "eip155:84532",
        authorizer_key: str | bytes | None = None,
        confirmations: int = 1,
        timeout_seconds: float = CHAIN_TIMEOUT_SECONDS,
        max_fee_wei: int | None = None,
        stuck_seconds: float = STUCK_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if confirmations < 1 or timeout_seconds <= 0:
            raise ConfigurationError("confirmations and timeout_seconds must be above zero")
        self.network = network
        gas_key = parse_key(key, "gas")
        signing_key = parse_key(authorizer_key, "authorizer") if authorizer_key else gas_key
        self._authority = Authority(signing_key, network)
        self._rpc = Rpc(rpc, min(RPC_SECONDS, timeout_seconds))
        self._blocks = Blocks(self._rpc)
        self._reads = Reads(self._rpc, network, confirmations, clock)
        self._sender = Sender(
            self._rpc,
            GasWallet(gas_key),
            network,
            confirmations=confirmations,
            timeout_seconds=timeout_seconds,
            max_fee_wei=max_fee_wei,
            stuck_seconds=stuck_seconds,
        )
        self._timeout_seconds = timeout_seconds
        self._depositing: WeakValueDictionary[bytes, asyncio.Lock] = WeakValueDictionary()
        self.relay = Relay(self._rpc, self._reads, self._sender)
        self._transfers = Transfers(self.relay, self._alone)
        self._proofs = Proofs(self._rpc, self.relay, confirmations)

    def __repr__(self) -> str:
        return f"Node({self.network} at {self._rpc}, gas wallet {show_address(self.gas_wallet)})"

    def __reduce__(self) -> Never:
        raise TypeError("a node holds keys and is not pickled")

    async def open(self) -> None:
        """Checks that the RPC leads to this network and that the contracts are there."""
        try:
            await self._reads.check()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        await self._rpc.close()

    @property
    def receiver_authorizer(self) -> Address:
        """Whose signature claims and refunds carry."""
        return self._authority.address

    @property
    def gas_wallet(self) -> Address:
        """Who pays for transactions."""
        return self._sender.wallet.address

    async def channel(self, channel_id: bytes) -> ChainState:
        """What the contract records of a channel, all of it at one block."""
        return await self._reads.channel(channel_id)

    async def deposit(self, deposit: Deposit) -> Mined | None:
        """Puts a deposit on chain; None when its authorization was used up before.

        That it was used does not say that the channel is funded: its payer may have cancelled it.
        Raises Refused.
        """
        async with self._alone(deposit.authorization().authorization_nonce):
            if await self._is_used_up(deposit):
                return None
            try:
                receipt = await self._transact(_deposit_call(deposit))
            except Reverted as error:
                if await self._is_used_up(deposit):
                    return None
                detail = f"({error.reason})" if error.reason else ""
                raise Refused(Reason.DEPOSIT_FAILED, detail) from error
        self._require(Deposited, deposit.channel_id, deposit.amount, receipt)
        return _mined(receipt)

    async def rehearse(self, batch: Batch) -> int:
        return await self._sender.pricing.gas_of(self._claim_of(batch))

    async def claim(self, batch: Batch, written: Written | None = None) -> Mined:
        """Raises the contract's record to what each channel has charged. Raises Reverted."""
        return _mined(await self._transact(self._claim_of(batch), written))

    def _claim_of(self, batch: Batch) -> Call:
        if batch.network != self.network or batch.receiver_authorizer != self.receiver_authorizer:
            raise ConfigurationError(
                f"claims of {show_address(batch.receiver_authorizer)} on {batch.network}"
                " need another authorizer key or another network"
            )
        return self._authority.claim(batch.channels)

    async def settle(
        self, receiver: Address, token: Address, written: Written | None = None
    ) -> Mined | None:
        """Moves all that was claimed to the receiver; None when there is nothing to move."""
        call = settle(receiver, token)
        await self._sender.catch_up(call)
        if await self.to_settle(receiver, token) <= 0:
            return None
        return _mined(await self._transact(call, written))

    async def resume(self, in_flight: InFlight, written: Written | None = None) -> Mined | None:
        sent = decode_sent(in_flight.data)
        receipt = await self._sender.resume(sent, _told(written))
        if receipt:
            self._reads.seen(receipt.block)
        return _mined(receipt) if receipt else None

    async def to_settle(self, receiver: Address, token: Address) -> int:
        return await self._reads.to_settle(receiver, token)

    async def refund(self, channel: Channel, amount: int) -> Mined:
        """Claims what the channel owes and returns `amount`, both or neither. Raises Reverted."""
        receipt = await self._transact(self._authority.refund(channel, amount))
        self._require(Refunded, channel.channel_id, amount, receipt)
        return _mined(receipt)

    async def transfer_with_authorization(
        self, authorization: Authorization, signature: bytes, token: Address
    ) -> Mined | None:
        """Makes a payer's `exact` transfer; None when its authorization was used up before.

        Raises Refused, also when the token shows no such transfer.
        """
        return await self._transfers.make(token, authorization, signature)

    async def authorization(self, authorization: Authorization, token: Address) -> tuple[bool, int]:
        """Whether the token knows it as used or cancelled, and the payer's balance."""
        return await self.relay.authorization(token, authorization)

    async def transferred(self, authorization: Authorization, token: Address) -> Mined | None:
        """What became of an `exact` transfer that was sent; None while it may still be mined.

        Raises Refused when it never will be.
        """
        return await self._proofs.transferred(authorization, token)

    async def token_balance(self, token: Address, holder: Address) -> int:
        return await self._reads.token_balance(token, holder)

    async def rehearse_settlement(self, receiver: Address, token: Address) -> int:
        return await self._sender.pricing.gas_of(settle(receiver, token))

    async def rehearse_refund(self, channel: Channel, amount: int) -> int:
        return await self._sender.pricing.gas_of(self._authority.refund(channel, amount))

    async def gas_price_wei(self) -> int:
        return await self._sender.pricing.price_wei()

    async def head(self) -> Head:
        return await self._blocks.head()

    async def log(self, first: int, last: int) -> list[Seen]:
        return await self._blocks.log(first, last)

    async def gas_balance_wei(self) -> int:
        """What the gas wallet has left."""
        wallet = show_address(self.gas_wallet)
        return await self._rpc.ask(quantity, "eth_getBalance", wallet, "latest")

    # -- How it is done --------------------------------------------------------------------------

    async def _is_used_up(self, deposit: Deposit) -> bool:
        """Whether the authorization was used; if not, the payer must have what it promises."""
        used, balance = await self._reads.authorization(deposit)
        if not used and balance < deposit.amount:
            raise Refused(Reason.PAYER_BALANCE)
        return used

    @asynccontextmanager
    async def _alone(self, authorization_nonce: bytes) -> AsyncIterator[None]:
        """One deposit of an authorization at a time: its copies wait and then find it used."""
        lock = self._depositing.setdefault(authorization_nonce, asyncio.Lock())
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await lock.acquire()
        except TimeoutError:
            raise ChainUnavailable("the same deposit is still under way") from None
        try:
            yield
        finally:
            lock.release()

    async def _transact(self, call: Call, written: Written | None = None) -> Receipt:
        receipt = await self._sender.transact(call, _told(written))
        self._reads.seen(receipt.block)
        return receipt

    def _require(
        self,
        kind: type[Deposited] | type[Refunded],
        channel_id: bytes,
        amount: int,
        receipt: Receipt,
    ) -> None:
        """Raises ChainUnavailable unless the receipt shows that this amount moved."""
        if (kind, channel_id, amount) not in _moved(receipt):
            raise ChainUnavailable(
                f"{self._rpc} shows 0x{receipt.transaction.hex()} as mined,"
                " and it did not move what it should have"
            )


def _told(written: Written | None) -> Callable[[Sent], Awaitable[None]] | None:
    """A claimer's ears for a sender's words."""
    if written is None:
        return None
    return lambda sent: written(InFlight(sent.latest.transaction, encode_sent(sent)))


def _deposit_call(deposit: Deposit) -> Call:
    data = contract.erc3009_collector_data(
        deposit.valid_after, deposit.valid_before, deposit.salt, deposit.signature
    )
    call = contract.encode_deposit(deposit.config, deposit.amount, COLLECTOR_ADDRESS, data)
    return Call(SETTLEMENT_ADDRESS, call)


def _moved(receipt: Receipt) -> set[tuple[type, bytes, int]]:
    """What the settlement contract says that this transaction put in or gave back."""
    events = (decode_log(log.address, log.topics, log.data) for log in receipt.logs)
    return {
        (type(event), event.channel_id, event.amount)
        for event in events
        if isinstance(event, Deposited | Refunded)
    }


def _mined(receipt: Receipt) -> Mined:
    return Mined(receipt.transaction, receipt.block, receipt.gas, receipt.fee_wei)
