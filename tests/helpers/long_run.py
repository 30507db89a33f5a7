"""How a run of many minutes shows itself: a bar on stderr, and one JSON object as the last line."""

import json
import sys
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


def shown(
    name: str, steps: int, quiet: bool, work: Callable[[Callable[[], None]], dict[str, Any]]
) -> int:
    """Does the work, which calls what it is given for each step; its exit status.

    The figures have `problems`, a list of texts; with any of them the status is 1.
    """
    columns = (TextColumn(name), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True, quiet=quiet)) as progress:
        task = progress.add_task(name, total=steps)
        figures = work(lambda: progress.advance(task))
    for problem in figures["problems"]:
        print(problem, file=sys.stderr)
    print(json.dumps(figures))
    return 1 if figures["problems"] else 0
