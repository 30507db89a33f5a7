"""What the receiver authorizer signs: claims of batches, and refunds. The key stays in here.

The contract obeys these signatures, whoever sends them and pays for the gas.
"""

from collections.abc import Sequence
from typing import Never

from coincurve import PrivateKey

from paywall.chain import contract
from paywall.chain.gas import Call
from paywall.protocol import eip712
from paywall.protocol.channel import Channel
from paywall.protocol.eip712 import SETTLEMENT_ADDRESS
from paywall.protocol.money import Address, chain_id_of
from paywall.protocol.x402 import show_address


class Authority:
    """The `receiverAuthorizer` of a network's channels."""

    def __init__(self, key: PrivateKey, network: str) -> None:
        self._key = key
        self._domain = eip712.settlement_domain(chain_id_of(network))
        self.address = eip712.address_of(key)

    def __repr__(self) -> str:
        return f"Authority({show_address(self.address)})"

    def __reduce__(self) -> Never:
        raise TypeError("an authority holds a key and is not pickled")

    def claim(self, channels: Sequence[Channel]) -> Call:
        """All that the channels owe, in one transaction."""
        return Call(SETTLEMENT_ADDRESS, self._claim(channels))

    def refund(self, channel: Channel, amount: int) -> Call:
        """`amount` back to the payer, after what the channel owes: both happen, or neither."""
        refund_nonce = channel.chain.refund_nonce
        digest = eip712.refund_digest(self._domain, channel.channel_id, refund_nonce, amount)
        data = contract.encode_refund_with_signature(
            channel.config, amount, refund_nonce, eip712.sign(self._key, digest)
        )
        if channel.unclaimed > 0:
            data = contract.encode_multicall([self._claim([channel]), data])
        return Call(SETTLEMENT_ADDRESS, data)

    def _claim(self, channels: Sequence[Channel]) -> bytes:
        rows = [_row(channel) for channel in channels]
        entries = [
            (channel.channel_id, row.amount, row.claimed)
            for channel, row in zip(channels, rows, strict=True)
        ]
        digest = eip712.claim_batch_digest(self._domain, entries)
        return contract.encode_claim_with_signature(rows, eip712.sign(self._key, digest))


def settle(receiver: Address, token: Address) -> Call:
    """Needs nobody's signature."""
    return Call(SETTLEMENT_ADDRESS, contract.encode_settle(receiver, token))


def _row(channel: Channel) -> contract.ClaimRow:
    voucher = channel.voucher
    assert voucher is not None, "a claim needs the payer's signature"
    return contract.ClaimRow(channel.config, voucher.amount, voucher.signature, channel.charged)
