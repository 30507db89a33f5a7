"""Answers to who pays in x402 v1: the receipt also as v1 reads it, beside that of v2."""

from typing import Final

from starlette.types import Message, Send

from paywall.protocol.x402 import PAYMENT_RESPONSE
from paywall.protocol.x402_v1 import X_PAYMENT_RESPONSE, downgraded_receipt

_RECEIPT: Final = PAYMENT_RESPONSE.lower().encode()
_OLD_RECEIPT: Final = X_PAYMENT_RESPONSE.lower().encode()
_EXPOSED: Final = (b"access-control-expose-headers", X_PAYMENT_RESPONSE.encode())


def answering(send: Send) -> Send:
    """A send for one request. What the app itself says under that name is not sent on."""

    async def send_old(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": _with_old_receipt(message["headers"])}
        await send(message)

    return send_old


def _with_old_receipt(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    kept = [(name, value) for name, value in headers if name.lower() != _OLD_RECEIPT]
    receipts = [value for name, value in kept if name == _RECEIPT]
    for receipt in receipts:
        kept.append((_OLD_RECEIPT, downgraded_receipt(receipt.decode("latin-1")).encode()))
    return [*kept, _EXPOSED] if receipts else kept
