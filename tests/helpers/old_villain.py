"""The hostile provider in x402 v1: the same tricks, said in the old words.

What a trick says in headers of v2 goes out as a body and headers of v1, and a payment of v1 is
shown to it as one of v2, so that there is one list of tricks and one audit.
"""

import base64
import dataclasses
import json
from typing import Final

import httpx

from helpers.agent import ASSET, Json, encode, read_json
from helpers.villain import Villain

_NAMES: Final = {"eip155:84532": "base-sepolia", "eip155:8453": "base"}
_QUOTE: Final = "payment-required"
_RECEIPT: Final = "payment-response"


class OldVillain(Villain):
    """It is asked and paid in v1; `exact` is all that v1 has."""

    def __call__(self, request: httpx.Request) -> httpx.Response:
        header = request.headers.get("x-payment")
        assert "payment-signature" not in request.headers, "who asked in v1 is paid in v1"
        if header is None:
            return _told(super().__call__(request))
        shown = httpx.Request(
            request.method,
            request.url,
            headers={**request.headers, "payment-signature": _shown(header)},
        )
        before = len(self.payments)
        try:
            return _told(super().__call__(shown))
        finally:
            if len(self.payments) > before:
                self.payments[-1] = dataclasses.replace(self.payments[-1], header=header)


def _shown(header: str) -> str:
    """A payment of v1 as v2 would have it; what is accepted is what was signed."""
    message = read_json(header)
    assert (message["x402Version"], message["network"]) == (1, "base-sepolia")
    signed = message["payload"]["authorization"]
    accepted = {
        "scheme": message["scheme"],
        "network": ASSET.network,
        "asset": "0x" + ASSET.address.hex(),
        "amount": signed["value"],
        "payTo": signed["to"],
    }
    return encode({"x402Version": 2, "accepted": accepted, "payload": message["payload"]})


def _told(answer: httpx.Response) -> httpx.Response:
    headers = [
        (k, v) for k, v in answer.headers.raw if k.lower().decode() not in (_QUOTE, _RECEIPT)
    ]
    receipt, quote = answer.headers.get(_RECEIPT), answer.headers.get(_QUOTE)
    if receipt is not None:
        headers.append((b"x-payment-response", receipt.encode()))
    if quote is None:
        return httpx.Response(answer.status_code, headers=headers, content=answer.content)
    headers = [(k, v) for k, v in headers if k.lower() not in (b"content-type", b"content-length")]
    headers.append((b"content-type", b"application/json"))
    return httpx.Response(answer.status_code, headers=headers, content=_body(quote))


def _body(quote: str) -> bytes:
    """The quote in the words of v1; one that cannot be read goes out as it is."""
    try:
        message = json.loads(base64.b64decode(quote))
        accepts = [_offer(offer) for offer in message["accepts"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        return quote.encode()
    return json.dumps(
        {"x402Version": 1, "error": message.get("error"), "accepts": accepts}
    ).encode()


def _offer(told: Json) -> Json:
    price = told.get("amount")
    network = told.get("network")
    old = {key: value for key, value in told.items() if key != "amount"}
    rest = {"resource": "", "description": "", "mimeType": "", "maxAmountRequired": price}
    return old | rest | {"network": _NAMES.get(str(network), network)}
