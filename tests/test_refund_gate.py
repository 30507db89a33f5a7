"""Refunds at two workers over one store: SQLite, Redis, and a real chain; sums to the unit."""

import asyncio
import base64
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from pathlib import Path
from secrets import randbits, token_hex
from typing import Final

import pytest
from helpers.channels import AUTHORIZER, CONFIG, NETWORK, TERMS, config
from helpers.provider import PRICE, Agent, Ledger, decoded
from helpers.redis_server import shared_server

from paywall import Devnet, Node, open_store
from paywall.admission import Admission
from paywall.chain import Chain
from paywall.deposit_gate import DepositRules
from paywall.gate import Gate
from paywall.protocol import once
from paywall.protocol.channel import ChainState, Channel
from paywall.protocol.errors import Reason, Refused
from paywall.protocol.payers import PayerLimits
from paywall.protocol.x402 import show_address
from paywall.refunds import Refunded

FILL: Final = 50_000
RULES: Final = DepositRules(PayerLimits(1000, 1000))


@dataclass
class House:
    """Two workers of a provider, and a payer with a channel of its own that it has filled."""

    one: Gate
    two: Gate
    agent: Agent

    async def pay(self, gate: Gate, total: int) -> int:
        """One paid request, from its beginning to its end; what was charged."""
        header = self.agent.pay(total)
        admission = await gate.admit(header, gate.quote(PRICE), b"GET /x")
        assert isinstance(admission, Admission)
        await asyncio.sleep(0)
        await gate.charge(admission, PRICE)
        return PRICE

    async def fill(self, gate: Gate, total: int, amount: int = FILL) -> None:
        header = self.agent.fill(total, amount, salt=randbits(64))
        admission = await gate.admit(header, gate.quote(PRICE), b"GET /x")
        assert isinstance(admission, Admission)
        await gate.charge(admission, PRICE)

    async def refund(self, gate: Gate, total: int, amount: int | None = None) -> int:
        """What came back, by the receipt."""
        header = self.agent.refund(total, amount)
        made = await gate.admit(header, gate.quote(PRICE), b"GET /x")
        assert isinstance(made, Refunded)
        return int(decoded(made.receipt)["amount"])

    async def on_chain(self) -> ChainState:
        return await self.one.chain.channel(self.agent.channel_id)

    async def record(self) -> Channel:
        record = await self.two.store.channel(self.agent.channel_id)
        assert record is not None
        return record


@pytest.fixture(params=["sqlite", "redis", "devnet"])
async def house(
    request: pytest.FixtureRequest, tmp_path: Path, devnet: Devnet
) -> AsyncIterator[House]:
    """On the devnet each worker has a gas key of its own, and the store is a file."""
    url = f"sqlite:///{tmp_path}/store.db"
    if request.param == "redis":
        url = f"{shared_server().url}?prefix=r{token_hex(8)}"
    if request.param == "devnet":
        devnet.fund_usdc(show_address(CONFIG.payer), 10 * FILL)
        chains: list[Chain] = [
            Node(
                devnet.url,
                devnet.accounts[n].key,
                authorizer_key=AUTHORIZER.secret,
                network=NETWORK,
            )
            for n in (4, 5)
        ]
    else:
        chains = [Ledger()] * 2
    gates = [Gate(TERMS, open_store(url), chain, deposits=RULES) for chain in chains]
    for gate in gates:
        await gate.open()
    house = House(*gates, Agent(config(randbits(200)), clock=time.time))
    await house.fill(house.one, PRICE)
    yield house
    for gate in gates:
        await gate.close()


async def reason_of(attempt: Awaitable[object]) -> Reason:
    with pytest.raises(Refused) as refused:
        await attempt
    return refused.value.reason


async def test_a_part_comes_back_and_then_the_rest(house: House) -> None:
    assert await house.refund(house.two, PRICE, 9_000) == 9_000
    state = await house.on_chain()
    assert (state.balance, state.claimed) == (FILL - 9_000, PRICE)
    await house.pay(house.one, 2 * PRICE)
    assert await house.refund(house.one, 2 * PRICE) == FILL - 9_000 - 2 * PRICE
    state = await house.on_chain()
    assert state.balance == state.claimed == (await house.record()).charged == 2 * PRICE
    nothing = house.refund(house.two, 2 * PRICE)
    assert await reason_of(nothing) is Reason.REFUND_NOTHING_LEFT


async def test_case_38_too_much_comes_back_in_no_part(house: House) -> None:
    for gate in (house.one, house.two):
        too_much = house.refund(gate, PRICE, FILL - PRICE + 1)
        assert await reason_of(too_much) is Reason.REFUND_AMOUNT
        under = house.refund(gate, PRICE - 1)
        assert await reason_of(under) is Reason.CUMULATIVE_MISMATCH
    assert (await house.on_chain()).balance == FILL
    assert (await house.record()).refunding is None


async def test_case_38_asked_for_twice_at_once_at_two_workers_it_comes_back_once(
    house: House,
) -> None:
    results = await asyncio.gather(
        *(house.refund(gate, PRICE) for gate in (house.one, house.two) * 3),
        return_exceptions=True,
    )
    assert [result for result in results if isinstance(result, int)] == [FILL - PRICE]
    assert all(isinstance(result, (int, Refused)) for result in results)
    state = await house.on_chain()
    assert (state.balance, state.refund_nonce) == (PRICE, 1)


async def test_case_38_a_refund_among_requests_pays_nothing_twice(house: House) -> None:
    """Refunds and requests at both workers at once; now the ones begin earlier, now the others."""
    top, back, charged = PRICE, 0, PRICE
    for turn in range(6):
        refunds = [
            asyncio.create_task(house.refund(gate, charged, 3_000))
            for gate in (house.one, house.two)
        ]
        for _ in range(turn):
            await house.record()
        payments = [
            asyncio.create_task(house.pay(gate, top + number * PRICE))
            for number, gate in enumerate((house.one, house.two, house.one), 1)
        ]
        results = await asyncio.gather(*refunds, *payments, return_exceptions=True)
        assert all(isinstance(result, (int, Refused)) for result in results)
        paid = Counter(result for result in results if isinstance(result, int))
        charged += paid[PRICE] * PRICE
        back += paid[3_000] * 3_000
        record = await house.record()
        assert (record.charged, record.held, record.refunding) == (charged, 0, None)
        assert record.balance == (await house.on_chain()).balance == FILL - back
        top += 3 * PRICE
    assert back > 0 < charged - PRICE, "both had their turns"
    assert await house.refund(house.two, charged) == FILL - back - charged
    state = await house.on_chain()
    assert state.balance == state.claimed == (await house.record()).charged == charged


async def test_case_38_a_refund_that_is_sent_again_under_its_id_is_made_once(house: House) -> None:
    """A payer whose answer was lost sends the same once more, to whichever worker."""
    message = json.loads(base64.b64decode(house.agent.refund(PRICE, 3_000)))
    message["extensions"] = {once.EXTENSION: {"info": {"required": False, "id": token_hex(16)}}}
    header = base64.b64encode(json.dumps(message).encode()).decode()

    async def ask(gate: Gate) -> str:
        made = await gate.admit(header, gate.quote(PRICE), b"GET /x")
        assert isinstance(made, Refunded)
        return made.receipt

    results = await asyncio.gather(
        *(ask(gate) for gate in (house.one, house.two) * 3), return_exceptions=True
    )
    receipts = {result for result in results if isinstance(result, str)}
    assert len(receipts) == 1
    assert all(isinstance(result, (str, Refused)) for result in results)
    assert {await ask(house.one), await ask(house.two)} == receipts
    assert (await house.on_chain()).balance == (await house.record()).balance == FILL - 3_000


async def test_case_37_closed_and_funded_again_old_vouchers_buy_nothing(house: House) -> None:
    for number in range(2, 6):
        await house.pay(house.one, number * PRICE)
    ahead = 9 * PRICE
    await house.pay(house.two, ahead)
    charged = (await house.record()).charged
    assert await house.refund(house.one, charged) == FILL - charged
    await house.fill(house.two, ahead + PRICE)
    for gate in (house.one, house.two):
        for number in range(1, 11):
            assert await reason_of(house.pay(gate, number * PRICE)) in (
                Reason.CUMULATIVE_MISMATCH,
                Reason.BELOW_CLAIMED,
            )
    record = await house.record()
    assert (record.charged, record.balance) == (charged + PRICE, charged + FILL)
    await house.pay(house.one, ahead + 2 * PRICE)
