"""A server of the Machine Payments Protocol (pympp) that also takes `exact` of x402."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mpp.methods.evm import BASE_SEPOLIA_USDC
from mpp.methods.evm import server as evm
from mpp.server import Mpp, pay
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from helpers.chain import new_address
from helpers.servers import served
from paywall.protocol.x402 import show_address


@contextmanager
def mpp_shop(facilitator_url: str) -> Iterator[tuple[str, str]]:
    """Its URL and who earns there. /once costs a cent."""
    receiver = show_address(new_address())
    # Without this, it takes only clients that know pympp's own extension of x402.
    charge = evm.charge(
        currency=BASE_SEPOLIA_USDC,
        recipient=receiver,
        facilitator=facilitator_url,
        route_binding="resource",
    )
    server: Any = Mpp(charge, realm="interop", secret_key=secrets.token_hex(32))

    @pay(server.charge(amount="0.01"))
    async def once(request: Request, credential: Any, receipt: Any) -> JSONResponse:
        return JSONResponse({"sold": True})

    with served(Starlette(routes=[Route("/once", once)])) as url:
        yield url, receiver
