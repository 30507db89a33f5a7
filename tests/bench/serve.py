"""`python -m bench.serve '<settings as JSON>'`: one of the servers that are compared, one worker.

All of them run the same small app under uvicorn with uvloop and httptools: `/free`, and `/item`,
which costs $0.001 where there is a paywall.

    bare          no paywall
    limit         no paywall, and one signature recovered per request: what cannot be gone below
    ours          this paywall, over the store that is named
    by_…          the same with the price at the route, as a decorator or a dependency (which is
                  FastAPI's), or by the proxy in front of a bare one
    x402_python   the official SDK's middleware on FastAPI, its channels in memory
"""

import gc
import os
import socket
import sys
import threading
from collections.abc import Callable
from typing import Annotated, Any, Final

import msgspec
import uvicorn
from coincurve import PrivateKey, PublicKey
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp
from x402 import x402ResourceServer
from x402.http import FacilitatorConfig, HTTPFacilitatorClient
from x402.http.middleware.fastapi import PaymentMiddlewareASGI
from x402.mechanisms.evm.batch_settlement.server import (
    BatchSettlementEvmScheme,
    BatchSettlementEvmSchemeServerConfig,
    InMemoryChannelStorage,
)

from paywall import USDC, Node, Payment, Paywall, charge, paid
from paywall.chain import Mined
from paywall.protocol.eip712 import Authorization
from paywall.protocol.money import Address
from paywall.proxy import Upstream

ASSET: Final = USDC.base_sepolia
PRICED: Final = "$0.001"
_SIGNED: Final = bytes(31) + b"\x01"
_SIGNATURE: Final = PrivateKey(bytes([7]) * 32).sign_recoverable(_SIGNED, hasher=None)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a server is told. `store`, `rpc` and the rest are for those that take money."""

    kind: str
    port: int
    core: int
    store: str = ""
    rpc: str = ""
    key: str = ""
    pay_to: str = ""
    facilitator: str = ""
    upstream: str = ""


async def _item(request: Request) -> JSONResponse:
    return JSONResponse({"item": request.path_params["name"]})


async def _free(request: Request) -> JSONResponse:
    return JSONResponse({"free": True})


async def _recovering(request: Request) -> JSONResponse:
    PublicKey.from_signature_and_message(_SIGNATURE, _SIGNED, hasher=None)
    return await _item(request)


def _routes(item: "Callable[[Request], object]") -> Starlette:
    return Starlette(routes=[Route("/item/{name}", item), Route("/free", _free)])


def _bare(settings: Settings) -> ASGIApp:
    return _routes(_item)


def _limit(settings: Settings) -> ASGIApp:
    return _routes(_recovering)


class NoTransfers(Node):
    """A node that finds every transfer mined at once: what is left is the admission."""

    async def authorization(self, authorization: Authorization, token: Address) -> tuple[bool, int]:
        return False, 10**12

    async def transfer_with_authorization(
        self, authorization: Authorization, signature: bytes, token: Address
    ) -> Mined | None:
        return Mined(authorization.authorization_nonce, 1, 1, 1)


def _terms(settings: Settings) -> dict[str, Any]:
    """What all ways in have in common."""
    return {
        "pay_to": settings.pay_to,
        "asset": ASSET,
        "chain": NoTransfers(settings.rpc, settings.key, network=ASSET.network),
        "store": settings.store,
        "exact_minimum": PRICED,
        "collect": None,
        "deposits_per_hour": 1000,  # one payer plays all customers
        "all_deposits_per_hour": 1_000_000,
        "channels_per_payer": 1000,
    }


def _ours(settings: Settings) -> ASGIApp:
    return Paywall(_routes(_item), prices={"GET /item/{name}": PRICED}, **_terms(settings))


def _by_decorator(settings: Settings) -> ASGIApp:
    @paid(PRICED)
    async def item(request: Request, payment: Payment) -> JSONResponse:
        return await _item(request)

    app = _routes(item)
    app.add_middleware(Paywall, **_terms(settings))
    return app


def _by_dependency(settings: Settings) -> ASGIApp:
    app = FastAPI()
    app.add_middleware(Paywall, **_terms(settings))

    @app.get("/item/{name}")
    async def item(name: str, payment: Annotated[Payment, Depends(charge(PRICED))]) -> JSONResponse:
        return JSONResponse({"item": name})

    return app


def _by_proxy(settings: Settings) -> ASGIApp:
    upstream = Upstream(settings.upstream)
    return Paywall(upstream, prices={"GET /item/{name}": PRICED}, **_terms(settings))


def _x402_python(settings: Settings) -> ASGIApp:
    storage = InMemoryChannelStorage()
    scheme = BatchSettlementEvmScheme(
        settings.pay_to, BatchSettlementEvmSchemeServerConfig(storage=storage)
    )
    facilitator = HTTPFacilitatorClient(FacilitatorConfig(url=settings.facilitator))
    server = x402ResourceServer(facilitator).register(ASSET.network, scheme)
    option = {
        "scheme": scheme.scheme,
        "payTo": settings.pay_to,
        "price": PRICED,
        "network": ASSET.network,
    }
    app = FastAPI()
    app.add_middleware(
        PaymentMiddlewareASGI, routes={"GET /item/*": {"accepts": option}}, server=server
    )

    @app.get("/item/{name}")
    async def item(name: str) -> JSONResponse:
        return JSONResponse({"item": name})

    @app.get("/free")
    async def free() -> JSONResponse:
        return JSONResponse({"free": True})

    return app


_KINDS: Final = {
    "bare": _bare,
    "limit": _limit,
    "ours": _ours,
    "by_decorator": _by_decorator,
    "by_dependency": _by_dependency,
    "by_proxy": _by_proxy,
    "x402_python": _x402_python,
}


class _Server(uvicorn.Server):
    """Says when it listens."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        gc.collect()
        gc.freeze()  # what was imported is not garbage; whoever serves does this, so all do here
        print("listening", flush=True)


def _end_with_the_parent() -> None:
    sys.stdin.read()
    os._exit(0)


def main() -> None:
    settings = msgspec.json.decode(sys.argv[1], type=Settings)
    os.sched_setaffinity(0, {settings.core})
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", settings.port))
    config = uvicorn.Config(
        _KINDS[settings.kind](settings),
        loop="uvloop",
        http="httptools",
        log_level="error",
        access_log=False,
        ws="none",
        backlog=2048,
    )
    _Server(config).run([listener])


if __name__ == "__main__":
    main()
