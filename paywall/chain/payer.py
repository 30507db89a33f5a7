"""The chain as a payer asks it: what its channels hold, and taking its own money back by time.

Only the payer of a channel, or its voucher key, may withdraw from it, so the key here is one of
these two and pays for its own gas. Nothing here needs the provider, and nothing trusts it. Verbs
may be repeated: who finds a withdrawal begun or finished learns so from the contract.

Source: batch-settlement EVM specification, "Contract": initiateWithdraw, finalizeWithdraw.
"""

import time
from collections.abc import AsyncIterator, Callable
from typing import Final, Never, Self

import msgspec

from paywall.chain import Mined, contract
from paywall.chain.blocks import Blocks
from paywall.chain.events import ChannelCreated, WithdrawFinalized, decode_log, topic_of
from paywall.chain.gas import Call, GasWallet, Receipt, parse_key
from paywall.chain.reads import Reads
from paywall.chain.rpc import Rpc, RpcRefused, octets, quantity
from paywall.chain.transactions import Sender
from paywall.protocol.channel import ChainState, ChannelConfig
from paywall.protocol.eip712 import SETTLEMENT_ADDRESS
from paywall.protocol.errors import ChainUnavailable, ConfigurationError
from paywall.protocol.limits import CHAIN_TIMEOUT_SECONDS, RPC_SECONDS
from paywall.protocol.money import Address
from paywall.protocol.x402 import show_address, show_bytes

MAX_BLOCKS_AT_ONCE: Final = 100_000
"""How many blocks are searched with one question; an endpoint that refuses is asked for half."""


class PayerNode:
    """An RPC, and the key of a payer or of its vouchers. No text of it shows either."""

    def __init__(
        self,
        rpc: str,
        key: str | bytes,
        *,
        network: str,
        confirmations: int = 1,
        timeout_seconds: float = CHAIN_TIMEOUT_SECONDS,
        max_fee_wei: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if confirmations < 1 or timeout_seconds <= 0:
            raise ConfigurationError("confirmations and timeout_seconds must be above zero")
        self.network = network
        self._rpc = Rpc(rpc, min(RPC_SECONDS, timeout_seconds))
        self._blocks = Blocks(self._rpc)
        self._reads = Reads(self._rpc, network, confirmations, clock)
        self._sender = Sender(
            self._rpc,
            GasWallet(parse_key(key, "payer's")),
            network,
            confirmations=confirmations,
            timeout_seconds=timeout_seconds,
            max_fee_wei=max_fee_wei,
        )

    def __repr__(self) -> str:
        return f"PayerNode({self.network} at {self._rpc}, {show_address(self.address)})"

    def __reduce__(self) -> Never:
        raise TypeError("a node holds a key and is not pickled")

    @property
    def address(self) -> Address:
        """Who sends, and pays for, the transactions."""
        return self._sender.wallet.address

    async def __aenter__(self) -> Self:
        """Checks that the RPC leads to this network. Raises ConfigurationError."""
        try:
            await self._reads.check()
        except BaseException:
            await self._rpc.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._rpc.close()

    async def channel(self, channel_id: bytes) -> ChainState:
        """What the contract records of a channel; zeros for an unknown one."""
        return await self._reads.channel(channel_id)

    async def time(self) -> int:
        """The chain's own clock, in Unix seconds."""
        return (await self._blocks.head()).mined_at

    async def is_used(self, token: Address, payer: Address, authorization_nonce: bytes) -> bool:
        """Whether the token knows this nonce of the payer's as used."""
        return await self._reads.is_used(token, payer, authorization_nonce)

    async def initiate_withdraw(self, config: ChannelConfig, amount: int) -> Mined:
        """Starts the delay after which `amount` can be taken. Raises Reverted."""
        return await self._transact(config, contract.encode_initiate_withdraw(config, amount))

    async def finalize_withdraw(self, config: ChannelConfig) -> tuple[Mined, int]:
        """Takes what was asked for, or what is still unclaimed; and how much. Raises Reverted."""
        call = Call(SETTLEMENT_ADDRESS, contract.encode_finalize_withdraw(config))
        self._refuse_stranger(config)
        receipt = await self._sender.transact(call)
        self._reads.seen(receipt.block)
        channel_id = config.channel_id(self.network)
        events = (decode_log(log.address, log.topics, log.data) for log in receipt.logs)
        for event in events:
            if isinstance(event, WithdrawFinalized) and event.channel_id == channel_id:
                return _mined(receipt), event.amount
        raise ChainUnavailable(f"{self._rpc} shows a withdrawal as mined that moved nothing")

    async def channels_of(self, payer: Address, first: int = 0) -> list[ChannelConfig]:
        """Every channel that was ever opened for this payer since the block `first`."""
        found: dict[bytes, ChannelConfig] = {}
        async for event in self._created(first, (await self._blocks.head()).number):
            mine = event.config.payer == payer
            if mine and event.config.channel_id(self.network) == event.channel_id:
                found[event.channel_id] = event.config
        return list(found.values())

    async def _created(self, first: int, last: int) -> AsyncIterator[ChannelCreated]:
        step = MAX_BLOCKS_AT_ONCE
        while first <= last:
            until = min(last, first + step - 1)
            try:
                events = await self._created_at_once(first, until)
            except RpcRefused:
                if step == 1:
                    raise
                step = max(1, step // 2)
                continue
            for event in events:
                yield event
            first = until + 1

    async def _created_at_once(self, first: int, last: int) -> list[ChannelCreated]:
        query = {
            "address": show_address(SETTLEMENT_ADDRESS),
            "topics": [show_bytes(topic_of(ChannelCreated))],
            "fromBlock": hex(first),
            "toBlock": hex(last),
        }
        return await self._rpc.ask(_created, "eth_getLogs", query)

    async def _transact(self, config: ChannelConfig, data: bytes) -> Mined:
        self._refuse_stranger(config)
        receipt = await self._sender.transact(Call(SETTLEMENT_ADDRESS, data))
        self._reads.seen(receipt.block)
        return _mined(receipt)

    def _refuse_stranger(self, config: ChannelConfig) -> None:
        if self.address not in (config.payer, config.payer_authorizer):
            raise ConfigurationError(
                f"only {show_address(config.payer)} or its voucher key can withdraw from this"
                f" channel; the key here is of {show_address(self.address)}"
            )


class _LogWire(msgspec.Struct, rename="camel"):
    address: str
    topics: list[str]
    data: str
    removed: bool = False


def _created(answer: object) -> list[ChannelCreated]:
    lines = [wire for wire in msgspec.convert(answer, list[_LogWire]) if not wire.removed]
    events = (
        decode_log(
            Address(octets(wire.address)),
            [octets(topic) for topic in wire.topics],
            octets(wire.data),
        )
        for wire in lines
    )
    return [event for event in events if isinstance(event, ChannelCreated)]


def _mined(receipt: Receipt) -> Mined:
    return Mined(receipt.transaction, receipt.block, receipt.gas, receipt.fee_wei)


async def holdings(rpc: str, network: str, holder: Address, tokens: list[Address]) -> list[int]:
    """What an address has: wei, and then of each token. Needs no key. Raises ChainUnavailable."""
    endpoint = Rpc(rpc, RPC_SECONDS)
    reads = Reads(endpoint, network, confirmations=1)
    try:
        await reads.check()
        wei = await endpoint.ask(quantity, "eth_getBalance", show_address(holder), "latest")
        return [wei, *[await reads.token_balance(token, holder) for token in tokens]]
    finally:
        await endpoint.close()
