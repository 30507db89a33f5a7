"""Fixtures that more than one directory of tests uses."""

from collections.abc import Iterator

import pytest

from paywall.chain.devnet import Devnet


@pytest.fixture(scope="session")
def devnet() -> Iterator[Devnet]:
    """One embedded chain for all tests: each test uses payers, receivers and salts of its own."""
    with Devnet(port=0) as chain:
        yield chain
