"""`paywall facilitator`: our node, served to anybody's x402 server."""

import asyncio
import os
from typing import Annotated

import typer
import uvicorn

from paywall.chain.node import Node
from paywall.facilitator import facilitator_app
from paywall.protocol.errors import ConfigurationError
from paywall.protocol.limits import FACILITATOR_REQUESTS_PER_SECOND, MAX_CONNECTIONS


def facilitator(
    rpc: Annotated[str, typer.Option("--rpc", envvar="RPC_URL", help="JSON-RPC of the network.")],
    network: Annotated[
        str,
        typer.Option("--network", envvar="PAYWALL_NETWORK", help="CAIP-2, such as eip155:8453."),
    ] = "eip155:84532",
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8403,
    api_key_env: Annotated[
        str | None,
        typer.Option(help="The environment variable with the API keys, separated by commas."),
    ] = None,
    rate: Annotated[
        float, typer.Option(min=0.01, help="Requests a second of each key, or address.")
    ] = FACILITATOR_REQUESTS_PER_SECOND,
    burst: Annotated[
        float | None, typer.Option(min=1, help="How many at once; twice the rate unless told.")
    ] = None,
    max_fee_wei: Annotated[
        int | None, typer.Option(min=1, help="The most that one transaction may cost.")
    ] = None,
    delegate: Annotated[
        bool | None,
        typer.Option(help="Sign claims and refunds for callers; on where API keys are needed."),
    ] = None,
) -> None:
    """Serves your node to x402 servers: /verify, /settle and /supported, until Ctrl-C.

    A server that names this URL as its facilitator needs no node and no
    gas of its own. It serves `exact` and `batch-settlement`, and moves the
    USDC that paywall knows on the network.

    PAYWALL_KEY pays for gas, and signs claims and refunds unless
    PAYWALL_AUTHORIZER_KEY does. No other process may send by the same key.
    Whoever may call makes you pay gas: bound it by --api-key-env, --rate
    and --max-fee-wei before you listen beyond this machine.

    \b
    Example:
      export PAYWALL_KEY=0x... KEYS=one-secret,another
      paywall facilitator --rpc https://your-rpc --api-key-env KEYS
    Callers send "Authorization: Bearer one-secret", or X-API-Key.
    """
    key = os.environ.get("PAYWALL_KEY")
    if not key:
        raise ConfigurationError("set PAYWALL_KEY to the private key that pays gas")
    node = Node(
        rpc,
        key,
        network=network,
        authorizer_key=os.environ.get("PAYWALL_AUTHORIZER_KEY") or None,
        max_fee_wei=max_fee_wei,
    )
    keys = _keys(api_key_env)
    app = facilitator_app(node, api_keys=keys, rate=rate, burst=burst, delegate=delegate)
    asyncio.run(_check(node))
    # Addresses are those of the connections: a header that says otherwise could be anybody's.
    uvicorn.run(
        app,
        host=host,
        port=port,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
    )


async def _check(node: Node) -> None:
    """What is wrong with the node is said here in one sentence, not in a server's stack frames."""
    await node.open()
    await node.close()


def _keys(name: str | None) -> list[str]:
    """The API keys in a variable. Raises ConfigurationError for a variable without any."""
    if name is None:
        return []
    keys = [key.strip() for key in os.environ.get(name, "").split(",")]
    if not any(keys):
        raise ConfigurationError(f"there is no API key in the environment variable {name}")
    return keys
