"""What the doctor finds on a real chain and real stores; it changes nothing there."""

import socket
from pathlib import Path

import pytest
from helpers.chain import ASSET, new_address
from helpers.newcomers import turn_newcomers_away
from helpers.redis_server import running

from paywall.chain.devnet import Devnet
from paywall.doctor import Setup, examine
from paywall.finding import Finding, Grade
from paywall.protocol.money import USDC, Asset
from paywall.protocol.x402 import show_address
from paywall.stores import open_store

NOBODY = "0x" + "01" * 32


@pytest.fixture
def key(devnet: Devnet, monkeypatch: pytest.MonkeyPatch) -> str:
    """A key with money for gas, in the environment."""
    monkeypatch.setenv("PAYWALL_KEY", devnet.accounts[0].key)
    return devnet.accounts[0].address


def by_subject(findings: list[Finding]) -> dict[str, list[Grade]]:
    grades: dict[str, list[Grade]] = {}
    for finding in findings:
        grades.setdefault(finding.subject, []).append(finding.grade)
    return grades


def texts(findings: list[Finding], grade: Grade = Grade.FAIL) -> list[str]:
    assert all(one.mend for one in findings if one.grade is not Grade.OK), "a way to mend it"
    return [f"{one.subject}: {one.text}" for one in findings if one.grade is grade]


async def test_a_setup_that_is_well_is_found_well(devnet: Devnet, key: str, tmp_path: Path) -> None:
    pay_to = show_address(new_address())
    found = await examine(Setup(ASSET, f"sqlite:///{tmp_path}/a.db", devnet.url, pay_to))
    assert texts(found) == []
    assert by_subject(found) == {
        "key": [Grade.OK],
        "pay_to": [Grade.OK],
        "store": [Grade.OK],
        "network": [Grade.OK],
        "contracts": [Grade.OK, Grade.OK],
        "token": [Grade.OK],
        "clock": found_clock(found),
        "gas": [Grade.OK],
    }


def found_clock(findings: list[Finding]) -> list[Grade]:
    """Other tests move this chain's clock, so either of these may be true of it."""
    (grade,) = by_subject(findings)["clock"]
    assert grade in (Grade.OK, Grade.WARN)
    return [grade]


async def test_each_part_is_looked_at_though_others_are_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("PAYWALL_KEY", raising=False)
    found = await examine(Setup(ASSET, f"sqlite:///{tmp_path}/a.db"))
    assert texts(found) == ["key: PAYWALL_KEY is not set"]
    assert texts(found, Grade.WARN) == ["chain: no RPC was named, so the chain was not looked at"]
    assert by_subject(found)["store"] == [Grade.OK]


async def test_a_key_that_is_none_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PAYWALL_KEY", "hunter2")
    found = await examine(Setup(ASSET, f"sqlite:///{tmp_path}/a.db"))
    (told,) = texts(found)
    assert told.startswith("key: ")
    assert "hunter2" not in told


async def test_an_rpc_of_another_network_is_named(devnet: Devnet, key: str, tmp_path: Path) -> None:
    found = await examine(Setup(USDC.base, f"sqlite:///{tmp_path}/a.db", devnet.url))
    assert "network: http://127.0.0.1 is on eip155:84532, not eip155:8453" in texts(found)


async def test_a_token_of_another_name_is_named(devnet: Devnet, key: str, tmp_path: Path) -> None:
    wrong = Asset(ASSET.network, ASSET.address, "USDC", 6, "USD Coin", "2")
    found = await examine(Setup(wrong, f"sqlite:///{tmp_path}/a.db", devnet.url))
    assert texts(found) == ["token: its EIP-712 domain is not 'USD Coin', '2'"]


async def test_a_token_that_is_not_there_is_named(devnet: Devnet, key: str, tmp_path: Path) -> None:
    nowhere = Asset(ASSET.network, new_address(), "USDC", 6, "USDC", "2")
    found = await examine(Setup(nowhere, f"sqlite:///{tmp_path}/a.db", devnet.url))
    assert texts(found) == [f"token: there is no contract at {show_address(nowhere.address)}"]


async def test_an_empty_gas_wallet_is_named(
    devnet: Devnet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PAYWALL_KEY", NOBODY)
    found = await examine(Setup(ASSET, f"sqlite:///{tmp_path}/a.db", devnet.url))
    (told,) = texts(found)
    assert told.startswith("gas: 0.000000 of the network's coin, for about 0 single claims")


@pytest.mark.parametrize(
    ("pay_to", "grade", "text"),
    [
        ("bob", Grade.FAIL, "'bob' is no address"),
        ("0x" + "0" * 40, Grade.FAIL, "it is the zero address"),
        (None, Grade.WARN, "the key that pays gas is also the one that earns"),
    ],
)
async def test_a_doubtful_receiver_is_named(
    key: str, tmp_path: Path, pay_to: str | None, grade: Grade, text: str
) -> None:
    found = await examine(Setup(ASSET, f"sqlite:///{tmp_path}/a.db", pay_to=pay_to or key))
    assert f"pay_to: {text}" in texts(found, grade)


async def test_a_store_that_may_throw_keys_away_is_named(key: str) -> None:
    with running("--maxmemory-policy", "allkeys-lru") as server:
        found = await examine(Setup(ASSET, server.url))
    (told,) = texts(found)
    assert told.startswith("store: ")
    assert "noeviction" in told


async def test_what_is_out_of_reach_hides_nothing_else(key: str) -> None:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port = place.getsockname()[1]
    found = await examine(
        Setup(ASSET, f"redis://:hunter2@127.0.0.1:{port}?timeout=0.2", f"http://127.0.0.1:{port}/x")
    )
    wrong = {one.subject for one in found if one.grade is Grade.FAIL}
    assert wrong == {"store", "network", "contracts", "token", "clock", "gas"}
    assert "hunter2" not in repr(found)


async def test_newcomers_that_are_turned_away_are_named(key: str, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    await turn_newcomers_away(open_store(url), ASSET.network)
    (told,) = [one for one in await examine(Setup(ASSET, url)) if one.subject == "deposits"]
    assert told.grade is Grade.WARN
    assert "all_deposits_per_hour" in told.text
    assert "min_deposit" in told.mend


async def test_a_memory_store_is_no_store_for_money(key: str) -> None:
    assert texts(await examine(Setup(ASSET, "memory://"))) == [
        "store: memory forgets at every restart"
    ]
