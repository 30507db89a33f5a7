"""Every fuzz target: its seeds, some thousands of mutations, and whatever hypothesis thinks of."""

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.mutate import Mutator
from fuzz.target import Fault, Target, promise
from fuzz.targets import TARGETS

MUTATIONS = {"quotes": 150}
"""Each writes to a wallet's file. The others are asked more."""


@pytest.fixture(params=TARGETS.values(), ids=list(TARGETS))
def target(request: pytest.FixtureRequest) -> Target:
    make: Callable[[], Target] = request.param
    return make()


def test_hostile_input_breaks_no_promise(target: Target) -> None:
    mutator = Mutator(list(target.seeds()), seed=7)
    number = MUTATIONS.get(target.name, 600)
    inputs = itertools.chain(target.seeds(), (mutator.next() for _ in range(number)))
    words = {target.run(data) for data in inputs}
    assert len(words) > 1, "nothing but one outcome: the inputs do not get anywhere"


@pytest.mark.parametrize("name", [name for name in TARGETS if name != "quotes"])
def test_any_bytes_break_no_promise(name: str) -> None:
    target = TARGETS[name]()

    @settings(max_examples=100, deadline=None)
    @given(st.binary(max_size=300))
    def any_bytes(data: bytes) -> None:
        assert target.run(data)

    any_bytes()


def test_the_same_seed_makes_the_same_inputs() -> None:
    seeds = [b"0123", b'{"a":1}', b"eyJhIjoxfQ=="]
    one, other = Mutator(list(seeds), 5), Mutator(list(seeds), 5)
    assert [one.next() for _ in range(200)] == [other.next() for _ in range(200)]


def test_a_broken_promise_is_a_fault() -> None:
    with pytest.raises(Fault, match="never free"):
        promise(False, "never free")
