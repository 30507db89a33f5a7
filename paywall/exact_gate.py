"""The provider's conversation for `exact`: one signed transfer buys one request.

    slip written -- chain asked, once -- handler -- transfer sent, mined -- head of the answer

The slip (`paywall.protocol.slip`) is written before anything else, so an authorization buys once,
whatever its spelling and however many workers it reaches. The transfer is settled before the head
leaves: an answer is never given away, and one that the chain will not pay for is withheld. With
`settle_first` it is settled before the handler runs, for handlers whose work is dear.

A transfer is sent once (`paywall.exact_settlement`). When nobody saw its end, the client comes
again with the same payment, and what the chain shows decides: the answer and its receipt, or a
refusal for good.

How much work can be had for nothing: a payer must own the sum of all that it has running here when
a request begins, and an authorization that the chain refused is refused again. Readings of the
chain for payers who never paid by a transfer here are bounded. An authorization that somebody else
has used buys nothing, although the money came: it may have bought elsewhere.

Source: exact EVM specification, "Phase 2" and "Phase 3"; extensions/payment_identifier.md.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from secrets import token_hex
from typing import Final

from paywall import receipts
from paywall.admission import ExactAdmission, Repeated
from paywall.chain import Chain
from paywall.chores import Chores
from paywall.customers import Customers
from paywall.exact_settlement import Settlements
from paywall.protocol import once, slip
from paywall.protocol.eip712 import keccak
from paywall.protocol.errors import HoldLost, Reason, Refused, Unavailable
from paywall.protocol.once import Answer, Ticket
from paywall.protocol.schemes import exact
from paywall.protocol.schemes.exact import ExactOffer, ExactTerms
from paywall.protocol.slip import Slip
from paywall.protocol.x402 import Malformed, PaymentPayload, decode_requirements
from paywall.quote import Quote
from paywall.slipbook import SlipBook, let_go, ttl_of
from paywall.stores import Store
from paywall.strangers import Strangers

log = logging.getLogger("paywall.gate")

_SCHEME_JSON: Final = f'"{exact.SCHEME}"'.encode()


@dataclass(frozen=True)
class ExactRules:
    """How a provider takes `exact`: nothing below `minimum` atomic units, and when it settles."""

    minimum: int
    settle_first: bool = False


def is_exact(payload: PaymentPayload) -> bool:
    """Whether a payment says that it is of this scheme."""
    accepted = bytes(payload.accepted)
    if _SCHEME_JSON not in accepted:
        return False
    try:
        return decode_requirements(accepted).scheme == exact.SCHEME
    except Malformed:
        return False


class ExactGate:
    """The part of a gate that takes transfers. `clock` gives Unix seconds."""

    def __init__(
        self,
        terms: ExactTerms,
        rules: ExactRules,
        store: Store,
        chain: Chain,
        chores: Chores,
        clock: Callable[[], float],
        strangers: Strangers,
    ) -> None:
        self._terms = terms
        self._rules = rules
        self._store = store
        self._slips = SlipBook(store, chores)
        self._customers = Customers(terms.asset.network, store, strangers)
        self._settlements = Settlements(self._slips, chain, chores, self._customers)
        self._chain = chain
        self._clock = clock
        self._open: dict[str, ExactAdmission] = {}

    def offers(self, price: int) -> tuple[ExactOffer, ...]:
        return (self._terms.offer(price),) if price >= self._rules.minimum else ()

    # -- Admitting -------------------------------------------------------------------------------

    async def admit(
        self,
        payload: PaymentPayload,
        quote: Quote,
        ticket: Ticket | None,
        resource: bytes,
        route: str = "",
    ) -> ExactAdmission | Repeated:
        """Lets a paid request in, or answers once more. Raises Refused or Unavailable.

        A payment that is known gets what became of it, although the price may have changed and its
        time passed meanwhile; only one that would run anew must fit what is offered now.
        """
        admission = self._read(payload, quote, route)
        payment = admission.payment
        found = await self._slips.find(admission)
        known = slip.decode(found[0])
        if known is None or known.stage == slip.RUNNING:
            self._refuse_unfit(payload, quote, admission)
        if ticket:
            await self._bind(ticket, admission)
        digest = payment.authorization.transfer_digest(exact.token_domain(self._terms.asset))
        mine = await self._slips.claim(admission, keccak(digest + keccak(resource)), found)
        if mine.stage == slip.ANSWERED:
            return _repeated(admission, mine)
        self._open[admission.request] = admission
        try:
            mine = await self._ready(admission, mine)
        except BaseException as error:
            self._open.pop(admission.request, None)
            if isinstance(error, Exception):
                await self._slips.conclude(admission, let_go)
            else:
                self._slips.let_go(admission)
            if isinstance(error, HoldLost):  # a store that forgot has given it to another
                raise Refused(Reason.PAYMENT_IN_PROGRESS) from error
            raise
        if mine.stage == slip.ANSWERED:
            self._open.pop(admission.request, None)
            return _repeated(admission, mine)
        admission.transaction = mine.transaction
        return admission

    def _read(self, payload: PaymentPayload, quote: Quote, route: str) -> ExactAdmission:
        try:
            payment = self._terms.read(payload.payload)
        except Refused:
            quote.offer_for(bytes(payload.accepted))  # what is not offered is the better reason
            raise
        network = self._terms.asset.network
        key = payment.key(network)
        return ExactAdmission(token_hex(8), payment.value, payment, network, key, route=route)

    def _refuse_unfit(
        self, payload: PaymentPayload, quote: Quote, admission: ExactAdmission
    ) -> None:
        offer = quote.offer_for(bytes(payload.accepted))
        if not isinstance(offer, ExactOffer):
            raise Refused(Reason.OFFER_MISMATCH)
        offer.refuse_unfit(admission.payment, int(self._clock()))

    async def _bind(self, ticket: Ticket, admission: ExactAdmission) -> None:
        """A payment's id belongs to one authorization. Raises Refused for a second one."""
        name = b"".join((admission.network.encode(), admission.payer, ticket.payment_id.encode()))
        key, owner = keccak(b"paywall:exact:id:" + name), admission.key.hex()
        ttl_ms = ttl_of(admission, int(self._clock() * 1000))
        if not await self._store.spend(key, owner, ttl_ms):
            raise Refused(Reason.PAYMENT_ID_REUSED)

    async def _ready(self, admission: ExactAdmission, mine: Slip) -> Slip:
        """Goes on from the stage that the payment is in, up to where its handler may run."""
        if mine.stage == slip.SENT:
            return await self._settlements.found_out(admission)
        if mine.stage == slip.RUNNING:
            await self._refuse_unpayable(admission)
            if self._rules.settle_first:
                transaction = await self._settlements.settle(admission, b"")
                return await self._slips.advance(
                    admission, lambda held: slip.mined(held, transaction)
                )
        return mine

    async def _refuse_unpayable(self, admission: ExactAdmission) -> None:
        """One reading of the chain: unused, and the payer can pay all that it has running.

        A balance that moves away before the transfer costs us a handler's work, never an answer;
        so a payer has no more of that for nothing than what it owns when its requests begin.
        """
        payment = admission.payment
        await self._customers.meet(admission.payer)
        used, balance = await self._chain.authorization(payment.authorization, payment.token)
        if used:
            raise Refused(Reason.EXACT_USED)
        others = [other for other in self._open.values() if not other.transaction]
        if balance < sum(other.price for other in others if other.payer == admission.payer):
            raise Refused(Reason.EXACT_BALANCE)

    # -- Ending ----------------------------------------------------------------------------------

    async def charge(self, admission: ExactAdmission, amount: int, answer: Answer | None) -> str:
        """Settles for a served request, to the whole price or (for nothing) not at all.

        Returns the receipt. Raises Refused, HoldLost or Unavailable: then the answer is withheld.
        """
        if admission.fits(amount) == 0:
            await self.release(admission)
            return receipts.transferred(admission)
        kept = once.encode_answer(answer) if answer else b""
        try:
            if not admission.transaction:
                admission.transaction = await self._settlements.settle(admission, kept)
            transaction = admission.transaction
            try:
                await self._slips.advance(
                    admission, lambda mine: slip.answered(mine, transaction, kept)
                )
            except Unavailable as error:  # it is paid, and no reason to withhold what was bought
                log.warning("an answer leaves, and the store does not take note: %s", error)
                again = self._slips.conclude
                await again(admission, lambda mine: slip.answered(mine, transaction, kept))
        finally:
            self._open.pop(admission.request, None)
        return receipts.transferred(admission)

    async def release(self, admission: ExactAdmission) -> str | None:
        """Lets a request go: nothing is paid, or what was paid already buys another try."""
        self._open.pop(admission.request, None)
        await self._slips.conclude(admission, let_go)
        return receipts.transferred(admission) if admission.transaction else None

    async def renew(self) -> None:
        """Keeps the slips of requests that still run. Raises Unavailable."""
        for admission in list(self._open.values()):
            if admission.request in self._open:
                with suppress(HoldLost):
                    await self._slips.step(admission, lambda mine: mine)


def _repeated(admission: ExactAdmission, kept: Slip) -> Repeated:
    admission.transaction = kept.transaction
    return Repeated(once.decode_answer(kept.answer), receipts.transferred(admission))
