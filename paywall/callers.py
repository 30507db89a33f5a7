"""Who sends a request, by the payment that it carries: for prices that depend on the payer.

It is what the payment says, before anybody has checked it. That is enough for a price: a payment
that names a payer is taken only when that payer has signed it, so who claims to be another to get
its price cannot pay. Nothing else may be decided by it.
"""

import msgspec
from starlette.requests import HTTPConnection

from paywall.protocol.errors import Refused
from paywall.protocol.money import parse_address
from paywall.protocol.x402 import (
    PAYMENT_SIGNATURE,
    Malformed,
    decode_json,
    decode_payment,
    show_address,
)


class _Config(msgspec.Struct, frozen=True):
    payer: str = ""


class _Authorization(msgspec.Struct, rename={"payer": "from"}, frozen=True):
    payer: str = ""


class _Payload(msgspec.Struct, rename="camel", frozen=True):
    channel_config: _Config = _Config()
    authorization: _Authorization = _Authorization()


_payload = msgspec.json.Decoder(_Payload)


def payer_of(request: HTTPConnection) -> str | None:
    """The payer that a request's payment names, in the checksum spelling; None without one.

    A request that asks for the price has none: it is quoted what a stranger pays.
    """
    header = request.headers.get(PAYMENT_SIGNATURE)
    if header is None:
        return None
    try:
        said = decode_json(_payload, bytes(decode_payment(header).payload))
        named = said.channel_config.payer or said.authorization.payer
        return show_address(parse_address(named))
    except (Refused, Malformed, ValueError):
        return None
