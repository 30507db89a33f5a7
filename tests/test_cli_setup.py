"""`paywall init | doctor | check` at the command line."""

import asyncio
import json
import tomllib
from pathlib import Path

import pytest
from click.testing import Result
from helpers.chain import new_address
from helpers.servers import provider
from typer.testing import CliRunner

from paywall.chain.devnet import Devnet
from paywall.cli import app
from paywall.protocol.errors import ConfigurationError
from paywall.protocol.x402 import show_address
from paywall.proxy_config import checked, read_config

EARNER = show_address(new_address())


def test_init_writes_settings_to_begin_with(tmp_path: Path) -> None:
    path = tmp_path / "paywall.toml"
    done = CliRunner().invoke(app, ["init", "--pay-to", EARNER.lower(), "--output", str(path)])
    assert done.exit_code == 0, done.output
    told = tomllib.loads(path.read_text())
    assert told["pay_to"] == EARNER
    assert told["network"] == "eip155:8453"
    assert told["prices"] == {"GET /v1/*": "$0.001"}
    assert checked(read_config(path)).pay_to == EARNER
    assert "paywall doctor" in done.stderr


def test_init_replaces_nothing_unasked(tmp_path: Path) -> None:
    path = tmp_path / "paywall.toml"
    path.write_text("mine")
    arguments = ["init", "--pay-to", EARNER, "--output", str(path)]
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, ConfigurationError)
    assert "is there already; --force replaces it" in str(done.exception)
    assert path.read_text() == "mine"
    assert CliRunner().invoke(app, [*arguments, "--force"]).exit_code == 0
    assert path.read_text() != "mine"


@pytest.mark.parametrize(
    ("told", "complaint"),
    [
        (["--pay-to", "bob"], "'bob' is no address"),
        (["--pay-to", "0x" + "0" * 40], "zero address"),
        (["--pay-to", EARNER, "--network", "eip155:424242"], "no token of 'eip155:424242'"),
        (
            ["--pay-to", EARNER, "--upstream", 'http://a"\nb="c'],
            "a sign that does not belong there",
        ),
    ],
)
def test_init_refuses_what_cannot_work(tmp_path: Path, told: list[str], complaint: str) -> None:
    path = tmp_path / "paywall.toml"
    done = CliRunner().invoke(app, ["init", *told, "--output", str(path)])
    assert isinstance(done.exception, ConfigurationError)
    assert complaint in str(done.exception)
    assert not path.exists()


async def test_check_says_what_it_finds_and_its_status_follows(
    devnet: Devnet, tmp_path: Path
) -> None:
    async with provider(devnet, tmp_path) as ours:
        good = CliRunner().invoke(app, ["check", f"{ours.url}/item"])
        assert good.exit_code == 0, good.output
        rows = json.loads(good.stdout)
        assert {row["grade"] for row in rows} == {"ok"}
        free = CliRunner().invoke(app, ["check", f"{ours.url}/nothing", "--json"])
        assert free.exit_code == 1
        assert json.loads(free.stdout)[0]["found"] == "it answers 404, not 402"


async def invoke(*arguments: str) -> Result:
    """The commands have an event loop of their own, so they are run in another thread."""
    return await asyncio.to_thread(CliRunner().invoke, app, arguments)


async def test_doctor_looks_at_the_service_too(
    devnet: Devnet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAYWALL_KEY", devnet.accounts[0].key)
    async with provider(devnet, tmp_path) as ours:
        told = [
            "--json",
            "--network",
            "eip155:84532",
            "--rpc",
            devnet.url,
            "--url",
            f"{ours.url}/item",
        ]
        done = await invoke("doctor", "--store", f"sqlite:///{tmp_path}/d.db", *told)
    rows = json.loads(done.stdout)
    assert done.exit_code == 0, rows
    assert {"key", "store", "gas", "unpaid request"} <= {row["subject"] for row in rows}
    assert devnet.accounts[0].key not in done.output


def test_a_url_that_is_none_is_wrong_use() -> None:
    done = CliRunner().invoke(app, ["check", "nonsense"])
    assert isinstance(done.exception, ConfigurationError)
