"""Every store agrees with the pure rules, step by step, in any order of moves and cheats."""

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from helpers.channels import CHANNEL_ID
from helpers.machine import ChannelMachine
from helpers.stores import STORES, Maker
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from paywall.protocol.channel import Channel, RefusedByChannel


class StoreMachine(ChannelMachine):
    """Every move against a store too: the same answer, and the same record after it."""

    maker: Maker

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.loop = asyncio.Runner()
        self.store = self.maker(Path(self.folder.name), lambda: self.now)
        self.loop.run(self.store.open())

    def also(self, verb: str, arguments: tuple[object, ...], expected: Channel | Exception) -> None:
        answer, record = self.loop.run(self._both(verb, arguments))
        assert record == self.channel
        if isinstance(expected, Exception):
            assert type(answer) is type(expected)
        if isinstance(expected, RefusedByChannel):
            assert answer.reason is expected.reason
        if isinstance(answer, Channel):
            assert answer == expected

    async def _both(self, verb: str, arguments: tuple[object, ...]) -> tuple[object, object]:
        answer: object
        try:
            answer = await self._call(verb, arguments)
        except Exception as error:
            answer = error
        return answer, await self.store.channel(CHANNEL_ID)

    async def _call(self, verb: str, arguments: tuple[object, ...]) -> object:
        if verb == "renew":
            return await self.store.renew([(CHANNEL_ID, str(name)) for name in arguments])
        return await getattr(self.store, verb)(CHANNEL_ID, *arguments)

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
