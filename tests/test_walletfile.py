"""The wallet's file: refused when it is strange, read when it is older, kept small."""

import sqlite3
from pathlib import Path

import pytest

from paywall.protocol.errors import ConfigurationError
from paywall.protocol.limits import MAX_QUOTES
from paywall.walletrows import Account, InFlight, KnownQuote, PendingDeposit, SignedTransfer
from paywall.walletstate import WalletState, open_state
from paywall.walletupgrade import VERSION_1, VERSION_2

CHANNEL = b"\x01" * 32
ORIGIN = "https://a.example:443"


def open_(path: Path) -> WalletState:
    return open_state(path, lambda: 0.0)


def test_a_folder_that_is_not_there_is_made(tmp_path: Path) -> None:
    open_(tmp_path / "deep" / "er" / "w.db").close()
    assert (tmp_path / "deep" / "er" / "w.db").exists()


def test_a_file_of_a_newer_paywall_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "w.db"
    open_(path).close()
    with sqlite3.connect(path) as db:
        db.execute("INSERT INTO row VALUES ('new', 'x')")
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(ConfigurationError, match="newer"):
        open_(path)
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT * FROM row").fetchall() == [("new", "x")]
    db.close()


def test_a_file_that_is_no_wallet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a database, but long enough to look at" * 99)
    for path in (tmp_path / "text", tmp_path, tmp_path / "text" / "below"):
        with pytest.raises(ConfigurationError):
            open_(path)


def test_case_43_a_file_of_the_second_version_is_read(tmp_path: Path) -> None:
    path, huge = tmp_path / "old.db", str(2**128 - 1)
    pending = b'{"amount":7,"valid_before":9,"salt":"AQE=","signature":"AgI=","supposed":true}'
    with sqlite3.connect(path) as db:
        db.executescript(VERSION_1 + VERSION_2 + "PRAGMA user_version = 2;")
        db.execute(
            "INSERT INTO channel (id, origin, network, asset, config, balance, charged, signed, "
            "deposited, flying, doubtful, in_flight, deposit, deposit_until, stopped) "
            "VALUES (?,?,'n',x'07',x'7b7d',?,'40',?,'9','5','3',64,?,1.5,'it lied')",
            (CHANNEL, ORIGIN, huge, huge, pending),
        )
        db.execute("INSERT INTO payment VALUES ('pay_1',?,'5','45',0,8.5)", (CHANNEL,))
        db.execute(
            "INSERT INTO transfer VALUES ('pay_2',?,'n',x'07',x'08','6',x'09',99,1)", (ORIGIN,)
        )
        db.execute("INSERT INTO stopped VALUES ('https://b.example:443', 'so did it')")
        db.execute("UPDATE total SET spent = '51', outlay = '60'")
    db.close()
    state = open_(path)
    assert state.accounts() == [
        Account(
            channel_id=CHANNEL,
            origin=ORIGIN,
            network="n",
            asset=b"\x07",
            config=b"{}",
            in_flight=64,
            balance=2**128 - 1,
            charged=40,
            signed=2**128 - 1,
            deposited=9,
            flying=5,
            doubtful=3,
            deposit=PendingDeposit(7, 9, b"\x01\x01", True),
            deposit_until=1.5,
            stopped="it lied",
            flight=1,
            begun=1,
            oldest=8.5,
        )
    ]
    assert state.payments(CHANNEL) == [InFlight("pay_1", CHANNEL, 5, 45, 8.5)]
    transfer = SignedTransfer("pay_2", ORIGIN, "n", b"\x07", b"\x08", 6, b"\x09", 99, True)
    assert state.transfers() == [transfer]
    assert (state.totals().spent, state.totals().outlay) == (51, 60)
    assert state.host_promised(ORIGIN) == 2**128 - 1
    stopped = [state.stopped(f"https://{name}.example:443") for name in "abc"]
    assert stopped == ["it lied", "so did it", None]
    state.close()
    again = open_(path)
    assert again.totals().spent == 51
    again.close()


def test_only_so_many_quotes_are_remembered_and_the_oldest_go_first(tmp_path: Path) -> None:
    state = open_(tmp_path / "w.db")
    quote = KnownQuote(b"[]", None)
    state.remember([f"GET /{number}" for number in range(MAX_QUOTES)], quote, 1.0)
    state.remember(["GET /new"], quote, 2.0)
    state.remember(["GET /newer"], quote, 3.0)
    assert state.recall(["GET /new"]) == state.recall(["GET /newer"]) == quote
    known = sum(state.recall([f"GET /{number}"]) is not None for number in range(MAX_QUOTES))
    assert known == MAX_QUOTES - 2
    state.close()
