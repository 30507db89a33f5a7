"""The agent's wallet: a key, the owner's policy, and the books.

The wallet signs, and only what its books have written down before. It does not know HTTP: the
client shows it quotes and receipts. Private keys leave it in no way: not by repr, not by pickle.

Sources: batch-settlement EVM specification, "Client: Payment Construction"; EIP-3009.
"""

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from secrets import token_bytes
from typing import Never

from coincurve import PrivateKey
from msgspec import UNSET, Raw
from msgspec.structs import replace

from paywall.books import AnyPromise, Books
from paywall.policy import DOLLAR_DECIMALS, AnyIntent, Intent, Policy
from paywall.protocol import eip712, once
from paywall.protocol.channel import Voucher
from paywall.protocol.errors import ConfigurationError
from paywall.protocol.limits import DEFAULT_TIMEOUT_SECONDS
from paywall.protocol.money import USDC, Asset
from paywall.protocol.schemes import batch, exact
from paywall.protocol.x402 import (
    VERSION,
    PaymentPayload,
    PaymentRequired,
    encode_header,
    show_address,
)
from paywall.transfers import ExactPromise
from paywall.walletfile import Account, PendingDeposit, WalletFile


class Wallet:
    """A key and a budget.

    `key` is a private key (hex or bytes); without one it is read from the environment variable
    PAYWALL_KEY. `per_request` and `total` are ceilings in dollars: no single request costs more,
    and no more than `total` ever leaves the wallet, deposits that are still locked up included.
    `deposit` is what a new channel is filled with. Where a provider takes single transfers at the
    same price, a channel is opened all the same, unless `expect_more` is False: then only channels
    that are there already are used. `state` is the wallet's file.

    Raises ConfigurationError when the key, an amount or the file cannot be used.
    """

    def __init__(
        self,
        key: str | bytes | None = None,
        *,
        per_request: str = "$0.01",
        total: str = "$5",
        deposit: str = "$0.50",
        max_withdraw_delay_seconds: int = 7 * 86_400,
        expect_more: bool = True,
        assets: Iterable[Asset] = (),
        state: str | Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._key = parse_key(key)
        self._payer = eip712.address_of(self._key)
        self.address = show_address(self._payer)
        self.policy = Policy(
            per_request=_dollars(per_request),
            total=_dollars(total),
            deposit=_dollars(deposit),
            max_withdraw_delay_seconds=max_withdraw_delay_seconds,
            assets=_checked(assets),
            expect_more=expect_more,
        )
        self.clock = clock
        self.file = WalletFile(state or default_state(self.address))
        self.books = Books(self._payer, self.file, self.policy, clock, self._sign_deposit)

    def __repr__(self) -> str:
        return f"<Wallet {self.address}>"

    def __reduce__(self) -> Never:
        raise TypeError("a wallet holds a private key and is not pickled")

    def close(self) -> None:
        self.file.close()

    def spent(self) -> int:
        """Millionths of a dollar that were charged, or are spoken for by requests in flight."""
        return self.books.spent()

    def choose(self, origin: str, quote: PaymentRequired) -> Intent:
        """The cheapest channel that policy allows. Raises NoAcceptableOffer or OverBudget."""
        return self.policy.choose(self._payer, origin, quote)

    def rank(self, origin: str, quote: PaymentRequired) -> list[AnyIntent]:
        """The offers that policy allows, the best first. Raises NoAcceptableOffer or OverBudget."""
        return self.policy.rank(self._payer, origin, quote, self._is_open)

    def _is_open(self, intent: Intent) -> bool:
        account = self.file.account(intent.channel_id)
        return account is not None and account.balance > account.spent

    def sign(self, promise: AnyPromise) -> str:
        """The PAYMENT-SIGNATURE header of a payment that is written down."""
        if isinstance(promise, ExactPromise):
            transfer = exact.sign(self._key, promise.intent.asset, promise.authorization)
            return _header(promise.intent, exact.payload(transfer), _with_id(promise))
        intent, config = promise.intent, Raw(promise.config)
        extensions = _with_id(promise)
        voucher = self._voucher(intent, promise.amount)
        if promise.deposit is None:
            payload = batch.voucher_payload(config, intent.channel_id, voucher)
            return _header(intent, payload, extensions)
        pending = promise.deposit
        deposit = _deposit_of(intent, pending)
        return _header(intent, batch.deposit_payload(config, voucher, deposit), extensions)

    def sign_refund(self, intent: Intent, account: Account, amount: int | None) -> str:
        """The header that asks for `amount` back (None: all that is left)."""
        voucher, config = self._voucher(intent, account.charged), Raw(account.config)
        payload = batch.refund_payload(config, intent.channel_id, voucher, amount)
        return _header(intent, payload, intent.extensions)

    def _voucher(self, intent: Intent, amount: int) -> Voucher:
        domain = eip712.settlement_domain(intent.asset.chain_id)
        return batch.sign_voucher(self._key, domain, intent.channel_id, amount)

    def _sign_deposit(
        self, intent: Intent, amount: int, now: int, salt: bytes | None
    ) -> PendingDeposit:
        valid_before = now + DEFAULT_TIMEOUT_SECONDS
        unsigned = PendingDeposit(amount, valid_before, salt or token_bytes(32), b"")
        authorization = _deposit_of(intent, unsigned).authorization()
        asset = intent.asset
        domain = eip712.domain_separator(asset.name, asset.version, asset.chain_id, asset.address)
        digest = authorization.receive_digest(domain)
        return replace(unsigned, signature=eip712.sign(self._key, digest))


def parse_key(key: str | bytes | None) -> PrivateKey:
    """A private key given as hex or bytes, or else in PAYWALL_KEY. Raises ConfigurationError."""
    found = key if key is not None else os.environ.get("PAYWALL_KEY")
    if not found:
        raise ConfigurationError("no key: give one, or set PAYWALL_KEY")
    try:
        secret = bytes.fromhex(found.removeprefix("0x")) if isinstance(found, str) else found
        if len(secret) == 32:
            return PrivateKey(secret)
    except ValueError:
        pass
    raise ConfigurationError("the key is not a private key: it must be 32 bytes of hex")


def default_state(address: str) -> Path:
    """Where a wallet keeps its file when the owner does not say."""
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "paywall" / f"wallet-{address.lower()}.db"


def _with_id(promise: AnyPromise) -> dict[str, Raw] | None:
    """The extensions as they are echoed: with the payment's id where ids are honoured."""
    extensions = promise.intent.extensions
    if not extensions or once.EXTENSION not in extensions:
        return extensions
    return {**extensions, once.EXTENSION: once.with_id(promise.payment_id)}


def _header(intent: AnyIntent, payload: Raw, extensions: dict[str, Raw] | None) -> str:
    return encode_header(
        PaymentPayload(
            x402_version=VERSION,
            accepted=intent.accepted,
            payload=payload,
            extensions=extensions or UNSET,
        )
    )


def _deposit_of(intent: Intent, pending: PendingDeposit) -> batch.Deposit:
    return batch.Deposit(
        channel_id=intent.channel_id,
        config=intent.config,
        amount=pending.amount,
        valid_after=0,
        valid_before=pending.valid_before,
        salt=int.from_bytes(pending.salt, "big"),
        signature=pending.signature,
    )


def _checked(assets: Iterable[Asset]) -> tuple[Asset, ...]:
    allowed = tuple(assets)
    for asset in allowed:
        if asset.decimals != DOLLAR_DECIMALS:
            raise ConfigurationError(f"{asset.symbol} has {asset.decimals} decimals, not 6")
    return allowed


def _dollars(price: str) -> int:
    return USDC.base.units(price)
