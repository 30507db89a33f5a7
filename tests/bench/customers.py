"""Payers whose requests are signed before anything is measured.

A `Customer` opens a channel at any x402 server, as its quote asks, by one real deposit. Then it
writes requests that pay the next totals of that channel, or single transfers. What it writes is the
whole HTTP request, so that a load generator has nothing to do but send it.
"""

import secrets
import time
from dataclasses import dataclass, field
from typing import Final

import httpx
from coincurve import PrivateKey
from helpers.chain import ASSET as USDC
from helpers.chain import DOMAIN, FAR_FUTURE, NETWORK, TOKEN_DOMAIN
from msgspec import Raw

from paywall.protocol import eip712, once
from paywall.protocol.channel import ChannelConfig, Voucher
from paywall.protocol.eip712 import Authorization
from paywall.protocol.money import Address, parse_address
from paywall.protocol.schemes import batch, exact
from paywall.protocol.x402 import (
    PAYMENT_REQUIRED,
    PAYMENT_SIGNATURE,
    VERSION,
    PaymentPayload,
    PaymentRequirements,
    decode_required,
    decode_requirements,
    encode_header,
)

PRICE: Final = 1_000
DEPOSIT: Final = 500_000_000
PATH: Final = "/item/a"


def plain(path: str) -> bytes:
    return _request(path, "")


def _request(path: str, headers: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: bench\r\n{headers}\r\n".encode()


def _paying(header: str) -> bytes:
    return _request(PATH, f"payment-signature: {header}\r\n")


@dataclass
class Shop:
    """A server's offers, as it spells them, each by its scheme."""

    url: str
    offers: dict[str, tuple[Raw, PaymentRequirements]]

    @classmethod
    def at(cls, url: str) -> "Shop":
        quote = decode_required(httpx.get(url + PATH).headers[PAYMENT_REQUIRED])
        told = ((raw, decode_requirements(raw)) for raw in quote.accepts)
        return cls(url, {offer.scheme: (raw, offer) for raw, offer in told})


@dataclass
class Customer:
    """A key, and its channel at one shop."""

    shop: Shop
    key: PrivateKey
    total: int = 0
    config: ChannelConfig = field(init=False)
    channel_id: bytes = field(init=False)

    def __post_init__(self) -> None:
        offer = self.shop.offers[batch.SCHEME][1]
        extra = batch.decode_extra(offer)
        self.config = ChannelConfig(
            payer=self.address,
            payer_authorizer=self.address,
            receiver=parse_address(offer.pay_to),
            receiver_authorizer=parse_address(extra.receiver_authorizer),
            token=parse_address(offer.asset),
            withdraw_delay_seconds=extra.withdraw_delay,
            salt=secrets.token_bytes(32),
        )
        self.channel_id = self.config.channel_id(NETWORK)
        self._wire = batch.config_wire(self.config)

    @property
    def address(self) -> Address:
        return eip712.address_of(self.key)

    def open(self) -> None:
        """Deposits, and pays for one request."""
        unsigned = batch.Deposit(
            self.channel_id, self.config, DEPOSIT, 0, FAR_FUTURE, secrets.randbits(256), b""
        )
        digest = unsigned.authorization().receive_digest(TOKEN_DOMAIN)
        signature = eip712.sign(self.key, digest)
        deposit = batch.Deposit(
            *(unsigned.channel_id, unsigned.config, unsigned.amount, unsigned.valid_after),
            *(unsigned.valid_before, unsigned.salt, signature),
        )
        payload = batch.deposit_payload(self._wire, self._next_voucher(), deposit)
        headers = {PAYMENT_SIGNATURE: self._header(batch.SCHEME, payload, None)}
        answer = httpx.get(self.shop.url + PATH, headers=headers, timeout=60)
        assert answer.status_code == 200, answer.text

    def vouchers(self, requests: int, named: bool = False) -> list[bytes]:
        """Requests that pay one total after the other; `named` gives each payment an id."""
        return [self._voucher(named) for _ in range(requests)]

    def _voucher(self, named: bool) -> bytes:
        payload = batch.voucher_payload(self._wire, self.channel_id, self._next_voucher())
        name = f"payment-{self.channel_id[:4].hex()}-{self.total:012}" if named else None
        return _paying(self._header(batch.SCHEME, payload, name))

    def _next_voucher(self) -> Voucher:
        self.total += PRICE
        return batch.sign_voucher(self.key, DOMAIN, self.channel_id, self.total)

    def transfers(self, requests: int) -> list[bytes]:
        """Requests that pay by a transfer each."""
        return [self._transfer() for _ in range(requests)]

    def _transfer(self) -> bytes:
        authorization = Authorization(
            payer=self.address,
            to=self.config.receiver,
            value=PRICE,
            valid_after=0,
            valid_before=int(time.time()) + 300,
            authorization_nonce=secrets.token_bytes(32),
        )
        payload = exact.payload(exact.sign(self.key, USDC, authorization))
        return _paying(self._header(exact.SCHEME, payload, None))

    def _header(self, scheme: str, payload: Raw, name: str | None) -> str:
        return encode_header(
            PaymentPayload(
                x402_version=VERSION,
                accepted=self.shop.offers[scheme][0],
                payload=payload,
                extensions={once.EXTENSION: once.with_id(name)} if name else {},
            )
        )
