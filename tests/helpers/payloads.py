"""Payments of `batch-settlement` as JSON that a test can bend, and the check of one offer."""

import json
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from helpers.channels import (
    ASSET,
    CHANNEL_ID,
    CONFIG,
    DELEGATE,
    NOW,
    TERMS,
    signed_deposit,
    signed_voucher,
)
from paywall.protocol.errors import Reason, Refused
from paywall.protocol.schemes.batch import (
    BatchPayment,
    Deposit,
    config_wire,
    deposit_payload,
    refund_payload,
    voucher_payload,
)

Json = dict[str, Any]
OFFER = TERMS.offer(1000)


def payload(amount: int = 1000) -> Json:
    return read(voucher_payload(config_wire(CONFIG), CHANNEL_ID, signed_voucher(amount)))


def deposit(signed: Deposit | None = None) -> Json:
    return read(
        deposit_payload(config_wire(CONFIG), signed_voucher(1000), signed or signed_deposit())
    )


def refund(amount: int | None = None) -> Json:
    return read(refund_payload(config_wire(CONFIG), CHANNEL_ID, signed_voucher(1000), amount))


def read(raw: Raw) -> Json:
    value: Json = json.loads(bytes(raw))
    return value


def check(payload: Json) -> BatchPayment:
    return OFFER.check(Raw(json.dumps(payload).encode()), NOW)


def refusal(payload: Json) -> Reason:
    with pytest.raises(Refused) as refused:
        check(payload)
    return refused.value.reason


def changed(payload: Json, path: str, value: object) -> Json:
    """The payload with one field replaced; `path` is dotted."""
    *parents, last = path.split(".")
    inner = payload
    for name in parents:
        inner = inner[name]
    inner[last] = value
    return payload


def with_config(**changes: object) -> Json:
    """A payment under another config, consistently signed: only the terms can refuse it."""
    config = msgspec.structs.replace(CONFIG, **changes)
    channel_id = config.channel_id(ASSET.network)
    signed = signed_voucher(1000, DELEGATE, channel_id)
    return read(voucher_payload(config_wire(config), channel_id, signed))
