"""What the contracts say, in as few round trips as can be, and each answer of one single block.

Several questions travel as one call of Multicall3, so that a balance and a withdrawal are never
read at two different moments. Whoever waits for confirmations does not count what has none, and
whoever saw a transaction mined does not believe a node that has not seen it yet.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from paywall.chain import contract
from paywall.chain.contract import MULTICALL3_ADDRESS
from paywall.chain.rpc import Rpc, quantity
from paywall.protocol.channel import ChainState
from paywall.protocol.eip712 import (
    COLLECTOR_ADDRESS,
    SETTLEMENT_ADDRESS,
    Authorization,
    keccak,
)
from paywall.protocol.errors import ChainUnavailable, ConfigurationError
from paywall.protocol.money import Address, chain_id_of
from paywall.protocol.schemes.batch import Deposit
from paywall.protocol.x402 import show_address

LAG_PAUSES_SECONDS: Final = (0.1, 0.2, 0.4, 0.8, 1.6, 0.0)
"""How long an endpoint may be behind a block that was seen before."""
_ARBITRUM: Final = (42161, 421614)
"""Here a contract that asks for the block number is told that of another chain."""
_NEEDED: Final = {
    "settlement contract": SETTLEMENT_ADDRESS,
    "deposit collector": COLLECTOR_ADDRESS,
    "Multicall3": MULTICALL3_ADDRESS,
}
_GET_BLOCK_NUMBER: Final = keccak(b"getBlockNumber()")[:4]

T = TypeVar("T")


class Reads:
    """Questions to the contracts of one network. All raise ChainUnavailable."""

    def __init__(
        self, rpc: Rpc, network: str, confirmations: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._rpc = rpc
        self._network = network
        self._chain_id = chain_id_of(network)
        self._confirmations = confirmations
        self._clock = clock
        self._seen_block = 0

    def seen(self, block: int) -> None:
        """Nothing older than this block is believed from now on."""
        self._seen_block = max(self._seen_block, block)

    async def check(self) -> None:
        """Raises ConfigurationError when this is another network, or the contracts are not here."""
        chain_id = await self._rpc.ask(quantity, "eth_chainId")
        if chain_id != self._chain_id:
            raise ConfigurationError(
                f"wrong chain behind the RPC: {self._rpc} is on eip155:{chain_id},"
                f" and {self._network} is asked for"
            )
        for name, address in _NEEDED.items():
            if not await self._rpc.has_code(address):
                raise ConfigurationError(
                    f"{self._network} has no {name} at {show_address(address)}"
                )

    async def channel(self, channel_id: bytes) -> ChainState:
        """What the contract records of a channel; zeros for an unknown one."""
        for pause in LAG_PAUSES_SECONDS:
            state = await self._channel(channel_id)
            if state.block >= self._seen_block:
                return state
            await asyncio.sleep(pause)
        raise ChainUnavailable(f"{self._rpc} is behind a block that was seen before")

    async def authorization(self, deposit: Deposit) -> tuple[bool, int]:
        """Whether the token knows the deposit's authorization as used, and the payer's balance."""
        return await self.authorization_of(deposit.config.token, deposit.authorization())

    async def authorization_of(
        self, token: Address, authorization: Authorization
    ) -> tuple[bool, int]:
        """Whether the token knows an authorization as used, and the payer's balance."""
        payer, authorization_nonce = authorization.payer, authorization.authorization_nonce
        questions = (
            (token, contract.encode_authorization_state(payer, authorization_nonce)),
            (token, contract.encode_balance_of(payer)),
        )
        return await self._at_once(_used_and_balance, questions)

    async def is_used(self, token: Address, payer: Address, authorization_nonce: bytes) -> bool:
        """Whether the token knows this nonce of the payer's as used."""
        question = contract.encode_authorization_state(payer, authorization_nonce)
        return await self._rpc.call(contract.decode_authorization_state, token, question)

    async def to_settle(self, receiver: Address, token: Address) -> int:
        """What was claimed for a receiver and is not in its hands yet."""
        claimed, settled = await self.earned(receiver, token)
        return claimed - settled

    async def earned(self, receiver: Address, token: Address) -> tuple[int, int]:
        """What was ever claimed for a receiver, and what of it was settled."""
        question = contract.encode_receivers(receiver, token)
        totals = await self._rpc.call(contract.decode_receivers, SETTLEMENT_ADDRESS, question)
        return totals.claimed, totals.settled

    async def token_balance(self, token: Address, holder: Address) -> int:
        question = contract.encode_balance_of(holder)
        return await self._rpc.call(contract.decode_balance_of, token, question)

    async def _channel(self, channel_id: bytes) -> ChainState:
        read_at_ms = int(self._clock() * 1000)
        at = await self._confirmed_block()
        questions = (
            (SETTLEMENT_ADDRESS, contract.encode_channels(channel_id)),
            (SETTLEMENT_ADDRESS, contract.encode_pending_withdrawals(channel_id)),
            (SETTLEMENT_ADDRESS, contract.encode_refund_nonce(channel_id)),
            (MULTICALL3_ADDRESS, _GET_BLOCK_NUMBER),
        )
        return await self._at_once(
            lambda answers: _channel_state(answers, at, read_at_ms), questions, at
        )

    async def _confirmed_block(self) -> int | None:
        """The block to read at; None for the newest, which then names itself."""
        if self._confirmations == 1 and self._chain_id not in _ARBITRUM:
            return None
        head = await self._rpc.ask(quantity, "eth_blockNumber")
        return max(0, head - self._confirmations + 1)

    async def _at_once(
        self,
        read: Callable[[Sequence[bytes]], T],
        questions: Sequence[tuple[Address, bytes]],
        block: int | None = None,
    ) -> T:
        def read_all(result: bytes) -> T:
            return read([answer.data for answer in contract.decode_aggregate3(result)])

        data = contract.encode_aggregate3(questions, allow_failure=False)
        return await self._rpc.call(read_all, MULTICALL3_ADDRESS, data, block)


def _channel_state(answers: Sequence[bytes], at: int | None, read_at_ms: int) -> ChainState:
    totals, withdrawal, refund_nonce, block = answers
    balance, claimed = contract.decode_channels(totals)
    withdraw_amount, requested_at = contract.decode_pending_withdrawals(withdrawal)
    return ChainState(
        balance=balance,
        claimed=claimed,
        withdraw_amount=withdraw_amount,
        withdraw_requested_at=requested_at,
        refund_nonce=contract.decode_refund_nonce(refund_nonce),
        block=int.from_bytes(block, "big") if at is None else at,
        read_at_ms=read_at_ms,
    )


def _used_and_balance(answers: Sequence[bytes]) -> tuple[bool, int]:
    used, balance = answers
    return contract.decode_authorization_state(used), contract.decode_balance_of(balance)
