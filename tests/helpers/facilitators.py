"""Facilitators for tests: ours and the official one, each over HTTP, and servers that use them."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from eth_account import Account
from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from starlette.applications import Starlette
from x402 import x402Client, x402ResourceServer
from x402.http import FacilitatorConfig, HTTPFacilitatorClient
from x402.http.facilitator_client_base import AuthHeaders
from x402.http.middleware.fastapi import PaymentMiddlewareASGI
from x402.mechanisms.evm import EthAccountSigner
from x402.mechanisms.evm.batch_settlement.authorizer_signer import LocalAuthorizerSigner
from x402.mechanisms.evm.batch_settlement.facilitator import BatchSettlementEvmFacilitator
from x402.mechanisms.evm.batch_settlement.server import (
    BatchSettlementEvmScheme as BatchSettlementServerScheme,
)
from x402.mechanisms.evm.batch_settlement.server import (
    BatchSettlementEvmSchemeServerConfig,
    InMemoryChannelStorage,
)
from x402.mechanisms.evm.exact import ExactEvmClientScheme, ExactEvmServerScheme
from x402.mechanisms.evm.exact.facilitator import ExactEvmScheme as ExactFacilitatorScheme
from x402.mechanisms.evm.signers import FacilitatorWeb3Signer
from x402.schemas import PaymentPayload, PaymentRequirements

from helpers.chain import ASSET, NETWORK, new_address
from helpers.official import OfficialPayer, OfficialServer
from helpers.servers import SLOW_SECONDS, Counted, Provider, api, served
from paywall import Node, Paywall, open_store
from paywall.chain.devnet import Devnet
from paywall.chain.facilitator import Facilitator
from paywall.facilitator import facilitator_app
from paywall.protocol import claims
from paywall.protocol.money import USDC, parse_address
from paywall.protocol.x402 import show_address

UNUSED: Final = Node("http://127.0.0.1:9", bytes([1]) * 32, network=NETWORK)
"""Where a helper names a node, and nobody may ask it."""
API_KEY: Final = "a key that only this test's server knows"


# -- Ours ----------------------------------------------------------------------------------------


def our_app(devnet: Devnet, **options: Any) -> Starlette:
    """Our facilitator, with a gas key that no other helper uses."""
    options.setdefault("rate", 10_000)
    node = Node(devnet.url, devnet.accounts[2].key, network=NETWORK)
    return facilitator_app(node, **options)


class WithKey:
    """The official way to send credentials to a facilitator."""

    def get_auth_headers(self) -> AuthHeaders:
        headers = {"Authorization": f"Bearer {API_KEY}"}
        return AuthHeaders(verify=headers, settle=headers, supported=headers)


# -- The official server at our facilitator ------------------------------------------------------


@dataclass(frozen=True)
class Shop(OfficialServer):
    """An official server that also takes `exact`."""

    async def collect(self) -> tuple[int, bool]:
        config = FacilitatorConfig(url=self.facilitator_url, auth_provider=WithKey())
        async with HTTPFacilitatorClient(config) as client:
            manager = self.scheme.create_channel_manager(client, NETWORK)
            done = await manager.claim_and_settle()
        return sum(claim.vouchers for claim in done["claims"]), done["settle"] is not None


@contextmanager
def official_shop(devnet: Devnet, own_authorizer: bool = False) -> Iterator[Shop]:
    """The official server under uvicorn, and our facilitator under another."""
    with (
        served(our_app(devnet, api_keys=[API_KEY])) as facilitator_url,
        official_shop_by(facilitator_url, own_authorizer) as shop,
    ):
        yield shop


@contextmanager
def official_shop_by(facilitator_url: str, own_authorizer: bool = False) -> Iterator[Shop]:
    """The official server under uvicorn, with a facilitator that runs already."""
    receiver = show_address(new_address())
    signer = LocalAuthorizerSigner(Account.create()) if own_authorizer else None
    scheme = BatchSettlementServerScheme(
        receiver,
        BatchSettlementEvmSchemeServerConfig(
            storage=InMemoryChannelStorage(), receiver_authorizer_signer=signer
        ),
    )
    app = Counted(_shop(facilitator_url, receiver, scheme))
    with served(app) as url:
        yield Shop(url, receiver, app, scheme, facilitator_url)


def _shop(url: str, receiver: str, scheme: BatchSettlementServerScheme) -> FastAPI:
    facilitator = HTTPFacilitatorClient(FacilitatorConfig(url=url, auth_provider=WithKey()))
    server = x402ResourceServer(facilitator).register(NETWORK, scheme)
    server.register(NETWORK, ExactEvmServerScheme())
    terms = {"payTo": receiver, "price": "$0.001", "network": NETWORK}

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        async with facilitator:
            yield

    app = FastAPI(lifespan=life)
    routes = {
        "GET /item/*": {"accepts": {"scheme": scheme.scheme, **terms}},
        "GET /slow": {"accepts": {"scheme": scheme.scheme, **terms}},
        "GET /once": {"accepts": {"scheme": "exact", **terms}},
    }
    app.add_middleware(PaymentMiddlewareASGI, routes=routes, server=server)

    @app.get("/item/{name}")
    async def item(name: str) -> dict[str, str]:
        return {"name": name}

    @app.get("/slow")
    async def slow() -> dict[str, bool]:
        await asyncio.sleep(SLOW_SECONDS)
        return {"slow": True}

    @app.get("/once")
    async def once() -> dict[str, bool]:
        return {"once": True}

    return app


def exact_client(payer: OfficialPayer) -> x402Client:
    """The official client that pays by `exact` only."""
    scheme = ExactEvmClientScheme(EthAccountSigner(payer.account))
    return x402Client().register(NETWORK, scheme)


# -- Our provider at the official facilitator ----------------------------------------------------


def official_app(devnet: Devnet, authorizer: bool = True) -> FastAPI:
    """The official facilitator over HTTP, for both schemes."""
    signer = FacilitatorWeb3Signer(devnet.accounts[1].key, devnet.url)
    batch = BatchSettlementEvmFacilitator(
        signer, LocalAuthorizerSigner(Account.create()) if authorizer else None
    )
    desks = {batch.scheme: batch, "exact": ExactFacilitatorScheme(signer)}
    app = FastAPI()

    @app.get("/supported")
    async def supported() -> dict[str, Any]:
        kinds = [
            {"x402Version": 2, "scheme": name, "network": NETWORK}
            | ({"extra": extra} if (extra := desk.get_extra(NETWORK)) else {})
            for name, desk in desks.items()
        ]
        return {"kinds": kinds, "extensions": [], "signers": {"eip155:*": batch.get_signers("")}}

    async def ask(verb: str, body: dict[str, Any]) -> dict[str, Any]:
        payload = PaymentPayload.model_validate(body["paymentPayload"])
        terms = PaymentRequirements.model_validate(body["paymentRequirements"])
        act = getattr(desks[terms.scheme], verb)
        answer = await run_in_threadpool(act, payload, terms)
        return answer.model_dump(by_alias=True, exclude_none=True)

    @app.post("/verify")
    async def verify(body: dict[str, Any]) -> dict[str, Any]:
        return await ask("verify", body)

    @app.post("/settle")
    async def settle(body: dict[str, Any]) -> dict[str, Any]:
        return await ask("settle", body)

    return app


@dataclass(frozen=True)
class Gasless(Provider):
    """A provider whose chain is facilitators; it collects by asking them."""

    chain: Facilitator

    async def collect(self) -> tuple[int, int]:
        store = open_store(self.store_url)
        await store.open()
        try:
            due = claims.batches(await store.claimable())
            for batch in due:
                await self.chain.claim(batch)
                for channel in batch.channels:
                    state = await self.chain.channel(channel.channel_id)
                    await store.record(
                        channel.channel_id, channel.network, channel.config, state, 0
                    )
            settled = await self.chain.settle(parse_address(self.receiver), ASSET.address)
        finally:
            await store.close()
        return len(due), int(settled is not None)


@asynccontextmanager
async def provider_by(
    devnet: Devnet, folder: Path, urls: list[str], **options: Any
) -> AsyncIterator[Gasless]:
    """A provider of ours without gas, whose chain is facilitators."""

    def chain() -> Facilitator:
        return Facilitator(urls, reads=devnet.url, network=NETWORK, **options)

    store_url, receiver = f"sqlite:///{folder}/provider.db", show_address(new_address())
    paywall = Paywall(
        api(),
        prices={"GET /item": "$0.001", "GET /slow": "$0.001", "GET /once": "$0.01"},
        pay_to=receiver,
        asset=USDC.base_sepolia,
        exact_minimum="$0.001",
        chain=chain(),
        store=store_url,
    )
    counted, collector = Counted(paywall), chain()
    await collector.open()
    try:
        with served(counted) as url:
            yield Gasless(url, receiver, store_url, UNUSED, counted, collector)
    finally:
        await collector.close()
