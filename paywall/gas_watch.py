"""A chain whose owner hears of it when our wallet cannot pay for what payers ask.

A deposit, a refund or a transfer that is not made for lack of gas is 503 for its payer, and the
next claim may be a day away: until then nobody else would tell that new payers are turned away. The
alarm is lifted by the next transaction that this process sees mined. What it does not know: what a
transaction is for.
"""

from collections.abc import Awaitable
from typing import TypeVar

from paywall.alarms import Board, GasTooDear, GasWalletEmpty
from paywall.chain import Chain, Mined
from paywall.chain.own import FeeTooHigh, OwnChain
from paywall.protocol.channel import ChainState, Channel
from paywall.protocol.claims import Batch
from paywall.protocol.eip712 import Authorization
from paywall.protocol.errors import OutOfGas
from paywall.protocol.money import Address
from paywall.protocol.schemes.batch import Deposit
from paywall.protocol.x402 import show_address

_Done = TypeVar("_Done", Mined, Mined | None)


class GasWatch(Chain):
    """Another chain's verbs, and alarms at those that need gas."""

    def __init__(self, chain: Chain, board: Board) -> None:
        self.network = chain.network
        self._chain = chain
        self._board = board
        self._wallet = chain.network
        if isinstance(chain, OwnChain):
            self._wallet = show_address(chain.gas_wallet)

    async def _heard(self, work: Awaitable[_Done]) -> _Done:
        try:
            mined = await work
        except OutOfGas as error:
            self._board.ring(GasWalletEmpty, self._wallet, str(error))
            raise
        except FeeTooHigh as error:
            self._board.ring(GasTooDear, self.network, str(error))
            raise
        if mined:
            self._board.lift(GasWalletEmpty, self._wallet)
            self._board.lift(GasTooDear, self.network)
        return mined

    async def deposit(self, deposit: Deposit) -> Mined | None:
        return await self._heard(self._chain.deposit(deposit))

    async def claim(self, batch: Batch) -> Mined:
        return await self._heard(self._chain.claim(batch))

    async def settle(self, receiver: Address, token: Address) -> Mined | None:
        return await self._heard(self._chain.settle(receiver, token))

    async def refund(self, channel: Channel, amount: int) -> Mined:
        return await self._heard(self._chain.refund(channel, amount))

    async def transfer_with_authorization(
        self, authorization: Authorization, signature: bytes, token: Address
    ) -> Mined | None:
        transfer = self._chain.transfer_with_authorization(authorization, signature, token)
        return await self._heard(transfer)

    # -- What needs no gas -----------------------------------------------------------------------

    async def open(self) -> None:
        await self._chain.open()

    async def close(self) -> None:
        await self._chain.close()

    @property
    def receiver_authorizer(self) -> Address:
        return self._chain.receiver_authorizer

    async def channel(self, channel_id: bytes) -> ChainState:
        return await self._chain.channel(channel_id)

    async def authorization(self, authorization: Authorization, token: Address) -> tuple[bool, int]:
        return await self._chain.authorization(authorization, token)

    async def transferred(self, authorization: Authorization, token: Address) -> Mined | None:
        return await self._chain.transferred(authorization, token)

    async def token_balance(self, token: Address, holder: Address) -> int:
        return await self._chain.token_balance(token, holder)
