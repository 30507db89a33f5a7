"""What to claim now, and in which transactions: a plan, not an action.

A claim moves nothing: it raises the contract's record of what a channel owes, up to `charged` and
never above the payer's signature. Rows of many channels travel in one transaction, so the fee per
request goes to nothing. Until then the money is *at risk*: a payer may begin to withdraw, and what
is not claimed when the delay is over is lost. So a plan weighs the fee against that risk:

    withdrawal   the payer is withdrawing            claim at once, whatever it costs
    risk         a receiver is owed over the limit   claim what brings more than its row costs
    age          the last collection is long ago     claim what brings more than its row costs
    worth        the fee is under the owner's share  claim
    (else)       dust waits for more of it, the dear for cheaper gas

After the first claim of a withdrawing channel, only its last moment before the safety margin is at
once again: otherwise a payer could make us claim a fraction of a cent every few seconds.

This module decides; it does not know a chain.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import groupby
from typing import Final, NamedTuple

from msgspec.structs import replace

from paywall.protocol.channel import Channel
from paywall.protocol.claim_policy import ClaimPolicy as ClaimPolicy
from paywall.protocol.claim_policy import Costs as Costs
from paywall.protocol.claim_policy import Terms as Terms
from paywall.protocol.limits import MAX_CLAIM_ROWS
from paywall.protocol.money import KNOWN_ASSETS, Address, Asset

Assets = Mapping[tuple[str, bytes], Asset]


class Batch(NamedTuple):
    """One claim transaction: channels of one network under one receiver authorizer."""

    network: str
    receiver_authorizer: Address
    channels: tuple[Channel, ...]

    @property
    def amount(self) -> int:
        """What this claim adds to the contract's record, in atomic units."""
        return sum(channel.unclaimed for channel in self.channels)


# -- What is decided -----------------------------------------------------------------------------


class Why(Enum):
    """Why a channel is claimed now, or why it waits."""

    WITHDRAWAL = "withdrawal"
    RISK = "risk"
    AGE = "age"
    WORTH = "worth"
    DUST = "dust"
    DEAR = "dear"
    UNPRICED = "unpriced"
    """Nobody said what the token is worth; it waits for its age."""


URGENT: Final = frozenset((Why.WITHDRAWAL, Why.RISK, Why.AGE))
_CLAIMED: Final = URGENT | {Why.WORTH}


@dataclass(frozen=True, slots=True)
class Risk:
    """What could be lost of one receiver's token, and when the first of it would be."""

    receiver: Address
    token: Address
    amount: int
    deadline_ms: int


@dataclass(frozen=True, slots=True)
class Plan:
    """The transactions to send now, the pressing ones first; why each channel goes or waits."""

    batches: tuple[Batch, ...] = ()
    why: Mapping[bytes, Why] = field(default_factory=dict)
    waiting: tuple[Channel, ...] = ()
    risks: tuple[Risk, ...] = ()


@dataclass(frozen=True, slots=True)
class Situation:
    """What a plan depends on besides the channels: the time, what was done, what tokens are worth.

    `swept_at_ms` is when everything but dust was claimed last; `claimed_at_ms` when a withdrawing
    channel was.
    """

    now_ms: int
    costs: Costs
    swept_at_ms: int | None = None
    claimed_at_ms: Mapping[bytes, int] = field(default_factory=dict)
    assets: Assets = field(default_factory=lambda: KNOWN_ASSETS)

    def terms(self, policy: ClaimPolicy, network: str, token: Address) -> Terms | None:
        asset = self.assets.get((network, token))
        return policy.of(asset) if asset else None


def plan(channels: Iterable[Channel], policy: ClaimPolicy, situation: Situation) -> Plan:
    """What to claim of these channels now, and why the others wait."""
    owing = [_collectable(channel) for channel in channels if _can_be_claimed(channel)]
    owing = [channel for channel in owing if channel.unclaimed > 0]
    risks = risks_of(owing)
    why = {c.channel_id: _why(c, policy, situation, risks) for c in owing}
    chosen = [c for c in owing if why[c.channel_id] in _CLAIMED]
    going = []
    for batch in _chunks(chosen, why):
        if _goes(batch, why, policy, situation):
            going.append(batch)
        else:
            why |= {channel.channel_id: Why.DEAR for channel in batch.channels}
    going.sort(key=lambda batch: (not _presses(batch, why), -batch.amount))
    waiting = tuple(c for c in owing if why[c.channel_id] not in _CLAIMED)
    return Plan(tuple(going), why, waiting, risks)


def risks_of(channels: Iterable[Channel]) -> tuple[Risk, ...]:
    """What each receiver could lose, the most pressing first."""
    ordered = sorted((c for c in channels if c.unclaimed > 0), key=_pot)
    risks = []
    for (receiver, token), members in groupby(ordered, key=_pot):
        rows = list(members)
        amount = sum(channel.unclaimed for channel in rows)
        risks.append(Risk(receiver, token, amount, min(map(lost_at_ms, rows))))
    return tuple(sorted(risks, key=lambda risk: risk.deadline_ms))


def lost_at_ms(channel: Channel) -> int:
    """When the payer could take its money back at the earliest, as far as we know.

    Without a withdrawal that we know of, one may have begun right after the chain was last read.
    """
    delay_ms = 1000 * channel.config.withdraw_delay_seconds
    requested_at_ms = 1000 * channel.chain.withdraw_requested_at
    return (requested_at_ms or channel.chain.read_at_ms) + delay_ms


def claimable_total(channel: Channel) -> int:
    """The total that the contract would take: a withdrawal may have left less than was charged."""
    return min(channel.charged, channel.signed, max(channel.balance, channel.claimed))


def batches(channels: Iterable[Channel], min_amount: int = 1) -> list[Batch]:
    """Batches of every channel that owes at least `min_amount`, the largest sums first."""
    owing = (_collectable(channel) for channel in channels if _can_be_claimed(channel))
    due = [channel for channel in owing if channel.unclaimed >= min_amount]
    return sorted(_chunks(due, {}), key=lambda batch: -batch.amount)


# -- How it is decided ---------------------------------------------------------------------------


def _why(channel: Channel, policy: ClaimPolicy, situation: Situation, risks: Sequence[Risk]) -> Why:
    terms = situation.terms(policy, channel.network, channel.config.token)
    if channel.unclaimed < (terms.min_amount if terms else 1):
        return Why.DUST
    if _is_withdrawn_from(channel, situation):
        return Why.WITHDRAWAL
    aged = _is_aged(policy, situation)
    if terms is None:
        return Why.AGE if aged else Why.UNPRICED
    row_wei = situation.costs.row_wei()
    if channel.unclaimed <= terms.fee(row_wei):
        return Why.DUST
    if _at_risk(channel, risks) > terms.max_at_risk:
        return Why.RISK
    if aged:
        return Why.AGE
    return Why.WORTH if terms.is_worth(channel.unclaimed, row_wei) else Why.DEAR


def _is_withdrawn_from(channel: Channel, situation: Situation) -> bool:
    """Whether its payer is withdrawing, and it was not claimed since or its margin has begun."""
    closing_at_ms = channel.closing_at_ms()
    if closing_at_ms is None:
        return False
    claimed_at_ms = situation.claimed_at_ms.get(channel.channel_id, 0)
    return not claimed_at_ms or situation.now_ms >= closing_at_ms


def _is_aged(policy: ClaimPolicy, situation: Situation) -> bool:
    if situation.swept_at_ms is None:
        return False
    return situation.now_ms - situation.swept_at_ms >= 1000 * policy.max_age_seconds


def _at_risk(channel: Channel, risks: Sequence[Risk]) -> int:
    return next(risk.amount for risk in risks if (risk.receiver, risk.token) == _pot(channel))


def _goes(
    batch: Batch, why: Mapping[bytes, Why], policy: ClaimPolicy, situation: Situation
) -> bool:
    """Whether a batch pays for itself, or has rows that cannot wait."""
    if _presses(batch, why):
        return True
    first = batch.channels[0]
    terms = situation.terms(policy, first.network, first.config.token)
    wei = situation.costs.batch_wei(len(batch.channels))
    return terms is not None and terms.is_worth(batch.amount, wei)


def _presses(batch: Batch, why: Mapping[bytes, Why]) -> bool:
    return any(why[channel.channel_id] in URGENT for channel in batch.channels)


def _chunks(channels: Sequence[Channel], why: Mapping[bytes, Why]) -> list[Batch]:
    """Batches of one network, authorizer and token: first what cannot wait, then by the sum."""

    def order(channel: Channel) -> tuple[object, ...]:
        waits = why.get(channel.channel_id) not in URGENT
        return (*_group(channel), waits, -channel.unclaimed, channel.channel_id)

    chunks = []
    for (network, authorizer, _), members in groupby(sorted(channels, key=order), key=_group):
        rows = tuple(members)
        chunks += [
            Batch(network, Address(authorizer), rows[at : at + MAX_CLAIM_ROWS])
            for at in range(0, len(rows), MAX_CLAIM_ROWS)
        ]
    return chunks


def _can_be_claimed(channel: Channel) -> bool:
    """Whether there is a signature to show, and a deposit on chain to take it from."""
    return channel.voucher is not None and not channel.is_unmined


def _collectable(channel: Channel) -> Channel:
    """The channel as far as the contract can pay for it."""
    total = claimable_total(channel)
    return channel if total == channel.charged else replace(channel, charged=total)


def _group(channel: Channel) -> tuple[str, bytes, bytes]:
    return channel.network, channel.config.receiver_authorizer, channel.config.token


def _pot(channel: Channel) -> tuple[Address, Address]:
    return channel.config.receiver, channel.config.token
