"""The simulator, as small as a test, and that its oracle is not blind: see `simulate`.

Cases 10, 17, 24, 27, 28, 33, 35, 38, 39, 40, 41, 45, 49, 51 and 52.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest
from coincurve import PrivateKey
from helpers.channels import CONFIG, NETWORK, chain
from msgspec.structs import replace
from simulate.book import Asked, Op
from simulate.chain import EPOCH
from simulate.cheap import Disk, DiskRows, Signatures
from simulate.oracle import Oracle
from simulate.run import Result, simulate

from paywall.admission import ExactAdmission
from paywall.chain.round import Round
from paywall.corrections import Corrections, Word
from paywall.exact_settlement import Settlements
from paywall.exchange import Exchange
from paywall.gate import Gate
from paywall.payment import Payment
from paywall.protocol import channel as rules
from paywall.protocol import eip712, slip
from paywall.protocol.channel import Channel
from paywall.protocol.slip import Slip
from paywall.walletrows import Account

TESTS = Path(__file__).parent


@pytest.mark.parametrize("number", range(3))
def test_nothing_is_lost_made_or_charged_twice(number: int) -> None:
    result = simulate(f"small.{number}", 400)
    assert result.violations == []
    assert result.payments > 200
    assert sum(result.faults.values()) > 20, "the world was too good for this test to mean anything"


def test_with_the_curve_and_with_files_nothing_is_lost_either() -> None:
    result = simulate("small.real", 200, real=True)
    assert result.real
    assert result.violations == []
    assert result.payments > 100


def test_a_cheap_signature_is_its_keys_alone_and_bears_no_change() -> None:
    cheap, key, digest = Signatures(b"a world"), PrivateKey(b"\x01" * 32), b"\x02" * 32
    signer, given = eip712.address_of(key), cheap.sign(key, digest)
    assert cheap.recover(digest, given) == signer
    assert cheap.recover(b"\x03" * 32, given) != signer
    for place in range(65 * 8):
        altered = bytearray(given)
        altered[place // 8] ^= 1 << place % 8
        with suppress(eip712.BadSignature):
            assert cheap.recover(digest, bytes(altered)) != signer
    with pytest.raises(eip712.BadSignature):
        cheap.recover(digest, given[:64])


@pytest.mark.parametrize("cut", range(20))
def test_after_a_power_cut_what_was_flushed_is_there_and_the_rest_in_order(cut: int) -> None:
    disk = Disk()
    rows = DiskRows(disk)
    for number in range(8):
        rows.begin()
        rows.commit({f"row {number}": b"%d" % number, "last": b"%d" % number}, ())
        if number == 3:
            rows.flush()
    lost = disk.cut_power(Random(cut))
    kept = [int(row) for key, row in rows.between("row", "rox")]
    assert kept == list(range(8 - lost))
    assert rows.read(["last"]) == [b"%d" % kept[-1]]
    assert len(kept) >= 4


def digest_of(seed: str, hashing: int) -> str:
    """The digest of a world's history, in a Python of its own."""
    code = f"from simulate.run import simulate; print(simulate({seed!r}, 150).digest)"
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "PYTHONHASHSEED": str(hashing)}
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return run.stdout.strip()


def test_a_seed_is_one_history_to_the_last_event() -> None:
    assert digest_of("same.0", 1) == digest_of("same.0", 2) != digest_of("same.1", 1)


@pytest.mark.parametrize("jump", [None, 5.0, 15.0, 25.0])
def test_a_second_payment_is_excused_by_a_clock_that_jumped_before_the_first_was_refused(
    jump: float | None,
) -> None:
    """Let in at 10, refused when it came again at 20; then another payment was made."""
    now = 0.0
    oracle, channel_id = Oracle(lambda: now), b"a channel"
    first, second = Asked(7, 1, since=10.0), Asked(7, 2, since=30.0)
    for moment, act in (
        (jump, lambda: oracle.jumped("shop.example")),
        (20.0, lambda: oracle.refuses(first)),
        (30.0, lambda: oracle.count_goal(channel_id, second)),
        (40.0, lambda: oracle.count_goal(channel_id, first)),
    ):
        if moment is not None:
            now = moment
            act()
    assert bool(oracle.violations) == (jump != 15.0)


@pytest.mark.parametrize(("seconds_left", "excused"), [(None, 0), (500, 0), (100, 700), (-5, 700)])
def test_what_a_flushed_store_hears_of_just_before_a_withdrawal_ends_may_not_be_claimed(
    seconds_left: int | None, excused: int
) -> None:
    oracle, now = Oracle(lambda: 2000.0), EPOCH + 2000
    channel_id, book = CONFIG.channel_id(NETWORK), oracle.book(CONFIG.channel_id(NETWORK))
    book.known, book.losses, book.signed = True, 1, 1000
    begun = 0 if seconds_left is None else now + seconds_left - CONFIG.withdraw_delay_seconds
    seen = chain(9000, claimed=300, withdraw_requested_at=begun)
    restored = rules.open_channel(channel_id, NETWORK, CONFIG, seen, 1000)
    oracle.applied(Op("record"), channel_id, None, restored, 1000 * now)
    assert (book.late, oracle.violations) == (excused, [])


# -- Mutants: the product with one mistake, each found by the oracle -------------------------------


def charges_twice(channel: Channel, request: str, amount: int, remember: bool = True) -> Channel:
    charged = _charge(channel, request, amount, remember)
    return charged if charged is channel else replace(charged, charged=charged.charged + amount)


def charges_what_is_released(channel: Channel, request: str) -> Channel:
    price = channel.holds[request].price
    return replace(_release(channel, request), charged=channel.charged + price)


async def charges_nothing(gate: Gate, admission: Any, *told: Any, **more: Any) -> str:
    if isinstance(admission, ExactAdmission):
        return await _charge_at_gate(gate, admission, *told, **more)
    return gate.ceiling_receipt(admission)


async def charges_failures(exchange: Exchange) -> str | None:
    if isinstance(exchange._open, ExactAdmission):
        return await _let_go(exchange)
    return await exchange._gate.charge(exchange._take(), exchange.payment.amount)


async def claims_nothing(claimer: Round, plan: object) -> bool:
    return True


async def takes_no_transfer(settlements: Settlements, *told: Any) -> bytes:
    return b"\x01" * 32


def believes_what_it_counts(word: Word, account: Account, keeps_window: bool) -> bool:
    return word.total <= account.spent


def forgets_slips(known: Slip | None, fingerprint: bytes, request: str, now_ms: int) -> Slip:
    return _claim(None, fingerprint, request, now_ms)


async def asks_nobody_twice(
    settlements: Settlements, admission: Any, holder: str | None = None
) -> Slip:
    return await settlements._slips.advance(admission, slip.unsent, holder)


_charge, _release, _claim = rules.charge, rules.release, slip.claim
_charge_at_gate, _let_go = Gate.charge, Exchange._release


class Mutant(NamedTuple):
    owner: object
    name: str
    mistake: Callable[..., Any]
    found: str


MUTANTS = {
    "a store that charges twice": Mutant(rules, "charge", charges_twice, "it should be"),
    "a window that forgets": Mutant(rules, "_fresh", lambda *_: True, "buys a second answer"),
    "a release that charges": Mutant(rules, "release", charges_what_is_released, "it should be"),
    "a gate that forgets to charge": Mutant(Gate, "charge", charges_nothing, "are not charged"),
    "a charge for an answer that failed": Mutant(
        Exchange, "_release", charges_failures, "for what costs 0"
    ),
    "a meter that is not read": Mutant(
        Payment, "close", lambda payment: payment.amount, "is charged for what costs"
    ),
    "an answer before its transfer": Mutant(
        Settlements, "settle", takes_no_transfer, "is not paid"
    ),
    "an authorization that is not remembered": Mutant(
        slip, "claim", forgets_slips, "is sent twice"
    ),
    "a transfer that is sent again": Mutant(
        Settlements, "found_out", asks_nobody_twice, "is sent twice"
    ),
    "an agent that takes no correction": Mutant(
        Corrections, "correct", lambda *_: False, "is not served"
    ),
    "an agent that believes what it counts itself": Mutant(
        Word, "is_explained", believes_what_it_counts, "is refused for a total"
    ),
    "a claimer that skips": Mutant(Round, "_claim_all", claims_nothing, "the claimer leaves"),
}


def first_that_says(found: str) -> Result | None:
    """A mistake may show in several ways; it must show in this one too."""
    results = (simulate(f"mutant.{number}", 200) for number in range(20))
    return next((r for r in results if any(found in said for said in r.violations)), None)


@pytest.mark.parametrize("what", MUTANTS)
def test_the_oracle_sees(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant = MUTANTS[what]
    monkeypatch.setattr(mutant.owner, mutant.name, mutant.mistake)
    result = first_that_says(mutant.found)
    assert result is not None
    assert result.trace, "the channel at fault tells what happened"
