"""Fixtures that more than one directory of tests uses."""

from collections.abc import Iterator

import pytest
from hypothesis import settings

from paywall.chain.devnet import Devnet

# How long an example takes is the machine's affair.
settings.register_profile("paywall", deadline=None)
settings.load_profile("paywall")


@pytest.fixture(scope="module")
def devnet() -> Iterator[Devnet]:
    """An embedded chain for a module's tests, which use payers, receivers and salts of their own.

    Not for all modules: some travel in time, and others sign what is valid for minutes.
    """
    with Devnet(port=0) as chain:
        yield chain
