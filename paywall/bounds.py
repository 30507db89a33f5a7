"""The bounds of `paywall.protocol.limits` as a table: what each is called, its unit, its meaning.

Read from that file's own text, so that the table cannot say anything else: the headings are its
comments, the meaning is what stands under a bound, and the unit is the end of its name.
"""

import ast
import inspect
import re
from dataclasses import dataclass
from itertools import pairwise

from paywall.protocol import limits

_HEADING = re.compile(r"# -- (.+?) -+$")
_UNIT = re.compile(r"(?:^|_)([A-Z]+(?:_(?:PER_[A-Z]+|AT_ONCE))?)$")


@dataclass(frozen=True, slots=True)
class Bound:
    """One line of the table. `unit` is a word such as "bytes" or "holds"."""

    about: str
    name: str
    value: int | float
    unit: str
    meaning: str


def bounds() -> list[Bound]:
    """All of them, in the order in which they are written."""
    text = inspect.getsource(limits)
    headings = [
        (number, found[1])
        for number, line in enumerate(text.splitlines(), 1)
        if (found := _HEADING.match(line))
    ]
    body = ast.parse(text).body
    values: dict[str, object] = vars(limits)
    rows: list[Bound] = []
    for node, after in pairwise(body):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
            about = [title for line, title in headings if line < node.lineno][-1]
            rows.append(Bound(about, name, _number(values[name]), _unit(name), _meaning(after)))
    return rows


def _number(value: object) -> int | float:
    assert isinstance(value, int | float), "a bound is a number"
    return value


def _unit(name: str) -> str:
    """The end of a name; the largest numbers of a type are amounts."""
    if name.endswith("_MAX"):
        return "atomic units"
    found = _UNIT.search(name)
    unit = found[1] if found else name
    return unit.lower().replace("_", " ")


def _meaning(node: ast.stmt) -> str:
    """What stands under a bound, as one line."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return " ".join(str(node.value.value).split())
    return ""
