"""What a provider asks of a facilitator, as the bodies of `/verify` and `/settle`.

Every question names terms that the payment was made under. The price of a request is not ours to
know here, so the voucher's total stands for it: facilitators check totals against balances and
leave prices to servers. With a key of ours, claims and refunds carry our signatures.
"""

from collections.abc import Sequence

from coincurve import PrivateKey
from msgspec import UNSET, Raw, UnsetType

from paywall.protocol import eip712
from paywall.protocol.channel import Channel, ChannelConfig
from paywall.protocol.claims import Batch, claimable_total
from paywall.protocol.eip712 import Authorization
from paywall.protocol.errors import ConfigurationError
from paywall.protocol.facilitation import (
    ClaimAction,
    RefundAction,
    SettleAction,
    claim_wire,
    question,
)
from paywall.protocol.limits import DEFAULT_TIMEOUT_SECONDS
from paywall.protocol.money import KNOWN_ASSETS, Address, Asset, chain_id_of
from paywall.protocol.schemes import batch, exact
from paywall.protocol.schemes.batch import BatchExtra, Deposit, VoucherWire, config_wire
from paywall.protocol.schemes.exact import ExactExtra, ExactPayment
from paywall.protocol.x402 import (
    PaymentRequirements,
    encode_json,
    show_address,
    show_bytes,
)


class Asks:
    """Makes the questions of one provider on one network."""

    def __init__(self, network: str, key: PrivateKey | None, assets: Sequence[Asset]) -> None:
        self._network = network
        self._domain = eip712.settlement_domain(chain_id_of(network))
        self._key = key
        self._assets = {(asset.network, bytes(asset.address)): asset for asset in assets}

    @property
    def has_key(self) -> bool:
        return self._key is not None

    def deposit(self, deposit: Deposit) -> bytes:
        voucher, config = deposit.voucher, deposit.config
        assert voucher is not None, "a facilitator takes no deposit without a voucher"
        payload = batch.deposit_payload(config_wire(config), voucher, deposit)
        return question(self._channel_terms(config, voucher.amount), payload)

    def transfer(self, told: Authorization, signature: bytes, token: Address) -> bytes:
        asset = self._asset(token)
        extra = Raw(encode_json(ExactExtra(asset.name, asset.version)))
        terms = self._terms(exact.SCHEME, told.to, token, told.value, extra)
        return question(terms, exact.payload(ExactPayment(token, told, signature)))

    def claim(self, batch_: Batch) -> bytes:
        config = batch_.channels[0].config
        action = ClaimAction(
            claims=[claim_wire(channel) for channel in batch_.channels],
            claim_authorizer_signature=self._claim_signature(batch_.channels),
        )
        return question(self._own_terms(config.receiver, config.token), Raw(encode_json(action)))

    def settle(self, receiver: Address, token: Address) -> bytes:
        action = SettleAction(receiver=show_address(receiver), token=show_address(token))
        return question(self._own_terms(receiver, token), Raw(encode_json(action)))

    def refund(self, channel: Channel, amount: int) -> bytes:
        config, voucher = channel.config, channel.voucher
        assert voucher is not None, "a refund begins with the payer's voucher"
        owes = [channel] if channel.unclaimed > 0 else []
        action = RefundAction(
            channel_config=config_wire(config),
            voucher=VoucherWire(
                show_bytes(channel.channel_id), str(voucher.amount), show_bytes(voucher.signature)
            ),
            amount=str(amount),
            refund_nonce=str(channel.chain.refund_nonce),
            claims=[claim_wire(due) for due in owes],
            refund_authorizer_signature=self._refund_signature(channel, amount),
            claim_authorizer_signature=self._claim_signature(owes) if owes else UNSET,
        )
        return question(self._channel_terms(config, voucher.amount), Raw(encode_json(action)))

    # -- Terms -----------------------------------------------------------------------------------

    def _channel_terms(self, config: ChannelConfig, amount: int) -> PaymentRequirements:
        asset = self._asset(config.token)
        extra = BatchExtra(
            name=asset.name,
            version=asset.version,
            receiver_authorizer=show_address(config.receiver_authorizer),
            withdraw_delay=config.withdraw_delay_seconds,
        )
        return self._terms(
            batch.SCHEME, config.receiver, config.token, amount, Raw(encode_json(extra))
        )

    def _own_terms(self, receiver: Address, token: Address) -> PaymentRequirements:
        return self._terms(batch.SCHEME, receiver, token, 0, Raw(b"{}"))

    def _terms(
        self, scheme: str, pay_to: Address, token: Address, amount: int, extra: Raw
    ) -> PaymentRequirements:
        return PaymentRequirements(
            scheme=scheme,
            network=self._network,
            asset=show_address(token),
            amount=str(amount),
            pay_to=show_address(pay_to),
            max_timeout_seconds=DEFAULT_TIMEOUT_SECONDS,
            extra=extra,
        )

    def _asset(self, token: Address) -> Asset:
        asset = self._assets.get((self._network, token)) or KNOWN_ASSETS.get((self._network, token))
        if asset is None:
            raise ConfigurationError(
                f"the token {show_address(token)} is not known: name it in `assets`"
            )
        return asset

    # -- Signatures ------------------------------------------------------------------------------

    def _claim_signature(self, channels: Sequence[Channel]) -> str | UnsetType:
        if self._key is None:
            return UNSET
        entries = [
            (c.channel_id, c.voucher.amount, claimable_total(c)) for c in channels if c.voucher
        ]
        digest = eip712.claim_batch_digest(self._domain, entries)
        return show_bytes(eip712.sign(self._key, digest))

    def _refund_signature(self, channel: Channel, amount: int) -> str | UnsetType:
        if self._key is None:
            return UNSET
        digest = eip712.refund_digest(
            self._domain, channel.channel_id, channel.chain.refund_nonce, amount
        )
        return show_bytes(eip712.sign(self._key, digest))
