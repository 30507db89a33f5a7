"""The way to the chain: what a provider asks of it, whoever carries the question.

`Node` talks to an RPC with a gas key of its own. A chain refuses (`Refused`: the other side's
deposit cannot work) or fails (`ChainUnavailable`: try again later); it never guesses.
"""

from dataclasses import dataclass
from typing import Protocol

from paywall.protocol.channel import ChainState, Channel, ChannelConfig
from paywall.protocol.claims import Batch
from paywall.protocol.eip712 import Authorization
from paywall.protocol.money import Address
from paywall.protocol.schemes.batch import Deposit


@dataclass(frozen=True, slots=True)
class Mined:
    """A transaction that succeeded: its hash, the gas it used, and what that cost in wei."""

    transaction: bytes
    block: int
    gas: int
    fee_wei: int


class Chain(Protocol):
    """One network. Amounts are atomic units of the token.

    `claim`, `settle` and `refund` raise Reverted when the contract will not have them.
    """

    network: str

    async def open(self) -> None:
        """Connects and checks that this is the network it should be. Raises ConfigurationError."""

    async def close(self) -> None: ...

    @property
    def receiver_authorizer(self) -> Address:
        """Whose signature claims and refunds carry."""

    async def channel(self, channel_id: bytes) -> ChainState:
        """What the contract records of a channel, and at which block. Zeros for an unknown one."""

    async def deposit(self, deposit: Deposit) -> Mined | None:
        """Puts a deposit on chain and waits for it; None when it was there already.

        Safe to repeat. Raises Refused when the token or the contract will not take it.
        """

    async def claim(self, batch: Batch) -> Mined:
        """Raises the contract's record to what each channel of the batch has charged."""

    async def settle(self, receiver: Address, token: Address) -> Mined | None:
        """Moves all that was claimed to the receiver; None when there is nothing to move."""

    async def refund(self, channel: Channel, amount: int) -> Mined:
        """Claims what the channel owes and returns `amount` to the payer, in one transaction."""

    async def authorization(self, authorization: Authorization, token: Address) -> tuple[bool, int]:
        """Whether the token knows it as used or cancelled, and the payer's balance."""

    async def transfer_with_authorization(
        self, authorization: Authorization, signature: bytes, token: Address
    ) -> Mined | None:
        """Makes a payer's `exact` transfer and waits for it; None when it was used up before.

        Never sends a second transaction for the same. Raises Refused when the token will not take
        it or shows no such transfer, and TransactionPending when it may still be mined.
        """

    async def transferred(self, authorization: Authorization, token: Address) -> Mined | None:
        """The transaction that made a transfer, whoever sent it; None while it may still be mined.

        Sends nothing. Raises Refused when it never will be: expired, or used for something else.
        """

    async def token_balance(self, token: Address, holder: Address) -> int: ...


__all__ = ["Chain", "ChainState", "ChannelConfig", "Mined"]
