"""`paywall dashboard` in a process of its own."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from typer.testing import CliRunner

from paywall.cli import app

GIVEN = "a token that the owner chose"
START_SECONDS = 30


@contextmanager
def dashboard(folder: Path, **environment: str) -> Iterator[tuple[str, Path]]:
    """Its address, and the file with all that it says."""
    said = folder / "said"
    environment = {**os.environ, "PAYWALL_STORE": f"sqlite:///{folder}/a.db", **environment}
    command = [sys.executable, "-m", "paywall.cli", "dashboard", "--port", "0"]
    with said.open("w") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
        try:
            yield _address(said, process), said
        finally:
            process.terminate()
            process.wait(START_SECONDS)


def _address(said: Path, process: "subprocess.Popen[bytes]") -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, said.read_text()
        if found := re.search(r"http://127\.0\.0\.1:\d+", said.read_text()):
            return found[0]
        time.sleep(0.05)
    raise AssertionError(said.read_text())


def status(url: str, token: str) -> int:
    return httpx.get(f"{url}/data", headers={"Authorization": f"Bearer {token}"}).status_code


def test_a_token_is_made_and_said_once(tmp_path: Path) -> None:
    with dashboard(tmp_path, PAYWALL_DASHBOARD_TOKEN="") as (url, said):
        found = re.search(r"token of this run is (\S+)", said.read_text())
        assert found
        assert status(url, found[1]) == 200
        assert status(url, "another") == 401
        assert said.read_text().count(found[1]) == 1


def test_a_token_that_is_given_is_not_said(tmp_path: Path) -> None:
    with dashboard(tmp_path, PAYWALL_DASHBOARD_TOKEN=GIVEN) as (url, said):
        assert status(url, GIVEN) == 200
        assert GIVEN not in said.read_text()


def test_a_token_that_could_be_guessed_is_one_sentence() -> None:
    result = CliRunner().invoke(app, ["dashboard"], env={"PAYWALL_DASHBOARD_TOKEN": "short"})
    assert "at least 16" in str(result.exception)
