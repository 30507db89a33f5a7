"""The README, and its Python examples as something that runs."""

import ast
import asyncio
import inspect
import re
from pathlib import Path
from typing import Any, Final

import paywall

ROOT: Final = Path(__file__).parent.parent.parent
README: Final = (ROOT / "README.md").read_text()
EXAMPLES: Final = re.findall(r"^```python\n(.*?)^```", README, re.S | re.M)


def example(words: str) -> str:
    """The one example that has these words."""
    (found,) = (text for text in EXAMPLES if words in text)
    return found


def filled(text: str, words: dict[str, str]) -> str:
    """An example with something real in place of each placeholder."""
    for placeholder, word in words.items():
        text = text.replace(placeholder, word)
    return text


def run(text: str, **given: object) -> dict[str, Any]:
    """Runs an example in a namespace of its own, awaiting where it awaits."""
    names: dict[str, Any] = {"paywall": paywall, **given}
    code = compile(text, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    outcome = eval(code, names)
    if inspect.iscoroutine(outcome):
        asyncio.run(outcome)
    return names
