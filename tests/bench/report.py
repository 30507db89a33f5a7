"""What the benchmark says: tables for people, and JSON that the next run can be compared with."""

import json
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from bench.redis_cost import Findings

LATEST: Final = Path(".bench/latest.json")


def figures_of(found: Findings, machine: dict[str, Any]) -> dict[str, Any]:
    cells = {cell.name: cell.figures() for cell in found.cells}
    return {**machine, **found.figures, "cells": cells}


def write(figures: dict[str, Any]) -> None:
    LATEST.parent.mkdir(exist_ok=True)
    LATEST.write_text(json.dumps(figures, indent=2) + "\n")


def show(found: Findings) -> None:
    console = Console()
    console.print(_cells(found))
    console.print(_figures(found))


def _cells(found: Findings) -> Table:
    table = Table(title="Requests")
    table.add_column("what")
    for name in ("requests/s", "worker µs", "redis µs", "commands", "reads", "bytes"):
        table.add_column(name, justify="right")
    for cell in found.cells:
        more = cell.more
        table.add_row(
            cell.name,
            f"{cell.requests_per_second:,.0f}",
            *(_shown(cell.cpu_us.get(who), 0) for who in ("worker", "redis")),
            _shown(more.get("commands_per_request"), 2),
            _shown(more.get("reads_per_request"), 2),
            _shown(more.get("bytes_per_request"), 0),
        )
    return table


def _shown(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _figures(found: Findings) -> Table:
    table = Table(title="Figures")
    table.add_column("what")
    table.add_column("value", justify="right")
    for name, value in _flat(found.figures, ""):
        table.add_row(name, f"{value:,}")
    return table


def _flat(figures: dict[str, Any], before: str) -> list[tuple[str, float]]:
    rows = []
    for name, value in figures.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{before}{name}.")
        else:
            rows.append((before + name, value))
    return rows
