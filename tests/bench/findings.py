"""What a run of the benchmark has found: cells, ratios between them, and single figures."""

from dataclasses import dataclass, field
from typing import Any

from bench.cells import Cell


@dataclass
class Findings:
    cells: list[Cell] = field(default_factory=list)
    ratios: dict[str, float] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
