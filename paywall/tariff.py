"""What one request costs: an owner's price, in atomic units, for the request at hand.

A price function is given the request with its path parameters, may read the body within bounds,
and the app gets the same body again.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive, Scope

from paywall.kinds import CLOSED, FixedPrice, Pass, Quota, UpTo
from paywall.prices import Rule
from paywall.protocol.errors import ConfigurationError, Reason, Refused
from paywall.protocol.limits import MAX_PRICED_BODY_BYTES
from paywall.protocol.money import Asset

log = logging.getLogger("paywall")

_UNREADABLE: Final = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RecursionError,
    ClientDisconnect,
)
"""What an owner's price function raises at a body that is not what it reads, or that breaks off."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Tariff:
    """`units` is the price, or its ceiling when it is `metered`. `terms` are those of a pass or of
    free requests, under `name`."""

    units: int
    metered: bool
    terms: Quota | Pass | None
    name: str


def tariff_of(rule: Rule, price: FixedPrice, asset: Asset) -> Tariff | None:
    """A price in atomic units, or None when it is free. Raises Refused for what is closed, and
    ConfigurationError for what cannot be paid."""
    if price is None:
        return None
    if price is CLOSED:
        raise Refused(Reason.CLOSED)
    terms = price if isinstance(price, Quota | Pass) else None
    inner = terms.price if terms else price
    text = inner.price if isinstance(inner, UpTo) else inner
    if not isinstance(text, str):
        raise ConfigurationError(f"{rule.pattern!r}: {text!r} is not a price")
    name = (terms and terms.name) or rule.pattern
    return Tariff(asset.units(text), isinstance(inner, UpTo), terms, name)


async def price_of(rule: Rule, scope: Scope, receive: Receive) -> tuple[FixedPrice, Receive]:
    """The price of this request, and a receive that gives the app every byte that pricing read."""
    price = rule.price
    if not callable(price):
        return price, receive
    named = {**scope, "path_params": rule.parameters(scope["path"], scope.get("root_path", ""))}
    try:
        return await asked(price, named, receive)
    except ConfigurationError:
        raise
    except _UNREADABLE as error:
        log.info("no price for %s %s: %r", scope["method"], rule.pattern, error)
        raise Refused(Reason.UNPRICEABLE) from error


async def asked(
    question: Callable[[Request], Awaitable[_T]], scope: Scope, receive: Receive
) -> tuple[_T, Receive]:
    """What a function of the owner's says of a request, and a receive with all that it has read."""
    replay = _Replay(receive)
    answer = await question(Request(scope, replay.read))
    return answer, replay.again()


class _Replay:
    """Lets a function read the body, within bounds, and gives the app the same again."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._read: list[Message] = []
        self._size = 0

    async def read(self) -> Message:
        message = await self._receive()
        self._size += len(message.get("body", b""))
        if self._size > MAX_PRICED_BODY_BYTES:
            raise Refused(Reason.BODY_TOO_LARGE)
        self._read.append(message)
        return message

    def again(self) -> Receive:
        if not self._read:
            return self._receive
        messages = iter(self._read)

        async def receive() -> Message:
            return next(messages, None) or await self._receive()

        return receive
