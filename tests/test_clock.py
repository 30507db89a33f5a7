"""Deadlines are kept by a clock that nobody can step."""

import time
from pathlib import Path

import pytest
from helpers.channels import CHANNEL_ID, CONFIG, NETWORK, chain, voucher

from paywall.clock import steady_time
from paywall.protocol.channel import RefusedByChannel
from paywall.stores import Store
from paywall.stores.memory import MemoryStore
from paywall.stores.sqlite import SqliteStore

HOUR = 3600


def step_the_wall_clock(monkeypatch: pytest.MonkeyPatch, seconds: int) -> None:
    wall = time.time
    monkeypatch.setattr(time, "time", lambda: wall() + seconds)


def test_it_shows_unix_seconds_and_runs_forward() -> None:
    before = steady_time()
    assert abs(before - time.time()) < 60
    time.sleep(0.01)
    assert 0.01 <= steady_time() - before < 10


@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
def test_case_40_a_step_of_the_wall_clock_does_not_step_it(
    monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    before = steady_time()
    step_the_wall_clock(monkeypatch, seconds)
    assert 0 <= steady_time() - before < 10


@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_case_40_a_step_of_an_hour_expires_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, seconds: int
) -> None:
    store: Store = MemoryStore() if kind == "memory" else SqliteStore(tmp_path / "store.db")
    await store.open()
    fresh = chain(read_at_ms=int(steady_time() * 1000))
    await store.record(CHANNEL_ID, NETWORK, CONFIG, fresh, 0)
    await store.reserve(CHANNEL_ID, voucher(100), 100, "a")
    step_the_wall_clock(monkeypatch, seconds)
    assert (await store.reserve(CHANNEL_ID, voucher(200), 100, "b")).held == 200
    assert (await store.charge(CHANNEL_ID, "a", 100)).charged == 100
    with pytest.raises(RefusedByChannel):
        await store.reserve(CHANNEL_ID, voucher(100), 100, "replay")
    await store.close()
