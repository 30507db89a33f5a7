"""Strangers' answers: what a provider says to an agent, a node to us, a facilitator to us.

An agent's flow ends in an answer or an AgentError and never signs above its policy; a question to a
node or a facilitator ends in a checked value or ChainUnavailable.
"""

import atexit
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any, Final

import httpx
import msgspec
from coincurve import PrivateKey

from fuzz.target import LOOP, promise
from paywall import USDC, Wallet
from paywall.chain.gas import base_fee_of, receipt_of
from paywall.chain.rpc import Rpc, octets, presence, quantity
from paywall.flow import Flow, pay
from paywall.protocol.errors import AgentError, ChainUnavailable
from paywall.protocol.facilitation import SettleAnswer, Supported, VerifyAnswer
from paywall.protocol.schemes.batch import BatchTerms
from paywall.protocol.schemes.exact import ExactTerms
from paywall.protocol.x402 import (
    VERSION,
    Malformed,
    PaymentRequired,
    SettlementResponse,
    decode_json,
    decode_payment,
    encode_header,
    encode_json,
)

_PAY_TO: Final = USDC.base.address
_URL: Final = "https://provider.example/item"
PER_REQUEST: Final = 10_000
DEPOSIT: Final = 500_000
_FRESH_AFTER: Final = 200


class Quotes:
    """Any bytes as a provider's quote, and its halves as what comes after the payment."""

    name = "quotes"

    def __init__(self) -> None:
        self._folder = Path(mkdtemp(prefix="paywall-fuzz-"))
        atexit.register(self._close)
        self._key = PrivateKey(bytes([5]) * 32).secret
        self._runs = 0
        self._wallet = self._new_wallet()
        seeds = self.seeds()
        self._good = seeds[0], seeds[-1]

    def _close(self) -> None:
        self._wallet.close()
        rmtree(self._folder, ignore_errors=True)

    def _new_wallet(self) -> Wallet:
        path = self._folder / f"wallet-{self._runs}.db"
        return Wallet(self._key, per_request="$0.01", deposit="$0.50", total="$1000", state=path)

    def seeds(self) -> Sequence[bytes]:
        terms = BatchTerms(USDC.base, _PAY_TO, _PAY_TO)
        offers = [
            terms.offer(1000).requirements,
            ExactTerms(USDC.base, _PAY_TO).offer(1000).requirements,
        ]
        quotes = [
            PaymentRequired(
                x402_version=VERSION,
                error=error,
                accepts=[msgspec.Raw(encode_json(one)) for one in some],
            )
            for some in (offers, offers[:1], offers[1:])
            for error in (
                "Payment required",
                "invalid_batch_settlement_evm_cumulative_amount_mismatch",
            )
        ]
        extra = b'{"chargedAmount":"1000","channelState":{"channelId":"0x00","balance":"500000",'
        extra += b'"totalClaimed":"0","withdrawRequestedAt":0,"refundNonce":"0"}}'
        network = USDC.base.network
        receipt = SettlementResponse(
            success=True, transaction="", network=network, amount="", extra=msgspec.Raw(extra)
        )
        return [encode_header(message).encode() for message in (*quotes, receipt)]

    def run(self, data: bytes) -> str:
        self._runs += 1
        if self._runs % _FRESH_AFTER == 0:
            self._wallet.close()
            self._wallet = self._new_wallet()
        good, receipt = self._good
        asks, takes = b"PAYMENT-REQUIRED", b"PAYMENT-RESPONSE"
        answers = [
            [(402, asks, data), (200, takes, receipt)],
            [(402, asks, good), (200, takes, data)],
            [(402, asks, good), (402, asks, data), (200, takes, receipt)],
        ][self._runs % 3]
        flow = pay(self._wallet, httpx.Request("GET", _URL))
        try:
            return self._converse(flow, answers)
        except AgentError as error:
            return type(error).__name__

    def _converse(self, flow: Flow, answers: list[tuple[int, bytes, bytes]]) -> str:
        step = next(flow)
        for status, name, header in answers:
            promise(isinstance(step, httpx.Request), "it waits for nobody")
            assert isinstance(step, httpx.Request)
            self._must_be_modest(step)
            try:
                step = flow.send(httpx.Response(status, headers=[(name, header)], request=step))
            except StopIteration as end:
                return f"answered {end.value.status_code}"
        flow.close()
        return "paid again"

    def _must_be_modest(self, request: httpx.Request) -> None:
        """What leaves goes to the one place, and promises no more than the owner allows."""
        promise(str(request.url) == _URL, "a payment left for elsewhere")
        header = request.headers.get("payment-signature")
        if header is None:
            return
        told: dict[str, Any] = json.loads(bytes(decode_payment(header).payload))
        if "authorization" in told:
            promise(int(told["authorization"]["value"]) <= PER_REQUEST, "a transfer above policy")
        if "deposit" in told:
            promise(int(told["deposit"]["amount"]) <= DEPOSIT, "a deposit above policy")


class Nodes:
    """Any bytes as a node's answer to each of our questions."""

    name = "node answers"
    _READERS: Final = (quantity, octets, presence, receipt_of, base_fee_of)

    def __init__(self) -> None:
        self._rpc = Rpc("http://node.example", 5)
        self._answer = (200, b"")
        self._rpc._transport._post = self._post  # type: ignore[method-assign]

    async def _post(self, body: bytes) -> tuple[int, bytes]:
        return self._answer

    def seeds(self) -> Sequence[bytes]:
        receipt = {
            "transactionHash": "0x" + "1" * 64,
            "blockNumber": "0x1",
            "gasUsed": "0x5208",
            "effectiveGasPrice": "0x1",
            "status": "0x1",
            "logs": [{"address": "0x" + "2" * 40, "topics": ["0x" + "3" * 64], "data": "0x"}],
        }
        results: tuple[object, ...] = (
            "0x1",
            "0x",
            None,
            receipt,
            {"baseFeePerGas": "0x7"},
            [],
            "0xzz",
        )
        answers = [{"jsonrpc": "2.0", "id": 1, "result": result} for result in results]
        error = {"code": 3, "message": "execution reverted: no", "data": "0x08c379a0" + "0" * 128}
        return [json.dumps(answer).encode() for answer in (*answers, {"id": 1, "error": error})]

    def run(self, data: bytes) -> str:
        self._answer = (200, data)
        words = set()
        for read in self._READERS:
            try:
                LOOP.run_until_complete(self._rpc.ask(read, "eth_anything"))
                words.add("read")
            except ChainUnavailable as error:
                promise(len(str(error)) < 300, "a stranger's text of any length")
                words.add("unavailable")
        return " and ".join(sorted(words))


class Facilitators:
    """Any bytes as a facilitator's answer: read as typed, or malformed."""

    name = "facilitator answers"

    def __init__(self) -> None:
        self._decoders: list[msgspec.json.Decoder[Any]] = [
            msgspec.json.Decoder(kind) for kind in (VerifyAnswer, SettleAnswer, Supported)
        ]

    def seeds(self) -> Sequence[bytes]:
        return [
            b'{"isValid":true,"payer":"0x00","extra":{"balance":"1"}}',
            b'{"success":true,"transaction":"0x00","network":"eip155:8453","amount":"5"}',
            b'{"kinds":[{"x402Version":2,"scheme":"exact","network":"eip155:8453"}],"signers":{}}',
        ]

    def run(self, data: bytes) -> str:
        read = 0
        for decoder in self._decoders:
            with suppress(Malformed):
                decode_json(decoder, data)
                read += 1
        return f"read as {read} kinds" if read else "malformed"
