"""An agent that pays by single transfers: which offer it takes, what it signs, sends and counts."""

import asyncio
import base64
import json
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from helpers.agent import (
    ASSET,
    KEY,
    ORIGIN,
    PAYER,
    STRANGER,
    Clock,
    FakeProvider,
    Json,
    encode,
    header_of,
    make_wallet,
    offer,
    quote,
    required,
)
from msgspec import Raw

from paywall import sending
from paywall.client import AsyncClient, Client, receipt
from paywall.flow import pay
from paywall.offers import ExactIntent, Intent
from paywall.protocol.eip712 import address_of
from paywall.protocol.errors import (
    AgentError,
    NoAcceptableOffer,
    OverBudget,
    PaymentLost,
    PaymentRefused,
    ProviderMisbehaved,
)
from paywall.protocol.money import Address
from paywall.protocol.schemes import exact
from paywall.protocol.schemes.exact import ExactPayment
from paywall.reviews import review_refused
from paywall.wallet import Wallet
from paywall.walletstate import open_state
from paywall.walletupgrade import VERSION_1

PRICE = 10_000
URL = ORIGIN + "/once"
USED = "invalid_exact_evm_nonce_already_used"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "RESEND_PAUSES_SECONDS", (0.001, 0.001))
    monkeypatch.setattr(sending, "PATIENCE_SECONDS", 0.004)


@pytest.fixture
def wallet() -> Wallet:
    return make_wallet(total="$1")


def transfer(price: int = PRICE, **changes: Any) -> Json:
    """An offer of the scheme exact, as the official servers spell it."""
    extra = {"name": ASSET.name, "version": ASSET.version} | changes.pop("extra", {})
    return offer(price, scheme="exact") | {"extra": extra} | changes


def receipt_json(**changes: Any) -> Json:
    told = {"success": True, "transaction": "0x" + "ab" * 32, "network": ASSET.network}
    return told | {"payer": "0x" + PAYER.hex()} | changes


def paid(**changes: Any) -> httpx.Response:
    headers = {"payment-response": encode(receipt_json(**changes))}
    return httpx.Response(200, headers=headers, json={"paid": True})


def failed(reason: str, status: int = 402, **headers: str) -> httpx.Response:
    told = receipt_json(success=False, transaction="", errorReason=reason)
    return httpx.Response(status, headers=headers | {"payment-response": encode(told)})


Trick = Callable[[httpx.Request], httpx.Response]


@dataclass
class Till:
    """A provider of single transfers, which keeps what it was sent and does as it is told."""

    offers: list[Json] = field(default_factory=lambda: [transfer()])
    tricks: list[Trick | httpx.Response] = field(default_factory=list)
    payments: list[ExactPayment] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)
    asked: int = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        header = header_of(request)
        if header is None:
            self.asked += 1
            return required(*self.offers)
        self.headers.append(header)
        self.payments.append(read(header))
        trick = self.tricks.pop(0) if self.tricks else paid()
        return trick if isinstance(trick, httpx.Response) else trick(request)

    @property
    def authorizations(self) -> set[bytes]:
        return {payment.authorization.authorization_nonce for payment in self.payments}


def read(header: str) -> ExactPayment:
    """A payment, checked as the token would."""
    message = json.loads(base64.b64decode(header))
    payment = exact.parse(Raw(json.dumps(message["payload"]).encode()), ASSET.address)
    exact.refuse_unsigned(payment, ASSET)
    return payment


def lost(_: httpx.Request) -> httpx.Response:
    raise httpx.ReadTimeout("no answer")


def unreachable(_: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("nobody there")


def get(wallet: Wallet, till: Trick, url: str = URL) -> httpx.Response:
    with Client(wallet=wallet, transport=httpx.MockTransport(till)) as client:
        return client.get(url)


# -- Choosing ------------------------------------------------------------------------------------


def ranked(wallet: Wallet, *offers: Json) -> list[tuple[str, int]]:
    names = {Intent: "channel", ExactIntent: "transfer"}
    return [(names[type(i)], i.price) for i in wallet.rank(ORIGIN, quote(*offers))]


def test_case_44_the_cheapest_acceptable_offer_is_the_best(wallet: Wallet) -> None:
    assert ranked(wallet, offer(3000), transfer(2000), offer(9_999_999)) == [
        ("transfer", 2000),
        ("channel", 3000),
    ]


def test_at_equal_price_a_channel_comes_first_for_more_requests_are_likely(wallet: Wallet) -> None:
    assert [kind for kind, _ in ranked(wallet, transfer(), offer(PRICE))] == [
        "channel",
        "transfer",
    ]


def test_who_expects_no_more_requests_opens_no_channel_but_uses_one_that_is_there() -> None:
    wallet, provider = make_wallet(expect_more=False), FakeProvider(PRICE)
    both = [offer(PRICE), transfer()]
    assert ranked(wallet, *both)[0] == ("transfer", PRICE)
    get(wallet, provider)  # a provider that has channels only
    (account,) = wallet.file.accounts()
    origin = account.origin
    assert isinstance(wallet.rank(origin, quote(*both))[0], Intent)
    assert isinstance(wallet.rank(origin, quote(*reversed(both)))[0], Intent)
    assert isinstance(wallet.rank(ORIGIN + ":9", quote(*both))[0], ExactIntent)


@pytest.mark.parametrize(
    "strange",
    [
        transfer(asset="0x" + "12" * 20),
        transfer(network="eip155:999"),
        transfer(payTo="0x" + "00" * 20),
        transfer(payTo="me"),
        transfer(amount="0"),
        transfer(amount="-1"),
        transfer(maxTimeoutSeconds=0),
        transfer(extra={"assetTransferMethod": "permit2"}),
        transfer(extra={"name": None}),
    ],
)
def test_case_44_a_transfer_on_strange_terms_is_passed_over(wallet: Wallet, strange: Json) -> None:
    with pytest.raises(NoAcceptableOffer):
        wallet.rank(ORIGIN, quote(strange))
    assert ranked(wallet, strange, transfer(2000)) == [("transfer", 2000)]


def test_case_44_a_price_above_the_ceiling_is_not_paid(wallet: Wallet) -> None:
    till = Till([transfer(10_001)])
    with pytest.raises(OverBudget):
        get(wallet, till)
    assert till.payments == []


def test_a_transfer_is_made_where_the_budget_allows_no_deposit() -> None:
    wallet = make_wallet(deposit="$0.01", total="$0.05")
    dear = offer(PRICE, extra={"minDeposit": "1000000"})
    till = Till([dear, transfer()])
    assert get(wallet, till).json() == {"paid": True}
    assert len(till.payments) == 1
    assert (wallet.spent(), wallet.file.accounts()) == (PRICE, [])


def test_a_provider_of_transfers_only_is_paid_by_transfers(wallet: Wallet) -> None:
    till = Till()
    assert [get(wallet, till).status_code for _ in range(3)] == [200] * 3
    assert len(till.authorizations) == 3
    assert till.asked == 1, "the price is known from then on"
    assert wallet.spent() == 3 * PRICE


# -- What is signed ------------------------------------------------------------------------------


def test_what_is_signed_is_the_price_for_a_bounded_time_under_the_tokens_real_domain(
    wallet: Wallet,
) -> None:
    till = Till([transfer(maxTimeoutSeconds=10**9, extra={"name": "Tether", "version": "9"})])
    get(wallet, till)
    told = till.payments[0].authorization
    assert (told.payer, told.to, told.value) == (PAYER, b"\x33" * 20, PRICE)
    assert (told.valid_after, told.valid_before) == (0, int(wallet.clock()) + 300)


def test_a_shorter_time_of_the_offer_is_kept(wallet: Wallet) -> None:
    till = Till([transfer(maxTimeoutSeconds=60)])
    get(wallet, till)
    assert till.payments[0].authorization.valid_before == int(wallet.clock()) + 60


def test_what_was_offered_is_echoed_and_the_id_named_where_ids_are_honoured(
    wallet: Wallet,
) -> None:
    till = Till()

    def asking(request: httpx.Request) -> httpx.Response:
        if header_of(request) is None:
            return required(transfer(), extensions={"payment-identifier": {"info": {}}})
        return till(request)

    get(wallet, asking)
    message = json.loads(base64.b64decode(till.headers[0]))
    assert message["accepted"] == transfer()
    assert message["extensions"]["payment-identifier"]["info"]["id"].startswith("pay_")


def test_the_receipt_names_the_transaction(wallet: Wallet) -> None:
    found = receipt(get(wallet, Till(tricks=[paid(extra={"theirs": 1})])))
    assert found is not None
    assert (found.success, found.transaction, found.channel) == (True, "0x" + "ab" * 32, None)


# -- Counting ------------------------------------------------------------------------------------


def test_case_45_the_total_is_never_exceeded_by_one_unit() -> None:
    wallet, till = make_wallet(total="$0.025"), Till()
    assert [get(wallet, till).status_code for _ in range(2)] == [200] * 2
    with pytest.raises(OverBudget):
        get(wallet, till)
    assert (wallet.spent(), len(till.payments)) == (2 * PRICE, 2)


async def test_case_45_many_at_once_share_one_budget() -> None:
    wallet, till = make_wallet(total="$0.1"), Till()

    async def slow(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0.001)
        return till(request)

    async with AsyncClient(wallet=wallet, transport=httpx.MockTransport(slow)) as client:
        asked = (client.get(URL) for _ in range(40))
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
    served = [answer for answer in outcomes if isinstance(answer, httpx.Response)]
    assert len(served) == len(till.authorizations) == 10
    assert all(isinstance(o, OverBudget) for o in outcomes if not isinstance(o, httpx.Response))
    assert wallet.spent() == 10 * PRICE


def test_case_45_transfers_and_channels_share_one_budget() -> None:
    wallet = make_wallet(total="$0.05", deposit="$0.04")
    get(wallet, FakeProvider(PRICE), ORIGIN + ":81/x")
    assert get(wallet, Till()).status_code == 200
    with pytest.raises(OverBudget):
        get(wallet, Till(), ORIGIN + ":82/x")


def test_case_45_another_process_sees_what_was_signed(tmp_path: Path) -> None:
    one, other = (make_wallet(tmp_path / "w.db", total="$0.02") for _ in range(2))
    get(one, Till())
    get(other, Till())
    assert one.spent() == other.spent() == 2 * PRICE
    with pytest.raises(OverBudget):
        get(one, Till())


def test_nothing_left_is_nothing_spent(wallet: Wallet) -> None:
    with pytest.raises(httpx.ConnectError):
        get(wallet, Till(tricks=[unreachable]))
    assert (wallet.spent(), wallet.file.transfers()) == (0, [])


def test_a_refused_transfer_is_spent_until_its_time_has_passed(
    wallet: Wallet,
) -> None:
    clock = wallet.clock
    assert isinstance(clock, Clock)
    with pytest.raises(PaymentRefused):
        get(wallet, Till(tricks=[required(transfer(), error="invalid_exact_evm_x")]))
    assert wallet.spent() == PRICE
    get(wallet, Till())
    assert wallet.spent() == 2 * PRICE
    clock.now += 300 + 31
    get(wallet, Till())
    assert wallet.spent() == 2 * PRICE, "two that were paid, and none that was refused"
    assert wallet.file.totals().outlay == 3 * PRICE, "until the chain has said the same"


@pytest.mark.parametrize("limit", ["total", "per_host", "per_day"])
def test_case_45_who_refuses_transfers_and_makes_them_gets_no_more_than_the_ceiling(
    limit: str,
) -> None:
    """It says each time that it took nothing, and waits until that is forgotten."""
    clock = Clock()
    wallet = make_wallet(clock=clock, **{limit: f"$0.0{3 * PRICE // 10_000}"})
    till = Till(tricks=[failed("invalid_exact_evm_x")] * 9)
    for _ in range(9):
        with suppress(OverBudget):
            get(wallet, till)
        clock.now += 300 + 31
    assert (len(till.payments), wallet.spent()) == (3, PRICE)
    wallet.close()


class Answers:
    """A chain on which these nonces were used."""

    network = ASSET.network

    def __init__(self, now: float, *used: bytes) -> None:
        self.now = now
        self.used = used

    async def time(self) -> int:
        return int(self.now)

    async def is_used(self, token: Address, payer: Address, authorization_nonce: bytes) -> bool:
        assert (token, payer) == (ASSET.address, PAYER)
        return authorization_nonce in self.used


async def test_what_was_refused_is_free_when_the_chain_says_so_and_who_lied_is_not_paid() -> None:
    clock = Clock()
    wallet = make_wallet(clock=clock)
    honest, liar = ORIGIN + ":81/x", "https://liar.example/x"
    for url in (honest, liar):
        get(wallet, Till(tricks=[failed("invalid_exact_evm_x")]), url)
    used = [row.authorization_nonce for row in wallet.file.transfers() if "liar" in row.origin]
    assert await review_refused(wallet, Answers(clock.now, *used)) == []
    clock.now += 300 + 31
    assert await review_refused(wallet, Answers(clock.now - 60, *used)) == []
    found = await review_refused(wallet, Answers(clock.now, *used))
    assert {one.origin.split("/")[2]: one.was_used for one in found} == {
        "api.example:81": False,
        "liar.example:443": True,
    }
    assert await review_refused(wallet, Answers(clock.now, *used)) == []
    totals = wallet.file.totals()
    assert (totals.spent, totals.outlay) == (PRICE, PRICE)
    assert [wallet.file.host_promised(url) for url in (honest, liar)] == [0, PRICE]
    with pytest.raises(ProviderMisbehaved, match="said it had refused"):
        get(wallet, Till(), liar)
    assert get(wallet, Till(), honest).status_code == 200
    wallet.close()


def test_a_failed_settlement_is_an_answer_like_others(wallet: Wallet) -> None:
    answer = get(wallet, Till(tricks=[failed("invalid_exact_evm_insufficient_balance")]))
    assert answer.status_code == 402
    (row,) = wallet.file.transfers()
    assert (row.refused, row.price, wallet.spent()) == (True, PRICE, PRICE)


@pytest.mark.parametrize("status", [404, 500, 503, 200, 302])
def test_an_answer_that_says_nothing_of_the_payment_leaves_it_spent(
    wallet: Wallet, status: int
) -> None:
    clock = wallet.clock
    assert isinstance(clock, Clock)
    assert get(wallet, Till(tricks=[httpx.Response(status)])).status_code == status
    assert wallet.spent() == PRICE
    clock.now += 10_000
    get(wallet, Till())
    assert wallet.spent() == 2 * PRICE


def test_a_receipt_for_nothing_is_free_again_later(wallet: Wallet) -> None:
    clock = wallet.clock
    assert isinstance(clock, Clock)
    get(wallet, Till(tricks=[paid(transaction="", amount="0")]))
    assert wallet.spent() == PRICE
    clock.now += 331
    get(wallet, Till())
    assert wallet.spent() == PRICE


def test_a_crash_before_the_answer_leaves_it_spent(tmp_path: Path) -> None:
    wallet = make_wallet(tmp_path / "w.db")
    (intent,) = wallet.rank(ORIGIN, quote(transfer()))
    wallet.books.begin_any(intent)
    again = make_wallet(tmp_path / "w.db")
    assert again.spent() == PRICE
    assert [row.price for row in again.file.transfers()] == [PRICE]


def test_case_53_a_promise_shows_no_key(wallet: Wallet) -> None:
    (intent,) = wallet.rank(ORIGIN, quote(transfer()))
    assert KEY.hex() not in repr(wallet.books.begin_any(intent))


# -- Sent again, and never anew ------------------------------------------------------------------


def test_case_49_after_a_lost_answer_the_very_same_transfer_is_sent_again(wallet: Wallet) -> None:
    till = Till(tricks=[lost, lost])
    assert get(wallet, till).json() == {"paid": True}
    assert (len(till.headers), len(set(till.headers)), wallet.spent()) == (3, 1, PRICE)


def test_case_49_then_it_is_lost_and_nothing_is_signed_anew(wallet: Wallet) -> None:
    till = Till(tricks=[lost] * 9)
    with pytest.raises(PaymentLost):
        get(wallet, till)
    assert (len(till.headers), len(set(till.headers)), wallet.spent()) == (3, 1, PRICE)


def test_case_49_a_provider_that_forgot_its_answer_is_not_paid_again(wallet: Wallet) -> None:
    """One without ids: the transfer was made, and its nonce is used."""
    till = Till(tricks=[lost, required(transfer(), error=USED)])
    with pytest.raises(PaymentLost):
        get(wallet, till)
    assert (len(till.authorizations), wallet.spent()) == (1, PRICE)


def test_case_24_a_pending_settlement_is_waited_for_with_the_same_transfer(wallet: Wallet) -> None:
    pending = failed("settlement_pending", 503)
    till = Till(tricks=[pending, pending])
    assert get(wallet, till).json() == {"paid": True}
    assert (len(set(till.headers)), wallet.spent()) == (1, PRICE)


def test_case_24_one_that_stays_pending_is_lost_and_counts(wallet: Wallet) -> None:
    till = Till(tricks=[failed("settlement_pending", 503)] * 9)
    with pytest.raises(PaymentLost):
        get(wallet, till)
    assert (len(till.authorizations), wallet.spent()) == (1, PRICE)


# -- Hostile providers ---------------------------------------------------------------------------


def test_case_46_who_asks_again_with_other_terms_gets_no_second_transfer(wallet: Wallet) -> None:
    till = Till(tricks=[required(transfer(PRICE - n), error="more") for n in range(1, 9)])
    with pytest.raises(PaymentRefused):
        get(wallet, till)
    assert len(till.authorizations) == 1


def test_case_46_who_takes_it_and_asks_for_more_is_not_paid_any_more(wallet: Wallet) -> None:
    more = required(transfer(), headers={"payment-response": encode(receipt_json())})
    with pytest.raises(ProviderMisbehaved):
        get(wallet, Till(tricks=[more]))
    till = Till()
    with pytest.raises(AgentError):
        get(wallet, till)
    assert (till.payments, wallet.spent()) == ([], PRICE)


@pytest.mark.parametrize("amount", ["-1", "1e3", "x", "9" * 99])
def test_a_receipt_with_a_broken_amount_counts_as_spent(wallet: Wallet, amount: str) -> None:
    with pytest.raises(PaymentRefused):
        get(wallet, Till(tricks=[paid(amount=amount)]))
    assert (wallet.spent(), wallet.file.transfers()) == (PRICE, [])


def test_a_receipt_that_says_less_was_paid_is_not_believed(wallet: Wallet) -> None:
    get(wallet, Till(tricks=[paid(amount="1")]))
    assert wallet.spent() == PRICE


def test_words_about_channels_do_not_confuse_a_transfer(wallet: Wallet) -> None:
    reason = "invalid_batch_settlement_evm_cumulative_amount_mismatch"
    till = Till(tricks=[required(transfer(), error=reason)])
    with pytest.raises(PaymentRefused):
        get(wallet, till)
    assert len(till.payments) == 1


def test_a_refund_knows_no_transfers(wallet: Wallet) -> None:
    till = Till()
    with Client(wallet=wallet, transport=httpx.MockTransport(till)) as client:
        assert client.get(URL).status_code == 200
        with pytest.raises(NoAcceptableOffer):
            client.refund(URL)
    assert len(till.payments) == 1


def test_somebody_elses_signature_would_not_pass_these_tests() -> None:
    assert address_of(STRANGER) != PAYER


# -- The file ------------------------------------------------------------------------------------


def test_a_file_of_the_first_version_learns_about_transfers(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    with sqlite3.connect(path) as db:
        db.executescript(VERSION_1 + "PRAGMA user_version = 1;")
        db.execute("UPDATE total SET spent = '7', outlay = '9'")
    db.close()
    file = open_state(path, time.time)
    assert (file.totals().spent, file.totals().outlay, file.transfers()) == (7, 9, [])
    file.close()
    wallet = make_wallet(path)
    get(wallet, Till())
    assert wallet.spent() == PRICE + 7


@pytest.mark.parametrize(
    ("url", "told"),
    [
        (URL + "?a=1#part", ORIGIN + "/once?a=1"),
        ("https://me:secret@api.example/once", ORIGIN + "/once"),
        (URL + "?" + "a" * 3000, None),
    ],
)
def test_case_53_a_transfer_says_what_it_is_for_and_no_password(
    url: str, told: str | None, wallet: Wallet
) -> None:
    till = Till()
    assert get(wallet, till, url).status_code == 200
    (header,) = till.headers
    message = json.loads(base64.b64decode(header))
    assert message.get("resource") == (told and {"url": told})


def test_case_16_an_upload_that_is_refused_shows_no_password_and_no_query(wallet: Wallet) -> None:
    url = "https://me:hunter2@api.example/up?token=t0p"
    conversation = pay(wallet, httpx.Request("POST", url, content=iter([b"a"])))
    next(conversation)
    with pytest.raises(AgentError, match="cannot be sent twice") as refusal:
        conversation.send(required(transfer()))
    assert "https://api.example:443/up" in str(refusal.value)
    assert not [word for word in ("hunter2", "t0p") if word in str(refusal.value)]
