"""Everybody who buys, sells and settles in the interoperability matrix, behind one face each.

A buyer is ours, the official Python client, or an official TypeScript one in a Node process; a
seller is our provider, the official FastAPI, express or hono server; each with a payer or receiver
of its own, so that what the token says of it afterwards is what one test moved.
"""

import asyncio
import secrets
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
from eth_account import Account
from x402.http.clients import wrapHttpxWithPayment

import paywall
from helpers.chain import FUNDS, NETWORK, new_address
from helpers.facilitators import (
    Gasless,
    Shop,
    exact_client,
    official_app,
    official_shop_by,
    our_app,
    provider_by,
)
from helpers.node_peer import Peer
from helpers.official import OfficialPayer
from helpers.servers import Provider, provider, served
from paywall.chain.devnet import Devnet
from paywall.protocol.x402 import (
    PAYMENT_RESPONSE,
    SettlementResponse,
    decode_response,
    show_address,
)

BATCH: Final = "batch-settlement"
EXACT: Final = "exact"


@dataclass(frozen=True)
class Bought:
    """One answer: its status (0: the client threw), its body and its receipt."""

    status: int
    body: str
    receipt: SettlementResponse | None


def _bought(status: int, headers: Any, body: str) -> Bought:
    header = headers.get(PAYMENT_RESPONSE.lower()) or headers.get("x-payment-response")
    return Bought(status, body, decode_response(header) if header else None)


# -- Buyers --------------------------------------------------------------------------------------


class Buyer(ABC):
    """A client with a payer who has money."""

    def __init__(self, devnet: Devnet) -> None:
        self.devnet = devnet
        self.key = "0x" + secrets.token_hex(32)
        self.address: str = Account.from_key(self.key).address
        devnet.fund_usdc(self.address, FUNDS)

    def spent(self) -> int:
        return FUNDS - self.devnet.usdc_balance(self.address)

    @abstractmethod
    async def get(self, url: str, times: int = 1, together: bool = False) -> list[Bought]: ...

    @abstractmethod
    async def refund(self, url: str, amount: int | None = None) -> SettlementResponse: ...

    async def close(self) -> None:
        return None


async def _repeat(client: httpx.AsyncClient, url: str, times: int, together: bool) -> list[Bought]:
    if together:
        answers = await asyncio.gather(*(client.get(url) for _ in range(times)))
    else:
        answers = [await client.get(url) for _ in range(times)]
    return [_bought(answer.status_code, answer.headers, answer.text) for answer in answers]


class OurBuyer(Buyer):
    """paywall.AsyncClient."""

    def __init__(self, devnet: Devnet, folder: Path, scheme: str) -> None:
        super().__init__(devnet)
        self.wallet = paywall.Wallet(
            self.key,
            total="$2",
            deposit="$0.10",
            state=folder / "wallet.db",
            expect_more=scheme == BATCH,
        )
        self._client = paywall.AsyncClient(wallet=self.wallet, timeout=30)

    async def get(self, url: str, times: int = 1, together: bool = False) -> list[Bought]:
        return await _repeat(self._client, url, times, together)

    async def refund(self, url: str, amount: int | None = None) -> SettlementResponse:
        answer = await self._client.refund(url)
        return SettlementResponse(
            answer.success, answer.transaction, NETWORK, amount=str(answer.amount)
        )

    async def close(self) -> None:
        await self._client.aclose()
        self.wallet.close()


class PythonBuyer(Buyer):
    """The official Python client over httpx."""

    def __init__(self, devnet: Devnet, scheme: str) -> None:
        super().__init__(devnet)
        self.payer = OfficialPayer(devnet, reads_chain=True, account=Account.from_key(self.key))
        official = self.payer.client() if scheme == BATCH else exact_client(self.payer)
        self._client = wrapHttpxWithPayment(official, timeout=30)

    async def get(self, url: str, times: int = 1, together: bool = False) -> list[Bought]:
        return await _repeat(self._client, url, times, together)

    async def refund(self, url: str, amount: int | None = None) -> SettlementResponse:
        back = await asyncio.to_thread(self.payer.refund, url, amount)
        return SettlementResponse(back.success, back.transaction, back.network, amount=back.amount)

    async def close(self) -> None:
        await self._client.aclose()


class NodeBuyer(Buyer):
    """An official TypeScript client (or mppx), in a Node process."""

    def __init__(self, devnet: Devnet, peer: Peer, kind: str, scheme: str) -> None:
        super().__init__(devnet)
        self._peer = peer
        self._client: int = peer.ask(
            "open_client", kind=kind, key=self.key, rpc=devnet.url, scheme=scheme
        )

    async def get(self, url: str, times: int = 1, together: bool = False) -> list[Bought]:
        answers = await self._peer.wait(
            "get", client=self._client, url=url, times=times, together=together
        )
        return [_bought(answer["status"], answer["headers"], answer["body"]) for answer in answers]

    async def refund(self, url: str, amount: int | None = None) -> SettlementResponse:
        words = {"client": self._client, "url": url} | ({"amount": amount} if amount else {})
        back = await self._peer.wait("refund", **words)
        return SettlementResponse(
            back["success"], back["transaction"], back["network"], amount=back.get("amount")
        )

    async def forget(self) -> None:
        """Loses all that the client remembers, as a restart without a state file does."""
        await self._peer.wait("forget", client=self._client)


BUYERS: Final = ("ours", "python", "fetch", "axios")


def buyer_of(name: str, devnet: Devnet, peer: Peer, folder: Path, scheme: str) -> Buyer:
    if name == "ours":
        return OurBuyer(devnet, folder, scheme)
    if name == "python":
        return PythonBuyer(devnet, scheme)
    return NodeBuyer(devnet, peer, name, scheme)


# -- Sellers -------------------------------------------------------------------------------------


class Seller(ABC):
    """A running server: where it sells, who earns, and how it collects."""

    url: str
    receiver: str

    def path(self, scheme: str) -> str:
        return self.url + ("/item" if scheme == BATCH else "/once")

    @abstractmethod
    async def charged(self) -> int:
        """What the seller's own book says that its one channel was charged."""

    @abstractmethod
    async def collect(self) -> bool:
        """Claims and settles; whether something was settled."""


class OurSeller(Seller):
    def __init__(self, running: Provider | Gasless) -> None:
        self._running = running
        self.url, self.receiver = running.url, running.receiver

    async def charged(self) -> int:
        channel = await self._running.channel()
        assert channel.holds == {}
        return channel.charged

    async def collect(self) -> bool:
        _, settled = await self._running.collect()
        return settled == 1


class PythonSeller(Seller):
    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self.url, self.receiver = shop.url, shop.receiver

    def path(self, scheme: str) -> str:
        return super().path(scheme) + ("/1" if scheme == BATCH else "")

    async def charged(self) -> int:
        return int(self._shop.channel().charged_cumulative_amount)

    async def collect(self) -> bool:
        _, settled = await self._shop.collect()
        return settled


class NodeSeller(Seller):
    def __init__(self, peer: Peer, opened: Any, receiver: str) -> None:
        self._peer = peer
        self._server: int = opened["server"]
        self.url, self.receiver = opened["url"], receiver

    async def charged(self) -> int:
        (channel,) = await self._peer.wait("channels", server=self._server)
        return int(channel["chargedCumulativeAmount"])

    async def collect(self) -> bool:
        return bool((await self._peer.wait("collect", server=self._server))["settled"])

    async def requests(self) -> tuple[int, int]:
        """How many came, paid and unpaid."""
        counts = await self._peer.wait("counts", server=self._server)
        return counts["paid"], counts["unpaid"]


SELLERS: Final = ("ours", "fastapi", "express", "hono")
OWN_NODE: Final = "own node"
FACILITATORS: Final = ("ours", "python", "typescript")


@asynccontextmanager
async def seller_of(
    name: str, devnet: Devnet, peer: Peer, folder: Path, facilitator: str | None
) -> AsyncIterator[Seller]:
    """A server of this name with a facilitator's URL; None is a node of our own."""
    if name == "ours" and facilitator is None:
        async with provider(devnet, folder) as running:
            yield OurSeller(running)
    elif name == "ours":
        async with provider_by(devnet, folder, [facilitator or ""]) as gasless:
            yield OurSeller(gasless)
    elif name == "fastapi":
        with official_shop_by(facilitator or "") as shop:
            yield PythonSeller(shop)
    else:
        receiver = show_address(new_address())
        opened = await peer.wait(
            "open_server", framework=name, facilitator=facilitator, receiver=receiver, slow=20
        )
        yield NodeSeller(peer, opened, receiver)


def earned(devnet: Devnet, seller: Seller) -> int:
    return devnet.usdc_balance(seller.receiver)


# -- Facilitators --------------------------------------------------------------------------------


@contextmanager
def facilitator_of(name: str, devnet: Devnet, peer: Peer) -> Iterator[str | None]:
    """The URL of a running facilitator; None for a node of our own. Each has its own gas key."""
    if name == OWN_NODE:
        yield None
    elif name == "typescript":
        yield peer.ask("open_facilitator", key=devnet.accounts[4].key, rpc=devnet.url)
    else:
        app = official_app(devnet) if name == "python" else our_app(devnet, delegate=True)
        with served(app) as url:
            yield url
