"""Compiles the contracts: `python -m paywall.chain.contracts.build` rewrites the artifacts.

The only file that needs Vyper, and only developers run it; a test compiles everything again and
compares byte for byte. Vyper's interface is completed by what the sources do by hand: functions
that arrive in `__default__` (Vyper has no overloading) and reverts with a custom error (it has
none of those either). A trailing underscore only avoids a reserved word and is dropped.
"""

import json
import re
from pathlib import Path
from typing import Any, Final

import vyper
from vyper.compiler import compile_code

from paywall.chain.contracts import CONTRACTS

HERE: Final = Path(__file__).parent
EVM_VERSION: Final = "cancun"

_AUTHORIZED: Final = (
    "(address from, address to, uint256 value, uint256 validAfter, uint256 validBefore, "
    "bytes32 nonce, uint8 v, bytes32 r, bytes32 s)"
)
IN_DEFAULT: Final[dict[str, tuple[str, ...]]] = {
    "BatchSettlement": ("multicall(bytes[] data) returns (bytes[] results)",),
    "Usdc": (
        "transferWithAuthorization" + _AUTHORIZED,
        "receiveWithAuthorization" + _AUTHORIZED,
        "cancelAuthorization(address authorizer, bytes32 nonce, uint8 v, bytes32 r, bytes32 s)",
    ),
}

Json = dict[str, Any]


def compile_all() -> dict[str, str]:
    """The text of every artifact, by contract."""
    return {name: compile_contract(name) for name in CONTRACTS}


def compile_contract(name: str) -> str:
    source = (HERE / f"{name}.vy").read_text()
    output = compile_code(source, output_formats=["abi", "bytecode_runtime", "layout"])
    layout = output["layout"].get("storage_layout", {})
    artifact: Json = {
        "contract": name,
        "compiler": f"vyper {vyper.__version__}",
        "evmVersion": EVM_VERSION,
        "abi": [*_interface(output["abi"]), *_in_default(name), *_errors(source)],
        "storage": {variable: entry["slot"] for variable, entry in layout.items()},
        "runtime": output["bytecode_runtime"],
    }
    return json.dumps(artifact, indent=1) + "\n"


def _interface(entries: list[Json]) -> list[Json]:
    """What Vyper made, as callers of the canonical contract know it."""
    return [_flat(_clean(entry)) for entry in entries if entry["type"] != "fallback"]


def _flat(entry: Json) -> Json:
    """A getter of a struct returns its fields: the same bytes, and what Solidity declares."""
    match entry.get("outputs"):
        case [{"type": "tuple", "components": fields}]:
            return {**entry, "outputs": fields}
    return entry


def _clean(entry: Any) -> Any:
    """The entry with the names that its callers know."""
    if isinstance(entry, dict):
        return {
            key: value.rstrip("_") if key == "name" else _clean(value)
            for key, value in entry.items()
        }
    return [_clean(item) for item in entry] if isinstance(entry, list) else entry


def _in_default(name: str) -> list[Json]:
    return [_function(signature) for signature in IN_DEFAULT.get(name, ())]


def _function(signature: str) -> Json:
    head, _, result = signature.partition(" returns ")
    name, _, inputs = head.partition("(")
    return {
        "stateMutability": "nonpayable",
        "type": "function",
        "name": name,
        "inputs": _parameters(inputs),
        "outputs": _parameters(result),
    }


def _parameters(text: str) -> list[Json]:
    words = (pair.split() for pair in text.strip("()").split(",") if pair)
    return [{"name": name, "type": kind} for kind, name in words]


def _errors(source: str) -> list[Json]:
    """Every custom error that the source raises: a selector whose name begins with a capital."""
    found = sorted(set(re.findall(r'method_id\("([A-Z]\w*)\((\w*)\)"\)', source)))
    return [
        {"type": "error", "name": name, "inputs": [{"name": "", "type": kind}] if kind else []}
        for name, kind in found
    ]


def main() -> None:
    for name, text in compile_all().items():
        (HERE / "artifacts" / f"{name}.json").write_text(text)


if __name__ == "__main__":
    main()
