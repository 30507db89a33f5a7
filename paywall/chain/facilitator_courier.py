"""Errands to facilitators: who is asked, in which order, and when it counts as done.

The first facilitator that may have heard a settlement is the last one asked: two of them would send
it twice. What an answer says of success is a hint where to look; the chain says whether it is so.
"""

from dataclasses import dataclass
from typing import Final

import httpx

from paywall.chain import Mined
from paywall.chain.evidence import Evidence, Wanted
from paywall.chain.facilitator_site import NotDone, Site, word_of
from paywall.chain.facilitator_sites import Sites
from paywall.protocol.errors import ChainUnavailable, ConfigurationError
from paywall.protocol.facilitation import SETTLEMENT_PENDING, SettleAnswer
from paywall.protocol.money import Address, parse_address
from paywall.protocol.x402 import parse_bytes

WATCH_SECONDS: Final = 15.0
"""How long the chain is watched for what was settled, or may have been."""


@dataclass(frozen=True, slots=True)
class Errand:
    """A settlement to be carried: the question, who pays if a payer does, and what must be seen."""

    scheme: str
    body: bytes
    wanted: Wanted
    payer: Address | None = None


class Declined(Exception):
    """A facilitator said no, in its own word, and sent nothing."""

    def __init__(self, site: Site, word: str) -> None:
        super().__init__(f"{site} declined: {word}")
        self.word = word


class Courier:
    """Carries errands to the first facilitator that takes them."""

    def __init__(
        self, sites: Sites, evidence: Evidence, network: str, timeout_seconds: float
    ) -> None:
        self._sites = sites
        self._evidence = evidence
        self._network = network
        self._timeout_seconds = timeout_seconds

    async def carry(self, http: httpx.AsyncClient, errand: Errand) -> Mined:
        """The first facilitator that takes the errand does it, and the chain shows it.

        Raises Declined, Reverted, TransactionPending, or ChainUnavailable.
        """
        since = await self._evidence.now()
        trouble: ChainUnavailable | ConfigurationError | None = None
        for site in self._sites.all:
            try:
                await self._sites.meet(site, http, errand.scheme)
                await self._approve(site, http, errand)
            except (ChainUnavailable, ConfigurationError) as error:
                trouble = error
                continue
            try:
                answer = await site.settle(http, errand.body, self._timeout_seconds)
            except NotDone as error:
                trouble = error
                continue
            except ChainUnavailable:
                return await self._seen(errand, since, None)
            return await self._seen(errand, since, self._named(site, answer))
        assert trouble is not None
        raise ChainUnavailable(str(trouble)) from None

    async def _approve(self, site: Site, http: httpx.AsyncClient, errand: Errand) -> None:
        """Asks first whether a payment would be settled: a no here is sure to have cost nothing."""
        if errand.payer is None:
            return
        answer = await site.verify(http, errand.body)
        if not answer.is_valid:
            raise Declined(site, word_of(answer.invalid_reason))
        if not _names(answer.payer, errand.payer):
            raise ChainUnavailable(f"{site} verified another payer than it was asked about")

    def _named(self, site: Site, answer: SettleAnswer) -> bytes | None:
        """The transaction that an answer names; None when it names none, or somewhere else."""
        try:
            transaction = parse_bytes(answer.transaction, 32)
        except ValueError:
            transaction = None
        if not answer.success and transaction is None:
            word = word_of(answer.error_reason)
            if word != SETTLEMENT_PENDING:
                raise Declined(site, word)
        return transaction if answer.network == self._network else None

    async def _seen(self, errand: Errand, since: int, transaction: bytes | None) -> Mined:
        seconds = min(WATCH_SECONDS, self._timeout_seconds)
        receipt = await self._evidence.of(errand.wanted, since, transaction, seconds)
        return Mined(receipt.transaction, receipt.block, receipt.gas, receipt.fee_wei)


def _names(told: object, payer: Address) -> bool:
    try:
        return isinstance(told, str) and parse_address(told) == payer
    except ValueError:
        return False
