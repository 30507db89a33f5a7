"""For tests of `exact`: a payer who signs transfers, a token in a dict, and a provider of both."""

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Final

import msgspec
from coincurve import PrivateKey
from msgspec import Raw
from starlette.types import ASGIApp

from helpers.channels import ASSET, PAYER, TERMS
from helpers.provider import FaultyStore, Ledger, provider
from paywall.asgi import Paywall
from paywall.chain import Mined
from paywall.protocol import eip712, once
from paywall.protocol.eip712 import Authorization
from paywall.protocol.errors import Reason, Refused, TransactionPending
from paywall.protocol.money import Address, Asset
from paywall.protocol.schemes import exact
from paywall.protocol.schemes.exact import ExactPayment, ExactTerms
from paywall.protocol.x402 import VERSION, PaymentPayload, encode_header, encode_json

Json = dict[str, Any]

PRICE: Final = 20_000
PRICED: Final = "$0.02"
EXACT: Final = ExactTerms(ASSET, TERMS.pay_to)

_nonces = count(1)


@dataclass
class Signer:
    """Somebody who signs transfers; every one has an authorization nonce of its own."""

    clock: Callable[[], float] = time.time
    key: PrivateKey = PAYER

    @property
    def address(self) -> Address:
        return eip712.address_of(self.key)

    def authorization(self, **changes: Any) -> Authorization:
        told = Authorization(
            payer=self.address,
            to=EXACT.pay_to,
            value=PRICE,
            valid_after=0,
            valid_before=int(self.clock()) + 300,
            authorization_nonce=next(_nonces).to_bytes(32, "big"),
        )
        return replace(told, **changes)

    def sign(self, asset: Asset = ASSET, **changes: Any) -> ExactPayment:
        return exact.sign(self.key, asset, self.authorization(**changes))

    def pay(self, payment_id: str | None = None, **changes: Any) -> str:
        """A payment header with a transfer of its own."""
        return header_of(self.sign(**changes), payment_id)


def header_of(
    payment: ExactPayment, payment_id: str | None = None, price: int | None = None
) -> str:
    offer = EXACT.offer(payment.value if price is None else price)
    message = PaymentPayload(
        x402_version=VERSION,
        accepted=Raw(encode_json(offer.requirements)),
        payload=exact.payload(payment),
        extensions={once.EXTENSION: once.with_id(payment_id)} if payment_id else msgspec.UNSET,
    )
    return encode_header(message)


def wire(payment: ExactPayment) -> Json:
    """The payload as JSON, for a test to bend."""
    value: Json = json.loads(bytes(exact.payload(payment)))
    return value


@dataclass
class Tokens:
    """What the token has recorded."""

    balances: Counter[Address] = field(default_factory=Counter)
    used: dict[tuple[Address, bytes], Mined | None] = field(default_factory=dict)


class TransferLedger(Ledger):
    """A chain that makes transfers too. `sent` are those that were broadcast, in order.

    `pending`: a transfer is broadcast, and is not seen mined until `mine` is called.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        super().__init__(clock)
        self.tokens = Tokens()
        self.sent: list[Authorization] = []
        self.pending = False
        self.silent = False
        """The token says that all went well, and shows no Transfer."""

    def give(self, payer: Address, amount: int = 10 * PRICE) -> None:
        self.tokens.balances[payer] += amount

    async def authorization(self, told: Authorization, token: Address) -> tuple[bool, int]:
        await self._called("authorization")
        name = (told.payer, told.authorization_nonce)
        return name in self.tokens.used, self.tokens.balances[told.payer]

    async def transfer_with_authorization(
        self, told: Authorization, signature: bytes, token: Address
    ) -> Mined | None:
        await self._called("transfer")
        if (told.payer, told.authorization_nonce) in self.tokens.used:
            return None
        if self.tokens.balances[told.payer] < told.value:
            raise Refused(Reason.EXACT_BALANCE)
        self.sent.append(told)
        if self.silent:
            raise Refused(Reason.EXACT_NO_TRANSFER)
        if self.pending:
            raise TransactionPending("sent, and not mined in time", b"\xee" * 32)
        return self.mine(told)

    def mine(self, told: Authorization) -> Mined:
        self.block += 1
        mined = self._mined()
        self.tokens.used[told.payer, told.authorization_nonce] = mined
        self.tokens.balances[told.payer] -= told.value
        self.tokens.balances[told.to] += told.value
        return mined

    async def transferred(self, told: Authorization, token: Address) -> Mined | None:
        await self._called("transferred")
        mined = self.tokens.used.get((told.payer, told.authorization_nonce))
        if mined is None and self.clock() >= told.valid_before:
            raise Refused(Reason.EXACT_EXPIRED)
        return mined


def shop(app: ASGIApp, ledger: TransferLedger | None = None, **options: Any) -> Paywall:
    """The app behind a paywall that takes both schemes; the usual payer is rich."""
    chain = ledger or TransferLedger()
    if ledger is None:
        chain.give(Signer().address)
    store = options.pop("store", None) or FaultyStore()
    prices = options.pop("prices", {"/priced": PRICED})
    return provider(app, prices, chain=chain, store=store, **options)
