"""Recorded exchanges of the official SDKs: every header reads, re-encodes, and is truly signed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from msgspec import Raw

from paywall.protocol import eip712, x402
from paywall.protocol.eip712 import Authorization
from paywall.protocol.money import Address, Asset, parse_address, parse_amount
from paywall.protocol.schemes.batch import (
    BatchOffer,
    BatchTerms,
    DepositPayment,
    RefundPayment,
    VoucherPayment,
    config_wire,
    decode_extra,
    decode_receipt_extra,
    deposit_payload,
    refund_payload,
    voucher_payload,
)
from paywall.protocol.x402 import PaymentRequirements, parse_bytes

Json = dict[str, Any]
VECTORS = Path(__file__).parent.parent / "vectors"
EXCHANGES = sorted(VECTORS.glob("*_to_*.json"))
FACILITATORS = sorted(VECTORS.glob("facilitator_*.json"))
DECODERS = {
    "payment-required": x402.decode_required,
    "payment-signature": x402.decode_payment,
    "payment-response": x402.decode_response,
}


class Header(NamedTuple):
    name: str
    text: str
    decoded: Json


class Paid(NamedTuple):
    """A payment, and the requirement that it was made for."""

    label: str
    requirements: PaymentRequirements
    payload: Json
    payer: str | None


def headers() -> Iterator[Header]:
    for path in EXCHANGES:
        for exchange in json.loads(path.read_text()):
            for side in (exchange["request"], exchange["response"]):
                decoded = {name.lower(): value for name, value in side["decoded"].items()}
                for name, text in side["headers"]:
                    if name.lower() in DECODERS:
                        yield Header(name.lower(), text, decoded[name.lower()])


def payments() -> Iterator[Paid]:
    for path in EXCHANGES:
        for number, exchange in enumerate(json.loads(path.read_text())):
            sent = {name.lower(): value for name, value in exchange["request"]["decoded"].items()}
            answered = {
                name.lower(): value for name, value in exchange["response"]["decoded"].items()
            }
            if "payment-signature" in sent:
                payer = answered.get("payment-response", {}).get("payer")
                yield paid(f"{path.stem}-{number}", sent["payment-signature"], payer)
    for path in FACILITATORS:
        for name, entry in json.loads(path.read_text()).items():
            if name.endswith(":ok"):
                payload = entry["request"]["paymentPayload"]
                yield paid(f"{path.stem}-{name}", payload, entry["response"].get("payer"))


def paid(label: str, payment: Json, payer: str | None) -> Paid:
    requirements = x402.decode_requirements(json.dumps(payment["accepted"]).encode())
    return Paid(label, requirements, payment["payload"], payer)


PAYMENTS = list(payments())
BATCH = [paid for paid in PAYMENTS if "channelConfig" in paid.payload]
SENT_BY_CLIENTS = [paid for paid in BATCH if "refundNonce" not in paid.payload]
"""The others carry what the provider added for its facilitator."""
EXACT = [paid for paid in PAYMENTS if "authorization" in paid.payload]


def asset(requirements: PaymentRequirements) -> Asset:
    extra = json.loads(bytes(requirements.extra))
    address = parse_address(requirements.asset)
    return Asset(requirements.network, address, "USDC", 6, extra["name"], extra["version"])


def offer(requirements: PaymentRequirements) -> BatchOffer:
    """What the provider must have offered for this to be accepted."""
    extra = decode_extra(requirements)
    terms = BatchTerms(
        asset(requirements),
        parse_address(requirements.pay_to),
        parse_address(extra.receiver_authorizer),
        extra.withdraw_delay,
        min_deposit=1,
    )
    return terms.offer(parse_amount(requirements.amount))


def address(text: str | None) -> Address:
    assert text is not None
    return parse_address(text)


def test_the_recordings_are_all_there() -> None:
    assert (len(EXCHANGES), len(list(headers())), len(BATCH), len(EXACT)) == (6, 72, 29, 6)


@pytest.mark.parametrize("header", headers(), ids=lambda header: header.name)
def test_every_recorded_header_reads_and_re_encodes_to_the_same_json(header: Header) -> None:
    message = DECODERS[header.name](header.text)
    assert json.loads(x402.encode_json(message)) == header.decoded
    assert DECODERS[header.name](x402.encode_header(message)) is not None


@pytest.mark.parametrize("header", [h for h in headers() if h.name == "payment-required"])
def test_every_recorded_offer_reads_and_re_encodes_to_the_same_json(header: Header) -> None:
    for raw in x402.decode_required(header.text).accepts:
        requirements = x402.decode_requirements(raw)
        assert json.loads(x402.encode_json(requirements)) == json.loads(bytes(raw))


@pytest.mark.parametrize("paid", BATCH, ids=lambda paid: paid.label)
def test_every_recorded_batch_payment_passes_our_check(paid: Paid) -> None:
    """Channel id, voucher digest and signer, deposit digest and signer are all recomputed."""
    ours = offer(paid.requirements)
    assert ours.matches(paid.requirements)
    checked = ours.check(Raw(json.dumps(paid.payload).encode()), now=1_700_000_000)
    payment = checked if isinstance(checked, VoucherPayment) else checked.payment
    voucher = paid.payload["voucher"]
    assert payment.channel_id == parse_bytes(voucher["channelId"], 32)
    assert payment.voucher.amount == int(voucher["maxClaimableAmount"])
    assert payment.config.payer_authorizer == address(
        paid.payload["channelConfig"]["payerAuthorizer"]
    )
    if paid.payer:
        assert payment.config.payer == address(paid.payer)


@pytest.mark.parametrize("paid", SENT_BY_CLIENTS, ids=lambda paid: paid.label)
def test_our_builders_make_every_recorded_batch_payload(paid: Paid) -> None:
    checked = offer(paid.requirements).check(Raw(json.dumps(paid.payload).encode()), now=0)
    if isinstance(checked, DepositPayment):
        config = config_wire(checked.deposit.config)
        ours = deposit_payload(config, checked.payment.voucher, checked.deposit)
    elif isinstance(checked, RefundPayment):
        payment = checked.payment
        config = config_wire(payment.config)
        ours = refund_payload(config, payment.channel_id, payment.voucher, checked.amount)
    else:
        ours = voucher_payload(config_wire(checked.config), checked.channel_id, checked.voucher)
    assert lowered(json.loads(bytes(ours))) == lowered(paid.payload)


@pytest.mark.parametrize("paid", EXACT, ids=lambda paid: paid.label)
def test_every_recorded_exact_payment_is_signed_by_its_payer(paid: Paid) -> None:
    fields = paid.payload["authorization"]
    authorization = Authorization(
        payer=parse_address(fields["from"]),
        to=parse_address(fields["to"]),
        value=parse_amount(fields["value"]),
        valid_after=parse_amount(fields["validAfter"]),
        valid_before=parse_amount(fields["validBefore"]),
        authorization_nonce=parse_bytes(fields["nonce"], 32),
    )
    token = asset(paid.requirements)
    domain = eip712.domain_separator(token.name, token.version, token.chain_id, token.address)
    signature = parse_bytes(paid.payload["signature"], 65)
    signer = eip712.recover(authorization.transfer_digest(domain), signature)
    assert signer == authorization.payer == address(paid.payer)


@pytest.mark.parametrize("header", [h for h in headers() if h.name == "payment-response"])
def test_every_recorded_channel_receipt_reads_and_re_encodes(header: Header) -> None:
    extra = header.decoded.get("extra")
    if extra:
        ours = decode_receipt_extra(Raw(json.dumps(extra).encode()))
        assert json.loads(x402.encode_json(ours)) == extra


def corrections() -> Iterator[PaymentRequirements]:
    for header in headers():
        if header.name == "payment-required":
            for raw in x402.decode_required(header.text).accepts:
                if b"voucherState" in bytes(raw):
                    yield x402.decode_requirements(raw)


@pytest.mark.parametrize("requirements", corrections())
def test_every_recorded_correction_is_proved_by_the_payers_own_signature(
    requirements: PaymentRequirements,
) -> None:
    extra = decode_extra(requirements)
    signers = {
        address(paid.payload["channelConfig"]["payerAuthorizer"])
        for paid in BATCH
        if paid.payload["voucher"]["channelId"].lower() == extra.channel_state.channel_id.lower()
    }
    digest = eip712.voucher_digest(
        eip712.settlement_domain(asset(requirements).chain_id),
        parse_bytes(extra.channel_state.channel_id, 32),
        parse_amount(extra.voucher_state.signed_max_claimable),
    )
    assert {eip712.recover(digest, parse_bytes(extra.voucher_state.signature, 65))} == signers


def lowered(value: object) -> object:
    """JSON in which the case of hex does not matter."""
    if isinstance(value, dict):
        return {key: lowered(item) for key, item in value.items()}
    return value.lower() if isinstance(value, str) else value
