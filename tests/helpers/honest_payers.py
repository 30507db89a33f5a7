"""Payers who keep to the rules, and a network that does what networks do.

Whatever order their vouchers come in, however their requests end, they are never refused: neither
when the window was shortened, nor when a request was released and the same payment comes again.
"""

from dataclasses import dataclass

from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from helpers.channels import NOW_MS, channel, voucher
from paywall.protocol.channel import charge, check, release, reserve
from paywall.protocol.limits import MAX_HOLDS, WINDOW_VOUCHERS

prices = st.integers(1, 50)


@dataclass(frozen=True)
class Sent:
    """A request as it left: a voucher for `amount`, which may cost `price`."""

    name: str
    amount: int
    price: int


class WindowPayer(RuleBasedStateMachine):
    """Signs max(signed + 1, charged + in flight + price), and has many requests in flight."""

    def __init__(self) -> None:
        super().__init__()
        self.provider = channel(10**9)
        self.signed = 0
        self.charged = 0
        self.sent = 0
        self.on_the_way: list[Sent] = []
        self.served: list[Sent] = []
        self.given_up_price = 0
        """Of requests that the payer hung up on: it never learns what they cost."""

    @rule(price=prices)
    def a_request_leaves(self, price: int) -> None:
        in_flight = self._in_flight()
        assume(len(in_flight) < MAX_HOLDS)
        assume(self._fits_into_the_window())
        held = sum(sent.price for sent in in_flight)
        owed = self.charged + self.given_up_price + held
        self.signed = max(self.signed + 1, owed + price)
        self.sent += 1
        self.on_the_way.append(Sent(f"r{self.sent}", self.signed, price))

    @precondition(lambda self: self.on_the_way)
    @rule(data=st.data())
    def it_arrives(self, data: st.DataObject) -> None:
        self._arrives(data.draw(st.sampled_from(self.on_the_way)))

    @precondition(lambda self: self.served)
    @rule(data=st.data(), part=st.sampled_from([100, 100, 100, 100, 50, 0]))
    def it_is_charged(self, data: st.DataObject, part: int) -> None:
        self._ends(data.draw(st.sampled_from(self.served)), part)

    @precondition(lambda self: self.served)
    @rule(data=st.data(), comes_again=st.booleans())
    def it_is_released(self, data: st.DataObject, comes_again: bool) -> None:
        sent = data.draw(st.sampled_from(self.served))
        self.served.remove(sent)
        self.provider = release(self.provider, sent.name)
        if comes_again:
            self.on_the_way.append(Sent(f"{sent.name}'", sent.amount, sent.price))

    @precondition(lambda self: self.served)
    @rule(data=st.data(), was_charged=st.booleans())
    def the_payer_hangs_up(self, data: st.DataObject, was_charged: bool) -> None:
        sent = data.draw(st.sampled_from(self.served))
        self.served.remove(sent)
        self.given_up_price += sent.price
        if was_charged:
            self.provider = charge(self.provider, sent.name, sent.price)
        else:
            self.provider = release(self.provider, sent.name)

    @rule(count=st.integers(1, WINDOW_VOUCHERS), price=prices)
    def many_requests_one_after_the_other(self, count: int, price: int) -> None:
        """Enough of them fill the window while a few stay behind."""
        for _ in range(count):
            if len(self._in_flight()) == MAX_HOLDS or not self._fits_into_the_window():
                return
            self.a_request_leaves(price)
            self._arrives(self.on_the_way[-1])
            self._ends(self.served[-1], 100)

    @rule()
    def everything_ends(self) -> None:
        for sent in list(self.on_the_way):
            self._arrives(sent)
        for sent in list(self.served):
            self._ends(sent, 100)

    @invariant()
    def the_money_adds_up(self) -> None:
        check(self.provider)
        assert self.charged <= self.provider.charged <= self.charged + self.given_up_price

    def _arrives(self, sent: Sent) -> None:
        self.on_the_way.remove(sent)
        signed = voucher(sent.amount)
        self.provider = reserve(self.provider, signed, sent.price, sent.name, NOW_MS)
        self.served.append(sent)

    def _ends(self, sent: Sent, part: int) -> None:
        self.served.remove(sent)
        cost = sent.price * part // 100
        self.provider = charge(self.provider, sent.name, cost)
        self.charged += cost

    def _in_flight(self) -> list[Sent]:
        return self.on_the_way + self.served

    def _fits_into_the_window(self) -> bool:
        """What was signed since the oldest request in flight is all that a window can remember."""
        oldest = min((int(sent.name[1:].rstrip("'")) for sent in self._in_flight()), default=None)
        return oldest is None or self.sent - oldest < WINDOW_VOUCHERS - 1


class SerialPayer(RuleBasedStateMachine):
    """The specification's client: one request at a time, under what was charged plus the price."""

    def __init__(self) -> None:
        super().__init__()
        self.provider = channel(10**9)
        self.charged = 0
        self.asked = 0

    @initialize(ceiling=st.integers(0, 5))
    def begin(self, ceiling: int) -> None:
        """Either prices differ, or what is charged of one price does: with both, two requests may
        come to one total, and a total is good once."""
        self.ceiling = ceiling

    @rule(price=prices, failures=st.integers(0, 3))
    def a_request(self, price: int, failures: int) -> None:
        """It may fail, and the same voucher comes again; or another request comes instead."""
        assume(not self.ceiling)
        for _ in range(failures):
            self._fail(self._ask(price))
        self._pay(self._ask(price), price)

    @rule(price=prices)
    def a_failed_request(self, price: int) -> None:
        self._fail(self._ask(self.ceiling or price))

    @rule(cost=st.integers(0, 5))
    def a_metered_request(self, cost: int) -> None:
        assume(self.ceiling)
        self._pay(self._ask(self.ceiling), min(cost, self.ceiling))

    @invariant()
    def both_sides_agree(self) -> None:
        assert check(self.provider).charged == self.charged
        assert not self.provider.holds

    def _ask(self, price: int) -> str:
        self.asked += 1
        signed = voucher(self.charged + price)
        self.provider = reserve(self.provider, signed, price, f"r{self.asked}", NOW_MS)
        return f"r{self.asked}"

    def _fail(self, name: str) -> None:
        self.provider = release(self.provider, name)

    def _pay(self, name: str, cost: int) -> None:
        self.provider = charge(self.provider, name, cost)
        self.charged += cost
