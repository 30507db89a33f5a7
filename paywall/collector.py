"""Collecting beside the requests: a claimer and its watcher as a background task of the app.

Every worker of a provider offers to collect; the store's lease picks one. Requests never wait for
it, and it stops with the app: what it had sent is written down, and taken up by whoever is next.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from paywall import telling
from paywall.alarms import Board, Listener, to_log
from paywall.chain import Chain
from paywall.chain.claimer import Claimer
from paywall.chain.own import OwnChain
from paywall.clock import steady_time
from paywall.notices import NOBODY, News
from paywall.protocol.claims import ClaimPolicy
from paywall.protocol.money import KNOWN_ASSETS, Asset
from paywall.stores import Store

log = logging.getLogger("paywall.claimer")


class Collector:
    """The background task. It begins with `start` and ends with `close`."""

    def __init__(self, claimer: Claimer, interval_seconds: float) -> None:
        self._claimer = claimer
        self._interval_seconds = interval_seconds
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to collect; once is enough."""
        if self._task is None:
            self._task = asyncio.create_task(self._claimer.run(self._interval_seconds))

    async def close(self) -> None:
        """Stops, and lets another process go on. Safe to repeat."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
            await self._claimer.close()


def collector_of(
    store: Store,
    chain: Chain,
    asset: Asset,
    policy: ClaimPolicy | None,
    alarms: Listener | Board = to_log,
    clock: Callable[[], float] = steady_time,
    news: News = NOBODY,
) -> Collector | None:
    """A collector for what an app earns; None when the owner wants none, or the chain has none:

    behind a facilitator, collecting is the facilitator's. Raises ConfigurationError.
    """
    if policy is None or not isinstance(chain, OwnChain):
        return None
    policy.of(asset)  # an amount that is none shows at start
    assets = {**KNOWN_ASSETS, (asset.network, asset.address): asset}
    hear = partial(telling.done, news)
    claimer = Claimer(store, chain, policy, alarms, assets=assets, clock=clock, hear=hear)
    return Collector(claimer, policy.poll_seconds)
