"""The wallet's memory, in a file and in Redis: one interface, whole changes, one budget for all."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from secrets import token_hex

import pytest
from helpers.redis_server import shared_server
from helpers.walletstates import STATES

from paywall.budget import Spending
from paywall.protocol.errors import StoreUnavailable
from paywall.walletrows import (
    Account,
    Entry,
    InFlight,
    KnownQuote,
    PendingDeposit,
    SignedTransfer,
    Withdrawal,
)
from paywall.walletstate import WalletState, open_state

HUGE = 2**128 - 1
NOW = 1_800_000_000.0
CHANNEL = b"\x01" * 32
ORIGIN = "https://a.example:443"
Open = Callable[..., WalletState]


@pytest.fixture(params=STATES)
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return STATES[request.param](tmp_path)


@pytest.fixture
def open_(where: str) -> Iterator[Open]:
    """More than one look at the same memory; all are closed in the end."""
    opened: list[WalletState] = []

    def one(max_history: int = 1000) -> WalletState:
        opened.append(open_state(where, lambda: NOW, max_history))
        return opened[-1]

    yield one
    for state in opened:
        state.close()


def account(number: int = 1, **fields: object) -> Account:
    known = {"origin": ORIGIN, "network": "eip155:8453", "asset": b"\x07" * 20}
    return Account(bytes([number]) * 32, config=b"{}", in_flight=64, **(known | fields))  # type: ignore[arg-type]


def sums(state: WalletState) -> tuple[int, int]:
    return state.totals().spent, state.totals().outlay


def put(state: WalletState, *accounts: Account) -> None:
    with state.change():
        for each in accounts:
            state.put(each)


def test_everything_that_is_written_is_read_by_another(open_: Open) -> None:
    full = account(
        balance=HUGE,
        charged=HUGE - 1,
        signed=HUGE,
        deposited=5,
        flying=6,
        doubtful=7,
        deposit=PendingDeposit(HUGE, 1_800_000_300, b"\x01" * 32, supposed=True),
        deposit_until=1.5,
        stopped="why",
        flight=3,
        begun=9,
        oldest=2.5,
        withdrawal=Withdrawal(1.0, "it lied", "0xab", 5, 3.0, True),
    )
    put(open_(), full, account(2))
    other = open_()
    assert other.accounts() == [full, account(2)]
    assert other.account(full.channel_id) == full
    assert other.account(b"\x09" * 32) is None


def test_the_totals_are_the_sums_over_all_channels(open_: Open) -> None:
    state = open_()
    put(state, account(1, charged=HUGE, flying=4), account(2, deposited=100, charged=30))
    assert sums(state) == (HUGE + 4 + 30, HUGE + 4 + 100)
    put(state, account(1), account(2, deposited=100, deposit=PendingDeposit(50, 0, b"")))
    assert sums(open_()) == (0, 150)


def test_a_host_is_counted_over_all_its_ports(open_: Open) -> None:
    state = open_()
    put(state, account(1, signed=5), account(2, signed=7, origin="https://a.example:8443"))
    put(state, account(3, signed=9, origin="https://b.example:443"))
    assert [state.host_promised(f"https://{name}.example:1") for name in "abc"] == [12, 9, 0]


def test_a_change_sees_what_it_has_written(open_: Open) -> None:
    state = open_()
    with state.change():
        state.put(account(charged=5, signed=6))
        state.add(InFlight("pay_1", CHANNEL, 1, 2, 3.0))
        assert state.account(CHANNEL) == account(charged=5, signed=6)
        assert (sums(state), state.host_promised(ORIGIN)) == ((5, 5), 6)
        assert [payment.payment_id for payment in state.payments(CHANNEL)] == ["pay_1"]
        assert state.accounts() == [account(charged=5, signed=6)]
        state.take(CHANNEL, "pay_1")
        assert state.payments(CHANNEL) == []


def test_a_payment_is_taken_once(open_: Open) -> None:
    state = open_()
    payment = InFlight("pay_1", CHANNEL, HUGE, HUGE, 5.0, 1, True, "/a")
    other = InFlight("pay_2", CHANNEL, 1, 1, 9.0)
    with state.change():
        state.add(payment)
        state.add(other)
    assert state.payments(CHANNEL) == [payment, other]
    with state.change():
        assert state.take(CHANNEL, "pay_1") == payment
        assert state.take(CHANNEL, "pay_1") is None
    with open_().change():
        assert state.payments(CHANNEL) == [other]
    assert state.payments(b"\x02" * 32) == []


def test_transfers_are_taken_by_name_or_when_their_time_has_passed(open_: Open) -> None:
    state = open_()
    early, late = (
        SignedTransfer(name, ORIGIN, "eip155:1", b"", b"", HUGE, b"\x01" * 32, until)
        for name, until in (("pay_1", 99), ("pay_2", 1_000))
    )
    with state.change():
        state.put_transfer(late)
        state.put_transfer(early)
    assert open_().transfers() == [early, late]
    with state.change():
        assert state.take_expired_transfers(99) == []
        assert state.take_expired_transfers(100) == [early]
        assert state.take_transfer("pay_2", 999) is None
        assert state.take_transfer("pay_2", 1_000) == late
    assert state.transfers() == []


def test_a_change_that_fails_leaves_nothing_behind(open_: Open) -> None:
    state = open_()

    def half_a_change() -> None:
        with state.change():
            state.put(account(charged=5))
            state.record(entry(1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half_a_change()
    assert (state.accounts(), state.totals(), state.history()) == ([], Spending(), [])
    put(state, account(charged=5))
    assert sums(state) == (5, 5)


def test_a_stopped_origin_stays_stopped(open_: Open) -> None:
    with (state := open_()).change():
        state.stop(ORIGIN, "it lied")
    assert (open_().stopped(ORIGIN), state.stopped("https://b.example:443")) == ("it lied", None)


def entry(number: int, time: float = NOW) -> Entry:
    return Entry(time, ORIGIN, "/é", number, "exact", f"pay_{number}", "paid", transaction="0xab")


def test_the_history_is_kept_in_order_and_bounded_by_time_and_number(open_: Open) -> None:
    state = open_()
    for number in range(5):
        with state.change():
            state.record(entry(number, NOW + number))
    other = open_()
    assert [one.amount for one in other.history()] == [0, 1, 2, 3, 4]
    assert other.history(since=NOW + 1, until=NOW + 3) == [entry(1, NOW + 1), entry(2, NOW + 2)]
    assert [one.amount for one in other.history(limit=2)] == [3, 4]


def test_only_so_much_history_is_kept(open_: Open) -> None:
    state = open_(max_history=100)
    with state.change():
        for number in range(1_000):
            state.record(entry(number))
    kept = state.history()
    assert 100 <= len(kept) <= 200  # Redis drops whole nodes of its stream
    assert kept[-1] == entry(999)


def test_quotes_are_recalled_by_the_first_place_that_is_known(open_: Open) -> None:
    state = open_()
    exact, sibling = KnownQuote(b"[1]", None), KnownQuote(b"[2]", b"{}")
    state.remember(["GET /a/*"], sibling, 1.0)
    assert state.recall(["GET /a/b", "GET /a/*"]) == sibling
    state.remember(["GET /a/b"], exact, 1.0)
    assert open_().recall(["GET /a/b", "GET /a/*"]) == exact
    assert state.recall(["GET /c"]) is None


PROGRAM = """
import sys
from paywall.walletrows import Account, Entry
from paywall.walletstate import open_state
state = open_state(sys.argv[1], lambda: 1_800_000_000.0)
for number in range(50):
    with state.change():
        old = state.account(bytes(32))
        charged = (old.charged if old else 0) + 1
        state.put(Account(bytes(32), 'o', 'n', b'', b'', 1, charged=charged))
        state.record(Entry(1.0, 'o', '', charged, 'exact', 'pay', 'paid'))
"""


def test_case_45_processes_that_open_and_change_one_memory_at_once_lose_nothing(
    where: str, open_: Open
) -> None:
    command = [sys.executable, "-c", PROGRAM, where]
    running = [subprocess.Popen(command, env=_environment()) for _ in range(4)]
    assert [each.wait() for each in running] == [0, 0, 0, 0]
    state = open_()
    assert (state.accounts()[0].charged, sums(state)) == (200, (200, 200))
    assert [one.amount for one in state.history()] == list(range(1, 201))


def test_case_52_a_process_killed_in_a_change_leaves_the_last_whole_one(
    where: str, open_: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = open_()
    put(state, account(charged=5))
    program = (
        "import os, sys; from msgspec.structs import replace\n"
        "from paywall.walletstate import open_state\n"
        "state = open_state(sys.argv[1], lambda: 0.0); one = state.accounts()[0]\n"
        "with state.change():\n"
        "    state.put(replace(one, charged=99)); os._exit(9)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, where], env=_environment())
    assert done.returncode == 9
    put(state, account(charged=6))  # a dead one's turn ends
    assert sums(state) == (6, 6)


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}


def test_threads_share_one_memory(open_: Open) -> None:
    state = open_()
    put(state, account())

    def work() -> None:
        for _ in range(25):
            with state.change():
                old = state.account(CHANNEL)
                assert old
                state.put(account(charged=old.charged + 1))
            assert state.totals().spent >= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sums(state) == (200, 200)


@pytest.mark.parametrize("broken", ["begin", "commit"])
def test_a_memory_that_fails_says_so(open_: Open, broken: str) -> None:
    state = open_()
    put(state, account(charged=5))

    def changed() -> None:
        with state.change():
            if broken == "commit":
                state._rows.rollback()  # as if the turn had been lost
            state.put(account(charged=6))

    if broken == "begin":
        state.close()
        if "redis" in type(state._rows).__module__:
            return  # a Redis client connects again
    with pytest.raises(StoreUnavailable):
        changed()
    if broken == "commit":
        assert open_().totals().spent == 5


@pytest.mark.parametrize("what", ["emptied", "an old copy"])
def test_case_45_a_redis_that_has_forgotten_what_was_spent_is_not_spent_from(what: str) -> None:
    with shared_server().client() as server, ExitStack() as opened:
        prefix = f"w{token_hex(8)}"

        def one() -> WalletState:
            state = open_state(f"{shared_server().url}?prefix={prefix}", lambda: NOW)
            opened.callback(state.close)
            return state

        state, other = one(), one()
        put(state, account(charged=5))
        keys = server.keys(f"*{prefix}*")
        copies = [server.execute_command("DUMP", key, NEVER_DECODE=True) for key in keys]
        put(state, account(charged=6))
        put(other, account(charged=7))
        server.delete(*server.keys(f"*{prefix}*"))
        for key, copy in zip(keys, copies, strict=True):
            if what == "an old copy":
                server.restore(key, 0, copy)
        for each in (state, other):
            with pytest.raises(StoreUnavailable, match="forgotten"):
                put(each, account(charged=8))
        known = 5 if what == "an old copy" else 0
        assert one().totals().spent == known
        put(one(), account(charged=9))
