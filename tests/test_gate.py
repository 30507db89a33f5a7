"""The provider's conversation: who is let in, what is charged, and what the chain is asked."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from typing import Any

import pytest
from helpers.chain import eventually
from helpers.channels import CONFIG, NETWORK, STRANGER, config
from helpers.provider import (
    PRICE,
    Agent,
    Clock,
    FaultyStore,
    Ledger,
    decoded,
    gate_of,
    header_of,
    turns,
    until,
)

from paywall import batch_gate
from paywall import gate as gates
from paywall.admission import Admission
from paywall.gate import Gate
from paywall.protocol import once
from paywall.protocol.channel import Channel, RefusedByChannel
from paywall.protocol.errors import (
    ChainUnavailable,
    HoldLost,
    OutOfGas,
    Reason,
    Refused,
    Reverted,
    StoreUnavailable,
    TransactionPending,
    Unavailable,
)
from paywall.protocol.limits import (
    HOLD_SECONDS,
    MAX_HOLDS,
    MAX_PAYMENT_HEADER_BYTES,
    REFUND_HOLD_SECONDS,
    REFUSALS_PER_MINUTE,
    REQUEST_DELAY_SHARE,
)
from paywall.protocol.x402 import Resource, show_address, show_bytes
from paywall.quote import Quote
from paywall.refunds import Refunded
from paywall.refusal_memory import RefusalMemory


@dataclass
class House:
    """A gate, and everything around it."""

    clock: Clock
    ledger: Ledger
    store: FaultyStore
    gate: Gate
    agent: Agent
    quote: Quote

    async def admit(self, header: str) -> Admission:
        admission = await self.gate.admit(header, self.quote, b"GET /x")
        assert isinstance(admission, Admission)
        return admission

    async def pay(self, total: int) -> Admission:
        return await self.admit(self.agent.pay(total))

    async def served(self, total: int, amount: int = PRICE) -> dict[str, Any]:
        """The receipt of a request that is let in and charged."""
        return decoded(await self.gate.charge(await self.pay(total), amount))

    async def refunded(self, total: int, amount: int | None = None) -> dict[str, Any]:
        made = await self.gate.admit(self.agent.refund(total, amount), self.quote, b"GET /x")
        assert isinstance(made, Refunded)
        return decoded(made.receipt)

    @property
    def record(self) -> Channel:
        return self.store._records[self.agent.channel_id]

    def knows(self) -> bool:
        return self.agent.channel_id in self.store._records


@pytest.fixture
async def house(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    """A funded channel that the provider has not seen yet; pauses are short."""
    for module in ("paywall.gate", "paywall.running", "paywall.mirror"):
        monkeypatch.setattr(f"{module}.PAUSES_SECONDS", (0.001,) * 4)
    clock = Clock()
    ledger, store = Ledger(clock), FaultyStore(clock)
    gate, agent = gate_of(store, ledger, clock), Agent(clock=clock)
    await gate.open()
    ledger.fund(agent.channel_id, 50_000)
    yield House(clock, ledger, store, gate, agent, gate.quote(PRICE))
    ledger.gates.clear()
    await gate.close()


async def refusal(attempt: Awaitable[object]) -> Reason:
    with pytest.raises(Refused) as refused:
        await attempt
    return refused.value.reason


def granted(results: list[Any]) -> list[Admission]:
    return [result for result in results if isinstance(result, Admission)]


# -- Vouchers ------------------------------------------------------------------------------------


async def test_a_voucher_lets_one_request_in_and_is_charged(house: House) -> None:
    receipt = await house.served(1000)
    assert receipt == {
        "success": True,
        "transaction": "",
        "network": "eip155:84532",
        "payer": show_address(CONFIG.payer),
        "amount": "",
        "extra": {
            "channelState": {
                "channelId": show_bytes(house.agent.channel_id),
                "balance": "50000",
                "totalClaimed": "0",
                "withdrawRequestedAt": 0,
                "refundNonce": "0",
                "chargedCumulativeAmount": "1000",
            },
            "chargedAmount": "1000",
            "chargedTotal": "1000",
        },
    }
    assert (house.record.charged, house.record.holds) == (1000, {})


async def test_a_handler_may_charge_less_and_the_receipt_says_so(house: House) -> None:
    extra = (await house.served(1000, 300))["extra"]
    assert extra["chargedAmount"] == "300"
    assert extra["channelState"]["chargedCumulativeAmount"] == "300"


async def test_a_released_request_costs_nothing_and_its_voucher_is_good_again(house: House) -> None:
    assert await house.gate.release(await house.pay(1000)) is None
    assert house.record.charged == 0
    assert (await house.served(1000))["success"]


async def test_a_ceiling_receipt_names_the_price_before_it_is_charged(house: House) -> None:
    await house.served(1000)
    extra = decoded(house.gate.ceiling_receipt(await house.pay(2000)))["extra"]
    assert extra["chargedAmount"] == "1000"
    assert extra["channelState"]["chargedCumulativeAmount"] == "2000"
    assert house.record.charged == 1000


async def test_case_28_a_voucher_is_never_good_twice(house: House) -> None:
    await house.served(1000)
    await house.served(2000)
    for total in (2000, 1000):
        assert await refusal(house.pay(total)) is Reason.CUMULATIVE_MISMATCH
    assert house.record.charged == 2000


async def test_case_28_a_signature_is_checked_before_anything_is_looked_up(house: House) -> None:
    forger = Agent(key=STRANGER)
    assert await refusal(house.admit(forger.pay(1000))) is Reason.VOUCHER_SIGNATURE
    assert await refusal(house.admit(forger.refund(0))) is Reason.VOUCHER_SIGNATURE
    assert await refusal(house.admit(forger.fill(1000))) is Reason.VOUCHER_SIGNATURE
    assert house.ledger.calls == ["open"]


async def test_case_27_of_one_voucher_sent_at_once_many_times_one_is_granted(house: House) -> None:
    header = house.agent.pay(1000)
    results = await asyncio.gather(
        *(house.admit(header) for _ in range(30)), return_exceptions=True
    )
    assert len(granted(results)) == 1
    assert all(isinstance(r, (Admission, RefusedByChannel)) for r in results)


async def test_case_27_many_vouchers_at_once_are_each_granted(house: House) -> None:
    await house.served(1000)
    totals = range(2000, 2000 + 1000 * MAX_HOLDS, 1000)
    house.ledger.fund(house.agent.channel_id, 1_000_000)
    house.clock.now += 6
    admitted = await asyncio.gather(*(house.pay(total) for total in reversed(totals)))
    await asyncio.gather(*(house.gate.charge(admission, PRICE) for admission in admitted))
    assert house.record.charged == 1000 + 1000 * MAX_HOLDS


async def test_case_39_a_late_charge_after_its_hold_expired_is_fenced(house: House) -> None:
    late = await house.pay(1000)
    house.clock.now += HOLD_SECONDS + 1
    await house.gate.charge(await house.pay(2000), PRICE)
    with pytest.raises(HoldLost):
        await house.gate.charge(late, PRICE)
    assert house.record.charged == 1000


async def test_other_terms_are_refused_and_longer_ones_are_not_remembered(house: House) -> None:
    cheaper = house.gate.quote(1)
    with pytest.raises(Refused) as refused:
        await house.gate.admit(house.agent.pay(1000), cheaper, b"GET /x")
    assert refused.value.reason is Reason.OFFER_MISMATCH
    payment = decoded(house.agent.pay(1000))
    payment["accepted"]["extra"]["padding"] = "x" * 4000
    kept = Quote._offer_kept.cache_info().currsize
    assert (await house.admit(header_of(payment))).price == PRICE
    assert Quote._offer_kept.cache_info().currsize == kept


async def test_case_06_a_header_above_its_bound_is_not_decoded(house: House) -> None:
    header = "A" * (MAX_PAYMENT_HEADER_BYTES + 1)
    attempt = house.gate.admit(header, house.quote, b"GET /x")
    assert await refusal(attempt) is Reason.HEADER_TOO_LARGE


async def test_case_41_a_refund_is_confirmed_although_the_store_forgot_its_channel(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.served(1000)
    refund = house.ledger.refund

    async def flushed(*told: Any) -> Any:
        house.store._records.clear()
        return await refund(*told)

    monkeypatch.setattr(house.ledger, "refund", flushed)
    assert (await house.refunded(1000))["amount"] == "49000"
    assert not house.knows()


# -- A payment that was refused ------------------------------------------------------------------


def named(header: str, number: int) -> str:
    """A payment under an id."""
    extension = {"info": {"id": f"payment-{number:012d}"}}
    return header_of({**decoded(header), "extensions": {once.EXTENSION: extension}})


async def test_case_28_a_copy_of_a_refused_payment_is_not_served_beside_what_took_its_place(
    house: House,
) -> None:
    running = await house.pay(1000)
    copied = named(house.agent.pay(1001), 1)
    assert await refusal(house.admit(copied)) is Reason.CUMULATIVE_MISMATCH
    await house.gate.release(running)  # from now on its total would do
    served = await house.admit(named(house.agent.pay(2000), 2))
    with pytest.raises(RefusedByChannel) as refused:
        await house.admit(copied)
    assert refused.value.reason is Reason.CUMULATIVE_MISMATCH
    assert refused.value.channel.held == PRICE
    await house.gate.charge(served, PRICE)
    assert house.record.charged == PRICE


async def test_case_28_a_payer_whose_payment_is_served_by_its_copy_is_not_told_to_pay_anew(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the decision to refuse and the refusal its place became free, and a copy took it."""
    running = await house.pay(1000)
    copied, keep = named(house.agent.pay(1001), 1), RefusalMemory.keep

    async def late(memory: RefusalMemory, *told: Any) -> None:
        await house.gate.release(running)
        await house.admit(copied)
        await keep(memory, *told)

    monkeypatch.setattr(RefusalMemory, "keep", late)
    assert await refusal(house.admit(copied)) is Reason.PAYMENT_IN_PROGRESS
    assert house.record.held == PRICE


async def test_case_36_refusals_fill_no_store(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paywall.refusal_queue.TURN_SECONDS", 0.0)
    await house.pay(1000)
    for number in range(REFUSALS_PER_MINUTE + 10):
        await refusal(house.admit(named(house.agent.pay(1001), number)))
    assert len(house.store._entries) == REFUSALS_PER_MINUTE
    house.clock.now += 60  # the hold has expired, and so its voucher is good again
    await house.pay(1000)
    await refusal(house.admit(named(house.agent.pay(1001), 10_000)))
    assert len(house.store._entries) == REFUSALS_PER_MINUTE + 1


# -- What the chain is asked ---------------------------------------------------------------------


async def test_an_unknown_channel_is_read_from_the_chain_with_the_payers_evidence(
    house: House,
) -> None:
    await house.pay(7000)
    assert (house.record.charged, house.record.balance) == (6000, 50_000)
    assert await refusal(house.pay(6000)) is Reason.CUMULATIVE_MISMATCH


async def test_evidence_is_never_below_what_was_claimed(house: House) -> None:
    house.ledger.change(house.agent.channel_id, claimed=20_000)
    assert await refusal(house.pay(20_000)) is Reason.BELOW_CLAIMED
    await house.pay(21_000)
    assert house.record.charged == 20_000


async def test_a_channel_without_money_is_not_written_down(house: House) -> None:
    stranger = Agent(config(7))
    assert await refusal(house.admit(stranger.pay(1000))) is Reason.CHANNEL_NOT_FOUND
    assert stranger.channel_id not in house.store._records


async def test_a_known_channel_is_not_asked_for_again(house: House) -> None:
    for total in (1000, 2000, 3000):
        await house.served(total)
    assert house.ledger.calls.count("channel") == 1


async def test_a_stale_channel_is_read_once_for_all_who_wait(house: House) -> None:
    await house.served(1000)
    house.clock.now += CONFIG.withdraw_delay_seconds
    house.ledger.calls.clear()
    admitted = await asyncio.gather(*(house.pay(total) for total in range(2000, 12_000, 1000)))
    assert len(admitted) == 10
    assert house.ledger.calls == ["channel"]


async def test_case_12_an_unreachable_chain_is_our_fault_and_holds_nothing(house: House) -> None:
    house.ledger.faults["channel"] = ChainUnavailable("the RPC is down")
    for header in (house.agent.pay(1000), house.agent.fill(1000), house.agent.refund(0)):
        with pytest.raises(ChainUnavailable):
            await house.gate.admit(header, house.quote, b"GET /x")
    assert not house.knows()
    house.ledger.faults.clear()
    assert await house.served(1000)
    house.clock.now += CONFIG.withdraw_delay_seconds
    house.ledger.faults["channel"] = ChainUnavailable("the RPC is down")
    with pytest.raises(ChainUnavailable):
        await house.pay(2000)
    assert (house.record.holds, house.record.charged) == ({}, 1000)


async def test_a_chain_whose_last_word_is_always_old_is_unavailable(house: House) -> None:
    house.ledger.clock = Clock(house.clock.now - 10_000)
    for header in (house.agent.pay(1000), house.agent.fill(1000)):
        with pytest.raises(ChainUnavailable):
            await house.admit(header)


async def test_a_top_up_is_noticed_when_the_balance_seems_too_small(house: House) -> None:
    await house.pay(50_000)
    house.ledger.fund(house.agent.channel_id, 10_000)
    assert await refusal(house.pay(51_000)) is Reason.EXCEEDS_BALANCE  # it was read just now
    house.clock.now += 6
    assert (await house.pay(51_000)).standing.chain.balance == 60_000


async def test_a_flood_above_the_balance_asks_the_chain_once_in_a_while(house: House) -> None:
    await house.pay(1000)
    for _ in range(10):
        house.clock.now += 1
        assert await refusal(house.pay(51_000)) is Reason.EXCEEDS_BALANCE
    assert house.ledger.calls.count("channel") == 3


async def test_case_33_a_withdrawal_that_is_over_does_not_stop_a_channel(house: House) -> None:
    await house.served(1000)
    house.ledger.change(
        house.agent.channel_id, withdraw_requested_at=int(house.clock.now) - 700, withdraw_amount=1
    )
    house.clock.now += CONFIG.withdraw_delay_seconds
    assert await refusal(house.pay(2000)) is Reason.CHANNEL_CLOSING
    house.ledger.change(house.agent.channel_id, withdraw_requested_at=0, withdraw_amount=0)
    house.clock.now += 6
    assert (await house.served(2000))["success"]


async def test_case_32_money_that_was_seen_to_leave_buys_nothing_more(house: House) -> None:
    await house.pay(1000)
    house.ledger.change(house.agent.channel_id, balance=0)
    house.clock.now += 6
    assert await refusal(house.pay(51_000)) is Reason.CHANNEL_NOT_FOUND
    assert await refusal(house.pay(2000)) is Reason.EXCEEDS_BALANCE
    assert house.record.balance == 0


# -- Deposits ------------------------------------------------------------------------------------


@pytest.fixture
async def empty(house: House) -> House:
    """A house whose agent has no channel yet."""
    house.ledger.change(house.agent.channel_id, balance=0)
    return house


async def test_a_deposit_is_put_on_chain_and_its_voucher_charged(empty: House) -> None:
    admission = await empty.admit(empty.agent.fill(1000, 50_000))
    receipt = decoded(await empty.gate.charge(admission, PRICE))
    assert receipt["transaction"] == show_bytes(admission.transaction)
    assert len(receipt["transaction"]) == 66
    assert receipt["amount"] == "50000"
    assert receipt["extra"]["chargedAmount"] == "1000"
    assert receipt["extra"]["channelState"]["balance"] == "50000"
    assert receipt["extra"]["channelState"]["withdrawRequestedAt"] == 0


async def test_the_deposit_of_a_released_request_is_confirmed_all_the_same(empty: House) -> None:
    admission = await empty.admit(empty.agent.fill(1000))
    receipt = decoded(await empty.gate.release(admission) or "")
    assert receipt["amount"] == "50000"
    assert receipt["transaction"] == show_bytes(admission.transaction)
    assert receipt["extra"]["chargedAmount"] == "0"
    assert receipt["extra"]["channelState"]["chargedCumulativeAmount"] == "0"


async def test_case_17_a_deposit_sent_many_times_at_once_is_made_once(empty: House) -> None:
    header = empty.agent.fill(1000)
    results = await asyncio.gather(
        *(empty.admit(header) for _ in range(20)), return_exceptions=True
    )
    assert len(granted(results)) == 1
    assert all(isinstance(r, (Admission, RefusedByChannel)) for r in results)
    assert empty.ledger.states[empty.agent.channel_id].balance == 50_000


async def test_a_deposit_sent_again_after_its_answer_was_lost_is_taken(empty: House) -> None:
    header = empty.agent.fill(1000)
    empty.store.down.add("record")
    with pytest.raises(StoreUnavailable):
        await empty.admit(header)
    empty.store.down.clear()
    admission = await empty.admit(header)
    assert empty.ledger.states[empty.agent.channel_id].balance == 50_000
    assert decoded(await empty.gate.charge(admission, PRICE))["transaction"] == ""


async def test_a_deposit_whose_worker_died_is_taken_by_one_whose_clock_is_behind_the_stores(
    empty: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store says that its hold is over, and that decides."""
    header = named(empty.agent.fill(1000), 1)
    await empty.admit(header)
    empty.clock.now += 50
    monkeypatch.setattr(empty.store, "_clock", lambda: empty.clock.now + 20)
    assert (await empty.admit(header)).price == PRICE
    assert empty.record.held == PRICE


@pytest.mark.parametrize(
    ("total", "amount", "reason"),
    [
        (61_000, 60_000, Reason.EXCEEDS_BALANCE),
        (500, 60_000, Reason.CUMULATIVE_MISMATCH),
        (5_000, 60_000, Reason.CUMULATIVE_MISMATCH),
    ],
)
async def test_a_deposit_whose_voucher_it_would_not_save_never_reaches_the_chain(
    empty: House, total: int, amount: int, reason: Reason
) -> None:
    if total == 5_000:  # a total that was used before
        await empty.gate.charge(await empty.admit(empty.agent.fill(5_000, 20_000)), PRICE)
        empty.ledger.calls.clear()
    header = empty.agent.fill(total, amount, salt=2)
    assert await refusal(empty.admit(header)) is reason
    assert "deposit" not in empty.ledger.calls


async def test_a_deposit_into_a_closing_channel_never_reaches_the_chain(house: House) -> None:
    requested = int(house.clock.now) - 700
    house.ledger.change(house.agent.channel_id, withdraw_requested_at=requested)
    assert await refusal(house.admit(house.agent.fill(1000))) is Reason.CHANNEL_CLOSING
    assert "deposit" not in house.ledger.calls


async def test_a_deposit_that_the_chain_refuses_leaves_nothing(empty: House) -> None:
    empty.ledger.faults["deposit"] = Refused(Reason.PAYER_BALANCE)
    assert await refusal(empty.admit(empty.agent.fill(1000))) is Reason.PAYER_BALANCE
    assert not empty.knows()


async def test_a_deposit_is_recorded_although_its_sender_gave_up(empty: House) -> None:
    empty.ledger.gates["deposit"] = asyncio.Event()
    request = asyncio.create_task(empty.admit(empty.agent.fill(1000)))
    await until(lambda: "deposit" in empty.ledger.calls)
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    empty.ledger.gates["deposit"].set()
    await until(empty.knows)
    assert (empty.record.balance, empty.record.holds) == (50_000, {})


async def test_a_top_up_by_deposit_is_seen_through_an_rpc_that_lags(house: House) -> None:
    await house.served(50_000)
    house.ledger.lag = 2
    house.ledger._before = (house.ledger.block - 1, {})  # a node that is one block behind
    admission = await house.admit(house.agent.fill(51_000, 20_000))
    assert admission.standing.chain.balance == 70_000


async def test_an_rpc_that_stays_behind_its_own_block_is_unavailable(empty: House) -> None:
    header = empty.agent.fill(1000)
    empty.ledger.gates["deposit"] = asyncio.Event()
    deposited = asyncio.create_task(empty.admit(header))
    await until(lambda: "deposit" in empty.ledger.calls)
    empty.ledger.lag = 100
    empty.ledger.gates["deposit"].set()
    with pytest.raises(ChainUnavailable):
        await deposited
    assert not empty.knows()
    empty.ledger.lag = 0
    assert await empty.admit(header)


async def test_a_deposit_that_is_refused_shows_no_hold_whose_time_is_over(house: House) -> None:
    """Its payer would take it for another payment, and not come to terms."""
    await house.served(1000)
    await house.pay(2000)
    house.clock.now += 60
    with pytest.raises(RefusedByChannel) as refused:
        await house.admit(house.agent.fill(1000, salt=2))
    assert refused.value.reason is Reason.CUMULATIVE_MISMATCH
    assert refused.value.channel.committed == 1000


async def test_case_36_a_deposit_below_the_minimum_is_refused(empty: House) -> None:
    assert await refusal(empty.admit(empty.agent.fill(1000, 9_999))) is Reason.DEPOSIT_TOO_SMALL
    assert empty.ledger.calls == ["open"]


# -- Refunds -------------------------------------------------------------------------------------


async def test_a_refund_returns_what_is_left_and_says_so(house: House) -> None:
    await house.served(1000)
    receipt = await house.refunded(1000)
    transaction = receipt.pop("transaction")
    assert transaction == show_bytes(house.ledger.block.to_bytes(32, "big"))
    assert receipt == {
        "success": True,
        "network": "eip155:84532",
        "payer": show_address(CONFIG.payer),
        "amount": "49000",
        "extra": {
            "channelState": {
                "channelId": show_bytes(house.agent.channel_id),
                "balance": "1000",
                "totalClaimed": "1000",
                "withdrawRequestedAt": 0,
                "refundNonce": "1",
                "chargedCumulativeAmount": "1000",
            }
        },
    }
    assert (house.record.balance, house.record.refunding) == (1000, None)


async def test_a_part_can_be_refunded_and_the_rest_still_pays(house: House) -> None:
    await house.served(1000)
    assert (await house.refunded(1000, 9000))["amount"] == "9000"
    assert (await house.served(2000))["extra"]["channelState"]["balance"] == "41000"


async def test_case_37_after_a_refund_old_vouchers_buy_nothing(house: House) -> None:
    admission = await house.pay(5000)
    await house.gate.charge(admission, PRICE)
    await house.refunded(5000)
    house.ledger.fund(house.agent.channel_id, 50_000)
    house.clock.now += 6
    for total in (1000, 5000):
        assert await refusal(house.pay(total)) in (
            Reason.CUMULATIVE_MISMATCH,
            Reason.BELOW_CLAIMED,
        )
    assert (await house.served(6000))["success"]


async def test_case_38_a_refund_waits_for_running_requests(house: House) -> None:
    admission = await house.pay(1000)
    assert await refusal(house.refunded(0)) is Reason.CHANNEL_BUSY
    await house.gate.charge(admission, PRICE)
    assert (await house.refunded(1000))["amount"] == "49000"


async def test_case_38_a_request_cannot_spend_what_is_on_its_way_back(house: House) -> None:
    await house.served(1000)
    house.ledger.gates["refund"] = asyncio.Event()
    refund = asyncio.create_task(house.refunded(1000))
    await until(lambda: "refund" in house.ledger.calls)
    assert await refusal(house.pay(2000)) is Reason.EXCEEDS_BALANCE
    house.ledger.gates["refund"].set()
    assert (await refund)["amount"] == "49000"
    assert await refusal(house.pay(2000)) is Reason.EXCEEDS_BALANCE
    assert house.record.charged == 1000


async def test_case_38_a_refund_sent_twice_is_made_once(house: House) -> None:
    await house.served(1000)
    results = await asyncio.gather(
        *(house.refunded(1000) for _ in range(5)), return_exceptions=True
    )
    assert [r["amount"] for r in results if isinstance(r, dict)] == ["49000"]
    assert house.ledger.calls.count("refund") == 1
    assert await refusal(house.refunded(1000)) is Reason.REFUND_NOTHING_LEFT


@pytest.mark.parametrize(
    ("total", "amount", "reason"),
    [
        (1000, 49_001, Reason.REFUND_AMOUNT),
        (1000, 0, Reason.REFUND_AMOUNT),
        (999, None, Reason.CUMULATIVE_MISMATCH),
        (1001, None, Reason.CUMULATIVE_MISMATCH),
    ],
)
async def test_case_38_too_much_is_not_refunded(
    house: House, total: int, amount: int | None, reason: Reason
) -> None:
    await house.served(1000)
    assert await refusal(house.refunded(total, amount)) is reason
    assert "refund" not in house.ledger.calls


async def test_a_refund_that_the_chain_refuses_is_given_up(house: House) -> None:
    await house.served(1000)
    house.ledger.faults["refund"] = Refused(Reason.REFUND_NOTHING_LEFT)
    assert await refusal(house.refunded(1000)) is Reason.REFUND_NOTHING_LEFT
    assert (await house.served(2000))["success"]


async def test_a_refund_that_reverts_is_given_up_and_the_chain_is_read_again(house: House) -> None:
    await house.served(1000)
    house.ledger.faults["refund"] = Reverted("wrong nonce")
    house.ledger.change(house.agent.channel_id, refund_nonce=3)
    with pytest.raises(Unavailable):
        await house.refunded(1000)
    assert (house.record.refunding, house.record.chain.refund_nonce) == (None, 3)
    house.ledger.faults.clear()
    assert (await house.refunded(1000))["amount"] == "49000"


async def test_a_refund_whose_fate_is_unknown_keeps_its_part_set_aside(house: House) -> None:
    await house.served(1000)
    house.ledger.faults["refund"] = ChainUnavailable("sent, and not seen mined")
    with pytest.raises(ChainUnavailable):
        await house.refunded(1000)
    assert house.record.refunding
    assert await refusal(house.pay(2000)) is Reason.EXCEEDS_BALANCE


async def test_case_38_a_refund_that_was_mined_late_cannot_be_spent_as_well(house: House) -> None:
    await house.served(1000)
    house.ledger.faults["refund"] = ChainUnavailable("sent, and not seen mined")
    with pytest.raises(ChainUnavailable):
        await house.refunded(1000)
    house.clock.now += REFUND_HOLD_SECONDS - 10
    agent, chain = house.agent, await house.ledger.channel(house.agent.channel_id)
    await house.store.record(agent.channel_id, NETWORK, agent.config, chain, 0)
    house.ledger.change(agent.channel_id, balance=1000, claimed=1000, refund_nonce=1)
    house.clock.now += 20
    with pytest.raises(Refused):
        await house.pay(50_000)


async def lost_refund(house: House, amount: int | None = 9_000) -> None:
    """A refund is sent, and nobody sees it mined; its deadline passes."""
    await house.served(1000)
    house.ledger.faults["refund"] = TransactionPending("sent, and not mined in time", b"\xee" * 32)
    with pytest.raises(ChainUnavailable):
        await house.refunded(1000, amount)
    house.clock.now += REFUND_HOLD_SECONDS + 1


async def test_case_38_a_refund_is_not_spent_while_it_may_still_be_mined(house: House) -> None:
    await lost_refund(house)
    for _ in range(3):
        assert await refusal(house.pay(50_000)) is Reason.EXCEEDS_BALANCE
        house.clock.now += 3600
    await house.served(41_000, amount=1_000)
    house.ledger.change(house.agent.channel_id, balance=41_000, claimed=1000, refund_nonce=1)
    house.clock.now += 6
    assert await refusal(house.pay(50_000)) is Reason.EXCEEDS_BALANCE
    assert (house.record.balance, house.record.remaining) == (41_000, 39_000)


async def test_case_38_a_refund_that_nobody_waits_for_is_sent_again_by_who_comes_next(
    house: House,
) -> None:
    await lost_refund(house)
    house.ledger.faults.clear()
    assert await refusal(house.pay(50_000)) is Reason.EXCEEDS_BALANCE
    await until(lambda: house.record.refunding is None)
    assert (house.record.balance, house.record.chain.refund_nonce) == (41_000, 1)
    assert house.ledger.calls.count("refund") == 2
    assert (await house.served(41_000))["extra"]["channelState"]["balance"] == "41000"


async def test_case_38_a_refund_whose_worker_died_keeps_no_channel_from_being_used(
    house: House,
) -> None:
    await house.served(1000)
    agent = house.agent
    await house.store.begin_refund(agent.channel_id, agent.sign(1000), None, "of a dead worker")
    house.clock.now += REFUND_HOLD_SECONDS + 1
    house.ledger.faults["refund"] = ChainUnavailable("down")
    assert await refusal(house.pay(2000)) is Reason.EXCEEDS_BALANCE
    house.ledger.faults.clear()
    house.clock.now += 6
    assert await refusal(house.pay(2000)) is Reason.EXCEEDS_BALANCE
    await until(lambda: house.record.refunding is None)
    assert house.record.balance == 1000, "its payer has its money, as it asked"
    house.ledger.fund(agent.channel_id, 5_000)
    house.clock.now += 6
    await house.served(2000)


@pytest.mark.parametrize("claimed", [0, 1000])
async def test_case_38_a_lost_refund_keeps_no_deposit_away_from_a_channel_that_was_withdrawn(
    house: House, claimed: int
) -> None:
    """Its payer took the money by time; what was signed must not return the next deposit."""
    await lost_refund(house, None)
    house.ledger.change(house.agent.channel_id, balance=claimed, claimed=claimed)
    deposit = house.agent.fill(2000, 40_000)
    with pytest.raises(ChainUnavailable):  # 503: the same payment is good later
        await house.admit(deposit)
    assert "deposit" not in house.ledger.calls
    house.ledger.faults.clear()
    await house.gate.charge(await house.admit(deposit), PRICE)
    chain = house.record.chain
    assert (chain.balance, chain.refund_nonce) == (40_000 + claimed, 1)
    assert (house.record.charged, house.record.refunding) == (2000, None)


async def test_case_38_a_deposit_is_good_after_the_refund_of_what_was_withdrawn(
    house: House,
) -> None:
    await house.served(1000)
    house.ledger.faults["refund"] = TransactionPending("sent, and not mined in time", b"\xee" * 32)
    with pytest.raises(ChainUnavailable):
        await house.refunded(1000)
    house.ledger.change(house.agent.channel_id, balance=1000, claimed=1000)  # withdrawn
    deposit = house.agent.fill(2000, 40_000)
    assert await refusal(house.admit(deposit)) is Reason.CHANNEL_CLOSING
    assert await refusal(house.admit(house.agent.fill(42_000, 40_000))) is Reason.EXCEEDS_BALANCE
    house.ledger.change(house.agent.channel_id, refund_nonce=1)
    await house.gate.charge(await house.admit(deposit), PRICE)
    assert (house.record.balance, house.record.remaining) == (41_000, 39_000)


async def test_case_38_who_asks_again_gets_what_the_lost_refund_was_to_bring(house: House) -> None:
    await lost_refund(house)
    house.ledger.faults.clear()
    assert (await house.refunded(1000, 1))["amount"] == "9000"
    assert (house.record.balance, house.record.refunding) == (41_000, None)


async def test_case_38_a_refund_that_was_not_sent_may_follow_one_that_was(house: House) -> None:
    await lost_refund(house)
    house.ledger.faults["refund"] = OutOfGas("empty")
    with pytest.raises(OutOfGas):
        await house.refunded(1000)
    assert house.record.remaining == 0, "the first may still be mined"


@pytest.mark.parametrize(
    ("error", "free"),
    [
        (OutOfGas("empty"), True),
        (Reverted("simulated"), True),
        (Reverted("mined and reverted", b"\xee" * 32), False),
        (Reverted("a facilitator has it", has_left=True), False),
    ],
)
async def test_case_38_a_refund_is_given_free_at_once_where_nobody_else_has_it(
    house: House, error: Exception, free: bool
) -> None:
    await house.served(1000)
    house.ledger.faults["refund"] = error
    with pytest.raises(ChainUnavailable):
        await house.refunded(1000)
    if free:
        assert (await house.served(50_000))["success"]
    else:
        assert await refusal(house.pay(50_000)) is Reason.EXCEEDS_BALANCE


async def test_a_refund_goes_on_although_its_sender_gave_up(house: House) -> None:
    await house.served(1000)
    house.ledger.gates["refund"] = asyncio.Event()
    refund = asyncio.create_task(house.refunded(1000))
    await until(lambda: "refund" in house.ledger.calls)
    refund.cancel()
    await asyncio.gather(refund, return_exceptions=True)
    house.ledger.gates["refund"].set()
    await until(lambda: not house.record.refunding)
    assert (house.record.balance, house.record.refunding) == (1000, None)


async def test_a_refund_counts_what_the_chain_says_now(house: House) -> None:
    await house.served(1000)
    house.ledger.fund(house.agent.channel_id, 5_000)
    house.clock.now += 6
    assert (await house.refunded(1000))["amount"] == "54000"


async def test_a_refund_of_a_channel_that_the_store_forgot_believes_the_payers_total(
    house: House,
) -> None:
    assert (await house.refunded(4000))["amount"] == "46000"
    assert house.record.charged == 4000


# -- Holds ---------------------------------------------------------------------------------------


async def test_holds_of_long_handlers_are_renewed(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.gate.close()
    monkeypatch.setattr(gates, "HOLD_RENEW_SECONDS", 0.002)
    await house.gate.open()
    admission = await house.pay(1000)
    for _ in range(4):
        house.clock.now += HOLD_SECONDS * 0.6
        await asyncio.sleep(0.01)
    assert decoded(await house.gate.charge(admission, PRICE))["success"]


async def test_a_renewer_outlives_its_failures(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.gate.close()
    monkeypatch.setattr(gates, "HOLD_RENEW_SECONDS", 0.002)
    await house.gate.open()
    admission = await house.pay(1000)
    house.store.down.add("renew")
    await asyncio.sleep(0.01)
    monkeypatch.setattr(house.store, "renew", None)  # not even callable
    await asyncio.sleep(0.01)
    monkeypatch.undo()
    house.store.down.clear()
    monkeypatch.setattr(gates, "HOLD_RENEW_SECONDS", 0.002)
    house.clock.now += HOLD_SECONDS * 0.6
    await asyncio.sleep(0.03)
    house.clock.now += HOLD_SECONDS * 0.6
    assert decoded(await house.gate.charge(admission, PRICE))["success"]


async def test_case_33_a_request_that_is_drawn_out_is_not_renewed_for_ever(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.gate.close()
    monkeypatch.setattr(gates, "HOLD_RENEW_SECONDS", 0.002)
    await house.gate.open()
    served, late = await house.pay(1000), await house.pay(2000)
    house.clock.now += CONFIG.withdraw_delay_seconds / REQUEST_DELAY_SHARE - 1
    assert decoded(await house.gate.charge(served, PRICE))["success"]
    house.clock.now += 1
    await eventually(lambda: house.record.holds == {})
    with pytest.raises(HoldLost):
        await house.gate.charge(late, PRICE)
    assert house.record.charged == PRICE


async def test_nothing_is_renewed_for_requests_that_ended(house: House) -> None:
    await house.served(1000)
    await house.gate.release(await house.pay(2000))
    assert len(house.gate._running) == 0


async def test_case_41_a_hold_whose_confirmation_was_lost_is_dropped(house: House) -> None:
    await house.served(1000)
    house.store.lost.add("reserve")
    with pytest.raises(StoreUnavailable):
        await house.pay(2000)
    house.store.lost.clear()
    await turns(10)
    assert house.record.holds == {}
    assert (await house.served(2000))["success"], "the same payment is good again"


async def test_case_38_a_refund_of_which_nobody_knows_whether_it_was_set_aside_is_not_sent(
    house: House,
) -> None:
    await house.served(1000)
    house.store.lost.add("begin_refund")
    with pytest.raises(StoreUnavailable):
        await house.refunded(1000)
    house.store.lost.clear()
    await until(lambda: house.record.refunding is None)
    assert house.ledger.calls.count("refund") == 0
    await house.served(2000)
    assert (await house.refunded(2000))["success"], "who asks again gets it"


async def test_case_10_a_hold_of_somebody_who_gave_up_meanwhile_is_dropped(house: House) -> None:
    await house.served(1000)
    request = asyncio.create_task(house.pay(2000))
    await until(lambda: house.record.holds)
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    await turns(10)
    assert house.record.holds == {}
    assert (await house.served(2000))["success"]


async def test_case_41_a_charge_that_nobody_confirmed_is_made_once(house: House) -> None:
    admission = await house.pay(1000)
    house.store.lost.add("charge")
    with pytest.raises(StoreUnavailable):
        await house.gate.charge(admission, PRICE)
    house.gate.collect(admission, PRICE)
    house.store.lost.clear()
    await asyncio.sleep(0.02)
    assert (house.record.charged, house.record.holds) == (1000, {})


# -- Corrections ---------------------------------------------------------------------------------


async def test_a_correction_shows_the_payers_channel_and_its_own_signature(house: House) -> None:
    await house.served(1000)
    await house.pay(2000)
    with pytest.raises(RefusedByChannel) as refused:
        await house.pay(1500)
    header = house.quote.header(Resource("http://x/"), "why", refused.value)
    [accepts] = decoded(header)["accepts"]
    assert accepts["extra"]["channelState"] == {
        "channelId": show_bytes(house.agent.channel_id),
        "balance": "50000",
        "totalClaimed": "0",
        "withdrawRequestedAt": 0,
        "refundNonce": "0",
        "chargedCumulativeAmount": "2000",  # charged, and what is held
    }
    assert accepts["extra"]["voucherState"] == {
        "signedMaxClaimable": "2000",
        "signature": show_bytes(house.agent.sign(2000).signature),
    }
    plain = decoded(house.quote.header(Resource("http://x/"), "why"))["accepts"][0]
    state = {"channelState", "voucherState"}
    assert {k: v for k, v in accepts["extra"].items() if k not in state} == plain["extra"]


async def test_a_correction_without_a_signature_has_no_proof(house: House) -> None:
    house.ledger.change(house.agent.channel_id, claimed=20_000)
    with pytest.raises(RefusedByChannel) as refused:
        await house.pay(19_000)
    [accepts] = decoded(house.quote.header(Resource("/"), "why", refused.value))["accepts"]
    assert "voucherState" not in accepts["extra"]
    assert accepts["extra"]["channelState"]["totalClaimed"] == "20000"


async def test_a_refused_payment_has_a_receipt_without_money(house: House) -> None:
    assert decoded(house.gate.failure(Refused(Reason.CHANNEL_NOT_FOUND))) == {
        "success": False,
        "transaction": "",
        "network": "eip155:84532",
        "errorReason": "invalid_batch_settlement_evm_channel_not_found",
    }


# -- Life ----------------------------------------------------------------------------------------


async def test_a_gate_that_cannot_reach_its_chain_closes_its_store() -> None:
    clock = Clock()
    ledger, store = Ledger(clock), FaultyStore(clock)
    closed: list[bool] = []

    async def close() -> None:
        closed.append(True)

    store.close = close  # type: ignore[method-assign]
    ledger.faults["open"] = ChainUnavailable("no RPC")
    with pytest.raises(ChainUnavailable):
        await gate_of(store, ledger, clock).open()
    assert closed == [True]


async def test_a_closing_gate_records_what_it_has_sent(empty: House) -> None:
    empty.ledger.gates["deposit"] = asyncio.Event()
    request = asyncio.create_task(empty.admit(empty.agent.fill(1000)))
    await until(lambda: "deposit" in empty.ledger.calls)
    request.cancel()
    closing = asyncio.create_task(empty.gate.close())
    await turns()
    assert not closing.done()
    empty.ledger.gates["deposit"].set()
    await closing
    assert empty.record.balance == 50_000


async def test_a_first_payment_that_never_came_is_not_charged_with_the_second(house: House) -> None:
    """The payer signed 1000 that was lost on its way; its deposit comes with the next voucher."""
    house.ledger.change(house.agent.channel_id, balance=0)
    await house.admit(house.agent.fill(2000))
    assert (house.record.charged, house.record.held, house.record.signed) == (0, 1000, 2000)


# -- Names ---------------------------------------------------------------------------------------


def test_requests_have_names_of_their_own_in_every_process() -> None:
    """They are drawn many at once: each of all 48 bits, none twice, and anew when a gate opens."""
    ours, theirs = batch_gate._names(), batch_gate._names()
    drawn = [next(names) for names in (ours, theirs) for _ in range(1000)]
    assert len(set(drawn)) == 2000
    assert {len(name) for name in drawn} == {8}


async def test_a_gate_that_opens_draws_names_of_its_own(house: House) -> None:
    before = house.gate._batch._names
    await house.gate.close()
    await house.gate.open()
    assert house.gate._batch._names is not before
