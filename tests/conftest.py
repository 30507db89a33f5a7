"""Fixtures that more than one directory of tests uses."""

from collections.abc import Iterator

import pytest

from paywall.chain.devnet import Devnet


@pytest.fixture(scope="module")
def devnet() -> Iterator[Devnet]:
    """An embedded chain for a module's tests, which use payers, receivers and salts of their own.

    Not for all modules: some travel in time, and others sign what is valid for minutes.
    """
    with Devnet(port=0) as chain:
        yield chain
