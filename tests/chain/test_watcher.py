"""A watcher records what the contract tells, across gaps and reorganisations, and nothing twice."""

from typing import Any

import pytest
from helpers.chain import rich_payer, send_as
from helpers.collecting import (
    EAGER,
    LAZY,
    Bell,
    ChainClock,
    Customer,
    Provider,
    claimer_of,
    providing,
)
from helpers.rpc_proxy import RpcProxy, edited, error, once, result

from paywall.alarms import Board, ClaimLate, ClockBehind, MoneyLost, PoisonRow, WatcherBehind
from paywall.chain import contract
from paywall.chain.desk import Desk
from paywall.chain.devnet import Devnet
from paywall.chain.watcher import Watch, Watcher
from paywall.protocol.channel import RefusedByChannel
from paywall.protocol.errors import ChainUnavailable, ConfigurationError, Reason
from paywall.stores.memory import MemoryStore

JOB = "watch"
SMALL = Watch(depth_blocks=8, range_blocks=5, max_gap_blocks=60)


async def desk_of(provider: Provider) -> Desk:
    token = await provider.store.lease(JOB, "test", 10**9)
    assert token
    return Desk(provider.store, JOB, token)


def watcher_of(provider: Provider, bell: Bell | None = None, watch: Watch = SMALL) -> Watcher:
    return Watcher(provider.store, provider.node, Board(bell or Bell()), watch)


async def withdraw(devnet: Devnet, customer: Customer, amount: int = 1_000_000) -> None:
    """The payer begins to take its money back; it needs ETH for that."""
    await as_payer(devnet, customer, contract.encode_initiate_withdraw(customer.config, amount))


async def finish(devnet: Devnet, customer: Customer) -> None:
    await as_payer(devnet, customer, contract.encode_finalize_withdraw(customer.config))


async def as_payer(devnet: Devnet, customer: Customer, call: bytes) -> None:
    devnet.fund_eth("0x" + customer.payer.address.hex(), 10**16)
    await send_as(devnet, "0x" + customer.payer.key.secret.hex(), call)


async def test_case_33_a_withdrawal_is_recorded_by_the_next_look(devnet: Devnet) -> None:
    async with providing(devnet) as provider:
        desk, watcher = await desk_of(provider), watcher_of(provider)
        customer = await provider.customer(rich_payer(devnet))
        await watcher.look(desk)
        await withdraw(devnet, customer, 400_000)
        await watcher.look(desk)
        record = await provider.record(customer)
        assert record.chain.withdraw_amount == 400_000
        assert record.chain.withdraw_requested_at > 0
        assert await desk.withdrawing() == {customer.channel_id: 0}


async def test_a_withdrawal_that_is_over_is_crossed_out() -> None:
    with Devnet(port=0) as own:
        async with providing(own) as provider:
            desk, watcher = await desk_of(provider), watcher_of(provider)
            customer = await provider.customer(rich_payer(own))
            await watcher.look(desk)
            await withdraw(own, customer)
            await watcher.look(desk)
            own.travel(901)
            await finish(own, customer)
            await watcher.look(desk)
            assert await desk.withdrawing() == {}
            assert (await provider.record(customer)).balance == 0


async def test_the_first_look_reads_every_channel_and_not_the_past(devnet: Devnet) -> None:
    async with RpcProxy(devnet.url) as proxy, providing(devnet, proxy.url) as provider:
        customer = await provider.customer(rich_payer(devnet))
        await withdraw(devnet, customer)
        await watcher_of(provider).look(desk := await desk_of(provider))
        assert list(await desk.withdrawing()) == [customer.channel_id]
        assert "eth_getLogs" not in proxy.asked


async def test_what_happened_while_nobody_watched_is_read_in_bounded_ranges(
    devnet: Devnet,
) -> None:
    asked: list[dict[str, Any]] = []
    async with RpcProxy(devnet.url) as proxy, providing(devnet, proxy.url) as provider:
        desk = await desk_of(provider)
        customer = await provider.customer(rich_payer(devnet))
        await watcher_of(provider).look(desk)
        devnet.mine(10)
        await withdraw(devnet, customer)
        devnet.mine(20)
        log = provider.node.log

        async def counted(first: int, last: int) -> object:
            asked.append({"first": first, "last": last})
            return await log(first, last)

        provider.node.log = counted  # type: ignore[method-assign, assignment]
        await watcher_of(provider).look(desk)
        assert len(asked) > 5
        assert all(question["last"] - question["first"] < 5 for question in asked)
        assert (await provider.record(customer)).chain.withdraw_requested_at > 0


async def test_a_gap_too_wide_to_be_read_is_bridged_by_reading_every_channel(
    devnet: Devnet,
) -> None:
    async with RpcProxy(devnet.url) as proxy, providing(devnet, proxy.url) as provider:
        desk = await desk_of(provider)
        customer = await provider.customer(rich_payer(devnet))
        await watcher_of(provider).look(desk)
        await withdraw(devnet, customer)
        devnet.mine(70)
        proxy.asked.clear()
        await watcher_of(provider).look(desk)
        assert "eth_getLogs" not in proxy.asked
        assert (await provider.record(customer)).chain.withdraw_requested_at > 0


async def test_the_same_lines_are_not_read_twice(devnet: Devnet) -> None:
    async with RpcProxy(devnet.url) as proxy, providing(devnet, proxy.url) as provider:
        desk, watcher = await desk_of(provider), watcher_of(provider)
        await watcher.look(desk)
        await provider.customer(rich_payer(devnet))
        await watcher.look(desk)
        proxy.asked.clear()
        await watcher.look(desk)
        assert "eth_call" not in proxy.asked


async def test_a_strangers_channels_are_not_written_down(devnet: Devnet) -> None:
    async with providing(devnet) as ours, providing(devnet) as theirs:
        desk, watcher = await desk_of(ours), watcher_of(ours)
        await watcher.look(desk)
        stranger = await theirs.customer(rich_payer(devnet))
        await withdraw(devnet, stranger)
        await watcher.look(desk)
        assert await ours.store.channel(stranger.channel_id) is None
        assert await desk.withdrawing() == {}


async def test_a_withdrawal_that_a_reorganisation_took_back_is_taken_back() -> None:
    with Devnet(port=0) as own:
        async with RpcProxy(own.url) as proxy, providing(own, proxy.url) as provider:
            desk, watcher = await desk_of(provider), watcher_of(provider)
            customer = await provider.customer(rich_payer(own))
            own.fund_eth("0x" + customer.payer.address.hex(), 10**16)
            await watcher.look(desk)
            before = await proxy.ask("evm_snapshot")
            await withdraw(own, customer)
            await watcher.look(desk)
            assert (await provider.record(customer)).chain.withdraw_requested_at > 0
            await proxy.ask("evm_revert", before)
            own.mine(6)
            await watcher.look(desk)
            assert (await provider.record(customer)).chain.withdraw_requested_at == 0
            assert await desk.withdrawing() == {}


async def test_a_withdrawal_that_a_reorganisation_brought_in_is_seen() -> None:
    with Devnet(port=0) as own:
        async with RpcProxy(own.url) as proxy, providing(own, proxy.url) as provider:
            desk, watcher = await desk_of(provider), watcher_of(provider)
            customer = await provider.customer(rich_payer(own))
            await watcher.look(desk)
            before = await proxy.ask("evm_snapshot")
            own.mine(6)
            await watcher.look(desk)
            await proxy.ask("evm_revert", before)
            await withdraw(own, customer)
            own.mine(5)
            await watcher.look(desk)
            assert (await provider.record(customer)).chain.withdraw_requested_at > 0


@pytest.mark.parametrize("restarts", [False, True])
async def test_a_deposit_that_a_reorganisation_took_back_counts_no_more_whoever_looks_next(
    restarts: bool,
) -> None:
    with Devnet(port=0) as own:
        async with RpcProxy(own.url) as proxy, providing(own, proxy.url) as provider:
            desk, watcher = await desk_of(provider), watcher_of(provider)
            customer = await provider.customer(rich_payer(own))
            await watcher.look(desk)
            before = await proxy.ask("evm_snapshot")
            await provider.node.deposit(customer.payer.deposit(customer.config, 5_000))
            await watcher.look(desk)
            assert (await provider.record(customer)).balance == 1_005_000
            await proxy.ask("evm_revert", before)
            own.mine(6)
            await (watcher_of(provider) if restarts else watcher).look(desk)
            assert (await provider.record(customer)).balance == 1_000_000


async def test_a_crash_before_the_cursor_moved_reads_the_same_lines_again(devnet: Devnet) -> None:
    async with RpcProxy(devnet.url) as proxy, providing(devnet, proxy.url) as provider:
        desk = await desk_of(provider)
        customer = await provider.customer(rich_payer(devnet))
        await watcher_of(provider).look(desk)
        await withdraw(devnet, customer)
        proxy.faults["eth_call"] = error(-32603, "internal error")
        with pytest.raises(ChainUnavailable):
            await watcher_of(provider).look(desk)
        proxy.faults.clear()
        await watcher_of(provider).look(desk)
        assert (await provider.record(customer)).chain.withdraw_requested_at > 0


async def test_a_range_that_the_endpoint_refuses_is_halved(devnet: Devnet) -> None:
    async with providing(devnet) as provider:
        customer = await provider.customer(rich_payer(devnet))
        head = await provider.node.head()
        blocks = provider.node._blocks
        read = blocks._log
        widths: list[int] = []

        async def narrow(first: int, last: int) -> object:
            widths.append(last - first + 1)
            if last - first >= 4:
                await provider.node._rpc.ask(str, "eth_nothing")
            return await read(first, last)

        blocks._log = narrow  # type: ignore[method-assign, assignment]
        lines = await provider.node.log(max(0, head.number - 31), head.number)
        assert customer.channel_id in {line.channel_id for line in lines}
        assert min(widths) <= 4 < max(widths)


async def test_an_endpoint_that_hides_the_log_does_not_hide_a_withdrawal_for_long() -> None:
    with Devnet(port=0) as own:
        clock = ChainClock(own)
        async with (
            RpcProxy(own.url) as proxy,
            providing(own, proxy.url, clock=clock) as provider,
        ):
            proxy.faults["eth_getLogs"] = result([])
            customer = await provider.customer(rich_payer(own))
            await provider.serve(customer, 30_000)
            claimer = claimer_of(provider, policy=LAZY, clock=clock)
            await claimer.run_once()
            await withdraw(own, customer)
            await claimer.run_once()
            assert await provider.claimed(customer) == 0
            clock.travel(301)
            await claimer.run_once()
            assert await provider.claimed(customer) == 30_000


async def test_case_33_an_endpoint_that_stands_still_is_told(devnet: Devnet) -> None:
    bell, now = Bell(), [1_800_000_000.0]
    async with providing(devnet) as provider:
        board = Board(bell)
        watcher = Watcher(provider.store, provider.node, board, SMALL, lambda: now[0])
        desk = await desk_of(provider)
        for _ in range(4):
            await watcher.look(desk)
            now[0] += 200
        assert len(bell.standing(WatcherBehind)) == 1
        devnet.mine()
        await watcher.look(desk)
        assert bell.standing(WatcherBehind) == set()


async def test_case_40_a_clock_that_is_behind_the_chains_is_told(devnet: Devnet) -> None:
    bell, behind = Bell(), [0.0]
    async with providing(devnet) as provider:
        desk = await desk_of(provider)
        devnet.mine()
        head = await provider.node.head()

        def clock() -> float:
            return head.mined_at - behind[0]

        watcher = Watcher(provider.store, provider.node, Board(bell), SMALL, clock)
        for seconds, rings in ((30, 0), (31, 1), (3_600, 1), (-3_600, 0)):
            behind[0] = seconds
            await watcher.look(desk)
            assert len(bell.standing(ClockBehind)) == rings


async def test_case_33_an_outage_of_the_worker_is_told_when_it_is_back(devnet: Devnet) -> None:
    bell, now = Bell(), [1_800_000_000.0]
    async with providing(devnet) as provider:
        desk = await desk_of(provider)
        first = Watcher(provider.store, provider.node, Board(Bell()), SMALL, lambda: now[0])
        await first.look(desk)
        now[0] += 3_600
        second = Watcher(provider.store, provider.node, Board(bell), SMALL, lambda: now[0])
        await second.look(desk)
        assert len(bell.rung(WatcherBehind)) == 2  # told, and over
        assert bell.standing(WatcherBehind) == set()


async def test_case_33_a_holder_that_does_not_look_is_told_by_those_who_wait(
    devnet: Devnet,
) -> None:
    bell, now = Bell(), [1_800_000_000.0]
    async with providing(devnet, store=MemoryStore()) as provider:
        holder = claimer_of(provider, clock=lambda: now[0])
        await holder.run_once()
        waiting = claimer_of(provider, bell, clock=lambda: now[0])
        assert await waiting.run_once() is None
        assert bell.alarms == []
        now[0] += 3_600
        assert await waiting.run_once() is None
        assert len(bell.standing(WatcherBehind)) == 1


@pytest.mark.parametrize(
    "lie",
    [
        lambda logs: [{**log, "data": "0x"} for log in logs],
        lambda logs: [{**log, "blockNumber": None} for log in logs],
        lambda logs: {"not": "a list"},
        lambda logs: [{**log, "topics": []} for log in logs],
    ],
)
async def test_a_log_that_is_nonsense_moves_nothing(devnet: Devnet, lie: Any) -> None:
    async with RpcProxy(devnet.url) as proxy, providing(devnet, proxy.url) as provider:
        desk, watcher = await desk_of(provider), watcher_of(provider)
        customer = await provider.customer(rich_payer(devnet))
        await watcher.look(desk)
        proxy.faults["eth_getLogs"] = edited(lie)
        await provider.node.deposit(customer.payer.deposit(customer.config, 5_000))
        try:
            await watcher.look(desk)
        except ChainUnavailable:
            assert (await desk.cursor()) is not None
        proxy.faults.clear()
        await watcher.look(desk)
        assert (await provider.record(customer)).balance in (1_000_000, 1_005_000)


def test_a_watch_that_cannot_work_is_refused() -> None:
    with pytest.raises(ConfigurationError):
        Watch(range_blocks=0)


# -- With the claimer ----------------------------------------------------------------------------


async def test_case_33_a_withdrawal_makes_its_channel_claim_at_once_however_dear_gas_is(
    devnet: Devnet,
) -> None:
    async with providing(devnet) as provider:
        payer = rich_payer(devnet)
        leaving, staying = await provider.customer(payer), await provider.customer(payer)
        for customer in (leaving, staying):
            await provider.serve(customer, 1_000, times=3)
        claimer = claimer_of(provider, policy=LAZY)
        await claimer.run_once()
        assert await provider.claimed(leaving) == 0
        await withdraw(devnet, leaving)
        await claimer.run_once()
        assert await provider.claimed(leaving) == 3_000
        assert await provider.claimed(staying) == 0


async def test_case_33_the_claim_of_one_who_withdraws_is_tried_again_although_it_was_refused() -> (
    None
):
    bell = Bell()
    with Devnet(port=0) as own:
        async with RpcProxy(own.url) as proxy, providing(own, proxy.url) as provider:
            customer = await provider.customer(rich_payer(own))
            await provider.serve(customer, 1_000)
            await withdraw(own, customer)
            proxy.faults["eth_estimateGas"] = once(error(3, "execution reverted"))
            claimer = claimer_of(provider, bell, LAZY)
            await claimer.run_once()
            assert len(bell.standing(PoisonRow)) == 1
            assert await provider.claimed(customer) == 0
            await claimer.run_once()
            assert await provider.claimed(customer) == 1_000
            await claimer.run_once()
            assert bell.standing(PoisonRow) == set()


async def test_case_33_after_that_it_is_served_until_the_margin_and_claimed_once_more() -> None:
    with Devnet(port=0) as own:
        clock = ChainClock(own)
        async with providing(own, clock=clock) as provider:
            customer = await provider.customer(rich_payer(own))
            await provider.serve(customer, 1_000)
            claimer = claimer_of(provider, policy=LAZY, clock=clock)
            await claimer.run_once()
            await withdraw(own, customer)
            await claimer.run_once()
            await provider.serve(customer, 1_000)
            await claimer.run_once()
            assert await provider.claimed(customer) == 1_000, "a fraction of a cent can wait"
            clock.travel(360)
            await claimer.run_once()
            assert await provider.claimed(customer) == 2_000
            with pytest.raises(RefusedByChannel) as refusal:
                await provider.serve(customer, 1_000)
            assert refusal.value.reason is Reason.CHANNEL_CLOSING
            clock.travel(600)
            await finish(own, customer)
            await claimer.run_once()
            record = await provider.record(customer)
            assert (record.balance, record.claimed, record.charged) == (2_000, 2_000, 2_000)


async def test_case_33_a_claim_that_is_late_rings_and_one_that_is_too_late_rings_louder() -> None:
    with Devnet(port=0) as own:
        clock, bell = ChainClock(own), Bell()
        async with (
            RpcProxy(own.url) as proxy,
            providing(own, proxy.url, clock=clock, max_fee_wei=10**15) as provider,
        ):
            customer = await provider.customer(rich_payer(own))
            await provider.serve(customer, 5_000)
            claimer = claimer_of(provider, bell, EAGER, clock=clock)
            proxy.faults["eth_maxPriorityFeePerGas"] = result(hex(10**12))
            await withdraw(own, customer)
            await claimer.run_once()
            assert bell.standing(ClaimLate) == set()
            clock.travel(601)
            await claimer.run_once()
            await claimer.run_once()
            assert len(bell.rung(ClaimLate)) == 1
            clock.travel(300)
            await finish(own, customer)
            await claimer.run_once()
            assert len(bell.standing(MoneyLost)) == 1
