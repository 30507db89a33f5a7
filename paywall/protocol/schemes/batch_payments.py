"""What a payment of `batch-settlement` turns out to be, once it was checked."""

from dataclasses import dataclass

import msgspec

from paywall.protocol import eip712
from paywall.protocol.channel import ChannelConfig, Voucher


class VoucherPayment(msgspec.Struct, frozen=True, gc=False):
    """A voucher of the right shape, for the right terms, signed by the right key."""

    channel_id: bytes
    config: ChannelConfig
    voucher: Voucher


@dataclass(frozen=True, slots=True)
class Deposit:
    """A token authorization that fills a channel, as EIP-3009's receiveWithAuthorization.

    `voucher` is the promise that came with it: a facilitator takes no deposit without one.
    """

    channel_id: bytes
    config: ChannelConfig
    amount: int
    valid_after: int
    valid_before: int
    salt: int
    signature: bytes
    voucher: Voucher | None = None

    def authorization(self) -> eip712.Authorization:
        return eip712.Authorization(
            payer=self.config.payer,
            to=eip712.COLLECTOR_ADDRESS,
            value=self.amount,
            valid_after=self.valid_after,
            valid_before=self.valid_before,
            authorization_nonce=eip712.deposit_nonce(self.channel_id, self.salt),
        )


@dataclass(frozen=True, slots=True)
class DepositPayment:
    """A deposit to put on chain, and the voucher of the first request that it pays for."""

    payment: VoucherPayment
    deposit: Deposit


@dataclass(frozen=True, slots=True)
class RefundPayment:
    """A wish for `amount` back (None: all that is left), under a zero-charge voucher."""

    payment: VoucherPayment
    amount: int | None


BatchPayment = VoucherPayment | DepositPayment | RefundPayment
