"""The wallet's file: written whole or not at all, shared by processes, refused when strange."""

import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from paywall.budget import Spending
from paywall.protocol.errors import ConfigurationError
from paywall.walletfile import MAX_QUOTES
from paywall.walletrows import Account, InFlight, KnownQuote, PendingDeposit
from paywall.walletstate import WalletState, open_state

HUGE = 2**128 - 1
DEPOSIT = PendingDeposit(HUGE, 1_800_000_300, b"\x01" * 32, supposed=True)


def account(number: int = 1, **fields: object) -> Account:
    known = {"origin": "https://a.example:443", "network": "eip155:8453", "asset": b"\x07" * 20}
    return Account(bytes([number]) * 32, config=b"{}", in_flight=64, **(known | fields))  # type: ignore[arg-type]


def open_(path: object = ":memory:") -> WalletState:
    return open_state(str(path), lambda: 0.0)


def sums(file: WalletState) -> tuple[int, int]:
    return file.totals().spent, file.totals().outlay


def put(file: WalletState, *accounts: Account) -> None:
    with file.change():
        for each in accounts:
            file.put(each)


def test_everything_that_is_written_is_read_again(tmp_path):
    full = account(
        balance=HUGE,
        charged=HUGE - 1,
        signed=HUGE,
        deposited=5,
        flying=6,
        doubtful=7,
        deposit=DEPOSIT,
        deposit_until=1.5,
        stopped="why",
    )
    file = open_(tmp_path / "deep" / "w.db")
    put(file, full, account(2))
    file.close()
    file = open_(tmp_path / "deep" / "w.db")
    assert file.accounts() == [full, account(2)]
    assert file.account(full.channel_id) == full
    assert file.account(b"\x09" * 32) is None
    file.close()


def test_the_totals_are_the_sums_over_all_channels():
    file = open_(":memory:")
    put(file, account(1, charged=HUGE, flying=4), account(2, deposited=100, charged=30))
    assert sums(file) == (HUGE + 4 + 30, HUGE + 4 + 100)
    put(file, account(1), account(2, deposited=100, deposit=PendingDeposit(50, 0, b"")))
    assert sums(file) == (0, 150)
    file.close()


def test_a_payment_is_taken_once():
    file = open_(":memory:")
    channel = b"\x01" * 32
    payment = InFlight("pay_1", channel, HUGE, HUGE, 5.0, 1, True, "/a")
    other = InFlight("pay_2", channel, 1, 1, 9.0)
    with file.change():
        file.add(payment)
        file.add(other)
    assert file.payments(channel) == [payment, other]
    with file.change():
        assert file.take(channel, "pay_1") == payment
        assert file.take(channel, "pay_1") is None
        assert file.payments(channel) == [other]
    assert file.payments(channel) == [other]
    assert file.payments(b"\x02" * 32) == []
    file.close()


def test_a_change_that_fails_leaves_nothing_behind():
    file = open_(":memory:")

    def half_a_change() -> None:
        with file.change():
            file.put(account(charged=5))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half_a_change()
    assert (file.accounts(), file.totals()) == ([], Spending())
    put(file, account(charged=5))
    assert file.totals().spent == 5
    file.close()


def test_case_52_a_process_killed_in_a_change_leaves_the_last_whole_one(tmp_path):
    path = tmp_path / "w.db"
    file = open_(path)
    put(file, account(charged=5))
    program = (
        "import os, sys; from paywall.walletrows import *; from paywall.walletstate import *\n"
        "file = open_state(sys.argv[1], lambda: 0.0); one = file.accounts()[0]\n"
        "from msgspec.structs import replace\n"
        "with file.change():\n"
        "    file.put(replace(one, charged=99)); os._exit(9)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], env=_environment())
    assert done.returncode == 9
    assert file.accounts()[0].charged == file.totals().spent == 5
    file.close()


def test_processes_that_open_and_change_one_file_at_once_lose_nothing(tmp_path):
    path = tmp_path / "w.db"
    program = (
        "import sys; from paywall.walletrows import *; from paywall.walletstate import *\n"
        "file = open_state(sys.argv[1], lambda: 0.0)\n"
        "for _ in range(50):\n"
        "    with file.change():\n"
        "        old = file.account(bytes(32))\n"
        "        file.put(Account(bytes(32), 'o', 'n', b'', b'', 1,\n"
        "                         charged=(old.charged if old else 0) + 1))\n"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", program, str(path)], env=_environment())
        for _ in range(4)
    ]
    assert [each.wait() for each in running] == [0, 0, 0, 0]
    file = open_(path)
    assert file.accounts()[0].charged == file.totals().spent == 200
    file.close()


def _environment() -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[1])
    return os.environ | {"PYTHONPATH": root}


def test_threads_share_one_file_object():
    file = open_(":memory:")
    put(file, account())

    def work() -> None:
        for _ in range(100):
            with file.change():
                old = file.account(account().channel_id)
                assert old
                file.put(account(charged=old.charged + 1))
            assert file.totals().spent >= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert file.totals().spent == 800
    file.close()


def test_a_file_of_a_newer_paywall_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "w.db"
    file = open_(path)
    put(file, account(charged=5))
    file.close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(ConfigurationError, match="newer"):
        open_(path)
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT value FROM row WHERE key = 'spending'").fetchone()
    db.close()


def test_a_file_that_is_no_wallet_is_refused(tmp_path):
    (tmp_path / "text").write_text("not a database, but long enough to look at" * 99)
    for path in (tmp_path / "text", tmp_path, tmp_path / "text" / "below"):
        with pytest.raises(ConfigurationError):
            open_(path)


def test_the_first_known_place_is_recalled():
    file = open_(":memory:")
    exact, sibling = KnownQuote(b"[1]", None), KnownQuote(b"[2]", b"{}")
    file.remember(["GET /a/*"], sibling, 1.0)
    assert file.recall(["GET /a/b", "GET /a/*"]) == sibling
    file.remember(["GET /a/b"], exact, 1.0)
    assert file.recall(["GET /a/b", "GET /a/*"]) == exact
    assert file.recall(["GET /c"]) is None
    file.close()


def test_only_so_many_quotes_are_remembered_and_the_oldest_go_first():
    file = open_(":memory:")
    quote = KnownQuote(b"[]", None)
    file.remember([f"GET /{number}" for number in range(MAX_QUOTES)], quote, 1.0)
    file.remember(["GET /new"], quote, 2.0)
    file.remember(["GET /newer"], quote, 3.0)
    assert file.recall(["GET /new"]) == file.recall(["GET /newer"]) == quote
    known = sum(file.recall([f"GET /{number}"]) is not None for number in range(MAX_QUOTES))
    assert known == MAX_QUOTES - 2
    file.close()
