"""One facilitator over HTTP: a question, and a checked answer or a typed error.

A facilitator is a stranger. Its answers are bounded in size and time, redirects are not followed,
and what is not the JSON that was asked for is no answer. Two kinds of failure differ: `NotDone`,
when surely nothing was done and somebody else may be asked, and other `ChainUnavailable`, when the
question may have been heard. URLs and the API key are secrets: texts name only scheme and host.
"""

import asyncio
import re
from typing import Final, TypeVar
from urllib.parse import urlsplit

import httpx
import msgspec

from paywall.protocol.errors import ChainUnavailable, ConfigurationError
from paywall.protocol.facilitation import SettleAnswer, Supported, VerifyAnswer
from paywall.protocol.limits import MAX_FACILITATOR_ANSWER_BYTES
from paywall.protocol.x402 import Malformed, decode_json
from paywall.quiet import unsaid

QUICK_SECONDS: Final = 10.0
"""How long `/supported` and `/verify` may take: they send nothing."""

_NOTHING_DONE: Final = frozenset((400, 401, 402, 403, 404, 405, 413, 415, 422, 429))
_LOOPBACK: Final = frozenset(("127.0.0.1", "localhost", "::1"))
_WORD = re.compile(r"[A-Za-z0-9_]{1,100}", re.ASCII)

_supported = msgspec.json.Decoder(Supported)
_verify = msgspec.json.Decoder(VerifyAnswer)
_settle = msgspec.json.Decoder(SettleAnswer)

_T = TypeVar("_T", Supported, VerifyAnswer, SettleAnswer)


class NotDone(ChainUnavailable):
    """The facilitator surely did nothing: it was not reached, or turned us away."""


class Site:
    """Where one facilitator lives. `api_key` is sent as a bearer token, over TLS only."""

    def __init__(self, url: str, api_key: str | None) -> None:
        self._shown = _shown(url, api_key is not None)
        self._url = url.rstrip("/")
        self._headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if api_key is not None:
            if not api_key.isascii() or not api_key.isprintable():
                raise ConfigurationError("the facilitator's API key is not one: printable ASCII")
            self._headers["Authorization"] = f"Bearer {api_key}"

    def __repr__(self) -> str:
        return self._shown

    async def supported(self, http: httpx.AsyncClient) -> Supported:
        status, body = await self._ask(http, "GET", "/supported", None, QUICK_SECONDS)
        return self._answer(_supported, status, body)

    async def verify(self, http: httpx.AsyncClient, body: bytes) -> VerifyAnswer:
        status, answer = await self._ask(http, "POST", "/verify", body, QUICK_SECONDS)
        return self._answer(_verify, status, answer)

    async def settle(self, http: httpx.AsyncClient, body: bytes, seconds: float) -> SettleAnswer:
        status, answer = await self._ask(http, "POST", "/settle", body, seconds)
        return self._answer(_settle, status, answer)

    async def _ask(
        self, http: httpx.AsyncClient, method: str, path: str, body: bytes | None, seconds: float
    ) -> tuple[int, bytes]:
        headers = dict(self._headers)
        if body is not None:
            headers["Content-Type"] = "application/json"
        url = self._url + path
        try:
            with unsaid():
                async with (
                    asyncio.timeout(seconds),
                    http.stream(method, url, content=body, headers=headers, timeout=seconds) as got,
                ):
                    return got.status_code, await self._read(got)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout):
            raise NotDone(f"{self} cannot be reached") from None
        except (TimeoutError, httpx.TimeoutException):
            raise ChainUnavailable(f"{self} did not answer in time") from None
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise ChainUnavailable(f"{self} broke off ({type(error).__name__})") from None

    async def _read(self, response: httpx.Response) -> bytes:
        """The body as it was sent: a compressed one could grow without bound."""
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise ChainUnavailable(f"{self} answered in an encoding that was not asked for")
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > MAX_FACILITATOR_ANSWER_BYTES:
                raise ChainUnavailable(f"{self} answered more than is read")
        return bytes(body)

    def _answer(self, decoder: "msgspec.json.Decoder[_T]", status: int, body: bytes) -> _T:
        """The message in a body. A refusal may come with a 4xx; good news only with 200."""
        if status == 200 or status in _NOTHING_DONE:
            try:
                answer = decode_json(decoder, body)
            except Malformed:
                answer = None
            if answer is not None and (status == 200 or _is_refusal(answer)):
                return answer
        if status in _NOTHING_DONE:
            raise NotDone(f"{self} turned us away with {status}")
        raise ChainUnavailable(f"{self} answered {status} and nothing that can be understood")


def _is_refusal(answer: Supported | VerifyAnswer | SettleAnswer) -> bool:
    if isinstance(answer, VerifyAnswer):
        return not answer.is_valid and bool(answer.invalid_reason)
    if isinstance(answer, SettleAnswer):
        return not answer.success and bool(answer.error_reason)
    return False


def word_of(reason: object) -> str:
    """A facilitator's reason, if it is a word: a stranger's text is not shown."""
    return reason if isinstance(reason, str) and _WORD.fullmatch(reason) else "no reason"


def _shown(url: str, has_key: bool) -> str:
    """Scheme and host, which is all of a URL that may be shown."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ConfigurationError("the facilitator is not a URL") from None
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise ConfigurationError('the facilitator is not a URL such as "https://host/path"')
    if has_key and parts.scheme != "https" and host not in _LOOPBACK:
        raise ConfigurationError("an API key goes to a facilitator over https only")
    return f"{parts.scheme}://{host}"
