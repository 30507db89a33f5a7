"""A provider that takes transfers: who is served, what is sent to the chain, and what is kept."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from coincurve import PrivateKey
from helpers.channels import ASSET, STRANGER
from helpers.exact import (
    EXACT,
    PRICE,
    PRICED,
    Signer,
    TransferLedger,
    header_of,
    shop,
    wire,
)
from helpers.provider import (
    Answer,
    Client,
    Clock,
    FaultyStore,
    answering,
    ask,
    buy,
    decoded,
    paying,
    provider,
    turns,
    until,
)
from helpers.provider import header_of as encoded
from starlette.types import ASGIApp, Receive, Scope, Send

from paywall import customers, exact_settlement, pass_for, slipbook, upto
from paywall.asgi import Paywall, payment_of
from paywall.protocol import slip
from paywall.protocol.eip712 import address_of
from paywall.protocol.errors import ChainUnavailable, ConfigurationError, StoreUnavailable
from paywall.protocol.limits import HOLD_SECONDS, SLIP_MARGIN_SECONDS, STRANGER_READS_AT_ONCE
from paywall.protocol.schemes.exact import ExactPayment
from paywall.protocol.x402 import show_address
from paywall.stores import open_store
from paywall.stores.sqlite import SqliteStore


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (exact_settlement, slipbook):
        monkeypatch.setattr(module, "PAUSES_SECONDS", (0.001,) * 4)


class Shop:
    """A provider, and how often its handler ran."""

    def __init__(self, app: ASGIApp | None = None, **options: Any) -> None:
        self.clock = Clock()
        self.ledger = TransferLedger(self.clock)
        self.store = FaultyStore(self.clock)
        self.alice = Signer(self.clock)
        self.ledger.give(self.alice.address)
        self.served = 0
        self._app = app or answering(headers=[(b"content-length", b"6")])
        options = {"prices": {"/priced": PRICED, "/other": PRICED}} | options
        self.wall = provider(self._count, chain=self.ledger, store=self.store, **options)
        for gate in (self.wall.gate._batch, self.wall.gate._exact):
            gate._clock = self.clock  # type: ignore[union-attr]

    async def _count(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.served += 1
        await self._app(scope, receive, send)

    async def ask(self, header: str, path: str = "/priced", **fields: Any) -> Answer:
        return await ask(self.wall, path, headers=paying(header), **fields)

    @property
    def earned(self) -> int:
        return self.ledger.tokens.balances[EXACT.pay_to]

    def slips(self) -> list[slip.Slip]:
        """Those of payments; there is a note about each customer too."""
        entries = (e.answer for (_, name), e in self.store._entries.items() if name == "slip")
        payments = (answer for answer in entries if answer != customers.PAID)
        return [found for answer in payments if (found := slip.decode(answer))]

    async def settle(self) -> None:
        """Lets everything go on that goes on in the background."""
        await asyncio.gather(*self.wall.gate._chores._behind)


@pytest.fixture
async def house() -> AsyncIterator[Shop]:
    shop = Shop()
    yield shop
    shop.ledger.gates.clear()
    await shop.wall.close()


async def shop_with(app: ASGIApp | None = None, **options: Any) -> Shop:
    made = Shop(app, **options)
    await made.wall.open()
    return made


# -- Offers --------------------------------------------------------------------------------------


def schemes(answer: Answer) -> list[str]:
    return [offer["scheme"] for offer in answer.quote["accepts"]]


async def test_channels_come_first_and_transfers_from_a_cent_on() -> None:
    prices = {"/low": "$0.009999", "/cent": "$0.01", "/metered": upto("$1")}
    wall = shop(answering(), prices=prices)
    assert schemes(await ask(wall, "/cent")) == ["batch-settlement", "exact"]
    assert schemes(await ask(wall, "/low")) == ["batch-settlement"]
    assert schemes(await ask(wall, "/metered")) == ["batch-settlement"]


async def test_the_owner_says_which_schemes_and_from_which_price() -> None:
    ledger = TransferLedger()

    def offered(**options: Any) -> Paywall:
        return provider(answering(), chain=ledger, prices={"/x": "$0.005"}, **options)

    assert schemes(await ask(offered(exact_minimum="$0.005"), "/x")) == [
        "batch-settlement",
        "exact",
    ]
    assert schemes(await ask(offered(schemes=["exact"], exact_minimum="$0.001"), "/x")) == ["exact"]
    assert schemes(await ask(offered(schemes=["batch-settlement"]), "/x")) == ["batch-settlement"]


@pytest.mark.parametrize(
    "options",
    [
        {"schemes": ()},
        {"schemes": "exact"},
        {"schemes": ("upto",)},
        {"schemes": ("exact",), "prices": {"/x": "$0.001"}},
        {"schemes": ("exact",), "prices": {"/x": upto("$1")}},
        {"exact_minimum": "a cent"},
    ],
)
def test_what_nobody_could_pay_is_a_mistake_at_start(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        provider(answering(), **options)


async def test_a_voucher_is_no_payment_where_only_transfers_are_taken() -> None:
    answer = await buy(provider(answering(), schemes=["exact"], prices={"/priced": "$1"}), 1000)
    assert (answer.status, answer.json["error"]) == (402, "invalid_payment_requirements")


# -- One transfer buys one request ---------------------------------------------------------------


async def test_a_transfer_buys_an_answer_and_the_receipt_names_it(house: Shop) -> None:
    answer = await house.ask(house.alice.pay())
    assert (answer.status, answer.body, house.earned) == (200, b"served", PRICE)
    assert answer.receipt == {
        "success": True,
        "payer": show_address(house.alice.address),
        "transaction": "0x" + house.ledger.block.to_bytes(32, "big").hex(),
        "network": "eip155:84532",
    }
    assert "private" in (answer.header("cache-control") or "")
    assert len(house.ledger.sent) == 1


async def test_the_handler_sees_who_paid_and_that_there_is_no_channel(house: Shop) -> None:
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        payment = payment_of(scope)
        seen.append((payment.payer, payment.channel, payment.amount, payment.charged))
        await answering()(scope, receive, send)

    house._app = app
    await house.ask(house.alice.pay())
    assert seen == [(show_address(house.alice.address), None, PRICE, PRICE)]


async def test_the_chain_is_read_once_before_the_handler_and_settled_after_it(house: Shop) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert house.ledger.calls[1:] == ["authorization"]
        assert house.earned == 0
        await answering()(scope, receive, send)

    house._app = app
    assert (await house.ask(house.alice.pay())).status == 200
    assert house.ledger.calls[1:] == ["authorization", "transfer"]


async def test_settled_first_the_handler_runs_only_when_the_money_is_there() -> None:
    house = await shop_with(settle_first=True)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert house.earned == PRICE
        await answering()(scope, receive, send)

    house._app = app
    answer = await house.ask(house.alice.pay())
    assert (answer.status, answer.receipt["success"], house.earned) == (200, True, PRICE)


async def test_the_head_waits_for_the_transfer_and_a_stream_follows_it(house: Shop) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        assert house.earned == PRICE
        for word in (b"a", b"b"):
            await send({"type": "http.response.body", "body": word, "more_body": True})
        await send({"type": "http.response.body", "body": b"c"})

    house._app = app
    header = house.alice.pay()
    assert (await house.ask(header)).body == b"abc"
    again = await house.ask(header)
    assert (again.status, again.json["error"]) == (409, "payment_already_answered")
    assert house.served == 1


async def test_a_transfer_is_never_split(house: Shop) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        payment = payment_of(scope)
        payment.charge(1)
        assert payment.charged == PRICE
        await answering()(scope, receive, send)

    house._app = app
    assert (await house.ask(house.alice.pay())).receipt["success"]
    assert house.earned == PRICE


async def test_a_charge_of_nothing_moves_nothing(house: Shop) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        payment_of(scope).charge(0)
        await answering()(scope, receive, send)

    house._app = app
    answer = await house.ask(house.alice.pay())
    assert answer.receipt["transaction"] == ""
    assert (answer.status, answer.receipt["amount"], house.earned) == (200, "0", 0)


# -- Once ----------------------------------------------------------------------------------------


async def test_case_17_sent_500_times_at_once_it_buys_one_answer(
    house: Shop, tmp_path: Path
) -> None:
    """Several workers with one store, and one chain."""
    ledger, served = house.ledger, 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal served
        served += 1
        await asyncio.sleep(0.05)
        await answering(headers=[(b"content-length", b"6")])(scope, receive, send)

    url = f"sqlite:///{tmp_path}/shared.db"
    walls = [shop(app, ledger, store=open_store(url)) for _ in range(3)]
    for wall in walls:
        wall.gate._exact._clock = house.clock  # type: ignore[union-attr]
        await wall.open()
    header = paying(house.alice.pay())
    answers = await asyncio.gather(
        *(ask(walls[number % 3], headers=header) for number in range(500))
    )
    assert served == len(ledger.sent) == 1
    assert house.earned == PRICE
    statuses = Counter(answer.status for answer in answers)
    assert statuses[200] >= 1
    assert set(statuses) <= {200, 503}
    refused = {answer.json["error"] for answer in answers if answer.status == 503}
    assert refused <= {"payment_in_progress", "settlement_pending"}
    assert (await ask(walls[0], headers=header)).body == b"served"
    for wall in walls:
        await wall.close()


def respellings(payment: ExactPayment) -> Iterator[tuple[dict[str, Any], int]]:
    """The same authorization in other words, and the status of each after it was answered."""
    message = decoded(header_of(payment))
    yield dict(reversed(message.items())), 200
    payload = wire(payment)
    payload["authorization"]["from"] = payload["authorization"]["from"].lower()
    yield message | {"payload": payload}, 200
    payload = wire(payment)
    payload["authorization"]["nonce"] = "0x" + payload["authorization"]["nonce"][2:].upper()
    yield message | {"payload": payload, "resource": {"url": "https://elsewhere"}}, 200
    r, s, v = payment.signature[:32], payment.signature[32:64], payment.signature[64]
    for bad in (r + s + bytes([v - 27]), r + s, payment.signature + b"\0"):
        yield message | {"payload": wire(payment) | {"signature": "0x" + bad.hex()}}, 402


async def test_case_18_another_spelling_is_the_same_payment_or_none(house: Shop) -> None:
    payment = house.alice.sign()
    assert (await house.ask(header_of(payment))).status == 200
    for message, status in respellings(payment):
        answer = await house.ask(encoded(message))
        assert answer.status == status
    assert (house.served, house.earned) == (1, PRICE)


async def test_case_18_another_authorization_under_the_same_nonce_buys_nothing(
    house: Shop,
) -> None:
    payment = house.alice.sign()
    assert (await house.ask(header_of(payment))).status == 200
    nonce = payment.authorization.authorization_nonce
    later = house.alice.pay(authorization_nonce=nonce, valid_before=int(house.clock()) + 200)
    answer = await house.ask(later)
    assert answer.status == 402
    assert answer.json["error"] == "invalid_exact_evm_nonce_already_used"
    assert (house.served, house.earned) == (1, PRICE)


async def test_the_same_payment_for_something_else_buys_nothing(house: Shop) -> None:
    header = house.alice.pay()
    assert (await house.ask(header)).status == 200
    answer = await house.ask(header, "/other")
    assert answer.json["error"] == "invalid_exact_evm_nonce_already_used"
    assert house.served == 1


async def test_the_same_payment_again_gets_the_same_answer_and_receipt(house: Shop) -> None:
    header = house.alice.pay()
    first, second = await house.ask(header), await house.ask(header)
    assert (second.status, second.body, second.receipt) == (200, b"served", first.receipt)
    assert (house.served, len(house.ledger.sent)) == (1, 1)


async def test_a_payment_id_belongs_to_one_authorization(house: Shop) -> None:
    name = "pay_" + "x" * 20
    header = house.alice.pay(name)
    assert (await house.ask(header)).status == (await house.ask(header)).status == 200
    other = await house.ask(house.alice.pay(name))
    assert (other.status, other.json["error"]) == (409, "payment_identifier_conflict")
    assert (house.served, house.earned) == (1, PRICE)


async def test_case_26_a_payment_is_remembered_longer_than_it_is_valid(house: Shop) -> None:
    payment = house.alice.sign()
    before = payment.authorization.valid_before
    assert (await house.ask(header_of(payment))).status == 200
    house.ledger.tokens.used.clear()  # even a chain that has forgotten it
    house.clock.now = before - 10
    assert (await house.ask(header_of(payment))).body == b"served"
    house.clock.now = before + SLIP_MARGIN_SECONDS - 1
    assert (await house.ask(header_of(payment))).body == b"served"
    house.clock.now = before + SLIP_MARGIN_SECONDS + 1
    answer = await house.ask(header_of(payment))
    assert answer.json["error"] == "invalid_exact_evm_payload_authorization_valid_before"
    assert (house.served, house.earned) == (1, PRICE)


async def test_a_store_that_lost_its_memory_still_grants_nothing_twice(house: Shop) -> None:
    header = house.alice.pay()
    assert (await house.ask(header)).status == 200
    house.store._entries.clear()
    answer = await house.ask(header)
    assert answer.json["error"] == "invalid_exact_evm_nonce_already_used"
    assert house.served == 1


async def test_case_12_a_step_that_a_store_makes_again_is_made_once_though_it_was_renewed_between(
    house: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store lost its answer, the payment's hold was renewed, and the same step came again."""
    gate = house.wall.gate._exact
    assert gate is not None
    slips = gate._slips._slips
    swap, repeated = slips.swap, 0

    async def asked_again(key: bytes, before: bytes | None, after: bytes | None, *rest: Any) -> Any:
        nonlocal repeated
        found = await swap(key, before, after, *rest)
        told = slip.decode(after)
        if told and told.stage == slip.SENT and not repeated:
            repeated += 1
            house.clock.now += 1
            await gate.renew()
            return await swap(key, before, after, *rest)
        return found

    monkeypatch.setattr(slips, "swap", asked_again)
    answer = await house.ask(house.alice.pay())
    assert (answer.status, repeated, house.earned) == (200, 1, PRICE)


async def test_a_store_that_forgets_while_the_transfer_is_mined_is_no_fault_of_ours() -> None:
    """Settled first, the money came and nobody knows for what: the client is told to come again."""
    house = await shop_with(settle_first=True)
    header = house.alice.pay()
    hold = house.ledger.gates["transfer_with_authorization"] = asyncio.Event()
    first = asyncio.create_task(house.ask(header))
    while not any(found.stage == slip.SENT for found in house.slips()):  # noqa: ASYNC110
        await asyncio.sleep(0)
    house.store._entries.clear()
    hold.set()
    answer = await first
    assert (answer.status, answer.json["error"]) == (503, "payment_in_progress")
    assert (await house.ask(header)).json["error"] == "invalid_exact_evm_nonce_already_used"
    assert house.served == 0


# -- Refused before the chain is asked -----------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"to": address_of(STRANGER)},
        {"value": PRICE - 1},
        {"valid_before": 1},
        {"valid_before": 2**40},
        {"valid_after": 2**40},
        {"payer": address_of(STRANGER)},
    ],
)
async def test_case_19_wrong_fields_are_refused_before_any_rpc_and_nothing_is_kept(
    house: Shop, changes: dict[str, Any]
) -> None:
    answer = await house.ask(header_of(house.alice.sign(**changes), price=PRICE))
    assert answer.status == 402
    assert answer.json["error"].startswith("invalid_exact_evm_payload_")
    assert answer.receipt == {
        "success": False,
        "transaction": "",
        "network": "eip155:84532",
        "errorReason": answer.json["error"],
    }
    assert schemes(answer) == ["batch-settlement", "exact"]
    assert house.ledger.calls == ["open"]
    assert (house.slips(), house.served) == ([], 0)


async def test_case_19_another_chain_or_token_is_not_what_was_offered(house: Shop) -> None:
    for change in ({"network": "eip155:8453"}, {"asset": "0x" + "11" * 20}):
        message = decoded(house.alice.pay())
        message["accepted"] |= change
        answer = await house.ask(encoded(message))
        assert (answer.status, answer.json["error"]) == (402, "invalid_payment_requirements")
    assert (house.ledger.calls, house.served) == (["open"], 0)


async def test_a_payer_without_the_money_is_refused_and_may_come_back_with_it(house: Shop) -> None:
    poor = Signer(house.clock, STRANGER)
    header = poor.pay()
    answer = await house.ask(header)
    assert answer.json["error"] == "invalid_exact_evm_insufficient_balance"
    await house.settle()
    assert house.slips() == []
    house.ledger.give(poor.address)
    assert (await house.ask(header)).status == 200
    assert house.served == 1


async def test_an_authorization_that_was_used_elsewhere_is_refused(house: Shop) -> None:
    payment = house.alice.sign()
    house.ledger.mine(payment.authorization)
    answer = await house.ask(header_of(payment))
    assert answer.json["error"] == "invalid_exact_evm_nonce_already_used"
    assert (house.served, house.ledger.sent) == (0, [])


# -- Strangers -----------------------------------------------------------------------------------


def invented(shop: Shop, number: int) -> Signer:
    """Somebody who has nothing but a key."""
    return Signer(shop.clock, PrivateKey.from_int(10_000 + number))


async def test_case_36_strangers_transfers_cost_so_many_readings_and_customers_are_served() -> None:
    still = Clock()
    shop = await shop_with(clock=still)
    assert (await shop.ask(shop.alice.pay())).status == 200
    await shop.settle()
    before = shop.ledger.calls.count("authorization")
    answers = [await shop.ask(invented(shop, number).pay()) for number in range(150)]
    read = shop.ledger.calls.count("authorization") - before
    told = Counter((answer.status, answer.json["error"]) for answer in answers)
    turned_away = (503, "too_many_unknown_payers")
    assert told == {
        (402, "invalid_exact_evm_insufficient_balance"): read,
        turned_away: 150 - read,
    }
    assert read <= STRANGER_READS_AT_ONCE
    last = answers[-1]
    assert (last.status, last.header("payment-required")) == (503, None)
    assert last.header("retry-after")
    assert (await shop.ask(shop.alice.pay())).status == 200, "who paid before is no stranger"
    newcomer = invented(shop, 1_000)
    shop.ledger.give(newcomer.address)
    header = newcomer.pay()
    assert (await shop.ask(header)).status == 503
    still.now += 1
    assert (await shop.ask(header)).status == 200, "the same payment is good when there is room"
    await shop.wall.close()


async def test_case_36_a_customer_of_one_worker_is_one_at_all_of_them() -> None:
    still = Clock()
    shop = await shop_with(clock=still)
    other = provider(
        answering(), chain=shop.ledger, store=shop.store, prices={"/priced": PRICED}, clock=still
    )
    assert (await shop.ask(shop.alice.pay())).status == 200
    await shop.settle()
    for number in range(STRANGER_READS_AT_ONCE):
        await ask(other, "/priced", headers=paying(invented(shop, number).pay()))
    refused = await ask(other, "/priced", headers=paying(invented(shop, 1_000).pay()))
    assert (refused.status, refused.json["error"]) == (503, "too_many_unknown_payers")
    assert (await ask(other, "/priced", headers=paying(shop.alice.pay()))).status == 200
    await shop.wall.close()


# -- Released ------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 404, 500, 503])
async def test_case_11_a_failing_handler_costs_nothing_and_the_payment_stays_good(
    house: Shop, status: int
) -> None:
    header = house.alice.pay()
    house._app = answering(status)
    answer = await house.ask(header)
    assert (answer.status, answer.header("payment-response")) == (status, None)
    assert (house.earned, house.ledger.sent, house.slips()) == (0, [], [])
    house._app = answering()
    assert (await house.ask(header)).status == 200
    assert house.earned == PRICE


async def test_case_11_a_handler_that_raises_costs_nothing(house: Shop) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("oh")

    house._app = app
    with pytest.raises(RuntimeError):
        await house.ask(house.alice.pay())
    assert (house.earned, house.slips()) == (0, [])


async def test_case_10_a_client_that_hangs_up_before_the_answer_pays_nothing(house: Shop) -> None:
    client = Client()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        client.hang_up()
        await receive()
        await receive()
        await answering()(scope, receive, send)

    house._app = app
    await house.ask(house.alice.pay(), client=client)
    assert (house.earned, house.slips(), client.answer.body) == (0, [], b"")


async def test_settled_first_a_handler_that_fails_is_tried_again_for_the_same_payment() -> None:
    house = await shop_with(answering(500), settle_first=True)
    header = house.alice.pay()
    failed = await house.ask(header)
    assert (failed.status, failed.receipt["success"], house.earned) == (500, True, PRICE)
    house._app = answering()
    answer = await house.ask(header)
    assert (answer.status, answer.receipt) == (200, failed.receipt)
    assert (house.served, len(house.ledger.sent), house.earned) == (2, 1, PRICE)


# -- The chain says no ---------------------------------------------------------------------------


async def test_case_22_a_balance_that_moves_away_gets_no_answer(house: Shop) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        house.ledger.tokens.balances.clear()
        await answering()(scope, receive, send)

    house._app = app
    header = house.alice.pay()
    answer = await house.ask(header)
    assert (answer.status, b"served" in answer.body) == (402, False)
    assert answer.receipt["errorReason"] == "invalid_exact_evm_insufficient_balance"
    assert (answer.receipt["success"], house.earned) == (False, 0)
    house.ledger.give(house.alice.address)
    again = await house.ask(header)
    assert again.json["error"] == "invalid_exact_evm_insufficient_balance"
    assert house.served == 1, "the same authorization has no more work for nothing"


async def test_case_22_many_requests_at_once_run_only_as_far_as_the_money_goes(
    house: Shop,
) -> None:
    house.ledger.tokens.balances[house.alice.address] = 3 * PRICE + 1
    release = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await release.wait()
        await answering()(scope, receive, send)

    house._app = app
    asked = [asyncio.create_task(house.ask(house.alice.pay())) for _ in range(20)]
    await until(lambda: house.served)
    await turns(50)
    assert house.served <= 3
    release.set()
    statuses = Counter(answer.status for answer in await asyncio.gather(*asked))
    assert statuses[200] == house.served <= 3
    assert house.earned == house.served * PRICE


async def test_case_22_settled_first_nothing_runs_for_nothing() -> None:
    house = await shop_with(settle_first=True)
    moved = asyncio.Event()
    house.ledger.gates["transfer"] = moved
    asked = asyncio.create_task(house.ask(house.alice.pay()))
    await until(lambda: "transfer" in house.ledger.calls)
    house.ledger.tokens.balances.clear()
    moved.set()
    answer = await asked
    assert answer.json["error"] == "invalid_exact_evm_insufficient_balance"
    assert house.served == 0


async def test_case_23_a_token_that_shows_no_transfer_has_not_paid(house: Shop) -> None:
    house.ledger.silent = True
    header = house.alice.pay()
    answer = await house.ask(header)
    assert (answer.status, b"served" in answer.body) == (402, False)
    assert answer.receipt["errorReason"] == "invalid_exact_evm_transfer_event_mismatch"
    house.ledger.silent = False
    assert (await house.ask(header)).status == 402
    assert (house.served, len(house.ledger.sent)) == (1, 1)


# -- Pending -------------------------------------------------------------------------------------


def is_pending(answer: Answer) -> bool:
    assert answer.header("payment-required") is None, "that would invite a second payment"
    assert answer.header("retry-after") is not None
    assert "othing was charged" not in answer.json["message"]
    return (answer.status, answer.json["error"]) == (503, "settlement_pending")


async def test_case_24_a_pending_transfer_is_asked_for_and_never_sent_again(house: Shop) -> None:
    house.ledger.pending = True
    payment = house.alice.sign()
    assert is_pending(await house.ask(header_of(payment)))
    await house.settle()
    for _ in range(3):
        assert is_pending(await house.ask(header_of(payment)))
    house.ledger.mine(payment.authorization)
    answer = await house.ask(header_of(payment))
    assert (answer.status, answer.body) == (200, b"served")
    assert answer.receipt["success"]
    assert answer.receipt["transaction"] == "0x" + house.ledger.block.to_bytes(32, "big").hex()
    assert (house.served, len(house.ledger.sent), house.earned) == (1, 1, PRICE)
    assert house.ledger.calls.count("transfer") == 1


async def test_case_24_it_is_looked_for_in_the_background_too(house: Shop) -> None:
    house.ledger.pending = True
    payment = house.alice.sign()
    assert is_pending(await house.ask(header_of(payment)))
    house.ledger.mine(payment.authorization)
    await house.settle()
    assert [found.stage for found in house.slips()] == [slip.ANSWERED]
    assert (await house.ask(header_of(payment))).body == b"served"


async def test_case_24_an_answer_that_was_not_kept_is_made_once_more_when_it_is_paid(
    house: Shop,
) -> None:
    house._app = answering()  # of no length: a stream
    house.ledger.pending = True
    payment = house.alice.sign()
    assert is_pending(await house.ask(header_of(payment)))
    await house.settle()
    house.ledger.mine(payment.authorization)
    answers = [await house.ask(header_of(payment)) for _ in range(2)]
    assert [answer.status for answer in answers] == [200, 409]
    assert answers[0].receipt["success"]
    assert (house.served, len(house.ledger.sent), house.earned) == (2, 1, PRICE)


async def test_case_24_a_pass_that_is_paid_late_is_there_when_its_answer_leaves() -> None:
    house = await shop_with(prices={"/priced": pass_for(PRICED, hours=1)})
    house.ledger.pending = True
    payment = house.alice.sign()
    assert is_pending(await house.ask(header_of(payment)))
    house.ledger.mine(payment.authorization)
    await house.settle()
    house.ledger.pending = False
    sold = await house.ask(header_of(payment))
    assert (sold.status, sold.receipt["success"]) == (200, True)
    token = (b"paywall-pass", (sold.header("paywall-pass") or "").encode())
    assert (await ask(house.wall, headers=[token])).status == 200
    again = await house.ask(header_of(house.alice.sign()))
    assert (again.status, again.receipt["amount"]) == (200, "0"), "there is a pass: not charged"
    assert (len(house.ledger.sent), house.earned) == (1, PRICE)
    await house.wall.close()


async def test_case_24_settled_first_the_handler_waits_for_the_transfer() -> None:
    house = await shop_with(settle_first=True)
    house.ledger.pending = True
    payment = house.alice.sign()
    assert is_pending(await house.ask(header_of(payment)))
    assert is_pending(await house.ask(header_of(payment)))
    assert house.served == 0
    house.ledger.mine(payment.authorization)
    await house.settle()
    assert (await house.ask(header_of(payment))).status == 200
    assert (house.served, len(house.ledger.sent)) == (1, 1)


async def test_case_24_a_transfer_that_was_never_mined_ends_with_its_time(house: Shop) -> None:
    house.ledger.pending = True
    payment = house.alice.sign()
    assert is_pending(await house.ask(header_of(payment)))
    await house.settle()
    house.clock.now = payment.authorization.valid_before + 1
    for _ in range(2):
        answer = await house.ask(header_of(payment))
        assert answer.status == 402
        assert answer.json["error"] == "invalid_exact_evm_payload_authorization_valid_before"
    assert (house.served, len(house.ledger.sent), house.earned) == (1, 1, 0)


async def test_case_24_another_worker_finds_what_a_dead_one_has_sent(house: Shop) -> None:
    """It died after it had sent the transfer, and before it could write down what became of it."""
    payment, stuck = house.alice.sign(), asyncio.Event()
    house.ledger.gates["transfer"] = stuck
    asked = asyncio.create_task(house.ask(header_of(payment)))
    await until(lambda: "transfer" in house.ledger.calls)
    assert [found.stage for found in house.slips()] == [slip.SENT]
    house.ledger.mine(payment.authorization)

    other = provider(answering(), chain=house.ledger, store=house.store, prices={"/priced": PRICED})
    other.gate._exact._clock = house.clock  # type: ignore[union-attr]
    answer = await ask(other, headers=paying(header_of(payment)))
    assert is_pending(answer)
    house.clock.now += HOLD_SECONDS + 1
    answer = await ask(other, headers=paying(header_of(payment)))
    assert (answer.status, answer.body) == (200, b"served")
    stuck.set()
    late = await asked
    assert late.status in (402, 503), "the late worker is fenced"
    assert (house.served, house.earned) == (1, PRICE)
    again = await ask(other, headers=paying(header_of(payment)))
    assert (again.status, again.body) == (200, b"served")


async def test_a_worker_that_died_before_it_sent_anything_leaves_the_payment_good(
    house: Shop,
) -> None:
    running = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        running.set()
        await asyncio.Event().wait()

    house._app = app
    header = house.alice.pay()
    dead = asyncio.create_task(house.ask(header))
    await running.wait()
    house._app = answering()
    assert (await house.ask(header)).json["error"] == "payment_in_progress"
    house.clock.now += HOLD_SECONDS + 1
    assert (await house.ask(header)).status == 200
    dead.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dead
    assert (house.earned, len(house.ledger.sent)) == (PRICE, 1)
    assert (await house.ask(header)).status == 409


async def test_a_long_request_keeps_its_payment(house: Shop) -> None:
    running, go_on = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        running.set()
        await go_on.wait()
        await answering()(scope, receive, send)

    house._app = app
    header = house.alice.pay()
    asked = asyncio.create_task(house.ask(header))
    await running.wait()
    for _ in range(3):
        house.clock.now += HOLD_SECONDS - 5
        await house.wall.gate._exact.renew()  # type: ignore[union-attr]
        assert (await house.ask(header)).json["error"] == "payment_in_progress"
    go_on.set()
    assert (await asked).status == 200


# -- Our own faults ------------------------------------------------------------------------------


async def test_case_12_a_chain_that_is_down_is_503_and_the_payment_stays_good(house: Shop) -> None:
    header = house.alice.pay()
    for verb in ("authorization", "transfer"):
        house.ledger.faults[verb] = ChainUnavailable("https://rpc.example/secret-key is down")
        answer = await house.ask(header)
        assert (answer.status, answer.header("payment-required")) == (503, None)
        assert b"secret-key" not in answer.body
        assert house.earned == 0
        house.ledger.faults.clear()
        await house.settle()
    assert (await house.ask(header)).status == 200
    assert (house.earned, len(house.ledger.sent)) == (PRICE, 1)


class Moody(FaultyStore):
    """A store that fails at its n-th look at a slip: before it acts, after it, or from then on."""

    def __init__(self, clock: Clock, number: int, how: str) -> None:
        super().__init__(clock)
        self.number = number
        self.how = how
        self.looks = 0

    async def _apply(self, channel_id: bytes, rule: Any, payment_id: str = "") -> Any:
        if payment_id != "slip":
            return await super()._apply(channel_id, rule, payment_id)
        self.looks += 1
        failing = self.looks == self.number or (self.how == "down" and self.looks > self.number)
        if failing and self.how != "lost":
            raise StoreUnavailable("it does not answer")
        found = await super()._apply(channel_id, rule, payment_id)
        if failing:
            raise StoreUnavailable("its answer was lost")
        return found


@pytest.mark.parametrize("number", range(1, 10))
@pytest.mark.parametrize("how", ["once", "lost", "down"])
@pytest.mark.parametrize("settle_first", [False, True])
async def test_case_12_a_store_that_fails_at_any_step_never_serves_for_nothing_nor_charges_twice(
    number: int, how: str, settle_first: bool
) -> None:
    house = Shop()
    moody = Moody(house.clock, number, how)
    house.wall = provider(
        house._count,
        chain=house.ledger,
        store=moody,
        prices={"/priced": PRICED},
        settle_first=settle_first,
    )
    house.wall.gate._exact._clock = house.clock  # type: ignore[union-attr]
    await house.wall.open()
    header, answers = house.alice.pay(), []
    for _ in range(4):
        answers.append(await house.ask(header))
        await house.settle()
        moody.number = 10**9  # it has recovered
        house.clock.now += HOLD_SECONDS + 1
    good = [answer for answer in answers if answer.status == 200]
    assert {answer.status for answer in answers} <= {200, 503}
    assert (house.earned, len(house.ledger.sent)) == ((PRICE, 1) if good else (0, 0))
    assert {answer.body for answer in good} <= {b"served"}
    assert good or all(a.json["error"] == "settlement_pending" for a in answers[1:])
    await house.wall.close()


def test_a_provider_needs_a_store_that_can_keep_slips() -> None:
    class Elsewhere:
        pass

    for schemes in (("exact",), ("batch-settlement",)):
        with pytest.raises(ConfigurationError, match="keeps no slips"):
            provider(answering(), store=Elsewhere(), schemes=schemes)


async def test_slips_live_in_a_file_too(tmp_path: Path, house: Shop) -> None:
    store = SqliteStore(tmp_path / "slips.db", clock=house.clock)
    wall = shop(answering(headers=[(b"content-length", b"6")]), house.ledger, store=store)
    wall.gate._exact._clock = house.clock  # type: ignore[union-attr]
    await wall.open()
    header = paying(house.alice.pay())
    assert [(await ask(wall, headers=header)).body for _ in range(2)] == [b"served"] * 2
    assert len(house.ledger.sent) == 1
    await wall.close()


def test_amounts_of_these_tests() -> None:
    assert ASSET.units(PRICED) == PRICE
