"""Every store agrees with the pure rules, step by step, in any order of moves and cheats."""

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from helpers.channels import CHANNEL_ID
from helpers.machine_once import PaymentMachine
from helpers.model import Move, essence
from helpers.stores import STORES, Maker
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from paywall.protocol.channel import RefusedByChannel


class StoreMachine(PaymentMachine):
    """Every move against a store too: the same answer, and the same record after it."""

    maker: Maker

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.loop = asyncio.Runner()
        self.store = self.maker(Path(self.folder.name), lambda: self.now)
        self.loop.run(self.store.open())

    def also(self, move: Move, expected: object) -> None:
        answer, record = self.loop.run(self._both(move))
        assert record == self.channel
        assert essence(answer) == essence(expected)
        if isinstance(expected, RefusedByChannel):
            assert isinstance(answer, RefusedByChannel)
            assert answer.channel == expected.channel, "what the payer is shown"

    async def _both(self, move: Move) -> tuple[object, object]:
        answer: object
        try:
            answer = await move(self.store)
        except Exception as error:
            answer = error
        return answer, await self.store.channel(CHANNEL_ID)

    def teardown(self) -> None:
        self.loop.run(self.store.close())
        self.loop.close()
        self.folder.cleanup()


@pytest.mark.parametrize("name", STORES)
def test_a_store_agrees_with_the_pure_rules_step_by_step(name: str) -> None:
    class Machine(StoreMachine):
        maker = staticmethod(STORES[name])

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=25,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
