"""A payer who cheats, an honest chain, a provider: the rules of a channel in any order of moves.

The machine plays every verb of a store against the pure rules (`self.model`) and keeps books of its
own: which voucher amounts are granted, and what was charged. A subclass may play the same moves
against a real store and compare (`also`); the answer of the pure rules is what is expected.

Time runs in whole seconds. The chain is honest and so is the provider's watcher: before a
withdrawal or a refund takes the money, everything that was charged is claimed.
"""

from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from helpers.channels import CHANNEL_ID, CONFIG, NETWORK, NOW, voucher
from helpers.honest_chain import HonestChain
from helpers.ledger import Books, Payment
from helpers.model import Model, Move
from paywall.protocol.channel import (
    AGAIN,
    ChainState,
    Channel,
    Hold,
    NeedsChain,
    RefusedByChannel,
    Standing,
    check,
)
from paywall.protocol.errors import HoldLost, Reason
from paywall.protocol.limits import REMEMBERED_CHARGES, WINDOW_VOUCHERS

prices = st.integers(1, 500)


class ChannelMachine(RuleBasedStateMachine):
    """One channel, from its first deposit on."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.chain = HonestChain()
        self.books = Books()
        self.model = Model(lambda: self.now)
        self.requests = 0
        self.refunds = 0
        self.refunds_signed: list[int] = []
        """Of the refund that is set aside: any of them may be mined, and one."""
        self.withdrew = False
        self.first_reading: ChainState

    @property
    def channel(self) -> Channel:
        assert self.model.stored is not None
        return self.model.stored

    def also(self, move: Move, expected: object) -> None:
        """For a subclass: the same move, where the pure rules came to `expected`."""

    # -- The chain -------------------------------------------------------------------------------

    @initialize(amount=st.integers(100, 5000))
    def begin(self, amount: int) -> None:
        self.chain = self.chain.deposit(amount)
        self.first_reading = self.chain.read(self.now)
        self._record(self.first_reading, 0)

    @rule(amount=st.integers(1, 5000))
    def top_up(self, amount: int) -> None:
        self.chain = self.chain.deposit(amount)

    @rule()
    def read_the_chain(self) -> None:
        self._record(self.chain.read(self.now))

    @rule()
    def an_old_reading_arrives_late(self) -> None:
        self._record(self.first_reading)

    @rule()
    def claim(self) -> None:
        self.chain = self.chain.claim(self.channel)
        self._record(self.chain.read(self.now))

    @precondition(lambda self: not self.chain.withdraw_requested_at)
    @rule(amount=st.integers(1, 5000))
    def start_withdrawal(self, amount: int) -> None:
        """The provider may not notice for a third of the delay; then it must ask the chain."""
        self.chain = self.chain.start_withdrawal(amount, self.now)

    # A request that runs beyond the whole delay, or a refund under way, would be our own mistake;
    # the honest watcher has claimed by then, so nothing is owed that the withdrawal could take.
    @precondition(
        lambda self: (
            self.chain.withdraw_requested_at
            and not self.channel.holds
            and not self.channel.refunding
        )
    )
    @rule(watched=st.booleans())
    def finish_withdrawal(self, watched: bool) -> None:
        matures = self.chain.withdraw_requested_at + CONFIG.withdraw_delay_seconds
        self.now = max(self.now, matures)
        self.chain = self.chain.claim(self.channel).finish_withdrawal()
        self.withdrew = True
        if watched:
            self.read_the_chain()

    @rule(
        seconds=st.sampled_from([1, 19, 59, 60, 61, 200, 299, 300, 301, 3600]),
        watched=st.sampled_from([True, True, True, False]),
    )
    def time_passes(self, seconds: int, watched: bool) -> None:
        self.now += seconds
        if watched:
            self.read_the_chain()

    # -- Requests, honest and not ----------------------------------------------------------------

    @rule(price=prices)
    def a_serial_request(self, price: int) -> None:
        """The specification's client: what was charged, plus the price."""
        self._request(self.channel.committed + price, price)

    @rule(price=prices, ahead=st.sampled_from([0, 1, 100, 2000]))
    def a_request_signed_ahead(self, price: int, ahead: int) -> None:
        self._request(self._next_amount(price) + ahead, price)

    @rule(price=prices, data=st.data())
    def a_request_under_any_voucher(self, price: int, data: st.DataObject) -> None:
        """Stale ones, overtaken ones, ones above the balance."""
        self._request(data.draw(st.integers(1, self.chain.balance + 100)), price)

    @rule(count=st.sampled_from([2, 10, WINDOW_VOUCHERS + 2]))
    def many_small_requests(self, count: int) -> None:
        """Enough of them push the window along."""
        for _ in range(count):
            if isinstance(self._request(self._next_amount(2), 1), Exception):
                return
            self._charge(f"request-{self.requests:03}", 1)

    @rule(parts=st.lists(st.integers(1, 100), min_size=5, max_size=5))
    def large_requests_on_an_old_promise(self, parts: list[int]) -> None:
        """Together above the balance, each under a voucher below it."""
        for part in parts:
            self._request(1 + self.channel.balance * part // 100, 1 + self.channel.balance // 4)

    @precondition(lambda self: self.books.granted)
    @rule(data=st.data(), price=st.integers(1, 5), oldest=st.booleans())
    def a_replayed_voucher(self, data: st.DataObject, price: int, oldest: bool) -> None:
        amount = self._used_voucher(data, 3 if oldest else None)
        outcome = self._request(amount, price)
        assert isinstance(outcome, RefusedByChannel | NeedsChain), "a voucher was granted twice"

    @precondition(lambda self: self.channel.holds)
    @rule(data=st.data())
    def a_repeated_reserve(self, data: st.DataObject) -> None:
        """The same request asked again, as after a lost answer: the same decision."""
        name, hold = self._any_hold(data)
        payment = self.books.payments.get(name)
        # Its id may have been forgotten and given to another payment since.
        if payment:
            known = self.books.still_known(payment.ticket.payment_id, self.now)
            assume(known and known.request == name)
        before = self.channel
        outcome = self._reserve(hold.amount, hold.price, name, payment)
        assert outcome == before.standing
        assert self.channel == before

    @precondition(lambda self: self.channel.holds)
    @rule(data=st.data(), part=st.integers(0, 100), answer=st.sampled_from([b"", b"an answer"]))
    def an_answer(self, data: st.DataObject, part: int, answer: bytes) -> None:
        """Charged, perhaps less than the price, perhaps long after its hold should have ended."""
        name, hold = self._any_hold(data)
        outcome = self._charge(name, hold.price * part // 100, answer)
        assert outcome == self.channel.standing

    @precondition(lambda self: self.channel.holds)
    @rule(data=st.data())
    def a_failure(self, data: st.DataObject) -> None:
        name, hold = self._any_hold(data)
        assert self._release(name) is None
        assert name not in self.channel.holds
        assert hold.amount not in self.channel.seen, "a released voucher is good again"

    @precondition(lambda self: self.books.ended)
    @rule(data=st.data(), amount=prices)
    def a_second_end(self, data: st.DataObject, amount: int) -> None:
        """Charged or released once more: nothing changes, whatever is answered."""
        name = data.draw(st.sampled_from(self.books.ended))
        before = self.channel
        outcome = self._charge(name, amount, b"another answer")
        if self._charge_is_remembered(name):
            assert outcome == before.standing
        else:
            assert isinstance(outcome, HoldLost)
        assert self._release(name) is None
        assert self.channel == before

    @precondition(lambda self: self.books.grants)
    @rule(data=st.data())
    def a_late_worker(self, data: st.DataObject) -> None:
        """It charges exactly when its hold is still there, or it did before."""
        name = data.draw(st.sampled_from(sorted(self.books.grants)))
        hold = self.channel.holds.get(name)
        remembered = self._charge_is_remembered(name)
        outcome = self._charge(name, hold.price if hold else 1)
        assert isinstance(outcome, Standing) == (hold is not None or remembered)

    @precondition(lambda self: self.books.grants)
    @rule(data=st.data())
    def a_renewal(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.books.grants)))
        assume(name in self.channel.holds)
        self._play(lambda store: store.renew([(CHANNEL_ID, name), (CHANNEL_ID, "gone")]))
        assert self.channel.holds[name].deadline_ms > self.now * 1000

    # -- Refunds ---------------------------------------------------------------------------------

    @rule(amount=st.none() | st.integers(0, 6000), wrong=st.sampled_from([0, 0, 0, 1]))
    def ask_for_a_refund(self, amount: int | None, wrong: int) -> None:
        self.refunds += 1
        outcome = self._begin_refund(self.channel.charged + wrong, amount, f"refund-{self.refunds}")
        if isinstance(outcome, Channel):
            assert not wrong
            assert outcome.refunding
            kept = self.refunds_signed if outcome.refunding.is_again else []
            self.refunds_signed = [*kept, outcome.refunding.amount]
            self.books.signed.add(self.channel.charged)

    @precondition(lambda self: self._is_refunding())
    @rule()
    def ask_for_a_second_refund(self) -> None:
        outcome = self._begin_refund(self.channel.charged, None, "second-refund")
        assert isinstance(outcome, RefusedByChannel)
        assert outcome.reason is Reason.CHANNEL_BUSY

    @precondition(lambda self: self._is_refunding())
    @rule(amount=st.none() | st.integers(0, 6000))
    def ask_again_for_the_same_refund(self, amount: int | None) -> None:
        before = self.channel
        request = before.refunding.request.removeprefix(AGAIN)
        outcome = self._begin_refund(before.charged, amount, request)
        assert outcome == before == self.channel

    @precondition(lambda self: self._may_be_mined())
    @rule(data=st.data(), seen=st.booleans())
    def the_refund_is_mined(self, data: st.DataObject, seen: bool) -> None:
        """At any time, however long ago it was sent; perhaps nobody sees it at first."""
        amount = data.draw(st.sampled_from(self.refunds_signed))
        self.chain = self.chain.claim(self.channel).refund(amount)
        if seen:
            self._end_refund(self.chain.read(self.now))
            assert self.channel.refunding is None

    @precondition(lambda self: self._may_be_mined())
    @rule()
    def the_refund_is_looked_after_and_not_mined(self) -> None:
        self._end_refund(self.chain.read(self.now))
        assert self.channel.refunding, "it may still be mined"

    @precondition(lambda self: self._may_be_mined())
    @rule()
    def the_refund_was_not_sent(self) -> None:
        again = self.channel.refunding.is_again
        self._end_refund(None)
        assert bool(self.channel.refunding) == again, "the one before it may have been"

    @precondition(lambda self: self._is_refunding())
    @rule(seen=st.booleans())
    def the_end_of_another_refund_is_told(self, seen: bool) -> None:
        before = self.channel.refunding
        reading = self.chain.read(self.now) if seen else None
        self._play(lambda store: store.end_refund(CHANNEL_ID, "another", reading))
        after = self.channel.refunding
        assert after
        assert (after.request, after.deadline_ms) == (before.request, before.deadline_ms)

    # -- How a move is played --------------------------------------------------------------------

    def _next_amount(self, price: int) -> int:
        """What a client signs that knows its own highest signature."""
        return max(self.channel.signed, self.channel.committed, self.channel.floor) + price

    def _used_voucher(self, data: st.DataObject, oldest: int | None = None) -> int:
        """One that bought something, or may buy something that is running."""
        holds = self.channel.holds.values()
        dead = {hold.amount for hold in holds if hold.deadline_ms <= self.now * 1000}
        used = sorted(self.books.granted - dead)
        assume(used)
        return data.draw(st.sampled_from(used[:oldest]))

    def _any_hold(self, data: st.DataObject) -> tuple[str, Hold]:
        name = data.draw(st.sampled_from(sorted(self.channel.holds)))
        return name, self.channel.holds[name]

    def _is_refunding(self) -> bool:
        refunding = self.channel.refunding
        return refunding is not None and refunding.deadline_ms > self.now * 1000

    def _may_be_mined(self) -> bool:
        return (
            self.channel.refunding is not None
            and self.channel.refunding.amount > 0
            and self.chain.refund_nonce == self.channel.chain.refund_nonce
        )

    def _charge_is_remembered(self, name: str) -> bool:
        """By its name, when it came without an id or cost nothing; else under its id."""
        if name in self.books.remembered[-REMEMBERED_CHARGES:]:
            return True
        payment = self.books.payments.get(name)
        known = payment and self.books.still_known(payment.ticket.payment_id, self.now)
        return bool(known) and known.request == name and known.answer is not None

    def _request(self, amount: int, price: int, payment: Payment | None = None) -> object:
        self.requests += 1
        return self._reserve(amount, price, f"request-{self.requests:03}", payment)

    def _reserve(self, amount: int, price: int, name: str, payment: Payment | None) -> object:
        self.books.signed.add(amount)
        signed, ticket = voucher(amount), payment.ticket if payment else None
        repeated, before = name in self.channel.holds, self.channel
        outcome = self._play(lambda store: store.reserve(CHANNEL_ID, signed, price, name, ticket))
        if isinstance(outcome, Standing):
            assert outcome == self.channel.standing
            if not repeated:
                self._bury_the_dead(before)
                self._was_rightly_granted(amount)
            self.books.admitted(name, amount, payment, self.now)
        return outcome

    def _bury_the_dead(self, before: Channel) -> None:
        for name, hold in before.holds.items():
            if hold.deadline_ms <= self.now * 1000:
                self.books.worker_died(name)

    def _was_rightly_granted(self, amount: int) -> None:
        assert amount not in self.books.granted, "a voucher was granted twice"
        assert amount not in self.books.sold, "a voucher was sold twice"
        assert amount <= self.chain.balance, "granted above the real balance"
        refunding = self.channel.refunding.amount if self.channel.refunding else 0
        assert amount <= self.channel.balance - refunding, "granted out of a refund"
        if self.chain.withdraw_requested_at:
            # A provider that has not noticed a withdrawal grants nothing in its last two thirds.
            waited = self.now - self.chain.withdraw_requested_at
            assert waited < CONFIG.withdraw_delay_seconds // 3

    def _charge(self, name: str, amount: int, answer: bytes = b"") -> object:
        payment, held = self.books.payments.get(name), name in self.channel.holds
        ticket = payment.ticket if payment else None
        outcome = self._play(lambda store: store.charge(CHANNEL_ID, name, amount, ticket, answer))
        if isinstance(outcome, Standing) and held:
            self.books.paid(name, amount, answer, self.now)
        return outcome

    def _release(self, name: str) -> object:
        payment, held = self.books.payments.get(name), name in self.channel.holds
        ticket = payment.ticket if payment else None
        outcome = self._play(lambda store: store.release(CHANNEL_ID, name, ticket))
        if held:
            self.books.released(name)
        return outcome

    def _record(self, reading: ChainState, evidence: int = 77) -> None:
        self._play(
            lambda store: store.record(CHANNEL_ID, NETWORK, CONFIG, reading, evidence, voucher(80))
        )

    def _begin_refund(self, signed: int, amount: int | None, request: str) -> object:
        return self._play(
            lambda store: store.begin_refund(CHANNEL_ID, voucher(signed), amount, request)
        )

    def _end_refund(self, reading: ChainState | None) -> None:
        refunding = self.channel.refunding
        request = refunding.request if refunding else "nothing"
        self._play(lambda store: store.end_refund(CHANNEL_ID, request, reading))

    def _play(self, move: Move) -> object:
        outcome = self.model.play(move)
        self.also(move, outcome)
        return outcome

    # -- What always holds -----------------------------------------------------------------------

    @invariant()
    def the_money_adds_up(self) -> None:
        channel = check(self.channel)
        assert channel.claimed <= channel.charged <= channel.committed <= channel.signed
        assert channel.charged == self.books.charged
        assert channel.committed <= channel.balance, "more is owed than the deposit holds"
        assert channel.committed <= self.chain.balance, "more is owed than the chain holds"
        # A withdrawal may leave a voucher above the balance (the payer promised more than it left
        # there). Nothing is granted on that promise; until one happens, it cannot be.
        assert self.withdrew or channel.signed <= channel.balance

    @invariant()
    def only_the_payer_promises(self) -> None:
        signed = self.channel.voucher
        assert signed is None or signed.amount in self.books.signed
        assert signed is None or signed == voucher(signed.amount)

    @invariant()
    def the_floor_never_sinks(self) -> None:
        assert self.channel.floor >= self.books.floor
        self.books.floor = self.channel.floor
