"""The command line as people and scripts use it: in a process of its own, on a real chain."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from demo_app.demo import PRICE, differences, serve_provider
from paywall.chain.devnet import Devnet

ROOT = Path(__file__).parent.parent


def run(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "paywall.cli", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def without_key(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return run(*arguments, PAYWALL_KEY="", **environment)


@pytest.fixture(scope="module")
def provider(devnet: Devnet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The demo's provider on devnet: its URL and its store."""
    store = f"sqlite:///{tmp_path_factory.mktemp('provider')}/provider.db"
    gas, earner = devnet.accounts[7:9]
    with serve_provider(devnet, gas.key, earner.address, store) as url:
        yield url, store


def test_the_demo_checks_every_sum_and_prints_one_json_object() -> None:
    done = run("demo", "--requests", "40", "--in-flight", "8", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    due = 40 * PRICE
    assert differences(result) == []
    assert result["requests"] == 40
    assert result["in_flight"] == 8
    assert (result["channels"], result["deposits"]) == (1, 1)
    sums = ("charged", "claimed", "settled", "provider_balance_change")
    assert [result[name] for name in sums] == [due] * 4
    assert result["agent_balance_change"] == -due
    assert result["refunded"] == result["deposited"] - due
    assert set(result["gas"]) == {"deposit", "claim", "settle", "refund"}
    assert all(type(used) is int and used > 20_000 for used in result["gas"].values())
    assert set(result["latency_ms"]) == {"p50", "p99"}
    assert 0 < result["fee_per_request_usd_at_0_01_gwei"] < 0.001


def test_the_demo_names_every_sum_that_is_off() -> None:
    good = {
        "requests": 3,
        "channels": 1,
        "deposits": 1,
        "charged": 3 * PRICE,
        "receipts_charged": 3 * PRICE,
        "claimed": 3 * PRICE,
        "settled": 3 * PRICE,
        "provider_balance_change": 3 * PRICE,
        "agent_balance_change": -3 * PRICE,
        "deposited": 10 * PRICE,
        "refunded": 7 * PRICE,
    }
    assert differences(good) == []
    assert differences({**good, "settled": 3 * PRICE - 1}) == [
        f"settled is {3 * PRICE - 1}, and should be {3 * PRICE}"
    ]


def test_fetch_pays_and_then_channels_claim_and_settle_show_where_the_money_went(
    devnet: Devnet, provider: tuple[str, str], tmp_path: Path
) -> None:
    url, store = provider
    agent, earner = devnet.accounts[6], devnet.accounts[8]
    wallet = str(tmp_path / "wallet.db")
    before = devnet.usdc_balance(earner.address)

    got = run("fetch", f"{url}/weather/oslo", "--wallet", wallet, PAYWALL_KEY=agent.key)
    assert got.returncode == 0, got.stderr
    assert json.loads(got.stdout)["city"] == "oslo"
    assert f"paid {PRICE} atomic units" in got.stderr

    mine = json.loads(run("channels", "--wallet", wallet).stdout)
    assert [(row["charged"], row["signed"]) for row in mine] == [(PRICE, PRICE)]
    theirs = json.loads(run("channels", "--store", store).stdout)
    assert [(row["charged"], row["claimed"]) for row in theirs] == [(PRICE, 0)]

    chain = {"RPC_URL": devnet.url, "PAYWALL_KEY": devnet.accounts[7].key}
    claimed = json.loads(run("claim", "--store", store, **chain).stdout)
    assert [row["claimed"] for row in claimed] == [PRICE]
    settled = json.loads(run("settle", "--store", store, **chain).stdout)
    assert [row["receiver"] for row in settled] == [earner.address]
    assert devnet.usdc_balance(earner.address) - before == PRICE
    assert json.loads(run("claim", "--store", store, **chain).stdout) == []
    assert json.loads(run("settle", "--store", store, **chain).stdout) == []


def test_fetch_above_its_maximum_pays_nothing_and_says_so(
    devnet: Devnet, provider: tuple[str, str], tmp_path: Path
) -> None:
    done = run(
        "fetch",
        f"{provider[0]}/weather/rome",
        "--max",
        "$0.0009",
        "--wallet",
        str(tmp_path / "w.db"),
        PAYWALL_KEY=devnet.accounts[6].key,
    )
    assert done.returncode == 1
    assert "asks $0.001 for one request; this wallet pays at most $0.0009" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unreachable_provider_is_one_sentence_and_status_3(tmp_path: Path) -> None:
    done = run(
        "fetch", "http://127.0.0.1:9/x", "--wallet", str(tmp_path / "w.db"), PAYWALL_KEY="11" * 32
    )
    assert done.returncode == 3
    assert re.fullmatch(r"paywall: .+\n", done.stderr)


def test_a_missing_key_is_wrong_use_and_names_the_variable(tmp_path: Path) -> None:
    done = without_key("fetch", "http://127.0.0.1:9/x", "--wallet", str(tmp_path / "w.db"))
    assert done.returncode == 2
    assert "PAYWALL_KEY" in done.stderr
    claim = without_key("claim", "--rpc", "http://127.0.0.1:9")
    assert (claim.returncode, "PAYWALL_KEY" in claim.stderr) == (2, True)


def test_a_key_that_is_none_is_refused_without_showing_it(tmp_path: Path) -> None:
    done = run(
        "fetch",
        "http://127.0.0.1:9/x",
        "--wallet",
        str(tmp_path / "w.db"),
        PAYWALL_KEY="0xsecretsecret",
    )
    assert done.returncode == 2
    assert "not a private key" in done.stderr
    assert "secretsecret" not in done.stderr


def test_an_rpc_that_is_down_is_status_3_and_shows_no_password(tmp_path: Path) -> None:
    done = run(
        "claim",
        "--rpc",
        "http://user:hunter2@127.0.0.1:9",
        "--store",
        f"sqlite:///{tmp_path}/p.db",
        PAYWALL_KEY="11" * 32,
    )
    assert done.returncode == 3, done.stderr
    assert "hunter2" not in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_store_is_wrong_use(tmp_path: Path) -> None:
    done = run("channels", "--store", "postgres://nowhere")
    assert done.returncode == 2
    assert "no store is called 'postgres'" in done.stderr


def test_devnet_on_a_taken_port_says_so() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run("devnet", "--port", str(port))
    assert done.returncode == 2
    assert f"port {port} on 127.0.0.1 is taken" in done.stderr


def test_devnet_serves_until_it_is_told_to_stop() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "paywall.cli", "devnet", "--port", "0"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    facts = ""
    deadline = time.monotonic() + 30
    while not facts.endswith("\n}\n") and time.monotonic() < deadline:
        facts += process.stdout.readline()
    answer = httpx.post(
        json.loads(facts)["url"],
        json={"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": []},
    )
    process.terminate()
    process.stdout.close()
    assert process.wait(timeout=10) == 0
    assert answer.json()["result"] == hex(84532)
