"""Which of a provider's offers is taken: the choice, by the owner's policy, without any state.

The rule: the cheapest acceptable offer; at equal price a channel (`batch-settlement`) before a
transfer (`exact`), because a channel's next requests cost no transaction, unless the owner says
that more requests are unlikely (`expect_more=False`) and there is no channel with this origin yet;
and the next best when the budget does not allow what the best one needs, as a deposit that is
larger than what is left.
"""

import dataclasses
from collections.abc import Callable
from typing import Final

from msgspec import Raw

from paywall.offers import AnyIntent, ExactIntent, Intent, Payer, understand
from paywall.policy import Policy
from paywall.protocol.errors import NoAcceptableOffer, OverBudget
from paywall.protocol.limits import MAX_OFFERS
from paywall.protocol.x402 import PaymentRequired, printable

MAX_UNDERSTOOD: Final = 1024
MAX_COMPLAINTS: Final = 8
"""How many of the offers that do not fit are told of."""


class Choice:
    """One payer's way of choosing. It remembers offers that it has understood: they come again."""

    def __init__(self, policy: Policy, payer: Payer) -> None:
        self._policy = policy
        self._payer = payer
        self._understood: dict[tuple[str, bytes], AnyIntent] = {}

    def channels(self, origin: str, quote: PaymentRequired) -> list[Intent]:
        """The channels that are offered, the cheapest first, at any price: for what costs nothing.

        Raises NoAcceptableOffer when there is none that policy allows.
        """
        fit = self._fit(origin, quote)
        found = [intent for intent in fit if isinstance(intent, Intent)]
        if not found:
            raise NoAcceptableOffer(f"{origin} offers no channel")
        return sorted(found, key=lambda intent: intent.price)

    def rank(
        self,
        origin: str,
        quote: PaymentRequired,
        is_open: Callable[[Intent], bool] = lambda intent: False,
    ) -> list[AnyIntent]:
        """The offers that are allowed, the best first; `is_open` knows the channels.

        Raises NoAcceptableOffer or OverBudget when there is none.
        """
        fit = self._fit(origin, quote)
        ceiling = self._policy.per_request
        affordable = [intent for intent in fit if intent.price <= ceiling]
        if not affordable:
            best = min(fit, key=lambda intent: intent.price)
            show = best.asset.show
            raise OverBudget(
                f"{origin} asks {show(best.price)} for one request; this wallet pays at most "
                f"{show(ceiling)} (per_request)",
                limit="per_request",
                left=ceiling,
            )
        if len(affordable) > 1:
            affordable.sort(key=lambda intent: (intent.price, self._rank(intent, is_open)))
        return affordable

    def _rank(self, intent: AnyIntent, is_open: Callable[[Intent], bool]) -> int:
        if isinstance(intent, ExactIntent):
            return 1
        return 0 if self._policy.expect_more or is_open(intent) else 2

    def _fit(self, origin: str, quote: PaymentRequired) -> list[AnyIntent]:
        self._policy.refuse_origin(origin)
        fit, complaints = self._fitting(origin, quote)
        if not fit:
            why = "; ".join(complaints[:MAX_COMPLAINTS]) or "there is none"
            raise NoAcceptableOffer(f"{origin} makes no offer that this wallet accepts: {why}")
        return fit

    def _fitting(self, origin: str, quote: PaymentRequired) -> tuple[list[AnyIntent], list[str]]:
        fit, complaints = [], []
        for raw in quote.accepts[:MAX_OFFERS]:
            try:
                fit.append(self._understand(origin, raw, quote.extensions or None))
            except (NoAcceptableOffer, ValueError) as error:
                complaints.append(printable(str(error)))
        return fit, complaints

    def _understand(self, origin: str, raw: Raw, extensions: dict[str, Raw] | None) -> AnyIntent:
        known = self._understood.get((origin, bytes(raw)))
        if known is None:
            known = understand(self._policy, self._payer, origin, raw)
            if len(self._understood) >= MAX_UNDERSTOOD:
                self._understood.clear()
        if known.extensions != extensions:
            known = dataclasses.replace(known, extensions=extensions)
        self._understood[origin, bytes(raw)] = known
        return known
