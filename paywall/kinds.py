"""The kinds of price that an owner can write down. Values only: nobody is asked for money here.

"$0.001"                               fixed
upto("$0.01")                          metered: at most this, the handler says how much
free_first(100, then="$0.001")         so many requests a day of each payer cost nothing
pass_for("$0.50", hours=24)            one payment opens the route for a time, or for some calls
None                                   free
CLOSED                                 not to be had at any price: 404
async def price(request): ...          any of these, by the request
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from paywall.protocol.errors import ConfigurationError
from paywall.protocol.limits import DAY_SECONDS, MAX_PASS_SECONDS


@dataclass(frozen=True, slots=True)
class UpTo:
    """A metered price: at most this much; the handler says how much with `payment.charge`."""

    price: str


def upto(price: str) -> UpTo:
    """A ceiling for a metered route, such as `upto("$0.01")`."""
    return UpTo(price)


@dataclass(frozen=True, slots=True)
class Quota:
    """So many requests of each payer are free in so many seconds; the others cost `price`.

    Routes with the same `name` share their count. With `sign_in` a payer may show who it is by
    signing in, which costs nothing; without, only a payment tells, and then it is not charged.
    """

    price: str | UpTo
    free: int
    seconds: int
    sign_in: bool
    name: str | None


def free_first(
    free: int,
    then: str | UpTo,
    *,
    seconds: int = DAY_SECONDS,
    sign_in: bool = True,
    name: str | None = None,
) -> Quota:
    """The first requests of each payer are free: `free_first(100, then="$0.001")`.

    A payer's day begins with its first free request. An address costs nothing to make, so what is
    free by signing in is free to whoever makes enough of them; with `sign_in=False` a payer needs
    a funded channel, or a transfer that it could make. Raises ConfigurationError.
    """
    if free < 1:
        raise ConfigurationError(f"free_first: {free} is not a number of requests")
    if not 1 <= seconds <= MAX_PASS_SECONDS:
        raise ConfigurationError(f"free_first: {seconds} s is not between 1 s and a year")
    return Quota(then, free, seconds, sign_in, name)


@dataclass(frozen=True, slots=True)
class Pass:
    """One payment opens all routes with the same `name` to its payer, for so many seconds and,
    when there are `calls`, for no more requests than those."""

    price: str
    seconds: int
    calls: int | None
    name: str | None


def pass_for(
    price: str,
    *,
    seconds: int = 0,
    minutes: int = 0,
    hours: int = 0,
    days: int = 0,
    calls: int | None = None,
    name: str | None = None,
) -> Pass:
    """Access for a time, a number of calls, or both: `pass_for("$0.50", hours=24)`.

    Calls without a time are good for 30 days. Raises ConfigurationError.
    """
    total = seconds + 60 * (minutes + 60 * (hours + 24 * days))
    if not total and calls is not None:
        total = 30 * DAY_SECONDS
    if not 1 <= total <= MAX_PASS_SECONDS:
        raise ConfigurationError(f"pass_for: {total} s is not between 1 s and a year")
    if calls is not None and calls < 1:
        raise ConfigurationError(f"pass_for: {calls} is not a number of calls")
    return Pass(price, total, calls, name)


def said(terms: Quota | Pass) -> str:
    """What the terms come to, for whoever reads a quote."""
    if isinstance(terms, Quota):
        return f"The first {terms.free} requests of each payer in {terms.seconds} s are free."
    calls = "" if terms.calls is None else f", for {terms.calls} calls"
    return f"One payment is a pass for {terms.seconds} s{calls}."


class Closed(Enum):
    """The one value of its kind."""

    CLOSED = "closed"


CLOSED: Final = Closed.CLOSED
"""In place of a price: nobody gets this."""

FixedPrice = str | UpTo | Quota | Pass | Closed | None
