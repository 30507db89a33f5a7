"""`paywall ledger export, reconcile`: the books, out of the store and against the chain."""

import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from paywall.chain.reads import Reads
from paywall.chain.rpc import Rpc
from paywall.console import Json, StoreUrl, err, out, plain, print_json, run, table
from paywall.ledger import MARGIN_MS, Sums, reconcile, rows
from paywall.ledger_files import Target, archive, last_position, open_target
from paywall.protocol.errors import ConfigurationError
from paywall.protocol.limits import CHAIN_TIMEOUT_SECONDS
from paywall.stores import DEFAULT_STORE, Store, open_store

ledger = typer.Typer(help="The provider's books.", no_args_is_help=True)

_DAY_MS: Final = 86_400_000


class Form(StrEnum):
    JSON = "json"
    CSV = "csv"
    PARQUET = "parquet"


@ledger.command()
def export(
    store: StoreUrl = DEFAULT_STORE,
    form: Annotated[Form, typer.Option("--format", help="JSON lines, CSV or Parquet.")] = Form.JSON,
    path: Annotated[Path | None, typer.Option("--output", "-o", help="A new file.")] = None,
    append: Annotated[
        Path | None, typer.Option(help="Continue this file of JSON lines where it ends.")
    ] = None,
    trim: Annotated[
        bool, typer.Option("--trim", help="Drop from the store what is in the file now.")
    ] = False,
    keep_days: Annotated[
        int, typer.Option(min=0, help="With --trim: keep rows that are younger all the same.")
    ] = 30,
) -> None:
    """Writes every charge as a row: time, kind, amount, payer, route, channel, voucher, request.

    Amounts are atomic units. Rows of the last seconds are left for the next time. To keep books
    for ever and the store small, run every night:
    paywall ledger export --append ledger.jsonl --trim
    """
    if append and (path or form is not Form.JSON):
        raise ConfigurationError("--append is for one file of JSON lines, without --output")
    if trim and not (append or path):
        raise ConfigurationError("--trim drops what is in a file: say which one")
    target = Target(append or path, form.value, append is not None)
    start = last_position(append) if append else ""
    written, dropped = run(_export(store, target, start, keep_days if trim else None))
    err.print(f"{written} rows written" + (f", {dropped} dropped from the store" if trim else ""))


async def _export(url: str, target: Target, start: str, keep_days: int | None) -> tuple[int, int]:
    now_ms = int(time.time() * 1000)
    written, droppable = 0, start
    store = await _opened(url)
    try:
        with open_target(target, sys.stdout) as file:
            async for row in rows(store, start, now_ms - MARGIN_MS):
                file.write(row)
                written += 1
                if keep_days is not None and row.at_ms < now_ms - keep_days * _DAY_MS:
                    droppable = row.position
        dropped = await store.trim_ledger(droppable) if keep_days is not None and droppable else 0
    finally:
        await store.close()
    return written, dropped


@ledger.command("reconcile")
def reconcile_command(
    store: StoreUrl = DEFAULT_STORE,
    rpc: Annotated[
        str | None, typer.Option("--rpc", envvar="RPC_URL", help="Compare with the chain too.")
    ] = None,
    network: Annotated[
        str, typer.Option("--network", envvar="PAYWALL_NETWORK", help="CAIP-2.")
    ] = "eip155:8453",
    files: Annotated[
        list[Path] | None,
        typer.Option("--archive", help="Exported JSON lines, whose rows may be trimmed by now."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compares charges, vouchers, claims, settlements and the chain, to the unit.

    Exit status 1 when anything differs; each difference is named.
    """
    sums = run(_reconcile(store, rpc, network, files or []))
    figures: dict[str, object] = {
        "rows": sums.rows,
        "charged": sums.charged,
        "transferred": sums.transferred,
        "adopted": sums.adopted,
        "channels": sums.channels,
        "claimed": sums.claimed,
        "unclaimed": sums.unclaimed,
        "unsettled": sums.unsettled,
        "difference": sum(abs(one.amount) for one in sums.differences),
    }
    found = [
        {"where": one.where, "what": one.what, "amount": one.amount} for one in sums.differences
    ]
    if plain(as_json):
        print_json({**figures, "differences": found})
    else:
        out.print(table([figures]))
        if found:
            out.print(table(found))
    if found:
        raise typer.Exit(1)


async def _reconcile(url: str, rpc: str | None, network: str, files: list[Path]) -> Sums:
    store = await _opened(url)
    try:
        if rpc is None:
            return await reconcile(store, archive=archive(files))
        questions = Rpc(rpc, CHAIN_TIMEOUT_SECONDS)
        try:
            reads = Reads(questions, network, confirmations=1)
            await reads.check()
            return await reconcile(store, reads, archive(files))
        finally:
            await questions.close()
    finally:
        await store.close()


async def _opened(url: str) -> Store:
    store = open_store(url)
    await store.open()
    return store
