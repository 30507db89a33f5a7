"""`paywall wallet …`: an agent's key, what it has, what it may spend and what it has spent."""

import csv
import io
import os
import sys
import time
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from paywall.chain.payer import holdings
from paywall.cli_keys import (
    Deposit,
    PerDay,
    Rpc,
    Total,
    WalletState,
    limits_of,
    open_wallet,
    password,
    signer,
)
from paywall.console import Json, Network, out, plain, print_json, print_rows, run
from paywall.keyring import KEYSTORE_VARIABLE
from paywall.keystore import create_keystore
from paywall.protocol.errors import ConfigurationError
from paywall.protocol.money import KNOWN_ASSETS, USDC, Asset
from paywall.wallet import Wallet
from paywall.walletrows import Entry

wallet = typer.Typer(
    help="An agent's wallet: its key, what it has, what it may spend and what it has spent.",
    no_args_is_help=True,
)

_UNITS: Final = USDC.base
"""Sums over all tokens count millionths of a dollar, as USDC does."""
_COLUMNS: Final = tuple(field.name for field in msgspec.structs.fields(Entry))


class Format(StrEnum):
    csv = "csv"
    json = "json"


@wallet.command()
def new(
    path: Annotated[
        Path | None,
        typer.Argument(help="The file to make; by default key.json in ~/.local/share/paywall."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Makes a new key in an encrypted file that only you can read, and says its address.

    The password is asked for, or read from PAYWALL_PASSWORD. It cannot be found again. Set
    PAYWALL_KEYSTORE to the file for the other commands, and fund the address with USDC.
    """
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    file = path or Path(home) / "paywall" / "key.json"
    made = create_keystore(file, password(confirm=True))
    if plain(as_json):
        print_json({"address": made.address, "file": str(file)})
    else:
        out.print(f"[bold]{made.address}[/]\n{KEYSTORE_VARIABLE}={file}")


@wallet.command()
def address() -> None:
    """Prints the address that pays."""
    sys.stdout.write(signer().address + "\n")


@wallet.command()
def balance(
    state: WalletState = None,
    rpc: Rpc = None,
    network: Network = "eip155:84532",
    as_json: Json = False,
) -> None:
    """What is locked up in channels and, with --rpc, what the address has on chain."""
    one = open_wallet(state)
    try:
        rows = _locked_up(one)
        if rpc:
            rows = [*run(_on_chain(rpc, network, one)), *rows]
    finally:
        one.close()
    print_rows(rows, as_json, "nothing")


def _locked_up(one: Wallet) -> list[dict[str, object]]:
    sums: dict[tuple[str, bytes], list[int]] = {}
    for account in one.file.accounts():
        held, free = sums.setdefault((account.network, account.asset), [0, 0])
        left = max(0, account.balance - account.spent)
        sums[account.network, account.asset] = [held + account.spent, free + left]
    return [
        _row("channels", network, asset, free, spent=held)
        for (network, asset), (held, free) in sums.items()
    ]


async def _on_chain(rpc: str, network: str, one: Wallet) -> list[dict[str, object]]:
    known = [asset for (where, _), asset in KNOWN_ASSETS.items() if where == network]
    tokens = [asset.address for asset in known]
    wei, *amounts = await holdings(rpc, network, one.payer.account, tokens)
    coin = {"where": "address", "network": network, "token": "wei, for gas", "amount": wei}
    rows = [
        _row("address", network, asset.address, amount)
        for asset, amount in zip(known, amounts, strict=True)
    ]
    return [*rows, {**coin, "shown": f"{wei / 10**18:.6f}", "spent": 0}]


def _row(where: str, network: str, token: bytes, amount: int, spent: int = 0) -> dict[str, object]:
    asset = KNOWN_ASSETS.get((network, token))
    return {
        "where": where,
        "network": network,
        "token": asset.symbol if asset else "0x" + token.hex(),
        "amount": amount,
        "shown": asset.show(amount) if isinstance(asset, Asset) else str(amount),
        "spent": spent,
    }


@wallet.command()
def history(
    state: WalletState = None,
    since: Annotated[
        str | None, typer.Option(help="From this day or moment on: 2026-01-31, or with a time.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="To just before this one.")] = None,
    origin: Annotated[
        str | None, typer.Option(help="Of one provider: https://api.example:443")
    ] = None,
    outcome: Annotated[
        str | None, typer.Option(help="paid, refused, lost, forgotten or unsent.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 1000,
    export: Annotated[
        Format | None, typer.Option("--format", help="For spreadsheets and programs.")
    ] = None,
    as_json: Json = False,
) -> None:
    """How payments ended, the newest last. Amounts are atomic units of the token."""
    one = open_wallet(state)
    try:
        found = one.history(
            since=_moment(since, 0.0),
            until=_moment(until, float("inf")),
            origin=origin,
            outcome=outcome,
            limit=limit,
        )
    finally:
        one.close()
    if export is Format.csv:
        sys.stdout.write(_csv(found))
    elif export is Format.json or plain(as_json):
        print_json([msgspec.to_builtins(entry) | _time(entry) for entry in found])
    else:
        print_rows([_shown(entry) for entry in found], False, "nothing was paid yet")


def _moment(text: str | None, otherwise: float) -> float:
    """Unix seconds of a day or a moment; UTC where it does not say. Raises ConfigurationError."""
    if text is None:
        return otherwise
    try:
        told = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigurationError(f"{text!r} is no day or moment, such as 2026-01-31") from error
    return (told if told.tzinfo else told.replace(tzinfo=UTC)).timestamp()


def _time(entry: Entry) -> dict[str, object]:
    return {"time": datetime.fromtimestamp(entry.time, UTC).isoformat(timespec="milliseconds")}


def _csv(entries: list[Entry]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for entry in entries:
        row = msgspec.to_builtins(entry, str_keys=True)
        full = {name: row.get(name, "") for name in _COLUMNS} | _time(entry)
        writer.writerow({name: _inert(value) for name, value in full.items()})
    return text.getvalue()


def _inert(value: object) -> object:
    """A provider chose the path: a spreadsheet must not take it for a formula."""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return "'" + value
    return value


def _shown(entry: Entry) -> dict[str, object]:
    when = datetime.fromtimestamp(entry.time).strftime("%Y-%m-%d %H:%M:%S")
    money = _UNITS.show(entry.amount)
    where = entry.origin + entry.path
    return {"time": when, "outcome": entry.outcome, "amount": money, "where": where}


@wallet.command()
def limits(
    state: WalletState = None,
    per_request: Annotated[
        str, typer.Option("--max", envvar="PAYWALL_MAX", help="The most for one request.")
    ] = "$0.01",
    total: Total = "$5",
    per_day: PerDay = None,
    deposit: Deposit = "$0.50",
    as_json: Json = False,
) -> None:
    """What the wallet may spend, what it has spent, and what is left.

    The limits are those of the environment and of these options, as `paywall fetch` reads them.
    """
    one = open_wallet(state, limits_of(per_request, total, per_day, deposit))
    try:
        spending, policy = one.file.totals(), one.policy
        day = sum(amount for _, amount in spending.day if _ >= int(time.time()) // 3600 - 24)
    finally:
        one.close()
    rows = [
        _limit("per_request", policy.per_request, None),
        _limit("per_day", policy.per_day, day),
        _limit("deposit", policy.deposit, None),
        _limit("total", policy.total, max(spending.outlay, spending.spent)),
    ]
    print_rows(rows if plain(as_json) else [_money(row) for row in rows], as_json, "")


def _limit(name: str, most: int | None, used: int | None) -> dict[str, object]:
    left = None if most is None or used is None else max(0, most - used)
    return {"limit": name, "most": most, "used": used, "left": left}


def _money(row: dict[str, object]) -> dict[str, object]:
    return {k: _UNITS.show(v) if isinstance(v, int) else v for k, v in row.items()}
