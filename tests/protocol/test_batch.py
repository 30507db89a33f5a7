"""Both sides of `batch-settlement`: what is offered, what matches, and what passes the check."""

import json
from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest
from helpers.channels import (
    CHANNEL_ID,
    CONFIG,
    NOW,
    NOW_MS,
    STRANGER,
    TERMS,
    channel,
    signed_deposit,
    signed_voucher,
)
from helpers.payloads import (
    OFFER,
    Json,
    changed,
    check,
    deposit,
    payload,
    read,
    refund,
)
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from paywall.protocol import eip712
from paywall.protocol.channel import reserve
from paywall.protocol.errors import ConfigurationError
from paywall.protocol.limits import UINT128_MAX, UINT256_MAX
from paywall.protocol.money import USDC, ZERO_ADDRESS
from paywall.protocol.schemes.batch import (
    DepositPayment,
    RefundPayment,
    VoucherPayment,
    decode_extra,
)
from paywall.protocol.x402 import PaymentRequirements

# -- Offers --------------------------------------------------------------------------------------


def test_an_offer_says_on_the_wire_what_a_client_needs() -> None:
    assert json.loads(msgspec.json.encode(OFFER.requirements)) == {
        "scheme": "batch-settlement",
        "network": "eip155:84532",
        "asset": "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
        "amount": "1000",
        "payTo": "0x" + "5CbDd86a2FA8Dc4bDdd8a8f69dBa48572EeC07FB",
        "maxTimeoutSeconds": 300,
        "extra": {
            "name": "USDC",
            "version": "2",
            "receiverAuthorizer": "0x7564105E977516C53bE337314c7E53838967bDaC",
            "withdrawDelay": 900,
            "minDeposit": "10000",
            "inFlight": 64,
        },
    }


def test_a_price_above_the_least_deposit_raises_it() -> None:
    assert decode_extra(TERMS.offer(50_000).requirements).min_deposit == "50000"


def test_a_corrected_offer_shows_what_is_owed_and_the_payers_own_proof() -> None:
    signed = signed_voucher(700)
    running = reserve(channel(10_000), signed, 500, "a", NOW_MS)
    extra = decode_extra(OFFER.corrected(running, False))
    state, proof = extra.channel_state, extra.voucher_state
    assert state.channel_id == "0x" + CHANNEL_ID.hex()
    assert (state.balance, state.total_claimed, state.refund_nonce) == ("10000", "0", "0")
    assert state.charged_cumulative_amount == "500"
    assert (proof.signed_max_claimable, proof.signature) == ("700", "0x" + signed.signature.hex())
    assert OFFER.matches(OFFER.corrected(running, False))


def test_a_channel_without_a_voucher_is_corrected_without_a_proof() -> None:
    extra = decode_extra(OFFER.corrected(channel(10_000, 300), False))
    assert extra.channel_state.charged_cumulative_amount == "300"
    assert extra.voucher_state is msgspec.UNSET


@pytest.mark.parametrize(
    "changes",
    [
        {"withdraw_delay_seconds": 899},
        {"withdraw_delay_seconds": 2_592_001},
        {"pay_to": ZERO_ADDRESS},
        {"receiver_authorizer": ZERO_ADDRESS},
        {"min_deposit": 0},
        {"min_deposit": 2_000_000},
        {"max_deposit": UINT128_MAX + 1},
    ],
)
def test_terms_that_cannot_work_are_a_configuration_error(changes: Json) -> None:
    with pytest.raises(ConfigurationError):
        replace(TERMS, **changes)


# -- Matching ------------------------------------------------------------------------------------


def spelled(spell: Callable[[str], str]) -> PaymentRequirements:
    ours = OFFER.requirements
    return msgspec.structs.replace(
        ours, asset="0x" + spell(ours.asset[2:]), pay_to="0x" + spell(ours.pay_to[2:])
    )


@pytest.mark.parametrize("spell", [str, str.lower, str.upper])
def test_an_accepted_offer_matches_in_any_case(spell: Callable[[str], str]) -> None:
    assert OFFER.matches(spelled(spell))


def test_more_keys_in_extra_do_not_matter() -> None:
    extra = read(OFFER.requirements.extra) | {"somethingElse": 1}
    accepted = msgspec.structs.replace(OFFER.requirements, extra=Raw(json.dumps(extra).encode()))
    assert OFFER.matches(accepted)


@pytest.mark.parametrize(
    "changes",
    [
        {"scheme": "exact"},
        {"network": "eip155:8453"},
        {"amount": "999"},
        {"amount": "01000"},
        {"asset": USDC.base.address.hex()},
        {"asset": "0x" + USDC.base.address.hex()},
        {"pay_to": "0x" + eip712.address_of(STRANGER).hex()},
        {"pay_to": "nobody"},
        {"extra": Raw(b"null")},
        {"extra": Raw(b"{}")},
        {"extra": Raw(b'{"withdrawDelay":900}')},
    ],
)
def test_other_terms_do_not_match(changes: Json) -> None:
    assert not OFFER.matches(msgspec.structs.replace(OFFER.requirements, **changes))


@pytest.mark.parametrize(
    ("name", "value"),
    [("receiverAuthorizer", "0x" + "1" * 40), ("withdrawDelay", 901), ("withdrawDelay", "900")],
)
def test_another_authorizer_or_delay_does_not_match(name: str, value: object) -> None:
    extra = read(OFFER.requirements.extra) | {name: value}
    accepted = msgspec.structs.replace(OFFER.requirements, extra=Raw(json.dumps(extra).encode()))
    assert not OFFER.matches(accepted)


# -- What passes ---------------------------------------------------------------------------------


def test_a_voucher_that_we_built_passes_as_it_was_signed() -> None:
    assert check(payload()) == VoucherPayment(CHANNEL_ID, CONFIG, signed_voucher(1000))


def test_a_deposit_that_we_built_passes_with_its_voucher() -> None:
    ours = signed_deposit()
    expected = VoucherPayment(CHANNEL_ID, CONFIG, signed_voucher(1000))
    with_voucher = replace(ours, voucher=expected.voucher)
    assert check(deposit(ours)) == DepositPayment(expected, with_voucher)


@pytest.mark.parametrize("amount", [None, 1, UINT128_MAX])
def test_a_refund_that_we_built_passes_with_its_amount(amount: int | None) -> None:
    expected = VoucherPayment(CHANNEL_ID, CONFIG, signed_voucher(1000))
    assert check(refund(amount)) == RefundPayment(expected, amount)


@given(st.integers(0, UINT128_MAX))
def test_any_amount_survives_the_wire(amount: int) -> None:
    checked = check(payload(amount))
    assert isinstance(checked, VoucherPayment)
    assert checked.voucher == signed_voucher(amount)


@given(st.integers(0, UINT256_MAX))
def test_a_deposits_salt_may_be_hex_or_decimal(salt: int) -> None:
    ours = signed_deposit(salt=salt)
    for spelling in (hex(salt), str(salt), f"0x{salt:064X}"):
        checked = check(
            changed(deposit(ours), "deposit.authorization.erc3009Authorization.salt", spelling)
        )
        assert isinstance(checked, DepositPayment)
        assert replace(checked.deposit, voucher=None) == ours


def test_case_30_hex_in_another_case_is_the_same_channel() -> None:
    shouted = payload()
    for part in ("channelConfig", "voucher"):
        for name, value in shouted[part].items():
            if isinstance(value, str) and value.startswith("0x"):
                shouted[part][name] = "0x" + value[2:].upper()
    assert check(shouted) == check(payload())


def test_case_18_key_order_and_blanks_do_not_matter() -> None:
    mirrored = {key: payload()[key] for key in reversed(payload())}
    mirrored["channelConfig"] = dict(reversed(payload()["channelConfig"].items()))
    raw = Raw(json.dumps(mirrored, indent=2).encode())
    assert OFFER.check(raw, NOW) == check(payload())
