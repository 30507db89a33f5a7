"""What all commands share: options, tables for people, JSON for machines."""

import asyncio
import json
import os
import sys
from collections.abc import Coroutine
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table

from paywall.protocol.errors import ConfigurationError

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


def run(work: Coroutine[Any, Any, _T]) -> _T:
    return asyncio.run(work)


def key() -> str:
    """The private key, from where other users of the machine cannot read it."""
    found = os.environ.get("PAYWALL_KEY")
    if not found:
        raise ConfigurationError("set PAYWALL_KEY to the private key that signs and pays gas")
    return found


def plain(as_json: bool) -> bool:
    """Whether machines read the output."""
    return as_json or not out.is_terminal


def print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def print_rows(rows: list[dict[str, object]], as_json: bool, empty: str) -> None:
    if plain(as_json):
        print_json(rows)
    elif rows:
        out.print(table(rows))
    else:
        out.print(empty)


def table(rows: list[dict[str, Any]]) -> Table:
    shown = Table()
    for name in rows[0]:
        shown.add_column(name.replace("_", " "), overflow="fold")
    for row in rows:
        shown.add_row(*(_cell(value) for value in row.values()))
    return shown


def _cell(value: object) -> str:
    """A stranger's words are no markup."""
    return f"{value:,}" if isinstance(value, int) else escape(str(value or ""))


def progress() -> Progress:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn())
    return Progress(*columns, MofNCompleteColumn(), console=err, transient=True)


def steps(bar: Progress) -> Any:
    """A callback `(step, done, of)` that draws a line for each step."""
    tasks: dict[str, Any] = {}

    def step(name: str, done: int, of: int) -> None:
        if name not in tasks:
            tasks[name] = bar.add_task(name, total=of)
        bar.update(tasks[name], completed=done)

    return step
