"""A claimer behind an endpoint that stalls, breaks or lies: nothing is lost, and the owner hears.

On the real devnet, through a proxy that spoils chosen answers; `Bell` hears the alarms.
"""

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from aiohttp import web
from helpers.chain import batch_of, rich_payer
from helpers.collecting import Bell, claimer_of, providing
from helpers.rpc_proxy import Fault, Forward, RpcProxy, edited, once, result, says

from paywall.alarms import ChainUnreachable, ClaimFailed, JobFailed, TransactionStuck
from paywall.chain.claimer import claim
from paywall.chain.devnet import Devnet
from paywall.protocol.errors import ChainUnavailable

SWALLOWED: Fault = result("0x" + "11" * 32)
IMPATIENT: Any = {"timeout_seconds": 0.5}


def sent(proxy: RpcProxy) -> int:
    return proxy.asked.count("eth_sendRawTransaction")


async def rounds_until(bell: Bell, holds: Any, claimer: Any) -> None:
    """Runs the claimer for ever, as an app does, until something is so."""
    task = asyncio.create_task(claimer.run(0.02))
    try:
        async with asyncio.timeout(20):
            while not holds():  # noqa: ASYNC110 - alarms come by a callback
                await asyncio.sleep(0.02)
    finally:
        task.cancel()
        await asyncio.wait([task])
    assert bell.rung(JobFailed) == []


@pytest.mark.parametrize("fault", ["stalls", "500", "html", "redirects", "empty"])
async def test_case_35_an_endpoint_that_does_not_answer_is_told_and_waited_for(
    devnet: Devnet, fault: str
) -> None:
    bell = Bell()
    async with RpcProxy(devnet.url) as proxy, providing(devnet, proxy.url, **IMPATIENT) as provider:
        customer = await provider.customer(rich_payer(devnet))
        await provider.serve(customer, 700)
        proxy.faults["*"] = {
            "stalls": proxy.stall,
            "500": says("", 500),
            "html": says("<html>", 200),
            "redirects": says("", 307, Location=devnet.url),
            "empty": says("{}", 200),
        }[fault]
        claimer = claimer_of(provider, bell)
        await rounds_until(bell, lambda: bell.standing(ChainUnreachable), claimer)
        assert sent(proxy) == 1, "only the deposit"
        await provider.serve(customer, 300)
        proxy.faults.clear()
        await rounds_until(bell, lambda: not bell.standing(ChainUnreachable), claimer)
        assert len([alarm for alarm in bell.rung(ChainUnreachable) if not alarm.over]) == 1
        await claimer.run_once()
        assert await provider.claimed(customer) == 1_000


@pytest.mark.parametrize(
    ("method", "fault"),
    [
        ("eth_getBlockByNumber", "500"),
        ("eth_estimateGas", "500"),
        ("eth_getTransactionCount", "500"),
        ("eth_sendRawTransaction", "500"),
        ("eth_sendRawTransaction", "stalls"),
        ("eth_getTransactionReceipt", "500"),
        ("eth_getTransactionReceipt", "stalls"),
        ("eth_getLogs", "500"),
        ("eth_call", "500"),
    ],
)
async def test_case_35_whatever_question_is_not_answered_the_money_comes_home_in_the_end(
    devnet: Devnet, method: str, fault: str
) -> None:
    bell = Bell()
    async with RpcProxy(devnet.url) as proxy, providing(devnet, proxy.url, **IMPATIENT) as provider:
        claimer = claimer_of(provider, bell)
        await claimer.run_once()
        customer = await provider.customer(rich_payer(devnet))
        await provider.serve(customer, 700)
        proxy.faults[method] = proxy.stall if fault == "stalls" else says("", 500)
        with suppress(ChainUnavailable):
            await claimer.run_once()
        proxy.faults.clear()
        for _ in range(2):
            await claimer.run_once()
        assert await provider.claimed(customer) == 700
        record = await provider.record(customer)
        assert (record.charged, record.claimed) == (700, 700)
        assert bell.standing(TransactionStuck) == set()


async def test_case_35_a_claim_that_is_said_to_have_failed_is_looked_up_and_not_repeated(
    devnet: Devnet,
) -> None:
    bell = Bell()
    async with RpcProxy(devnet.url) as proxy, providing(devnet, proxy.url) as provider:
        customer = await provider.customer(rich_payer(devnet))
        await provider.serve(customer, 700)
        proxy.asked.clear()
        proxy.faults["eth_getTransactionReceipt"] = once(
            edited(lambda receipt: {**receipt, "status": "0x0"})
        )
        claimer = claimer_of(provider, bell)
        await claimer.run_once()
        assert bell.standing(ClaimFailed) == {provider.node.network}
        assert (await provider.record(customer)).claimed == 700, "the contract says so"
        await claimer.run_once()
        assert sent(proxy) == 2, "a claim and a settlement"


async def test_case_35_a_claim_that_is_said_to_be_mined_and_is_not_is_told_and_made_again(
    devnet: Devnet,
) -> None:
    bell = Bell()
    async with (
        RpcProxy(devnet.url) as proxy,
        providing(devnet, proxy.url, stuck_seconds=0.2) as provider,
    ):
        customer = await provider.customer(rich_payer(devnet))
        await provider.serve(customer, 700)
        head = await provider.node.head()
        asked: list[str] = []

        async def invented(forward: Forward) -> web.StreamResponse:
            """A receipt for a transaction that went nowhere."""
            receipt = {
                "transactionHash": asked[-1],
                "blockNumber": hex(head.number),
                "status": "0x1",
                "gasUsed": "0x5208",
                "logs": [],
            }
            return web.json_response({"jsonrpc": "2.0", "id": 1, "result": receipt})

        post = provider.node._sender._post
        submit = post.submit

        async def noted(signed: Any) -> bool:
            asked.append("0x" + signed.transaction.hex())
            return await submit(signed)

        post.submit = noted  # type: ignore[method-assign]
        proxy.faults["eth_sendRawTransaction"] = SWALLOWED
        proxy.faults["eth_getTransactionReceipt"] = invented
        claimer = claimer_of(provider, bell)
        await claimer.run_once()
        assert bell.standing(ClaimFailed) == {provider.node.network}
        assert (await provider.record(customer)).claimed == 0
        proxy.faults.clear()
        await claimer.run_once()
        assert bell.standing(ClaimFailed) == set()
        assert await provider.claimed(customer) == 700
        assert (await provider.record(customer)).claimed == 700


async def test_case_35_who_claims_once_reads_first_what_a_killed_claimer_left_on_chain(
    devnet: Devnet,
) -> None:
    async with RpcProxy(devnet.url) as proxy, providing(devnet, proxy.url) as provider:
        customer = await provider.customer(rich_payer(devnet))
        await provider.serve(customer, 700)
        (channel,) = await provider.store.claimable()
        await provider.node.claim(batch_of(provider.node, channel))
        proxy.asked.clear()
        assert await claim(provider.store, provider.node) == []
        assert sent(proxy) == 0
        assert (await provider.record(customer)).claimed == 700
