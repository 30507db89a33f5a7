"""Transactions that are stuck: replaced at a higher fee, given a missing number, or signed anew.

The devnet mines when it is told to, or its endpoint swallows what it should pass on; a transaction
counts as stuck after a fraction of a second.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import cycle
from typing import Any

import pytest
from coincurve import PrivateKey
from helpers.chain import Payer, batch_of, eventually, funded, node_of, rich_payer
from helpers.collecting import Bell, Provider, claimer_of
from helpers.rpc_proxy import Fault, RpcProxy, error, once, result

from paywall.alarms import TransactionStuck
from paywall.chain.devnet import Devnet
from paywall.chain.node import Node
from paywall.protocol.errors import Reverted, TransactionPending
from paywall.protocol.x402 import show_address
from paywall.stores.memory import MemoryStore

STUCK: Any = {"stuck_seconds": 0.2}
SWALLOWED: Fault = result("0x" + "11" * 32)
"""The endpoint says that it took a transaction, and forgets it."""


@asynccontextmanager
async def by_hand() -> AsyncIterator[tuple[Devnet, RpcProxy, Node, Payer]]:
    """A chain whose blocks are mined when a test says so, from the first claim on."""
    with Devnet(port=0) as own:
        async with RpcProxy(own.url) as proxy, node_of(own, proxy.url, **STUCK) as node:
            yield own, proxy, node, rich_payer(own)


def sent(proxy: RpcProxy) -> int:
    return proxy.asked.count("eth_sendRawTransaction")


async def waiting_fees(proxy: RpcProxy) -> list[int]:
    """What the transactions of the next block would pay for a unit of gas."""
    block = await proxy.ask("eth_getBlockByNumber", "pending", True)
    return [int(one["maxFeePerGas"], 16) for one in block["transactions"]]


async def test_case_35_a_transaction_that_waits_too_long_is_replaced_at_a_higher_fee() -> None:
    async with by_hand() as (own, proxy, node, payer):
        channel = await funded(node, payer, 500)
        await proxy.ask("evm_setAutomine", False)
        proxy.asked.clear()
        task = asyncio.create_task(node.claim(batch_of(node, channel)))
        await eventually(lambda: sent(proxy) == 1)
        (before,) = await waiting_fees(proxy)
        await eventually(lambda: sent(proxy) == 3)
        fees = await waiting_fees(proxy)
        assert len(fees) == 1, "both have the same number"
        assert fees[0] * 64 >= before * 81, "twice an eighth more"
        own.mine()
        await task
        assert (await node.channel(channel.channel_id)).claimed == 500


async def test_case_35_all_who_wait_for_a_transaction_learn_of_its_replacement() -> None:
    async with by_hand() as (own, proxy, node, payer):
        batch = batch_of(node, await funded(node, payer, 500))
        await proxy.ask("evm_setAutomine", False)
        proxy.asked.clear()
        tasks = [asyncio.create_task(node.claim(batch)) for _ in range(3)]
        await eventually(lambda: sent(proxy) >= 3)
        own.mine()
        first, *others = await asyncio.gather(*tasks)
        assert others == [first, first]
        block = await proxy.ask("eth_getBlockByNumber", "latest", False)
        assert len(block["transactions"]) == 1


async def test_case_35_what_the_endpoint_forgot_is_sent_again_so_that_the_next_can_be_mined(
    devnet: Devnet,
) -> None:
    payer = rich_payer(devnet)
    async with RpcProxy(devnet.url) as proxy, node_of(devnet, proxy.url, **STUCK) as node:
        first, second = await funded(node, payer, 500), await funded(node, payer, 70)
        proxy.asked.clear()
        proxy.faults["eth_sendRawTransaction"] = once(SWALLOWED)
        forgotten = asyncio.create_task(node.claim(batch_of(node, first)))
        await eventually(lambda: sent(proxy) == 1)
        too_early = asyncio.create_task(node.claim(batch_of(node, second)))
        mined = await asyncio.gather(forgotten, too_early)
        assert len({one.transaction for one in mined}) == 2
        claimed = [(await node.channel(c.channel_id)).claimed for c in (first, second)]
        assert claimed == [500, 70]


async def test_case_35_a_number_that_nobody_has_a_transaction_for_is_taken() -> None:
    """A reorganisation took transactions back that we count on."""
    async with by_hand() as (own, proxy, node, payer):
        channel = await funded(node, payer, 500)
        before = await proxy.ask("evm_snapshot")
        for _ in range(3):
            await node.deposit(payer.deposit(channel.config, 1_000))
        await proxy.ask("evm_revert", before)
        own.mine(6)
        await node.claim(batch_of(node, channel))
        assert (await node.channel(channel.channel_id)).claimed == 500
        deposit = payer.deposit(channel.config, 1_000)
        assert await node.deposit(deposit), "and the line is in order again"


async def test_case_35_a_claim_whose_number_somebody_else_used_is_signed_anew(
    devnet: Devnet,
) -> None:
    payer = rich_payer(devnet)
    async with RpcProxy(devnet.url) as proxy, node_of(devnet, proxy.url, **STUCK) as node:
        channel = await funded(node, payer, 500)
        proxy.asked.clear()
        proxy.faults["eth_sendRawTransaction"] = once(SWALLOWED)
        task = asyncio.create_task(node.claim(batch_of(node, channel)))
        await eventually(lambda: sent(proxy) == 1)
        async with node_of(devnet) as other:
            await funded(other, payer, 1)
        await task
        assert sent(proxy) == 2
        assert (await node.channel(channel.channel_id)).claimed == 500


async def test_case_24_what_was_lost_and_cannot_be_sent_again_is_pending(devnet: Devnet) -> None:
    """An endpoint that says that it was lost may be wrong."""
    payer = rich_payer(devnet)
    async with RpcProxy(devnet.url) as proxy, node_of(devnet, proxy.url, **STUCK) as node:
        channel = await funded(node, payer, 500)
        proxy.asked.clear()
        proxy.faults["eth_sendRawTransaction"] = once(SWALLOWED)
        task = asyncio.create_task(node.claim(batch_of(node, channel)))
        await eventually(lambda: sent(proxy) == 1)
        proxy.faults["eth_estimateGas"] = error(-32603, "internal error")
        async with node_of(devnet) as other:
            await funded(other, payer, 1)
        with pytest.raises(TransactionPending):
            await task
        proxy.faults.clear()
        await node.claim(batch_of(node, channel))
        assert (await node.channel(channel.channel_id)).claimed == 500


async def test_case_38_a_refund_that_was_lost_and_reverts_then_has_left_all_the_same(
    devnet: Devnet,
) -> None:
    """Whoever saw the lost transaction has the signature that is in it."""
    payer = rich_payer(devnet)
    async with RpcProxy(devnet.url) as proxy, node_of(devnet, proxy.url, **STUCK) as node:
        channel = await funded(node, payer, 500)
        proxy.asked.clear()
        proxy.faults["eth_sendRawTransaction"] = once(SWALLOWED)
        task = asyncio.create_task(node.refund(channel, 100))
        await eventually(lambda: sent(proxy) == 1)
        proxy.faults["eth_estimateGas"] = error(3, "execution reverted")
        async with node_of(devnet) as other:
            await funded(other, payer, 1)
        with pytest.raises(Reverted) as lost:
            await task
        assert lost.value.has_left
        with pytest.raises(Reverted) as fresh:
            await node.refund(channel, 200)
        assert not fresh.value.has_left, "this one was only simulated"


async def test_case_35_a_dead_claimers_transaction_whose_number_is_used_is_given_up_and_done_anew(
    devnet: Devnet,
) -> None:
    store, payer = MemoryStore(), rich_payer(devnet)
    async with (
        RpcProxy(devnet.url) as proxy,
        node_of(devnet, proxy.url, timeout_seconds=1.5) as node,
    ):
        provider = Provider(store, node)
        customer = await provider.customer(payer)
        await provider.serve(customer, 700)
        proxy.faults["eth_sendRawTransaction"] = SWALLOWED
        dying, bell = claimer_of(provider), Bell()
        await dying.run_once()
        await dying.close()
        proxy.faults.clear()
    async with node_of(devnet) as node:
        await funded(node, payer, 1)
        done = await claimer_of(Provider(store, node, provider.receiver), bell).run_once()
        assert done is not None
        assert (done.resumed, len(done.claimed)) == ([], 1)
        assert bell.standing(TransactionStuck) == set()
        assert (await node.channel(customer.channel_id)).claimed == 700


async def test_case_35_a_wallet_that_was_emptied_and_given_up_keeps_nobody_from_claiming(
    devnet: Devnet,
) -> None:
    store, payer, authorizer = MemoryStore(), rich_payer(devnet), devnet.accounts[0].key
    old_key = PrivateKey().secret
    async with (
        RpcProxy(devnet.url) as proxy,
        node_of(
            devnet, proxy.url, key=old_key, authorizer_key=authorizer, timeout_seconds=1.5
        ) as old,
    ):
        devnet.fund_eth(show_address(old.gas_wallet), 10**18)
        provider = Provider(store, old)
        customer = await provider.customer(payer)
        await provider.serve(customer, 700)
        proxy.faults["eth_sendRawTransaction"] = SWALLOWED
        claimer = claimer_of(provider)
        await claimer.run_once()
        await claimer.close()
        await proxy.ask("anvil_setBalance", show_address(old.gas_wallet), 0)
    async with node_of(devnet) as new:
        await claimer_of(Provider(store, new, provider.receiver)).run_once()
        assert (await new.channel(customer.channel_id)).claimed == 700


async def test_case_35_a_replacement_above_the_owners_ceiling_is_not_sent() -> None:
    async with by_hand() as (own, proxy, node, payer):
        channel = await funded(node, payer, 500)
        await proxy.ask("evm_setAutomine", False)
        proxy.asked.clear()
        node._sender.pricing._max_fee_wei = 400_000 * 5 * 10**7
        task = asyncio.create_task(node.claim(batch_of(node, channel)))
        await eventually(lambda: sent(proxy) == 1)
        proxy.faults["eth_maxPriorityFeePerGas"] = result(hex(10**12))
        await eventually(lambda: proxy.asked.count("eth_maxPriorityFeePerGas") >= 3)
        assert sent(proxy) == 1
        own.mine()
        await task
        assert (await node.channel(channel.channel_id)).claimed == 500


async def test_case_35_workers_that_share_a_gas_wallet_take_turns(devnet: Devnet) -> None:
    payer = rich_payer(devnet)
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(node_of(devnet, **STUCK)) for _ in range(4)]
        deposits = [payer.deposit(payer.config(nodes[0].receiver_authorizer)) for _ in range(24)]
        mined = await asyncio.gather(
            *(node.deposit(deposit) for node, deposit in zip(cycle(nodes), deposits, strict=False))
        )
        assert len({one.transaction for one in mined if one}) == 24
