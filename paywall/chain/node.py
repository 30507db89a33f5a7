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
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, Never
from weakref import WeakValueDictionary

from paywall.chain import Mined, contract
from paywall.chain.events import Deposited, Refunded, decode_log
from paywall.chain.gas import Call, GasWallet, Receipt, parse_key
from paywall.chain.reads import Reads
from paywall.chain.rpc import Rpc, quantity
from paywall.chain.transactions import Sender
from paywall.protocol import eip712
from paywall.protocol.channel import ChainState, Channel
from paywall.protocol.claims import Batch
from paywall.protocol.eip712 import COLLECTOR_ADDRESS, SETTLEMENT_ADDRESS
from paywall.protocol.errors import (
    ChainUnavailable,
    ConfigurationError,
    Reason,
    Refused,
    Reverted,
)
from paywall.protocol.limits import CHAIN_TIMEOUT_SECONDS
from paywall.protocol.money import Address, chain_id_of
from paywall.protocol.schemes.batch import Deposit
from paywall.protocol.x402 import show_address

RPC_SECONDS: Final = 10.0
"""How long one question may take."""


class Node:
    """A `Chain` over JSON-RPC. `rpc` and the keys are secrets; no text of a Node shows them.

    `confirmations` of 1 is satisfied by the block that mined a transaction. `max_fee_wei` is the
    most that one transaction may cost.
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
        clock: Callable[[], float] = time.time,
    ) -> None:
        if confirmations < 1 or timeout_seconds <= 0:
            raise ConfigurationError("confirmations and timeout_seconds must be above zero")
        self.network = network
        self._domain = eip712.settlement_domain(chain_id_of(network))
        gas_key = parse_key(key, "gas")
        self._authorizer = parse_key(authorizer_key, "authorizer") if authorizer_key else gas_key
        self._rpc = Rpc(rpc, min(RPC_SECONDS, timeout_seconds))
        self._reads = Reads(self._rpc, network, confirmations, clock)
        self._sender = Sender(
            self._rpc,
            GasWallet(gas_key),
            network,
            confirmations=confirmations,
            timeout_seconds=timeout_seconds,
            max_fee_wei=max_fee_wei,
        )
        self._timeout_seconds = timeout_seconds
        self._depositing: WeakValueDictionary[bytes, asyncio.Lock] = WeakValueDictionary()

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
        return eip712.address_of(self._authorizer)

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

    async def claim(self, batch: Batch) -> Mined:
        """Raises the contract's record to what each channel has charged. Raises Reverted."""
        if batch.network != self.network or batch.receiver_authorizer != self.receiver_authorizer:
            raise ConfigurationError(
                f"claims of {show_address(batch.receiver_authorizer)} on {batch.network}"
                " need another authorizer key or another network"
            )
        return _mined(await self._transact(self._signed_claim(batch.channels)))

    async def settle(self, receiver: Address, token: Address) -> Mined | None:
        """Moves all that was claimed to the receiver; None when there is nothing to move."""
        call = Call(SETTLEMENT_ADDRESS, contract.encode_settle(receiver, token))
        await self._sender.catch_up(call)
        if await self._reads.to_settle(receiver, token) <= 0:
            return None
        return _mined(await self._transact(call.data))

    async def refund(self, channel: Channel, amount: int) -> Mined:
        """Claims what the channel owes and returns `amount`, both or neither. Raises Reverted."""
        refund_nonce = channel.chain.refund_nonce
        digest = eip712.refund_digest(self._domain, channel.channel_id, refund_nonce, amount)
        call = contract.encode_refund_with_signature(
            channel.config, amount, refund_nonce, eip712.sign(self._authorizer, digest)
        )
        if channel.unclaimed > 0:
            call = contract.encode_multicall([self._signed_claim([channel]), call])
        receipt = await self._transact(call)
        self._require(Refunded, channel.channel_id, amount, receipt)
        return _mined(receipt)

    async def token_balance(self, token: Address, holder: Address) -> int:
        return await self._reads.token_balance(token, holder)

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

    def _signed_claim(self, channels: Sequence[Channel]) -> bytes:
        """A claim of all that the channels have charged, under the authorizer's signature."""
        rows = [_claim_row(channel) for channel in channels]
        entries = [
            (channel.channel_id, row.amount, row.claimed)
            for channel, row in zip(channels, rows, strict=True)
        ]
        digest = eip712.claim_batch_digest(self._domain, entries)
        return contract.encode_claim_with_signature(rows, eip712.sign(self._authorizer, digest))

    async def _transact(self, data: bytes) -> Receipt:
        receipt = await self._sender.transact(Call(SETTLEMENT_ADDRESS, data))
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


def _deposit_call(deposit: Deposit) -> bytes:
    data = contract.erc3009_collector_data(
        deposit.valid_after, deposit.valid_before, deposit.salt, deposit.signature
    )
    return contract.encode_deposit(deposit.config, deposit.amount, COLLECTOR_ADDRESS, data)


def _claim_row(channel: Channel) -> contract.ClaimRow:
    voucher = channel.voucher
    assert voucher is not None, "a claim needs the payer's signature"
    return contract.ClaimRow(channel.config, voucher.amount, voucher.signature, channel.charged)


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
