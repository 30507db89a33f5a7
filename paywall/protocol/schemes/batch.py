"""The scheme `batch-settlement` on EVM: vouchers over a payment channel, both sides of the wire.

The provider's side is here: its terms, the offers that it makes under them, and what a payload is
worth: a voucher whose shape, terms and signature are right, perhaps with a deposit to put on chain
first, or a wish for a refund. Whether the voucher buys anything is the channel's business.

The rest of the scheme is shown here too, so that others import it from one place: payloads are read
in `batch_reading`, made by the agent's side in `batch_agent`, and spelled as `batch_wire` says.

Sources: batch-settlement EVM specification, "402 Response", "Client: Payment Construction",
"Server: State & Forwarding", "Payment Response Contract", "Error Codes".
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from paywall.protocol import eip712
from paywall.protocol.channel import (
    Channel,
    ChannelConfig,
    agreeable_total,
    highest_voucher,
)
from paywall.protocol.errors import ConfigurationError, Reason, Refused
from paywall.protocol.limits import (
    DEFAULT_TIMEOUT_SECONDS,
    MAX_CLOCK_SKEW_SECONDS,
    MAX_HOLDS,
    MAX_WITHDRAW_DELAY_SECONDS,
    MIN_AUTHORIZATION_LEFT_SECONDS,
    MIN_WITHDRAW_DELAY_SECONDS,
    UINT128_MAX,
)
from paywall.protocol.money import ZERO_ADDRESS, Address, Asset, parse_address
from paywall.protocol.schemes.batch_agent import (
    config_wire,
    decode_extra,
    decode_receipt_extra,
    deposit_payload,
    receipt_total,
    refund_payload,
    sign_voucher,
    voucher_payload,
)
from paywall.protocol.schemes.batch_payments import (
    BatchPayment,
    Deposit,
    DepositPayment,
    RefundPayment,
    VoucherPayment,
)
from paywall.protocol.schemes.batch_reading import (
    channel_id_of,
    channel_of,
    read_config,
    read_deposit,
    read_payload,
    read_refund_amount,
    read_voucher,
    signed_by,
)
from paywall.protocol.schemes.batch_wire import (
    EXTRA,
    BatchExtra,
    ChannelStateWire,
    DepositPayload,
    DepositWire,
    ReceiptExtra,
    RefundPayload,
    VoucherStateWire,
    VoucherWire,
    channel_state,
)
from paywall.protocol.x402 import (
    Malformed,
    PaymentRequirements,
    decode_json,
    encode_json,
    show_address,
    show_bytes,
)

SCHEME: Final = "batch-settlement"


@dataclass(frozen=True)
class BatchTerms:
    """What a provider asks of every channel. Amounts are atomic units."""

    asset: Asset
    pay_to: Address
    receiver_authorizer: Address
    withdraw_delay_seconds: int = 86_400
    min_deposit: int = 100_000
    max_deposit: int = 1_000_000_000
    timeout_seconds: int = DEFAULT_TIMEOUT_SECONDS

    def __post_init__(self) -> None:
        delay = self.withdraw_delay_seconds
        if not MIN_WITHDRAW_DELAY_SECONDS <= delay <= MAX_WITHDRAW_DELAY_SECONDS:
            raise ConfigurationError(
                f"withdraw delay of {delay} s: the contract takes "
                f"{MIN_WITHDRAW_DELAY_SECONDS} to {MAX_WITHDRAW_DELAY_SECONDS}"
            )
        if ZERO_ADDRESS in (self.pay_to, self.receiver_authorizer):
            raise ConfigurationError("pay_to and the receiver authorizer cannot be zero")
        if not 0 < self.min_deposit <= self.max_deposit <= UINT128_MAX:
            raise ConfigurationError("min_deposit must be above zero and not above max_deposit")

    def offer(self, price: int) -> "BatchOffer":
        requirements = PaymentRequirements(
            scheme=SCHEME,
            network=self.asset.network,
            asset=show_address(self.asset.address),
            amount=str(price),
            pay_to=show_address(self.pay_to),
            max_timeout_seconds=self.timeout_seconds,
            extra=Raw(encode_json(self._extra(price))),
        )
        return BatchOffer(self, price, requirements)

    def _extra(self, price: int) -> BatchExtra:
        return BatchExtra(
            name=self.asset.name,
            version=self.asset.version,
            receiver_authorizer=show_address(self.receiver_authorizer),
            withdraw_delay=self.withdraw_delay_seconds,
            min_deposit=str(max(self.min_deposit, price)),
            in_flight=MAX_HOLDS,
        )

    @cached_property
    def agreed(self) -> Callable[[bytes], tuple[ChannelConfig, bytes]]:
        """A channel under these terms, from the wire, and its id. Raises Refused.

        A client sends the same bytes each time, so this is read once.
        """
        return lru_cache(maxsize=8192)(self._agreed)

    def _agreed(self, config: bytes) -> tuple[ChannelConfig, bytes]:
        channel = channel_of(Raw(config), self.asset.network)
        self._refuse_other_terms(channel[0])
        return channel

    def _refuse_other_terms(self, config: ChannelConfig) -> None:
        if config.receiver != self.pay_to:
            raise Refused(Reason.RECEIVER_MISMATCH)
        if config.receiver_authorizer != self.receiver_authorizer:
            raise Refused(Reason.RECEIVER_AUTHORIZER_MISMATCH)
        if config.token != self.asset.address:
            raise Refused(Reason.TOKEN_MISMATCH)
        if config.withdraw_delay_seconds != self.withdraw_delay_seconds:
            raise Refused(Reason.WITHDRAW_DELAY_MISMATCH)
        if config.payer == ZERO_ADDRESS:
            raise Refused(Reason.VOUCHER_PAYLOAD, "The payer is zero.")
        if config.payer_authorizer == ZERO_ADDRESS:
            raise Refused(
                Reason.VOUCHER_SIGNATURE,
                "A payer authorizer is required here: contract signatures are not checked.",
            )

    @cached_property
    def settlement_domain(self) -> bytes:
        return eip712.settlement_domain(self.asset.chain_id)

    def token_domain(self) -> bytes:
        asset = self.asset
        return eip712.domain_separator(asset.name, asset.version, asset.chain_id, asset.address)


@dataclass(frozen=True)
class BatchOffer:
    """One price under these terms, with the requirement that says so on the wire."""

    terms: BatchTerms
    price: int
    requirements: PaymentRequirements

    def corrected(self, channel: Channel, zero_charge: bool) -> PaymentRequirements:
        """The same offer with our state of the payer's channel, and the payer's own proof."""
        total = channel.committed if zero_charge else agreeable_total(channel, self.price)
        highest = highest_voucher(channel)
        proof: VoucherStateWire | UnsetType = UNSET
        if highest:
            proof = VoucherStateWire(str(highest.amount), show_bytes(highest.signature))
        extra = msgspec.structs.replace(
            self.terms._extra(self.price),
            channel_state=channel_state(channel.channel_id, channel.chain, total),
            voucher_state=proof,
        )
        return msgspec.structs.replace(self.requirements, extra=Raw(encode_json(extra)))

    def matches(self, accepted: PaymentRequirements) -> bool:
        """Whether what the payer accepted is what is offered here; spelling does not matter."""
        ours = self.requirements
        if (accepted.scheme, accepted.network, accepted.amount) != (
            ours.scheme,
            ours.network,
            ours.amount,
        ):
            return False
        try:
            theirs = decode_json(EXTRA, bytes(accepted.extra))
            return (
                parse_address(accepted.asset) == self.terms.asset.address
                and parse_address(accepted.pay_to) == self.terms.pay_to
                and parse_address(theirs.receiver_authorizer) == self.terms.receiver_authorizer
                and theirs.withdraw_delay == self.terms.withdraw_delay_seconds
            )
        except (Malformed, ValueError):
            return False

    def check(self, payload: Raw, now: int) -> BatchPayment:
        """What this payload is worth: shape, terms and signatures. Raises Refused.

        `now` is Unix seconds. Nothing is looked up and nothing is changed.
        """
        parsed = read_payload(payload)
        config, channel_id = self.terms.agreed(bytes(parsed.channel_config))
        domain = self.terms.settlement_domain
        payment = VoucherPayment(
            channel_id, config, read_voucher(parsed.voucher, config, channel_id, domain)
        )
        if isinstance(parsed, DepositPayload):
            return DepositPayment(payment, self._checked_deposit(parsed.deposit, payment, now))
        if isinstance(parsed, RefundPayload):
            return RefundPayment(payment, read_refund_amount(parsed))
        return payment

    def _checked_deposit(self, wire: DepositWire, payment: VoucherPayment, now: int) -> Deposit:
        deposit = read_deposit(wire, payment)
        self._refuse_unfit_deposit(deposit, now)
        digest = deposit.authorization().receive_digest(self.terms.token_domain())
        if not signed_by(deposit.config.payer, digest, deposit.signature):
            raise Refused(Reason.DEPOSIT_SIGNATURE)
        return deposit

    def _refuse_unfit_deposit(self, deposit: Deposit, now: int) -> None:
        terms = self.terms
        if deposit.amount < terms.min_deposit:
            least = terms.asset.show(terms.min_deposit)
            raise Refused(Reason.DEPOSIT_TOO_SMALL, f"At least {least} is asked.")
        if deposit.amount > terms.max_deposit:
            raise Refused(
                Reason.DEPOSIT_TOO_LARGE, f"At most {terms.asset.show(terms.max_deposit)}."
            )
        if deposit.valid_after > now + MAX_CLOCK_SKEW_SECONDS:
            raise Refused(Reason.DEPOSIT_NOT_YET_VALID)
        if deposit.valid_before < now + MIN_AUTHORIZATION_LEFT_SECONDS:
            raise Refused(Reason.DEPOSIT_EXPIRED)


__all__ = [
    "SCHEME",
    "BatchExtra",
    "BatchOffer",
    "BatchPayment",
    "BatchTerms",
    "ChannelStateWire",
    "Deposit",
    "DepositPayload",
    "DepositPayment",
    "ReceiptExtra",
    "RefundPayment",
    "VoucherPayment",
    "VoucherStateWire",
    "VoucherWire",
    "channel_id_of",
    "channel_of",
    "channel_state",
    "config_wire",
    "decode_extra",
    "decode_receipt_extra",
    "deposit_payload",
    "read_config",
    "receipt_total",
    "refund_payload",
    "sign_voucher",
    "voucher_payload",
]
"""Both sides of the scheme, wherever they are written."""
