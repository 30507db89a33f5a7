"""A whole provider on the devnet without HTTP: a gate that reads payment headers, a store, a node.

Its clock is the devnet's, so that time may travel. What a payer signs comes in as a header and is
held; the charge is for whoever plays the handler.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from msgspec import Raw

from helpers.chain import ASSET, NETWORK, new_address
from helpers.collecting import ChainClock
from paywall.admission import Admission
from paywall.chain import claimer
from paywall.chain.devnet import Devnet
from paywall.chain.node import Node
from paywall.gate import Gate
from paywall.protocol.channel import ChannelConfig, Voucher
from paywall.protocol.schemes import batch
from paywall.protocol.schemes.batch import BatchTerms
from paywall.protocol.x402 import VERSION, PaymentPayload, encode_header
from paywall.stores import Store
from paywall.stores.memory import MemoryStore

PRICE: Final = 1_000
DELAY_SECONDS: Final = 900


class Shop:
    """One receiver and one price."""

    def __init__(self, devnet: Devnet, clock: ChainClock, store: Store | None = None) -> None:
        self.clock = clock
        self.receiver = new_address()
        self.store = store or MemoryStore(clock=clock)
        self.node = Node(devnet.url, devnet.accounts[0].key, network=NETWORK, clock=clock)
        self.terms = BatchTerms(
            ASSET,
            self.receiver,
            self.node.receiver_authorizer,
            withdraw_delay_seconds=DELAY_SECONDS,
            min_deposit=PRICE,
            max_deposit=10**9,
        )
        self.gate = Gate(self.terms, self.store, self.node, clock)

    def header(self, config: ChannelConfig, voucher: Voucher) -> str:
        """A payment by voucher."""
        channel_id = config.channel_id(NETWORK)
        return self.wrap(batch.voucher_payload(batch.config_wire(config), channel_id, voucher))

    def filling(self, config: ChannelConfig, voucher: Voucher, deposit: batch.Deposit) -> str:
        """A payment that brings a deposit along."""
        return self.wrap(batch.deposit_payload(batch.config_wire(config), voucher, deposit))

    def wrap(self, payload: Raw) -> str:
        accepted = self.gate.quote(PRICE).accepts[0]
        return encode_header(
            PaymentPayload(x402_version=VERSION, accepted=accepted, payload=payload)
        )

    async def admit(self, header: str) -> Admission:
        """Raises as the gate does."""
        admission = await self.gate.admit(header, self.gate.quote(PRICE), b"GET /item")
        assert isinstance(admission, Admission)
        return admission

    async def earned(self) -> int:
        return await self.node.token_balance(ASSET.address, self.receiver)

    async def collect(self) -> int:
        """Brings everything home that can be, and says how much has come."""
        await claimer.claim(self.store, self.node)
        await claimer.settle(self.store, self.node)
        return await self.earned()


@asynccontextmanager
async def open_shop(
    devnet: Devnet, clock: ChainClock, store: Store | None = None
) -> AsyncIterator[Shop]:
    shop = Shop(devnet, clock, store)
    await shop.gate.open()
    try:
        yield shop
    finally:
        await shop.gate.close()
