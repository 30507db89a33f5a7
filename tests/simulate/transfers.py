"""The oracle's book of single transfers (`exact`): what was signed, sent, mined and answered.

- a good answer with a price leaves when its transfer is in a block that stays
- one request of an agent is paid once, over a channel or by a transfer
- as long as no store forgets, one authorization buys one run of a handler, however often its answer
  is given again; a transfer is sent to the chain once; and what was paid and not answered is
  answered when it is sent again
"""

from dataclasses import dataclass, field
from typing import Final

import httpx

from paywall.protocol.limits import MAX_CLOCK_SKEW_SECONDS, SLIP_MARGIN_SECONDS
from paywall.protocol.money import Address
from simulate.book import Asked
from simulate.contract import Contract
from simulate.oracle import Oracle

_REMEMBERED_SECONDS: Final = SLIP_MARGIN_SECONDS - 2 * MAX_CLOCK_SKEW_SECONDS
"""For how long after its end an authorization must be known, whosever clock is asked."""
SOME: Final = 20
NOT_KEPT: Final = 409
"""The answer left once, and was too large to be kept or is over: nothing runs again."""


@dataclass(frozen=True)
class Authorized:
    """What the network reads in a payment."""

    payer: Address
    nonce: bytes
    valid_before: int


@dataclass(eq=False)
class Transfer:
    """One authorization. `asked` is its first sending, `request` what was sent then."""

    told: Authorized
    asked: Asked
    request: httpx.Request
    sent: int = 0
    runs: set[str] = field(default_factory=set)

    def must_be_known(self, now: int) -> bool:
        """Whether its receiver may not have forgotten it yet. `now` is in Unix seconds."""
        return now < self.told.valid_before + _REMEMBERED_SECONDS


class Transfers:
    """Every authorization that was seen, by its nonce."""

    def __init__(self, oracle: Oracle, contract: Contract) -> None:
        self._oracle = oracle
        self._contract = contract
        self._known: dict[bytes, Transfer] = {}

    def signed(self, told: Authorized, asked: Asked, request: httpx.Request) -> None:
        """A payment is on its way; its copies and repetitions are the same one."""
        asked.transfer = told.nonce
        if told.nonce not in self._known:
            self._known[told.nonce] = Transfer(told, asked, request)
            self._oracle.note(told.nonce, "signed", told.valid_before)

    def sent(self, nonce: bytes) -> None:
        """A transaction with it goes into the pool."""
        transfer = self._known[nonce]
        transfer.sent += 1
        self._oracle.note(nonce, "sent to the chain")
        if transfer.sent > 1:
            self._forgot("transfers sent again", transfer, "a transfer is sent twice")

    def left(self, run: str, asked: Asked) -> None:
        """The head of a good answer leaves a worker, with a receipt."""
        assert asked.transfer
        transfer, due = self._known[asked.transfer], self._oracle.runs[run].due
        self._oracle.note(asked.transfer, "answer", run, due)
        self._oracle.counts["answers"] += 1
        if not due:
            return
        self._oracle.expect(self._is_paid(transfer), asked.transfer, f"{run} left, and is not paid")
        if not transfer.runs:
            self._oracle.counts["payments"] += 1
            self._oracle.counts["transfers"] += 1
        transfer.runs.add(run)
        if len(transfer.runs) > 1:
            what = "an authorization buys a second answer"
            self._forgot("transfers that bought again", transfer, what)

    def _is_paid(self, transfer: Transfer) -> bool:
        return bool(self._contract.get("used", transfer.told.payer, transfer.told.nonce))

    def to_ask_again(self) -> list[Transfer]:
        """What was paid: all that was not answered, and some that was."""
        paid = [transfer for transfer in self._known.values() if self._is_paid(transfer)]
        answered = [transfer for transfer in paid if transfer.runs]
        return [transfer for transfer in paid if not transfer.runs] + answered[-SOME:]

    def asked_again(self, transfer: Transfer, status: int) -> None:
        """What became of one when it was sent once more, with all at rest."""
        if status >= 400 and status != NOT_KEPT:
            what = f"a paid transfer buys no answer, but {status}"
            self._forgot("transfers that bought nothing", transfer, what)

    def _forgot(self, counted: str, transfer: Transfer, what: str) -> None:
        """What may happen where a store has lost its last writes, and is counted; else a fault."""
        self._oracle.counts[f"{counted}, a store forgot"] += 1
        forgot = transfer.request.url.host in self._oracle.forgetful
        self._oracle.expect(forgot, transfer.told.nonce, what)

    def count(self) -> None:
        """Nothing moves any more: each request of an agent was paid once."""
        for transfer in self._known.values():
            if self._is_paid(transfer):
                self._oracle.count_goal(transfer.told.nonce, transfer.asked)
            if not transfer.runs:
                self._oracle.counts["transfers without an answer"] += self._is_paid(transfer)
