"""For tests of the agent: a wallet with a fixed key, the words of the wire, and a fake provider.

`FakeProvider` keeps books by itself, in plain Python: the specification's rule for a serial client,
or the window. It is the handler of an `httpx.MockTransport`. What its script says comes first, so
that it can also cheat. It checks each signature and never believes the agent.
"""

import asyncio
import base64
import json
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
from coincurve import PrivateKey

from paywall.offers import Intent
from paywall.protocol import eip712
from paywall.protocol.channel import ChannelConfig
from paywall.protocol.money import USDC, parse_address
from paywall.protocol.schemes.batch import Deposit, sign_voucher
from paywall.protocol.x402 import PaymentRequired, SettlementResponse, decode_required
from paywall.protocol.x402 import decode_response as _decode_response
from paywall.wallet import Wallet

Json = dict[str, Any]

NOW: Final = 1_800_000_000.0
KEY: Final = bytes([0x61]) * 32
STRANGER: Final = PrivateKey(bytes([0x62]) * 32)
PAYER: Final = eip712.address_of(PrivateKey(KEY))
ASSET: Final = USDC.base_sepolia
DOMAIN: Final = eip712.settlement_domain(ASSET.chain_id)
TOKEN_DOMAIN: Final = eip712.domain_separator(
    ASSET.name, ASSET.version, ASSET.chain_id, ASSET.address
)
ORIGIN: Final = "https://api.example"
PRICE: Final = 1_000
DEPOSIT: Final = 500_000
REASON: Final = "invalid_batch_settlement_evm_"
MISMATCH: Final = REASON + "cumulative_amount_mismatch"
NOT_FOUND: Final = REASON + "channel_not_found"
EXCEEDS: Final = REASON + "cumulative_exceeds_balance"


class Clock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def make_wallet(state: object = ":memory:", **settings: Any) -> Wallet:
    """A wallet of the fixed key: one cent per request, five dollars in all, half a one at once."""
    return Wallet(KEY, state=str(state), **{"clock": Clock(), **settings})


def choose(wallet: Wallet, origin: str, told: PaymentRequired) -> Intent:
    """The best channel that is offered."""
    for intent in wallet.rank(origin, told):
        if isinstance(intent, Intent):
            return intent
    raise AssertionError("no channel is offered")


# -- The words of the wire ---------------------------------------------------------------------


def encode(message: object) -> str:
    return base64.b64encode(json.dumps(message).encode()).decode()


def offer(price: int = PRICE, window: int | None = 64, **changes: Any) -> Json:
    """One way to pay, as a provider spells it; `extra` is merged, the rest replaced."""
    extra: Json = {
        "name": ASSET.name,
        "version": ASSET.version,
        "receiverAuthorizer": "0x" + "44" * 20,
        "withdrawDelay": 900,
    }
    if window is not None:
        extra["inFlight"] = window
    extra |= changes.pop("extra", {})
    return {
        "scheme": "batch-settlement",
        "network": ASSET.network,
        "asset": "0x" + ASSET.address.hex(),
        "amount": str(price),
        "payTo": "0x" + "33" * 20,
        "maxTimeoutSeconds": 300,
        "extra": {key: value for key, value in extra.items() if value is not None},
    } | changes


def quote_header(*offers: Json, error: str = "Payment required", **changes: Any) -> str:
    message = {
        "x402Version": 2,
        "error": error,
        "resource": {"url": "https://elsewhere.example/"},
        "accepts": list(offers or (offer(),)),
    }
    return encode(message | changes)


def quote(*offers: Json, **changes: Any) -> PaymentRequired:
    return decode_required(quote_header(*offers, **changes))


def required(
    *offers: Json, headers: dict[str, str] | None = None, **changes: Any
) -> httpx.Response:
    """A 402 with a quote."""
    told = {"payment-required": quote_header(*offers, **changes)}
    return httpx.Response(402, headers=told | (headers or {}), json={})


def state(channel: str, charged: int, balance: int = DEPOSIT) -> Json:
    return {
        "channelId": channel,
        "balance": str(balance),
        "totalClaimed": "0",
        "withdrawRequestedAt": 0,
        "refundNonce": "0",
        "chargedCumulativeAmount": str(charged),
    }


def proof(channel: str, amount: int, key: PrivateKey | None = None) -> Json:
    """The payer's own signature under `amount`, or somebody else's."""
    signer = key or PrivateKey(KEY)
    voucher = sign_voucher(signer, DOMAIN, bytes.fromhex(channel[2:]), amount)
    return {"signedMaxClaimable": str(amount), "signature": "0x" + voucher.signature.hex()}


def corrected(
    channel: str,
    charged: int,
    proven: Json | None,
    balance: int = DEPOSIT,
    window: int | None = 64,
) -> Json:
    """The offer of a corrective 402."""
    told = {"channelState": state(channel, charged, balance), "voucherState": proven}
    return offer(window=window, extra=told)


def receipt_json(
    charged: int | None, total: int, channel: str, balance: int = DEPOSIT, **changes: Any
) -> Json:
    extra: Json = {"channelState": state(channel, total, balance)}
    if charged is not None:
        extra["chargedAmount"] = str(charged)
    told = {"success": True, "transaction": "", "network": ASSET.network, "amount": ""}
    return told | {"extra": extra} | changes


def receipt_of(charged: int, total: int, channel: str, **changes: Any) -> SettlementResponse:
    return _decode_response(encode(receipt_json(charged, total, channel, **changes)))


def paid(request: httpx.Request, charged: int = PRICE, total: int | None = None) -> httpx.Response:
    """A good answer to a paid request; the total follows from its voucher unless it is given."""
    payment = payment_of(request)
    sum_ = payment.amount if total is None else total
    told = encode(receipt_json(charged, sum_, payment.channel))
    return httpx.Response(200, headers={"payment-response": told}, json={"paid": True})


@dataclass(frozen=True)
class Sent:
    """A payment as a provider reads it; its signatures have been checked."""

    kind: str
    channel: str
    amount: int
    deposit: int = 0
    deposit_key: bytes = b""
    deposit_signature: str = ""
    refund: int | None = None
    accepted: Json = field(default_factory=dict)
    message: Json = field(default_factory=dict)


def header_of(request: httpx.Request) -> str | None:
    found: str | None = request.headers.get("payment-signature")
    return found


def payment_of(request: httpx.Request) -> Sent:
    header = header_of(request)
    assert header is not None, "the request is not paid"
    return read_payment(header)


def read_payment(header: str) -> Sent:
    """Reads a payment and holds its signatures against the contract's rules."""
    message = json.loads(base64.b64decode(header, validate=True))
    assert message["x402Version"] == 2
    payload, accepted = message["payload"], message["accepted"]
    config = _config(payload["channelConfig"])
    channel = config.channel_id(accepted["network"])
    voucher = payload["voucher"]
    amount = int(voucher["maxClaimableAmount"])
    digest = eip712.voucher_digest(DOMAIN, channel, amount)
    assert voucher["channelId"] == "0x" + channel.hex()
    assert eip712.recover(digest, bytes.fromhex(voucher["signature"][2:])) == config.payer
    sent = {"accepted": accepted, "message": message}
    if payload["type"] == "refund":
        wish = payload.get("amount")
        sent["refund"] = int(wish) if wish is not None else None
    if payload["type"] == "deposit":
        sent |= _deposit(payload["deposit"], config, channel)
    return Sent(payload["type"], "0x" + channel.hex(), amount, **sent)


def _config(wire: Json) -> ChannelConfig:
    return ChannelConfig(
        payer=parse_address(wire["payer"]),
        payer_authorizer=parse_address(wire["payerAuthorizer"]),
        receiver=parse_address(wire["receiver"]),
        receiver_authorizer=parse_address(wire["receiverAuthorizer"]),
        token=parse_address(wire["token"]),
        withdraw_delay_seconds=wire["withdrawDelay"],
        salt=bytes.fromhex(wire["salt"][2:]),
    )


def _deposit(wire: Json, config: ChannelConfig, channel: bytes) -> Json:
    signed = wire["authorization"]["erc3009Authorization"]
    deposit = Deposit(
        channel_id=channel,
        config=config,
        amount=int(wire["amount"]),
        valid_after=int(signed["validAfter"]),
        valid_before=int(signed["validBefore"]),
        salt=int(signed["salt"], 16),
        signature=bytes.fromhex(signed["signature"][2:]),
    )
    authorization = deposit.authorization()
    digest = authorization.receive_digest(TOKEN_DOMAIN)
    assert eip712.recover(digest, deposit.signature) == config.payer
    return {
        "deposit": deposit.amount,
        "deposit_key": authorization.authorization_nonce,
        "deposit_signature": signed["signature"],
    }


def channel_of(intent: Intent) -> str:
    return "0x" + intent.channel_id.hex()


# -- A provider --------------------------------------------------------------------------------


@dataclass
class Ledger:
    """One channel as the provider keeps it."""

    balance: int = 0
    charged: int = 0
    signed: int = 0
    proof: Json | None = None
    holds: dict[int, int] = field(default_factory=dict)
    used: set[int] = field(default_factory=set)
    most_at_once: int = 0


Trick = Callable[["FakeProvider", httpx.Request], httpx.Response | None]


class FakeProvider:
    """A provider in memory. `window` None: it serves one request of a channel at a time."""

    def __init__(self, price: int = PRICE, window: int | None = 64, delay: float = 0.0) -> None:
        self.price = price
        self.window = window
        self.delay = delay
        self.free: set[str] = set()
        self.script: deque[Trick] = deque()
        self.ledgers: dict[str, Ledger] = {}
        self.mined: dict[bytes, int] = {}
        self.requests: list[httpx.Request] = []
        self.served = 0
        self._number = 0
        self._lock = threading.Lock()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        answer = self._begin(request)
        if isinstance(answer, httpx.Response):
            return answer
        time.sleep(self.delay)
        return self._finish(*answer)

    async def later(self, request: httpx.Request) -> httpx.Response:
        """The same, for many at once."""
        answer = self._begin(request)
        if isinstance(answer, httpx.Response):
            return answer
        await asyncio.sleep(self.delay)
        return self._finish(*answer)

    @property
    def charged(self) -> int:
        return sum(ledger.charged for ledger in self.ledgers.values())

    @property
    def payments(self) -> list[Sent]:
        return [payment_of(request) for request in self.requests if header_of(request)]

    def offer(self) -> Json:
        return offer(self.price, self.window)

    def _begin(self, request: httpx.Request) -> "httpx.Response | tuple[Sent, int]":
        with self._lock:
            self.requests.append(request)
            trick = self.script.popleft() if self.script else None
            answer = trick(self, request) if trick else None
            if answer is not None:
                return answer
            if request.url.path in self.free:
                return httpx.Response(200, json={"free": True})
            if header_of(request) is None:
                return required(self.offer())
            return self._admit(payment_of(request))

    def _admit(self, payment: Sent) -> "httpx.Response | tuple[Sent, int]":
        if payment.accepted["amount"] != str(self.price):
            return required(self.offer(), error="invalid_payment_requirements")
        ledger = self.ledgers.setdefault(payment.channel, Ledger())
        if payment.deposit and payment.deposit_key not in self.mined:
            self.mined[payment.deposit_key] = payment.deposit
            ledger.balance += payment.deposit
        if payment.kind == "refund":
            return self._refund(ledger, payment)
        if ledger.balance == 0:
            return required(self.offer(), error=NOT_FOUND)
        if payment.amount > ledger.balance:
            return self.correct(payment.channel, EXCEEDS)
        if not self._fits(ledger, payment):
            return self.correct(payment.channel, MISMATCH)
        self._number += 1
        ledger.holds[self._number] = self.price
        ledger.most_at_once = max(ledger.most_at_once, len(ledger.holds))
        ledger.used.add(payment.amount)
        if payment.amount > ledger.signed:
            ledger.signed = payment.amount
            ledger.proof = payment.message["payload"]["voucher"]
        return payment, self._number

    def _fits(self, ledger: Ledger, payment: Sent) -> bool:
        committed = ledger.charged + sum(ledger.holds.values()) + self.price
        if self.window is None:
            return not ledger.holds and payment.amount == committed
        if payment.amount in ledger.used or len(ledger.holds) >= self.window:
            return False
        return committed <= max(payment.amount, ledger.signed)

    def correct(self, channel: str, reason: str) -> httpx.Response:
        ledger = self.ledgers[channel]
        total = ledger.charged + sum(ledger.holds.values())
        proven = ledger.proof and {
            "signedMaxClaimable": ledger.proof["maxClaimableAmount"],
            "signature": ledger.proof["signature"],
        }
        told = corrected(channel, total, proven, ledger.balance, self.window)
        told["amount"] = str(self.price)
        return required(told, error=reason)

    def _refund(self, ledger: Ledger, payment: Sent) -> httpx.Response:
        if payment.amount != ledger.charged:
            return self.correct(payment.channel, MISMATCH)
        amount = payment.refund or ledger.balance - ledger.charged
        ledger.balance -= amount
        receipt = receipt_json(None, ledger.charged, payment.channel, ledger.balance)
        told = encode(receipt | {"transaction": "0x" + "ab" * 32, "amount": str(amount)})
        return httpx.Response(200, headers={"payment-response": told}, json={})

    def _finish(self, payment: Sent, number: int) -> httpx.Response:
        with self._lock:
            ledger = self.ledgers[payment.channel]
            ledger.charged += ledger.holds.pop(number)
            self.served += 1
            told = receipt_json(self.price, ledger.charged, payment.channel, ledger.balance)
            headers = {"payment-response": encode(told)}
            return httpx.Response(200, headers=headers, json={"paid": True})


def read_json(header: str) -> Json:
    """What a header says, as it was spelled."""
    told: Json = json.loads(base64.b64decode(header))
    return told
