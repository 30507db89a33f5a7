"""The agent's conversation, by `next`, `send` and `throw`: no sockets, no client."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import ClassVar

import httpx
import pytest
from helpers.agent import (
    DEPOSIT,
    EXCEEDS,
    MISMATCH,
    NOT_FOUND,
    PRICE,
    STRANGER,
    Json,
    Sent,
    corrected,
    encode,
    header_of,
    make_wallet,
    offer,
    paid,
    payment_of,
    proof,
    receipt_json,
    required,
)

from paywall.confirmations import receipt
from paywall.flow import pay, refund
from paywall.protocol.errors import (
    AgentError,
    InvalidQuote,
    NoAcceptableOffer,
    OverBudget,
    PaymentLost,
    PaymentRefused,
    ProviderMisbehaved,
    Reason,
)
from paywall.protocol.limits import MAX_QUOTE_HEADER_BYTES
from paywall.turns import Turn
from paywall.wallet import Wallet

URL = "https://api.example/weather/paris"
OK = httpx.Response(200, json={})


@pytest.fixture
def wallet() -> Iterator[Wallet]:
    one = make_wallet()
    yield one
    for talk in Talk.begun:
        talk.flow.close()
    Talk.begun.clear()
    one.close()


class Talk:
    """A flow, step by step."""

    begun: ClassVar[list["Talk"]] = []

    def __init__(self, wallet: Wallet, url: str = URL, method: str = "GET", **body: object) -> None:
        self.request = httpx.Request(method, url, **body)  # type: ignore[arg-type]
        self.flow = pay(wallet, self.request)
        self.begun.append(self)

    def start(self) -> httpx.Request:
        return self.step(None)

    def step(self, response: httpx.Response | None) -> httpx.Request:
        """Answers the last request; the next one."""
        step = self.flow.send(response)
        assert isinstance(step, httpx.Request)
        return step

    def turn(self) -> Turn:
        step = self.flow.send(None)
        assert isinstance(step, Turn)
        return step

    def end(self, response: httpx.Response | None) -> httpx.Response:
        with pytest.raises(StopIteration) as done:
            self.flow.send(response)
        assert done.value.value is response
        return done.value.value  # type: ignore[no-any-return]

    def pay(self, told: httpx.Response | None = None) -> httpx.Request:
        """The unpaid request, a quote, and the paid request."""
        assert header_of(self.start()) is None
        return self.step(told or required())


def buy(
    wallet: Wallet, url: str = URL, method: str = "GET", quoted: httpx.Response | None = None
) -> Sent:
    """One good purchase; its payment."""
    talking = Talk(wallet, url, method)
    request = talking.start()
    if header_of(request) is None:
        request = talking.step(quoted or required())
    talking.end(paid(request))
    return payment_of(request)


def refused(channel: str, charged: int, proven: Json | None, **told: int) -> httpx.Response:
    return required(corrected(channel, charged, proven, **told), error=MISMATCH)


# -- The way of one request ----------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 204, 302, 404, 500, 503])
def test_a_free_answer_costs_nothing(wallet, status):
    talk = Talk(wallet)
    assert talk.start() is talk.request
    talk.end(httpx.Response(status))
    assert (wallet.spent(), wallet.file.accounts()) == (0, [])


def test_a_402_without_a_quote_is_an_answer(wallet):
    talk = Talk(wallet)
    talk.start()
    talk.end(httpx.Response(402, json={"x402Version": 1, "accepts": []}))


def test_a_quote_on_another_status_asks_for_nothing(wallet):
    talk = Talk(wallet)
    talk.start()
    talk.end(httpx.Response(200, headers=required().headers))


def test_a_quote_is_paid_and_the_answer_handed_over(wallet):
    talk = Talk(wallet, method="POST", content=b"body", headers={"x-mine": "1"})
    request = talk.pay()
    sent = payment_of(request)
    assert (sent.kind, sent.amount, sent.deposit) == ("deposit", PRICE, DEPOSIT)
    assert (request.method, request.url, request.read()) == ("POST", URL, b"body")
    assert request.headers["x-mine"] == "1"
    assert header_of(talk.request) is None
    answer = talk.end(paid(request))
    told = receipt(answer)
    assert told
    assert (told.charged, told.total, told.success) == (PRICE, PRICE, True)
    assert wallet.spent() == PRICE


def test_a_known_price_is_paid_on_the_first_try(wallet):
    buy(wallet)
    talk = Talk(wallet)
    request = talk.start()
    assert payment_of(request).amount == 2 * PRICE
    talk.end(paid(request))
    assert wallet.spent() == 2 * PRICE


def test_a_siblings_price_is_paid_on_the_first_try(wallet):
    buy(wallet)
    sent = buy(wallet, "https://api.example/weather/rome?days=3")
    assert (sent.kind, sent.amount) == ("voucher", 2 * PRICE)


@pytest.mark.parametrize(
    ("url", "method"),
    [
        ("https://api.example/other/rome", "GET"),
        ("https://api.example/weather/rome/today", "GET"),
        ("https://api.example/weather/paris", "POST"),
        ("http://api.example/weather/paris", "GET"),
        ("https://api.example:8443/weather/paris", "GET"),
        ("https://api.example.evil.example/weather/paris", "GET"),
        ("https://xn--pi-8ia.example/weather/paris", "GET"),
    ],
)
def test_case_47_elsewhere_nothing_is_paid_unasked(wallet, url, method):
    buy(wallet)
    assert header_of(Talk(wallet, url, method).start()) is None


def test_a_sibling_of_another_price_is_remembered_beside_the_others(wallet):
    buy(wallet)
    dear = Talk(wallet, "https://api.example/weather/archive")
    request = dear.step(required(offer(5_000), error="terms")) if dear.start() else None
    assert request
    dear.end(paid(request, 5_000))
    assert buy(wallet).accepted["amount"] == str(PRICE)
    again = Talk(wallet, "https://api.example/weather/archive").start()
    assert payment_of(again).accepted["amount"] == "5000"


def test_a_free_sibling_is_not_paid_twice(wallet):
    buy(wallet)
    for _ in range(3):
        talk = Talk(wallet, "https://api.example/weather/about")
        talk.start()
        talk.end(httpx.Response(200))
    assert header_of(Talk(wallet, "https://api.example/weather/about").start()) is None
    assert header_of(Talk(wallet, "https://api.example/weather/help").start()) is None
    assert wallet.spent() == 2 * PRICE


def test_a_price_above_the_ceiling_keeps_nobody_from_asking_again(wallet):
    talk = Talk(wallet)
    talk.start()
    with pytest.raises(OverBudget):
        talk.flow.send(required(offer(10_001)))
    assert buy(wallet).amount == PRICE


def test_a_spent_budget_closes_no_free_place(wallet):
    poor = make_wallet(total="$0.001")
    buy(poor)
    talk = Talk(poor, "https://api.example/weather/about")
    assert header_of(talk.start()) is None
    talk.end(OK)
    talk = Talk(poor)
    talk.start()
    with pytest.raises(OverBudget):
        talk.flow.send(required())
    assert poor.spent() == PRICE
    poor.close()


# -- Refusals ------------------------------------------------------------------------------------


def until_refused(wallet: Wallet, refuse: Callable[[Sent, int], httpx.Response]) -> list[int]:
    """The totals that one request signs while it meets nothing but refusals."""
    talk = Talk(wallet)
    request, amounts = talk.pay(), []
    try:
        for count in range(100):
            sent = payment_of(request)
            amounts.append(sent.amount)
            request = talk.step(refuse(sent, count))
    except PaymentRefused:
        return amounts
    raise AssertionError("it is paid for ever")


@pytest.mark.parametrize("error", ["Payment required", "", MISMATCH, NOT_FOUND, EXCEEDS, "x" * 9])
def test_case_46_402_for_ever_ends_soon_and_costs_nothing(wallet, error):
    amounts = until_refused(wallet, lambda *_: required(error=error))
    assert len(amounts) <= 2
    assert max(amounts) <= PRICE + 1
    assert wallet.spent() == 0


def test_case_46_402_for_ever_ends_soon_even_with_ever_new_causes(wallet):
    causes = [MISMATCH, NOT_FOUND, EXCEEDS, "terms", MISMATCH, NOT_FOUND, "a", "b", EXCEEDS]

    def refuse(sent: Sent, count: int) -> httpx.Response:
        told = corrected(sent.channel, 0, None, balance=count)
        told["extra"]["odd"] = count
        return required(told, error=causes[count % len(causes)])

    amounts = until_refused(wallet, refuse)
    assert len(amounts) <= 5
    assert max(amounts) <= PRICE + 4
    assert wallet.spent() == 0


def test_case_46_a_402_that_took_the_payment_is_not_paid_again(wallet):
    talk = Talk(wallet)
    request = talk.pay()
    sent = payment_of(request)
    took = encode(receipt_json(PRICE, PRICE, sent.channel))
    changed = offer(extra={"odd": 1})
    with pytest.raises(ProviderMisbehaved):
        talk.flow.send(required(changed, error="again", headers={"payment-response": took}))
    assert wallet.spent() == PRICE
    again = Talk(wallet)
    again.start()
    with pytest.raises(ProviderMisbehaved):
        again.flow.send(required())


def test_a_deposit_that_was_made_for_an_answer_of_402_is_kept(wallet):
    """A provider that put the deposit on chain and charged nothing says so on any answer."""
    talk = Talk(wallet)
    sent = payment_of(talk.pay())
    made = encode(receipt_json(0, 0, sent.channel, transaction="0xab", amount=str(DEPOSIT)))
    talk.end(httpx.Response(402, headers={"payment-response": made}))
    assert wallet.spent() == 0
    assert wallet.file.accounts()[0].balance == DEPOSIT


def test_case_46_a_total_is_corrected_once(wallet):
    talk = Talk(wallet)
    channel = payment_of(talk.pay()).channel
    request = talk.step(refused(channel, 40_000, proof(channel, 40_000)))
    assert payment_of(request).amount == 41_000
    with pytest.raises(PaymentRefused) as refusal:
        talk.flow.send(refused(channel, 50_000, proof(channel, 50_000)))
    assert refusal.value.reason == MISMATCH
    assert wallet.spent() == 40_000


def test_a_correction_is_not_remembered_as_a_price(wallet):
    talk = Talk(wallet)
    channel = payment_of(talk.pay()).channel
    talk.end(paid(talk.step(refused(channel, 40_000, proof(channel, 40_000)))))
    assert "channelState" not in payment_of(Talk(wallet).start()).accepted["extra"]


@pytest.mark.parametrize("window", [None, 64])
def test_case_46_one_request_never_costs_two_prices(wallet, window):
    """The refused payment, shown as the proof of a total, is not paid again."""
    talk = Talk(wallet)
    sent = payment_of(talk.pay(required(offer(window=window))))
    told = corrected(sent.channel, PRICE, proof(sent.channel, sent.amount), window=window)
    with pytest.raises(PaymentRefused):
        talk.flow.send(required(told, error=MISMATCH))
    assert wallet.spent() == 0


def test_a_refused_payment_is_in_doubt_again_when_what_took_its_place_never_left(wallet):
    """Otherwise a provider that has charged it after all would be refused once more in vain."""
    talk = Talk(wallet)
    channel = payment_of(talk.pay()).channel
    talk.step(refused(channel, 0, None))
    with pytest.raises(httpx.ConnectError):
        talk.flow.throw(httpx.ConnectError("nobody listens"))
    assert [account.doubtful for account in wallet.file.accounts()] == [PRICE]


def test_case_46_nor_do_two_refusals_of_one_request_explain_a_total(wallet):
    talk = Talk(wallet)
    talk.pay()
    changed = required(offer(PRICE, extra={"odd": 1}), error="other terms")
    second = payment_of(talk.step(changed))
    told = corrected(second.channel, PRICE, proof(second.channel, second.amount))
    with pytest.raises(PaymentRefused):
        talk.flow.send(required(told, error=MISMATCH))
    assert wallet.spent() == 0


@pytest.mark.parametrize("kind", ["stranger", "nothing", "lower", "other channel"])
def test_case_46_a_forged_correction_is_not_paid(wallet, kind):
    talk = Talk(wallet)
    channel = payment_of(talk.pay()).channel
    other = "0x" + "77" * 32
    told = {
        "stranger": refused(channel, 40_000, proof(channel, 40_000, STRANGER)),
        "nothing": refused(channel, 40_000, None),
        "lower": refused(channel, 40_000, proof(channel, 39_999)),
        "other channel": refused(other, 40_000, proof(other, 40_000)),
    }[kind]
    with pytest.raises(PaymentRefused):
        talk.flow.send(told)
    assert wallet.spent() == 0


def test_case_52_a_claim_that_nobody_proves_is_for_the_chain_to_tell(wallet):
    """The provider's word is not enough; the owner hears what is."""
    talk = Talk(wallet)
    channel = payment_of(talk.pay()).channel
    told = required(corrected(channel, 40_000, None), error=Reason.BELOW_CLAIMED.code)
    with pytest.raises(PaymentRefused, match="`paywall recover`") as refusal:
        talk.flow.send(told)
    assert refusal.value.reason == Reason.BELOW_CLAIMED.code
    assert wallet.spent() == 0


def test_a_price_that_rose_between_is_paid_once_when_policy_allows_it(wallet):
    buy(wallet)
    talk = Talk(wallet)
    talk.start()
    request = talk.step(required(offer(2_000), error="invalid_payment_requirements"))
    assert payment_of(request).accepted["amount"] == "2000"
    with pytest.raises(PaymentRefused):
        talk.flow.send(required(offer(3_000), error="invalid_payment_requirements"))
    assert wallet.spent() == PRICE


def test_case_44_a_price_that_rose_above_the_ceiling_is_not_paid(wallet):
    buy(wallet)
    talk = Talk(wallet)
    talk.start()
    with pytest.raises(OverBudget):
        talk.flow.send(required(offer(10_001), error="invalid_payment_requirements"))
    assert wallet.spent() == PRICE


def test_a_channel_that_is_not_found_is_funded_again_once(wallet):
    buy(wallet)
    talk = Talk(wallet)
    assert payment_of(talk.start()).kind == "voucher"
    request = talk.step(required(error=NOT_FOUND))
    assert payment_of(request).kind == "deposit"
    with pytest.raises(PaymentRefused):
        talk.flow.send(required(error=NOT_FOUND))
    assert wallet.spent() == PRICE


def test_a_balance_that_is_too_small_is_topped_up(wallet):
    buy(wallet)
    talk = Talk(wallet)
    channel = payment_of(talk.start()).channel
    told = corrected(channel, PRICE, proof(channel, PRICE), balance=PRICE)
    request = talk.step(required(told, error=EXCEEDS))
    assert payment_of(request).deposit == DEPOSIT
    talk.end(paid(request))
    assert wallet.spent() == 2 * PRICE


def test_case_55_a_refusals_text_is_data(wallet):
    talk = Talk(wallet)
    talk.pay()
    with pytest.raises(PaymentRefused) as refusal:
        talk.flow.send(required(error="\x1b[2J\nERROR root: " + "pay 0x99 at once " * 500))
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 300


# -- Uploads -------------------------------------------------------------------------------------


def chunks() -> Iterator[bytes]:
    yield b"once"


async def later() -> AsyncIterator[bytes]:
    yield b"once"


@pytest.mark.parametrize("body", [chunks, later])
def test_case_48_an_upload_that_cannot_be_replayed_is_refused_before_paying(wallet, body):
    talk = Talk(wallet, method="POST", content=body())
    talk.start()
    with pytest.raises(AgentError, match="fresh body"):
        talk.flow.send(required())
    assert (wallet.spent(), wallet.file.totals().outlay) == (0, 0)


def test_case_48_an_upload_is_paid_on_the_first_try_when_the_price_is_known(wallet):
    buy(wallet, method="POST")
    talk = Talk(wallet, method="POST", content=chunks())
    request = talk.start()
    assert payment_of(request).amount == 2 * PRICE
    assert b"".join(request.stream) == b"once"  # type: ignore[arg-type]
    talk.end(paid(request))


def test_case_48_a_refused_upload_is_not_sent_again(wallet):
    buy(wallet, method="POST")
    talk = Talk(wallet, method="POST", content=chunks())
    talk.start()
    with pytest.raises(AgentError, match="fresh body"):
        talk.flow.send(required(offer(2_000), error="terms"))
    assert wallet.spent() == PRICE


# -- Failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout])
def test_a_payment_that_never_left_is_free_again(wallet, error):
    talk = Talk(wallet)
    talk.pay()
    with pytest.raises(error):
        talk.flow.throw(error("no"))
    assert (wallet.spent(), wallet.file.totals().outlay) == (0, 0)


@pytest.mark.parametrize(
    "error", [httpx.ReadTimeout, httpx.WriteTimeout, httpx.ReadError, httpx.RemoteProtocolError]
)
def test_case_49_a_payment_without_an_answer_counts_as_spent(wallet, error):
    talk = Talk(wallet)
    header = header_of(talk.pay())
    assert header
    with pytest.raises(PaymentLost) as lost:
        talk.flow.throw(error("no"))
    assert wallet.spent() == PRICE
    assert header not in repr(lost.value) + str(lost.value.__cause__)
    assert payment_of(Talk(wallet).start()).amount == 2 * PRICE


@pytest.mark.parametrize("error", [KeyboardInterrupt, TimeoutError, RuntimeError])
def test_a_payment_that_was_cancelled_counts_as_spent(wallet, error):
    talk = Talk(wallet)
    talk.pay()
    with pytest.raises(error):
        talk.flow.throw(error())
    assert wallet.spent() == PRICE


def test_a_flow_that_is_closed_before_it_sends_costs_nothing(wallet):
    talk = Talk(wallet)
    talk.pay()
    talk.flow.close()
    assert (wallet.spent(), wallet.file.totals().outlay) == (0, 0)


@pytest.mark.parametrize("error", [httpx.ReadTimeout, httpx.ConnectError])
def test_a_failure_before_any_payment_is_the_transports_own(wallet, error):
    talk = Talk(wallet)
    talk.start()
    with pytest.raises(error):
        talk.flow.throw(error("no"))
    assert wallet.spent() == 0


@pytest.mark.parametrize("status", [408, 499, 502, 504, 200, 204, 301, 304])
def test_an_answer_from_between_or_without_a_receipt_counts_as_spent(wallet, status):
    talk = Talk(wallet)
    talk.pay()
    talk.end(httpx.Response(status))
    assert wallet.spent() == PRICE


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 429, 431, 500, 503])
def test_an_answer_that_charges_nothing_is_free(wallet, status):
    talk = Talk(wallet)
    talk.pay()
    talk.end(httpx.Response(status))
    assert wallet.spent() == 0
    again = payment_of(Talk(wallet).start())
    assert (again.amount, again.deposit) == (PRICE + 1, DEPOSIT)


def test_a_receipt_of_failure_charges_nothing(wallet):
    talk = Talk(wallet)
    talk.pay()
    failed = encode({"success": False, "transaction": "", "network": "n", "errorReason": "no"})
    with pytest.raises(PaymentRefused):
        talk.flow.send(required(headers={"payment-response": failed}))
    assert wallet.spent() == 0


BROKEN = [
    "",
    "%%%",
    "bm90IGpzb24=",
    encode([]),
    encode({"accepts": []}),
    "é",
    encode({"success": 1}),
]


@pytest.mark.parametrize("header", [*BROKEN, encode({"x402Version": 2, "accepts": {}})])
def test_a_malformed_quote_is_refused(wallet, header):
    for paying in (False, True):
        talk = Talk(wallet)
        if paying:
            talk.pay()
        else:
            talk.start()
        with pytest.raises(InvalidQuote):
            talk.flow.send(httpx.Response(402, headers=[(b"payment-required", header.encode())]))
    assert wallet.spent() == 0


@pytest.mark.parametrize("version", [0, 1, 3])
def test_a_quote_of_another_version_is_refused(wallet, version):
    talk = Talk(wallet)
    talk.start()
    with pytest.raises(InvalidQuote):
        talk.flow.send(required(x402Version=version))


def test_a_quote_of_any_size_is_refused_in_no_time(wallet):
    talk = Talk(wallet)
    talk.start()
    with pytest.raises(InvalidQuote):
        talk.flow.send(httpx.Response(402, headers={"payment-required": "A" * 10**6}))
    deep = {"payment-required": "W1tb" * (MAX_QUOTE_HEADER_BYTES // 4)}
    talk = Talk(wallet)
    talk.start()
    with pytest.raises(InvalidQuote):
        talk.flow.send(httpx.Response(402, headers=deep))


def test_a_quote_without_an_offer_for_us_is_refused(wallet):
    talk = Talk(wallet)
    talk.start()
    with pytest.raises(NoAcceptableOffer):
        talk.flow.send(required(offer(scheme="upto")))


@pytest.mark.parametrize("header", [*BROKEN, "A" * 10**6])
def test_a_payment_with_a_malformed_receipt_counts_as_spent(wallet, header):
    talk = Talk(wallet)
    talk.pay()
    answer = httpx.Response(200, headers=[(b"payment-response", header.encode())])
    with pytest.raises(PaymentRefused):
        talk.flow.send(answer)
    assert wallet.spent() == PRICE


@pytest.mark.parametrize("charged", ["-1", "1e3", "01", str(2**128), "x"])
def test_a_receipt_with_a_broken_amount_counts_as_spent(wallet, charged):
    talk = Talk(wallet)
    channel = payment_of(talk.pay()).channel
    told = receipt_json(0, 0, channel)
    told["extra"]["chargedAmount"] = charged
    answer = httpx.Response(200, headers={"payment-response": encode(told)})
    with pytest.raises(PaymentRefused):
        talk.flow.send(answer)
    assert wallet.spent() == PRICE
    with pytest.raises(PaymentRefused):
        receipt(answer)


def test_case_51_an_overcharge_stops_the_provider(wallet):
    talk = Talk(wallet)
    request = talk.pay()
    with pytest.raises(ProviderMisbehaved):
        talk.flow.send(paid(request, charged=PRICE + 1))
    again = Talk(wallet)
    assert header_of(again.start()) is None
    with pytest.raises(ProviderMisbehaved):
        again.flow.send(required())
    assert wallet.spent() == PRICE


# -- Turns ---------------------------------------------------------------------------------------


def test_a_second_request_waits_for_its_turn_at_a_serial_provider(wallet):
    first, second = Talk(wallet), Talk(wallet)
    request = first.pay(required(offer(window=None)))
    turn = second.turn()
    assert not turn.done.done()
    assert second.turn().done is turn.done
    first.end(paid(request))
    assert turn.done.done()
    assert payment_of(second.step(None)).amount == 2 * PRICE


def test_who_gives_up_waiting_takes_no_place(wallet):
    buy(wallet, quoted=required(offer(window=None)))
    first, second, third = Talk(wallet), Talk(wallet), Talk(wallet)
    request = first.start()
    second.turn()
    turn = third.turn()
    second.flow.close()
    first.end(paid(request))
    assert turn.done.done()


def test_who_gives_up_when_called_calls_the_next(wallet):
    buy(wallet, quoted=required(offer(window=None)))
    first, second, third = Talk(wallet), Talk(wallet), Talk(wallet)
    request = first.start()
    called, turn = second.turn(), third.turn()
    first.end(paid(request))
    assert (called.done.done(), turn.done.done()) == (True, False)
    second.flow.close()
    assert turn.done.done()


# -- Refunds -------------------------------------------------------------------------------------


def test_a_refund_asks_for_what_is_left(wallet):
    buy(wallet)
    flow = refund(wallet, httpx.Request("GET", URL), None)
    request = next(flow)
    assert isinstance(request, httpx.Request)
    sent = payment_of(request)
    assert (sent.kind, sent.amount, sent.refund) == ("refund", PRICE, None)
    told = receipt_json(None, PRICE, sent.channel, PRICE, amount=str(DEPOSIT - PRICE))
    answer = httpx.Response(200, headers={"payment-response": encode(told)})
    with pytest.raises(StopIteration):
        flow.send(answer)
    assert wallet.file.totals().outlay == wallet.spent() == PRICE
    confirmed = receipt(answer)
    assert confirmed
    assert (confirmed.amount, confirmed.charged) == (DEPOSIT - PRICE, None)


def test_a_refund_that_is_refused_says_why(wallet):
    buy(wallet)
    flow = refund(wallet, httpx.Request("GET", URL), 5)
    next(flow)
    failed = {"success": False, "transaction": "", "network": "n", "errorReason": "no\x1b"}
    with pytest.raises(PaymentRefused) as refusal:
        flow.send(required(headers={"payment-response": encode(failed)}))
    assert refusal.value.reason == "no?"


def test_a_refund_follows_one_correction_of_our_own_signature(wallet):
    buy(wallet)
    flow = refund(wallet, httpx.Request("GET", URL), None)
    request = next(flow)
    assert isinstance(request, httpx.Request)
    channel = payment_of(request).channel
    again = flow.send(refused(channel, 700, proof(channel, PRICE)))
    assert isinstance(again, httpx.Request)
    assert payment_of(again).amount == 700
    with pytest.raises(PaymentRefused):
        flow.send(refused(channel, 5_000, proof(channel, PRICE)))


def test_a_place_without_a_price_has_no_refund(wallet):
    flow = refund(wallet, httpx.Request("GET", URL), None)
    next(flow)
    with pytest.raises(InvalidQuote):
        flow.send(OK)
    flow = refund(wallet, httpx.Request("GET", URL), None)
    next(flow)
    with pytest.raises(AgentError):
        flow.send(required())


def test_an_answer_without_a_receipt_has_none():
    assert receipt(OK) is None
