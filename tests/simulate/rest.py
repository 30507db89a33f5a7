"""How a world comes to rest, and is counted.

calm -> what is under way ends -> what was paid is answered -> everybody is served once more
-> all is claimed and settled -> the books of store, chain and oracle are the same
"""

from typing import Final

from paywall.chain.claimer import claim, settle
from paywall.protocol.channel import Channel
from paywall.protocol.claims import Terms
from paywall.protocol.limits import REFUND_HOLD_SECONDS
from simulate.agents import FINISHED_AFTER_SECONDS, Agent
from simulate.chain import EPOCH
from simulate.contract import ASSET, NETWORK
from simulate.links import ChainLink
from simulate.shop import DELAY_SECONDS, Shop
from simulate.store import StoreLink
from simulate.world import World

SERVED: Final = ("200", "OverBudget", "429")
"""Also who has spent what it may, or has made as many deposits as a provider pays for."""


class Rest:
    """The last hour of a world, without faults."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._oracle, self._transfers = world.oracle, world.transfers
        self._chain, self._faults = world.chain, world.faults
        self._loop, self._pause = world.loop, world.loop.pause

    async def come(self) -> None:
        """No more faults. What is under way ends, what is owed is claimed, and all is counted."""
        self._faults.calm()
        for wrong in list(self._world.wrong):
            self._world.set_right(*wrong)
        for agent in self._world.agents:
            agent.resting = True
            agent.process.steps = 0
        for shop in self._world.shops:
            for worker in shop.workers:
                worker.process.steps = 0
        await self._pause(100.0)
        await self._what_was_paid()
        await self._pause(self._until_quiet())
        await self._everybody_once_more()
        await self._pause(100.0 + max(shop.patience_seconds for shop in self._world.shops))
        self._world.judge()
        for shop in self._world.shops:
            await self._count(shop)
        self._transfers.count()
        self._count_streams()

    async def _what_was_paid(self) -> None:
        """A transfer that was made buys its answer, at the third try at most, or buys it again."""
        for transfer in self._transfers.to_ask_again():
            for _ in range(3):
                if not transfer.must_be_known(EPOCH + int(self._loop.time())):
                    break  # others took so long
                status = await self._world.network.again(transfer)
                if status < 500:
                    self._transfers.asked_again(transfer, status)
                    break
                await self._pause(10.0)
            else:
                self._transfers.asked_again(transfer, status)

    def _until_quiet(self) -> float:
        """Until withdrawals have ended, and holds, leases and refunds that nobody finishes have
        expired: what a worker took while the store's clock was ahead, when the true time is there.
        """
        longest = DELAY_SECONDS + FINISHED_AFTER_SECONDS[-1]
        ends = [agent.withdrawn_at + longest for agent in self._world.agents]
        ahead = max(shop.ahead_seconds for shop in self._world.shops)
        left = max(0.0, *(end - self._loop.time() for end in ends))
        return 100.0 + max(REFUND_HOLD_SECONDS + ahead, left)

    async def _everybody_once_more(self) -> None:
        """Nobody may be left stuck: whoever may still spend is served, at the third try at most.

        Who has lost its file, or rows of it, and finds that its provider has lost its proof, has
        to ask the chain.
        """
        for agent in self._world.agents:
            for shop in self._world.shops:
                outcome = await self._buy_thrice(agent, shop)
                if outcome not in SERVED and agent.is_behind:
                    await agent.process.spawn(agent.recover())
                    outcome = await self._buy_thrice(agent, shop)
                if outcome not in SERVED:
                    what = f"agent {agent.number} is not served at {shop.host} any more: {outcome}"
                    self._oracle.violated(_channel_of(agent, shop), what)

    async def _buy_thrice(self, agent: Agent, shop: Shop) -> str:
        outcome = ""
        for _ in range(3):
            if outcome not in SERVED:
                outcome = await agent.process.spawn(agent.buy(f"https://{shop.host}/item/0"))
                await self._pause(10.0)
        return outcome

    async def _count(self, shop: Shop) -> None:
        store = StoreLink(shop.server, self._faults)
        clock = lambda: EPOCH + self._loop.time()  # noqa: E731
        link = ChainLink(self._chain, self._faults, shop.authorizer, clock)
        terms = shop.policy.of(ASSET)
        for channel in await store.channels():
            left = channel.unclaimed - self._withdrawn(shop, channel)
            late = left > _dust(terms)
            self._oracle.expect(not late, channel.channel_id, f"the claimer leaves {left} units")
        await claim(store, link)
        await settle(store, link)
        for channel in await store.channels():
            book, channel_id = self._oracle.book(channel.channel_id), channel.channel_id
            balance, claimed = self._chain.contract.pair("channel", channel_id)
            self._oracle.expect(channel.charged == book.charged, channel_id, "the books differ")
            what = f"{claimed} was claimed of {channel.charged}, and {balance} is there"
            lost = self._withdrawn(shop, channel)
            self._oracle.counts["units withdrawn before they were claimed"] += lost
            self._oracle.expect(claimed == channel.charged - lost, channel_id, what)
            self._oracle.settled(channel_id, claimed)
        earned = self._chain.contract.amount("token", shop.receiver)
        earned -= self._chain.contract.amount("exact", shop.receiver)
        pot = self._chain.contract.pair("pot", shop.receiver)
        self._oracle.expect(pot == (earned, earned), b"", "what was claimed was not settled")

    def _withdrawn(self, shop: Shop, channel: Channel) -> int:
        """What a payer has withdrawn before it was claimed. That may be where a lease lasted too
        long, as `paywall.stores.leases` says: its worker died, and the store's clock stepped back;
        and where the store had forgotten what it was owed, until the withdrawal was nearly over.
        """
        balance, _ = self._chain.contract.pair("channel", channel.channel_id)
        lost = max(0, channel.charged - balance)
        excused = shop.fell_seconds >= DELAY_SECONDS
        return lost if excused else min(lost, self._oracle.book(channel.channel_id).late)

    def _count_streams(self) -> None:
        for run in self._oracle.streams:
            owed = self._oracle.owed(run)
            if owed:
                self._oracle.counts["streams not charged"] += 1
                self._oracle.counts["units of streams not charged"] += owed


def _channel_of(agent: Agent, shop: Shop) -> bytes:
    """Its channel with a provider, for the trace; nothing when there is none."""
    configs = (config for config in agent.configs() if config.receiver == shop.receiver)
    return next((config.channel_id(NETWORK) for config in configs), b"")


def _dust(terms: Terms) -> int:
    """What is not worth a row of a claim, at the highest price of gas in calm."""
    return max(terms.min_amount, terms.fee(5 * 39_000 * 10**6) * 10)
