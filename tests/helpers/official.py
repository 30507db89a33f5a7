"""The official Python SDK, set up as its own documentation does: payer, facilitator, server.

Nothing in here is ours but the chain that it talks to. Sums are read from the chain through the
SDK too, so that our own reading of the contract is not what our sums are compared with.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from eth_account import Account
from eth_account.signers.local import LocalAccount
from fastapi import FastAPI, Response
from fastapi.concurrency import run_in_threadpool
from x402 import x402Client, x402ClientSync, x402ResourceServer
from x402.http import FacilitatorConfig, HTTPFacilitatorClient
from x402.http.middleware.fastapi import PaymentMiddlewareASGI, set_settlement_overrides
from x402.mechanisms.evm import EthAccountSigner
from x402.mechanisms.evm.batch_settlement.authorizer_signer import LocalAuthorizerSigner
from x402.mechanisms.evm.batch_settlement.client import (
    BatchSettlementClientContext,
    BatchSettlementEvmScheme,
    BatchSettlementEvmSchemeOptions,
    InMemoryClientChannelStorage,
    RefundOptions,
)
from x402.mechanisms.evm.batch_settlement.client.channel import (
    read_channel_balance_and_total_claimed,
)
from x402.mechanisms.evm.batch_settlement.facilitator import BatchSettlementEvmFacilitator
from x402.mechanisms.evm.batch_settlement.server import (
    BatchSettlementEvmScheme as BatchSettlementServerScheme,
)
from x402.mechanisms.evm.batch_settlement.server import (
    BatchSettlementEvmSchemeServerConfig,
    Channel,
    InMemoryChannelStorage,
)
from x402.mechanisms.evm.signers import EthAccountSignerWithRPC, FacilitatorWeb3Signer
from x402.schemas import PaymentPayload, PaymentRequirements, SettleResponse

from helpers.chain import FUNDS, NETWORK, new_address
from helpers.servers import Counted, served
from paywall.chain.devnet import Devnet
from paywall.protocol.x402 import show_address

# -- The paying side -----------------------------------------------------------------------------


@dataclass(frozen=True)
class OfficialPayer:
    """Somebody with money who pays with the official client.

    With `reads_chain` the signer has an RPC, as one needs who wants to recover lost state.
    """

    devnet: Devnet
    reads_chain: bool = False
    account: LocalAccount = field(default_factory=Account.create)
    storage: InMemoryClientChannelStorage = field(default_factory=InMemoryClientChannelStorage)

    @cached_property
    def scheme(self) -> BatchSettlementEvmScheme:
        signer = (
            EthAccountSignerWithRPC(self.account, self.devnet.url)
            if self.reads_chain
            else EthAccountSigner(self.account)
        )
        return BatchSettlementEvmScheme(
            signer, BatchSettlementEvmSchemeOptions(storage=self.storage)
        )

    def client(self) -> x402Client:
        return x402Client().register(NETWORK, self.scheme)

    def client_sync(self) -> x402ClientSync:
        return x402ClientSync().register(NETWORK, self.scheme)

    def reborn(self, reads_chain: bool) -> "OfficialPayer":
        """The same key after all state was lost."""
        return OfficialPayer(self.devnet, reads_chain, self.account)

    def refund(self, url: str, amount: int | None = None) -> SettleResponse:
        """Asks for `amount` back, or for all that is left. It blocks, as the SDK does."""
        options = RefundOptions(amount=None if amount is None else str(amount))
        return self.scheme.refund(url, options)

    def context(self, channel_id: bytes) -> BatchSettlementClientContext | None:
        """What the client remembers of a channel."""
        return self.storage.get("0x" + channel_id.hex())

    def spent(self) -> int:
        """What has left this payer's wallet, by what the chain says."""
        return FUNDS - self.devnet.usdc_balance(self.account.address)


def rich_payer(devnet: Devnet, reads_chain: bool = False) -> OfficialPayer:
    payer = OfficialPayer(devnet, reads_chain)
    devnet.fund_usdc(payer.account.address, FUNDS)
    return payer


def on_chain(devnet: Devnet, channel_id: bytes) -> tuple[int, int]:
    """(balance, claimed) of a channel, read from the contract by the SDK."""
    signer = EthAccountSignerWithRPC(Account.create(), devnet.url)
    return read_channel_balance_and_total_claimed(signer, "0x" + channel_id.hex())


# -- The facilitator -----------------------------------------------------------------------------


def facilitator_app(devnet: Devnet) -> FastAPI:
    """A facilitator over HTTP that speaks batch-settlement, with a gas key of the devnet's."""
    scheme = BatchSettlementEvmFacilitator(
        FacilitatorWeb3Signer(devnet.accounts[1].key, devnet.url),
        authorizer_signer=LocalAuthorizerSigner(Account.create()),
    )
    kind: dict[str, Any] = {"x402Version": 2, "scheme": scheme.scheme, "network": NETWORK}
    kind["extra"] = scheme.get_extra(NETWORK)
    app = FastAPI()

    @app.get("/supported")
    async def supported() -> dict[str, Any]:
        signers = {scheme.caip_family: scheme.get_signers(NETWORK)}
        return {"kinds": [kind], "extensions": [], "signers": signers}

    @app.post("/verify")
    async def verify(body: dict[str, Any]) -> dict[str, Any]:
        answer = await run_in_threadpool(scheme.verify, *_parsed(body))
        return answer.model_dump(by_alias=True, exclude_none=True)

    @app.post("/settle")
    async def settle(body: dict[str, Any]) -> dict[str, Any]:
        answer = await run_in_threadpool(scheme.settle, *_parsed(body))
        return answer.model_dump(by_alias=True, exclude_none=True)

    return app


def _parsed(body: dict[str, Any]) -> tuple[PaymentPayload, PaymentRequirements]:
    return (
        PaymentPayload.model_validate(body["paymentPayload"]),
        PaymentRequirements.model_validate(body["paymentRequirements"]),
    )


# -- The earning side ----------------------------------------------------------------------------

PARTIAL: Final = 300
"""What the server's /partial charges of the price that it quotes."""


@dataclass(frozen=True)
class OfficialServer:
    """A FastAPI app behind the official middleware, its facilitator, and how often it was asked."""

    url: str
    receiver: str
    requests: Counted
    scheme: BatchSettlementServerScheme
    facilitator_url: str

    def channel(self) -> Channel:
        """The record of the one channel that this server has."""
        (channel,) = self.scheme.get_storage().list()
        return channel

    async def collect(self) -> tuple[int, bool]:
        """Claims and settles by its channel manager; the number of vouchers, and whether settled.

        The facilitator's client belongs to one loop, so the manager gets one of its own.
        """
        async with HTTPFacilitatorClient(FacilitatorConfig(url=self.facilitator_url)) as client:
            manager = self.scheme.create_channel_manager(client, NETWORK)
            done = await manager.claim_and_settle()
        return sum(claim.vouchers for claim in done["claims"]), done["settle"] is not None


@contextmanager
def official_server(devnet: Devnet) -> Iterator[OfficialServer]:
    """The server and its facilitator, each under uvicorn."""
    receiver = show_address(new_address())
    with served(facilitator_app(devnet)) as facilitator_url:
        scheme = BatchSettlementServerScheme(
            receiver, BatchSettlementEvmSchemeServerConfig(storage=InMemoryChannelStorage())
        )
        app = Counted(_shop(facilitator_url, receiver, scheme))
        with served(app) as url:
            yield OfficialServer(url, receiver, app, scheme, facilitator_url)


def _shop(facilitator_url: str, receiver: str, scheme: BatchSettlementServerScheme) -> FastAPI:
    facilitator = HTTPFacilitatorClient(FacilitatorConfig(url=facilitator_url))
    server = x402ResourceServer(facilitator).register(NETWORK, scheme)
    option = {
        "scheme": scheme.scheme,
        "payTo": receiver,
        "price": "$0.001",
        "network": NETWORK,
    }

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        async with facilitator:  # its connections belong to this server's loop
            yield

    app = FastAPI(lifespan=life)
    routes = {route: {"accepts": option} for route in ("GET /item/*", "GET /partial")}
    app.add_middleware(PaymentMiddlewareASGI, routes=routes, server=server)

    @app.get("/item/{name}")
    async def item(name: str) -> dict[str, str]:
        return {"name": name}

    @app.get("/partial")
    async def partial(response: Response) -> dict[str, bool]:
        set_settlement_overrides(response, {"amount": str(PARTIAL)})
        return {"partial": True}

    return app
