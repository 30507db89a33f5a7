"""The agent's memory: what it has promised, what it was charged, what it has locked up.

Shared safely by every task, thread and process of an agent, and in Redis by a fleet of them. A row
is written before the signature that it describes leaves, so a crash never makes a wallet forget a
promise. An entry of a payment whose process died is, after a while, counted as spent: better too
much than too little. This module knows amounts and channels; it knows no policy, no key, no HTTP.

Everything happens inside `with state.change():`. What a change has read nobody else changes before
its end, and what it writes is written at its end, at once.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from paywall.budget import Spending
from paywall.protocol.errors import ConfigurationError
from paywall.protocol.limits import MAX_HISTORY_ENTRIES
from paywall.walletfile import FileRows
from paywall.walletrows import Account, Entry, InFlight, KnownQuote, Rows, SignedTransfer

FORGOTTEN_SECONDS: Final = 600
"""A payment in flight for longer than this belongs to a process that has died."""
MAX_HISTORY: Final = MAX_HISTORY_ENTRIES
"""How many entries of the history one question is answered with."""

_SPENDING: Final = "spending"
_AFTER: Final = "0"
"""The letter after "/": keys that begin with "x/" are those from "x/" to "x0"."""

_encode = msgspec.json.Encoder().encode
_account = msgspec.json.Decoder(Account)
_spending = msgspec.json.Decoder(Spending)
_in_flight = msgspec.json.Decoder(InFlight)
_transfer = msgspec.json.Decoder(SignedTransfer)
_quote = msgspec.json.Decoder(KnownQuote)
_entry = msgspec.json.Decoder(Entry)


class WalletState:
    """Rows of a wallet, understood."""

    def __init__(self, rows: Rows, clock: Callable[[], float]) -> None:
        self._rows = rows
        self._clock = clock
        self._lock = threading.RLock()
        self._changing = False
        # What this change has read and written; nobody else changes it before the end.
        self._read: dict[str, bytes | None] = {}
        self._written: dict[str, bytes | None] = {}
        self._accounts: dict[bytes, Account] = {}
        self._entries: list[tuple[float, bytes]] = []
        self._spending: Spending | None = None

    def close(self) -> None:
        with self._lock:
            self._rows.close()

    @contextmanager
    def change(self) -> Iterator[None]:
        """Seen whole by others, or not at all. Raises StoreUnavailable."""
        with self._lock:
            self._rows.begin()
            self._changing = True
            try:
                yield
                self._rows.commit(self._pending(), self._entries)
            except BaseException:
                self._rows.rollback()
                raise
            finally:
                self._changing = False
                self._forget()

    def _pending(self) -> dict[str, bytes | None]:
        if self._spending is not None:
            self._written[_SPENDING] = _encode(self._spending)
        return self._written

    def _forget(self) -> None:
        self._read, self._written, self._entries = {}, {}, []
        self._accounts, self._spending = {}, None

    def flush(self) -> None:
        """Everything so far survives a crash of the machine too."""
        with self._lock:
            self._rows.flush()

    # -- Rows ------------------------------------------------------------------------------------

    def prefetch(self, channel_id: bytes, origin: str, payment_id: str | None = None) -> None:
        """Reads at once what a change of this channel is about to ask for."""
        assert self._changing
        keys = [_SPENDING, _channel_key(channel_id), _host_key(origin), f"stopped/{origin}"]
        if payment_id is not None:
            keys[-1] = _payment_key(channel_id, payment_id)
        keys = [key for key in keys if key not in self._read and key not in self._written]
        if keys:
            self._read.update(zip(keys, self._rows.read(keys), strict=True))

    def _get(self, key: str) -> bytes | None:
        with self._lock:
            if key in self._written:
                return self._written[key]
            if self._changing and key in self._read:
                return self._read[key]
            (found,) = self._rows.read((key,))
            if self._changing:
                self._read[key] = found
            return found

    def _put(self, key: str, value: bytes | None) -> None:
        assert self._changing, "rows are written in a change"
        self._written[key] = value

    def _between(self, first: str, last: str) -> list[bytes]:
        with self._lock:
            found: dict[str, bytes | None] = dict(self._rows.between(first, last))
            found |= {key: row for key, row in self._written.items() if first <= key < last}
            return [row for _, row in sorted(found.items()) if row is not None]

    # -- Sums ------------------------------------------------------------------------------------

    def totals(self) -> Spending:
        with self._lock:
            if self._spending is not None:
                return self._spending
            row = self._get(_SPENDING)
            return _spending.decode(row) if row else Spending()

    def host_promised(self, origin: str) -> int:
        """What this host can have: what was signed for it, whether it says that it took it or
        not."""
        row = self._get(_host_key(origin))
        return int(row) if row else 0

    def count(self, spent: int, outlay: int, at: float, dated: int | None = None) -> None:
        """Adds to the sums, or takes off (negative). `dated` of it (or all) was begun at `at`."""
        assert self._changing
        if spent or outlay or dated:
            self._spending = self.totals().changed(spent, outlay, at, self._clock(), dated)

    def count_promised(self, origin: str, more: int, at: float) -> None:
        """Adds what was signed for a host at `at`, or takes off (negative) what it never saw."""
        assert self._changing
        if more:
            self._spending = self.totals().signed(more, at, self._clock())
            sum_ = max(0, self.host_promised(origin) + more)
            self._put(_host_key(origin), str(sum_).encode() if sum_ else None)

    # -- Channels --------------------------------------------------------------------------------

    def account(self, channel_id: bytes) -> Account | None:
        with self._lock:
            known = self._accounts.get(channel_id)
            if known is not None:
                return known
            row = self._get(_channel_key(channel_id))
            if row is None:
                return None
            found = _account.decode(row)
            if self._changing:
                self._accounts[channel_id] = found
            return found

    def accounts(self) -> list[Account]:
        """All channels, by origin."""
        found = (_account.decode(row) for row in self._between("channel/", "channel" + _AFTER))
        return sorted(found, key=lambda account: (account.origin, account.channel_id))

    def put(self, account: Account, at: float | None = None, dated: int | None = None) -> None:
        """Writes a channel, and what it changes in the sums.

        `dated` of what is spent more, or less, was begun at the time `at`. Unless that is known,
        what is more is of now; what is less (an old count, corrected) gives no minute back.
        """
        before = self.account(account.channel_id)
        spent = account.spent - (before.spent if before else 0)
        outlay = account.outlay - (before.outlay if before else 0)
        when = self._clock() if at is None else at
        self.count(spent, outlay, when, max(0, spent) if dated is None else dated)
        promised = account.signed - (before.signed if before else 0)
        self.count_promised(account.origin, promised, when)
        self._accounts[account.channel_id] = account
        self._put(_channel_key(account.channel_id), _encode(account))

    # -- Payments over channels ------------------------------------------------------------------

    def add(self, payment: InFlight) -> None:
        self._put(_payment_key(payment.channel_id, payment.payment_id), _encode(payment))

    def take(self, channel_id: bytes, payment_id: str) -> InFlight | None:
        """Removes a payment and returns it; None when somebody has counted it already."""
        key = _payment_key(channel_id, payment_id)
        row = self._get(key)
        if row is None:
            return None
        self._put(key, None)
        return _in_flight.decode(row)

    def payments(self, channel_id: bytes) -> list[InFlight]:
        """What is in flight on a channel."""
        prefix = f"payment/{channel_id.hex()}"
        return [_in_flight.decode(row) for row in self._between(prefix + "/", prefix + _AFTER)]

    # -- Single transfers ------------------------------------------------------------------------

    def put_transfer(self, row: SignedTransfer) -> None:
        """Writes a transfer, in the place of what was known of it."""
        self._put(_transfer_key(row.valid_before, row.payment_id), _encode(row))

    def take_transfer(self, payment_id: str, valid_before: int) -> SignedTransfer | None:
        """Removes a transfer and returns it; None when it has ended already."""
        key = _transfer_key(valid_before, payment_id)
        row = self._get(key)
        if row is None:
            return None
        self._put(key, None)
        return _transfer.decode(row)

    def take_expired_transfers(self, time: int) -> list[SignedTransfer]:
        """Removes and returns those that nobody can make any more at `time`."""
        rows = self._between("transfer/", _transfer_key(max(0, time), ""))
        expired = [_transfer.decode(row) for row in rows]
        for row in expired:
            self._put(_transfer_key(row.valid_before, row.payment_id), None)
        return expired

    def put_refused(self, row: SignedTransfer) -> None:
        """Keeps one that was refused and has expired, for the chain to tell whether it was."""
        self._put(_refused_key(row.payment_id), _encode(row))

    def take_refused(self, payment_id: str) -> bool:
        """Removes it; False when somebody has done so already."""
        key = _refused_key(payment_id)
        known = self._get(key) is not None
        if known:
            self._put(key, None)
        return known

    def refused_transfers(self) -> list[SignedTransfer]:
        rows = self._between("refused/", "refused" + _AFTER)
        return [_transfer.decode(row) for row in rows]

    def transfers(self) -> list[SignedTransfer]:
        """What was signed and may still be taken."""
        rows = self._between("transfer/", "transfer" + _AFTER)
        return [_transfer.decode(row) for row in rows]

    # -- Providers that are not paid any more ----------------------------------------------------

    def stop(self, origin: str, why: str) -> None:
        self._put(f"stopped/{origin}", why.encode())

    def stopped(self, origin: str) -> str | None:
        """Why an origin is not paid any more."""
        row = self._get(f"stopped/{origin}")
        return row.decode() if row is not None else None

    # -- History ---------------------------------------------------------------------------------

    def record(self, entry: Entry) -> None:
        assert self._changing
        self._entries.append((entry.time, _encode(entry)))

    def history(
        self, since: float = 0.0, until: float = float("inf"), limit: int = MAX_HISTORY
    ) -> list[Entry]:
        """How payments ended, from `since` to just before `until`: the newest `limit`, in the
        order in which they ended."""
        with self._lock:
            rows = self._rows.entries(since, until, limit)
        return [_entry.decode(row) for row in rows]

    # -- Quotes ----------------------------------------------------------------------------------

    def remember(self, places: Sequence[str], quote: KnownQuote, now: float) -> None:
        with self._lock:
            self._rows.put_quotes(places, _encode(quote), now)

    def recall(self, places: Sequence[str]) -> KnownQuote | None:
        """The quote of the first of these places that is known."""
        with self._lock:
            row = self._rows.quote(places)
        return _quote.decode(row) if row else None


def _channel_key(channel_id: bytes) -> str:
    return f"channel/{channel_id.hex()}"


def _payment_key(channel_id: bytes, payment_id: str) -> str:
    return f"payment/{channel_id.hex()}/{payment_id}"


def _refused_key(payment_id: str) -> str:
    return f"refused/{payment_id}"


def _transfer_key(valid_before: int, payment_id: str) -> str:
    return f"transfer/{valid_before:012d}/{payment_id}"


@lru_cache(maxsize=1024)
def _host_key(origin: str) -> str:
    """A host has one ceiling, whatever its ports."""
    return f"host/{urlsplit(origin).hostname or origin}"


def open_state(
    where: str | Path, clock: Callable[[], float], max_history: int = MAX_HISTORY
) -> WalletState:
    """The wallet's memory in a file, or behind the URL of a Redis. Raises ConfigurationError."""
    text = str(where)
    if "://" not in text:
        return WalletState(FileRows(text, max_history), clock)
    try:
        module = import_module("paywall.walletredis")
    except ModuleNotFoundError as error:
        if error.name not in ("redis", "hiredis"):
            raise
        raise ConfigurationError(
            "a wallet in Redis needs a package more: pip install 'paywall[redis]'"
        ) from error
    rows: Rows = module.open_rows(text, max_history)
    return WalletState(rows, clock)
