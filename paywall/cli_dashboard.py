"""`paywall dashboard`: what comes in, in a browser."""

import os
import secrets
from typing import Annotated, Final

import typer
import uvicorn

from paywall.console import StoreUrl, err, run
from paywall.dashboard import Dashboard
from paywall.dashboard.view import NATIVE_PRICE
from paywall.stores import DEFAULT_STORE, open_store

VARIABLE: Final = "PAYWALL_DASHBOARD_TOKEN"


def dashboard(
    store: StoreUrl = DEFAULT_STORE,
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8404,
    native_price: Annotated[
        str, typer.Option(help="What the network's coin, which pays for gas, costs in the token.")
    ] = NATIVE_PRICE,
) -> None:
    """Shows revenue, requests, channels and what the claimer does, live, until Ctrl-C.

    It reads the provider's store and changes nothing in it; no chain is asked and no key is needed.
    Whoever looks says the token in PAYWALL_DASHBOARD_TOKEN; without one, a new token is made and
    printed here, once. /metrics has the same for Prometheus (extra [metrics], Authorization:
    Bearer). It speaks plain HTTP: beyond this machine, put TLS in front of it.
    """
    given = os.environ.get(VARIABLE)
    token = given or secrets.token_urlsafe(24)
    app = Dashboard(store, token, native_price=native_price)
    run(_check(store))
    if not given:  # printed once, not logged: it is a key
        text = f"{VARIABLE} is not set; the token of this run is {token}"
        err.print(text, highlight=False, markup=False, soft_wrap=True)
    uvicorn.run(
        app,
        host=host,
        port=port,
        access_log=False,
        log_level="info",
        proxy_headers=False,
        server_header=False,
    )


async def _check(url: str) -> None:
    """What is wrong with the store is said here in one sentence, not in a server's stack frames."""
    store = open_store(url)
    await store.open()
    await store.close()
