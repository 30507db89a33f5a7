"""What importing us costs: an agent does not load the provider, nor a provider the chain."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import paywall.protocol

HEART = Path(paywall.protocol.__file__).parent
HEAVY = {"web3", "redis", "httpx", "httpx2", "starlette", "eth_tester", "eth", "vyper", "fastapi"}
HEAVY |= {"eth_abi", "eth_account"}  # of the extra [chain]


def loaded_by(statement: str) -> set[str]:
    """Everything that one import loads, in a Python of its own."""
    code = f"import sys, json; {statement}; print(json.dumps(sorted(sys.modules)))"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    return set(json.loads(run.stdout))


def tops(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules}


def test_the_package_itself_loads_almost_nothing() -> None:
    loaded = loaded_by("import paywall")
    assert tops(loaded) & (HEAVY | {"msgspec", "coincurve", "eth_account", "asyncio"}) == set()
    assert {name for name in loaded if name.startswith("paywall")} == {"paywall"}


def test_a_provider_loads_neither_chain_nor_client_nor_redis() -> None:
    assert tops(loaded_by("import paywall.asgi")) & HEAVY == {"starlette"}


def test_an_agent_loads_neither_chain_nor_server_nor_redis() -> None:
    assert tops(loaded_by("import paywall.client")) & HEAVY == {"httpx"}


def test_the_public_names_load_only_what_they_are_of() -> None:
    assert "starlette" in tops(loaded_by("from paywall import Paywall"))
    assert tops(loaded_by("from paywall import USDC, ConfigurationError")) & HEAVY == set()


def _imports(path: Path) -> set[str]:
    """Every module that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("path", sorted(HEART.rglob("*.py")), ids=lambda path: path.stem)
def test_the_heart_imports_nothing_of_ours_but_itself(path: Path) -> None:
    ours = {name for name in _imports(path) if name.partition(".")[0] == "paywall"}
    assert {name for name in ours if not name.startswith("paywall.protocol")} == set()


@pytest.mark.parametrize("path", sorted(HEART.rglob("*.py")), ids=lambda path: path.stem)
def test_the_heart_knows_no_clock_no_chance_and_no_wire(path: Path) -> None:
    forbidden = {"time", "datetime", "random", "secrets", "os", "socket", "asyncio", "threading"}
    forbidden |= HEAVY | {"requests", "urllib", "http", "pathlib", "io", "logging"}
    assert tops(_imports(path)) & forbidden == set()
    code = ast.parse(path.read_text())
    called = {node.id for node in ast.walk(code) if isinstance(node, ast.Name)}
    assert called & {"open", "print", "input"} == set()


def test_no_function_of_the_heart_imports() -> None:
    for path in HEART.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                inner = [n for n in ast.walk(node) if isinstance(n, (ast.Import, ast.ImportFrom))]
                assert inner == [], f"{path.name}: {node.name}"
