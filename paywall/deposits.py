"""Deposits of an agent: when a channel is filled, with how much, and what is believed of one.

Of a deposit only one can ever be mined until a receipt has confirmed it: what has left is sent
again as it is, or signed again under its own salt. One that has expired unheard of is supposed to
be mined: a voucher alone will find out, and risks nothing. One that was presented, and leaves the
channel as empty as it was, is as good as mined: its money has come and gone, or its provider lies.
It counts as deposited then, and the next one has a salt of its own.

A channel is filled before it is dry: when less than `top_up_percent` of the usual deposit would be
left, one payment takes a deposit with it and the others go on. That is no more than convenient, so
whatever stands in its way (the budget, a signer, a provider that refused it) lets it wait until
the channel is empty. Rules over values; who calls holds the transaction.
"""

from dataclasses import dataclass
from secrets import token_bytes
from typing import Final

from msgspec.structs import replace

from paywall.budget import Spending
from paywall.offers import Intent
from paywall.policy import Policy
from paywall.protocol.errors import OverBudget
from paywall.protocol.limits import MIN_AUTHORIZATION_LEFT_SECONDS
from paywall.walletrows import Account, PendingDeposit

DEPOSIT_WAIT_SECONDS: Final = 120
"""How long others wait for a deposit that is on its way before one of them tries again."""
TOP_UP_PAUSE_SECONDS: Final = 600
"""How long no channel is filled early after its provider refused that."""


def is_valid(deposit: PendingDeposit, now: float) -> bool:
    return deposit.valid_before > now + MIN_AUTHORIZATION_LEFT_SECONDS


def is_on_its_way(account: Account, now: float) -> bool:
    return 0 < account.deposit_until - now <= DEPOSIT_WAIT_SECONDS


def may_be_supposed(account: Account, amount: int, now: float) -> bool:
    """Whether a deposit of which nobody said what became of it has expired, and would do."""
    known = account.deposit
    if known is None or known.supposed or is_valid(known, now):
        return False
    return amount <= account.balance + known.amount


def suppose(account: Account) -> Account:
    assert account.deposit is not None
    supposed = replace(account.deposit, supposed=True)
    return replace(account, deposit=supposed, balance=account.balance + supposed.amount)


def confirmed(account: Account, deposit: PendingDeposit) -> Account:
    """The channel with a deposit that was mined; a supposed one is in its balance already."""
    return replace(
        account,
        balance=account.balance + (0 if deposit.supposed else deposit.amount),
        deposited=account.deposited + deposit.amount,
        deposit=None,
        deposit_until=0.0,
    )


def without(account: Account, presented: PendingDeposit | None) -> Account:
    """The channel after a deposit was `presented` and did not help; what is in it is to be told.

    Signed again under its own salt it would never help. So it counts as money that has left.
    """
    known = account.deposit
    if known is None or presented is None or known.salt != presented.salt:
        return account
    deposited = account.deposited + known.amount
    return replace(account, deposit=None, deposited=deposited, deposit_until=0.0)


@dataclass(frozen=True)
class Filling:
    """What one payment needs to know for a deposit of its own."""

    policy: Policy
    account: Account
    intent: Intent
    totals: Spending
    amount: int
    """What the payment promises in all."""
    now: float

    @property
    def room(self) -> int:
        """What this channel may still lock up under the owner's total."""
        elsewhere = self.totals.outlay - self.account.outlay
        return self.policy.total - elsewhere - self.account.deposited

    def needed(self) -> PendingDeposit:
        """The deposit without which `amount` cannot be promised. Raises OverBudget."""
        least = max(self.intent.min_deposit, self.amount - self.account.balance)
        known = self.account.deposit
        if known and is_valid(known, self.now) and known.amount >= least:
            return known
        self._refuse(least)
        pending = known.amount if known else 0
        size = max(least, min(max(self.policy.deposit, pending), self.room))
        return self._unsigned(size, known.salt if known else token_bytes(32))

    def early(self) -> PendingDeposit | None:
        """A deposit before the channel is dry, if it is time and nothing stands in its way."""
        policy, account = self.policy, self.account
        left = account.balance - self.amount
        if left >= policy.deposit * policy.top_up_percent // 100:
            return None
        if account.deposit or self.now < account.no_top_up_before:
            return None
        if policy.total - self.totals.spent - self.intent.price <= left:
            return None  # the budget ends before the channel does
        size = min(policy.deposit, self.room)
        asks = policy.approve_above is not None and size > policy.approve_above
        if asks or size < max(1, self.intent.min_deposit):
            return None
        return self._unsigned(size, token_bytes(32))

    def _unsigned(self, size: int, salt: bytes) -> PendingDeposit:
        return PendingDeposit(size, int(self.now) + self.policy.max_authorization_seconds, salt)

    def _refuse(self, least: int) -> None:
        policy, intent, show = self.policy, self.intent, self.intent.asset.show
        most = policy.most_per_deposit
        if least > max(most, intent.price):
            raise OverBudget(
                f"{intent.origin} asks a deposit of {show(least)}; this wallet locks up at most "
                f"{show(most)} at a time, until the owner raises per_deposit",
                limit="per_deposit",
                left=most,
            )
        if least > self.room:
            left = max(0, self.room)
            raise OverBudget(
                f"{intent.origin} needs a deposit of {show(least)}; {show(left)} is left of the "
                f"total of {show(policy.total)}, until the owner raises total",
                limit="total",
                left=left,
            )
