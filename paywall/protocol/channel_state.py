"""What a provider knows of a channel: values, and what becomes of them without a request.

Time passes (a hold expires), the chain speaks (a claim, a withdrawal), a record is begun. What a
request or a refund does to a channel is in `paywall.protocol.channel`, and so is the theory.
"""

from typing import Final

import msgspec

from paywall.protocol import eip712, window
from paywall.protocol.errors import PaymentError, Reason, Refused
from paywall.protocol.limits import MAX_HOLDS, REMEMBERED_CHARGES, WINDOW_VOUCHERS
from paywall.protocol.money import Address, chain_id_of


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


def prices_of(holds: dict[str, Hold]) -> int:
    """What all of them come to. A plain loop: it is asked several times for every request."""
    held = 0
    for hold in holds.values():
        held += hold.price
    return held


class ChainState(msgspec.Struct, frozen=True, gc=False):
    """What the contract records of a channel, as read at `block`, at `read_at_ms` by our clock."""

    balance: int
    claimed: int
    withdraw_amount: int
    withdraw_requested_at: int
    refund_nonce: int
    block: int
    read_at_ms: int


AGAIN: Final = "+"
"""Before the request of a refund that takes the place of one of which nobody saw the end."""


class Refunding(msgspec.Struct, frozen=True, gc=False):
    """A part of the balance that is on its way back to the payer, for a request of its own.

    `amount` is what may still leave: zero once the chain has shown the end of it.
    """

    amount: int
    deadline_ms: int
    request: str

    @property
    def is_again(self) -> bool:
        """Whether another one, of which nobody saw the end, may be mined in its place."""
        return self.request.startswith(AGAIN)


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
        return prices_of(self.holds)

    @property
    def committed(self) -> int:
        """What is charged, and what will be if every running request succeeds."""
        return self.charged + self.held

    @property
    def remaining(self) -> int:
        """What the payer may still promise."""
        return self.refundable - (self.refunding.amount if self.refunding else 0)

    @property
    def refundable(self) -> int:
        """What could go back to the payer, with what is on its way already."""
        return self.balance - self.committed

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
    """Takes over what the chain says; an older reading than the last one is ignored.

    A deposit is a use of the channel, which is idle no more: its payer is about to sign for it.
    """
    if chain.block < channel.chain.block:
        return channel
    refunding = channel.refunding
    if refunding and chain.refund_nonce > channel.chain.refund_nonce:
        refunding = msgspec.structs.replace(refunding, amount=0)
    is_funded = chain.balance > channel.balance
    return msgspec.structs.replace(
        channel,
        chain=chain,
        charged=max(channel.charged, chain.claimed),
        refunding=refunding,
        used_at_ms=max(channel.used_at_ms, chain.read_at_ms if is_funded else 0),
    )


def without_expired(channel: Channel, now_ms: int) -> Channel:
    """Without holds whose worker died, and without a refund that is over and was told of.

    Nothing was charged for such a request, and nothing can be any more, so its voucher is good
    again: a payer that signs one total after the other could not go on without it.
    """
    refunding = channel.refunding
    if refunding and refunding.amount == 0 and refunding.deadline_ms <= now_ms:
        refunding = None
    dead = [key for key, hold in channel.holds.items() if hold.deadline_ms <= now_ms]
    if not dead and refunding is channel.refunding:
        return channel
    holds, seen = channel.holds.copy(), channel.seen
    for key in dead:
        seen = window.without(seen, holds.pop(key).amount)
    return msgspec.structs.replace(channel, holds=holds, seen=seen, refunding=refunding)


def highest_voucher(channel: Channel) -> Voucher | None:
    """The highest total that the payer has ever signed here, as far as we can show it."""
    known = [voucher for voucher in (channel.voucher, channel.proof) if voucher]
    return max(known, key=lambda voucher: voucher.amount, default=None)
