"""A payment channel and its rules. Pure: a change is a new value, and `now` is an argument.

A payer puts a deposit on chain once. From then on each request carries a *voucher*: the payer's
signature under a running total. The provider holds the price while the request runs, charges what
it really cost when the answer leaves, and some day claims the charged total on chain with the
highest voucher. Always:

    claimed <= charged <= charged + held <= voucher.amount <= balance

    voucher.amount   what the payer has promised so far          (the payer's signature decides)
    held             prices of the requests that run right now   (the provider's store decides)
    charged          what requests have cost so far              (the provider's store decides)
    claimed, balance what the contract has recorded              (the chain decides)

So a channel serves many requests at once. A voucher is good once: the *window* remembers the
amounts of recent vouchers, as IPsec and WireGuard remember sequence numbers, so vouchers that
overtake each other are each accepted and a captured one is not accepted again. What falls out at
the window's lower end raises its *floor*, which never sinks again, whatever happens to the channel.

Sources: batch-settlement specification, "Server: State & Forwarding"; its rule for a serial client
(`amount == charged + price`) is one way to satisfy these rules. RFC 6479 for the window.
"""

from bisect import bisect_left, bisect_right
from typing import Final, Never

import msgspec

from paywall.protocol import eip712
from paywall.protocol.errors import HoldLost, PaymentError, Reason, Refused
from paywall.protocol.limits import (
    HOLD_SECONDS,
    MAX_HOLDS,
    REFUND_HOLD_SECONDS,
    REMEMBERED_CHARGES,
    WINDOW_VOUCHERS,
)
from paywall.protocol.money import Address, chain_id_of

HOLD_MS: Final = HOLD_SECONDS * 1000
REFUND_MS: Final = REFUND_HOLD_SECONDS * 1000


class ChannelConfig(msgspec.Struct, frozen=True, gc=False):
    """Who pays whom, in what, under whose signatures. It never changes; its digest is the id."""

    payer: Address
    payer_authorizer: Address
    receiver: Address
    receiver_authorizer: Address
    token: Address
    withdraw_delay_seconds: int
    salt: bytes

    def channel_id(self, network: str) -> bytes:
        domain = eip712.settlement_domain(chain_id_of(network))
        return eip712.channel_id(domain, *msgspec.structs.astuple(self))


class Voucher(msgspec.Struct, frozen=True, gc=False):
    """A promise of `amount` in all, since the channel began, with the payer's signature."""

    amount: int
    signature: bytes


class Hold(msgspec.Struct, frozen=True, gc=False):
    """The price of a request that is running; `amount` is the total of the voucher it came with."""

    price: int
    amount: int
    deadline_ms: int


class ChainState(msgspec.Struct, frozen=True, gc=False):
    """What the contract records of a channel, as read at `block`, at `read_at_ms` by our clock."""

    balance: int
    claimed: int
    withdraw_amount: int
    withdraw_requested_at: int
    refund_nonce: int
    block: int
    read_at_ms: int


class Refunding(msgspec.Struct, frozen=True, gc=False):
    """A part of the balance that is on its way back to the payer, for a request of its own."""

    amount: int
    deadline_ms: int
    request: str


class Standing(msgspec.Struct, frozen=True, gc=False):
    """What a request needs to know of its channel once it was admitted or charged."""

    chain: ChainState
    charged: int
    held: int


class Channel(msgspec.Struct, frozen=True, gc=False):
    """One channel as the provider knows it.

    `proof` is the highest voucher of before a refund, kept when the refund's own is lower: it is
    what shows a payer how far it has signed.
    """

    channel_id: bytes
    network: str
    config: ChannelConfig
    chain: ChainState
    charged: int = 0
    voucher: Voucher | None = None
    holds: dict[str, Hold] = {}
    seen: tuple[int, ...] = ()
    floor: int = 0
    refunding: Refunding | None = None
    used_at_ms: int = 0
    done: tuple[str, ...] = ()
    proof: Voucher | None = None

    @property
    def standing(self) -> Standing:
        return Standing(self.chain, self.charged, self.held)

    @property
    def balance(self) -> int:
        """All that was ever deposited, less refunds and withdrawals."""
        return self.chain.balance

    @property
    def claimed(self) -> int:
        return self.chain.claimed

    @property
    def is_unmined(self) -> bool:
        """Whether its balance is the owner's trust and not the chain's word.

        No block has confirmed its deposit; any reading of the chain takes its place.
        """
        return self.chain.block == 0

    @property
    def signed(self) -> int:
        """The highest total that the payer has promised."""
        return self.voucher.amount if self.voucher else self.charged

    @property
    def held(self) -> int:
        return _prices(self.holds)

    @property
    def committed(self) -> int:
        """What is charged, and what will be if every running request succeeds."""
        return self.charged + self.held

    @property
    def remaining(self) -> int:
        """What the payer may still promise."""
        return self.balance - self.committed - (self.refunding.amount if self.refunding else 0)

    @property
    def unclaimed(self) -> int:
        return self.charged - self.claimed

    def closing_at_ms(self) -> int | None:
        """From when on a pending withdrawal leaves too little time to claim; None without one.

        The last two thirds of the delay are the margin in which everything must be claimed: even a
        claimer that is down for half of the delay then comes back in time, whenever that was.
        """
        if not self.chain.withdraw_requested_at:
            return None
        served_seconds = self.config.withdraw_delay_seconds // 3
        return (self.chain.withdraw_requested_at + served_seconds) * 1000

    def stale_at_ms(self) -> int:
        """From when on the chain must be asked again: a withdrawal could be a third through.

        A store's clock that is far ahead of the workers' makes every reading too old, and requests
        are answered by 503 until it is mended: not to know of a withdrawal would cost more. Where
        both agree again, so do these.
        """
        return self.chain.read_at_ms + self.config.withdraw_delay_seconds * 1000 // 3


class RefusedByChannel(Refused):
    """A refusal that shows the payer its own channel, so that both can agree on the total again.

    `zero_charge` is a refund's: its voucher must come to what was charged, and to nothing else.
    """

    def __init__(self, reason: Reason, channel: Channel, zero_charge: bool = False) -> None:
        super().__init__(reason)
        self.channel = channel
        self.zero_charge = zero_charge


class NeedsChain(PaymentError):
    """The channel is unknown, or was last seen on chain too long ago, to decide anything now."""


def check(channel: Channel) -> Channel:
    """The sentences about money that hold after every step; a failure is our own mistake."""
    assert channel.claimed <= channel.charged, "more was claimed than charged"
    assert channel.committed <= channel.signed, "more is owed than was promised"
    assert len(channel.holds) <= MAX_HOLDS, "too many requests in flight"
    assert len(channel.seen) <= WINDOW_VOUCHERS, "the window grew"
    assert len(channel.done) <= REMEMBERED_CHARGES
    for hold in channel.holds.values():
        assert hold.amount > 0 < hold.price
    return channel


def open_channel(
    channel_id: bytes,
    network: str,
    config: ChannelConfig,
    chain: ChainState,
    evidence: int,
    proof: Voucher | None = None,
) -> Channel:
    """A record for a channel that the store does not know.

    `evidence` is the total that the payer's own signature implies was charged before (voucher less
    price; zero for a channel that just began). Nothing at or below it is accepted again. `proof` is
    that signature: whatever becomes of its request, what is owed can be claimed by it, and its
    payer can be shown how far it has signed.
    """
    charged = max(chain.claimed, min(evidence, chain.balance))
    voucher = proof if proof and 0 < charged <= proof.amount else None
    return Channel(channel_id, network, config, chain, charged, voucher, floor=charged)


def observe(channel: Channel, chain: ChainState) -> Channel:
    """Takes over what the chain says; an older reading than the last one is ignored."""
    if chain.block < channel.chain.block:
        return channel
    return msgspec.structs.replace(
        channel, chain=chain, charged=max(channel.charged, chain.claimed)
    )


def reserve(channel: Channel, voucher: Voucher, price: int, request: str, now_ms: int) -> Channel:
    """Admits a request: holds its price and remembers its voucher.

    The signature was checked before. Asking again for the same request gives the same answer.
    Raises RefusedByChannel, or NeedsChain when what the chain said last is too old.
    """
    assert price > 0
    held = channel.holds.get(request)
    if held is not None:
        if held.price == price and held.amount == voucher.amount:
            return channel
        _refuse(Reason.PAYMENT_ID_REUSED, channel)
    if now_ms >= channel.stale_at_ms():
        raise NeedsChain("what the chain said last is too old")
    if channel.refunding and _is_overdue(channel.refunding, channel.chain, now_ms):
        raise NeedsChain("a refund was sent and never confirmed")
    if channel.refunding or channel.holds:
        channel = _without_expired(channel, now_ms)
    _refuse_unfit(channel, voucher.amount, price, now_ms)
    seen, floor = _remember(channel.seen, channel.floor, voucher.amount)
    hold = Hold(price, voucher.amount, now_ms + HOLD_MS)
    known = channel.voucher
    return msgspec.structs.replace(
        channel,
        voucher=known if known and known.amount >= voucher.amount else voucher,
        holds={**channel.holds, request: hold},
        seen=seen,
        floor=floor,
        used_at_ms=now_ms,
    )


def _is_overdue(refunding: Refunding, chain: ChainState, now_ms: int) -> bool:
    """Whether what was set aside may have left by now, and the chain was not asked since."""
    return refunding.deadline_ms <= now_ms and chain.read_at_ms < refunding.deadline_ms


def _refuse_unfit(channel: Channel, amount: int, price: int, now_ms: int) -> None:
    """The conditions under which a voucher buys nothing, in the order that helps the payer."""
    closing = channel.closing_at_ms()
    if closing is not None and now_ms >= closing:
        _refuse(Reason.CHANNEL_CLOSING, channel)
    left = channel.balance - (channel.refunding.amount if channel.refunding else 0)
    wanted = channel.committed + price
    if amount > left:
        _refuse(Reason.EXCEEDS_BALANCE, channel)
    if amount <= channel.claimed:
        _refuse(Reason.BELOW_CLAIMED, channel)
    if not _fresh(channel, amount):
        _refuse(Reason.CUMULATIVE_MISMATCH, channel)
    if wanted > amount and wanted > channel.signed:
        _refuse(Reason.CUMULATIVE_MISMATCH, channel)
    # A voucher from before a withdrawal may promise more than the balance that is left.
    if wanted > left:
        _refuse(Reason.EXCEEDS_BALANCE, channel)
    if len(channel.holds) >= MAX_HOLDS:
        _refuse(Reason.CHANNEL_BUSY, channel)


def charge(channel: Channel, request: str, amount: int, remember: bool = True) -> Channel:
    """Turns a hold into a charge of `amount`, at most its price. Raises HoldLost.

    A charge of nothing is a release: the voucher bought nothing, so it may buy something later.
    Charging the same request again, because the first answer was lost, changes nothing; `remember`
    is False when somebody else sees to that.
    """
    hold = channel.holds.get(request)
    if hold is None and request in channel.done:
        return channel
    hold = _known(hold)
    assert 0 <= amount <= hold.price, "a charge is never above its price"
    charged, holds = channel.charged + amount, _without(channel.holds, request)
    seen = channel.seen if amount else _good_again(channel.seen, hold.amount)
    signed = channel.voucher.amount if channel.voucher else charged
    floor = channel.floor
    if charged + _prices(holds) == signed:
        seen, floor = _shortened(seen, floor, holds, signed)
    done = channel.done
    if remember:
        done = done[1 - REMEMBERED_CHARGES :]
        done += (request,)
    return msgspec.structs.replace(
        channel, charged=charged, holds=holds, seen=seen, floor=floor, done=done
    )


def _shortened(
    seen: tuple[int, ...], floor: int, holds: dict[str, Hold], signed: int
) -> tuple[tuple[int, ...], int]:
    """The window when nothing that was promised is outstanding.

    Then every voucher that was signed has arrived, and only those of running requests can become
    good again, so the floor may rise to just below the lowest of them.
    """
    if not holds:
        floor = max(floor, signed)
    elif len(seen) > WINDOW_VOUCHERS // 2:
        floor = max(floor, min([hold.amount for hold in holds.values()]) - 1)
    else:
        return seen, floor
    return seen[bisect_right(seen, floor) :], floor


def release(channel: Channel, request: str) -> Channel:
    """Drops a hold uncharged and makes its voucher good again. Raises HoldLost."""
    hold = _known(channel.holds.get(request))
    return msgspec.structs.replace(
        channel,
        holds=_without(channel.holds, request),
        seen=_good_again(channel.seen, hold.amount),
    )


def renew(channel: Channel, request: str, now_ms: int) -> Channel:
    """Keeps the hold of a request that still runs. Raises HoldLost."""
    hold = _known(channel.holds.get(request))
    kept = Hold(hold.price, hold.amount, now_ms + HOLD_MS)
    return msgspec.structs.replace(channel, holds={**channel.holds, request: kept})


def begin_refund(
    channel: Channel, voucher: Voucher | None, amount: int | None, request: str, now_ms: int
) -> Channel:
    """Sets aside what goes back to the payer (all that is left when `amount` is None).

    The voucher is zero-charge: it promises exactly what was charged. It takes the place of all
    earlier ones, which buy nothing from now on. Without one it is the provider's own wish, and the
    voucher that is known must say just that. Asking again for the same request gives the same
    answer. Raises RefusedByChannel.
    """
    under_way = channel.refunding
    if under_way and under_way.request == request and under_way.deadline_ms > now_ms:
        return channel
    channel = _without_expired(channel, now_ms)
    if channel.holds or channel.refunding:
        _refuse(Reason.CHANNEL_BUSY, channel)
    shown = voucher or channel.voucher
    # Without any signature nothing can be claimed, so nothing may be owed.
    if (shown.amount if shown else channel.claimed) != channel.charged:
        _refuse(Reason.CUMULATIVE_MISMATCH, channel)
    left = channel.balance - channel.charged
    if left <= 0:
        _refuse(Reason.REFUND_NOTHING_LEFT, channel)
    if amount is not None and not 0 < amount <= left:
        _refuse(Reason.REFUND_AMOUNT, channel)
    return msgspec.structs.replace(
        channel,
        voucher=shown,
        proof=highest_voucher(channel) if channel.signed > channel.charged else channel.proof,
        seen=(),
        floor=max(channel.floor, channel.signed, *channel.seen),
        refunding=Refunding(amount or left, now_ms + REFUND_MS, request),
    )


def end_refund(channel: Channel, chain: ChainState | None) -> Channel:
    """The refund was mined and `chain` is what the contract says now, or it was given up (None)."""
    channel = msgspec.structs.replace(channel, refunding=None)
    return observe(channel, chain) if chain else channel


def highest_voucher(channel: Channel) -> Voucher | None:
    """The highest total that the payer has ever signed here, as far as we can show it."""
    known = [voucher for voucher in (channel.voucher, channel.proof) if voucher]
    return max(known, key=lambda voucher: voucher.amount, default=None)


def agreeable_total(channel: Channel, price: int) -> int:
    """The total to which a payer that signs `total + price` should count itself.

    What was charged and is held; but where that comes to an amount that was used before, and so
    buys nothing, the highest that the payer has signed. A serial client that reads no correction
    stops there: it signs again what it had signed for a metered answer that cost less. To take that
    for a new payment would be to take a captured one for new too, as both are the same bytes.
    """
    if _fresh(channel, channel.committed + price):
        return channel.committed
    highest = highest_voucher(channel)
    return max(channel.committed, highest.amount if highest else 0)


def _refuse(reason: Reason, channel: Channel) -> Never:
    raise RefusedByChannel(reason, channel)


def _known(hold: Hold | None) -> Hold:
    if hold is None:
        raise HoldLost("the hold of this request is gone")
    return hold


def _prices(holds: dict[str, Hold]) -> int:
    held = 0
    for hold in holds.values():
        held += hold.price
    return held


def _without(holds: dict[str, Hold], request: str) -> dict[str, Hold]:
    if len(holds) == 1:
        return {}  # a copy that is emptied would keep its room, in every idle channel
    left = holds.copy()
    del left[request]
    return left


def _without_expired(channel: Channel, now_ms: int) -> Channel:
    """Without holds whose worker died, and without a refund that nobody waits for any more.

    Nothing was charged for such a request, and nothing can be any more, so its voucher is good
    again: a payer that signs one total after the other could not go on without it.
    """
    refunding = channel.refunding
    if refunding and refunding.deadline_ms <= now_ms:
        refunding = None
    dead = [key for key, hold in channel.holds.items() if hold.deadline_ms <= now_ms]
    if not dead and refunding is channel.refunding:
        return channel
    holds, seen = channel.holds.copy(), channel.seen
    for key in dead:
        seen = _good_again(seen, holds.pop(key).amount)
    return msgspec.structs.replace(channel, holds=holds, seen=seen, refunding=refunding)


# -- The window: totals that have come, in ascending order. Most come in that order. ---------------


def _fresh(channel: Channel, amount: int) -> bool:
    seen = channel.seen
    if amount <= channel.floor:
        return False
    return not seen or amount > seen[-1] or seen[bisect_left(seen, amount)] != amount


def _remember(seen: tuple[int, ...], floor: int, amount: int) -> tuple[tuple[int, ...], int]:
    """The window with one more amount; what falls out below raises the floor."""
    if not seen or amount > seen[-1]:
        seen += (amount,)
    else:
        at = bisect_left(seen, amount)
        seen = (*seen[:at], amount, *seen[at:])
    if len(seen) > WINDOW_VOUCHERS:
        return seen[1:], seen[0]
    return seen, floor


def _good_again(seen: tuple[int, ...], amount: int) -> tuple[int, ...]:
    """The window without an amount; it may have fallen out of it already."""
    at = bisect_left(seen, amount)
    return seen[:at] + seen[bisect_right(seen, amount) :]
