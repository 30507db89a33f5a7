"""Players of the embedded chain: a payer with money, channels of its own, and nodes to ask.

Every payer, receiver and salt is new, so that tests share one chain and not their money. Times are
far from the chain's clock, which other tests move.
"""

import asyncio
import itertools
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

import msgspec
from coincurve import PrivateKey

from paywall.chain import contract
from paywall.chain.devnet import Devnet
from paywall.chain.gas import Call, GasWallet
from paywall.chain.node import Node
from paywall.chain.rpc import Rpc
from paywall.chain.transactions import Sender
from paywall.protocol import eip712
from paywall.protocol.channel import ChainState, Channel, ChannelConfig, Voucher
from paywall.protocol.claims import Batch
from paywall.protocol.money import USDC, Address, parse_address
from paywall.protocol.schemes.batch import Deposit, sign_voucher
from paywall.protocol.x402 import show_address

ASSET: Final = USDC.base_sepolia
NETWORK: Final = ASSET.network
DOMAIN: Final = eip712.settlement_domain(ASSET.chain_id)
TOKEN_DOMAIN: Final = eip712.domain_separator(
    ASSET.name, ASSET.version, ASSET.chain_id, ASSET.address
)
FAR_FUTURE: Final = 2**40 - 1
FUNDS: Final = 100_000_000

_salts = itertools.count(1)


def new_address() -> Address:
    return eip712.address_of(PrivateKey())


@asynccontextmanager
async def node_of(devnet: Devnet, url: str | None = None, **options: Any) -> AsyncIterator[Node]:
    """An open node with a gas key of the devnet's; `url` when it should ask somebody else."""
    options.setdefault("key", devnet.accounts[0].key)
    node = Node(url or devnet.url, options.pop("key"), **options)
    await node.open()
    try:
        yield node
    finally:
        await node.close()


@dataclass(frozen=True)
class Payer:
    """Somebody with a key, and the channels that this key opens."""

    key: PrivateKey = field(default_factory=PrivateKey)

    @property
    def address(self) -> Address:
        return eip712.address_of(self.key)

    def config(self, authorizer: Address, receiver: Address | None = None) -> ChannelConfig:
        """A channel that nobody else has."""
        return ChannelConfig(
            payer=self.address,
            payer_authorizer=self.address,
            receiver=receiver or new_address(),
            receiver_authorizer=authorizer,
            token=ASSET.address,
            withdraw_delay_seconds=900,
            salt=next(_salts).to_bytes(32, "big"),
        )

    def deposit(self, config: ChannelConfig, amount: int = 1_000_000, **changes: Any) -> Deposit:
        """A signed deposit; `changes` are made before signing."""
        unsigned = Deposit(
            channel_id=config.channel_id(NETWORK),
            config=config,
            amount=amount,
            valid_after=0,
            valid_before=FAR_FUTURE,
            salt=secrets.randbits(256),
            signature=b"",
        )
        unsigned = replace(unsigned, **changes)
        digest = unsigned.authorization().receive_digest(TOKEN_DOMAIN)
        return replace(unsigned, signature=eip712.sign(self.key, digest))

    def channel(
        self, config: ChannelConfig, chain: ChainState, charged: int, signed: int | None = None
    ) -> Channel:
        """The channel as a provider knows it that charged this much on a voucher for `signed`."""
        channel_id = config.channel_id(NETWORK)
        voucher = sign_voucher(self.key, DOMAIN, channel_id, signed or charged)
        return Channel(channel_id, NETWORK, config, chain, charged=charged, voucher=voucher)


def rich_payer(devnet: Devnet) -> Payer:
    """A new payer with USDC and without ETH."""
    payer = Payer()
    devnet.fund_usdc(show_address(payer.address), FUNDS)
    return payer


async def funded(
    node: Node,
    payer: Payer,
    charged: int,
    deposit: int = 1_000_000,
    receiver: Address | None = None,
) -> Channel:
    """A channel with money on chain, of which the provider has charged some."""
    config = payer.config(node.receiver_authorizer, receiver)
    await node.deposit(payer.deposit(config, deposit))
    state = await node.channel(config.channel_id(NETWORK))
    return payer.channel(config, state, charged)


def batch_of(node: Node, *channels: Channel) -> Batch:
    return Batch(NETWORK, node.receiver_authorizer, channels)


def with_voucher(channel: Channel, voucher: Voucher) -> Channel:
    return msgspec.structs.replace(channel, voucher=voucher)


async def eventually(holds: Callable[[], bool], seconds: float = 5) -> None:
    """Waits until something that nobody announces has happened."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.01)


async def send_as(devnet: Devnet, key: str, data: bytes) -> None:
    """Sends a transaction to the settlement contract by a key that has ETH."""
    rpc = Rpc(devnet.url, 10)
    wallet = GasWallet(PrivateKey(bytes.fromhex(key[2:])))
    sender = Sender(rpc, wallet, NETWORK, confirmations=1, timeout_seconds=60, max_fee_wei=None)
    try:
        await sender.transact(Call(contract.SETTLEMENT_ADDRESS, data))
    finally:
        await rpc.close()


def address_of_account(devnet: Devnet, number: int) -> Address:
    return parse_address(devnet.accounts[number].address)
