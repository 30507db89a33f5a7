"""A claimer brings home what is owed, once, by the owner's policy, and says what stands in the way.

All on the real devnet; `Bell` hears the alarms.
"""

import asyncio
from dataclasses import replace

import pytest
from coincurve import PrivateKey
from helpers.chain import ASSET, node_of, rich_payer
from helpers.channels import chain, config, voucher
from helpers.collecting import (
    EAGER,
    Bell,
    ChainClock,
    claimer_of,
    providing,
)
from helpers.rpc_proxy import RpcProxy, deaf, error, once, result
from test_watcher import withdraw

from paywall.alarms import (
    ChainUnreachable,
    GasTooDear,
    GasWalletEmpty,
    PoisonRow,
    TransactionStuck,
)
from paywall.chain import Mined
from paywall.chain.claimer import LEASE_SECONDS, Claimer
from paywall.chain.devnet import Devnet
from paywall.protocol.claims import ClaimPolicy, Why
from paywall.protocol.errors import ChainUnavailable, Reverted
from paywall.protocol.lease import LeaseLost
from paywall.protocol.x402 import show_address, show_bytes
from paywall.stores.memory import MemoryStore


def claim_calls(asked: list[str]) -> int:
    return asked.count("eth_sendRawTransaction")


async def test_forty_channels_of_twenty_vouchers_come_home_in_one_claim_and_one_settlement(
    devnet: Devnet,
) -> None:
    async with providing(devnet) as provider:
        payer = rich_payer(devnet)
        customers = [await provider.customer(payer) for _ in range(40)]
        for customer in customers:
            await provider.serve(customer, 1_000, times=20)
        done = await claimer_of(provider).run_once()
        assert done is not None
        assert [len(claimed.batch.channels) for claimed in done.claimed] == [40]
        assert [settled.amount for settled in done.settled] == [40 * 20_000]
        assert {await provider.claimed(customer) for customer in customers} == {20_000}
        earned = await provider.node.token_balance(ASSET.address, provider.receiver)
        assert earned == 40 * 20_000
        assert await provider.store.claimable() == []


async def test_a_second_round_finds_nothing_to_do(devnet: Devnet) -> None:
    async with RpcProxy(devnet.url) as proxy, providing(devnet, proxy.url) as provider:
        await provider.serve(await provider.customer(rich_payer(devnet)), 500)
        claimer = claimer_of(provider)
        await claimer.run_once()
        proxy.asked.clear()
        done = await claimer.run_once()
        assert done is not None
        assert (done.claimed, done.settled) == ([], [])
        assert claim_calls(proxy.asked) == 0


async def test_what_is_served_after_a_claim_is_claimed_by_the_next(devnet: Devnet) -> None:
    async with providing(devnet) as provider:
        customer = await provider.customer(rich_payer(devnet))
        claimer = claimer_of(provider)
        for total in (300, 600, 900):
            await provider.serve(customer, 300)
            await claimer.run_once()
            assert await provider.claimed(customer) == total


async def test_by_policy_little_waits_and_much_goes(devnet: Devnet) -> None:
    async with providing(devnet) as provider:
        payer = rich_payer(devnet)
        small, large = await provider.customer(payer), await provider.customer(payer)
        await provider.serve(small, 20_000)
        await provider.serve(large, 900_000)
        done = await claimer_of(provider, policy=ClaimPolicy()).run_once()
        assert done is not None
        assert done.plan.why[small.channel_id] is Why.DEAR
        assert done.plan.why[large.channel_id] is Why.WORTH
        assert await provider.claimed(small) == 0
        assert await provider.claimed(large) == 900_000


async def test_what_is_at_risk_over_the_limit_goes_however_dear_gas_is(devnet: Devnet) -> None:
    async with providing(devnet) as provider:
        customer = await provider.customer(rich_payer(devnet))
        policy = replace(ClaimPolicy(), max_at_risk="$0.5", fee_share_ppm=1)
        await provider.serve(customer, 500_000)
        claimer = claimer_of(provider, policy=policy)
        await claimer.run_once()
        assert await provider.claimed(customer) == 0
        await provider.serve(customer, 1)
        await claimer.run_once()
        assert await provider.claimed(customer) == 500_001


async def test_what_is_old_goes_and_dust_stays(devnet: Devnet) -> None:
    with Devnet(port=0) as own:
        clock = ChainClock(own)
        policy = ClaimPolicy(min_amount="$0.01", max_at_risk="$100", max_age_seconds=3_600)
        async with providing(own, clock=clock) as provider:
            payer = rich_payer(own)
            dust, worth = await provider.customer(payer), await provider.customer(payer)
            await provider.serve(dust, 9_999)
            await provider.serve(worth, 30_000)
            claimer = claimer_of(provider, policy=policy, clock=clock)
            await claimer.run_once()
            assert await provider.claimed(worth) == 0
            clock.travel(3_700)
            done = await claimer.run_once()
            assert done is not None
            assert done.plan.why[dust.channel_id] is Why.DUST
            assert [await provider.claimed(c) for c in (dust, worth)] == [0, 30_000]


# -- Poison --------------------------------------------------------------------------------------


async def test_case_34_a_poison_row_is_found_set_aside_and_told_and_the_rest_is_claimed(
    devnet: Devnet,
) -> None:
    bell = Bell()
    async with providing(devnet) as provider:
        payer = rich_payer(devnet)
        customers = [await provider.customer(payer) for _ in range(12)]
        bad = customers[7]
        for customer in customers:
            if customer is not bad:
                await provider.serve(customer, 1_000)
        await provider.store.reserve(bad.channel_id, voucher(5_000), 5_000, "r")
        await provider.store.charge(bad.channel_id, "r", 5_000)
        claimer = claimer_of(provider, bell)
        for _ in range(3):
            await claimer.run_once()
        good = [customer for customer in customers if customer is not bad]
        assert {await provider.claimed(customer) for customer in good} == {1_000}
        assert await provider.claimed(bad) == 0
        (alarm,) = bell.rung(PoisonRow)
        assert alarm.subject == show_bytes(bad.channel_id)
        assert "ECDSAInvalidSignature" in alarm.text or "InvalidSignature" in alarm.text


async def test_case_34_a_row_that_has_changed_is_tried_again(devnet: Devnet) -> None:
    bell = Bell()
    async with providing(devnet) as provider:
        customer = await provider.customer(rich_payer(devnet))
        await provider.store.reserve(customer.channel_id, voucher(5_000), 5_000, "r")
        await provider.store.charge(customer.channel_id, "r", 5_000)
        claimer = claimer_of(provider, bell)
        await claimer.run_once()
        assert bell.standing(PoisonRow) == {show_bytes(customer.channel_id)}
        customer.signed = 5_000
        await provider.serve(customer, 1_000)
        await claimer.run_once()
        assert await provider.claimed(customer) == 6_000
        assert bell.standing(PoisonRow) == set()


async def test_case_34_another_process_knows_what_was_set_aside(devnet: Devnet) -> None:
    async with providing(devnet) as provider:
        customer = await provider.customer(rich_payer(devnet))
        await provider.store.reserve(customer.channel_id, voucher(5_000), 5_000, "r")
        await provider.store.charge(customer.channel_id, "r", 5_000)
        first, bell = claimer_of(provider), Bell()
        await first.run_once()
        await first.close()
        done = await claimer_of(provider, bell).run_once()
        assert done is not None
        assert done.plan.why == {}
        assert bell.standing(PoisonRow) == {show_bytes(customer.channel_id)}


# -- Two of them ---------------------------------------------------------------------------------


async def test_case_35_two_claimers_at_once_are_one_transaction(devnet: Devnet) -> None:
    async with RpcProxy(devnet.url) as proxy, providing(devnet, proxy.url) as provider:
        customer = await provider.customer(rich_payer(devnet))
        await provider.serve(customer, 700)
        proxy.asked.clear()
        rounds = await asyncio.gather(*(claimer_of(provider).run_once() for _ in range(5)))
        assert len([done for done in rounds if done]) == 1
        assert claim_calls(proxy.asked) == 2  # a claim and a settlement
        assert await provider.claimed(customer) == 700


async def test_case_35_a_claimer_that_gives_back_its_lease_is_followed_at_once(
    devnet: Devnet,
) -> None:
    async with providing(devnet) as provider:
        first, second = claimer_of(provider), claimer_of(provider)
        assert await first.run_once() is not None
        assert await second.run_once() is None
        await first.close()
        assert await second.run_once() is not None


async def test_case_35_a_claimer_that_slept_too_long_sends_nothing(devnet: Devnet) -> None:
    clock = ChainClock(devnet)
    async with (
        RpcProxy(devnet.url) as proxy,
        providing(devnet, proxy.url, store=MemoryStore(clock=clock)) as provider,
    ):
        customer = await provider.customer(rich_payer(devnet))
        await provider.serve(customer, 700)
        sleeper, other = claimer_of(provider), claimer_of(provider)
        asleep, awake = asyncio.Event(), asyncio.Event()
        rehearse = provider.node.rehearse

        async def sleep(batch: object) -> int:
            asleep.set()
            await awake.wait()
            return await rehearse(batch)  # type: ignore[arg-type]

        provider.node.rehearse = sleep  # type: ignore[method-assign, assignment]
        task = asyncio.create_task(sleeper.run_once())
        await asleep.wait()
        provider.node.rehearse = rehearse  # type: ignore[method-assign]
        clock.jumped += LEASE_SECONDS + 1
        assert await other.run_once() is not None
        proxy.asked.clear()
        awake.set()
        with pytest.raises(LeaseLost):
            await task
        assert claim_calls(proxy.asked) == 0
        assert await provider.claimed(customer) == 700


# -- The chain is slow, dear, or away ------------------------------------------------------------


async def test_case_35_a_claim_that_is_not_seen_mined_is_taken_up_by_the_next_round(
    devnet: Devnet,
) -> None:
    bell = Bell()
    async with (
        RpcProxy(devnet.url) as proxy,
        providing(devnet, proxy.url, timeout_seconds=1.5) as provider,
    ):
        customer = await provider.customer(rich_payer(devnet))
        await provider.serve(customer, 700)
        claimer = claimer_of(provider, bell)
        proxy.asked.clear()
        proxy.faults["eth_getTransactionReceipt"] = result(None)
        await claimer.run_once()
        await claimer.run_once()
        assert len(bell.standing(TransactionStuck)) == 1
        assert len(bell.rung(TransactionStuck)) == 1
        proxy.faults.clear()
        done = await claimer.run_once()
        assert done is not None
        assert len(done.resumed) == 1
        assert bell.standing(TransactionStuck) == set()
        assert await provider.claimed(customer) == 700
        assert (await provider.record(customer)).claimed == 700
        assert claim_calls(proxy.asked) == 2  # a claim and a settlement


async def test_case_35_a_lost_reply_costs_nothing(devnet: Devnet) -> None:
    async with RpcProxy(devnet.url) as proxy, providing(devnet, proxy.url) as provider:
        customer = await provider.customer(rich_payer(devnet))
        await provider.serve(customer, 700)
        proxy.faults["eth_sendRawTransaction"] = once(deaf)
        await claimer_of(provider).run_once()
        assert await provider.claimed(customer) == 700


async def test_case_35_a_transaction_that_never_left_is_sent_by_the_next_process(
    devnet: Devnet,
) -> None:
    store = MemoryStore()
    async with RpcProxy(devnet.url) as proxy:
        async with providing(devnet, proxy.url, store, timeout_seconds=1.5) as provider:
            customer = await provider.customer(rich_payer(devnet))
            await provider.serve(customer, 700)
            proxy.faults["eth_sendRawTransaction"] = error(-32603, "internal error")
            first = claimer_of(provider)
            with pytest.raises(ChainUnavailable):
                await first.run_once()
            await first.close()
        proxy.faults.clear()
        proxy.asked.clear()
        async with providing(devnet, proxy.url, store) as provider:
            done = await claimer_of(provider).run_once()
            assert done is not None
            assert len(done.resumed) == 1
            assert done.claimed == []
            assert await provider.claimed(customer) == 700


async def test_case_35_an_empty_gas_wallet_is_told_once_and_the_money_waits(
    devnet: Devnet,
) -> None:
    bell, key = Bell(), PrivateKey()
    gas_key = key.secret
    authorizer = devnet.accounts[0].key
    async with providing(devnet) as rich:
        customer = await rich.customer(rich_payer(devnet))
        await rich.serve(customer, 700)
        async with node_of(devnet, key=gas_key, authorizer_key=authorizer) as poor:
            claimer = Claimer(rich.store, poor, EAGER, bell)
            for _ in range(3):
                await claimer.run_once()
            assert len(bell.rung(GasWalletEmpty)) == 1
            wallet = show_address(poor.gas_wallet)
            assert bell.standing(GasWalletEmpty) == {wallet}
            assert await rich.claimed(customer) == 0
            devnet.fund_eth(wallet, 10**18)
            await claimer.run_once()
            assert bell.standing(GasWalletEmpty) == set()
            assert await rich.claimed(customer) == 700


async def test_case_35_a_gas_spike_above_the_owners_ceiling_is_told_and_waited_out(
    devnet: Devnet,
) -> None:
    bell = Bell()
    async with (
        RpcProxy(devnet.url) as proxy,
        providing(devnet, proxy.url, max_fee_wei=10**15) as provider,
    ):
        customer = await provider.customer(rich_payer(devnet))
        await provider.serve(customer, 900_000)
        claimer = claimer_of(provider, bell, replace(EAGER, max_at_risk="$0.01"))
        proxy.faults["eth_maxPriorityFeePerGas"] = result(hex(10**12))
        for _ in range(3):
            await claimer.run_once()
        assert bell.standing(GasTooDear) == {provider.node.network}
        assert len(bell.rung(GasTooDear)) == 1
        assert await provider.claimed(customer) == 0
        proxy.faults.clear()
        await claimer.run_once()
        assert bell.standing(GasTooDear) == set()
        assert await provider.claimed(customer) == 900_000


async def test_case_35_in_a_gas_spike_what_is_under_the_limit_waits(devnet: Devnet) -> None:
    bell = Bell()
    async with RpcProxy(devnet.url) as proxy, providing(devnet, proxy.url) as provider:
        customer = await provider.customer(rich_payer(devnet))
        await provider.serve(customer, 900_000)
        policy = ClaimPolicy(max_at_risk="$1")
        claimer = claimer_of(provider, bell, policy)
        proxy.faults["eth_maxPriorityFeePerGas"] = result(hex(10**9))
        await claimer.run_once()
        assert await provider.claimed(customer) == 0
        assert bell.standing(GasTooDear) == {show_address(provider.receiver)}
        proxy.faults.clear()
        await claimer.run_once()
        assert await provider.claimed(customer) == 900_000
        assert bell.standing(GasTooDear) == set()


async def test_an_unreachable_chain_is_told_once_and_the_claimer_goes_on(devnet: Devnet) -> None:
    bell = Bell()
    async with (
        RpcProxy(devnet.url) as proxy,
        providing(devnet, proxy.url, timeout_seconds=1) as provider,
    ):
        customer = await provider.customer(rich_payer(devnet))
        await provider.serve(customer, 700)
        proxy.faults["*"] = error(-32005, "rate limit")
        claimer = claimer_of(provider, bell)
        task = asyncio.create_task(claimer.run(0.05))
        await asyncio.sleep(0.5)
        assert len(bell.rung(ChainUnreachable)) == 1
        proxy.faults.clear()
        for _ in range(100):
            if not bell.standing(ChainUnreachable):
                break
            await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.wait([task])
        assert await provider.claimed(customer) == 700
        assert bell.standing(ChainUnreachable) == set()


async def test_case_35_claims_that_are_mined_for_nothing_are_made_more_and_more_seldom(
    devnet: Devnet,
) -> None:
    async with providing(devnet) as provider:
        staying, leaving = [await provider.customer(rich_payer(devnet)) for _ in range(2)]
        await provider.serve(staying, 700)
        claim, tried = provider.node.claim, list[float]()
        # Ahead of the devnet, whose blocks run ahead of the wall.
        now = began = float((await provider.node.head()).mined_at + 500)

        async def reverts(*_: object) -> Mined:
            tried.append(now - began)
            raise Reverted("the transaction was mined and reverted", bytes(32))

        provider.node.claim = reverts  # type: ignore[method-assign, assignment]
        claimer = claimer_of(provider, clock=lambda: now)

        async def rounds(seconds: int) -> list[float]:
            nonlocal now
            tried.clear()
            for _ in range(seconds // 10):
                await claimer.run_once()
                now += 10
            return tried

        assert await rounds(200) == [0, 10, 30, 70, 150]
        await provider.serve(leaving, 600)
        await withdraw(devnet, leaving)
        assert await rounds(200) == [210, 270, 330, 390], "who leaves is tried once a minute"
        provider.node.claim = claim  # type: ignore[method-assign]
        now += 60
        await claimer.run_once()
        assert [await provider.claimed(customer) for customer in (staying, leaving)] == [700, 600]
        await provider.serve(staying, 700)
        await claimer.run_once()
        assert await provider.claimed(staying) == 1400, "one success, and nothing waits"


async def test_debts_that_others_outweigh_are_looked_at_in_turn(
    devnet: Devnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paywall.chain.rota.MAX_CLAIM_CHANNELS", 2)
    async with providing(devnet) as provider:
        for number in range(5):
            other, elsewhere = config(number), "eip155:1"
            key = other.channel_id(elsewhere)
            await provider.store.record(key, elsewhere, other, chain(10**18), 0)
            await provider.store.reserve(key, voucher(10**18), 10**18, "r")
            await provider.store.charge(key, "r", 10**18)
        customers = [await provider.customer(rich_payer(devnet)) for _ in range(3)]
        for customer in customers:
            await provider.serve(customer, 700)
        claimer = claimer_of(provider)
        for _ in range(5):
            await claimer.run_once()
        assert [await provider.claimed(customer) for customer in customers] == [700] * 3


async def test_another_authorizers_channels_are_left_alone(devnet: Devnet) -> None:
    async with providing(devnet) as provider:
        customer = await provider.customer(rich_payer(devnet))
        await provider.serve(customer, 700)
        other = devnet.accounts[1].key
        async with node_of(devnet, authorizer_key=other) as node:
            done = await Claimer(provider.store, node, EAGER, Bell()).run_once()
            assert done is not None
            assert done.plan.why == {}
