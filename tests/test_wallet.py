"""The wallet: a key that never shows, settings that are checked, and one budget for everybody."""

import asyncio
import copy
import pickle
import random
import traceback

import httpx
import pytest
from helpers.agent import (
    DEPOSIT,
    KEY,
    ORIGIN,
    PRICE,
    FakeProvider,
    channel_of,
    choose,
    make_wallet,
    offer,
    quote,
    read_payment,
    receipt_of,
)

import paywall.wallet
from paywall.client import AsyncClient, Transport
from paywall.offers import Intent
from paywall.protocol.errors import ConfigurationError, OverBudget
from paywall.protocol.money import Asset, parse_address
from paywall.turns import Wait
from paywall.wallet import Wallet, default_state

SHOWN = [KEY.hex(), KEY.hex().upper(), repr(KEY), str(list(KEY)), str(int.from_bytes(KEY, "big"))]


def want(wallet: Wallet, price: int = PRICE, **offered: object) -> Intent:
    return choose(wallet, ORIGIN, quote(offer(price, **offered)))


def test_a_payment_echoes_the_offer_to_the_letter_and_promises_what_was_written_down():
    wallet = make_wallet()
    spelled = offer(extra={"name": "odd", "later": [1, {"x": None}]}, unknown="é")
    intent = choose(wallet, ORIGIN, quote(spelled, extensions={"bazaar": {"info": 1}}))
    sent = read_payment(wallet.sign(wallet.books.begin(intent)))
    assert (sent.kind, sent.amount, sent.deposit) == ("deposit", PRICE, DEPOSIT)
    assert sent.channel == channel_of(intent)
    assert sent.accepted == spelled
    assert sent.message["extensions"] == {"bazaar": {"info": 1}}
    wallet.close()


def test_a_deposit_is_signed_under_the_tokens_real_domain_whatever_the_offer_calls_it():
    wallet = make_wallet()
    intent = choose(wallet, ORIGIN, quote(offer(extra={"name": "Tether", "version": "9"})))
    assert read_payment(wallet.sign(wallet.books.begin(intent))).deposit == DEPOSIT
    wallet.close()


def test_a_second_payment_is_a_voucher_alone():
    wallet = make_wallet()
    intent = want(wallet)
    wallet.books.settle(wallet.books.begin(intent), receipt_of(PRICE, PRICE, channel_of(intent)))
    sent = read_payment(wallet.sign(wallet.books.begin(intent)))
    assert (sent.kind, sent.amount) == ("voucher", 2 * PRICE)
    assert "extensions" not in sent.message
    wallet.close()


def test_a_refund_promises_exactly_what_was_charged():
    wallet = make_wallet()
    intent = want(wallet)
    wallet.books.settle(wallet.books.begin(intent), receipt_of(PRICE, PRICE, channel_of(intent)))
    wallet.books.release(wallet.books.begin(intent))
    account = wallet.file.account(intent.channel_id)
    assert account
    for amount in (None, 7):
        asking = wallet.signing_refund(intent, account, amount, "a" * 16)
        with pytest.raises(StopIteration) as signed:
            next(asking)
        sent = read_payment(signed.value.value)
        assert (sent.kind, sent.amount, sent.refund) == ("refund", PRICE, amount)
    wallet.close()


# -- Settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [KEY, KEY.hex(), "0x" + KEY.hex(), "0x" + KEY.hex().upper()])
def test_a_key_is_bytes_or_hex(key):
    wallet = Wallet(key, state=":memory:")
    assert wallet.address == make_wallet().address
    wallet.close()


def test_a_key_is_found_in_the_environment(monkeypatch):
    monkeypatch.setenv("PAYWALL_KEY", KEY.hex())
    wallet = Wallet(state=":memory:")
    assert wallet.address == make_wallet().address
    wallet.close()


BAD_KEYS = [
    "",
    b"",
    KEY.hex()[:-2],
    KEY.hex() + "00",
    KEY.hex()[:-1] + "g",
    "0x" + "0" * 64,
    "f" * 64,
    bytes(32),
    KEY[:31],
    "ä" * 64,
]


@pytest.mark.parametrize("key", BAD_KEYS)
def test_case_53_a_key_that_cannot_be_used_is_refused_without_being_shown(key, monkeypatch):
    monkeypatch.delenv("PAYWALL_KEY", raising=False)
    with pytest.raises(ConfigurationError) as refusal:
        Wallet(key, state=":memory:")
    said = "".join(traceback.format_exception(refusal.value))
    assert refusal.value.__cause__ is refusal.value.__context__ is None
    if key and key not in (bytes(32),):
        text = key if isinstance(key, str) else key.hex()
        assert text[:16] not in said.replace("0" * 16, "zeros")


@pytest.mark.parametrize(
    "settings",
    [
        {"per_request": "1 cent"},
        {"total": "-$5"},
        {"deposit": "$0"},
        {"total": "$0.0000001"},
        {"assets": [Asset("eip155:1", parse_address("0x" + "aa" * 20), "DAI", 18, "Dai", "1")]},
    ],
)
def test_settings_that_cannot_work_are_refused(settings):
    with pytest.raises(ConfigurationError):
        Wallet(KEY, state=":memory:", **settings)


def test_the_file_is_found_again_by_the_address(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    wallet = Wallet(KEY)
    wallet.close()
    assert [path.name for path in (tmp_path / "paywall").glob("*.db")] == [
        default_state(wallet.address).name
    ]


# -- The key -------------------------------------------------------------------------------------


def test_case_53_a_wallet_shows_no_key():
    wallet = make_wallet()
    said = [repr(wallet), str(wallet), f"{wallet}", repr(vars(wallet)), repr(wallet.books)]
    said += [repr(vars(wallet.books)), repr(vars(Transport(wallet, httpx.MockTransport(print))))]
    assert not [text for text in said for key in SHOWN if key in text]
    assert repr(wallet) == f"<Wallet {wallet.address}>"
    wallet.close()


@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
def test_case_53_a_wallet_is_not_copied_or_pickled(copied):
    wallet = make_wallet()
    for thing in (wallet,) if copied is copy.copy else (wallet, [wallet], wallet.books):
        with pytest.raises(TypeError) as refusal:
            copied(thing)
        assert not [key for key in SHOWN if key in str(refusal.value)]
    wallet.close()


def test_case_53_an_error_in_signing_shows_no_key(monkeypatch):
    wallet = make_wallet()
    promise = wallet.books.begin(want(wallet))
    monkeypatch.setattr(paywall.wallet.batch, "deposit_payload", None)
    with pytest.raises(TypeError) as refusal:
        wallet.sign(promise)
    said = "".join(
        traceback.TracebackException.from_exception(refusal.value, capture_locals=True).format()
    )
    assert not [key for key in SHOWN if key in said]
    wallet.close()


def test_case_53_the_file_holds_no_key(tmp_path):
    wallet = make_wallet(tmp_path / "w.db")
    wallet.books.begin(want(wallet))
    wallet.close()
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert KEY not in written
    assert KEY.hex().encode() not in written.lower()


# -- One budget ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
async def test_case_45_a_thousand_tasks_never_exceed_the_total(seed):
    """Tasks that pay, lose, release and die at random, at serial and window providers."""
    dice = random.Random(seed)
    wallet = make_wallet(total="$0.30", deposit="$0.1")
    total, over = wallet.policy.total, 0
    intents = [
        choose(wallet, f"https://{n}.example:443", quote(offer(900 + n, window=w)))
        for n, w in enumerate((64, 64, None))
    ]

    async def task(number: int) -> int:
        await asyncio.sleep(dice.random() / 20)
        intent, turn = intents[dice.choice((0, 0, 0, 1, 1, 1, 1, 2)) if number % 9 else 0], None
        while True:
            try:
                promise = wallet.books.begin(intent, turn)
                break
            except Wait as wait:
                turn = wait.turn
                await asyncio.wait((asyncio.wrap_future(turn.done),), timeout=turn.seconds)
            except OverBudget:
                if turn:
                    wallet.books.leave(intent, turn)
                return 1
        if turn:
            wallet.books.leave(intent, turn)
        assert wallet.spent() <= wallet.file.totals().outlay <= total
        await asyncio.sleep(0)
        ending = dice.random()
        if ending < 0.6:
            receipt = receipt_of(intent.price, 2**100, channel_of(intent))
            wallet.books.settle(promise, receipt)
        elif ending < 0.8:
            wallet.books.release(promise)
        else:
            wallet.books.keep(promise)
        return 0

    async with asyncio.timeout(20):
        over = sum(await asyncio.gather(*(task(number) for number in range(1_000))))
    accounts = wallet.file.accounts()
    assert over > 0
    assert wallet.spent() == sum(account.charged for account in accounts) <= total
    assert wallet.file.totals().outlay == sum(account.outlay for account in accounts) <= total
    assert all(account.flying == 0 for account in accounts)
    wallet.close()


async def test_case_45_a_thousand_requests_at_once_spend_the_total_to_the_unit():
    provider = FakeProvider()
    wallet = make_wallet(total="$0.5")
    async with AsyncClient(wallet=wallet, transport=httpx.MockTransport(provider.later)) as client:
        answers = await asyncio.gather(
            *(client.get(f"{ORIGIN}/x") for _ in range(1_000)), return_exceptions=True
        )
    paid = [answer for answer in answers if isinstance(answer, httpx.Response)]
    assert {answer.status_code for answer in paid} == {200}
    assert {type(each) for each in answers} == {httpx.Response, OverBudget}
    assert len(paid) == provider.served == 500
    assert wallet.spent() == provider.charged == 500_000
    wallet.close()
