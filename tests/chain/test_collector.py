"""The background task of an app: it collects while requests go on, one process at a time."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from bench.collect import collect
from helpers.chain import ASSET, eventually, rich_payer
from helpers.collecting import EAGER, Bell, claimer_of, providing
from helpers.rpc_proxy import RpcProxy
from helpers.shop import PRICE

from paywall.chain.devnet import Devnet
from paywall.collector import Collector, collector_of
from paywall.protocol.claims import ClaimPolicy
from paywall.protocol.errors import ConfigurationError

SOON = 0.02


async def until(amount: Callable[[], Awaitable[int]], is_there: int) -> None:
    async with asyncio.timeout(20):
        while await amount() < is_there:  # noqa: ASYNC110 - the chain says it to nobody
            await asyncio.sleep(0.05)


async def test_every_unit_arrives_that_is_charged_while_a_worker_claims_and_settles() -> None:
    found = await collect(channels=20, vouchers=20)
    assert found.served == found.earned == 20 * 20 * PRICE
    assert found.meanwhile >= 1
    assert found.settlements >= 1


async def test_a_collector_claims_and_settles_by_itself(devnet: Devnet) -> None:
    async with providing(devnet) as provider:
        customer = await provider.customer(rich_payer(devnet))
        collector = Collector(claimer_of(provider), SOON)
        collector.start()
        for _ in range(3):
            await provider.serve(customer, 1_000)
            await asyncio.sleep(0.05)
        await until(lambda: provider.node.token_balance(ASSET.address, provider.receiver), 3_000)
        await collector.close()
        assert await provider.claimed(customer) == 3_000


async def test_another_goes_on_at_once_when_a_collector_is_closed(devnet: Devnet) -> None:
    async with providing(devnet) as provider:
        customer = await provider.customer(rich_payer(devnet))
        first = Collector(claimer_of(provider), SOON)
        first.start()
        await provider.serve(customer, 1_000)
        await until(lambda: provider.claimed(customer), 1_000)
        await first.close()
        await provider.serve(customer, 500)
        assert await claimer_of(provider).run_once() is not None
        assert await provider.claimed(customer) == 1_500


async def test_case_35_what_a_closed_collector_had_under_way_is_taken_up_and_sent_once(
    devnet: Devnet,
) -> None:
    async with RpcProxy(devnet.url) as proxy, providing(devnet, proxy.url) as provider:
        customer = await provider.customer(rich_payer(devnet))
        await provider.serve(customer, 1_000)
        proxy.asked.clear()
        proxy.faults["eth_getTransactionReceipt"] = proxy.stall
        collector = Collector(claimer_of(provider), SOON)
        collector.start()
        await eventually(lambda: "eth_getTransactionReceipt" in proxy.asked, 20)
        await collector.close()
        proxy.faults.clear()
        done = await claimer_of(provider).run_once()
        assert done is not None
        assert (len(done.resumed), done.claimed) == (1, [])
        assert proxy.asked.count("eth_sendRawTransaction") == 2  # the claim and a settlement
        assert await provider.claimed(customer) == 1_000


async def test_a_collector_that_never_began_is_closed_and_so_is_one_that_was(
    devnet: Devnet,
) -> None:
    async with providing(devnet) as provider:
        collector = Collector(claimer_of(provider), SOON)
        await collector.close()
        collector.start()
        collector.start()
        await collector.close()
        await collector.close()
        assert await claimer_of(provider).run_once() is not None


async def test_an_owner_may_want_no_collector_and_a_wrong_policy_shows_at_start(
    devnet: Devnet,
) -> None:
    async with providing(devnet) as provider:
        parts = provider.store, provider.node, ASSET
        assert collector_of(*parts, None) is None
        assert isinstance(collector_of(*parts, EAGER, Bell()), Collector)
        with pytest.raises(ConfigurationError):
            collector_of(*parts, ClaimPolicy(max_at_risk="ten dollars"))
