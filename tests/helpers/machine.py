"""A payer who cheats, an honest chain, a provider: the rules of a channel in any order of moves.

The machine plays every verb of a store against the pure rules (`self.channel`) and keeps two books
of its own: which voucher amounts are granted, and what was charged. A subclass may play the same
moves against a real store and compare (`also`); the answer of the pure rules is what is expected.

Time runs in whole seconds. The chain is honest and so is the provider's watcher: before a
withdrawal or a refund takes the money, everything that was charged is claimed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from helpers.channels import CHANNEL_ID, CONFIG, NETWORK, NOW, voucher
from helpers.honest_chain import HonestChain
from paywall.protocol import channel as rules
from paywall.protocol.channel import (
    ChainState,
    Channel,
    NeedsChain,
    RefusedByChannel,
    check,
    observe,
)
from paywall.protocol.errors import HoldLost, PaymentError, Reason
from paywall.protocol.limits import WINDOW_VOUCHERS

prices = st.integers(1, 500)
Verb = Callable[[], Channel]


@dataclass
class Books:
    """What the rules must never contradict, kept apart from them."""

    granted: set[int] = field(default_factory=set)
    """Voucher amounts that bought something, or may have, and were not released since."""
    signed: set[int] = field(default_factory=set)
    charged: int = 0
    floor: int = 0
    grants: dict[str, int] = field(default_factory=dict)
    """The voucher amount of every request that was ever admitted."""


class ChannelMachine(RuleBasedStateMachine):
    """One channel, from its first deposit on."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.chain = HonestChain()
        self.books = Books()
        self.channel: Channel
        self.requests = 0
        self.finished: list[str] = []
        self.withdrew = False
        self.first_reading: ChainState

    def also(self, verb: str, arguments: tuple[object, ...], expected: Channel | Exception) -> None:
        """For a subclass: the same move, where the pure rules came to `expected`."""

    # -- The chain -------------------------------------------------------------------------------

    @initialize(amount=st.integers(100, 5000))
    def begin(self, amount: int) -> None:
        self.chain = self.chain.deposit(amount)
        self.first_reading = self.chain.read(self.now)
        self.channel = rules.open_channel(CHANNEL_ID, NETWORK, CONFIG, self.first_reading, 0)
        self.also("record", (NETWORK, CONFIG, self.first_reading, 0), self.channel)

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
            self.books.charged += 1

    @rule(parts=st.lists(st.integers(1, 100), min_size=5, max_size=5))
    def large_requests_on_an_old_promise(self, parts: list[int]) -> None:
        """Together above the balance, each under a voucher below it."""
        for part in parts:
            self._request(1 + self.channel.balance * part // 100, 1 + self.channel.balance // 4)

    @precondition(lambda self: self.books.granted)
    @rule(data=st.data(), price=st.integers(1, 5), oldest=st.booleans())
    def a_replayed_voucher(self, data: st.DataObject, price: int, oldest: bool) -> None:
        amounts = sorted(self.books.granted)
        amount = data.draw(st.sampled_from(amounts[:3] if oldest else amounts))
        outcome = self._request(amount, price)
        assert isinstance(outcome, RefusedByChannel | NeedsChain), "a voucher was granted twice"

    @precondition(lambda self: self.channel.holds)
    @rule(data=st.data())
    def a_repeated_reserve(self, data: st.DataObject) -> None:
        """The same request asked again, as after a lost answer: the same decision."""
        name = data.draw(st.sampled_from(sorted(self.channel.holds)))
        hold = self.channel.holds[name]
        before = self.channel
        outcome = self._reserve(hold.amount, hold.price, name)
        assert outcome == before == self.channel

    @precondition(lambda self: self.channel.holds)
    @rule(data=st.data(), part=st.integers(0, 100))
    def an_answer(self, data: st.DataObject, part: int) -> None:
        """Charged, perhaps less than the price, perhaps long after its hold should have ended."""
        name = data.draw(st.sampled_from(sorted(self.channel.holds)))
        hold = self.channel.holds[name]
        amount = hold.price * part // 100
        assert not isinstance(self._charge(name, amount), Exception)
        self.books.charged += amount
        self.finished.append(name)
        if amount == 0:
            self.books.granted.discard(hold.amount)

    @precondition(lambda self: self.channel.holds)
    @rule(data=st.data())
    def a_failure(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.channel.holds)))
        amount = self.channel.holds[name].amount
        outcome = self._play("release", lambda: rules.release(self.channel, name), name)
        assert isinstance(outcome, Channel)
        assert amount not in outcome.seen, "a released voucher is good again"
        self.books.granted.discard(amount)
        self.finished.append(name)

    @precondition(lambda self: self.finished)
    @rule(data=st.data(), amount=prices)
    def a_second_charge(self, data: st.DataObject, amount: int) -> None:
        name = data.draw(st.sampled_from(self.finished))
        assert isinstance(self._charge(name, amount), HoldLost)

    @precondition(lambda self: self.books.grants)
    @rule(data=st.data())
    def a_late_worker(self, data: st.DataObject) -> None:
        """It charges exactly when its hold is still there."""
        name = data.draw(st.sampled_from(sorted(self.books.grants)))
        hold = self.channel.holds.get(name)
        outcome = self._charge(name, hold.price if hold else 1)
        assert isinstance(outcome, HoldLost) == (hold is None)
        if hold:
            self.books.charged += hold.price
            self.finished.append(name)

    @precondition(lambda self: self.books.grants)
    @rule(data=st.data())
    def a_renewal(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.books.grants)))
        assume(name in self.channel.holds)
        self._play("renew", lambda: rules.renew(self.channel, name, self.now * 1000), name)

    # -- Refunds ---------------------------------------------------------------------------------

    @rule(amount=st.none() | st.integers(0, 6000), wrong=st.sampled_from([0, 0, 0, 1]))
    def ask_for_a_refund(self, amount: int | None, wrong: int) -> None:
        signed = voucher(self.channel.charged + wrong)
        outcome = self._play(
            "begin_refund",
            lambda: rules.begin_refund(self.channel, signed, amount, self.now * 1000),
            signed,
            amount,
        )
        if isinstance(outcome, Channel):
            assert not wrong
            self.books.signed.add(signed.amount)

    @precondition(lambda self: self.channel.refunding)
    @rule()
    def ask_for_a_second_refund(self) -> None:
        assume(self.channel.refunding.deadline_ms > self.now * 1000)
        signed = voucher(self.channel.charged)
        outcome = self._play(
            "begin_refund",
            lambda: rules.begin_refund(self.channel, signed, None, self.now * 1000),
            signed,
            None,
        )
        assert isinstance(outcome, RefusedByChannel)
        assert outcome.reason is Reason.CHANNEL_BUSY

    # A refund that is mined after we gave it up takes what was granted since; the deadline is far
    # longer than its transactions may take, so the honest chain mines it before or never.
    @precondition(
        lambda self: self.channel.refunding and self.channel.refunding.deadline_ms > self.now * 1000
    )
    @rule()
    def the_refund_is_mined(self) -> None:
        amount = self.channel.refunding.amount
        self.chain = self.chain.claim(self.channel).refund(amount)
        self._end_refund(self.chain.read(self.now))

    @precondition(lambda self: self.channel.refunding)
    @rule()
    def the_refund_is_given_up(self) -> None:
        self._end_refund(None)

    # -- How a move is played --------------------------------------------------------------------

    def _next_amount(self, price: int) -> int:
        """What a client signs that knows its own highest signature."""
        return max(self.channel.signed, self.channel.committed, self.channel.floor) + price

    def _request(self, amount: int, price: int) -> Channel | Exception:
        self.requests += 1
        return self._reserve(amount, price, f"request-{self.requests:03}")

    def _reserve(self, amount: int, price: int, name: str) -> Channel | Exception:
        self.books.signed.add(amount)
        repeated = name in self.channel.holds
        signed = voucher(amount)
        outcome = self._play(
            "reserve",
            lambda: check(rules.reserve(self.channel, signed, price, name, self.now * 1000)),
            signed,
            price,
            name,
        )
        if isinstance(outcome, Channel) and not repeated:
            assert amount not in self.books.granted, "a voucher was granted twice"
            assert amount <= self.chain.balance, "granted above the real balance"
            refunding = outcome.refunding.amount if outcome.refunding else 0
            assert amount <= outcome.balance - refunding, "granted out of a refund"
            self._was_not_in_the_margin()
            self.books.granted.add(amount)
            self.books.grants[name] = amount
        return outcome

    def _was_not_in_the_margin(self) -> None:
        """Even a provider that has not noticed a withdrawal grants nothing in its last third."""
        if self.chain.withdraw_requested_at:
            waited = self.now - self.chain.withdraw_requested_at
            assert waited < CONFIG.withdraw_delay_seconds * 2 // 3

    def _charge(self, name: str, amount: int) -> Channel | Exception:
        return self._play("charge", lambda: rules.charge(self.channel, name, amount), name, amount)

    def _record(self, reading: ChainState) -> None:
        self._play("record", lambda: observe(self.channel, reading), NETWORK, CONFIG, reading, 77)

    def _end_refund(self, reading: ChainState | None) -> None:
        self._play("end_refund", lambda: rules.end_refund(self.channel, reading), reading)

    def _play(self, name: str, verb: Verb, *arguments: object) -> Channel | Exception:
        outcome: Channel | Exception
        try:
            outcome = self.channel = verb()
        except PaymentError as error:
            outcome = error
        self.also(name, arguments, outcome)
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
