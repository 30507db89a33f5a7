"""Alarms are told once when they begin and once when they are over, whoever rings them."""

from helpers.channels import ASSET
from helpers.provider import answering

from paywall import Node, Paywall
from paywall.alarms import Alarm, Board, GasWalletEmpty, WatcherBehind

KEY = "0x" + "17" * 32


def test_what_stands_is_not_told_again_until_it_was_over() -> None:
    told: list[Alarm] = []
    board = Board(told.append)
    for _ in range(2):
        board.ring(GasWalletEmpty, "wallet", "empty")
    board.lift(WatcherBehind, "wallet")
    for _ in range(2):
        board.lift(GasWalletEmpty, "wallet")
    board.ring(GasWalletEmpty, "wallet", "empty again")
    assert told == [
        GasWalletEmpty("wallet", "empty"),
        GasWalletEmpty("wallet", "empty", over=True),
        GasWalletEmpty("wallet", "empty again"),
    ]
    assert board.standing == [told[-1]]


def test_who_serves_and_who_collects_in_one_worker_ring_an_alarm_once() -> None:
    told: list[Alarm] = []
    wall = Paywall(
        answering(),
        prices={"GET /x": "$0.001"},
        pay_to="0x" + "22" * 20,
        asset=ASSET,
        chain=Node("http://127.0.0.1:1", KEY, network=ASSET.network),
        store="memory://",
        alarms=told.append,
    )
    assert wall._collector
    serving, collecting = wall.gate._batch.deposits._crowd._board, wall._collector._claimer.board
    for board in (serving, collecting):
        board.ring(GasWalletEmpty, "wallet", "empty")
    assert told == [GasWalletEmpty("wallet", "empty")]
    for board in (collecting, serving):
        board.lift(GasWalletEmpty, "wallet")
    assert told[1:] == [GasWalletEmpty("wallet", "empty", over=True)]


def test_a_listener_that_fails_keeps_nobody_from_going_on() -> None:
    def listener(alarm: Alarm) -> None:
        raise ZeroDivisionError

    board = Board(listener)
    board.ring(GasWalletEmpty, "wallet", "empty")
    assert [alarm.subject for alarm in board.standing] == ["wallet"]
