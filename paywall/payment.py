"""The payment for one request, as its handler sees it: who pays, and what it costs at most.

A handler may say that its request costs less, and decides nothing else about money: when that is
charged, and whether it is at all, is for the exchange around it (`paywall.exchange`).
"""

from starlette.types import Scope

from paywall.admission import Admitted, FreeAdmission
from paywall.protocol.money import Asset
from paywall.protocol.x402 import show_address


class Payment:
    """What a handler knows of the payment for its request, and how it charges less.

    `amount` is the price in atomic units, the most that can be charged; `payer` and `channel` are
    hex, and a single transfer (`exact`) has no channel. It is in `scope["payment"]` and
    `request.state.payment`.
    """

    __slots__ = ("_admission", "_asset", "_charged", "_closed", "amount")

    def __init__(self, admission: Admitted | FreeAdmission, asset: Asset) -> None:
        self.amount = admission.price
        self._admission = admission
        self._asset = asset
        self._charged: int | None = None
        self._closed = False

    def charge(self, price: str | int) -> int:
        """Adds to what this request costs and returns what is left of the price, in atomic units.

        `price` is "$0.0002" or atomic units. Called at all, it replaces the full price; together
        the calls never charge more than the price. A single transfer cannot be split: it is made
        for the full price, or for a charge of nothing not at all. Raises RuntimeError once it is
        charged: on a route with a fixed price, when the answer has begun.
        """
        if self._closed:
            raise RuntimeError(
                'this request is charged already; price its route with upto("…") to charge '
                "while the answer streams"
            )
        units = self._asset.units(price) if isinstance(price, str) else price
        if not isinstance(units, int):  # 0.0002 would be dollars to its writer and units to us
            raise TypeError(f'{price!r} is neither a price such as "$0.0002" nor atomic units')
        if units < 0:
            raise ValueError("a charge cannot be negative")
        self._charged = min(self.amount, (self._charged or 0) + units)
        return self.amount - self._charged

    @property
    def payer(self) -> str:
        return show_address(self._admission.payer)

    @property
    def channel(self) -> str | None:
        return self._admission.channel

    @property
    def asset(self) -> Asset:
        """The token that is paid."""
        return self._asset

    @property
    def charged(self) -> int:
        """What this request costs as things stand: the full price unless `charge` was called."""
        return self.amount if self._charged is None else self._admission.fits(self._charged)

    def close(self) -> int:
        """No more charges; what it costs."""
        self._closed = True
        return self.charged

    def __repr__(self) -> str:
        return f"<Payment of {self._asset.show(self.amount)} by {self.payer}>"


def with_payment(scope: Scope, payment: Payment) -> Scope:
    """The request as its handler sees it."""
    state = {**scope.get("state", {}), "payment": payment}
    return {**scope, "payment": payment, "state": state}
