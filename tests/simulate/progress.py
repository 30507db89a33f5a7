"""How far a run is: a bar on a terminal, elsewhere a line now and then, on standard error."""

import sys
import time
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from simulate.run import Result

LINE_SECONDS: Final = 10.0
_SAID: Final = "{task.fields[rate]} payments/s, {task.fields[violations]} violations"


class Shown:
    """Counts the worlds that are over, and shows it. `quiet`: shows nothing."""

    def __init__(self, payments: int, quiet: bool) -> None:
        self._wanted = payments
        self._quiet = quiet
        self._began = self._said = time.monotonic()
        self._paid = self._violations = 0
        columns = (TextColumn("simulate"), BarColumn(), MofNCompleteColumn(), TextColumn(_SAID))
        console = Console(stderr=True)
        self._bar = Progress(*columns, TimeRemainingColumn(), console=console)
        self._task = self._bar.add_task("simulate", total=payments, rate=0, violations=0)
        self._on_terminal = console.is_terminal and not quiet

    def __enter__(self) -> Self:
        if self._on_terminal:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._on_terminal:
            self._bar.stop()

    def over(self, result: Result) -> None:
        """One more world."""
        self._paid += result.payments
        self._violations += len(result.violations)
        now = time.monotonic()
        rate = round(self._paid / (now - self._began))
        if self._on_terminal:
            told = {"rate": rate, "violations": self._violations}
            self._bar.update(self._task, completed=self._paid, **told)
        elif not self._quiet and now > self._said + LINE_SECONDS:
            self._said = now
            done = f"{self._paid:,} of {self._wanted:,} payments"
            print(f"{done}, {rate} a second, {self._violations} violations", file=sys.stderr)
