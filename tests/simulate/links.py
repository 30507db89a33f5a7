"""Ways to the simulated chain, with delays and outages.

`ChainLink` is what one worker has of it: `OwnChain`, as a node with a gas key offers it, with
readings as deep as the owner's confirmations. `OwnersLink` is what an agent's owner has.
"""

from collections.abc import Callable

from paywall.chain import Mined
from paywall.chain.own import Head, InFlight, OwnChain, Seen, Written
from paywall.protocol.channel import ChainState, Channel, ChannelConfig
from paywall.protocol.claims import Batch
from paywall.protocol.eip712 import Authorization
from paywall.protocol.errors import (
    ChainUnavailable,
    Reason,
    Refused,
    Reverted,
    TransactionPending,
)
from paywall.protocol.limits import CHAIN_TIMEOUT_SECONDS
from paywall.protocol.money import Address
from paywall.protocol.schemes.batch import Deposit
from simulate.chain import BLOCK_SECONDS, STUCK_SECONDS, Chain
from simulate.contract import NETWORK, Contract, Revert, Row, Transaction, Work
from simulate.faults import Faults


class ChainLink(OwnChain):
    """One worker's way to the chain. `clock` is the worker's own."""

    network = NETWORK

    def __init__(
        self, chain: Chain, faults: Faults, authorizer: Address, clock: Callable[[], float]
    ) -> None:
        self._chain = chain
        self._pause = chain.loop.pause
        self._faults = faults
        self._authorizer = authorizer
        self._clock = clock
        self._seen = 0

    @property
    def receiver_authorizer(self) -> Address:
        return self._authorizer

    @property
    def gas_wallet(self) -> Address:
        return self._authorizer

    async def open(self) -> None:
        """There is nothing to check."""

    async def close(self) -> None:
        """There is nothing to give back."""

    async def _trip(self) -> None:
        await self._pause(self._faults.delay("chain"))
        if self._faults.strikes("chain unreachable"):
            raise ChainUnavailable("the chain is not reached")

    # -- Reading ---------------------------------------------------------------------------------

    async def channel(self, channel_id: bytes) -> ChainState:
        read_at_ms = int(self._clock() * 1000)
        await self._trip()
        block = self._chain.head - self._chain.confirmations + 1
        if block < self._seen:
            raise ChainUnavailable("the chain shows less than it did")
        return self._chain.state(channel_id, block, read_at_ms)

    async def to_settle(self, receiver: Address, token: Address) -> int:
        await self._trip()
        earned, settled = self._chain.contract.pair("pot", receiver)
        return earned - settled

    async def token_balance(self, token: Address, holder: Address) -> int:
        await self._trip()
        return self._chain.contract.amount("token", holder)

    async def gas_price_wei(self) -> int:
        await self._trip()
        return self._faults.gas_price_wei()

    async def head(self) -> Head:
        await self._trip()
        block = self._chain.contract.blocks[-1]
        return Head(block.number, block.mined_at)

    async def log(self, first: int, last: int) -> list[Seen]:
        await self._trip()
        return [
            Seen((block.name, at), block.number, channel_id)
            for block in self._chain.contract.blocks[max(0, first) : last + 1]
            for at, channel_id in enumerate(block.lines)
        ]

    async def authorization(self, authorization: Authorization, token: Address) -> tuple[bool, int]:
        await self._trip()
        contract, payer = self._chain.contract, authorization.payer
        used = contract.get("used", payer, authorization.authorization_nonce)
        return bool(used), contract.amount("token", payer)

    async def transferred(self, authorization: Authorization, token: Address) -> Mined | None:
        used, _ = await self.authorization(authorization, token)
        told, contract = authorization, self._chain.contract
        found = contract.get("transfer", told.payer, told.authorization_nonce)
        if isinstance(found, tuple) and found[:2] == (told.to, told.value):
            deep = self._chain.head - found[2] + 1 >= self._chain.confirmations
            return _mined(told.authorization_nonce, found[2]) if deep else None
        if contract.blocks[-1].mined_at >= told.valid_before:
            raise Refused(Reason.EXACT_USED if used else Reason.EXACT_EXPIRED)
        return None

    # -- Sending ---------------------------------------------------------------------------------

    async def deposit(self, deposit: Deposit) -> Mined | None:
        await self._trip()
        contract, payer = self._chain.contract, deposit.config.payer
        used = ("used", payer, deposit.authorization().authorization_nonce)
        if contract.get(*used):
            return None
        if contract.amount("token", payer) < deposit.amount:
            raise Refused(Reason.PAYER_BALANCE)
        try:
            return await self._transact(lambda c: c.deposit(deposit))
        except Reverted as error:
            if contract.get(*used):
                return None
            raise Refused(Reason.DEPOSIT_FAILED, f"({error.reason})") from error

    async def transfer_with_authorization(
        self, authorization: Authorization, signature: bytes, token: Address
    ) -> Mined | None:
        told = authorization

        def sending() -> None:
            self._chain.on_transfer(told.authorization_nonce)

        if await self._is_used_up(told, token):
            return None
        try:
            return await self._transact(lambda c: c.transfer(told, signature), sending=sending)
        except Reverted as error:
            if await self._is_used_up(told, token):
                return None
            raise Refused(Reason.EXACT_SIMULATION, f"({error.reason})") from error

    async def _is_used_up(self, told: Authorization, token: Address) -> bool:
        used, balance = await self.authorization(told, token)
        if not used and balance < told.value:
            raise Refused(Reason.EXACT_BALANCE)
        return used

    async def rehearse(self, batch: Batch) -> int:
        await self._trip()
        self._rehearse(_claim_of(batch))
        return 60_000

    async def claim(self, batch: Batch, written: Written | None = None) -> Mined:
        assert batch.receiver_authorizer == self._authorizer
        return await self._transact(_claim_of(batch), written)

    async def settle(
        self, receiver: Address, token: Address, written: Written | None = None
    ) -> Mined | None:
        if await self.to_settle(receiver, token) <= 0:
            return None
        return await self._transact(lambda c: c.settle(receiver), written)

    async def rehearse_settlement(self, receiver: Address, token: Address) -> int:
        await self._trip()
        return 60_000

    async def rehearse_refund(self, channel: Channel, amount: int) -> int:
        await self._trip()
        self._rehearse(_refund_of(channel, amount))
        return 60_000

    async def refund(self, channel: Channel, amount: int) -> Mined:
        return await self._transact(_refund_of(channel, amount))

    async def resume(self, in_flight: InFlight, written: Written | None = None) -> Mined | None:
        await self._trip()
        transaction = self._chain.signed(in_flight.data)
        self._chain.send(transaction)
        return await self._outcome(transaction)

    def _rehearse(self, work: Work) -> None:
        try:
            self._chain.contract.rehearse(work)
        except Revert as reason:
            raise Reverted(str(reason)) from reason

    async def _transact(
        self,
        work: Work,
        written: Written | None = None,
        sending: Callable[[], None] | None = None,
    ) -> Mined:
        await self._trip()
        self._rehearse(work)
        transaction = self._chain.sign(work)
        if written:
            await written(InFlight(transaction.name, transaction.name))
        await self._trip()
        if sending:
            sending()
        self._chain.send(transaction)
        if self._faults.strikes("chain reply lost"):
            raise TransactionPending("nobody said whether it was taken", transaction.name)
        return await self._outcome(transaction)

    async def _outcome(self, transaction: Transaction) -> Mined:
        clock = self._chain.loop.time
        began = clock()
        while clock() < began + CHAIN_TIMEOUT_SECONDS:
            await self._pause(BLOCK_SECONDS)
            if transaction.block and self._chain.depth(transaction) >= self._chain.confirmations:
                self._seen = max(self._seen, transaction.block.number)
                if transaction.reverted:
                    raise Reverted(transaction.reverted, transaction.name)
                return _mined(transaction.name, transaction.block.number)
            if clock() > began + STUCK_SECONDS:
                self._chain.send(transaction)
        raise TransactionPending("sent, and not mined in time", transaction.name)


class OwnersLink:
    """What an agent that lost its wallet's file reads: `paywall.recovery.ChannelFinder`."""

    network = NETWORK

    def __init__(self, chain: Chain, faults: Faults) -> None:
        self._chain = chain
        self._faults = faults

    async def _trip(self) -> None:
        await self._chain.loop.pause(self._faults.delay("chain"))
        if self._faults.strikes("chain unreachable"):
            raise ChainUnavailable("the chain is not reached")

    async def channel(self, channel_id: bytes) -> ChainState:
        await self._trip()
        return self._chain.state(channel_id, self._chain.head)

    async def channels_of(self, payer: Address, first: int = 0) -> list[ChannelConfig]:
        await self._trip()
        return [config for config in self._chain.contract.configs.values() if config.payer == payer]

    async def time(self) -> int:
        raise AssertionError("nothing is withdrawn this way here")

    async def initiate_withdraw(self, config: ChannelConfig, amount: int) -> Mined:
        raise AssertionError("nothing is withdrawn this way here")

    async def finalize_withdraw(self, config: ChannelConfig) -> tuple[Mined, int]:
        raise AssertionError("nothing is withdrawn this way here")


def _mined(name: bytes, block: int) -> Mined:
    return Mined(name, block, 60_000, 60_000 * 10**7)


def _row_of(channel: Channel) -> Row | None:
    """The claim of all that a channel owes; None when it owes nothing more."""
    if channel.voucher is None or channel.unclaimed <= 0:
        return None
    voucher = channel.voucher
    return Row(channel.config, voucher.amount, voucher.signature, channel.charged)


def _claim_of(batch: Batch) -> Work:
    rows = [row for channel in batch.channels if (row := _row_of(channel))]
    return lambda contract: contract.claim(rows)


def _refund_of(channel: Channel, amount: int) -> Work:
    """All that is owed is claimed and so much goes back, in one transaction."""
    claim, number = _row_of(channel), channel.chain.refund_nonce

    def work(contract: Contract) -> list[bytes]:
        claimed = contract.claim([claim]) if claim else []
        return [*claimed, *contract.refund(channel.config, amount, number)]

    return work
