"""What an owner sees and decides: approval, events, the history, lanes and early top-ups."""

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx
import pytest
from helpers.agent import (
    DEPOSIT,
    ORIGIN,
    PRICE,
    Clock,
    FakeProvider,
    channel_of,
    choose,
    encode,
    make_wallet,
    offer,
    payment_of,
    quote,
    receipt_of,
    required,
)
from helpers.provider import turns

from paywall.asking import Approval
from paywall.client import AsyncClient, Client
from paywall.events import Corrected, Denied, Deposited, Event, Lost, Paid, Refused, Stopped, Unsent
from paywall.offers import Intent
from paywall.protocol.errors import (
    ConfigurationError,
    NotApproved,
    OverBudget,
    PaymentLost,
    PaymentRefused,
    ProviderMisbehaved,
)
from paywall.protocol.money import USDC
from paywall.questions import Question, Questions
from paywall.turns import Wait
from paywall.wallet import Wallet
from paywall.walletstate import FORGOTTEN_SECONDS

PLACE = ORIGIN + ":443"
URL = f"{ORIGIN}/a/b?secret=1"


@pytest.fixture
def provider() -> FakeProvider:
    return FakeProvider()


def client_of(wallet: Wallet, provider: FakeProvider) -> Client:
    return Client(wallet=wallet, transport=httpx.MockTransport(provider))


def want(wallet: Wallet, price: int = PRICE, **offered: Any) -> Intent:
    return choose(wallet, PLACE, quote(offer(price, **offered)))


# -- Approval ------------------------------------------------------------------------------------


class Owner:
    """Answers as told, and remembers what was asked."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[Approval] = []

    def __call__(self, approval: Approval) -> Any:
        self.asked.append(approval)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def later(self, approval: Approval) -> Any:
        await asyncio.sleep(0)
        return self(approval)


def test_the_owner_is_asked_above_an_amount_for_the_deposit_once(provider) -> None:
    owner = Owner(True)
    wallet = make_wallet(approve_above="$0.1", approve=owner)
    with client_of(wallet, provider) as client:
        for _ in range(3):
            assert client.get(URL).json() == {"paid": True}
    (asked,) = owner.asked
    assert (asked.kind, asked.amount, asked.origin, asked.path) == (
        "deposit",
        DEPOSIT,
        PLACE,
        "/a/b",
    )
    assert str(asked) == f"deposit of $0.50 for {PLACE}/a/b"
    wallet.close()


def test_the_owner_is_asked_for_each_dear_request(provider) -> None:
    owner = Owner(True, True, True, True)
    wallet = make_wallet(approve_above="$0.0005", approve=owner)
    with client_of(wallet, provider) as client:
        for _ in range(3):
            client.get(URL)
    assert [(one.kind, one.amount) for one in owner.asked] == [
        ("deposit", DEPOSIT),
        ("payment", PRICE),
        ("payment", PRICE),
    ]
    wallet.close()


@pytest.mark.parametrize("answer", [False, None, "yes", 1])
def test_whatever_is_not_true_is_no_consent_and_nothing_is_written(provider, answer) -> None:
    owner = Owner(answer)
    wallet = make_wallet(approve_above="$0.0005", approve=owner)
    with client_of(wallet, provider) as client, pytest.raises(NotApproved):
        client.get(URL)
    assert (wallet.spent(), wallet.file.totals().outlay, provider.payments) == (0, 0, [])
    wallet.close()


def test_who_has_said_no_is_not_asked_twice_for_one_request(provider) -> None:
    owner = Owner(True, False)
    wallet = make_wallet(approve_above="$0.0005", approve=owner)
    with client_of(wallet, provider) as client:
        client.get(URL)
        with pytest.raises(NotApproved):
            client.get(URL)  # its price is known: it was to be paid on the first try
    assert (len(owner.asked), wallet.spent()) == (2, PRICE)
    wallet.close()


def test_an_owner_who_fails_is_heard(provider) -> None:
    wallet = make_wallet(approve_above="$0.0005", approve=Owner(ZeroDivisionError("oh")))
    with client_of(wallet, provider) as client, pytest.raises(ZeroDivisionError):
        client.get(URL)
    assert wallet.spent() == 0
    wallet.close()


def test_with_nobody_to_ask_nothing_is_paid_above(provider) -> None:
    wallet = make_wallet(approve_above="$0.0005")
    with client_of(wallet, provider) as client, pytest.raises(NotApproved, match="nobody"):
        client.get(URL)
    wallet.close()


async def test_an_owner_may_be_awaited_and_others_go_on_meanwhile(provider) -> None:
    owner = Owner(True, True, False, True)
    wallet = make_wallet(approve_above="$0.0005", approve=owner.later)
    transport = httpx.MockTransport(provider.later)
    async with AsyncClient(wallet=wallet, transport=transport) as client:
        await client.get(URL)
        three = [client.get(URL) for _ in range(3)]
        answers = await asyncio.gather(*three, return_exceptions=True)
    assert sorted(type(answer).__name__ for answer in answers) == [
        "NotApproved",
        "Response",
        "Response",
    ]
    assert wallet.spent() == provider.charged == 3 * PRICE
    wallet.close()


class SlowOwner(Owner):
    """Thinks until it is told to answer."""

    def __init__(self, *answers: Any) -> None:
        super().__init__(*answers)
        self.decided = asyncio.Event()

    async def later(self, approval: Approval) -> Any:
        self.asked.append(approval)
        await self.decided.wait()
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


async def crowd(wallet: Wallet, provider: FakeProvider, owner: SlowOwner) -> list[Any]:
    """Ten tasks that meet a new provider at once; the owner decides when all of them have."""
    transport = httpx.MockTransport(provider.later)
    async with AsyncClient(wallet=wallet, transport=transport) as client:
        tasks = [asyncio.create_task(client.get(URL)) for _ in range(10)]
        await turns(500)
        assert len(owner.asked) == 1
        owner.decided.set()
        return await asyncio.gather(*tasks, return_exceptions=True)


async def test_many_tasks_that_meet_a_new_provider_ask_for_its_deposit_once(provider) -> None:
    owner = SlowOwner(True)
    wallet = make_wallet(approve_above="$0.1", approve=owner.later)
    answers = await crowd(wallet, provider, owner)
    assert [answer.json() for answer in answers] == [{"paid": True}] * 10
    assert [(one.kind, one.amount) for one in owner.asked] == [("deposit", DEPOSIT)]
    assert wallet.spent() == provider.charged == 10 * PRICE
    wallet.close()


async def test_many_tasks_that_meet_a_new_provider_hear_one_no(provider) -> None:
    owner = SlowOwner(False)
    wallet = make_wallet(approve_above="$0.1", approve=owner.later)
    answers = await crowd(wallet, provider, owner)
    assert {type(answer) for answer in answers} == {NotApproved}
    assert (len(owner.asked), wallet.spent(), provider.payments) == (1, 0, [])
    wallet.close()


async def test_when_an_owner_fails_the_next_who_waits_asks(provider) -> None:
    owner = SlowOwner(ZeroDivisionError("oh"), True)
    wallet = make_wallet(approve_above="$0.1", approve=owner.later)
    answers = await crowd(wallet, provider, owner)
    assert [type(answer) for answer in answers].count(ZeroDivisionError) == 1
    assert provider.charged == wallet.spent() == 9 * PRICE
    assert len(owner.asked) == 2
    wallet.close()


async def test_when_who_asks_is_cancelled_the_next_who_waits_asks(provider) -> None:
    owner = SlowOwner(True)
    wallet = make_wallet(approve_above="$0.1", approve=owner.later)
    transport = httpx.MockTransport(provider.later)
    async with AsyncClient(wallet=wallet, transport=transport) as client:
        tasks = [asyncio.create_task(client.get(URL)) for _ in range(3)]
        await turns(500)
        tasks[0].cancel()
        await turns(500)
        assert len(owner.asked) == 2
        owner.decided.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert [answer.status_code for answer in answers[1:]] == [200, 200]
    assert wallet.spent() == provider.charged == 2 * PRICE
    wallet.close()


def test_an_owner_that_pays_what_it_is_asked_for_is_told_and_does_not_wait_for_itself(
    provider,
) -> None:
    asked: list[Approval] = []

    def owner(approval: Approval) -> bool:
        asked.append(approval)
        with pytest.raises(NotApproved, match="would wait for itself"):
            client.get(URL)
        return True

    wallet = make_wallet(approve_above="$0.1", approve=owner)
    with client_of(wallet, provider) as client:
        for _ in range(2):
            assert client.get(URL).json() == {"paid": True}
    assert (len(asked), wallet.spent(), provider.charged) == (1, 2 * PRICE, 2 * PRICE)
    wallet.close()


async def test_nor_does_a_task_of_the_owner_and_others_wait_as_before(provider) -> None:
    heard: list[object] = []

    async def owner(approval: Approval) -> bool:
        task = asyncio.create_task(client.get(URL))
        heard.extend(await asyncio.gather(task, return_exceptions=True))
        return True

    wallet = make_wallet(approve_above="$0.1", approve=owner)
    transport = httpx.MockTransport(provider.later)
    async with AsyncClient(wallet=wallet, transport=transport) as client, asyncio.timeout(30):
        three = await asyncio.gather(*(client.get(URL) for _ in range(3)))
    assert [type(one) for one in heard] == [NotApproved]
    assert [answer.json() for answer in three] == [{"paid": True}] * 3
    assert wallet.spent() == provider.charged == 3 * PRICE
    wallet.close()


def test_the_same_address_on_two_networks_is_two_questions() -> None:
    questions, first, second = Questions(), Question(), Question()
    here = Approval("deposit", "https://a.test", "/x", "batch-settlement", DEPOSIT, USDC.base)
    there = replace(here, asset=replace(USDC.base, network="eip155:1"))
    assert questions.put(here, first) is questions.put(here, second) is first
    assert questions.put(there, second) is second


def test_threads_ask_for_one_deposit_once(provider) -> None:
    asked: list[Approval] = []
    decided = threading.Event()

    def owner(approval: Approval) -> bool:
        asked.append(approval)
        return decided.wait(10)

    wallet = make_wallet(approve_above="$0.1", approve=owner)
    with client_of(wallet, provider) as client, ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(client.get, URL) for _ in range(8)]
        while not asked:
            time.sleep(0.005)
        decided.set()
        assert [answer.result().status_code for answer in answers] == [200] * 8
    assert [(one.kind, one.amount) for one in asked] == [("deposit", DEPOSIT)]
    assert wallet.spent() == provider.charged == 8 * PRICE
    wallet.close()


async def test_one_yes_is_good_for_one_deposit(provider) -> None:
    owner = Owner(True, True, False)
    wallet = make_wallet(
        approve_above="$0.001", approve=owner.later, deposit="$0.002", top_up_percent=0
    )
    transport = httpx.MockTransport(provider.later)
    async with AsyncClient(wallet=wallet, transport=transport) as client:
        tasks = [client.get(URL) for _ in range(6)]
        answers = await asyncio.gather(*tasks, return_exceptions=True)
    paid = [answer for answer in answers if isinstance(answer, httpx.Response)]
    assert len(paid) == 4
    assert [one.amount for one in owner.asked] == [2 * PRICE] * 3
    assert {type(answer) for answer in answers if answer not in paid} == {NotApproved}
    wallet.close()


def test_an_owner_who_must_be_awaited_needs_a_client_that_waits(provider) -> None:
    wallet = make_wallet(approve_above="$0.0005", approve=Owner(True).later)
    with client_of(wallet, provider) as client, pytest.raises(ConfigurationError, match="Async"):
        client.get(URL)
    assert wallet.spent() == 0
    wallet.close()


def test_single_transfers_are_approved_too() -> None:
    owner = Owner(False)
    wallet = make_wallet(approve_above="$0.0005", approve=owner)
    told = offer(scheme="exact", extra={"receiverAuthorizer": None, "withdrawDelay": None})
    transport = httpx.MockTransport(lambda request: required(told))
    with Client(wallet=wallet, transport=transport) as client, pytest.raises(NotApproved):
        client.get(URL)
    assert [(one.scheme, one.amount) for one in owner.asked] == [("exact", PRICE)]
    assert wallet.file.transfers() == []
    wallet.close()


# -- Events and history --------------------------------------------------------------------------


@pytest.fixture
def told() -> list[Event]:
    return []


@pytest.fixture
def wallet(told: list[Event]) -> Iterator[Wallet]:
    one = make_wallet(on_event=told.append)
    yield one
    one.close()


def kinds(told: list[Event]) -> list[type[Event]]:
    return [type(event) for event in told]


def test_payments_and_deposits_are_told_and_remembered(wallet, provider, told) -> None:
    with client_of(wallet, provider) as client:
        client.get(URL)
        client.get(f"{ORIGIN}/c")
    channel = wallet.file.accounts()[0].channel_id
    assert kinds(told) == [Paid, Deposited, Paid]
    paid, deposited, _ = told
    assert isinstance(paid, Paid)
    assert isinstance(deposited, Deposited)
    assert (paid.origin, paid.path, paid.amount) == (PLACE, "/a/b", PRICE)
    assert (paid.scheme, paid.channel) == ("batch-settlement", "0x" + channel.hex())
    assert (deposited.amount, deposited.channel) == (DEPOSIT, paid.channel)
    rows = wallet.history()
    assert [(row.path, row.amount, row.outcome) for row in rows] == [
        ("/a/b", PRICE, "paid"),
        ("/c", PRICE, "paid"),
    ]
    assert "secret" not in repr(told) + repr(rows)
    assert rows[0].payment_id == paid.payment_id


def test_refusals_losses_and_denials_are_told(wallet, provider, told) -> None:
    with client_of(wallet, provider) as client:
        client.get(URL)
        provider.script.append(lambda p, r: required(p.offer(), error="no"))
        with pytest.raises(PaymentRefused):
            client.get(URL)
        provider.price = 20_000
        with pytest.raises(OverBudget):
            client.get(f"{ORIGIN}/dear/x")
    wallet.books.keep(wallet.books.begin(want(wallet)))
    wallet.books.unsent(wallet.books.begin(want(wallet)))
    assert kinds(told)[2:] == [Refused, Denied, Lost, Unsent]
    denied = told[3]
    assert isinstance(denied, Denied)
    assert (denied.limit, denied.origin) == ("per_request", PLACE)
    outcomes = [row.outcome for row in wallet.history()]
    assert outcomes == ["paid", "refused", "lost", "unsent"]
    assert [row.amount for row in wallet.history(outcome="lost")] == [PRICE]
    assert wallet.history(origin="https://other.example:443") == []
    assert [row.outcome for row in wallet.history(limit=1)] == ["unsent"]


def test_a_payment_that_was_forgotten_is_told_and_remembered_once(told) -> None:
    clock = Clock()
    wallet = make_wallet(clock=clock, on_event=told.append)
    late = wallet.books.begin(want(wallet), path="/lost")
    clock.now += FORGOTTEN_SECONDS + 1
    wallet.books.begin(want(wallet))
    wallet.books.keep(late)
    assert kinds(told) == [Lost]
    assert [(row.path, row.outcome) for row in wallet.history()] == [("/lost", "forgotten")]
    wallet.close()


def test_case_51_a_provider_that_charges_too_much_is_told_and_marked_for_withdrawal(
    wallet, told
) -> None:
    promise = wallet.books.begin(want(wallet))
    receipt = receipt_of(PRICE + 1, PRICE + 1, channel_of(promise.intent))
    with pytest.raises(ProviderMisbehaved):
        wallet.books.settle(promise, receipt)
    assert kinds(told) == [Paid, Stopped]
    (account,) = wallet.file.accounts()
    assert account.must_withdraw
    assert account.withdrawal is not None
    assert "charged 1001 where 1000" in account.withdrawal.why
    assert '"chargedAmount": "1001"' in (account.stopped or "")
    told_of_transfers = offer(scheme="exact", extra={"receiverAuthorizer": None})
    (intent,) = wallet.rank(PLACE, quote(told_of_transfers))
    with pytest.raises(ProviderMisbehaved):
        wallet.books.begin_any(intent)


def charged_and_denied(provider: FakeProvider, request: httpx.Request) -> httpx.Response:
    """It takes the payment and says that it failed."""
    payment, number = provider._admit(payment_of(request))
    ledger = provider.ledgers[payment.channel]
    ledger.charged += ledger.holds.pop(number)
    return httpx.Response(500)


def test_a_correction_is_told(wallet, told) -> None:
    provider = FakeProvider(window=None)
    with client_of(wallet, provider) as client:
        client.get(URL)
        provider.script.append(charged_and_denied)
        assert client.get(URL).status_code == 500
        assert client.get(URL).status_code == 200
    assert kinds(told) == [Paid, Deposited, Refused, Refused, Corrected, Paid]
    channel = "0x" + wallet.file.accounts()[0].channel_id.hex()
    assert told[4] == Corrected(wallet.clock(), PLACE, channel, PRICE, 2 * PRICE)
    assert wallet.spent() == provider.charged == 3 * PRICE


def test_single_transfers_are_told_and_remembered(wallet, told) -> None:
    offered = offer(scheme="exact", extra={"receiverAuthorizer": None, "withdrawDelay": None})

    def serve(request: httpx.Request) -> httpx.Response:
        if "payment-signature" not in request.headers:
            return required(offered)
        receipt = {"success": True, "transaction": "0x" + "ab" * 32, "network": "eip155:84532"}
        return httpx.Response(200, headers={"payment-response": encode(receipt)})

    with Client(wallet=wallet, transport=httpx.MockTransport(serve)) as client:
        client.get(URL)
    (row,) = wallet.history()
    assert (row.scheme, row.outcome, row.transaction) == ("exact", "paid", "0x" + "ab" * 32)
    assert (row.channel, row.path) == ("", "/a/b")
    assert kinds(told) == [Paid]


def test_a_callback_that_raises_breaks_nothing(provider, caplog) -> None:
    def broken(event: Event) -> None:
        raise ZeroDivisionError

    wallet = make_wallet(on_event=broken)
    with client_of(wallet, provider) as client:
        assert client.get(URL).json() == {"paid": True}
    assert wallet.spent() == PRICE
    assert "callback for events failed" in caplog.text
    wallet.close()


def test_events_are_frozen_values() -> None:
    event = Corrected(1.0, PLACE, "0x", 1, 2)
    with pytest.raises(AttributeError):
        event.before = 5  # type: ignore[misc]
    assert event == Corrected(1.0, PLACE, "0x", 1, 2)


def test_the_history_is_bounded_by_policy(provider) -> None:
    wallet = make_wallet(history=5)
    with client_of(wallet, provider) as client:
        for number in range(12):
            client.get(f"{ORIGIN}/{number}")
    assert [row.path for row in wallet.history()] == [f"/{number}" for number in range(7, 12)]
    wallet.close()


# -- Lanes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lanes", "most"), [(1, 1), (3, 3)])
async def test_lanes_are_opened_at_a_serial_provider_only_when_told(lanes, most) -> None:
    provider = FakeProvider(window=None, delay=0.02)
    wallet = make_wallet(lanes=lanes)
    transport = httpx.MockTransport(provider.later)
    async with AsyncClient(wallet=wallet, transport=transport) as client:
        answers = await asyncio.gather(*(client.get(URL) for _ in range(12)))
    assert [answer.status_code for answer in answers] == [200] * 12
    assert len(provider.ledgers) == most
    assert {ledger.most_at_once for ledger in provider.ledgers.values()} == {1}
    assert wallet.spent() == provider.charged == 12 * PRICE
    wallet.close()


async def test_a_lane_that_the_budget_does_not_allow_is_not_opened() -> None:
    provider = FakeProvider(window=None, delay=0.01)
    wallet = make_wallet(lanes=4, total="$0.5")
    transport = httpx.MockTransport(provider.later)
    async with AsyncClient(wallet=wallet, transport=transport) as client:
        answers = await asyncio.gather(*(client.get(URL) for _ in range(6)))
    assert [answer.status_code for answer in answers] == [200] * 6
    assert len(provider.ledgers) == 1
    wallet.close()


def test_each_lane_is_counted_under_one_total(provider) -> None:
    wallet = make_wallet(lanes=2, total="$0.003", deposit="$0.002")
    first, second = (wallet.books.begin(want(wallet, window=None)) for _ in range(2))
    assert first.intent.channel_id != second.intent.channel_id
    assert first.queue == second.queue
    with pytest.raises(Wait):
        wallet.books.begin(want(wallet, window=None))
    assert wallet.file.totals().outlay == 3_000
    wallet.close()


# -- Early top-ups -------------------------------------------------------------------------------


def filled(wallet: Wallet, spent: int) -> Intent:
    """A channel of which so much is used up."""
    intent = want(wallet, price=spent)
    wallet.books.settle(wallet.books.begin(intent), receipt_of(spent, spent, channel_of(intent)))
    return want(wallet)


def test_a_channel_is_filled_before_it_is_dry_and_the_others_go_on() -> None:
    wallet = make_wallet(deposit="$0.01", total="$1")
    intent = filled(wallet, 6_000)
    plain = [wallet.books.begin(intent) for _ in range(2)]
    early = wallet.books.begin(intent)
    beside = wallet.books.begin(intent)
    assert [one.deposit for one in (*plain, beside)] == [None] * 3
    assert early.top_up
    assert early.deposit is not None
    assert early.deposit.amount == 10_000
    assert (early.amount, beside.amount) == (9_000, 10_000)
    wallet.books.settle(early, receipt_of(PRICE, 2**90, channel_of(intent)))
    assert wallet.file.accounts()[0].balance == 20_000
    wallet.close()


def test_a_top_up_that_is_refused_costs_nothing_and_is_not_tried_at_once_again() -> None:
    provider = FakeProvider()
    wallet = make_wallet(deposit="$0.01", total="$1")
    with client_of(wallet, provider) as client:
        for _ in range(8):
            client.get(URL)

        def poor(p: FakeProvider, request: httpx.Request) -> httpx.Response:
            return required(p.offer(), error="deposit_transaction_failed")

        provider.script.append(poor)
        assert client.get(URL).status_code == 200
    assert [payment.deposit for payment in provider.payments] == [10_000, *[0] * 7, 10_000, 0]
    assert wallet.spent() == provider.charged == 9 * PRICE
    wallet.close()


@pytest.mark.parametrize(
    "settings",
    [
        {"top_up_percent": 0},
        {"total": "$0.01"},
        {"approve_above": "$0.007"},
    ],
)
def test_no_channel_is_filled_early_where_something_speaks_against_it(settings) -> None:
    wallet = make_wallet(
        **({"deposit": "$0.01", "total": "$1", "approve": lambda a: True} | settings)
    )
    intent = want(wallet, price=9_000)
    approved = wallet.books.begin(intent, approved=10_000)
    wallet.books.settle(approved, receipt_of(9_000, 9_000, channel_of(intent)))
    assert wallet.books.begin(want(wallet)).deposit is None
    wallet.close()


def test_a_lost_answer_is_told_as_lost(wallet, provider, told) -> None:
    def silent(p: FakeProvider, request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("slow")

    with client_of(wallet, provider) as client:
        client.get(URL)
        provider.script.append(silent)
        with pytest.raises(PaymentLost):
            client.get(URL)
    assert kinds(told)[-1] is Lost
