"""Deposits at several workers over one store: made once, counted by payer, trusted in bounds."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from dataclasses import replace as replace_alarm
from itertools import count
from pathlib import Path
from typing import Any, Final

import pytest
from coincurve import PrivateKey
from helpers.channels import ASSET, NETWORK, STRANGER, TERMS, config
from helpers.exact import TransferLedger
from helpers.provider import PRICE, Agent, Clock, answering, ask, decoded, paying, provider, until
from helpers.stores import STORES
from msgspec.structs import replace

from paywall import deposit_turns
from paywall.admission import Admission
from paywall.alarms import Alarm, DepositLost, DepositsUsedUp, GasTooDear, GasWalletEmpty
from paywall.chain.own import FeeTooHigh
from paywall.crowd import crowd_alarm
from paywall.deposit_gate import DepositRules
from paywall.gate import Gate
from paywall.protocol import claims, eip712
from paywall.protocol.channel import Channel, RefusedByChannel
from paywall.protocol.errors import (
    ChainUnavailable,
    ConfigurationError,
    HoldLost,
    OutOfGas,
    PaymentError,
    Reason,
    Refused,
    Reverted,
    StoreUnavailable,
    TransactionPending,
)
from paywall.protocol.limits import BET_LOOK_SECONDS, HOLD_SECONDS, MAX_LANES, MAX_STRANGERS
from paywall.protocol.payers import Errand, PayerLimits
from paywall.refunds import Refunded
from paywall.stores import Found, Slips, Store
from paywall.stores.redis import RedisStore

FILL: Final = 50_000


@dataclass
class House:
    """Workers of one provider, each with a gate and a connection of its own to one store."""

    make: Callable[[], Store]
    clock: Clock = field(default_factory=Clock)
    alarms: list[Alarm] = field(default_factory=list)
    gates: list[Gate] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ledger = TransferLedger(self.clock)
        self.ledger.give(Agent().config.payer, 10**12)
        self.ledger.lag = 0

    async def worker(self, **rules: Any) -> Gate:
        how = DepositRules(alarms=self.alarms.append, **rules)
        gate = Gate(TERMS, self.make(), self.ledger, self.clock, deposits=how)
        await gate.open()
        self.gates.append(gate)
        return gate

    def agent(self, number: int = 0) -> Agent:
        """Channels of one payer."""
        return Agent(config(number), clock=self.clock)

    async def record(self, agent: Agent) -> Channel | None:
        return await self.gates[0].store.channel(agent.channel_id)

    @property
    def keeps_our_time(self) -> bool:
        """Redis has a clock of its own for what is not a channel."""
        return not isinstance(self.gates[0].store, RedisStore)

    @property
    def deposits(self) -> int:
        return self.ledger.calls.count("deposit")


async def admit(gate: Gate, header: str, price: int = PRICE) -> Admission:
    admission = await gate.admit(header, gate.quote(price), b"GET /x")
    assert isinstance(admission, Admission)
    return admission


async def refund(gate: Gate, header: str) -> Refunded:
    made = await gate.admit(header, gate.quote(PRICE), b"GET /x")
    assert isinstance(made, Refunded)
    return made


async def reason_of(attempt: Any) -> Reason:
    with pytest.raises(Refused) as refused:
        await attempt
    return refused.value.reason


@pytest.fixture(params=["memory", "sqlite", "redis"])
async def house(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[House]:
    """Pauses are short; the workers' clocks and the store's are one, and stand still."""
    for module in ("paywall.gate", "paywall.running", "paywall.mirror", "paywall.deposit_gate"):
        monkeypatch.setattr(f"{module}.PAUSES_SECONDS", (0.001,) * 4)
    monkeypatch.setattr("paywall.deposit_turns._LOOK_SECONDS", (0.001,) * 5)
    monkeypatch.setattr("paywall.deposit_turns.TURN_WAIT_SECONDS", 0.2)
    clock = Clock()
    first = STORES[request.param](tmp_path, clock)

    def make() -> Store:
        """Another worker's view of the same store."""
        if request.param == "memory":
            return first
        store = STORES[request.param](tmp_path, clock)
        vars(store).update({k: v for k, v in vars(first).items() if k in ("_url", "_tags")})
        return store

    building = House(make, clock)
    yield building
    for event in building.ledger.gates.values():
        event.set()
    building.ledger.faults.clear()
    for gate in building.gates:
        await gate.close()


# -- One turn for each channel -------------------------------------------------------------------


async def test_case_17_of_two_first_deposits_at_two_workers_one_is_made(house: House) -> None:
    one, two = await house.worker(), await house.worker()
    agent = house.agent()
    house.ledger.gates["deposit"] = asyncio.Event()
    first = asyncio.create_task(admit(one, agent.fill(PRICE, salt=1)))
    await eventually(lambda: house.deposits)
    with pytest.raises(ChainUnavailable):  # 503: to be tried again
        await admit(two, agent.fill(PRICE, salt=2))
    house.ledger.gates["deposit"].set()
    await first
    assert await reason_of(admit(two, agent.fill(PRICE, salt=2))) is Reason.CUMULATIVE_MISMATCH
    assert house.deposits == 1
    assert house.ledger.states[agent.channel_id].balance == FILL


async def test_a_worker_that_waits_its_turn_sees_what_the_other_has_done(house: House) -> None:
    one, two = await house.worker(), await house.worker()
    agent = house.agent()
    results = await asyncio.gather(
        *(
            admit(gate, agent.fill(PRICE, salt=salt))
            for salt, gate in enumerate((one, two, one, two))
        ),
        return_exceptions=True,
    )
    granted = [result for result in results if isinstance(result, Admission)]
    assert len(granted) == 1
    others = [result for result in results if isinstance(result, Refused)]
    assert {other.reason for other in others} == {Reason.CUMULATIVE_MISMATCH}
    assert house.deposits == 1


async def test_a_deposit_of_which_no_answer_told_begins_a_channel_without_debt(
    house: House,
) -> None:
    gate, agent = await house.worker(), house.agent()
    await house.ledger.deposit(agent.deposit(FILL, 1))  # its worker died before it was recorded
    await gate.charge(await admit(gate, agent.fill(3 * PRICE)), PRICE)
    record = await house.record(agent)
    assert record is not None
    assert (record.balance, record.charged) == (FILL, PRICE)


async def test_a_deposit_that_was_not_made_is_not_shown_as_balance(house: House) -> None:
    """Its payer would count on it, and sign another one beside it."""
    gate, agent = await house.worker(), house.agent()
    await gate.charge(await admit(gate, agent.fill(PRICE)), PRICE)
    with pytest.raises(RefusedByChannel) as refused:
        await admit(gate, agent.fill(PRICE, salt=2))
    assert refused.value.reason is Reason.CUMULATIVE_MISMATCH
    assert (refused.value.channel.balance, refused.value.channel.charged) == (FILL, PRICE)
    assert house.deposits == 1


async def test_the_next_deposit_need_not_wait_for_the_last_turn_to_expire(house: House) -> None:
    one, two = await house.worker(), await house.worker()
    agent = house.agent()
    await one.charge(await admit(one, agent.fill(PRICE, 10_000)), PRICE)
    for total in range(2 * PRICE, 10_001, PRICE):
        await one.charge(await admit(one, agent.pay(total)), PRICE)
    await two.charge(await admit(two, agent.fill(11_000, 20_000, salt=2)), PRICE)
    record = await house.record(agent)
    assert record is not None
    assert (record.balance, record.charged) == (30_000, 11_000)


async def test_case_24_the_turn_of_a_pending_deposit_stays_with_its_worker(
    house: House,
) -> None:
    one, two = await house.worker(), await house.worker()
    agent = house.agent()
    header = agent.fill(PRICE)
    house.ledger.faults["deposit"] = TransactionPending("not mined in time", b"\xee" * 32)
    for _ in range(2):
        with pytest.raises(ChainUnavailable):
            await admit(one, header)
    with pytest.raises(ChainUnavailable):
        await admit(two, header)
    assert house.deposits == 2, "only the worker that sent it asks for it again"
    house.ledger.faults.clear()
    await expire_turn(one, agent)
    await two.charge(await admit(two, header), PRICE)
    assert house.ledger.states[agent.channel_id].balance == FILL


async def test_a_client_that_gives_up_leaves_a_deposit_and_no_hold(house: House) -> None:
    gate, agent = await house.worker(), house.agent()
    house.ledger.gates["deposit"] = asyncio.Event()
    request = asyncio.create_task(admit(gate, agent.fill(PRICE)))
    await eventually(lambda: house.deposits)
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    house.ledger.gates["deposit"].set()
    await gate._chores.close()
    record = await house.record(agent)
    assert record is not None
    assert (record.balance, record.holds, record.charged) == (FILL, {}, 0)
    await gate.charge(await admit(gate, agent.pay(PRICE)), PRICE)


async def expire_turn(gate: Gate, agent: Agent) -> None:
    """What happens a minute after its worker has gone."""
    slips, key = gate._batch.deposits._turns._slips, deposit_turns._key(agent.channel_id)
    found, _ = await slips.read(key)
    assert found is not None
    await slips.swap(key, found, None, 0)


class Forgetful:
    """The slips of a store that writes, and cannot say so: with too few replicas, for one."""

    def __init__(self, slips: Slips) -> None:
        self._slips = slips
        self.losing = False
        self.swaps = 0

    async def read(self, key: bytes) -> Found:
        return await self._slips.read(key)

    async def swap(self, *args: Any) -> Found:
        found = await self._slips.swap(*args)
        self.swaps += 1
        if self.losing:
            raise StoreUnavailable("too few replicas have it")
        return found


@pytest.mark.parametrize("renewals", [0, 4])
async def test_a_turn_is_kept_and_given_back_although_renewals_of_it_were_not_heard_of(
    house: House, monkeypatch: pytest.MonkeyPatch, renewals: int
) -> None:
    monkeypatch.setattr("paywall.deposit_turns.HOLD_RENEW_SECONDS", 0.002)
    turns, channel_id = (await house.worker())._batch.deposits._turns, house.agent().channel_id
    slips = turns._slips = Forgetful(turns._slips)
    async with turns.of(channel_id):
        slips.losing = True
        await eventually(lambda: slips.swaps > 2)
        slips.losing, before = False, slips.swaps
        await eventually(lambda: slips.swaps >= before + renewals)
    assert (await slips.read(deposit_turns._key(channel_id)))[0] is None


async def eventually(holds: Callable[[], object]) -> None:
    """Like `until`, for stores that take their time."""
    for _ in range(5000):
        if holds():
            return
        await asyncio.sleep(0.002)
    raise AssertionError("it did not come to that")


# -- Case 36: floods -----------------------------------------------------------------------------


async def test_case_36_deposits_that_follow_no_use_are_counted_over_all_workers(
    house: House,
) -> None:
    limits = PayerLimits(errands_per_hour=3)
    gates = [await house.worker(limits=limits) for _ in range(2)]
    for number in range(3):
        await admit(gates[number % 2], house.agent(number).fill(PRICE))
    for gate in gates:
        fourth = admit(gate, house.agent(3).fill(PRICE))
        assert await reason_of(fourth) is Reason.TOO_MANY_DEPOSITS
    assert house.deposits == 3
    if house.keeps_our_time:
        house.clock.now += 20 * 60
        await admit(gates[0], house.agent(3).fill(PRICE))


async def test_case_36_a_payer_that_buys_may_top_up_as_often_as_it_likes(house: House) -> None:
    gate = await house.worker(limits=PayerLimits(errands_per_hour=1))
    agent = house.agent()
    for total in range(10_000, 100_001, 10_000):
        header = agent.fill(total, 10_000, price=10_000, salt=total)
        await gate.charge(await admit(gate, header, 10_000), 10_000)
    assert house.deposits == 10


async def test_case_36_a_top_up_that_comes_early_but_follows_use_is_not_counted(
    house: House,
) -> None:
    gate = await house.worker(limits=PayerLimits(errands_per_hour=1))
    agent, total = house.agent(), 10_000
    await gate.charge(await admit(gate, agent.fill(total, price=10_000), 10_000), 10_000)
    for _ in range(4):  # its channel is never less than half full
        total += 10_000
        header = agent.fill(total, 10_000, price=10_000, salt=total)
        await gate.charge(await admit(gate, header, 10_000), 10_000)
    header = agent.fill(total + PRICE, 10_000, salt=total + PRICE)
    await gate.charge(await admit(gate, header), PRICE)
    useless = admit(gate, agent.fill(total + 2 * PRICE, 10_000, salt=7))
    assert await reason_of(useless) is Reason.TOO_MANY_DEPOSITS


async def test_case_36_filling_and_emptying_is_counted(house: House) -> None:
    gate = await house.worker(limits=PayerLimits(errands_per_hour=2))
    agent = house.agent()
    await gate.charge(await admit(gate, agent.fill(PRICE)), PRICE)
    await refund(gate, agent.refund(PRICE, 1))
    assert await reason_of(refund(gate, agent.refund(PRICE, 1))) is Reason.TOO_MANY_DEPOSITS
    record = await house.record(agent)
    assert record is not None
    assert (record.balance, record.refunding) == (FILL - 1, None)
    await gate.charge(await admit(gate, agent.pay(2 * PRICE)), PRICE)


async def test_case_36_a_payer_has_so_many_channels(house: House) -> None:
    gate = await house.worker(limits=PayerLimits(100, channels=2))
    for number in range(2):
        await gate.charge(await admit(gate, house.agent(number).fill(PRICE)), PRICE)
    third = house.agent(2).fill(PRICE)
    assert await reason_of(admit(gate, third)) is Reason.TOO_MANY_CHANNELS
    await refund(gate, house.agent(0).refund(PRICE))
    record = await house.record(house.agent(0))
    assert record is not None
    assert record.unclaimed == record.remaining == 0
    await admit(gate, third)
    again = house.agent(1).fill(2 * PRICE, salt=2)
    await admit(gate, again)


def payer_of(house: House, number: int) -> Agent:
    """One of a crowd: a payer of its own, with funds and a channel."""
    key = PrivateKey.from_int(50_000 + number)
    address = eip712.address_of(key)
    house.ledger.give(address, 10**9)
    terms = replace(config(number), payer=address, payer_authorizer=address)
    return Agent(terms, house.clock, key, key)


async def test_case_36_a_crowd_of_new_payers_is_counted_over_all_workers(house: House) -> None:
    limits = PayerLimits(all_errands_per_hour=5)
    gates = [await house.worker(limits=limits) for _ in range(2)]
    crowd = [payer_of(house, number) for number in range(8)]
    for number, agent in enumerate(crowd[:5]):
        gate = gates[number % 2]
        await gate.charge(await admit(gate, agent.fill(PRICE)), PRICE)
    for gate in gates:
        sixth = admit(gate, crowd[5].fill(PRICE))
        assert await reason_of(sixth) is Reason.TOO_MANY_DEPOSITS_IN_ALL
    assert house.deposits == 5
    await gates[0].charge(await admit(gates[0], crowd[0].pay(2 * PRICE)), PRICE)
    if house.keeps_our_time:
        house.clock.now += 12 * 60
        await admit(gates[0], crowd[5].fill(PRICE))
        seventh = admit(gates[1], crowd[6].fill(PRICE))
        assert await reason_of(seventh) is Reason.TOO_MANY_DEPOSITS_IN_ALL


async def test_case_36_a_crowd_does_not_keep_customers_from_topping_up_or_leaving(
    house: House,
) -> None:
    gate = await house.worker(limits=PayerLimits(all_errands_per_hour=1))
    customer, worth = payer_of(house, 0), TERMS.min_deposit
    await gate.charge(await admit(gate, customer.fill(worth, price=worth), worth), worth)
    newcomer = admit(gate, payer_of(house, 1).fill(PRICE))
    assert await reason_of(newcomer) is Reason.TOO_MANY_DEPOSITS_IN_ALL
    top_up = customer.fill(2 * worth, price=worth, salt=2)
    await gate.charge(await admit(gate, top_up, worth), worth)
    await refund(gate, customer.refund(2 * worth, 1))
    again = refund(gate, customer.refund(2 * worth, 1))
    assert await reason_of(again) is Reason.TOO_MANY_DEPOSITS_IN_ALL, "once for what it bought"


async def test_case_36_the_owner_hears_once_that_newcomers_are_turned_away_and_once_that_it_is_over(
    house: House,
) -> None:
    limits = PayerLimits(all_errands_per_hour=2)
    one, other = [await house.worker(limits=limits) for _ in range(2)]
    await admit(one, payer_of(house, 0).fill(PRICE))
    await admit(other, payer_of(house, 1).fill(PRICE))
    assert house.alarms == [], "nobody was turned away yet"
    for gate in (one, other, one):
        newcomer = admit(gate, payer_of(house, 2).fill(PRICE))
        assert await reason_of(newcomer) is Reason.TOO_MANY_DEPOSITS_IN_ALL
        await gate._batch.deposits.review()
    (rung,) = house.alarms
    assert (type(rung), rung.subject, rung.over) == (DepositsUsedUp, NETWORK, False)
    assert "all_deposits_per_hour" in rung.text
    assert await crowd_alarm(one.store, NETWORK) == rung
    if house.keeps_our_time:
        house.clock.now += 30 * 60
        for gate in (other, one):
            await gate._batch.deposits.review()
        assert house.alarms == [rung, DepositsUsedUp(NETWORK, rung.text, over=True)]
        assert await crowd_alarm(one.store, NETWORK) is None
        await admit(one, payer_of(house, 2).fill(PRICE))


async def test_case_36_the_owner_hears_it_once_also_when_the_store_could_not_say_that_it_is_written(
    house: House,
) -> None:
    gate = await house.worker(limits=PayerLimits(all_errands_per_hour=1))
    deposits = gate._batch.deposits
    slips = deposits._crowd._slips = Forgetful(deposits._crowd._slips)
    await admit(gate, payer_of(house, 0).fill(PRICE))

    async def reviewed() -> list[bool]:
        """Whether each alarm so far was over, when the store has lost one answer."""
        slips.losing = True
        with pytest.raises(StoreUnavailable):
            await deposits.review()
        slips.losing = False
        for _ in range(2):
            await deposits.review()
        return [alarm.over for alarm in house.alarms]

    assert await reviewed() == [False]
    if house.keeps_our_time:
        house.clock.now += 3600
        assert await reviewed() == [False, True]


@pytest.mark.parametrize("error", [OutOfGas("empty"), FeeTooHigh("dear")])
async def test_why_a_refund_was_not_sent_is_said_although_it_stays_counted(
    house: House, error: PaymentError, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(errand: Errand) -> None:
        raise StoreUnavailable("away")

    gate, agent = await house.worker(), house.agent()
    await gate.charge(await admit(gate, agent.fill(PRICE)), PRICE)
    monkeypatch.setattr(gate._batch.deposits.payers, "undo", away)
    house.ledger.faults["refund"] = error
    with pytest.raises(ChainUnavailable) as told:
        await refund(gate, agent.refund(PRICE))
    assert told.value is error


@pytest.mark.parametrize("error", [OutOfGas("empty"), FeeTooHigh("dear"), Reverted("no")])
async def test_case_36_a_refund_that_cost_no_gas_takes_no_place_and_leaves_a_customer_one(
    house: House, error: PaymentError
) -> None:
    """Our gas wallet is empty: who asks again when it is filled again is refunded, crowd or not."""
    gate = await house.worker(limits=PayerLimits(all_errands_per_hour=2))
    customer, worth = payer_of(house, 0), TERMS.min_deposit
    await gate.charge(await admit(gate, customer.fill(worth, price=worth), worth), worth)
    stranger = payer_of(house, 1)
    house.ledger.faults["refund"] = error
    for _ in range(3):
        with pytest.raises(ChainUnavailable):
            await refund(gate, customer.refund(worth))
    house.ledger.faults.clear()
    await gate.release(await admit(gate, stranger.fill(PRICE)))
    newcomer = admit(gate, payer_of(house, 2).fill(PRICE))
    assert await reason_of(newcomer) is Reason.TOO_MANY_DEPOSITS_IN_ALL
    await refund(gate, customer.refund(worth))


@pytest.mark.parametrize("error", [OutOfGas("empty"), FeeTooHigh("dear")])
async def test_case_36_a_top_up_that_cost_no_gas_leaves_a_customer_one(
    house: House, error: PaymentError
) -> None:
    gate = await house.worker(limits=PayerLimits(all_errands_per_hour=1))
    customer, worth = payer_of(house, 0), TERMS.min_deposit
    await gate.charge(await admit(gate, customer.fill(worth, price=worth), worth), worth)
    top_up = customer.fill(2 * worth, price=worth, salt=2)
    house.ledger.faults["deposit"] = error
    for _ in range(2):
        with pytest.raises(ChainUnavailable):
            await admit(gate, top_up, worth)
    house.ledger.faults.clear()
    await admit(gate, top_up, worth)


async def test_case_35_the_owner_hears_that_a_deposit_or_a_refund_cannot_be_paid_for(
    house: House,
) -> None:
    """No claim may be due for a day; new payers are turned away at once."""
    gate, agent = await house.worker(), house.agent()
    house.ledger.faults["deposit"] = OutOfGas("the gas wallet is empty")
    for _ in range(2):
        with pytest.raises(OutOfGas):
            await admit(gate, agent.fill(PRICE))
    empty = GasWalletEmpty(NETWORK, "the gas wallet is empty")
    assert house.alarms == [empty]
    house.ledger.faults["deposit"] = FeeTooHigh("dear")
    with pytest.raises(FeeTooHigh):
        await admit(gate, agent.fill(PRICE))
    dear = GasTooDear(NETWORK, "dear")
    assert house.alarms == [empty, dear]
    house.ledger.faults.clear()
    await gate.release(await admit(gate, agent.fill(PRICE)))
    over = [replace_alarm(empty, over=True), replace_alarm(dear, over=True)]
    assert house.alarms == [empty, dear, *over]
    await gate.release(await admit(gate, agent.fill(PRICE)))
    house.ledger.faults["refund"] = OutOfGas("the gas wallet is empty")
    with pytest.raises(OutOfGas):
        await refund(gate, agent.refund(0))
    assert house.alarms[4:] == [empty]


async def test_case_36_one_payer_that_is_turned_away_takes_nothing_from_the_others(
    house: House,
) -> None:
    gate = await house.worker(limits=PayerLimits(errands_per_hour=1, all_errands_per_hour=2))
    await admit(gate, house.agent(0).fill(PRICE))
    for number in range(1, 4):
        attempt = admit(gate, house.agent(number).fill(PRICE))
        assert await reason_of(attempt) is Reason.TOO_MANY_DEPOSITS
    await admit(gate, payer_of(house, 7).fill(PRICE))
    assert house.deposits == 2


@pytest.mark.parametrize("has_left", [False, True])
async def test_case_36_deposits_that_cost_no_gas_take_nothing_from_the_others(
    house: House, has_left: bool
) -> None:
    """To sign one without funds costs a stranger nothing; one mined in vain cost us gas."""
    gate = await house.worker(limits=PayerLimits(all_errands_per_hour=2))
    failed = Refused(Reason.DEPOSIT_FAILED)
    failed.__cause__ = Reverted("transfer amount exceeds balance", has_left=has_left)
    house.ledger.faults["deposit"] = failed
    for number in range(2):
        attempt = admit(gate, payer_of(house, number).fill(PRICE))
        assert await reason_of(attempt) is Reason.DEPOSIT_FAILED
    house.ledger.faults.clear()
    newcomer = admit(gate, payer_of(house, 2).fill(PRICE))
    if has_left:
        assert await reason_of(newcomer) is Reason.TOO_MANY_DEPOSITS_IN_ALL
    else:
        await newcomer


async def test_case_36_a_deposit_that_is_sent_again_is_one_of_the_crowds(house: House) -> None:
    gate = await house.worker(limits=PayerLimits(all_errands_per_hour=2))
    header = payer_of(house, 0).fill(PRICE)
    for _ in range(3):
        await gate.release(await admit(gate, header))
    await admit(gate, payer_of(house, 1).fill(PRICE))
    third = admit(gate, payer_of(house, 2).fill(PRICE))
    assert await reason_of(third) is Reason.TOO_MANY_DEPOSITS_IN_ALL


async def test_case_36_a_crowd_is_503_with_the_same_payment_to_be_sent_again() -> None:
    wall = provider(answering(), all_deposits_per_hour=1)
    await ask(wall, headers=paying(Agent(config(7)).fill(PRICE)))
    answer = await ask(wall, headers=paying(Agent(config(8)).fill(PRICE)))
    assert (answer.status, answer.json["error"]) == (503, "too_many_deposits_in_all")
    assert answer.header("retry-after")
    assert answer.header("payment-required") is None
    await wall.close()


async def test_case_36_a_flood_is_429_and_says_when_to_come_again() -> None:
    wall = provider(answering(), deposits_per_hour=1)
    await ask(wall, headers=paying(Agent(config(7)).fill(PRICE)))
    answer = await ask(wall, headers=paying(Agent(config(8)).fill(PRICE)))
    assert (answer.status, answer.json["error"]) == (429, "too_many_deposits")
    assert answer.header("retry-after")
    assert answer.header("payment-required") is None
    await wall.close()


def test_an_agent_may_open_all_of_its_lanes_at_once() -> None:
    limits = PayerLimits()
    assert limits.channels >= MAX_LANES
    assert limits.errands_per_hour >= MAX_LANES


@pytest.mark.parametrize(
    "options",
    [{"deposits_per_hour": 0}, {"channels_per_payer": 0}, {"all_deposits_per_hour": 0}],
)
def test_limits_that_let_nobody_in_are_a_mistake_at_start(options: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError):
        provider(answering(), **options)


# -- Case 12 and 36: strangers -------------------------------------------------------------------

_numbers = count(1_000)


def stranger(house: House) -> Agent:
    """A channel of somebody's invention, signed by its own key."""
    address = eip712.address_of(STRANGER)
    salt = next(_numbers).to_bytes(32, "big")
    terms = replace(config(0), payer=address, payer_authorizer=address, salt=salt)
    return Agent(terms, house.clock, STRANGER)


async def test_case_36_invented_channels_cost_so_many_readings_and_known_ones_are_served(
    house: House,
) -> None:
    gate, agent = await house.worker(), house.agent()
    await gate.charge(await admit(gate, agent.fill(PRICE)), PRICE)
    before = house.ledger.calls.count("channel")
    reasons = [await reason_of(admit(gate, stranger(house).pay(PRICE))) for _ in range(300)]
    read = house.ledger.calls.count("channel") - before
    assert read == reasons.count(Reason.CHANNEL_NOT_FOUND) <= 100
    assert reasons.count(Reason.TOO_MANY_STRANGERS) == 300 - read
    await gate.charge(await admit(gate, agent.pay(2 * PRICE)), PRICE)
    house.clock.now += 400  # the chain's word on the known channel is old, and is asked for
    await gate.charge(await admit(gate, agent.pay(3 * PRICE)), PRICE)
    house.clock.now += 1
    with pytest.raises(Refused) as later:
        await admit(gate, stranger(house).pay(PRICE))
    assert later.value.reason is Reason.CHANNEL_NOT_FOUND, "the bucket fills again"


async def test_case_36_an_invented_channel_is_looked_for_once_in_a_while(house: House) -> None:
    gate, nobody = await house.worker(), stranger(house)
    for _ in range(20):
        attempt = admit(gate, nobody.pay(PRICE))
        assert await reason_of(attempt) is Reason.CHANNEL_NOT_FOUND
    assert house.ledger.calls.count("channel") == 1
    house.ledger.fund(nobody.channel_id, FILL)
    house.clock.now += 6
    await admit(gate, nobody.pay(PRICE))


async def test_a_channel_that_was_not_there_is_found_when_its_deposit_comes(house: House) -> None:
    gate, agent = await house.worker(), house.agent()
    assert await reason_of(admit(gate, agent.pay(PRICE))) is Reason.CHANNEL_NOT_FOUND
    await gate.charge(await admit(gate, agent.fill(PRICE)), PRICE)


async def test_case_36_invented_deposits_cost_so_many_readings_too(house: House) -> None:
    gate = await house.worker(limits=PayerLimits(100_000, 1000))
    house.ledger.faults["deposit"] = Refused(Reason.PAYER_BALANCE)
    reasons = [await reason_of(admit(gate, house.agent(n).fill(PRICE))) for n in range(150)]
    assert reasons.count(Reason.TOO_MANY_STRANGERS) >= 50
    assert house.ledger.calls.count("channel") <= 100


async def test_what_is_remembered_of_strangers_is_bounded(house: House) -> None:
    gate = await house.worker()
    for number in range(MAX_STRANGERS + 10):
        gate._batch._mirror.strangers.absent(number.to_bytes(32, "big"))
    assert len(gate._batch._mirror.strangers._absent) == MAX_STRANGERS


# -- Instantly -----------------------------------------------------------------------------------


async def instant(house: House, up_to: int = 10 * PRICE) -> Gate:
    return await house.worker(instant_up_to=up_to)


def hold_deposits(house: House) -> asyncio.Event:
    event = house.ledger.gates["deposit"] = asyncio.Event()
    return event


async def exposed(gate: Gate) -> tuple[int, int]:
    """What is open and what is lost."""
    assert gate._batch.deposits._instant is not None
    book = await gate._batch.deposits._instant._read()
    return book.total - book.lost, book.lost


async def closed(gate: Gate) -> None:
    """Waits for all that goes on in the background."""
    while gate._chores._behind:
        await asyncio.gather(*gate._chores._behind, return_exceptions=True)


async def test_case_32_a_deposit_that_is_not_mined_buys_nothing_unless_allowed(
    house: House,
) -> None:
    gate, agent = await house.worker(), house.agent()
    mined = hold_deposits(house)
    request = asyncio.create_task(admit(gate, agent.fill(PRICE)))
    await eventually(lambda: house.deposits)
    assert await reason_of(admit(gate, agent.pay(PRICE))) is Reason.CHANNEL_NOT_FOUND
    assert not request.done()
    mined.set()
    await request


async def test_the_first_request_may_pass_before_its_deposit_is_mined(house: House) -> None:
    gate, agent = await instant(house), house.agent()
    mined = hold_deposits(house)
    admission = await admit(gate, agent.fill(PRICE))
    receipt = decoded(await gate.charge(admission, PRICE))
    assert receipt["extra"]["channelState"]["balance"] == str(FILL)
    assert (receipt["success"], receipt["amount"], receipt["transaction"]) == (True, str(FILL), "")
    assert receipt["extra"]["channelState"]["chargedCumulativeAmount"] == str(PRICE)
    assert await exposed(gate) == (PRICE, 0)
    mined.set()
    await closed(gate)
    assert await exposed(gate) == (0, 0)
    record = await house.record(agent)
    assert record is not None
    assert (record.balance, record.charged, record.is_unmined) == (FILL, PRICE, False)
    assert house.alarms == []


async def test_case_32_nothing_else_passes_until_it_is_mined(house: House) -> None:
    one, two = await instant(house), await instant(house)
    agent = house.agent()
    mined = hold_deposits(house)
    await one.charge(await admit(one, agent.fill(PRICE)), PRICE)
    for gate in (one, two):
        assert await reason_of(admit(gate, agent.pay(2 * PRICE))) is Reason.DEPOSIT_UNDER_WAY
        assert await reason_of(refund(gate, agent.refund(PRICE))) is Reason.DEPOSIT_UNDER_WAY
    record = await house.record(agent)
    assert record is not None
    assert claims.batches([record]) == [], "nothing can be claimed from it yet"
    waiting = [asyncio.create_task(admit(gate, agent.pay(2 * PRICE))) for gate in (one,)]
    await asyncio.sleep(0)
    mined.set()
    (second,) = await asyncio.gather(*waiting)
    await one.charge(second, PRICE)
    assert house.deposits == 1


async def test_case_36_the_exposure_is_bounded_over_all_workers(house: House) -> None:
    gates = [await instant(house, 3 * PRICE) for _ in range(2)]
    mined = hold_deposits(house)
    requests = [
        asyncio.create_task(admit(gates[number % 2], house.agent(number).fill(PRICE)))
        for number in range(8)
    ]
    await eventually(lambda: house.deposits == 8)
    await eventually(lambda: sum(request.done() for request in requests) >= 3)
    await asyncio.sleep(0.02)
    passed = [request.result() for request in requests if request.done()]
    assert len(passed) == 3
    assert await exposed(gates[0]) == (3 * PRICE, 0)
    mined.set()
    await asyncio.gather(*requests)
    for gate in gates:
        await closed(gate)
    assert await exposed(gates[1]) == (0, 0)


async def trusted_in_vain(house: House) -> tuple[Gate, Admission]:
    """A request that runs for a deposit which has failed meanwhile."""
    gate = await instant(house)
    failed = hold_deposits(house)
    house.ledger.faults["deposit"] = Refused(Reason.PAYER_BALANCE)
    admission = await admit(gate, house.agent().fill(PRICE))
    failed.set()
    await closed(gate)
    return gate, admission


async def test_a_deposit_that_fails_before_the_answer_withholds_it_and_costs_nothing(
    house: House,
) -> None:
    gate, admission = await trusted_in_vain(house)
    assert await exposed(gate) == (PRICE, 0), "its request still runs"
    assert await reason_of(gate.charge(admission, PRICE)) is Reason.DEPOSIT_FAILED
    await gate._batch.deposits.review()
    assert await exposed(gate) == (0, 0)
    assert house.alarms == []
    assert await gate.release(admission) is None


async def test_case_39_a_dead_workers_request_is_fenced_before_its_books_are_closed(
    house: House,
) -> None:
    gate, admission = await trusted_in_vain(house)
    house.clock.now += HOLD_SECONDS + 1
    await gate._batch.deposits.review()
    assert await exposed(gate) == (0, 0)
    with pytest.raises(HoldLost):
        await gate.charge(admission, PRICE, is_out=True)


async def test_what_is_lost_rings_and_stays_counted(house: House) -> None:
    """A payer takes its money away as soon as it has its answer, as often as it can."""
    gate = await instant(house, 2 * PRICE)
    for number in range(2):
        failed = hold_deposits(house)
        house.ledger.faults["deposit"] = Refused(Reason.PAYER_BALANCE)
        admission = await admit(gate, house.agent(number).fill(PRICE))
        await gate.charge(admission, PRICE)
        failed.set()
        await closed(gate)
        assert await exposed(gate) == (0, (number + 1) * PRICE)
    assert [type(alarm) for alarm in house.alarms] == [DepositLost] * 2
    assert "$0.002 is lost by now" in house.alarms[-1].text
    third = admit(gate, house.agent(3).fill(PRICE))
    assert await reason_of(third) is Reason.PAYER_BALANCE, "nobody is trusted any more"
    other = await instant(house, 2 * PRICE)
    assert await reason_of(admit(other, house.agent(4).fill(PRICE))) is Reason.PAYER_BALANCE
    assert await exposed(other) == (0, 2 * PRICE)


async def test_what_is_lost_rings_also_when_the_store_could_not_say_that_it_is_written(
    house: House,
) -> None:
    gate, failed = await instant(house), hold_deposits(house)
    trusting = gate._batch.deposits._instant
    assert trusting is not None
    house.ledger.faults["deposit"] = Refused(Reason.PAYER_BALANCE)
    await gate.charge(await admit(gate, house.agent().fill(PRICE)), PRICE)
    slips = trusting._slips = Forgetful(trusting._slips)
    slips.losing = True
    failed.set()
    await closed(gate)
    with pytest.raises(StoreUnavailable):
        await gate._batch.deposits.review()
    slips.losing = False
    await gate._batch.deposits.review()
    assert await exposed(gate) == (0, PRICE)
    assert [type(alarm) for alarm in house.alarms] == [DepositLost]


async def test_a_metered_answer_that_is_out_is_charged_although_its_deposit_failed(
    house: House,
) -> None:
    gate, admission = await trusted_in_vain(house)
    await gate.charge(admission, PRICE // 2, is_out=True)
    await gate._batch.deposits.review()
    assert await exposed(gate) == (0, PRICE // 2)


async def test_a_released_request_costs_nothing_when_its_deposit_fails(house: House) -> None:
    gate, agent = await instant(house), house.agent()
    failed = hold_deposits(house)
    house.ledger.faults["deposit"] = Refused(Reason.PAYER_BALANCE)
    await gate.release(await admit(gate, agent.fill(PRICE)))
    failed.set()
    await closed(gate)
    assert await exposed(gate) == (0, 0)
    assert house.alarms == []


async def test_a_chain_that_is_away_for_a_moment_loses_no_deposit(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paywall.deposit_gate.PAUSES_SECONDS", (0.05,) * 100)
    gate, agent = await instant(house), house.agent()
    event = hold_deposits(house)
    house.ledger.faults["deposit"] = ChainUnavailable("no answer")
    await gate.charge(await admit(gate, agent.fill(PRICE)), PRICE)
    event.set()
    await eventually(lambda: house.deposits > 1)
    house.ledger.faults.clear()
    await closed(gate)
    assert await exposed(gate) == (0, 0)
    assert house.ledger.states[agent.channel_id].balance == FILL


async def test_case_24_a_trusted_deposit_that_is_pending_is_sent_once_and_stays_counted(
    house: House,
) -> None:
    gate, agent = await instant(house), house.agent()
    event = hold_deposits(house)
    house.ledger.faults["deposit"] = TransactionPending("not mined in time", b"\xee" * 32)
    await gate.charge(await admit(gate, agent.fill(PRICE)), PRICE)
    event.set()
    await closed(gate)
    assert (house.deposits, await exposed(gate)) == (1, (PRICE, 0))
    assert await reason_of(admit(gate, agent.pay(2 * PRICE))) is Reason.DEPOSIT_UNDER_WAY
    house.ledger.fund(agent.channel_id, FILL)
    house.clock.now += BET_LOOK_SECONDS + 1
    await gate._batch.deposits.review()
    assert await exposed(gate) == (0, 0)
    await gate.charge(await admit(gate, agent.pay(2 * PRICE)), PRICE)


@pytest.mark.parametrize("arrives", [True, False])
async def test_what_a_dead_worker_left_is_looked_after_by_another(
    house: House, arrives: bool
) -> None:
    """The first worker is killed after it served, and the deposit is mined, or never sent."""
    dead, agent = await instant(house), house.agent()
    hold_deposits(house)
    await dead.charge(await admit(dead, agent.fill(PRICE)), PRICE)
    for task in dead._chores._behind:
        task.cancel()
    await closed(dead)
    alive = await instant(house)
    await alive._batch.deposits.review()
    assert await exposed(alive) == (PRICE, 0), "it is not given up at once"
    if arrives:
        house.ledger.fund(agent.channel_id, FILL)
    house.clock.now += BET_LOOK_SECONDS + 1
    await alive._batch.deposits.review()
    assert await exposed(alive) == ((0, 0) if arrives else (PRICE, 0))
    house.clock.now += 24 * 3600
    await alive._batch.deposits.review()
    assert await exposed(alive) == ((0, 0) if arrives else (0, PRICE))
    assert len(house.alarms) == (0 if arrives else 1)


@pytest.mark.parametrize("how", ["dear", "ahead", "poor", "used", "for years", "known", "topped"])
async def test_who_is_not_trusted_waits_for_its_deposit(house: House, how: str) -> None:
    gate, agent = await instant(house, PRICE), house.agent()
    price, total, fill = PRICE, PRICE, FILL
    if how == "dear":
        price = total = PRICE + 1
    elif how == "ahead":
        total = 2 * PRICE
    elif how == "poor":
        house.ledger.tokens.balances[agent.config.payer] = FILL - 1
    elif how == "used":
        told = agent.deposit(FILL).authorization()
        house.ledger.tokens.used[told.payer, told.authorization_nonce] = None
    elif how == "for years":
        agent.clock = lambda: house.clock.now + 10**8
    elif how == "topped":
        house.ledger.fund(agent.channel_id, 1)
    else:
        house.ledger.fund(agent.channel_id, PRICE)
        await gate.charge(await admit(gate, agent.pay(PRICE)), PRICE)
        total = 2 * PRICE
    mined = hold_deposits(house)
    before = house.deposits
    request = asyncio.create_task(admit(gate, agent.fill(total, fill, price), price))
    await eventually(lambda: house.deposits > before)
    await asyncio.sleep(0.01)
    assert not request.done()
    assert await exposed(gate) == (0, 0)
    mined.set()
    await request


def test_what_may_be_exposed_is_a_price() -> None:
    for wrong in ("$0", "-1", "much"):
        with pytest.raises(ConfigurationError):
            provider(answering(), instant_up_to=wrong)
    wall = provider(answering(), instant_up_to="$0.5")
    instant = wall.gate._batch.deposits._instant
    assert instant is not None
    assert instant._up_to == ASSET.units("$0.5")


async def test_a_withheld_answer_is_402_and_says_that_the_deposit_failed() -> None:
    ledger = TransferLedger()
    ledger.give(Agent().config.payer)
    failed = asyncio.Event()
    ledger.gates["deposit"] = failed
    ledger.faults["deposit"] = Refused(Reason.PAYER_BALANCE)
    ledger.fund(NETWORK.encode(), 1)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        failed.set()
        await until(lambda: not wall.gate._chores._behind)
        await answering(body=b"secret")(scope, receive, send)

    wall = provider(app, chain=ledger, instant_up_to="$1")
    answer = await ask(wall, headers=paying(Agent().fill(PRICE)))
    assert answer.status == 402
    assert answer.json["error"] == Reason.DEPOSIT_FAILED.code
    assert b"secret" not in answer.body
    assert answer.receipt["success"] is False
    await wall.close()
