"""The command line: `paywall demo | devnet | fetch | channels | claim | settle`.

Tables on a terminal, JSON with `--json` or when the output is piped. Keys come from the
environment, never from arguments, which other users of the machine could read. Exit status: 0 when
all went well, 1 when a payment was refused or a sum is off, 2 for wrong use or settings, 3 when
something that is needed could not be reached.
"""

import asyncio
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Coroutine
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import httpx
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table

import paywall
from paywall.chain import claimer
from paywall.chain.devnet import Devnet
from paywall.chain.node import Node
from paywall.protocol.channel import Channel
from paywall.protocol.errors import (
    AgentError,
    ConfigurationError,
    PaymentError,
    Unavailable,
)
from paywall.protocol.money import KNOWN_ASSETS, Asset
from paywall.protocol.x402 import show_address, show_bytes
from paywall.stores import DEFAULT_STORE, Store, open_store
from paywall.walletfile import Account, WalletFile

REFUSED: Final = 1
WRONG_USE: Final = 2
UNREACHABLE: Final = 3

app = typer.Typer(
    help="HTTP 402 for machines that pay machines.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
out = Console()
err = Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON, also on a terminal.")]
StoreUrl = Annotated[
    str, typer.Option("--store", envvar="PAYWALL_STORE", help="The provider's store.")
]
RpcUrl = Annotated[str, typer.Option("--rpc", envvar="RPC_URL", help="JSON-RPC of the network.")]
Network = Annotated[
    str, typer.Option("--network", envvar="PAYWALL_NETWORK", help="CAIP-2, such as eip155:8453.")
]

_T = TypeVar("_T")


def main() -> None:
    """The entry point: every error that we know is one sentence and an exit status."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        app()
    except (ConfigurationError, ValueError) as error:
        _fail(error, WRONG_USE)
    except (Unavailable, httpx.TransportError) as error:
        _fail(error, UNREACHABLE)
    except PaymentError as error:
        _fail(error, REFUSED)


def _fail(error: Exception, status: int) -> None:
    text = str(error) or type(error).__name__
    err.print(f"[bold red]paywall:[/] {text}", highlight=False, markup=True)
    sys.exit(status)


def _plain(as_json: bool) -> bool:
    """Whether machines read the output."""
    return as_json or not out.is_terminal


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def _key() -> str:
    key = os.environ.get("PAYWALL_KEY")
    if not key:
        raise ConfigurationError("set PAYWALL_KEY to the private key that signs and pays gas")
    return key


def _run(work: Coroutine[Any, Any, _T]) -> _T:
    return asyncio.run(work)


# -- Trying things out ---------------------------------------------------------------------------


@app.command()
def demo(
    requests: Annotated[int, typer.Option(min=1, max=100_000, help="Paid requests.")] = 200,
    in_flight: Annotated[int, typer.Option(min=1, max=64, help="At once, on one channel.")] = 16,
    as_json: Json = False,
) -> None:
    """Runs chain, provider and agent on this machine, and checks every sum."""
    demonstration = import_module("demo_app.demo")
    with _progress() as bar:
        result = _run(demonstration.run(requests, in_flight, _steps(bar)))
    wrong = demonstration.differences(result)
    if _plain(as_json):
        _print_json(result)
    else:
        out.print(_demo_table(result, demonstration.ASSET))
    for sentence in wrong:
        err.print(f"[bold red]wrong:[/] {sentence}")
    if wrong:
        raise typer.Exit(REFUSED)


def _progress() -> Progress:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn())
    return Progress(*columns, MofNCompleteColumn(), console=err, transient=True)


def _steps(bar: Progress) -> Any:
    """A callback `(step, done, of)` that draws a line for each step."""
    tasks: dict[str, Any] = {}

    def step(name: str, done: int, of: int) -> None:
        if name not in tasks:
            tasks[name] = bar.add_task(name, total=of)
        bar.update(tasks[name], completed=done)

    return step


def _demo_table(result: dict[str, Any], asset: Asset) -> Table:
    table = Table(title="paywall demo", show_header=False, title_justify="left")
    latency, gas = result["latency_ms"], result["gas"]
    money = {name: asset.show(result[name]) for name in ("price", "charged", "claimed", "settled")}
    rows = {
        "requests": f"{result['requests']}, {result['in_flight']} in flight",
        "channels, deposits": f"{result['channels']}, {result['deposits']}",
        **money,
        "deposited": asset.show(result["deposited"]),
        "refunded": asset.show(result["refunded"]),
        "provider earned": asset.show(result["provider_balance_change"]),
        "agent paid": asset.show(-result["agent_balance_change"]),
        "latency": f"{latency['p50']} ms median, {latency['p99']} ms p99",
        "gas": ", ".join(f"{kind} {used:,}" for kind, used in gas.items()),
        "fee per request": f"${result['fee_per_request_usd_at_0_01_gwei']:.8f} at 0.01 gwei",
    }
    for name, value in rows.items():
        table.add_row(name, str(value))
    return table


@app.command()
def devnet(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8545,
    chain_id: Annotated[int, typer.Option("--chain-id", min=1)] = 84532,
    as_json: Json = False,
) -> None:
    """Serves an embedded chain with the contracts, USDC and funded keys, until Ctrl-C."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with Devnet(port=port, chain_id=chain_id) as chain:
        accounts = [{"address": a.address, "key": a.key} for a in chain.accounts]
        if _plain(as_json):
            facts = {"url": chain.url, "chain_id": chain.chain_id, "usdc": chain.usdc}
            _print_json({**facts, "accounts": accounts})
            sys.stdout.flush()
        else:
            out.print(f"JSON-RPC on [bold]{chain.url}[/], chain id {chain.chain_id}")
            out.print(f"USDC at {chain.usdc}. These keys are public: use them nowhere else.")
            out.print(_table(accounts))
        stop.wait()


# -- The agent's side ----------------------------------------------------------------------------


@app.command()
def fetch(
    url: str,
    maximum: Annotated[str, typer.Option("--max", help="The most this request may cost.")] = (
        "$0.01"
    ),
    wallet_file: Annotated[
        Path | None, typer.Option("--wallet", envvar="PAYWALL_WALLET", help="The wallet's file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Gets a URL and pays for it; the key is in PAYWALL_KEY. The body goes to standard output."""
    wallet = paywall.Wallet(per_request=maximum, state=wallet_file)
    with paywall.Client(wallet=wallet, follow_redirects=True, timeout=120) as client:
        answer = client.get(url)
        receipt = paywall.receipt(answer)
    if as_json:
        _print_json(
            {
                "status": answer.status_code,
                "charged": receipt.charged if receipt else 0,
                "transaction": receipt.transaction if receipt else "",
                "body": answer.text,
            }
        )
    else:
        sys.stdout.buffer.write(answer.content)
        sys.stdout.flush()
        if receipt and receipt.charged is not None:
            err.print(f"[dim]paid {receipt.charged} atomic units[/]")
    if answer.is_error:
        raise AgentError(f"{url} answered {answer.status_code}")


# -- The provider's side -------------------------------------------------------------------------


@app.command()
def channels(
    store: Annotated[
        str | None,
        typer.Option("--store", envvar="PAYWALL_STORE", help="A provider's store."),
    ] = None,
    wallet_file: Annotated[
        Path | None, typer.Option("--wallet", envvar="PAYWALL_WALLET", help="An agent's file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Lists channels: a provider's (--store) or an agent's (--wallet)."""
    if wallet_file:
        if not wallet_file.exists():
            raise ConfigurationError(f"there is no wallet file {wallet_file}")
        rows = [_account_row(account) for account in WalletFile(wallet_file).accounts()]
    else:
        rows = [_channel_row(channel) for channel in _run(_all_channels(store or DEFAULT_STORE))]
    _print_rows(rows, as_json, "no channels")


@app.command()
def claim(
    rpc: RpcUrl,
    store: StoreUrl = DEFAULT_STORE,
    network: Network = "eip155:84532",
    as_json: Json = False,
) -> None:
    """Claims on chain what every channel owes. PAYWALL_KEY is the receiver authorizer's key."""

    async def work() -> list[dict[str, object]]:
        async with _Open(store, Node(rpc, _key(), network=network)) as (books, node):
            with _progress() as bar:
                step = _steps(bar)
                done = await claimer.claim(
                    books, node, progress=lambda at, of: step("claiming", at, of)
                )
        return [
            {
                "channels": len(item.batch.channels),
                "claimed": item.batch.amount,
                "transaction": show_bytes(item.mined.transaction),
                "gas": item.mined.gas,
                "fee_wei": item.mined.fee_wei,
            }
            for item in done
        ]

    _print_rows(_run(work()), as_json, "nothing to claim")


@app.command()
def settle(
    rpc: RpcUrl,
    store: StoreUrl = DEFAULT_STORE,
    network: Network = "eip155:84532",
    as_json: Json = False,
) -> None:
    """Moves everything that was claimed to the wallets that earned it."""

    async def work() -> list[dict[str, object]]:
        async with _Open(store, Node(rpc, _key(), network=network)) as (books, node):
            moved = await claimer.settle(books, node)
        return [
            {
                "receiver": show_address(receiver),
                "token": show_address(token),
                "transaction": show_bytes(mined.transaction),
                "gas": mined.gas,
                "fee_wei": mined.fee_wei,
            }
            for receiver, token, mined in moved
        ]

    _print_rows(_run(work()), as_json, "nothing to settle")


class _Open:
    """A store and a node, opened together and closed together."""

    def __init__(self, store: str, node: Node) -> None:
        self._store = open_store(store)
        self._node = node

    async def __aenter__(self) -> tuple[Store, Node]:
        await self._store.open()
        try:
            await self._node.open()
        except BaseException:
            await self._store.close()
            raise
        return self._store, self._node

    async def __aexit__(self, *error: object) -> None:
        await self._node.close()
        await self._store.close()


async def _all_channels(url: str) -> list[Channel]:
    store = open_store(url)
    await store.open()
    try:
        found: list[Channel] = []
        while page := await store.channels(found[-1].channel_id if found else b""):
            found += page
        return found
    finally:
        await store.close()


def _channel_row(channel: Channel) -> dict[str, object]:
    return {
        "channel": show_bytes(channel.channel_id),
        "payer": show_address(channel.config.payer),
        "network": channel.network,
        "balance": channel.balance,
        "signed": channel.signed,
        "charged": channel.charged,
        "claimed": channel.claimed,
        "unclaimed": channel.unclaimed,
        "in_flight": len(channel.holds),
    }


def _account_row(account: Account) -> dict[str, object]:
    asset = KNOWN_ASSETS.get((account.network, account.asset))
    return {
        "origin": account.origin,
        "channel": show_bytes(account.channel_id),
        "network": account.network,
        "asset": asset.symbol if asset else account.asset.hex(),
        "balance": account.balance,
        "charged": account.charged,
        "signed": account.signed,
        "stopped": account.stopped,
    }


def _print_rows(rows: list[dict[str, object]], as_json: bool, empty: str) -> None:
    if _plain(as_json):
        _print_json(rows)
    elif rows:
        out.print(_table(rows))
    else:
        out.print(empty)


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table()
    for name in rows[0]:
        table.add_column(name.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(f"{v:,}" if isinstance(v, int) else str(v or "") for v in row.values()))
    return table


if __name__ == "__main__":
    main()
