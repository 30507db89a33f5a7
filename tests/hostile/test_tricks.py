"""Every trick of a hostile provider, in each scheme, at each moment: what it gains is nothing.

Each trick is a test for itself and carries the number of its case. What must hold after all of them
is one audit; what a trick must not reach beyond that stands at its own test below.
"""

import json
from collections import defaultdict
from collections.abc import Iterable

import httpx
import pytest
from helpers.agent import (
    EXCEEDS,
    MISMATCH,
    NOT_FOUND,
    ORIGIN,
    PRICE,
    STRANGER,
    Json,
    corrected,
    encode,
    header_of,
    proof,
)
from helpers.old_villain import OldVillain
from helpers.villain import BATCH, EXACT, IDS, Timing, Trick, Villain, audit, challenge, play

from paywall import sending
from paywall.protocol.errors import OverBudget, ProviderMisbehaved

TRICKS: dict[int, dict[str, Trick]] = defaultdict(dict)
"""By the number of its case, and by its name."""
DAI = "0x" + "6b" * 20
BILLION = 10**12


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "RESEND_PAUSES_SECONDS", (0.0, 0.0))
    monkeypatch.setattr(sending, "PATIENCE_SECONDS", 0.0)


def trick(case: int, name: str, make: Trick) -> None:
    TRICKS[case][name] = make


def quotes(case: int, name: str, **changes: object) -> None:
    """A trick that is a quote on these terms, whether it was paid or not."""
    trick(case, name, lambda villain, _: villain.quote(villain.offer(**changes)))  # type: ignore[arg-type]


def answers(case: int, name: str, paid: Trick) -> None:
    """A trick that is an answer to a payment; what is unpaid gets an honest quote."""
    trick(case, name, lambda v, request: paid(v, request) if header_of(request) else v.quote())


# -- 44: prices, tokens, places ------------------------------------------------------------------

quotes(44, "a_price_a_million_million_too_high", price=PRICE * BILLION)
quotes(44, "a_price_one_unit_too_high", price=10_001)
quotes(44, "another_chain", network="eip155:8453")
quotes(44, "a_chain_that_nobody_knows", network="eip155:31337")
quotes(44, "a_network_that_is_none", network="solana:mainnet")
quotes(44, "another_token", asset=DAI)
quotes(44, "a_token_that_is_no_address", asset="usdc")
quotes(44, "a_receiver_that_is_zero", payTo="0x" + "00" * 20)
quotes(44, "a_receiver_that_is_no_address", payTo="vitalik.eth")
quotes(44, "a_price_of_nothing", price=0)
quotes(44, "the_name_of_another_token", extra={"name": "Tether", "version": "9"})
quotes(44, "a_method_that_moves_more", extra={"assetTransferMethod": "permit2"})
quotes(44, "another_scheme", scheme="upto")
for number, spelling in enumerate(
    ("-1", "1e3", " 1000", "+1000", "1_000", "１０００", "0x10", "01000", str(2**128), "9" * 5_000)
):
    quotes(44, f"a_price_that_is_spelled_oddly_{number}", amount=spelling)
trick(
    44,
    "the_dearest_offer_first",
    lambda v, _: v.quote(v.offer(9_000), v.offer(PRICE * BILLION), v.offer(PRICE)),
)
trick(
    44,
    "a_cheap_lure_that_cannot_be_paid_beside_a_dear_one",
    lambda v, _: v.quote(v.offer(extra={"minDeposit": "600000"}), v.offer(50_000)),
)
trick(
    44,
    "a_hundred_offers",
    lambda v, _: v.quote(*[v.offer(9_000, extra={"n": str(n)}) for n in range(100)]),
)
trick(44, "a_spoofed_resource", lambda v, _: v.quote(resource={"url": "https://bank.example/"}))
trick(44, "a_price_that_rises_each_time", lambda v, _: v.quote(v.offer(PRICE * (v.asked + 1))))
trick(44, "a_price_that_creeps_up", lambda v, _: v.quote(v.offer(PRICE + v.asked)))

# -- 46: payments for ever -----------------------------------------------------------------------

for number, error in enumerate(("Payment required", "", MISMATCH, EXCEEDS, NOT_FOUND, "busy")):
    trick(46, f"402_for_ever_{number}", lambda v, _, error=error: v.quote(error=error))  # type: ignore[misc]
trick(
    46,
    "402_for_ever_on_ever_new_terms",
    lambda v, _: v.quote(v.offer(extra={"odd": str(v.asked)}), error=str(v.asked)),
)
answers(
    46,
    "402_after_it_took_the_payment",
    lambda v, _: httpx.Response(402, headers={**v.quote().headers, **v.served().headers}),
)
answers(46, "a_receipt_of_failure_and_another_quote", lambda v, _: httpx.Response(402, headers={
    **v.quote(error="again").headers,
    "payment-response": encode(v.receipt() | {"success": False, "errorReason": "again"}),
}))  # fmt: skip


def correction(villain: Villain, total: int, proven: Json | None, **told: int) -> httpx.Response:
    channel = villain.payments[-1].channel or "0x" + "11" * 32
    return villain.quote(corrected(channel, total, proven, **told), error=MISMATCH)


def own_proof(villain: Villain) -> Json:
    return proof(villain.payments[-1].channel or "0x" + "11" * 32, villain.payments[-1].amount)


answers(46, "a_correction_without_a_proof", lambda v, _: correction(v, 400_000, None))
answers(46, "a_correction_to_all_there_is", lambda v, _: correction(v, 2**128 - 1, None))
answers(
    46,
    "a_correction_that_a_stranger_signed",
    lambda v, _: correction(v, 400_000, proof(v.payments[-1].channel or "0x11", 400_000, STRANGER)),
)
answers(
    46,
    "a_correction_that_shows_what_it_refuses",
    lambda v, _: correction(v, v.payments[-1].amount, own_proof(v)),
)
answers(
    46,
    "a_correction_that_loops",
    lambda v, _: correction(v, v.payments[-1].amount + v.asked, own_proof(v)),
)
answers(
    46,
    "a_correction_that_empties_the_channel",
    lambda v, _: correction(v, 0, own_proof(v), balance=v.asked),
)
answers(
    46,
    "a_correction_backwards",
    lambda v, _: correction(v, max(0, v.payments[-1].amount - 3 * PRICE), own_proof(v)),
)
answers(46, "a_server_error_for_ever", lambda v, _: httpx.Response(503))
answers(46, "a_conflict_for_ever", lambda v, _: httpx.Response(409))

# -- 47: elsewhere -------------------------------------------------------------------------------

for number, (status, place) in enumerate(
    (
        (301, "https://evil.example/x"),
        (302, "http://api.example/x"),
        (303, "https://api.example:8443/x"),
        (307, "https://api.example.evil.example/x"),
        (308, "https://api.example@evil.example/x"),
        (307, "//evil.example/x"),
        (307, "https://xn--pi-8ia.example/x"),
        (308, f"{ORIGIN}/x"),
    )
):
    trick(
        47,
        f"a_redirect_{number}",
        lambda v, _, s=status, p=place: httpx.Response(s, headers={"location": p}),  # type: ignore[misc]
    )
trick(
    47,
    "a_quote_that_names_another_place",
    lambda v, _: v.quote(
        resource={"url": "https://evil.example/x"}, headers={"location": "https://evil.example/"}
    ),
)

for number, place in enumerate(
    (
        ORIGIN,
        "https://bank.example",
        f"{ORIGIN}.evil.example",
        f"{ORIGIN}:8443",
        "http://api.example",
    )
):
    trick(
        47,
        f"a_sign_in_for_{number}",
        lambda v, _, p=place: v.quote(extensions={**IDS, **challenge(p)}),  # type: ignore[misc]
    )
trick(
    47,
    "a_redirect_of_who_signs_in",
    lambda v, request: (
        httpx.Response(307, headers={"location": "https://evil.example/x"})
        if "sign-in-with-x" in request.headers
        else v.quote(extensions={**IDS, **challenge(ORIGIN)})
    ),
)

# -- 49: no answer -------------------------------------------------------------------------------


def silence(_: Villain, __: httpx.Request) -> httpx.Response:
    raise httpx.ReadTimeout("nothing")


def hang_up(_: Villain, __: httpx.Request) -> httpx.Response:
    raise httpx.RemoteProtocolError("hung up")


def in_progress(_: Villain, __: httpx.Request) -> httpx.Response:
    told = {"success": False, "errorReason": "payment_in_progress", "transaction": ""}
    return httpx.Response(503, headers={"payment-response": encode(told | {"network": "n"})})


answers(49, "silence", silence)
answers(49, "hanging_up", hang_up)
answers(49, "being_served_for_ever", in_progress)
answers(49, "a_gateway_that_knows_nothing", lambda v, _: httpx.Response(504))

# -- 50: deposits, delays, authorizers -----------------------------------------------------------

quotes(50, "a_deposit_of_a_thousand", extra={"minDeposit": "1000000000"})
quotes(50, "a_deposit_above_what_is_locked_up_at_a_time", extra={"minDeposit": "600000"})
quotes(50, "a_deposit_of_all_there_is", extra={"minDeposit": str(2**128 - 1)})
quotes(50, "a_deposit_that_is_no_number", extra={"minDeposit": "-5"})
quotes(50, "a_delay_of_thirty_days", extra={"withdrawDelay": 30 * 86_400})
quotes(50, "a_delay_of_no_time", extra={"withdrawDelay": 0})
quotes(50, "a_delay_backwards", extra={"withdrawDelay": -900})
quotes(50, "a_delay_of_text", extra={"withdrawDelay": "900"})
quotes(50, "a_delay_with_a_point", extra={"withdrawDelay": 1e300})
quotes(50, "an_authorizer_that_is_zero", extra={"receiverAuthorizer": "0x" + "00" * 20})
quotes(50, "an_authorizer_that_is_no_address", extra={"receiverAuthorizer": None})
quotes(50, "a_window_without_an_end", extra={"inFlight": 2**63})
quotes(50, "a_window_backwards", extra={"inFlight": -1})
quotes(50, "a_signature_for_ten_years", maxTimeoutSeconds=10 * 365 * 86_400)
quotes(50, "a_signature_for_no_time", maxTimeoutSeconds=0)

# -- 51: counting wrongly ------------------------------------------------------------------------

answers(51, "an_overcharge", lambda v, _: v.served(v.receipt(PRICE + 1)))
answers(51, "an_overcharge_of_all_there_is", lambda v, _: v.served(v.receipt(2**128 - 1)))
answers(51, "a_total_from_nowhere", lambda v, _: v.served(v.receipt(PRICE, 10**9)))
answers(51, "a_total_that_forgets", lambda v, _: v.served(v.receipt(PRICE, 0)))
answers(51, "a_charge_of_nothing", lambda v, _: v.served(v.receipt(0)))
answers(51, "a_free_answer_to_a_payment", lambda v, _: httpx.Response(200))
answers(51, "a_receipt_of_another_channel", lambda v, _: v.served(json.loads(
    json.dumps(v.receipt()).replace(v.payments[-1].channel or "none", "0x" + "77" * 32)
)))  # fmt: skip
for number, charged in enumerate(("-1", "1e3", "01", str(2**128), "x", "")):
    answers(
        51,
        f"a_charge_that_is_spelled_oddly_{number}",
        lambda v, _, c=charged: v.served(  # type: ignore[misc]
            v.receipt() | {"extra": {**v.receipt().get("extra", {}), "chargedAmount": c}}
        ),
    )

# -- 55 and the wire -----------------------------------------------------------------------------

EVIL_TEXT = "\x1b[2J\x1b[31m[bold]%s %n {0.__class__} $(id) <script>\r\nSet-Cookie: a=b\u202e" * 50
trick(55, "text_that_acts", lambda v, _: v.quote(error=EVIL_TEXT))
trick(55, "text_that_acts_in_the_terms", lambda v, _: v.quote(v.offer(scheme=EVIL_TEXT)))
trick(55, "text_that_acts_as_a_token", lambda v, _: v.quote(v.offer(asset=EVIL_TEXT)))
trick(
    55,
    "text_that_acts_in_a_receipt",
    lambda v, _: httpx.Response(
        402,
        headers={
            **v.quote().headers,
            "payment-response": encode(
                {"success": False, "errorReason": EVIL_TEXT, "transaction": "", "network": "n"}
            ),
        },
    ),
)
for number, header in enumerate(
    (
        "",
        "%%%",
        "bm90IGpzb24=",
        encode([]),
        encode({"accepts": []}),
        encode({"x402Version": 2, "accepts": {}}),
        encode({"x402Version": 1, "accepts": []}),
        "W1tb" * 20_000,
        "A" * 10**6,
        encode({"x402Version": 2, "accepts": [{"a": 1e308}] * 100}),
    )
):
    trick(
        55,
        f"a_quote_that_cannot_be_read_{number}",
        lambda v, _, h=header: httpx.Response(402, headers={"payment-required": h}),  # type: ignore[misc]
    )
    answers(
        55,
        f"a_receipt_that_cannot_be_read_{number}",
        lambda v, _, h=header: httpx.Response(200, headers={"payment-response": h}),  # type: ignore[misc]
    )
trick(
    55,
    "two_quotes_at_once",
    lambda v, _: httpx.Response(402, headers=[*v.quote().headers.raw, *v.quote().headers.raw]),
)


# -- The tests -----------------------------------------------------------------------------------


def tricks_of(*cases: int, timings: Iterable[Timing] = Timing) -> pytest.MarkDecorator:
    """Every trick of these cases, in both schemes, at every moment."""
    found = [
        pytest.param(trick, scheme, timing, id=f"{name}-{scheme}-{timing.value}")
        for case in cases
        for name, trick in TRICKS[case].items()
        for scheme in (BATCH, EXACT)
        for timing in timings
    ]
    return pytest.mark.parametrize(("trick", "scheme", "timing"), found)


def gains_nothing(trick: Trick, scheme: str, timing: Timing, upload: bool = False) -> None:
    scene = play(Villain(scheme, timing, trick), calls=3, upload=upload)
    audit(scene)
    scene.wallet.close()


@tricks_of(44)
def test_case_44_no_price_token_or_place_is_paid_above_policy(
    trick: Trick, scheme: str, timing: Timing
) -> None:
    gains_nothing(trick, scheme, timing)


@tricks_of(46)
def test_case_46_402_without_end_and_forged_corrections_gain_nothing(
    trick: Trick, scheme: str, timing: Timing
) -> None:
    gains_nothing(trick, scheme, timing)


@tricks_of(47)
def test_case_47_redirects_carry_no_payment_away(trick: Trick, scheme: str, timing: Timing) -> None:
    gains_nothing(trick, scheme, timing)


@tricks_of(49)
def test_case_49_silence_gains_one_price_at_most(trick: Trick, scheme: str, timing: Timing) -> None:
    gains_nothing(trick, scheme, timing)


@tricks_of(50)
def test_case_50_deposits_delays_and_authorizers_are_bounded(
    trick: Trick, scheme: str, timing: Timing
) -> None:
    gains_nothing(trick, scheme, timing)


@tricks_of(51)
def test_case_51_counting_wrongly_gains_nothing(trick: Trick, scheme: str, timing: Timing) -> None:
    gains_nothing(trick, scheme, timing)


@tricks_of(55)
def test_case_55_text_and_dirt_are_data(trick: Trick, scheme: str, timing: Timing) -> None:
    gains_nothing(trick, scheme, timing)


@pytest.mark.parametrize("timing", Timing, ids=lambda timing: timing.value)
@pytest.mark.parametrize("name", [name for tricks in TRICKS.values() for name in tricks])
def test_cases_44_and_46_and_47_and_49_and_51_and_55_in_the_words_of_v1_gain_no_more(
    name: str, timing: Timing
) -> None:
    (trick,) = [tricks[name] for tricks in TRICKS.values() if name in tricks]
    scene = play(OldVillain(EXACT, timing, trick), calls=2)
    audit(scene)
    scene.wallet.close()


@tricks_of(*TRICKS, timings=(Timing.AFTER_A_GOOD_ONE,))
def test_case_48_no_trick_makes_an_upload_paid_that_is_gone(
    trick: Trick, scheme: str, timing: Timing
) -> None:
    gains_nothing(trick, scheme, timing, upload=True)


@pytest.mark.parametrize("scheme", [BATCH, EXACT])
def test_case_44_the_cheapest_offer_is_paid_wherever_it_stands(scheme: str) -> None:
    scene = play(Villain(scheme, Timing.FIRST, TRICKS[44]["the_dearest_offer_first"]))
    assert {paid.price for paid in scene.villain.payments} == {PRICE}
    scene.wallet.close()


@pytest.mark.parametrize("name", ["an_overcharge", "an_overcharge_of_all_there_is"])
def test_case_51_who_overcharges_is_not_paid_again_and_the_evidence_is_kept(name: str) -> None:
    scene = play(Villain(BATCH, Timing.FIRST, TRICKS[51][name]), calls=5)
    assert len(scene.villain.payments) == 1
    (account,) = scene.wallet.file.accounts()
    assert account.stopped
    assert "chargedAmount" in account.stopped
    assert {type(error) for error in scene.errors} == {ProviderMisbehaved}
    scene.wallet.close()


@pytest.mark.parametrize("scheme", [BATCH, EXACT])
def test_case_45_a_provider_that_only_takes_ends_at_the_total(scheme: str) -> None:
    """Honest answers, dear ones, for ever: what leaves is the owner's total and not a unit more."""
    villain = Villain(
        scheme,
        Timing.FIRST,
        lambda v, request: (
            v.served() if header_of(request) else v.quote(v.offer(9_999, extra={"minDeposit": "5"}))
        ),
    )
    scene = play(villain, calls=100)
    audit(scene)
    assert isinstance(scene.errors[-1], OverBudget)
    assert scene.wallet.spent() == 90 * 9_999
    scene.wallet.close()


def test_case_47_who_signs_in_does_so_at_its_own_origin_alone() -> None:
    proofs = []
    for number in range(4):
        trick = TRICKS[47][f"a_sign_in_for_{number}"]
        scene = play(Villain(BATCH, Timing.FIRST, trick), calls=2)
        proofs.append(len(scene.villain.proofs))
        scene.wallet.close()
    assert proofs[0] > 0
    assert proofs[1:] == [0, 0, 0]


def test_the_villain_is_paid_in_v1_when_it_is_honest() -> None:
    villain = OldVillain(EXACT, Timing.AFTER_A_GOOD_ONE, lambda v, request: v.honest(request))
    scene = play(villain)
    audit(scene)
    assert [answer.status_code for answer in scene.answers] == [200] * 4
    assert [paid.price for paid in villain.payments] == [PRICE] * 4
    scene.wallet.close()
