"""Who may pass without being charged: holders of passes, and payers whose free requests last.

A payer is known by signing in, by the token of a pass, or by the payment that it sends; then that
payment is taken, and charged with nothing. All that is counted is counted in the store, by its
clock, so it is the same on every worker. What was counted for a request that is not served is given
back; a worker that is killed in the middle leaves one call counted.

A pass is written down when its payment is charged, before the answer leaves. A worker that is
killed between the two has charged for a pass that is not there: at most one purchase.
"""

import asyncio
import binascii
import logging
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from secrets import token_bytes, token_hex
from typing import Final

from msgspec import Raw
from starlette.types import Scope

from paywall.free import GiveBack, nothing
from paywall.kinds import Pass, Quota
from paywall.protocol import passbook, sign_in
from paywall.protocol.errors import ConfigurationError, Reason, Refused, Unavailable
from paywall.protocol.limits import DAY_SECONDS, SIGN_IN_REMEMBERED_SECONDS
from paywall.protocol.money import Address
from paywall.protocol.passbook import TOKEN_BYTES, Passbook, key_of
from paywall.stores import Slips, Store
from paywall.stores.slips import slips_of
from paywall.tariff import Tariff

log = logging.getLogger("paywall")

PASS: Final = b"paywall-pass"
"""The header of a pass's token, in answers that sell one and in requests that use it."""
_SIGN_IN: Final = sign_in.HEADER.lower().encode()
_BEARER: Final = b"bearer "
_PREFIX: Final = "pw_"
_PAUSES_SECONDS: Final = (0.1, 0.5, 2.0, 5.0, 10.0, 20.0)
_STATEMENTS: Final = {
    Pass: "Sign in to use a pass that this wallet has paid for. This costs nothing.",
    Quota: "Sign in to use the free requests of this wallet. This costs nothing.",
}


@dataclass(frozen=True, slots=True)
class Leave:
    """A request that need not be paid: whose it is, and what to do if it is not served."""

    payer: Address
    give_back: GiveBack


class Entrance:
    """For one provider. `origin` is its public origin; without one, nobody can sign in."""

    def __init__(
        self, store: Store, network: str, origin: str | None, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._network = network
        self._origin = origin
        self._clock = clock
        self._slips: Slips | None = None
        self._behind: set[asyncio.Task[None]] = set()

    def warn(self, prices: Iterable[object]) -> None:
        """Says it when a price would let payers sign in, and nobody has said to where."""
        wanted = any(
            isinstance(price, Pass) or (isinstance(price, Quota) and price.sign_in)
            for price in prices
        )
        if wanted and self._origin is None:
            log.warning("nobody can sign in: say public_url, the URL at which clients reach this")

    def challenge(self, tariff: Tariff, uri: str) -> dict[str, Raw]:
        """The extension of a 402 that says how to sign in, where that is of any use."""
        if self._origin is None or not _by_signing_in(tariff):
            return {}
        path = uri.partition("://")[2].partition("/")[2]
        told = sign_in.challenge(
            self._origin,
            f"{self._origin}/{path}",
            self._network,
            token_hex(16),
            int(self._clock()),
            _STATEMENTS[type(tariff.terms)],
        )
        return {sign_in.EXTENSION: told}

    async def leave(self, tariff: Tariff, scope: Scope) -> Leave | None:
        """Lets a request by that brings a proof or a token. Raises Refused for a false proof."""
        if tariff.terms is None:
            return None
        proof = _header(scope, _SIGN_IN)
        if proof and self._origin is not None and _by_signing_in(tariff):
            return await self.take(tariff, await self._signed_in(proof, self._origin))
        token = _token(scope)
        if token and isinstance(tariff.terms, Pass):
            payer, secret = token
            book, _ = await self._book(tariff.name, payer)
            if passbook.opens(book, secret):
                return await self.take(tariff, payer)
        return None

    async def take(self, tariff: Tariff, payer: Address) -> Leave | None:
        """Counts a request of a payer who is known. None when it is to be paid."""
        terms, request = tariff.terms, token_hex(8)
        if isinstance(terms, Quota):
            key = key_of("free", tariff.name, payer)
            return await self._counted(key, request, terms.free, 1000 * terms.seconds, payer)
        book, now_ms = await self._book(tariff.name, payer)
        if any(opening.calls is None for opening in book.openings):
            return Leave(payer, nothing)
        for opening in sorted(book.openings, key=lambda one: one.until_ms):
            assert opening.calls is not None, "the others have been seen"
            # The count outlives the pass: no call is forgotten while there is one left.
            ttl_ms = opening.until_ms - now_ms + 1000 * DAY_SECONDS
            key = key_of("calls", opening.name, payer)
            if leave := await self._counted(key, request, opening.calls, ttl_ms, payer):
                return leave
        return None

    async def _counted(
        self, key: bytes, request: str, limit: int, ttl_ms: int, payer: Address
    ) -> Leave | None:
        async def give_back() -> None:
            try:
                await self._store.give_back(key, request)
            except Unavailable as error:
                log.warning("a request that was not served stays counted: %s", error)

        try:
            is_counted = await self._store.take(key, request, limit, ttl_ms)
        except (Unavailable, asyncio.CancelledError):  # it may be counted all the same
            self._later(give_back())
            raise
        return Leave(payer, give_back) if is_counted else None

    async def _signed_in(self, proof: str, origin: str) -> Address:
        who = sign_in.check(proof, origin, self._network, int(self._clock()))
        ttl_ms = 1000 * SIGN_IN_REMEMBERED_SECONDS
        if not await self._store.spend(who.once, token_hex(8), ttl_ms):
            raise Refused(Reason.SIGN_IN_REPLAYED)
        return who.address

    # -- Passes ----------------------------------------------------------------------------------

    async def sell(self, tariff: Tariff, payer: Address, secret: bytes) -> None:
        """Opens a pass that was paid; when the store is away, as soon as it is back."""
        name = token_hex(8)
        try:
            await self._open(tariff, payer, secret, name)
        except Unavailable as error:
            log.error("a pass is paid and waits for the store: %s", error)
            self._later(self._open_later(tariff, payer, secret, name))

    def _later(self, work: Coroutine[object, None, None]) -> None:
        """Goes on behind the request."""
        task = asyncio.create_task(work)
        self._behind.add(task)
        task.add_done_callback(self._behind.discard)

    async def _open_later(self, tariff: Tariff, payer: Address, secret: bytes, name: str) -> None:
        for pause_seconds in _PAUSES_SECONDS:
            await asyncio.sleep(pause_seconds)
            try:
                return await self._open(tariff, payer, secret, name)
            except Unavailable:
                continue
        log.error("a pass of %s was paid and could not be written down", payer.hex())

    async def _open(self, tariff: Tariff, payer: Address, secret: bytes, name: str) -> None:
        terms = tariff.terms
        assert isinstance(terms, Pass), "nothing else is sold"
        key, slips = key_of("pass", tariff.name, payer), self._kept()
        before, now_ms = await slips.read(key)
        while True:
            book = passbook.decode(before, now_ms)
            after = passbook.bought(book, name, 1000 * terms.seconds, terms.calls, secret, now_ms)
            wanted = passbook.encode(after)
            found, now_ms = await slips.swap(key, before, wanted, after.until_ms - now_ms)
            if found == wanted:
                return
            before = found

    async def _book(self, name: str, payer: Address) -> tuple[Passbook, int]:
        """What a payer has now, and when that is by the store's clock (ms)."""
        found, now_ms = await self._kept().read(key_of("pass", name, payer))
        return passbook.decode(found, now_ms), now_ms

    def _kept(self) -> Slips:
        if self._slips is None:
            self._slips = slips_of(self._store)
        return self._slips

    async def close(self) -> None:
        """Waits for passes that are paid and not written down yet."""
        await asyncio.gather(*self._behind, return_exceptions=True)


def origin_of(public_url: str | None) -> str | None:
    """The origin that sign-ins are for. Raises ConfigurationError."""
    if public_url is None:
        return None
    try:
        return sign_in.parse_origin(public_url)
    except ValueError as error:
        raise ConfigurationError(f"public_url: {public_url!r} is not a URL of this site") from error


def _by_signing_in(tariff: Tariff) -> bool:
    terms = tariff.terms
    return isinstance(terms, Pass) or (isinstance(terms, Quota) and terms.sign_in)


def _header(scope: Scope, name: bytes) -> str | None:
    """The one header of its name. Raises Refused for two."""
    found = [value for key, value in scope["headers"] if key == name]
    if len(found) > 1:
        raise Refused(Reason.SIGN_IN_MALFORMED)
    return found[0].decode("latin-1") if found else None


# -- Tokens --------------------------------------------------------------------------------------


def new_token(payer: Address) -> tuple[str, bytes]:
    """A token as it is shown, and its secret."""
    secret = token_bytes(TOKEN_BYTES)
    return _PREFIX + urlsafe_b64encode(payer + secret).decode(), secret


def _token(scope: Scope) -> tuple[Address, bytes] | None:
    """The token of a pass, as a bearer's or in its own header; others are for the app."""
    for name, value in scope["headers"]:
        text = value
        if name == b"authorization" and value[: len(_BEARER)].lower() == _BEARER:
            text = value[len(_BEARER) :].strip()
        elif name != PASS:
            continue
        if (found := _parse(text)) is not None:
            return found
    return None


def _parse(text: bytes) -> tuple[Address, bytes] | None:
    if not text.startswith(_PREFIX.encode()):
        return None
    try:
        data = urlsafe_b64decode(text[len(_PREFIX) :])
    except (binascii.Error, ValueError):
        return None
    if len(data) != 20 + TOKEN_BYTES:
        return None
    return Address(data[:20]), data[20:]


def without_token(scope: Scope) -> Scope:
    """The request without what opened the door: that is not for the app."""
    kept = [
        (name, value)
        for name, value in scope["headers"]
        if name not in (PASS, _SIGN_IN) and not _is_bearer(name, value)
    ]
    return {**scope, "headers": kept}


def _is_bearer(name: bytes, value: bytes) -> bool:
    return name == b"authorization" and _token({"headers": [(name, value)]}) is not None
