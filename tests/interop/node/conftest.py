"""One Node process for all tests with Node, and at the end the matrix of what they saw.

`make interop` installs the npm packages and names this folder; the suite without Node does not.
"""

from collections.abc import Iterator

import pytest
from helpers.matrix import Matrix
from helpers.node_peer import Peer, node_peer

MATRIX = pytest.StashKey[Matrix]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[MATRIX] = Matrix()


def pytest_terminal_summary(config: pytest.Config) -> None:
    config.stash[MATRIX].show()


@pytest.fixture(scope="session")
def matrix(pytestconfig: pytest.Config) -> Matrix:
    return pytestconfig.stash[MATRIX]


@pytest.fixture(scope="session")
def peer() -> Iterator[Peer]:
    with node_peer() as running:
        yield running
