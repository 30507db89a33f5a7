"""What the benchmark says: tables for people, and JSON that the next run can be compared with."""

import json
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from bench.findings import Findings

LATEST: Final = Path(".bench/latest.json")


def figures_of(found: Findings, machine: dict[str, Any]) -> dict[str, Any]:
    cells = {cell.name: cell.figures() for cell in found.cells}
    return {**machine, "ratios": found.ratios, **found.figures, "cells": cells}


def write(figures: dict[str, Any]) -> None:
    LATEST.parent.mkdir(exist_ok=True)
    LATEST.write_text(json.dumps(figures, indent=2) + "\n")


def show(found: Findings) -> None:
    console = Console()
    console.print(_cells(found))
    console.print(_table("Ratios", found.ratios))
    latencies = found.figures.get("latency_ms", {})
    console.print(_latencies(latencies))
    rest = {name: value for name, value in found.figures.items() if name != "latency_ms"}
    console.print(_table("Figures", rest))


def _cells(found: Findings) -> Table:
    table = Table(title="Requests")
    table.add_column("what")
    for name in ("requests/s", "worker µs", "redis µs", "p50 ms", "p99 ms"):
        table.add_column(name, justify="right")
    for cell in found.cells:
        times = cell.percentiles if cell.milliseconds else {}
        table.add_row(
            cell.name,
            f"{cell.requests_per_second:,.0f}",
            *(_shown(cell.cpu_us.get(who), 0) for who in ("worker", "redis")),
            *(_shown(times.get(name), 2) for name in ("p50", "p99")),
        )
    return table


def _shown(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _latencies(latencies: dict[str, dict[str, dict[str, float]]]) -> Table:
    table = Table(title="Latency, ms")
    for name in ("server", "connections", "p50", "p99", "p999"):
        table.add_column(name, justify="left" if name == "server" else "right")
    for server, by_connections in latencies.items():
        for connections, times in by_connections.items():
            table.add_row(server, connections, *(f"{value:,.2f}" for value in times.values()))
    return table


def _table(title: str, figures: dict[str, Any]) -> Table:
    table = Table(title=title)
    table.add_column("what")
    table.add_column("value", justify="right")
    for name, value in _flat(figures, ""):
        table.add_row(name, value if isinstance(value, str) else f"{value:,}")
    return table


def _flat(figures: dict[str, Any], before: str) -> list[tuple[str, float | str]]:
    rows: list[tuple[str, float | str]] = []
    for name, value in figures.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{before}{name}.")
        else:
            rows.append((before + name, value))
    return rows
