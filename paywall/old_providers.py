"""An agent's ear and mouth for providers of x402 v1: their answers become v2's, its payments v1's.

What was said in v1 is said again in a header of v2, and nothing is taken away, so that the caller
still gets the answer as it came. A quote in a body is read only where the body is known to be short
and plain; a 402 that has a header of v2 is v2. Text in it is data.
"""

from typing import Final

import httpx
from msgspec import Raw

from paywall.either import library_of
from paywall.patience import Patience
from paywall.protocol.limits import MAX_QUOTE_HEADER_BYTES, MAX_QUOTE_SECONDS
from paywall.protocol.x402 import (
    PAYMENT_REQUIRED,
    PAYMENT_RESPONSE,
    PAYMENT_SIGNATURE,
    Malformed,
)
from paywall.protocol.x402_v1 import (
    X_PAYMENT,
    X_PAYMENT_RESPONSE,
    downgraded_payment,
    is_old,
    upgraded_quote,
    upgraded_receipt,
)

MAX_QUOTE_BODY_BYTES: Final = MAX_QUOTE_HEADER_BYTES


def heard(response: httpx.Response, request: httpx.Request) -> httpx.Response:
    """The answer, with headers of v2 for what it says in v1. Raises the transport's own errors."""
    if _may_be_quote(response):
        try:
            response = _read(response, _in_time(response, request))
        except BaseException:
            response.close()
            raise
    return _heard(response, request)


async def heard_later(response: httpx.Response, request: httpx.Request) -> httpx.Response:
    if _may_be_quote(response):
        try:
            response = _read(response, await _in_time_later(response, request))
        except BaseException:
            await response.aclose()
            raise
    return _heard(response, request)


def _in_time(response: httpx.Response, request: httpx.Request) -> bytes:
    if response.is_stream_consumed:
        return response.content
    patience, body = Patience(MAX_QUOTE_BODY_BYTES, MAX_QUOTE_SECONDS), b""
    for chunk in response.iter_raw():
        body += chunk
        if patience.is_over(chunk):
            raise _too_slow(request)
    return body


async def _in_time_later(response: httpx.Response, request: httpx.Request) -> bytes:
    if response.is_stream_consumed:
        return response.content
    patience, body = Patience(MAX_QUOTE_BODY_BYTES, MAX_QUOTE_SECONDS), b""
    async for chunk in response.aiter_raw():
        body += chunk
        if patience.is_over(chunk):
            raise _too_slow(request)
    return body


def _too_slow(request: httpx.Request) -> httpx.ReadTimeout:
    told = f"the body of a 402 did not come within {MAX_QUOTE_SECONDS:.0f} s"
    return library_of(request).ReadTimeout(told, request=request)


def _read(response: httpx.Response, body: bytes) -> httpx.Response:
    """The same answer, of which the body is here."""
    return type(response)(
        response.status_code,
        headers=response.headers,
        content=body,
        extensions=response.extensions,
    )


def spoken(accepted: Raw, header: str) -> tuple[str, str]:
    """Name and value of the payment's header, in the version in which its price was asked."""
    if is_old(accepted):
        return X_PAYMENT, downgraded_payment(header)
    return PAYMENT_SIGNATURE, header


def _may_be_quote(response: httpx.Response) -> bool:
    """Whether to read the body of this answer for a quote."""
    headers = response.headers
    if response.status_code != 402 or PAYMENT_REQUIRED in headers:
        return False
    size = headers.get("content-length", "")
    short = size.isascii() and size.isdigit() and len(size) < 8
    return (
        short
        and int(size) <= MAX_QUOTE_BODY_BYTES
        and "content-encoding" not in headers
        and headers.get("content-type", "").split(";")[0].strip().lower() == "application/json"
    )


def _heard(response: httpx.Response, request: httpx.Request) -> httpx.Response:
    headers = response.headers
    if _may_be_quote(response):
        quote = upgraded_quote(response.content)
        if quote is not None:
            headers[PAYMENT_REQUIRED] = quote
    if X_PAYMENT not in request.headers:  # who was not paid in v1 has no receipt of v1 to give
        return response
    receipt = headers.get(X_PAYMENT_RESPONSE)
    if receipt is not None and PAYMENT_RESPONSE not in headers:
        headers[PAYMENT_RESPONSE] = _receipt(receipt)
    return response


def _receipt(header: str) -> str:
    """One that cannot be read stays what it is, and is refused where receipts are."""
    try:
        return upgraded_receipt(header)
    except Malformed:
        return header
