"""`paywall limits`: every bound of the system, its unit and its meaning."""

from dataclasses import asdict

from rich.markup import escape
from rich.table import Table

from paywall.bounds import bounds
from paywall.console import Json, out, plain, print_json


def limits(as_json: Json = False) -> None:
    """Every bound of the system: sizes, times, rates and numbers, each with its unit.

    They are constants of `paywall/protocol/limits.py`. Where an argument can say otherwise, its
    name stands in brackets.
    """
    rows = bounds()
    if plain(as_json):
        return print_json([asdict(row) for row in rows])
    shown = Table(show_lines=False)
    for title in ("bound", "value", "unit", "meaning"):
        shown.add_column(title, justify="right" if title == "value" else "left", overflow="fold")
    about = ""
    for row in rows:
        if row.about != about:
            about = row.about
            shown.add_section()
            shown.add_row(f"[bold]{escape(about)}[/]")
        cells = (row.name, _shown(row.value), row.unit, row.meaning)
        shown.add_row(*(escape(cell) for cell in cells))
    out.print(shown)


def _shown(value: int | float) -> str:
    """The largest number of a type is known by its power of two."""
    if isinstance(value, int) and value.bit_length() > 64:
        return f"2^{value.bit_length()} - 1"
    return f"{value:,}"
