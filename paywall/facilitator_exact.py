"""Our facilitator's desk for `exact`: one authorization of a token transfer, looked at and made.

Source: exact EVM specification, "Phase 2: Verification Logic", "Phase 3: Settlement Logic".
"""

from collections.abc import Callable

from paywall.chain.exact import shows_transfer, transfer_call
from paywall.chain.node import Node
from paywall.facilitator_desk import Sent, Served, address_in, amount_in
from paywall.protocol.errors import Reason, Refused, Reverted
from paywall.protocol.facilitation import Kind, Question, SettleAnswer, VerifyAnswer
from paywall.protocol.schemes import exact
from paywall.protocol.schemes.exact import ExactPayment
from paywall.protocol.x402 import VERSION, show_address, show_bytes


class ExactDesk:
    """Everything is checked again before settling: verified a minute ago is not verified."""

    def __init__(self, node: Node, served: Served, clock: Callable[[], float]) -> None:
        self._node = node
        self._served = served
        self._clock = clock
        self._sent = Sent(node)

    @property
    def kind(self) -> Kind:
        return Kind(VERSION, exact.SCHEME, self._served.network)

    async def verify(self, question: Question) -> VerifyAnswer:
        """Raises Denied, Refused, or Unavailable."""
        payment = self._checked(question)
        await self._refuse_unpayable(payment)
        call = transfer_call(payment.token, payment.authorization, payment.signature)
        try:
            await self._node.relay.rehearse(call)
        except Reverted as error:
            raise Refused(Reason.EXACT_SIMULATION, f"({error.reason})") from error
        return VerifyAnswer(is_valid=True, payer=show_address(payment.payer))

    async def settle(self, question: Question) -> SettleAnswer:
        """One success per authorization. Raises Denied, Refused, or Unavailable."""
        payment = self._checked(question)
        told, key = payment.authorization, payment.key(self._served.network)
        transaction = await self._sent.once(
            key,
            lambda: self._node.transfer_with_authorization(told, payment.signature, payment.token),
            lambda receipt: shows_transfer(receipt, payment.token, told),
        )
        if transaction is None:
            raise Refused(Reason.EXACT_USED)
        return SettleAnswer(
            success=True,
            transaction=show_bytes(transaction),
            network=self._served.network,
            payer=show_address(payment.payer),
        )

    def _checked(self, question: Question) -> ExactPayment:
        self._served.agree(question)
        terms = question.payment_requirements
        asset = self._served.asset(terms.asset)
        exact.refuse_other_domain(terms.extra, asset)
        pay_to, price = address_in(terms.pay_to, "payTo"), amount_in(terms.amount)
        if price == 0:
            raise Refused(Reason.OFFER_MISMATCH, "Nothing is to be paid.")
        payload, now = question.payment_payload.payload, int(self._clock())
        told = exact.parse(payload, asset.address)
        if self._sent.knows(told.key(self._served.network)):
            now = self._sent.then(now, told.authorization.valid_before)
        return exact.check(payload, asset, pay_to, price, now)

    async def _refuse_unpayable(self, payment: ExactPayment) -> None:
        used, balance = await self._node.authorization(payment.authorization, payment.token)
        if used:
            raise Refused(Reason.EXACT_USED)
        if balance < payment.value:
            raise Refused(Reason.EXACT_BALANCE)
