"""A provider that lies in every field that it may fill, drawn from seeds: what it can gain.

It can show only signatures that it was sent. Of each request it gains the price once, and a unit
for each payment that takes the place of another: whatever totals, balances, receipts and reasons it
makes up, to however many requests at once. Cases 45, 46 and 51.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

import httpx
import pytest
from helpers.agent import (
    DEPOSIT,
    EXCEEDS,
    MISMATCH,
    NOT_FOUND,
    PRICE,
    Sent,
    corrected,
    encode,
    header_of,
    make_wallet,
    offer,
    payment_of,
    proof,
    receipt_json,
    required,
)

from paywall.flow import pay
from paywall.protocol.errors import AgentError, Reason
from paywall.sending import Flow, Step
from paywall.wallet import Wallet

URL = "https://api.example/weather/paris"
REASONS = (MISMATCH, MISMATCH, MISMATCH, Reason.BELOW_CLAIMED.code, EXCEEDS, NOT_FOUND, "other")
TOTAL = 200_000


@dataclass
class Liar:
    """What it was sent, and the answers that it makes up."""

    random: Random
    window: int | None
    payments: set[str] = field(default_factory=set)
    totals: list[int] = field(default_factory=list)

    def hear(self, request: httpx.Request) -> None:
        header = header_of(request)
        if header and header not in self.payments:
            self.payments.add(header)
            self.totals.append(payment_of(request).amount)

    def answer(self, request: httpx.Request) -> httpx.Response:
        if header_of(request) is None:
            return required(offer(window=self.window))
        sent, kind = payment_of(request), self.random.random()
        if kind < 0.4:
            return self._correction(sent)
        if kind < 0.5:
            return httpx.Response(self.random.choice((400, 500, 402)))
        charged = self.random.choice((PRICE, PRICE, PRICE, PRICE // 2, 0))
        told = encode(receipt_json(charged, self._some_total(), sent.channel, self._some_total()))
        return httpx.Response(200, headers={"payment-response": told})

    def _some_total(self) -> int:
        known = self.random.choice(self.totals)
        most = max(self.totals)
        return max(0, self.random.choice((known, most, most - PRICE, most + PRICE, known + 1, 0)))

    def _correction(self, sent: Sent) -> httpx.Response:
        shown = self.random.choice((None, sent.amount, max(self.totals), max(self.totals)))
        proven = None if shown is None else proof(sent.channel, shown)
        balance = self.random.choice((DEPOSIT, DEPOSIT, self._some_total()))
        told = corrected(sent.channel, self._some_total(), proven, balance, self.window)
        return required(told, error=self.random.choice(REASONS))


@dataclass
class Request:
    """One request of the agent, and what it waits for."""

    flow: Flow
    step: Step


def go_on(request: Request, answer: httpx.Response | None) -> bool:
    """Whether it waits for more."""
    try:
        request.step = request.flow.send(answer)
    except (StopIteration, AgentError):
        return False
    return True


@pytest.fixture
def wallet() -> Iterator[Wallet]:
    one = make_wallet(total="$0.2", deposit="$0.05")
    yield one
    one.close()


@pytest.mark.parametrize("window", [None, 64])
@pytest.mark.parametrize("seed", range(20))
def test_case_46_a_liar_gains_the_price_of_each_request_once(wallet, seed, window):
    random = Random(f"{seed}/{window}")
    liar, waiting, requests = Liar(random, window), list[Request](), 0
    for _ in range(200):
        if len(waiting) < random.choice((1, 4, 8)):
            flow = pay(wallet, httpx.Request("GET", URL))
            waiting.append(Request(flow, next(flow)))
            requests += 1
            continue
        request = random.choice(waiting)
        answer = None
        if isinstance(request.step, httpx.Request):
            liar.hear(request.step)
            answer = liar.answer(request.step)
        if not go_on(request, answer):
            waiting.remove(request)
        assert wallet.spent() <= min(requests * PRICE, TOTAL)
        assert max(liar.totals, default=0) <= requests * PRICE + len(liar.payments)
    for request in waiting:
        request.flow.close()
    assert len(liar.payments) > 3, "too little was paid for this test to mean anything"
