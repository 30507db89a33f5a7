"""What is kept on disk is for its owner alone, whatever the umask says."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.channels import CHANNEL_ID, CONFIG, NETWORK, chain

from paywall.files import make_private
from paywall.keystore import create_keystore
from paywall.stores.sqlite import SqliteStore
from paywall.walletstate import open_state


@pytest.fixture(autouse=True)
def generous() -> Iterator[None]:
    """A umask that forbids nothing."""
    before = os.umask(0)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, str]:
    return {one.name: oct(stat.S_IMODE(one.stat().st_mode)) for one in sorted(folder.iterdir())}


def test_case_53_a_wallet_with_its_log_is_its_owners_alone(tmp_path: Path) -> None:
    state = open_state(tmp_path / "deep" / "w.db", lambda: 0.0)
    assert modes(tmp_path / "deep") == {
        "w.db": "0o600",
        "w.db-shm": "0o600",
        "w.db-wal": "0o600",
    }
    assert modes(tmp_path) == {"deep": "0o700"}
    state.close()


async def test_case_16_a_store_with_its_log_is_its_owners_alone(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "paywall.db")
    await store.open()
    await store.record(CHANNEL_ID, NETWORK, CONFIG, chain(1), 0)
    assert set(modes(tmp_path).values()) == {"0o600"}
    assert set(modes(tmp_path)) == {"paywall.db", "paywall.db-shm", "paywall.db-wal"}
    await store.close()


def test_case_53_a_key_file_is_its_owners_alone(tmp_path: Path) -> None:
    create_keystore(tmp_path / "keys" / "key.json", "a password")
    assert modes(tmp_path / "keys") == {"key.json": "0o600"}
    assert modes(tmp_path) == {"keys": "0o700"}


async def test_a_store_that_is_there_keeps_the_mode_that_its_owner_gave_it(tmp_path: Path) -> None:
    path = tmp_path / "paywall.db"
    path.touch(0o660)
    store = SqliteStore(path)
    await store.open()
    assert modes(tmp_path)["paywall.db"] == "0o660"
    await store.close()


def test_a_link_to_a_file_that_is_not_there_yet_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "real.db")
    make_private(tmp_path / "link.db")
    assert modes(tmp_path)["real.db"] == "0o600"
