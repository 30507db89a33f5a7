"""Every payment of `batch-settlement` that is refused, and the reason that it is given."""

import json
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from helpers.channels import (
    ASSET,
    CHANNEL_ID,
    CONFIG,
    DELEGATE,
    NOW,
    PAYER,
    STRANGER,
    TERMS,
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
    refusal,
    with_config,
)
from msgspec import Raw

from paywall.protocol import eip712
from paywall.protocol.errors import Reason, Refused
from paywall.protocol.limits import MAX_CONFIG_BYTES, UINT256_MAX
from paywall.protocol.money import USDC, ZERO_ADDRESS
from paywall.protocol.schemes.batch import (
    BatchTerms,
    DepositPayment,
    config_wire,
    voucher_payload,
)

N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


# -- What is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"null", Reason.PAYLOAD_TYPE),
        (b"[]", Reason.PAYLOAD_TYPE),
        (b"{}", Reason.PAYLOAD_TYPE),
        (b'{"type":"claim"}', Reason.PAYLOAD_TYPE),
        (b'{"type":7}', Reason.PAYLOAD_TYPE),
        (b'{"type":"voucher"}', Reason.VOUCHER_PAYLOAD),
        (b'{"type":"deposit"}', Reason.DEPOSIT_PAYLOAD),
        (b'{"type":"refund"}', Reason.REFUND_PAYLOAD),
        (b'{"type":"voucher","voucher":null,"channelConfig":{}}', Reason.VOUCHER_PAYLOAD),
        (b'{"type":"voucher","channelConfig":' + b"[" * 5000, Reason.PAYLOAD_TYPE),
    ],
)
def test_a_payload_that_cannot_be_read_is_refused_by_its_kind(raw: bytes, reason: Reason) -> None:
    with pytest.raises(Refused) as refused:
        OFFER.check(Raw(raw), NOW)
    assert refused.value.reason is reason


OTHER_ADDRESS = eip712.address_of(STRANGER)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"receiver": OTHER_ADDRESS}, Reason.RECEIVER_MISMATCH),
        ({"receiver_authorizer": OTHER_ADDRESS}, Reason.RECEIVER_AUTHORIZER_MISMATCH),
        ({"token": USDC.base.address}, Reason.TOKEN_MISMATCH),
        ({"withdraw_delay_seconds": 901}, Reason.WITHDRAW_DELAY_MISMATCH),
        ({"payer": ZERO_ADDRESS}, Reason.VOUCHER_PAYLOAD),
        ({"payer_authorizer": ZERO_ADDRESS}, Reason.VOUCHER_SIGNATURE),
        ({"payer_authorizer": OTHER_ADDRESS}, Reason.VOUCHER_SIGNATURE),
    ],
)
def test_a_channel_under_other_terms_is_refused(changes: Json, reason: Reason) -> None:
    assert refusal(with_config(**changes)) is reason


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("payer", "0x" + "1" * 40),
        ("payerAuthorizer", "0x" + "1" * 40),
        ("salt", "0x" + "1" * 64),
    ],
)
def test_case_30_any_field_of_the_config_altered_is_another_channel(field: str, value: str) -> None:
    assert refusal(changed(payload(), f"channelConfig.{field}", value)) is (
        Reason.CHANNEL_ID_MISMATCH
    )


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("payer", "nobody", Reason.VOUCHER_PAYLOAD),
        ("payer", None, Reason.VOUCHER_PAYLOAD),
        ("salt", "0x00", Reason.VOUCHER_PAYLOAD),
        ("withdrawDelay", "900", Reason.VOUCHER_PAYLOAD),
        ("withdrawDelay", -1, Reason.WITHDRAW_DELAY_MISMATCH),
        ("withdrawDelay", 2**40, Reason.WITHDRAW_DELAY_MISMATCH),
        ("more", "x" * MAX_CONFIG_BYTES, Reason.VOUCHER_PAYLOAD),
    ],
)
def test_a_config_that_cannot_be_read_is_refused(field: str, value: object, reason: Reason) -> None:
    assert refusal(changed(payload(), f"channelConfig.{field}", value)) is reason


@pytest.mark.parametrize(
    ("channel_id", "reason"),
    [
        ("0x" + "0" * 64, Reason.CHANNEL_ID_MISMATCH),
        ("0x00" + CHANNEL_ID.hex(), Reason.VOUCHER_PAYLOAD),
        (CHANNEL_ID.hex(), Reason.VOUCHER_PAYLOAD),
        (f" 0x{CHANNEL_ID.hex()}", Reason.VOUCHER_PAYLOAD),
    ],
)
def test_case_30_a_voucher_that_names_another_channel_is_refused(
    channel_id: str, reason: Reason
) -> None:
    assert refusal(changed(payload(), "voucher.channelId", channel_id)) is reason


@pytest.mark.parametrize(
    "amount",
    ["-1", "1e3", " 5", "+5", "4_0", "５", "0x10", "007", "", str(2**128), "1" + "0" * 10_000],
)
def test_case_29_every_other_spelling_of_an_amount_is_refused(amount: str) -> None:
    assert refusal(changed(payload(), "voucher.maxClaimableAmount", amount)) is (
        Reason.VOUCHER_PAYLOAD
    )
    assert refusal(changed(deposit(), "deposit.amount", amount)) is Reason.DEPOSIT_PAYLOAD
    assert refusal(changed(refund(1), "amount", amount)) is Reason.REFUND_AMOUNT


@pytest.mark.parametrize("amount", ["999", "1001", "0"])
def test_case_28_a_voucher_signed_for_another_amount_is_refused(amount: str) -> None:
    assert refusal(changed(payload(), "voucher.maxClaimableAmount", amount)) is (
        Reason.VOUCHER_SIGNATURE
    )


def test_case_28_another_channels_voucher_is_refused() -> None:
    other = signed_voucher(1000, DELEGATE, bytes(32)).signature
    assert refusal(changed(payload(), "voucher.signature", "0x" + other.hex())) is (
        Reason.VOUCHER_SIGNATURE
    )


def test_case_28_another_chains_voucher_is_refused() -> None:
    mainnet = eip712.settlement_domain(8453)
    signed = eip712.sign(DELEGATE, eip712.voucher_digest(mainnet, CHANNEL_ID, 1000))
    assert refusal(changed(payload(), "voucher.signature", "0x" + signed.hex())) is (
        Reason.VOUCHER_SIGNATURE
    )


@pytest.mark.parametrize("key", [PAYER, STRANGER])
def test_case_31_the_payer_cannot_sign_where_an_authorizer_is_set(key: Any) -> None:
    signature = signed_voucher(1000, key).signature
    assert refusal(changed(payload(), "voucher.signature", "0x" + signature.hex())) is (
        Reason.VOUCHER_SIGNATURE
    )


def test_case_31_an_authorizer_cannot_sign_where_the_payer_must() -> None:
    own = msgspec.structs.replace(CONFIG, payer_authorizer=CONFIG.payer)
    channel_id = own.channel_id(ASSET.network)
    for key, passes in ((PAYER, True), (DELEGATE, False)):
        signed = signed_voucher(1000, key, channel_id)
        made = read(voucher_payload(config_wire(own), channel_id, signed))
        assert passes == (refused_or_none(made) is None)


def refused_or_none(payload: Json) -> Reason | None:
    try:
        check(payload)
    except Refused as refused:
        return refused.reason
    return None


def other_spellings(signature: bytes) -> dict[str, str]:
    r, s, v = signature[:32], signature[32:64], signature[64]
    high = (N - int.from_bytes(s, "big")).to_bytes(32, "big")
    return {
        "high s": (r + high + bytes((55 - v,))).hex(),
        "v 0 or 1": (r + s + bytes((v - 27,))).hex(),
        "v 29": (r + s + b"\x1d").hex(),
        "compact": (r + s).hex(),
        "longer": signature.hex() + "00",
        "zero": "00" * 65,
        "empty": "",
        "not hex": "zz" * 65,
        "blanks": signature.hex()[:-2] + "  ",
    }


@pytest.mark.parametrize("spelling", other_spellings(signed_voucher(1000).signature))
def test_case_31_a_signature_that_the_contract_would_refuse_is_refused(spelling: str) -> None:
    text = "0x" + other_spellings(signed_voucher(1000).signature)[spelling]
    assert refusal(changed(payload(), "voucher.signature", text)) is Reason.VOUCHER_SIGNATURE
    text = "0x" + other_spellings(signed_deposit().signature)[spelling]
    path = "deposit.authorization.erc3009Authorization.signature"
    assert refusal(changed(deposit(), path, text)) in {
        Reason.DEPOSIT_SIGNATURE,
        Reason.DEPOSIT_PAYLOAD,
    }


# -- Deposits ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"amount": 9_999}, Reason.DEPOSIT_TOO_SMALL),
        ({"amount": 1_000_001}, Reason.DEPOSIT_TOO_LARGE),
        ({"valid_after": NOW + 31}, Reason.DEPOSIT_NOT_YET_VALID),
        ({"valid_before": NOW + 5}, Reason.DEPOSIT_EXPIRED),
        ({"valid_before": 0}, Reason.DEPOSIT_EXPIRED),
    ],
)
def test_a_deposit_that_could_not_work_is_refused(changes: Json, reason: Reason) -> None:
    assert refusal(deposit(signed_deposit(**changes))) is reason


@pytest.mark.parametrize(
    "changes",
    [
        {"amount": 10_000},
        {"amount": 1_000_000},
        {"valid_after": NOW + 30},
        {"valid_before": NOW + 6},
        {"valid_before": UINT256_MAX},
    ],
)
def test_case_20_a_deposit_at_the_boundary_passes(changes: Json) -> None:
    checked = check(deposit(signed_deposit(**changes)))
    assert isinstance(checked, DepositPayment)


@pytest.mark.parametrize(
    ("field", "value"),
    [("validAfter", "1"), ("validBefore", str(NOW + 301)), ("salt", "0x08")],
)
def test_a_deposit_altered_after_signing_is_refused(field: str, value: str) -> None:
    path = f"deposit.authorization.erc3009Authorization.{field}"
    assert refusal(changed(deposit(), path, value)) is Reason.DEPOSIT_SIGNATURE


@pytest.mark.parametrize("salt", ["", "0x", "0xzz", "0x１", "-1", "0x" + "1" * 65, "1" * 79])
def test_a_deposits_salt_has_no_other_spelling(salt: str) -> None:
    path = "deposit.authorization.erc3009Authorization.salt"
    assert refusal(changed(deposit(), path, salt)) is Reason.DEPOSIT_PAYLOAD


@pytest.mark.parametrize("authorization", [{}, {"erc3009Authorization": None}, {"permit2": {}}])
def test_only_token_authorizations_are_taken(authorization: Json) -> None:
    assert refusal(changed(deposit(), "deposit.authorization", authorization)) is (
        Reason.DEPOSIT_PAYLOAD
    )


def test_a_deposit_under_another_tokens_domain_is_refused() -> None:
    renamed: BatchTerms = replace(TERMS, asset=replace(ASSET, name="USD Coin"))
    with pytest.raises(Refused) as refused:
        renamed.offer(1000).check(Raw(json.dumps(deposit()).encode()), NOW)
    assert refused.value.reason is Reason.DEPOSIT_SIGNATURE
