"""`paywall proxy`: a paywall in front of a service in any language, with a file that is reloaded.

SIGHUP reads the file again: prices and upstream change between two requests, and what is running
goes on as it began. A file that is wrong changes nothing, and the log says why.
"""

import asyncio
import logging
import signal
import socket
from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import typer
import uvicorn
from msgspec.structs import replace
from starlette.types import Receive, Scope, Send

from paywall.asgi import Paywall
from paywall.chain.node import Node
from paywall.console import RpcUrl, err, key
from paywall.protocol.errors import ConfigurationError
from paywall.protocol.money import KNOWN_ASSETS, Asset
from paywall.proxy import Upstream
from paywall.proxy_config import (
    PriceRow,
    ProxyConfig,
    checked,
    parse_price,
    prices_of,
    read_config,
    refuse_restart,
    timeouts_of,
)

log = logging.getLogger("paywall.proxy")


def proxy(
    rpc: RpcUrl,
    config: Annotated[
        Path | None, typer.Option("--config", envvar="PAYWALL_CONFIG", help="A TOML file.")
    ] = None,
    upstream: Annotated[str | None, typer.Option(help="Where the service is.")] = None,
    price: Annotated[
        list[str] | None, typer.Option("--price", help='Such as "GET /v1/*=$0.001"; may repeat.')
    ] = None,
    pay_to: Annotated[
        str | None, typer.Option(envvar="PAYWALL_PAY_TO", help="The wallet that is paid.")
    ] = None,
    network: Annotated[
        str | None, typer.Option(envvar="PAYWALL_NETWORK", help="CAIP-2, such as eip155:8453.")
    ] = None,
    store: Annotated[
        str | None, typer.Option(envvar="PAYWALL_STORE", help="Where channels are kept.")
    ] = None,
    public_url: Annotated[
        str | None, typer.Option(envvar="PAYWALL_PUBLIC_URL", help="How clients reach this.")
    ] = None,
    unpriced: Annotated[
        str | None, typer.Option(help="What becomes of paths without a price: free, or closed.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="The address to listen at.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="The port to listen at; 8402.")
    ] = None,
) -> None:
    """Charges for the service at --upstream, until Ctrl-C. PAYWALL_KEY signs claims and refunds.

    What is said here comes before what the file says.
    """
    said = {
        "upstream": upstream,
        "pay_to": pay_to,
        "network": network,
        "store": store,
        "public_url": public_url,
        "unpriced": unpriced,
        "host": host,
        "port": port,
    }
    settings = Settings(config, {k: v for k, v in said.items() if v is not None}, price or [])
    running = Proxy(settings, rpc, key())
    asyncio.run(_serve(running))


class Settings:
    """A file, and what the command line says beside it."""

    def __init__(self, path: Path | None, said: dict[str, object], prices: list[str]) -> None:
        self.path = path
        self._said = said
        self._prices: dict[str, str | PriceRow] = dict(parse_price(line) for line in prices)

    def read(self) -> ProxyConfig:
        """Raises ConfigurationError."""
        config = read_config(self.path) if self.path else ProxyConfig()
        config = replace(config, **self._said)
        return checked(replace(config, prices=self._prices | _without(config, self._prices)))


def _without(config: ProxyConfig, said: Collection[str]) -> dict[str, str | PriceRow]:
    return {pattern: row for pattern, row in config.prices.items() if pattern not in said}


class Proxy:
    """The paywall around the upstream, and its current settings. An ASGI app."""

    def __init__(self, settings: Settings, rpc: str, secret: str) -> None:
        self.settings = settings
        self.config = settings.read()
        self._upstream = Upstream(
            self.config.upstream, timeouts_of(self.config), self.config.keep_host
        )
        config, asset = self.config, _asset(self.config.network)
        self.wall = Paywall(
            self._forward,
            prices=prices_of(config),
            pay_to=config.pay_to,
            asset=asset,
            chain=Node(rpc, secret, network=config.network),
            store=config.store,
            min_deposit=config.min_deposit,
            deposits_per_hour=config.deposits_per_hour,
            all_deposits_per_hour=config.all_deposits_per_hour,
            channels_per_payer=config.channels_per_payer,
            public_url=config.public_url,
            description=config.description,
            unpriced=config.unpriced,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.wall(scope, receive, send)

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._upstream(scope, receive, send)

    def reload(self) -> None:
        """Takes over the file as it is now, or says why not and leaves all as it was."""
        try:
            new = self.settings.read()
            refuse_restart(self.config, new)
            upstream = Upstream(new.upstream, timeouts_of(new), new.keep_host)
            self.wall.reprice(prices_of(new), new.unpriced)
        except ConfigurationError as error:
            log.error("not reloaded, the settings stay as they were: %s", error)
            return
        self._upstream, old = upstream, self._upstream
        old.retire()
        self.config = new
        err.print(f"reloaded: {len(new.prices)} prices, upstream {new.upstream}", highlight=False)


def _asset(network: str) -> Asset:
    for (known, _), asset in KNOWN_ASSETS.items():
        if known == network:
            return asset
    raise ConfigurationError(f"network: no token is known on {network!r}")


async def _serve(running: Proxy) -> None:
    config = running.config
    settings = uvicorn.Config(
        running,
        host=config.host,
        port=config.port,
        access_log=False,
        log_level="warning",
        server_header=False,
        date_header=False,  # the upstream's own goes through
        ws="none",
        proxy_headers=bool(config.trusted_proxies),
        forwarded_allow_ips=config.trusted_proxies or None,
    )
    server = _Server(settings)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, running.reload)
    await server.serve()
    if not server.started:
        raise typer.Exit(1)


class _Server(uvicorn.Server):
    """Says where it listens, once it does."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in (one for server in self.servers for one in server.sockets):
            host, port = listener.getsockname()[:2]
            err.print(f"listening at http://{host}:{port}", highlight=False)
