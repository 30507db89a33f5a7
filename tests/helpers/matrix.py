"""What the interoperability tests saw: who paid whom, through which facilitator and scheme."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

FILE: Final = Path(".interop/latest.json")


@dataclass
class Cell:
    """One combination; `saw` is what was moved, in atomic units, or what was counted."""

    client: str
    server: str
    facilitator: str
    scheme: str
    saw: str = ""
    is_good: bool = False


@dataclass(frozen=True)
class Crowd:
    """How many of a number of requests at once on one channel were answered."""

    client: str
    server: str
    asked: int
    answered: int
    charged: int
    price: int


class Matrix:
    """Collects cells while tests run; shows them, and keeps them as JSON, at the end."""

    def __init__(self) -> None:
        self.cells: list[Cell] = []
        self.crowds: list[Crowd] = []

    @contextmanager
    def cell(self, client: str, server: str, facilitator: str, scheme: str) -> Iterator[Cell]:
        """One combination that is tried now; it is good when nothing is raised."""
        cell = Cell(client, server, facilitator, scheme)
        self.cells.append(cell)
        try:
            yield cell
            cell.is_good = True
        except BaseException as error:
            cell.saw = type(error).__name__
            raise

    def show(self) -> None:
        if not self.cells and not self.crowds:
            return
        console = Console(width=None if Console().is_terminal else 140)
        for scheme in dict.fromkeys(cell.scheme for cell in self.cells):
            console.print(self._table(scheme))
        if self.crowds:
            console.print(self._crowd_table())
        FILE.parent.mkdir(exist_ok=True)
        kept = {
            "cells": [asdict(cell) for cell in self.cells],
            "at_once": [asdict(crowd) for crowd in self.crowds],
        }
        FILE.write_text(json.dumps(kept, indent=1) + "\n")
        good = sum(cell.is_good for cell in self.cells)
        console.print(f"{good} of {len(self.cells)} combinations pay; {FILE} has them all")

    def _table(self, scheme: str) -> Table:
        cells = [cell for cell in self.cells if cell.scheme == scheme]
        table = Table(title=f"{scheme}: who pays whom, through which facilitator")
        clients = list(dict.fromkeys(cell.client for cell in cells))
        for heading in ("server", "facilitator", *clients):
            table.add_column(heading)
        for row in dict.fromkeys((cell.server, cell.facilitator) for cell in cells):
            found = {c.client: c for c in cells if (c.server, c.facilitator) == row}
            table.add_row(*row, *(_shown(found.get(client)) for client in clients))
        return table

    def _crowd_table(self) -> Table:
        table = Table(title="many at once on one channel")
        for heading in ("client", "server", "asked", "answered", "charged", "price"):
            table.add_column(heading)
        for crowd in self.crowds:
            table.add_row(*(str(value) for value in asdict(crowd).values()))
        return table


def _shown(cell: Cell | None) -> str:
    if cell is None:
        return "[dim]–[/dim]"
    return f"[green]{cell.saw}[/green]" if cell.is_good else f"[red]NO: {cell.saw}[/red]"
