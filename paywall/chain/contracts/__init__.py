"""Our own contracts, compiled: what the embedded chain puts at the canonical addresses.

Each Vyper source beside this file has an artifact in `artifacts/`: interface, runtime code and the
slots of its storage. The code has no constructor and no immutables, so it works wherever it is
placed. `build.py` makes the artifacts and needs the compiler; using them needs nothing.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

CONTRACTS = ("BatchSettlement", "Erc3009DepositCollector", "Multicall3", "Usdc")


@dataclass(frozen=True, slots=True)
class Artifact:
    """A compiled contract; `storage` maps the names of its variables to their slots."""

    name: str
    abi: list[dict[str, Any]]
    runtime: bytes
    storage: dict[str, int]


@cache
def artifact(name: str) -> Artifact:
    """The shipped artifact of one of CONTRACTS."""
    text = files(__package__).joinpath("artifacts", f"{name}.json").read_text()
    raw = json.loads(text)
    runtime = bytes.fromhex(raw["runtime"].removeprefix("0x"))
    return Artifact(raw["contract"], raw["abi"], runtime, raw["storage"])
