"""What a provider lets its collecting cost, in its own words and in units of a token.

Integers only: a price of gas in the token is a number of units per coin of the network, and a share
is so many millionths.
"""

from dataclasses import dataclass
from typing import Final

from paywall.protocol.errors import ConfigurationError
from paywall.protocol.money import Asset

WEI_PER_COIN: Final = 10**18
MILLION: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class ClaimPolicy:
    """When a provider collects. Amounts are prices in the token, such as "$10".

    `max_at_risk` is what all channels may owe a receiver before it is claimed although gas is dear;
    `fee_share_ppm` the share of a sum, in millionths, that its claim may cost otherwise; what is
    owed is claimed `max_age_seconds` after the last time at the latest, and less than `min_amount`
    (dust) never. `native_price` is what the network's coin, which pays for gas, costs in the token.
    `refund_idle_seconds` is after how long without a request or deposit what is left goes back,
    where that is more than its fee; `poll_seconds` how often the log is read and a plan is made.
    """

    max_at_risk: str = "$10"
    fee_share_ppm: int = 10_000
    max_age_seconds: int = 86_400
    min_amount: str | None = None
    native_price: str = "$3000"
    refund_idle_seconds: int | None = None
    poll_seconds: int = 10

    def __post_init__(self) -> None:
        if not 0 < self.fee_share_ppm <= MILLION:
            raise ConfigurationError("fee_share_ppm is a share in millionths: 1 to 1000000")
        if min(self.max_age_seconds, self.poll_seconds, self.refund_idle_seconds or 1) <= 0:
            raise ConfigurationError("the seconds of a policy are above zero")

    def of(self, asset: Asset) -> "Terms":
        """The policy in units of one token. Raises ConfigurationError for what is no price."""
        return Terms(
            max_at_risk=asset.units(self.max_at_risk),
            min_amount=asset.units(self.min_amount) if self.min_amount else 1,
            units_per_coin=asset.units(self.native_price),
            fee_share_ppm=self.fee_share_ppm,
        )


@dataclass(frozen=True, slots=True)
class Terms:
    """A policy in atomic units of one token."""

    max_at_risk: int
    min_amount: int
    units_per_coin: int
    fee_share_ppm: int

    def fee(self, wei: int) -> int:
        """What so much of the network's coin is worth, rounded up."""
        return -(-wei * self.units_per_coin // WEI_PER_COIN)

    def is_worth(self, amount: int, wei: int) -> bool:
        """Whether a fee is within the owner's share of what it brings."""
        return self.fee(wei) * MILLION <= amount * self.fee_share_ppm


@dataclass(frozen=True, slots=True)
class Costs:
    """What a claim is expected to cost: `batch_gas` for the transaction, `row_gas` for each row."""

    price_wei: int
    batch_gas: int = 70_000
    row_gas: int = 39_000
    settle_gas: int = 85_000
    refund_gas: int = 85_000

    def row_wei(self) -> int:
        return self.row_gas * self.price_wei

    def batch_wei(self, rows: int) -> int:
        return (self.batch_gas + rows * self.row_gas) * self.price_wei

    def settle_wei(self) -> int:
        return self.settle_gas * self.price_wei

    def refund_wei(self) -> int:
        return self.refund_gas * self.price_wei


def is_worth_settling(amount: int, costs: Costs, terms: Terms | None, swept: bool) -> bool:
    """Whether to move what was claimed: nothing of it is at risk any more, so only its fee counts,
    and, when everything is swept, that it brings more than that.
    """
    if amount <= 0 or terms is None:
        return amount > 0 and swept
    fee_wei = costs.settle_wei()
    return terms.is_worth(amount, fee_wei) or (swept and amount > terms.fee(fee_wei))
