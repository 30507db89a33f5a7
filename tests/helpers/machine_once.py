"""The same machine with payments that have an id, and that come again: while they run, after they
were charged or released, after their worker died, and with another payload under their id.

What each of them must be told is worked out from the books, not from the entries of the rules.
"""

from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from helpers.channels import CHANNEL_ID
from helpers.ledger import Payment
from helpers.machine import ChannelMachine, prices
from helpers.model import essence
from paywall.protocol.channel import NeedsChain, RefusedByChannel, Standing
from paywall.protocol.errors import Reason, Refused
from paywall.protocol.limits import ANSWER_SECONDS, HOLD_SECONDS
from paywall.protocol.once import AnsweredBefore, Ticket

NEW = "new"
AGAIN = "again"


class PaymentMachine(ChannelMachine):
    """One channel whose client names its payments."""

    @rule(price=prices)
    def a_payment_with_an_id(self, price: int) -> None:
        amount = self._next_amount(price)
        self._pay(Payment(self._new_ticket(), amount, price))

    @precondition(lambda self: self.books.payments)
    @rule(data=st.data())
    def the_payment_comes_again(self, data: st.DataObject) -> None:
        self._pay(data.draw(st.sampled_from(list(self.books.payments.values()))))

    @precondition(lambda self: self.books.payments)
    @rule(data=st.data(), price=prices)
    def another_payment_under_its_id(self, data: st.DataObject, price: int) -> None:
        """Granted only when the id was forgotten or its payment released."""
        old = data.draw(st.sampled_from(list(self.books.payments.values())))
        other = Ticket(old.ticket.payment_id, bytes([self.requests % 256]) * 32)
        assume(other != old.ticket)
        self._pay(Payment(other, self._next_amount(price), price))

    @precondition(lambda self: self.books.granted)
    @rule(data=st.data())
    def a_replayed_voucher_under_a_new_id(self, data: st.DataObject) -> None:
        amount = self._used_voucher(data)
        outcome = self._pay(Payment(self._new_ticket(), amount, 1))
        assert isinstance(outcome, RefusedByChannel | NeedsChain), "a voucher was granted twice"

    @precondition(lambda self: self.books.payments)
    @rule(data=st.data())
    def a_question_about_a_payment(self, data: st.DataObject) -> None:
        payment = data.draw(st.sampled_from(list(self.books.payments.values())))
        expected = self._verdict(payment)
        outcome = self._play(lambda store: store.look_up(CHANNEL_ID, payment.ticket))
        if expected in (NEW, AGAIN):
            assert outcome is None
        else:
            assert essence(outcome) == expected

    @precondition(lambda self: self.channel.holds)
    @rule(seconds=st.integers(HOLD_SECONDS, ANSWER_SECONDS))
    def the_workers_die(self, seconds: int) -> None:
        """All holds end, and the chain is watched all the time."""
        self.now += seconds
        self.read_the_chain()

    # -- How a payment is played -----------------------------------------------------------------

    def _new_ticket(self) -> Ticket:
        name = f"payment-{self.requests:08}"
        return Ticket(name, name.encode() * 2)

    def _pay(self, payment: Payment) -> object:
        expected = self._verdict(payment)
        before = self.channel
        outcome = self._request(payment.amount, payment.price, payment)
        if expected in (NEW, AGAIN):
            assert isinstance(outcome, Standing | RefusedByChannel | NeedsChain)
        else:
            assert essence(outcome) == expected
            assert self.channel == before
        return outcome

    def _verdict(self, payment: Payment) -> object:
        """What somebody must be told who comes with this payment now."""
        known = self.books.still_known(payment.ticket.payment_id, self.now)
        if known is None:
            return NEW
        if known.payment.ticket != payment.ticket:
            return Refused, Reason.PAYMENT_ID_REUSED
        if known.answer:
            return AnsweredBefore, known.answer, known.total
        if known.answer is not None:
            return Refused, Reason.ANSWER_NOT_KEPT
        hold = self.channel.holds.get(known.request)
        if hold and hold.deadline_ms > self.now * 1000:
            return Refused, Reason.PAYMENT_IN_PROGRESS
        return AGAIN
