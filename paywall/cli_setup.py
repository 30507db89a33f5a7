"""Commands for whoever sets things up: `paywall init | doctor | check`."""

from pathlib import Path
from typing import Annotated, Final

import httpx
import typer

from paywall.console import Json, StoreUrl, err, out, plain, print_json, run, table
from paywall.doctor import Setup, examine
from paywall.finding import Finding, Grade, failed
from paywall.probe import probe
from paywall.protocol.errors import ConfigurationError
from paywall.protocol.money import KNOWN_ASSETS, ZERO_ADDRESS, Asset, parse_address
from paywall.protocol.x402 import show_address
from paywall.stores import DEFAULT_STORE

_COLOURS: Final = {Grade.OK: "green", Grade.WARN: "yellow", Grade.FAIL: "bold red"}
_CONFIG: Final = """\
# The settings of `paywall proxy --config {path}`, which stands before a service and charges for it.
# Secrets do not belong here: the key that signs claims and pays gas is in PAYWALL_KEY, the URL of
# the network's RPC in RPC_URL. After a change of prices, `kill -HUP` the proxy; a file that is
# wrong changes nothing.

upstream = "{upstream}"
pay_to = "{pay_to}"                # the wallet that earns; its key is not needed here
network = "{network}"
store = "{store}"                  # redis:// for several workers or hosts
unpriced = "free"                  # "closed": what has no price below is not served

[prices]
"GET /v1/*" = "$0.001"             # the first line that matches counts
# "POST /chat" = "upto $0.01"      # metered: at most this much
# "GET /health" = "free"
# "/admin/*" = "closed"
"""


def init(
    pay_to: Annotated[str, typer.Option(help="The wallet that is paid.")],
    upstream: Annotated[str, typer.Option(help="The service to charge for.")] = (
        "http://127.0.0.1:3000"
    ),
    network: Annotated[
        str, typer.Option("--network", envvar="PAYWALL_NETWORK", help="CAIP-2.")
    ] = "eip155:8453",
    store: StoreUrl = DEFAULT_STORE,
    path: Annotated[Path, typer.Option("--output", help="The file to write.")] = Path(
        "paywall.toml"
    ),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Writes a configuration to begin with, and says what comes next."""
    _asset(network)
    told = {"upstream": upstream, "network": network, "store": store, "path": str(path)}
    for name, value in told.items():
        if any(sign in value for sign in '"\\\n\r'):
            raise ConfigurationError(f"{name}: {value!r} has a sign that does not belong there")
    text = _CONFIG.format(**told, pay_to=show_address(_wallet(pay_to)))
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigurationError(f"{path} is there already; --force replaces it") from None
    err.print(f"{path} is written. Next: set PAYWALL_KEY and RPC_URL, then")
    err.print(f"  paywall doctor --pay-to {show_address(_wallet(pay_to))}", highlight=False)
    err.print(f"  paywall proxy --config {path}", highlight=False)


def doctor(
    store: StoreUrl = DEFAULT_STORE,
    rpc: Annotated[
        str | None, typer.Option("--rpc", envvar="RPC_URL", help="JSON-RPC of the network.")
    ] = None,
    network: Annotated[
        str, typer.Option("--network", envvar="PAYWALL_NETWORK", help="CAIP-2.")
    ] = "eip155:8453",
    pay_to: Annotated[
        str | None, typer.Option(envvar="PAYWALL_PAY_TO", help="The wallet that is paid.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="A priced URL of the service, as customers see it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Looks at key, store, chain, contracts, token, gas, clock and, with --url, at the service.

    Changes nothing and sends no transaction. Exit status 1 when something is wrong.
    """
    findings = run(examine(Setup(_asset(network), store, rpc, pay_to)))
    if url:
        findings += _probed(url, "GET")
    _print(findings, as_json)


def check(
    url: str,
    method: Annotated[str, typer.Option("-X", "--method", help="The verb that is priced.")] = "GET",
    as_json: Json = False,
) -> None:
    """Examines any site that sells by x402, and pays nothing. Exit status 1 when it is wrong."""
    _print(_probed(url, method), as_json)


def _probed(url: str, method: str) -> list[Finding]:
    try:
        return probe(url, method)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise ConfigurationError(f"{url}: {error}") from error


def _print(findings: list[Finding], as_json: bool) -> None:
    rows = [finding.row() for finding in findings]
    if plain(as_json):
        print_json(rows)
    else:
        for finding, row in zip(findings, rows, strict=True):
            row["grade"] = f"[{_COLOURS[finding.grade]}]{finding.grade.value}[/]"
        out.print(table(rows))
    if failed(findings):
        raise typer.Exit(1)


def _asset(network: str) -> Asset:
    for (known, _), asset in KNOWN_ASSETS.items():
        if known == network:
            return asset
    raise ConfigurationError(f"no token of {network!r} is known here")


def _wallet(text: str) -> bytes:
    try:
        address = parse_address(text)
    except ValueError:
        raise ConfigurationError(f"pay_to: {text!r} is no address") from None
    if address == ZERO_ADDRESS:
        raise ConfigurationError("pay_to is the zero address")
    return address
