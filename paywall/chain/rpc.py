"""One JSON-RPC endpoint: a question, and a checked answer or a typed error. web3 carries it.

A question ends in one of three ways. The answer, read by a strict reader. `RpcRefused`: the node
understood and said no, perhaps because a contract reverted. `ChainUnavailable`: no answer, not in
time, or nonsense. Whatever an endpoint says is a stranger's text: it decides which error this is,
and only a short reason of a revert is ever shown.

The URL of an endpoint is a secret, for it carries keys in its path or a password. So texts name
only scheme and host, and web3's own HTTP provider is not used: it writes the whole URL into logs,
follows redirects, and reads answers of any size.
"""

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Final, TypeVar
from urllib.parse import urlsplit

import msgspec
from aiohttp import ClientError, ClientSession, ClientTimeout
from web3 import AsyncWeb3
from web3.exceptions import BadResponseFormat, Web3Exception, Web3RPCError
from web3.providers.async_base import AsyncJSONBaseProvider
from web3.types import RPCEndpoint, RPCResponse

from paywall.chain.reverts import decode_revert
from paywall.protocol.errors import ChainUnavailable, ConfigurationError
from paywall.protocol.limits import (
    MAX_RPC_ANSWER_BYTES,
    MAX_RPC_ANSWER_CONTAINERS,
    MAX_RPC_ANSWER_LEVELS,
)
from paywall.protocol.money import Address

MAX_REASON_CHARS: Final = 80
RETRY_PAUSES_SECONDS: Final = (0.1, 0.4)

_QUANTITY = re.compile(r"0x[0-9a-fA-F]{1,64}", re.ASCII)
_REVERTED = re.compile(r"revert|invalid opcode|vm exception|vm execution error", re.IGNORECASE)
_AFTER_REVERTED = re.compile(r"revert(?:ed)?[:,]?\s*(?:with reason string\s*)?", re.IGNORECASE)
_UNFIT_FOR_TEXT = re.compile(r"[^ -~]+")
_STRING_OR_BRACKET = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
_STEP: Final = {b"[": 1, b"{": 1, b"]": -1, b"}": -1}
_REVERT_CODE: Final = 3

T = TypeVar("T")


class RpcRefused(ChainUnavailable):
    """The node understood the question and said no. `text` is its own and is never shown."""

    def __init__(self, shown: str, code: int, text: str, data: bytes) -> None:
        super().__init__(shown)
        self.code = code
        self.text = text
        self.data = data

    @property
    def reverted(self) -> bool:
        """Whether a contract said no, and not the node for a reason of its own."""
        return self.code == _REVERT_CODE or bool(self.data) or bool(_REVERTED.search(self.text))

    @property
    def reason(self) -> str:
        """Why the contract reverted, in a few printable characters; empty when nobody knows."""
        text = _AFTER_REVERTED.split(self.text)[-1] if _REVERTED.search(self.text) else ""
        if self.data:
            text = decode_revert(self.data) or f"error 0x{self.data[:4].hex()}"
        return _UNFIT_FOR_TEXT.sub(" ", text).strip()[:MAX_REASON_CHARS]


class _Busy(ChainUnavailable):
    """The endpoint could not be reached or has no time; asking again soon may help."""


class Transport(AsyncJSONBaseProvider):
    """web3's JSON-RPC over one HTTP session: answers bounded, redirects refused, no URL shown."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.shown = _shown(url)
        self._url = url
        self._session: ClientSession | None = None

    async def make_request(self, method: RPCEndpoint, params: object) -> RPCResponse:
        status, body = await self._post(self.encode_rpc_request(method, params))
        try:
            _refuse_deep(body)
            answer = self.decode_rpc_response(body)
        except ValueError:
            raise _failed(status, f"{self.shown} answered {status} and no JSON") from None
        if not isinstance(answer, dict) or (status != 200 and "error" not in answer):
            raise _failed(status, f"{self.shown} answered {status} and no JSON-RPC")
        return answer

    async def _post(self, body: bytes) -> tuple[int, bytes]:
        if self._session is None:
            self._session = ClientSession(
                headers={"Content-Type": "application/json"}, timeout=ClientTimeout(total=None)
            )
        try:
            async with self._session.post(self._url, data=body, allow_redirects=False) as response:
                answer = bytearray()
                async for chunk in response.content.iter_chunked(64 * 1024):
                    answer += chunk
                    if len(answer) > MAX_RPC_ANSWER_BYTES:
                        raise ChainUnavailable(f"{self.shown} answered more than is read")
                return response.status, bytes(answer)
        except (ClientError, OSError) as error:
            raise _Busy(f"{self.shown} cannot be reached ({type(error).__name__})") from None

    async def disconnect(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()


def _shown(url: str) -> str:
    """Scheme and host, which is all of an endpoint that may be shown."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ConfigurationError("the RPC is not a URL") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigurationError('the RPC is not a URL such as "https://rpc.example/"')
    return f"{parts.scheme}://{host}"


def _refuse_deep(body: bytes) -> None:
    """Raises ValueError for JSON that is nested too deep, before a parser sees it.

    Importing py-evm raises Python's recursion limit above what the C stack holds; after that, a
    parser does not fail on such JSON but takes the process with it.
    """
    brackets = body.count(b"[") + body.count(b"{")
    if brackets <= MAX_RPC_ANSWER_LEVELS:
        return
    if brackets > MAX_RPC_ANSWER_CONTAINERS:
        raise ValueError("too many objects and lists")
    depth = 0
    for token in _STRING_OR_BRACKET.finditer(body):
        depth += _STEP.get(token[0], 0)
        if depth > MAX_RPC_ANSWER_LEVELS:
            raise ValueError("nested too deep")


def _failed(status: int, text: str) -> ChainUnavailable:
    return _Busy(text) if status == 429 or status >= 500 else ChainUnavailable(text)


class Rpc:
    """The questions that paywall asks of an endpoint. Each takes at most `seconds`."""

    def __init__(self, url: str, seconds: float) -> None:
        self._transport = Transport(url)
        self._web3: AsyncWeb3[Transport] = AsyncWeb3(self._transport, middleware=[])
        self._seconds = seconds

    def __repr__(self) -> str:
        return self._transport.shown

    async def close(self) -> None:
        await self._transport.disconnect()

    async def ask(self, read: Callable[[object], T], method: str, *params: object) -> T:
        """The answer as `read` understands it; a ValueError of the reader makes it nonsense."""
        try:
            async with asyncio.timeout(self._seconds):
                answer = await self._patiently(method, params)
        except TimeoutError:
            raise ChainUnavailable(f"{self} did not answer in time") from None
        try:
            return read(answer)
        except (ValueError, msgspec.ValidationError):
            raise ChainUnavailable(f"{self} answered {method} with nonsense") from None

    async def call(
        self, read: Callable[[bytes], T], to: Address, data: bytes, block: int | None = None
    ) -> T:
        """What a contract answers, without a transaction."""
        at = "latest" if block is None else hex(block)
        question = {"to": _hex(to), "data": _hex(data)}
        return await self.ask(lambda answer: read(octets(answer)), "eth_call", question, at)

    async def has_code(self, contract: Address) -> bool:
        return bool(await self.ask(octets, "eth_getCode", _hex(contract), "latest"))

    async def _patiently(self, method: str, params: Sequence[object]) -> object:
        """Asks again when the endpoint is busy: every question may be repeated, even a signed
        transaction, whose second copy is the same transaction.
        """
        for pause in RETRY_PAUSES_SECONDS:
            try:
                return await self._once(method, params)
            except _Busy:
                await asyncio.sleep(pause)
        return await self._once(method, params)

    async def _once(self, method: str, params: Sequence[object]) -> object:
        try:
            answer: object = await self._web3.manager.coro_request(
                RPCEndpoint(method), list(params)
            )
            return answer
        except BadResponseFormat:
            raise ChainUnavailable(f"{self} answered {method} with no JSON-RPC") from None
        except Web3RPCError as error:
            raise self._refusal(method, error.rpc_response) from None
        except (Web3Exception, ValueError, TypeError, AttributeError):
            raise ChainUnavailable(f"{self} answered {method} with nonsense") from None

    def _refusal(self, method: str, response: RPCResponse | None) -> RpcRefused:
        error: object = response.get("error") if response else None
        fields = error if isinstance(error, dict) else {}
        code, text, data = fields.get("code"), fields.get("message"), fields.get("data")
        return RpcRefused(
            f"{self} refused {method} (error {code})",
            code if isinstance(code, int) else 0,
            str(text)[:1000],
            _revert_data(data),
        )


def _revert_data(data: object) -> bytes:
    """The bytes that a contract reverted with, where nodes put them; empty if there are none."""
    if isinstance(data, dict):
        data = data.get("data") or data.get("result")
    try:
        return octets(data.removeprefix("Reverted ") if isinstance(data, str) else "0x")
    except ValueError:
        return b""


def _hex(data: bytes) -> str:
    return "0x" + data.hex()


# -- Readers of answers --------------------------------------------------------------------------


def quantity(answer: object) -> int:
    """A number. Raises ValueError."""
    if not isinstance(answer, str) or _QUANTITY.fullmatch(answer) is None:
        raise ValueError("not a quantity")
    return int(answer, 16)


def octets(answer: object) -> bytes:
    """Bytes. Raises ValueError."""
    if not isinstance(answer, str) or not answer.startswith("0x"):
        raise ValueError("not hex")
    return bytes.fromhex(answer[2:])


def presence(answer: object) -> bool:
    """Whether there was anything at all. Raises ValueError for what no node would answer."""
    if answer is not None and not isinstance(answer, dict):
        raise ValueError("not an object")
    return answer is not None
