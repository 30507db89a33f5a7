"""The agent's commands on a real chain: a paying curl, a wallet, and the way home.

Where it matters they run in a process of their own; otherwise in this one, from `main` on.
"""

import csv
import io
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from secrets import token_hex

import httpx
import pytest
from helpers.agent import encode, offer, required
from helpers.chain import NETWORK
from helpers.redis_server import shared_server
from helpers.wires import over_http

from demo_app.demo import PRICE, serve_provider
from paywall import cli
from paywall.chain.devnet import Devnet

DEPOSIT = 500_000
DELAY = 86_400


@pytest.fixture(scope="module")
def devnet() -> Iterator[Devnet]:
    with Devnet(port=0) as chain:
        yield chain


@pytest.fixture(scope="module")
def shop(devnet: Devnet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    store = f"sqlite:///{tmp_path_factory.mktemp('provider')}/provider.db"
    gas, earner = devnet.accounts[7:9]
    with serve_provider(devnet, gas.key, earner.address, store) as url:
        yield url


Run = Callable[..., tuple[int, bytes, str]]


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path
) -> Run:
    """Runs a command here: its exit status, and what it wrote."""
    monkeypatch.setenv("PAYWALL_KEY", "11" * 32)
    monkeypatch.setenv("PAYWALL_WALLET", str(tmp_path / "wallet.db"))

    def run_it(*arguments: str, stdin: bytes = b"") -> tuple[int, bytes, str]:
        monkeypatch.setattr(sys, "argv", ["paywall", *arguments])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as left:
            cli.main()
        sys.stdout.flush()
        out, err = capfdbinary.readouterr()
        return int(left.value.code or 0), out, " ".join(err.decode().split())

    return run_it


@pytest.fixture
def rich(devnet: Devnet, monkeypatch: pytest.MonkeyPatch, run: Run) -> str:
    """The commands pay from an account that has money; its address."""
    account = devnet.accounts[4]
    monkeypatch.setenv("PAYWALL_KEY", account.key)
    monkeypatch.setenv("RPC_URL", devnet.url)
    return account.address


# -- fetch -----------------------------------------------------------------------------------------


def test_a_dry_run_shows_the_quote_and_pays_nothing_and_needs_no_key(
    run: Run, shop: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PAYWALL_KEY", "")
    status, out, _ = run("fetch", f"{shop}/weather/oslo", "--dry-run")
    (row,) = json.loads(out)
    assert (status, row["choice"], row["scheme"]) == (0, 1, "batch-settlement")
    assert (row["amount"], row["shown"], row["token"]) == (str(PRICE), "$0.001", "USDC")
    assert run("fetch", f"{shop}/", "--dry-run")[:2] == (0, b"[]\n")
    status, out, err = run("fetch", f"{shop}/weather/oslo", "--dry-run", "--max", "$0.0001")
    assert (status, json.loads(out)[0]["choice"]) == (1, None)
    assert "asks $0.001" in err
    assert list(tmp_path.iterdir()) == []


def test_fetch_is_a_curl_that_pays(
    run: Run, rich: str, shop: str, tmp_path: Path, devnet: Devnet
) -> None:
    before = devnet.usdc_balance(rich)
    status, out, err = run("fetch", f"{shop}/weather/oslo", "-i")
    head, _, body = out.partition(b"\r\n\r\n")
    assert (status, json.loads(body)["city"]) == (0, "oslo")
    assert head.startswith(b"HTTP/1.1 200\r\n")
    assert b"payment-response: " in head.lower()
    assert f"paid {PRICE} atomic units" in err
    file = tmp_path / "body"
    assert run("fetch", f"{shop}/weather/rome", "-o", str(file))[:2] == (0, b"")
    assert json.loads(file.read_bytes())["city"] == "rome"
    status, out, _ = run("fetch", f"{shop}/weather/bonn", "--json")
    told = json.loads(out)
    assert (status, told["status"], told["charged"]) == (0, 200, PRICE)
    assert before - devnet.usdc_balance(rich) == DEPOSIT

    status, out, _ = run("wallet", "history")
    assert [entry["outcome"] for entry in json.loads(out)] == ["paid"] * 3
    assert {entry["amount"] for entry in json.loads(out)} == {PRICE}
    status, out, _ = run("wallet", "history", "--format", "csv", "--limit", "2")
    rows = list(csv.DictReader(io.StringIO(out.decode())))
    assert [row["path"] for row in rows] == ["/weather/rome", "/weather/bonn"]
    status, out, _ = run("wallet", "limits", "--total", "$1")
    limits = {row["limit"]: row for row in json.loads(out)}
    assert (limits["total"]["most"], limits["total"]["left"]) == (10**6, 10**6 - DEPOSIT)
    status, out, _ = run("wallet", "balance")
    where = {(row["where"], row["token"]): row for row in json.loads(out)}
    assert where["channels", "USDC"]["amount"] == DEPOSIT - 3 * PRICE
    assert where["address", "USDC"]["amount"] == devnet.usdc_balance(rich)
    assert run("wallet", "address")[1].decode() == rich + "\n"

    (closed,) = json.loads(run("close", f"{shop}/weather/oslo")[1])
    assert (closed["state"], closed["amount"]) == ("refunded", DEPOSIT - 3 * PRICE)
    assert before - devnet.usdc_balance(rich) == 3 * PRICE


@pytest.mark.parametrize(
    ("arguments", "stdin", "expected"),
    [
        ((), b"", ("GET", b"", None)),
        (("-X", "delete"), b"", ("DELETE", b"", None)),
        (("-d", "a=b"), b"", ("POST", b"a=b", None)),
        (("-X", "PUT", "-d", "@-"), b"\x00raw", ("PUT", b"\x00raw", None)),
        (("-d", "-", "-H", "X-Mine: a: b", "-H", "y:z"), b"in", ("POST", b"in", "a: b")),
    ],
)
def test_what_is_sent_is_what_was_said(
    run: Run,
    arguments: tuple[str, ...],
    stdin: bytes,
    expected: tuple[str, bytes, str | None],
) -> None:
    seen: list[tuple[str, bytes, str | None]] = []

    def echo(request: httpx.Request) -> httpx.Response:
        seen.append((request.method, request.content, request.headers.get("x-mine")))
        return httpx.Response(200, content=b"\xff\x00 raw bytes")

    with over_http(echo) as url:
        assert run("fetch", url, *arguments, stdin=stdin)[:2] == (0, b"\xff\x00 raw bytes")
    assert seen == [expected]


def test_a_body_comes_from_a_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(b"\x01\x02")
    with over_http(lambda request: httpx.Response(200, content=request.content)) as url:
        assert run("fetch", url, "-d", f"@{tmp_path}/body")[:2] == (0, b"\x01\x02")
        status, _, err = run("fetch", url, "-d", f"@{tmp_path}/none")
        assert (status, "No such file" in err) == (2, True)
        assert run("fetch", url, "-H", "nonsense")[0] == 2
        assert run("fetch", url, "-o", f"{tmp_path}/no/such/place")[0] == 2


def test_fetch_says_what_a_single_transfer_cost(run: Run) -> None:
    """No receipt names it: it is what was signed."""
    told = offer(scheme="exact", extra={"receiverAuthorizer": None, "withdrawDelay": None})
    made = "0x" + "ab" * 32
    settled = encode({"success": True, "transaction": made, "network": told["network"]})

    def till(request: httpx.Request) -> httpx.Response:
        if "payment-signature" not in request.headers:
            return required(told)
        return httpx.Response(200, headers={"payment-response": settled}, content=b"bought")

    with over_http(till) as url:
        status, out, err = run("fetch", url)
        assert (status, out) == (0, b"bought")
        assert f"paid {told['amount']} atomic units" in err
        answer = json.loads(run("fetch", url, "--json")[1])
    assert (answer["charged"], answer["transaction"]) == (int(told["amount"]), made)


def test_an_answer_of_an_error_is_shown_and_the_status_says_so(run: Run) -> None:
    with over_http(lambda _: httpx.Response(404, content=b"no such thing")) as url:
        status, out, err = run("fetch", url)
    assert (status, out) == (1, b"no such thing")
    assert "answered 404" in err


def test_a_dry_run_understands_x402_v1_too(run: Run) -> None:
    old = offer(scheme="exact", network="base-sepolia", maxAmountRequired="1000", resource="/")
    told = {"x402Version": 1, "error": "pay", "accepts": [old]}
    with over_http(lambda _: httpx.Response(402, json=told)) as url:
        status, out, _ = run("fetch", url, "--dry-run")
    (row,) = json.loads(out)
    assert (status, row["scheme"], row["amount"], row["choice"]) == (0, "exact", "1000", 1)


def test_case_55_a_quotes_text_does_nothing_to_a_terminal(run: Run) -> None:
    evil = "\x1b[31m[bold]\u202e"
    told = required(offer(scheme=evil), offer(network=evil), offer(asset=evil), error=evil)
    with over_http(lambda _: told) as url:
        for arguments in (("--dry-run",), ()):
            status, out, err = run("fetch", url, *arguments)
            assert status == 1
            assert "\x1b[31m" not in out.decode() + err
            assert "\u202e" not in err


def test_case_53_a_key_is_never_an_argument_and_never_shown(run: Run) -> None:
    for command in ("fetch", "close", "withdraw", "recover"):
        text = run(command, "--help")[1].decode()
        assert "--key" not in text
        assert "--password" not in text
    assert "11" * 32 not in "".join(str(run("fetch", "http://127.0.0.1:9/x")))


def test_channels_of_a_wallet_in_redis_are_listed(run: Run) -> None:
    url = f"{shared_server().url}?prefix=w{token_hex(8)}"
    assert run("channels", "--wallet", url)[:2] == (0, b"[]\n")
    status, _, err = run("channels", "--wallet", "none.db")
    assert (status, "no wallet file" in err) == (2, True)


# -- wallet ----------------------------------------------------------------------------------------


def test_a_new_wallet_is_an_encrypted_file_that_the_other_commands_use(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "deep" / "key.json"
    status, _, err = run("wallet", "new", str(file))
    assert (status, "PAYWALL_PASSWORD" in err) == (2, True)
    monkeypatch.setenv("PAYWALL_PASSWORD", "correct horse")
    status, out, _ = run("wallet", "new", str(file))
    made = json.loads(out)
    assert (status, made["file"]) == (0, str(file))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert made["address"][2:].lower() in file.read_text().lower()
    status, _, err = run("wallet", "new", str(file))
    assert (status, "File exists" in err) == (2, True)
    monkeypatch.setenv("PAYWALL_KEY", "")
    monkeypatch.setenv("PAYWALL_KEYSTORE", str(file))
    assert run("wallet", "address")[:2] == (0, f"{made['address']}\n".encode())
    monkeypatch.setenv("PAYWALL_PASSWORD", "wrong")
    status, _, err = run("wallet", "address")
    assert (status, "wrong" in err, "password" in err) == (2, False, True)


def test_history_asks_for_days_and_a_spreadsheet_runs_nothing(run: Run) -> None:
    assert run("wallet", "history")[:2] == (0, b"[]\n")
    assert run("wallet", "history", "--since", "yesterday")[0] == 2
    assert run("wallet", "history", "--since", "2026-01-31", "--until", "2026-02-01T12:00")[0] == 0
    header = run("wallet", "history", "--format", "csv")[1].decode()
    assert header.startswith("time,origin,path,amount,scheme,payment_id,outcome")


# -- The way home ----------------------------------------------------------------------------------


def test_a_lost_file_is_recovered_and_withdrawn_by_processes_of_their_own(
    devnet: Devnet, shop: str, tmp_path: Path
) -> None:
    account = devnet.accounts[5]
    before = devnet.usdc_balance(account.address)

    def run_alone(*arguments: str, wallet: str = "new.db") -> object:
        environment = {"PAYWALL_KEY": account.key, "RPC_URL": devnet.url}
        done = subprocess.run(
            [sys.executable, "-m", "paywall.cli", *arguments],
            env={**os.environ, **environment, "PAYWALL_WALLET": str(tmp_path / wallet)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    run_alone("fetch", f"{shop}/weather/oslo", wallet="lost.db")
    (found,) = run_alone("recover", shop, "--network", NETWORK)  # type: ignore[misc]
    assert (found["origin"], found["balance"], found["known"]) == (shop, DEPOSIT, False)
    (begun,) = run_alone("withdraw", found["channel"])  # type: ignore[misc]
    assert (begun["state"], begun["amount"]) == ("withdrawing", DEPOSIT)
    assert before - devnet.usdc_balance(account.address) == DEPOSIT
    devnet.travel(DELAY)
    (taken,) = run_alone("withdraw")  # type: ignore[misc]
    # The provider may have seen it coming and claimed what it has earned.
    assert (taken["state"], DEPOSIT - taken["amount"]) in [("withdrawn", 0), ("withdrawn", PRICE)]
    assert before - devnet.usdc_balance(account.address) == DEPOSIT - taken["amount"]
    assert run_alone("withdraw") == []


def test_the_way_home_says_in_one_sentence_what_is_wrong(
    run: Run, rich: str, devnet: Devnet
) -> None:
    status, _, err = run("withdraw", "0x12")
    assert (status, "no channel" in err) == (2, True)
    status, _, err = run("withdraw", "0x" + "12" * 32)
    assert (status, "this wallet has no channel" in err) == (1, True)
    status, _, err = run("close", "http://127.0.0.1:9/x")
    assert (status, "Traceback" in err) == (3, False)
    assert run("recover", "--rpc", "http://127.0.0.1:9")[0] == 3
    assert run("recover", "--network", "eip155:1")[0] == 2
