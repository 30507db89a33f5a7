"""What is served before it is paid for: first requests whose deposits are not mined yet. Pure.

An owner may allow a total. Each such request is booked under its channel at its price, which is all
that it can cost us; it is taken off when its deposit is mined, or when it turned out to have cost
nothing. What is lost stays counted for good, so that the total is the most that is ever lost:

    bets + lost <= total

Whoever books writes it down first, and one record holds all, so any number of workers share the
total. An entry that its worker left behind is looked after by others from `look_at_ms` on.
"""

import msgspec

from paywall.protocol.limits import MAX_BETS


class Bet(msgspec.Struct, frozen=True, array_like=True):
    """`deposit` is what the channel will hold when it is mined; `failed`: it will not be."""

    amount: int
    deposit: int
    valid_before: int
    look_at_ms: int
    failed: bool = False


class Exposure(msgspec.Struct, frozen=True, array_like=True):
    """Append fields, never insert."""

    bets: dict[bytes, Bet] = {}
    lost: int = 0

    @property
    def total(self) -> int:
        return self.lost + sum(bet.amount for bet in self.bets.values())


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Exposure).decode


def encode(exposure: Exposure) -> bytes:
    return _encode(exposure)


def decode(data: bytes | None) -> Exposure:
    return Exposure() if data is None else _decode(data)


def booked(exposure: Exposure, channel_id: bytes, bet: Bet, up_to: int) -> Exposure | None:
    """With one more, or None when that would be too much."""
    if channel_id in exposure.bets or len(exposure.bets) >= MAX_BETS:
        return None
    if exposure.total + bet.amount > up_to:
        return None
    return Exposure({**exposure.bets, channel_id: bet}, exposure.lost)


def changed(exposure: Exposure, channel_id: bytes, bet: Bet) -> Exposure:
    """With another word on one that is still open."""
    if channel_id not in exposure.bets:
        return exposure
    return Exposure({**exposure.bets, channel_id: bet}, exposure.lost)


def ended(exposure: Exposure, channel_id: bytes, lost: int) -> Exposure:
    """Without one, of which this much was lost. One that is gone was ended before."""
    bet = exposure.bets.get(channel_id)
    if bet is None:
        return exposure
    assert 0 <= lost <= bet.amount, "no more is lost than was booked"
    rest = {other: entry for other, entry in exposure.bets.items() if other != channel_id}
    return Exposure(rest, exposure.lost + lost)
