"""The settlement contract as it should be: one channel, its money, and what may move it."""

from dataclasses import dataclass, replace

from paywall.protocol.channel import ChainState, Channel


@dataclass(frozen=True)
class HonestChain:
    """The contract's record of one channel, and its rules."""

    balance: int = 0
    claimed: int = 0
    withdraw_amount: int = 0
    withdraw_requested_at: int = 0
    refund_nonce: int = 0
    block: int = 1

    def read(self, now: int) -> ChainState:
        return ChainState(
            self.balance,
            self.claimed,
            self.withdraw_amount,
            self.withdraw_requested_at,
            self.refund_nonce,
            self.block,
            now * 1000,
        )

    def deposit(self, amount: int) -> "HonestChain":
        return self._mined(balance=self.balance + amount)

    def claim(self, channel: Channel) -> "HonestChain":
        """Up to what was charged; never above the signature or the balance: it would revert."""
        if channel.voucher is None or channel.charged <= self.claimed:
            return self
        assert channel.charged <= channel.voucher.amount, "the contract would refuse this claim"
        assert channel.charged <= self.balance, "the contract would refuse this claim"
        return self._mined(claimed=channel.charged)

    def start_withdrawal(self, amount: int, now: int) -> "HonestChain":
        return self._mined(withdraw_amount=amount, withdraw_requested_at=now)

    def finish_withdrawal(self) -> "HonestChain":
        taken = min(self.withdraw_amount, self.balance - self.claimed)
        return self._mined(balance=self.balance - taken, withdraw_amount=0, withdraw_requested_at=0)

    def refund(self, amount: int) -> "HonestChain":
        taken = min(amount, self.balance - self.claimed)
        return self._mined(balance=self.balance - taken, refund_nonce=self.refund_nonce + 1)

    def _mined(self, **changes: int) -> "HonestChain":
        return replace(self, block=self.block + 1, **changes)
