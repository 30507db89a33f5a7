"""How much of our gas one payer may use: a rate of errands, and a number of funded channels. Pure.

A deposit and a refund are transactions at the provider's cost, so a payer that fills and empties
channels without buying anything is a drain. What counts is therefore what brings nothing: the first
deposit into a channel, one that follows no use of the last, and every refund. A payer that has
bought for a while since its last deposit may top up, however early and often.

Addresses cost nothing to make, so the same is counted of all payers together, and bounded too. A
refund to who has bought for a while is not among those: a crowd cannot keep a customer's money. An
errand that has cost no gas leaves a payer the customer that it was: it is undone.

The rate is the generic cell rate algorithm: one number, the time at which the payer would be back
to a clean slate. Source: ITU-T I.371, "Generic cell rate algorithm".
"""

from dataclasses import dataclass
from typing import Final

import msgspec

from paywall.protocol.errors import ConfigurationError, Reason, Refused
from paywall.protocol.limits import (
    ALL_DEPOSITS_PER_HOUR,
    CHANNELS_PER_PAYER,
    DEPOSITS_PER_HOUR,
)
from paywall.protocol.money import Address

HOUR_MS: Final = 3_600_000


@dataclass(frozen=True, slots=True)
class PayerLimits:
    """For each payer: errands an hour (all of them at once, if it likes), and funded channels.

    `all_errands_per_hour` is for all of them together.
    """

    errands_per_hour: int = DEPOSITS_PER_HOUR
    channels: int = CHANNELS_PER_PAYER
    all_errands_per_hour: int = ALL_DEPOSITS_PER_HOUR

    def __post_init__(self) -> None:
        if not 0 < self.errands_per_hour <= 100_000 or not 0 < self.channels <= 1000:
            raise ConfigurationError(
                "a payer needs at least one deposit an hour and one channel;"
                " at most 100000 and 1000 are counted"
            )
        if not 0 < self.all_errands_per_hour <= 3_600_000:
            raise ConfigurationError(
                "all payers together need at least one deposit an hour; at most 3600000 are counted"
            )


class Account(msgspec.Struct, frozen=True, array_like=True):
    """What is remembered of a payer. Append fields, never insert.

    `channels` are those that it has filled: what each had been charged when it was filled last.
    `used_up_at_ms` is of the account of all payers: since when newcomers are turned away, or zero.
    """

    clean_at_ms: int = 0
    channels: dict[bytes, int] = {}
    used_up_at_ms: int = 0


@dataclass(frozen=True, slots=True)
class Errand:
    """A deposit or a refund that was counted, with what would undo it.

    `charged` is what its channel had been charged, and `before` what was remembered of that until
    then; `is_of_crowd` when it was counted among those of all payers.
    """

    payer: Address
    channel_id: bytes
    charged: int
    before: int | None
    is_of_crowd: bool


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Account).decode


def encode(account: Account) -> bytes:
    return _encode(account)


def decode(data: bytes | None) -> Account:
    return Account() if data is None else _decode(data)


def counted(account: Account, limits: PayerLimits, now_ms: int) -> Account:
    """With one errand more of this payer. Raises Refused when there were too many."""
    return _counted(account, limits.errands_per_hour, now_ms, Reason.TOO_MANY_DEPOSITS)


def counted_in_all(crowd: Account, limits: PayerLimits, now_ms: int) -> Account:
    """With one errand more in the account of all payers. Raises Refused."""
    most = limits.all_errands_per_hour
    return _counted(crowd, most, now_ms, Reason.TOO_MANY_DEPOSITS_IN_ALL)


def uncounted_in_all(crowd: Account, limits: PayerLimits) -> Account:
    """Without an errand that was counted and came to nothing."""
    each_ms = HOUR_MS // limits.all_errands_per_hour
    return msgspec.structs.replace(crowd, clean_at_ms=max(0, crowd.clean_at_ms - each_ms))


def turning_away(crowd: Account, limits: PayerLimits, now_ms: int) -> Account:
    """With since when newcomers are turned away, if they are.

    Until a tenth is free again: a place that comes free every few seconds is no end of it.
    """
    each_ms = HOUR_MS // limits.all_errands_per_hour
    taken_ms = max(0, crowd.clean_at_ms - now_ms)
    free = limits.all_errands_per_hour - -(-taken_ms // each_ms)
    if free >= max(1, limits.all_errands_per_hour // 10):
        return msgspec.structs.replace(crowd, used_up_at_ms=0)
    if free > 0 or crowd.used_up_at_ms:
        return crowd
    return msgspec.structs.replace(crowd, used_up_at_ms=now_ms)


def _counted(account: Account, per_hour: int, now_ms: int, reason: Reason) -> Account:
    each_ms = HOUR_MS // per_hour
    clean_at_ms = max(account.clean_at_ms, now_ms) + each_ms
    if clean_at_ms - now_ms > each_ms * per_hour:
        raise Refused(reason)
    return msgspec.structs.replace(account, clean_at_ms=clean_at_ms)


def is_full(account: Account, channel_id: bytes, limits: PayerLimits) -> bool:
    """Whether this would be a channel too many, unless others are closed by now."""
    return channel_id not in account.channels and len(account.channels) >= limits.channels


def with_channel(
    account: Account, channel_id: bytes, charged: int, closed: frozenset[bytes]
) -> Account:
    """With a channel that is filled now, and without those that are closed."""
    others = {other: then for other, then in account.channels.items() if other not in closed}
    return msgspec.structs.replace(account, channels={**others, channel_id: charged})


def emptied(account: Account, channel_id: bytes, charged: int) -> Account:
    """With a channel that is refunded now: what was bought from it has had its errand."""
    if channel_id not in account.channels:
        return account
    return with_channel(account, channel_id, charged, frozenset())


def undone(account: Account, errand: Errand) -> Account:
    """Without an errand that came to nothing. Its payer's rate has it still: it may ask again."""
    if account.channels.get(errand.channel_id) != errand.charged:
        return account
    others = {name: then for name, then in account.channels.items() if name != errand.channel_id}
    if errand.before is not None:
        others[errand.channel_id] = errand.before
    return msgspec.structs.replace(account, channels=others)


def bought(account: Account, channel_id: bytes, charged: int) -> int:
    """What was bought from a channel since it was filled last; nothing from a new one."""
    return charged - account.channels.get(channel_id, charged)
