"""Collecting: from the store's charges to the provider's wallet.

Any number of processes run a `Claimer`; the one that holds the store's lease works, in rounds: look
at the log, take up what was sent before, plan, claim, settle. Its lease ends by itself, so another
goes on when it dies; what it has written down is found there.

`claim` and `settle` below are the same work done once, now, for whoever asks: the contract's totals
are cumulative, so doing it in two places claims nothing twice.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from secrets import token_hex
from typing import Final

from paywall.alarms import Board, ChainUnreachable, JobFailed, Listener, to_log
from paywall.chain import Chain, Mined
from paywall.chain.desk import Deed, Desk, job_on
from paywall.chain.errands import Claimed as Claimed
from paywall.chain.errands import Done as Done
from paywall.chain.errands import Settled as Settled
from paywall.chain.errands import ring_poison
from paywall.chain.own import OwnChain
from paywall.chain.returns import Returns
from paywall.chain.rota import Rota
from paywall.chain.round import Round
from paywall.chain.sift import sift
from paywall.chain.watcher import Watch, Watcher, in_turns, reread
from paywall.clock import steady_time
from paywall.protocol import claims
from paywall.protocol.channel import Channel
from paywall.protocol.claims import Assets, Batch, ClaimPolicy
from paywall.protocol.errors import ChainUnavailable, Unavailable
from paywall.protocol.lease import LeaseLost
from paywall.protocol.money import KNOWN_ASSETS, Address
from paywall.stores import Store

log = logging.getLogger("paywall.claimer")

LEASE_SECONDS: Final = 30
RENEW_SECONDS: Final = 10
ALL_ROWS: Final = 1_000_000
"""More channels than owe anything at one time."""
assert 2 * RENEW_SECONDS < LEASE_SECONDS, "one missed renewal must not lose the lease"


class Claimer:
    """Claims and watches for one store on one network, while the lease is its own.

    `alarms` is told of what the owner must hear, and `hear` of every transaction that was mined;
    `watch` None leaves the log to somebody else.
    """

    def __init__(
        self,
        store: Store,
        chain: OwnChain,
        policy: ClaimPolicy | None = None,
        alarms: Listener | Board = to_log,
        *,
        watch: Watch | None = Watch(),  # noqa: B008 (a frozen value)
        assets: Assets = KNOWN_ASSETS,
        clock: Callable[[], float] = steady_time,
        hear: Callable[[Deed], None] = lambda deed: None,
    ) -> None:
        self._store = store
        self._hear = hear
        self._chain = chain
        self._policy = policy or ClaimPolicy()
        self._assets = assets
        self._clock = clock
        self._job = job_on(chain.network)
        self._owner = token_hex(8)
        self.board = Board.of(alarms)
        self._watcher = Watcher(store, chain, self.board, watch, clock) if watch else None
        self._rota = Rota(store)
        self._returns = Returns(store, chain, self._policy, assets, clock)

    async def run(self, interval_seconds: float) -> None:
        """Rounds for ever. Nothing ends it but being cancelled."""
        while True:
            await self._patiently()
            await asyncio.sleep(interval_seconds)

    async def run_once(self) -> Done | None:
        """One round; None when another process has the lease. Raises Unavailable or LeaseLost."""
        token = await self._store.lease(self._job, self._owner, 1000 * LEASE_SECONDS)
        if token is None:
            await self._judge_the_holder()
            return None
        async with self._renewed():
            return await self._round(Desk(self._store, self._job, token, self._hear))

    async def close(self) -> None:
        """Gives the lease back, so that another process goes on at once."""
        with suppress(Unavailable):
            if await self._store.lease(self._job, self._owner, 1):
                await self._store.lease(self._job, self._owner, 0)

    async def _round(self, desk: Desk) -> Done:
        if self._watcher:
            with suppress(ChainUnavailable):  # it rings by itself, and claims may work
                await self._watcher.look(desk)
        head = await self._chain.head()
        now_ms = max(int(self._clock() * 1000), 1000 * head.mined_at)
        parts = self._store, self._chain, desk, self.board, self._policy, self._assets, now_ms
        done = await Round(*parts, self._rota).run()
        await self._returns.idle()
        return done

    async def _judge_the_holder(self) -> None:
        """Somebody else holds the lease: rings when it does not do its job."""
        if self._watcher:
            cursor = await Desk(self._store, self._job, 0).cursor()
            self._watcher.judge(cursor, "the holder of the lease does not look")

    @asynccontextmanager
    async def _renewed(self) -> AsyncIterator[None]:
        """Keeps the lease while a round waits for the chain. Losing it shows at the next note."""
        task = asyncio.create_task(self._renew_forever())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def _renew_forever(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            try:
                await self._store.lease(self._job, self._owner, 1000 * LEASE_SECONDS)
            except Unavailable as error:
                log.warning("the lease of %s is not renewed: %s", self._job, error)

    async def _patiently(self) -> None:
        network = self._chain.network
        try:
            await self.run_once()
        except Unavailable as error:
            self.board.ring(ChainUnreachable, network, str(error))
        except LeaseLost:
            log.info("another process claims on %s now", network)
        except Exception as error:  # a claimer that dies would leave the money where it is
            log.exception("a round of claims failed")
            self.board.ring(JobFailed, network, f"{type(error).__name__}: {error}")
        else:
            self.board.lift(ChainUnreachable, network)
            self.board.lift(JobFailed, network)


# -- Once, now, for whoever asks -----------------------------------------------------------------


async def claim(
    store: Store,
    chain: Chain,
    min_amount: int = 1,
    progress: Callable[[int, int], None] = lambda done, of: None,
    alarms: Listener = to_log,
) -> list[Claimed]:
    """Claims every channel of the chain's network that owes at least `min_amount` atomic units.

    They are read from the chain first, for somebody may have been killed between a claim and its
    record. Calls `progress(batches done, of)`; a row that the contract will not take is left out
    and told to `alarms`. Raises ChainUnavailable; what was claimed until then stays claimed, and
    the store knows it.
    """
    board = Board(alarms)
    refreshed = partial(reread, store, chain)
    due = await in_turns(refreshed, await owing(store, chain.network))
    batches = claims.batches([channel for channel in due if channel], min_amount)
    done = []
    for number, batch in enumerate(batches):
        progress(number, len(batches))
        batch = await _without_poison(chain, batch, board)
        if not batch.channels:
            continue
        mined = await chain.claim(batch)
        await in_turns(refreshed, batch.channels)
        done.append(Claimed(batch, mined))
    progress(len(batches), len(batches))
    return done


async def _without_poison(chain: Chain, batch: Batch, board: Board) -> Batch:
    if not isinstance(chain, OwnChain):
        return batch
    good, bad = await sift(chain, batch)
    for channel, reason in bad:
        ring_poison(board, channel, reason)
    return good


async def owing(store: Store, network: str) -> list[Channel]:
    """Every channel of a network that owes something, the largest sums first."""
    return [channel for channel in await store.claimable(ALL_ROWS) if channel.network == network]


async def receivers(store: Store, network: str) -> set[tuple[Address, Address]]:
    """Every (receiver, token) that the store's channels pay on this network."""
    found, after = set(), b""
    while page := await store.channels(after):
        found |= {(c.config.receiver, c.config.token) for c in page if c.network == network}
        after = page[-1].channel_id
    return found


async def settle(store: Store, chain: Chain) -> list[tuple[Address, Address, Mined]]:
    """Moves what was claimed to its receivers; nothing for those with nothing to move."""
    moved = []
    for receiver, token in sorted(await receivers(store, chain.network)):
        mined = await chain.settle(receiver, token)
        if mined:
            moved.append((receiver, token, mined))
    return moved
