"""Two claimers for one provider, killed again and again while its channels are charged.

Whoever dies is followed by another, until the deaths that a seed has drawn are used up; the last
two live. Then the chain is read from the first block of the run on: which transactions claimed
what, and whether every charge came home, once.
"""

import asyncio
import os
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final, Self

import msgspec

from helpers.chain import ASSET, node_of, rich_payer
from helpers.collecting import Customer, Provider
from helpers.nursery import Told
from paywall import open_store
from paywall.chain import contract
from paywall.chain.devnet import Devnet
from paywall.chain.events import Claimed, decode_log
from paywall.chain.gas import receipt_of
from paywall.chain.rpc import Rpc

CLAIMERS: Final = 2
CHANNELS: Final = 5
REQUESTS: Final = 40
PRICE: Final = 1_000
LEASE_SECONDS: Final = 1
PATIENCE_SECONDS: Final = 120
LONGEST_LIFE: Final = 520
"""Steps; a round that claims and settles takes about 170."""
_TESTS: Final = Path(__file__).parent.parent


@dataclass
class Outcome:
    """How a run ended. Amounts are atomic units."""

    seed: int
    served: int = 0
    claimed: int = 0
    earned: int = 0
    deaths: int = 0
    claims: int = 0
    without_effect: int = 0
    problems: list[str] = field(default_factory=list)

    def expect(self, holds: bool, problem: str) -> None:
        if not holds:
            self.problems.append(f"seed {self.seed}: {problem}")


class Nursery:
    """A process that forks claimers, one at a time; see `helpers.nursery`."""

    async def __aenter__(self) -> Self:
        path = os.pathsep.join((str(_TESTS), str(_TESTS.parent)))
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "helpers.nursery"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        return self

    async def __aexit__(self, *failure: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        await self._process.wait()

    async def live(self, told: Told) -> int:
        """A claimer's whole life; how it ended. Whoever is cancelled here has killed it."""
        assert self._process.stdin
        self._process.stdin.write(msgspec.json.encode(told) + b"\n")
        born = asyncio.ensure_future(self._number())
        ended = asyncio.ensure_future(self._after(born))
        try:
            return await asyncio.shield(ended)
        except asyncio.CancelledError:
            pid = await born
            if not ended.done():
                os.kill(pid, signal.SIGKILL)
            await ended
            raise

    async def _after(self, born: "asyncio.Future[int]") -> int:
        await born
        status = await self._number()
        assert self._process.stdin
        self._process.stdin.write(b"\n")
        return status

    async def _number(self) -> int:
        assert self._process.stdout
        return int(await self._process.stdout.readline())


class Run:
    """One seed. The store is at `url`; `gas_account` pays for this run's claims and no other's."""

    def __init__(
        self, devnet: Devnet, nurseries: list[Nursery], url: str, seed: int, gas_account: int
    ) -> None:
        self._devnet = devnet
        self._nurseries = nurseries
        self._url = url
        self._luck = Random(seed)
        self._wallet = devnet.accounts[gas_account]
        self._deaths_left = self._luck.randrange(2, 7)
        self.outcome = Outcome(seed)

    async def run(self) -> Outcome:
        outcome, store = self.outcome, open_store(self._url)
        await store.open()
        try:
            async with node_of(self._devnet) as node:
                provider = Provider(store, node)
                payer = rich_payer(self._devnet)
                customers = [await provider.customer(payer) for _ in range(CHANNELS)]
                first = (await node.head()).number + 1
                await self._collect(provider, customers)
                await self._audit(provider, customers, first)
        finally:
            await store.close()
        return outcome

    async def _collect(self, provider: Provider, customers: list[Customer]) -> None:
        claimers = [asyncio.create_task(self._succession(n)) for n in self._nurseries]
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                for _ in range(REQUESTS):
                    await provider.serve(self._luck.choice(customers), PRICE)
                    self.outcome.served += PRICE
                    await asyncio.sleep(self._luck.random() * 0.03)
                while self._deaths_left > 0 or not await self._is_home(provider):
                    if self._deaths_left > 0:  # there must be something to die for
                        await provider.serve(self._luck.choice(customers), PRICE)
                        self.outcome.served += PRICE
                    await asyncio.sleep(0.1)
        except TimeoutError:
            self.outcome.expect(False, f"not everything came home in {PATIENCE_SECONDS} s")
        finally:
            for task in claimers:
                task.cancel()
            await asyncio.wait(claimers)

    async def _is_home(self, provider: Provider) -> bool:
        earned = await provider.node.token_balance(ASSET.address, provider.receiver)
        return earned == self.outcome.served and not await provider.store.claimable()

    async def _succession(self, nursery: Nursery) -> None:
        """One claimer after the other, each with fewer steps than it would need, but the last."""
        while True:
            mortal = self._deaths_left > 0
            steps = self._luck.randrange(1, LONGEST_LIFE) if mortal else None
            ended = await nursery.live(self._told(steps))
            self.outcome.expect(ended == -signal.SIGKILL, f"a claimer ended with {ended}")
            self.outcome.deaths += 1
            self._deaths_left -= 1

    def _told(self, steps: int | None) -> Told:
        return Told(
            rpc=self._devnet.url,
            store=self._url,
            key=self._wallet.key,
            authorizer_key=self._devnet.accounts[0].key,
            steps=steps,
            lease_seconds=LEASE_SECONDS,
        )

    # -- What the chain says ---------------------------------------------------------------------

    async def _audit(self, provider: Provider, customers: list[Customer], first: int) -> None:
        outcome = self.outcome
        outcome.earned = await provider.node.token_balance(ASSET.address, provider.receiver)
        records = [await provider.record(customer) for customer in customers]
        outcome.claimed = sum([await provider.claimed(customer) for customer in customers])
        sums = (outcome.claimed, outcome.earned, sum(record.claimed for record in records))
        outcome.expect(sums == (outcome.served,) * 3, f"{outcome.served} served: {sums}")
        effects = await self._claims(first)
        outcome.claims = len(effects)
        outcome.without_effect = sum(not events for _, events in effects)
        self._judge(effects)

    def _judge(self, effects: list[tuple[str, list[Claimed]]]) -> None:
        totals = Counter((e.channel_id, e.claimed) for _, events in effects for e in events)
        twice = [total for total, times in totals.items() if times > 1]
        self.outcome.expect(not twice, "a voucher was claimed twice")
        batches: dict[str, int] = defaultdict(int)
        for call, events in effects:
            batches[call] += bool(events)
        again = [call for call, times in batches.items() if times > 1]
        self.outcome.expect(not again, "a batch had an effect twice")
        moved = sum(event.amount for _, events in effects for event in events)
        self.outcome.expect(moved == self.outcome.served, f"the log shows {moved} claimed")

    async def _claims(self, first: int) -> list[tuple[str, list[Claimed]]]:
        """The gas wallet's claims since the run began: what was sent, and what it did."""
        rpc, wallet = Rpc(self._devnet.url, 10), self._wallet.address.lower()
        selector = "0x" + contract.encode_claim_with_signature([], bytes(65))[:4].hex()
        found = []
        try:
            head = await rpc.ask(lambda a: int(str(a), 16), "eth_blockNumber")
            for number in range(first, head + 1):
                block: Any = await rpc.ask(lambda a: a, "eth_getBlockByNumber", hex(number), True)
                for sent in block["transactions"]:
                    if sent["from"].lower() == wallet and sent["input"].startswith(selector):
                        found.append((sent["input"], await _claimed(rpc, sent["hash"])))
        finally:
            await rpc.close()
        return found


async def _claimed(rpc: Rpc, transaction: str) -> list[Claimed]:
    receipt = await rpc.ask(receipt_of, "eth_getTransactionReceipt", transaction)
    assert receipt
    events = (decode_log(log.address, log.topics, log.data) for log in receipt.logs)
    return [event for event in events if isinstance(event, Claimed)]


@asynccontextmanager
async def nurseries() -> AsyncIterator[list[Nursery]]:
    async with Nursery() as first, Nursery() as second:
        yield [first, second]
