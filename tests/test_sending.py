"""A payment whose answer does not come, by `next`, `send` and `throw`: how long it is insisted."""

from collections.abc import Iterator

import httpx
import pytest
from helpers.agent import (
    DEPOSIT,
    PAYER,
    PRICE,
    REASON,
    Clock,
    encode,
    header_of,
    make_wallet,
    offer,
    paid,
    payment_of,
    receipt_json,
    required,
)

from paywall.asking import Call
from paywall.flow import pay, refund
from paywall.keys import SigningRequest
from paywall.protocol.errors import AgentError, PaymentLost, PaymentRefused, SigningFailed
from paywall.protocol.limits import HOLD_SECONDS
from paywall.sending import PATIENCE_SECONDS, RESEND_PAUSES_SECONDS, Flow
from paywall.turns import Turn
from paywall.wallet import Wallet

URL = "https://api.example/x"
IDS = {"payment-identifier": {"info": {"required": False}}}
LEFT = DEPOSIT - PRICE
SILENCE = httpx.ReadTimeout("slow")


@pytest.fixture
def wallet() -> Iterator[Wallet]:
    one = make_wallet()
    yield one
    one.close()


def begun(wallet: Wallet) -> tuple[Flow, httpx.Request]:
    """A conversation that has just sent its payment to a provider that knows payment ids."""
    flow = pay(wallet, httpx.Request("POST", URL, content=b"body"))
    next(flow)
    return flow, request_of(flow.send(required(extensions=IDS)))


def request_of(step: httpx.Request | Turn) -> httpx.Request:
    assert isinstance(step, httpx.Request)
    return step


def answer(flow: Flow, told: httpx.Response | Exception) -> httpx.Request | Turn:
    return flow.throw(told) if isinstance(told, Exception) else flow.send(told)


def in_progress() -> httpx.Response:
    told = {"success": False, "errorReason": "payment_in_progress", "transaction": ""}
    return httpx.Response(503, headers={"payment-response": encode(told | {"network": "n"})})


def insist(flow: Flow, told: list[httpx.Response | Exception]) -> list[float]:
    """Answers each sending with the next of these; how long it paused before it sent again."""
    pauses = []
    for each in told:
        turn = answer(flow, each)
        assert isinstance(turn, Turn)
        pauses.append(turn.seconds)
        request_of(flow.send(None))
    return pauses


def test_case_49_silence_is_met_with_the_same_payment_a_few_times(wallet):
    flow, first = begun(wallet)
    for pause in RESEND_PAUSES_SECONDS:
        turn = flow.throw(httpx.ReadTimeout("slow"))
        assert isinstance(turn, Turn)
        assert turn.seconds == pause
        again = request_of(flow.send(None))
        assert (header_of(again), again.read()) == (header_of(first), b"body")
    with pytest.raises(PaymentLost):
        flow.throw(httpx.ReadTimeout("slow"))
    assert wallet.spent() == PRICE
    assert wallet.file.accounts()[0].flying == 0


def test_case_49_a_provider_that_says_it_serves_is_given_as_long_as_a_hold_lasts(wallet):
    flow, _ = begun(wallet)
    waited = 0.0
    while waited < PATIENCE_SECONDS:
        waited += sum(insist(flow, [in_progress()]))
    assert HOLD_SECONDS < waited <= PATIENCE_SECONDS + max(RESEND_PAUSES_SECONDS)
    with pytest.raises(PaymentLost):
        flow.send(in_progress())
    assert wallet.spent() == PRICE


def test_a_worker_that_died_costs_time_and_nothing_else(wallet):
    """Silence, a restart, a hold that still lasts, and then the answer to the same payment."""
    flow, first = begun(wallet)
    dead: list[httpx.Response | Exception] = [httpx.ReadError("x"), httpx.ConnectError("x")]
    pauses = insist(flow, [*dead, *(in_progress() for _ in range(16))])
    assert sum(pauses) > HOLD_SECONDS - max(RESEND_PAUSES_SECONDS)
    with pytest.raises(StopIteration) as done:
        flow.send(paid(first))
    assert done.value.value.status_code == 200
    assert wallet.spent() == PRICE


@pytest.mark.parametrize("told", [httpx.Response(504), httpx.Response(502), in_progress(), SILENCE])
def test_who_gives_up_while_it_pauses_has_spent_it(wallet, told):
    flow, _ = begun(wallet)
    assert isinstance(answer(flow, told), Turn)
    flow.close()
    account = wallet.file.accounts()[0]
    assert (account.charged, account.flying) == (PRICE, 0)


def test_an_answer_that_cannot_be_read_is_no_reason_to_pay_again_nor_to_stay_in_flight(wallet):
    flow, _ = begun(wallet)
    with pytest.raises(PaymentRefused):
        flow.send(httpx.Response(503, headers={"payment-response": "%%%"}))
    account = wallet.file.accounts()[0]
    assert (account.charged, account.flying) == (PRICE, 0)


class Elsewhere:
    """A signer that cannot be reached."""

    address = "0x" + PAYER.hex()

    def sign(self, request: SigningRequest) -> bytes:
        raise OSError("the key is elsewhere")


def test_a_key_that_does_not_sign_costs_nothing():
    wallet = Wallet(Elsewhere(), state=":memory:", clock=Clock())
    flow = pay(wallet, httpx.Request("GET", URL))
    next(flow)
    step = flow.send(required())
    assert isinstance(step, Call)
    with pytest.raises(OSError, match="elsewhere") as broken:
        step.make()
    with pytest.raises(SigningFailed, match="elsewhere"):
        flow.throw(broken.value)
    assert (wallet.spent(), wallet.file.totals().outlay) == (0, 0)
    wallet.close()


def test_an_upload_that_ran_away_is_not_sent_again(wallet):
    known = pay(wallet, httpx.Request("POST", URL))
    next(known)
    known.close()

    def chunks() -> Iterator[bytes]:
        yield b"once"

    flow, first = begun(wallet)
    with pytest.raises(StopIteration):
        flow.send(paid(first))
    upload = pay(wallet, httpx.Request("POST", URL, content=chunks()))
    assert header_of(request_of(next(upload)))
    with pytest.raises(PaymentLost):
        upload.throw(httpx.ReadTimeout("slow"))
    assert wallet.spent() == 2 * PRICE


# -- Refunds -------------------------------------------------------------------------------------


def refunding(wallet: Wallet, extensions: object = IDS) -> tuple[Flow, httpx.Request]:
    """A refund that has just been asked for, of a channel with one purchase."""
    flow = pay(wallet, httpx.Request("GET", URL))
    next(flow)
    with pytest.raises(StopIteration):
        flow.send(paid(request_of(flow.send(required(extensions=extensions)))))
    back = refund(wallet, httpx.Request("GET", URL), None)
    return back, request_of(next(back))


def confirmed(asking: httpx.Request) -> httpx.Response:
    told = receipt_json(None, PRICE, payment_of(asking).channel, PRICE, amount=str(LEFT))
    return httpx.Response(200, headers={"payment-response": encode(told)})


def busy() -> httpx.Response:
    told = {"success": False, "errorReason": REASON + "channel_busy", "transaction": ""}
    failed = {"payment-response": encode(told | {"network": "n"})}
    return required(error=REASON + "channel_busy", headers=failed)


@pytest.mark.parametrize("told", [SILENCE, httpx.Response(504), in_progress()])
def test_a_refund_without_an_answer_is_asked_for_again_under_its_name(wallet, told):
    flow, first = refunding(wallet)
    assert isinstance(answer(flow, told), Turn)
    again = request_of(flow.send(None))
    assert header_of(again) == header_of(first)
    assert isinstance(flow.send(busy()), Turn)  # the first copy is on its way to the chain
    last = request_of(flow.send(None))
    with pytest.raises(StopIteration):
        flow.send(confirmed(last))
    assert wallet.file.totals().outlay == wallet.spent() == PRICE


def test_a_refund_does_not_depend_on_what_a_request_costs_by_now(wallet):
    flow, _ = refunding(wallet)
    dear = offer(wallet.policy.per_request + 1)
    again = request_of(flow.send(required(dear, extensions=IDS)))
    sent = payment_of(again)
    assert (sent.kind, sent.amount, sent.accepted["amount"]) == ("refund", PRICE, dear["amount"])
    with pytest.raises(StopIteration):
        flow.send(confirmed(again))
    assert wallet.file.totals().outlay == PRICE


def test_a_refund_is_of_the_channel_that_there_is_whichever_is_cheapest(wallet):
    flow, _ = refunding(wallet)
    other = offer(1, payTo="0x" + "77" * 20)
    again = request_of(flow.send(required(other, offer(2 * PRICE), extensions=IDS)))
    assert payment_of(again).accepted == offer(2 * PRICE)
    flow.close()


def test_where_no_channel_is_offered_or_ours_there_is_nothing_to_refund(wallet):
    for offers, told in (
        ([offer(payTo="0x" + "77" * 20)], "no channel with"),
        ([offer(scheme="exact", extra={"receiverAuthorizer": None, "withdrawDelay": None})], "no"),
    ):
        flow = refund(wallet, httpx.Request("GET", URL), None)
        next(flow)
        with pytest.raises(AgentError, match=told):
            flow.send(required(*offers))


def test_a_channel_that_is_busy_with_something_else_is_not_refunded(wallet):
    flow, _ = refunding(wallet)
    with pytest.raises(PaymentRefused, match="busy"):
        flow.send(busy())


def test_a_refund_without_a_name_is_asked_for_once(wallet):
    flow, _ = refunding(wallet, extensions={})
    with pytest.raises(httpx.ReadTimeout):
        flow.throw(SILENCE)
    assert wallet.file.totals().outlay == DEPOSIT


def test_a_refund_that_nobody_answers_ends_with_the_transports_own_error(wallet):
    flow, _ = refunding(wallet)
    for _ in RESEND_PAUSES_SECONDS:
        assert isinstance(flow.throw(httpx.ReadTimeout("slow")), Turn)
        flow.send(None)
    with pytest.raises(httpx.ReadTimeout):
        flow.throw(httpx.ReadTimeout("slow"))
