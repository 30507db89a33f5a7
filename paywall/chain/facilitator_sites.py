"""The facilitators that a provider knows: what each serves, and under whose signature.

A provider with an authorizer key of its own can use them all. One without lets the facilitator sign
claims and refunds; a channel names one authorizer for ever, so then all must sign as the same.
"""

from collections.abc import Sequence

import httpx

from paywall.chain.facilitator_site import Site
from paywall.protocol.errors import ChainUnavailable, ConfigurationError
from paywall.protocol.facilitation import Kind, Supported
from paywall.protocol.money import ZERO_ADDRESS, Address, parse_address
from paywall.protocol.schemes import batch
from paywall.protocol.x402 import VERSION, show_address


class Sites:
    """Facilitators in order of preference. `authorizer` is None until one named its own."""

    def __init__(self, sites: Sequence[Site], network: str, authorizer: Address | None) -> None:
        if not sites:
            raise ConfigurationError("name at least one facilitator")
        self.all = tuple(sites)
        self.authorizer = authorizer
        self._is_ours = authorizer is not None
        self._network = network
        self._supported: dict[Site, Supported] = {}

    def __repr__(self) -> str:
        return ", ".join(map(str, self.all))

    async def meet_one(self, http: httpx.AsyncClient) -> None:
        """Asks until one answers; those that are down now are asked when they are needed."""
        trouble: ChainUnavailable | None = None
        for site in self.all:
            try:
                return await self.meet(site, http, batch.SCHEME)
            except ChainUnavailable as error:
                trouble = error
        assert trouble is not None
        raise trouble

    async def meet(self, site: Site, http: httpx.AsyncClient, scheme: str) -> None:
        """Makes sure, once, that a facilitator serves this scheme here.

        Raises ConfigurationError or ChainUnavailable.
        """
        if site not in self._supported:
            self._supported[site] = await site.supported(http)
        wanted = (VERSION, scheme, self._network)
        for kind in self._supported[site].kinds:
            if (kind.x402_version, kind.scheme, kind.network) == wanted:
                break
        else:
            raise ConfigurationError(f"{site} does not serve {scheme} on {self._network}")
        if scheme == batch.SCHEME and not self._is_ours:
            self._agree_on_authorizer(site, _authorizer_of(kind))

    def _agree_on_authorizer(self, site: Site, named: Address) -> None:
        if named == ZERO_ADDRESS:
            raise ConfigurationError(f"{site} signs no claims: give an authorizer_key of your own")
        if self.authorizer not in (None, named):
            raise ConfigurationError(
                f"{site} signs as {show_address(named)}, and others do not:"
                " several facilitators need an authorizer_key of your own"
            )
        self.authorizer = named


def _authorizer_of(kind: Kind) -> Address:
    """Who signs for those who leave it to the facilitator; zero when nobody does."""
    told = kind.extra.receiver_authorizer if kind.extra else None
    try:
        return parse_address(told) if told else ZERO_ADDRESS
    except ValueError:
        return ZERO_ADDRESS
