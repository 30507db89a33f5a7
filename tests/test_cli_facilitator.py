"""`paywall facilitator` in a process of its own, on a real chain."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from paywall.chain.devnet import Devnet

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-m", "paywall.cli", "facilitator"]


def environment(**variables: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **variables}


def run(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def served(devnet: Devnet) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    port = free_port()
    options = ["--rpc", devnet.url, "--port", str(port), "--api-key-env", "KEYS"]
    options += ["--rate", "0.01", "--burst", "4"]
    variables = environment(PAYWALL_KEY=devnet.accounts[5].key, KEYS="one, two")
    with subprocess.Popen([*COMMAND, *options], env=variables) as process:
        try:
            yield f"http://127.0.0.1:{port}", process
        finally:
            process.kill()


def supported(url: str) -> httpx.Response:
    deadline = time.monotonic() + 20
    while True:
        try:
            return httpx.get(url + "/supported")
        except httpx.ConnectError:
            assert time.monotonic() < deadline, "it does not listen"
            time.sleep(0.1)


def test_it_serves_until_it_is_told_to_stop(
    devnet: Devnet, served: tuple[str, "subprocess.Popen[bytes]"]
) -> None:
    url, process = served
    told = supported(url).json()
    assert {kind["scheme"] for kind in told["kinds"]} == {"exact", "batch-settlement"}
    assert told["signers"] == {"eip155:*": [devnet.accounts[5].address]}
    keyed = {"Authorization": "Bearer two"}
    answers = [httpx.post(url + "/verify", json={}, headers=keyed).status_code for _ in range(5)]
    assert answers == [400, 400, 400, 400, 429]
    forged = {"X-Forwarded-For": "192.0.2.9"}
    statuses = [httpx.post(url + "/verify", json={}, headers=forged).status_code for _ in range(5)]
    assert statuses[0] == 401
    assert statuses[-1] == 429, "a forwarded address is not believed"
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) in (0, -signal.SIGTERM)


@pytest.mark.parametrize(
    ("arguments", "variables", "status", "says"),
    [
        ((), {"PAYWALL_KEY": ""}, 2, "set PAYWALL_KEY"),
        ((), {"PAYWALL_KEY": "secret-word"}, 2, "gas key is not a private key"),
        (("--network", "eip155:1"), {}, 2, "wrong chain behind the RPC"),
        (("--api-key-env", "NO_SUCH_KEYS"), {}, 2, "NO_SUCH_KEYS"),
        (("--rpc", "http://127.0.0.1:9/hidden"), {}, 3, "cannot be reached"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(
    devnet: Devnet, arguments: tuple[str, ...], variables: dict[str, str], status: int, says: str
) -> None:
    variables = {"PAYWALL_KEY": devnet.accounts[5].key, **variables}
    done = run("--rpc", devnet.url, *arguments, **variables)
    assert done.returncode == status
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not any(word in done.stderr for word in ("hidden", "secret-word"))
