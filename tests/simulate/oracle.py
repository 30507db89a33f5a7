"""The ledger of somebody who saw everything and believes nobody.

It knows what each verb of the store was asked for, what each answer carried, who sent which
payment, and what a fault took back; it knows no rule of a channel. From that it keeps, for each
channel, what must have been charged, and says at once when the record says otherwise:

    a charge adds its amount, once, and only where a request was let in and not let go
    nothing else adds anything; a total is used by one request only
    an answer leaves when its charge is in the store
    one request of an agent is charged once, whatever was resent, refused, corrected or repeated;
      only a refused payment of which the network made a copy, or which a store had let in before
      its clock jumped ahead, may come on top, when a store forgot
    only a hold whose time is over vanishes; nobody is refused for a total, but see `Totals`

What a fail-over takes back is no violation: it is a *loss*, and is counted, less what the payer's
own signature or the chain brought back. Everything that a stated bound allows is counted and told.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from zlib import crc32

from paywall.protocol.channel import Channel
from simulate.book import HOLD_MS, Asked, Book, Charge, Held, Op, Run, put, too_late
from simulate.chain import EPOCH
from simulate.totals import Totals


class Oracle:
    """Every channel's book, and what went wrong. `now` is the world's time."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.books: dict[bytes, Book] = {}
        self.goals: dict[int, list[Asked]] = {}
        self.refused: dict[int, float] = {}
        self.jumps: list[float] = []
        self.forgetful: set[str] = set()
        self.totals = Totals(now)
        self.counts: Counter[str] = Counter()
        self.violations: list[str] = []
        self.digest = 0
        self.runs: dict[str, Run] = {}
        self._run_of: dict[str, Run] = {}
        self.streams: list[str] = []
        self.at_fault: bytes | None = None
        self._closed = False

    def book(self, channel_id: bytes) -> Book:
        found = self.books.get(channel_id)
        if found is None:
            found = self.books[channel_id] = Book()
        return found

    def note(self, channel_id: bytes, *event: object) -> None:
        """An event, into the channel's trace and the history's digest."""
        told = (round(self._now(), 4), *event)
        self.digest = crc32(repr(told).encode(), self.digest)
        self.book(channel_id).trace.append(told)

    def violated(self, channel_id: bytes, what: str) -> None:
        """The first one ends the world; its channel's trace is shown."""
        if self._closed:
            return
        self.note(channel_id, "VIOLATION", what)
        self.violations.append(f"{what} (channel {channel_id.hex()[:8] or 'none'})")
        if self.at_fault is None:
            self.at_fault = channel_id

    def next_goal(self) -> int:
        """A name for something that an agent wants once."""
        self.counts["requests"] += 1
        return self.counts["requests"]

    def close(self) -> None:
        """The world is over; what its ruins do means nothing."""
        self._closed = True

    def expect(self, holds: bool, channel_id: bytes, what: str) -> None:
        if not holds:
            self.violated(channel_id, what)

    # -- What the store did ----------------------------------------------------------------------

    def applied(
        self, op: Op, channel_id: bytes, before: Channel | None, after: Channel, now_ms: int
    ) -> Callable[[], None]:
        """A verb was carried out. Returns what to do when it turns out to be lost."""
        book = self.book(channel_id)
        book.changes = []
        self.note(channel_id, op.verb, op.request[:6], op.amount, after.charged, len(after.holds))
        if before is None:
            self._opened(channel_id, book, after)
        if op.verb == "reserve":
            self._reserved(channel_id, book, op, after, now_ms)
        elif op.verb == "charge":
            self._charged(channel_id, book, op)
        elif op.verb == "release":
            self._let_go(book, op.request)
        elif op.verb == "renew":
            self._renewed(book, after)
        self._expire(channel_id, book, after, now_ms)
        self._compare(channel_id, book, after)
        changes = book.changes
        return lambda: self._undo(channel_id, book, op, changes)

    def _opened(self, channel_id: bytes, book: Book, after: Channel) -> None:
        """A record that was not there: from nothing, or from the payer's own signature."""
        most = max(book.signed, after.claimed)
        self.expect(after.charged <= most, channel_id, "restored above what was signed")
        if book.known:
            self.counts["records restored"] += 1
            self.totals.restored(channel_id)
            book.late = max(book.late, too_late(after, EPOCH + self._now()))
        more = max(0, after.charged - book.earned)
        self.counts[f"units more in a record {'restored' if book.known else 'begun'}"] += more
        book.known = True
        book.put(book.sums, "charged", after.charged)

    def _reserved(self, channel_id: bytes, book: Book, op: Op, after: Channel, now_ms: int) -> None:
        if op.request in book.held:
            return
        self._expire(channel_id, book, after, now_ms)
        twice = op.amount in book.used
        self.expect(not twice, channel_id, f"the total {op.amount} buys a second answer")
        book.put(book.used, op.amount, op.request)
        asked = op.asked or Asked(0)
        held = Held(op.price, op.amount, now_ms + HOLD_MS, asked)
        book.put(book.held, op.request, held)
        if op.asked:
            op.asked.request, op.asked.channel = op.request, channel_id
            op.asked.since = self._now()

    def _expire(self, channel_id: bytes, book: Book, after: Channel, now_ms: int) -> None:
        """Holds that the store has dropped: their time must be over."""
        if book.held.keys() <= after.holds.keys():
            return
        for name in [name for name in book.held if name not in after.holds]:
            over = book.held[name].deadline_ms <= now_ms
            self.expect(over, channel_id, "a hold vanished before its time")
            self.counts["holds expired"] += 1
            self._let_go(book, name)

    def _renewed(self, book: Book, after: Channel) -> None:
        for name in after.holds.keys() & book.held.keys():
            kept, later = book.held[name], after.holds[name].deadline_ms
            book.put(book.held, name, replace(kept, deadline_ms=later))

    def _let_go(self, book: Book, request: str) -> None:
        held = book.held.get(request)
        if held:
            book.put(book.held, request, None)
            book.put(book.used, held.total, None)

    def _charged(self, channel_id: bytes, book: Book, op: Op) -> None:
        if op.request in book.charges:
            return
        held = book.held.get(op.request)
        if held is None:
            if op.amount:
                self.violated(channel_id, "a charge without a hold")
            return
        run = self._run_of.get(op.request)
        due = run.due if run else 0
        what = f"{op.amount} is charged for what costs {due}, at most {held.price}"
        self.expect(op.amount == due <= held.price, channel_id, what)
        if op.amount == 0:
            return self._let_go(book, op.request)
        book.put(book.held, op.request, None)
        book.put(book.charges, op.request, Charge(op.amount, held.asked))
        book.put(book.sums, "charged", book.charged + op.amount)
        book.earned += op.amount
        book.ever[op.request] = op.amount
        self.counts["payments"] += 1
        self.count_goal(channel_id, held.asked)

    def count_goal(self, channel_id: bytes, asked: Asked) -> None:
        """One payment of a request is charged, and once. Only one that was refused, by a store that
        forgot, may come on top, before the payment that took its place or after it.
        """
        if not asked.goal:
            return
        paid = self.goals.setdefault(asked.goal, [])
        paid.append(asked)
        if len(paid) == 1:
            return
        excused = {one.payment for one in paid if self._was_forgotten(one)}
        others = [one for one in paid if one.payment not in excused or not self.forgetful]
        if len(others) > 1 or len({one.payment for one in paid}) < len(paid):
            self.violated(channel_id, f"request {asked.goal} of an agent was charged twice")
        else:
            self.counts["payments charged on top after a store forgot"] += 1

    def _was_forgotten(self, asked: Asked) -> bool:
        refused_at = self.refused.get(asked.payment)
        if refused_at is None:
            return False
        return asked.copy or any(asked.since <= jump <= refused_at for jump in self.jumps)

    def jumped(self, host: str) -> None:
        """The clock of a store is ahead by more than it keeps what is kept for minutes."""
        self.forgetful.add(host)
        self.jumps.append(self._now())

    def _compare(self, channel_id: bytes, book: Book, after: Channel) -> None:
        if book.charged < after.claimed:  # the chain has kept what the store has lost
            self.counts["units back from the chain"] += after.claimed - book.charged
            self.expect(book.losses > 0, channel_id, "more was claimed than charged")
            book.put(book.sums, "charged", after.claimed)
        if after.charged > max(book.signed, after.claimed):
            self.violated(channel_id, f"{after.charged} is charged, and {book.signed} was signed")
        if after.charged != book.charged:
            self.violated(channel_id, f"{after.charged} is charged, it should be {book.charged}")
        if after.holds.keys() != book.held.keys():
            self.violated(channel_id, "other requests are held than were let in")

    def _undo(
        self,
        channel_id: bytes,
        book: Book,
        op: Op,
        changes: list[tuple[dict[Any, Any], object, object]],
    ) -> None:
        """A verb that a fail-over took back."""
        for table, key, value in reversed(changes):
            if table is book.charges and isinstance(key, str):
                self._lose(book, book.charges[key])
                self.totals.brought_back(channel_id)
            put(table, key, value)
        self.note(channel_id, "undone", op.verb, op.request[:6])

    def _lose(self, book: Book, lost: Charge) -> None:
        if lost.asked.goal:
            self.goals[lost.asked.goal].remove(lost.asked)
        book.losses += 1
        self.counts["charges lost"] += 1

    def flushed(self, channel_id: bytes) -> None:
        """The store has forgotten the channel."""
        book = self.book(channel_id)
        for lost in book.charges.values():
            self._lose(book, lost)
        book.held.clear()
        book.charges.clear()
        book.used.clear()
        book.sums["charged"] = 0
        book.losses += 1
        self.note(channel_id, "flushed")

    def settled(self, channel_id: bytes, claimed: int) -> None:
        """All is claimed: what the faults of the store have cost, and whom."""
        book = self.book(channel_id)
        self.counts["units lost by the provider"] += max(0, book.earned - claimed)
        self.counts["units lost by the payer"] += max(0, claimed - book.earned)
        if not book.losses and book.charged < book.earned:
            self.violated(channel_id, "units vanished, and the store has lost nothing")

    # -- What was sent, ran and left -------------------------------------------------------------

    def signed(self, channel_id: bytes, total: int, asked: Asked) -> None:
        """A payer's signature was seen on the network."""
        self.totals.paid(channel_id, asked)
        book = self.book(channel_id)
        book.signed = max(book.signed, total)

    def refuses(self, asked: Asked) -> None:
        """A refusal leaves a worker: whoever hears it may pay anew."""
        self.refused[asked.payment] = self._now()

    def unpaid(self, goal: int, reason: str) -> None:
        """An honest agent gave up over a total, and its provider is honest too."""
        excuse = self.totals.excuse(goal)
        if excuse:
            self.counts[excuse] += 1
        else:
            self.violated(self.totals.channel_of(goal), f"{goal} is refused for a total: {reason}")

    def ran(self, run: str, asked: Asked) -> Run:
        """A handler begins. It writes into the run what it costs."""
        told = self.runs[run] = Run(asked)
        if asked.request:
            self._run_of[asked.request] = told
        return told

    def left(self, run: str, metered: bool) -> None:
        """The head of a good answer leaves a worker, with a receipt."""
        asked = self.runs[run].asked
        self.note(asked.channel, "answer", run, asked.request[:6])
        self.counts["answers"] += 1
        if metered:
            self.streams.append(run)
        else:
            owed = self.owed(run)
            self.expect(not owed, asked.channel, f"{run} left, and {owed} units are not charged")

    def owed(self, run: str) -> int:
        """What a run costs by its handler's word, less what was charged for it."""
        told = self.runs[run]
        return told.due - self.book(told.asked.channel).ever.get(told.asked.request, 0)
