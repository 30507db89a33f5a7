"""One devnet for a module's tests; every test starts from the same state and leaves no trace."""

from collections.abc import Iterator

import pytest
from kit import Kit

from paywall.chain.devnet import Devnet


@pytest.fixture(scope="module")
def running() -> Iterator[Kit]:
    with Devnet() as devnet:
        yield Kit(devnet)


@pytest.fixture
def kit(running: Kit) -> Iterator[Kit]:
    snapshot = running.ask("evm_snapshot")["result"]
    yield running
    assert running.ask("evm_revert", snapshot)["result"] is True
