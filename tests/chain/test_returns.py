"""Deposits that nobody uses go back by the owner's policy, and by nobody's mistake or malice."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import pytest
from aiohttp import web
from helpers.chain import rich_payer
from helpers.channels import voucher
from helpers.collecting import (
    LAZY,
    ChainClock,
    Customer,
    Provider,
    claimer_of,
    providing,
)
from helpers.rpc_proxy import Fault, Forward, RpcProxy, result
from test_watcher import withdraw

from paywall.chain.claimer import Claimer
from paywall.chain.devnet import Devnet
from paywall.chain.returns import give_back
from paywall.chain.watcher import reread
from paywall.protocol.channel import RefusedByChannel
from paywall.protocol.errors import Reason
from paywall.protocol.limits import REFUND_HOLD_SECONDS
from paywall.protocol.x402 import show_address

IDLE_SECONDS: Final = 200
POLICY: Final = replace(LAZY, refund_idle_seconds=IDLE_SECONDS, native_price="$1")
DEPOSIT: Final = 50_000


@dataclass
class Scene:
    provider: Provider
    clock: ChainClock
    claimer: Claimer
    devnet: Devnet
    proxy: RpcProxy

    async def customer(self, deposit: int = DEPOSIT) -> Customer:
        return await self.provider.customer(rich_payer(self.devnet), deposit)

    async def balance(self, customer: Customer) -> int:
        return (await self.provider.node.channel(customer.channel_id)).balance

    async def a_while_later(self, seconds: int = IDLE_SECONDS + 60) -> None:
        self.clock.travel(seconds)
        await self.claimer.run_once()


@asynccontextmanager
async def scene(policy: Any = POLICY, **options: Any) -> AsyncIterator[Scene]:
    with Devnet(port=0) as own:
        clock = ChainClock(own)
        async with (
            RpcProxy(own.url) as proxy,
            providing(own, proxy.url, clock=clock, **options) as at,
        ):
            yield Scene(at, clock, claimer_of(at, policy=policy, clock=clock), own, proxy)


async def test_what_is_left_of_an_idle_channel_goes_back_after_what_it_owes_is_claimed() -> None:
    async with scene() as at:
        customer = await at.customer()
        await at.provider.serve(customer, 700)
        await at.a_while_later()
        record = await at.provider.record(customer)
        assert (record.balance, record.claimed, record.charged) == (700, 700, 700)
        assert await at.balance(customer) == 700


async def test_case_38_a_payer_that_promised_more_or_is_served_or_withdraws_is_left_alone() -> None:
    async with scene() as at:
        promised, served, leaving = [await at.customer() for _ in range(3)]
        store = at.provider.store
        await store.reserve(promised.channel_id, voucher(2_000), 1_000, "r")
        await store.charge(promised.channel_id, "r", 1_000)
        await at.provider.serve(leaving, 100)
        at.clock.travel(IDLE_SECONDS + 60)
        for _ in range(2):
            await at.provider.serve(served, 100)
        await store.reserve(served.channel_id, voucher(1_000), 500, "running")
        await withdraw(at.devnet, leaving, 10_000)
        await at.claimer.run_once()
        assert await at.balance(promised) == DEPOSIT
        assert await at.balance(served) == DEPOSIT
        assert await at.balance(leaving) == DEPOSIT


async def test_case_38_a_deposit_just_made_in_an_idle_channel_stays_for_its_payer() -> None:
    async with scene() as at:
        customer = await at.customer()
        await at.provider.serve(customer, 700)
        await at.a_while_later()
        assert await at.balance(customer) == 700
        at.clock.travel(IDLE_SECONDS + 60)
        deposit = customer.payer.deposit(customer.config, 5_000)
        await at.provider.node.deposit(deposit)
        await at.claimer.run_once()
        assert await at.balance(customer) == 5_700, "the watcher saw it before its worker"
        await at.provider.serve(customer, 100)
        await at.a_while_later()
        assert await at.balance(customer) == 800


async def test_case_38_what_is_worth_less_than_its_fee_stays() -> None:
    async with scene(replace(POLICY, native_price="$3000")) as at:
        dust, worth = await at.customer(deposit=2_000), await at.customer(deposit=900_000)
        for customer in (dust, worth):
            await at.provider.serve(customer, 100)
        await at.a_while_later()
        assert await at.balance(dust) == 2_000
        assert await at.balance(worth) == 100


async def test_case_38_a_refund_that_could_not_be_paid_for_leaves_the_channel_as_it_was() -> None:
    async with scene() as at:
        customer = await at.customer()
        await at.provider.serve(customer, 100)
        wallet = show_address(at.provider.node.gas_wallet)
        before = await at.proxy.ask("eth_getBalance", wallet, "latest")
        await at.proxy.ask("anvil_setBalance", wallet, 0)
        await at.a_while_later()
        record = await at.provider.record(customer)
        assert (record.balance, record.refunding) == (DEPOSIT, None)
        await at.provider.serve(customer, 39_900)
        await at.proxy.ask("anvil_setBalance", wallet, before)
        await at.a_while_later()
        assert await at.balance(customer) == 40_000


@pytest.mark.parametrize("comes_back", [False, True])
async def test_case_38_a_refund_of_which_nobody_saw_the_end_is_made_once(comes_back: bool) -> None:
    async with scene(timeout_seconds=1.5) as at:
        customer = await at.customer()
        await at.provider.serve(customer, 100)
        at.proxy.faults["eth_getTransactionReceipt"] = result(None)
        await at.a_while_later()
        assert await at.balance(customer) == 100, "it was mined"
        at.proxy.faults.clear()
        at.clock.travel(IDLE_SECONDS + 60)
        if comes_back:
            await at.provider.node.deposit(customer.payer.deposit(customer.config, 5_000))
        await at.claimer.run_once()
        record = await at.provider.record(customer)
        assert record.balance == await at.balance(customer)
        assert record.balance == (5_100 if comes_back else 100)


def keeping(kept: list[Forward]) -> Fault:
    """Says that it has a transaction, and sends it when it likes."""

    async def fault(forward: Forward) -> web.StreamResponse:
        kept.append(forward)
        return web.json_response({"jsonrpc": "2.0", "id": 1, "result": "0x" + "00" * 32})

    return fault


@pytest.mark.parametrize("asks_again", [False, True])
async def test_case_38_a_refund_that_is_mined_long_after_it_was_sent_was_not_spent_meanwhile(
    asks_again: bool,
) -> None:
    async with scene(timeout_seconds=1.5) as at:
        customer = await at.customer()
        await at.provider.serve(customer, 100)
        kept: list[Forward] = []
        at.proxy.faults["eth_sendRawTransaction"] = keeping(kept)
        await at.a_while_later()
        assert kept, "the refund was sent"
        at.clock.travel(REFUND_HOLD_SECONDS + 60)
        store, node = at.provider.store, at.provider.node
        record = await reread(store, node, await at.provider.record(customer))
        assert (record.balance, record.remaining) == (DEPOSIT, 0)
        with pytest.raises(RefusedByChannel) as refused:
            await at.provider.serve(customer, DEPOSIT - 100)
        assert refused.value.reason is Reason.EXCEEDS_BALANCE
        at.proxy.faults.clear()
        if asks_again:
            await give_back(store, node, record, None)
        for send in kept:
            await send()
        assert await at.balance(customer) == 100
        record = await reread(store, node, record)
        assert record.balance == record.charged == 100
        assert record.chain.refund_nonce == 1
