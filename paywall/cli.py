"""The command line: `paywall demo | devnet | wallet | fetch | channels | close | claim | …`.

Tables on a terminal, JSON with `--json` or when the output is piped. Keys come from the
environment, never from arguments, which other users of the machine could read. Exit status: 0 when
all went well, 1 when a payment was refused or a sum is off, 2 for wrong use or settings, 3 when
something that is needed could not be reached.
"""

import logging
import signal
import sys
import threading
from importlib import import_module
from typing import Annotated, Any, Final

import httpx
import typer
from rich.markup import escape
from rich.table import Table

from paywall.chain.devnet import Devnet
from paywall.cli_channels import channels
from paywall.cli_closing import close_channel, recover_channels, withdraw_channels
from paywall.cli_dashboard import dashboard
from paywall.cli_facilitator import facilitator
from paywall.cli_fetch import fetch
from paywall.cli_ledger import ledger
from paywall.cli_limits import limits
from paywall.cli_provider import claim, refund, settle
from paywall.cli_proxy import proxy
from paywall.cli_setup import check, doctor, init
from paywall.cli_wallet import wallet
from paywall.console import Json, err, out, plain, print_json, progress, run, steps, table
from paywall.protocol.errors import (
    ConfigurationError,
    PaymentError,
    Unavailable,
)
from paywall.protocol.money import Asset

REFUSED: Final = 1
WRONG_USE: Final = 2
UNREACHABLE: Final = 3

app = typer.Typer(
    help="HTTP 402 for machines that pay machines.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def main() -> None:
    """The entry point: every error that we know is one sentence and an exit status."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("paywall.alarms").setLevel(logging.INFO)  # also that one is over
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
    err.print(f"[bold red]paywall:[/] {escape(text)}", highlight=False, markup=True)
    sys.exit(status)


# -- Trying things out ---------------------------------------------------------------------------


@app.command()
def demo(
    requests: Annotated[int, typer.Option(min=1, max=100_000, help="Paid requests.")] = 200,
    in_flight: Annotated[int, typer.Option(min=1, max=64, help="At once, on one channel.")] = 16,
    as_json: Json = False,
) -> None:
    """Runs chain, provider and agent on this machine, and checks every sum."""
    demonstration = import_module("demo_app.demo")
    with progress() as bar:
        result = run(demonstration.run(requests, in_flight, steps(bar)))
    wrong = demonstration.differences(result)
    if plain(as_json):
        print_json(result)
    else:
        out.print(_demo_table(result, demonstration.ASSET))
    for sentence in wrong:
        err.print(f"[bold red]wrong:[/] {sentence}")
    if wrong:
        raise typer.Exit(REFUSED)


def _demo_table(result: dict[str, Any], asset: Asset) -> Table:
    shown = Table(title="paywall demo", show_header=False, title_justify="left")
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
        shown.add_row(name, str(value))
    return shown


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
        if plain(as_json):
            facts = {"url": chain.url, "chain_id": chain.chain_id, "usdc": chain.usdc}
            print_json({**facts, "accounts": accounts})
            sys.stdout.flush()
        else:
            out.print(f"JSON-RPC on [bold]{chain.url}[/], chain id {chain.chain_id}")
            out.print(f"USDC at {chain.usdc}. These keys are public: use them nowhere else.")
            out.print(table(accounts))
        stop.wait()


for command in (
    fetch,
    channels,
    claim,
    settle,
    refund,
    facilitator,
    proxy,
    dashboard,
    init,
    doctor,
    check,
):
    app.command()(command)
app.command("limits")(limits)
app.command("close")(close_channel)
app.command("withdraw")(withdraw_channels)
app.command("recover")(recover_channels)
app.add_typer(wallet, name="wallet")
app.add_typer(ledger, name="ledger")


if __name__ == "__main__":
    main()
