"""Transactions of one gas wallet: priced, numbered, written down, sent once, and waited for.

All transactions of a wallet stand in one line, for the chain takes them by number. Numbers are
given and transactions sent one at a time; receipts are awaited side by side. When a number turns
out wrong (another process uses the wallet, the pool forgot one), the line is read from the chain
again.

A call is signed once. While its fate is unknown it is remembered by what it does, and asking for
the same again sends the same bytes again: it never becomes two transactions. One that is stuck is
replaced: the same call under the same number at a higher fee, so that at most one of them is mined.
One whose number was used by somebody else's transaction is lost, and the call is signed anew.
When a number before it is missing (a *gap*: the pool forgot a transaction), what had that number is
sent again, and if nobody knows it the call itself takes the number; every call of ours that is
mined twice does nothing the second time. A caller that keeps books (`written`) is told of each
signature before it leaves, and may forbid it by raising.

So the outcomes are: mined; `Reverted`, when repeating is useless; `TransactionPending`, when it may
be on its way; and other `ChainUnavailable`, when nothing was sent.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from random import random
from typing import Final

from paywall.chain.gas import Call, Fees, GasWallet, Receipt, Sent, Signed
from paywall.chain.post import Post
from paywall.chain.pricing import Pricing
from paywall.chain.rpc import Rpc, RpcRefused
from paywall.protocol.errors import (
    ChainUnavailable,
    OutOfGas,
    Reverted,
    TransactionPending,
)
from paywall.protocol.limits import MAX_TRANSACTION_VERSIONS, MAX_UNRESOLVED_TRANSACTIONS
from paywall.protocol.money import chain_id_of

log = logging.getLogger("paywall.chain")

FIRST_POLL_SECONDS: Final = 0.05
LAST_POLL_SECONDS: Final = 1.0
STUCK_SECONDS: Final = 15.0
"""A transaction that was not mined for so long is looked after."""
NUMBERINGS: Final = 10
NUMBERING_PAUSE_SECONDS: Final = 0.2
"""At most; by lot, for those who lost a number to each other would meet again otherwise."""

Written = Callable[[Sent], Awaitable[None]]


class Sender:
    """Sends the transactions of one wallet to one network."""

    def __init__(
        self,
        rpc: Rpc,
        wallet: GasWallet,
        network: str,
        *,
        confirmations: int,
        timeout_seconds: float,
        max_fee_wei: int | None,
        stuck_seconds: float = STUCK_SECONDS,
    ) -> None:
        self.wallet = wallet
        self._rpc = rpc
        self._network = network
        self._chain_id = chain_id_of(network)
        self._confirmations = confirmations
        self._timeout_seconds = timeout_seconds
        self.pricing = Pricing(rpc, wallet.address, network, max_fee_wei)
        self._post = Post(rpc, wallet, self.pricing)
        self._stuck_seconds = stuck_seconds
        self._line = asyncio.Lock()
        self._next: int | None = None
        self._unresolved: dict[Call, Sent] = {}

    async def transact(self, call: Call, written: Written | None = None) -> Receipt:
        """Simulates, sends and waits. Raises Reverted, OutOfGas, TransactionPending, or other
        ChainUnavailable.
        """
        deadline = self._deadline()
        lost = b""
        while True:
            try:
                sent = await self._flying(call, deadline, written)
            except ChainUnavailable as error:
                if lost:  # an endpoint may be wrong about that, so this is no "nothing was sent"
                    raise TransactionPending(f"lost, and not sent again: {error}", lost) from error
                raise
            except Reverted as error:
                if lost:
                    raise Reverted(error.reason, error.transaction, has_left=True) from error
                raise
            if receipt := await self._outcome(sent, deadline, written):
                return receipt
            lost = sent.latest.transaction

    async def resume(self, sent: Sent, written: Written | None = None) -> Receipt | None:
        """Waits for what was sent before, perhaps by a process that has died.

        None when it can never be mined. Raises as `transact` does.
        """
        deadline = self._deadline()
        sent = self._unresolved.setdefault(sent.call, sent)
        if not await self._alive(sent):
            self._unresolved.pop(sent.call, None)
            return None
        return await self._outcome(sent, deadline, written)

    async def catch_up(self, call: Call) -> None:
        """Waits for a transaction that does the same and whose fate is unknown, if there is one.

        For calls that mean something new each time. Raises ChainUnavailable.
        """
        if call in self._unresolved:
            with suppress(Reverted):
                await self.transact(call)

    # -- Sending ---------------------------------------------------------------------------------

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._timeout_seconds

    async def _flying(self, call: Call, deadline: float, written: Written | None) -> Sent:
        """What was sent before to do this and may still be mined, or is sent now."""
        sent = self._unresolved.get(call)
        if sent and await self._alive(sent):
            return sent
        return await self._send(call, deadline, sent, written)

    async def _alive(self, sent: Sent) -> bool:
        """Whether a transaction of unknown fate may still be mined; it is sent again if need be."""
        for version in sent.versions:
            if await self._post.surely_has(version):
                return True
        try:
            return await self._post.submit(sent.latest)
        except OutOfGas:
            if sent.wallet == self.wallet.address:
                raise
            return False  # of a wallet that its owner has emptied and given up
        except (RpcRefused, Reverted):
            return False

    async def _send(
        self, call: Call, deadline: float, instead_of: Sent | None, written: Written | None
    ) -> Sent:
        gas = await self.pricing.gas_of(call) * 6 // 5
        fees = self.pricing.affordable(await self.pricing.fees(), gas)
        async with self._turn(deadline):
            sent = self._unresolved.get(call)
            if sent is not None and sent is not instead_of:
                return sent  # somebody else asked for the same meanwhile
            for turn in range(NUMBERINGS):
                await asyncio.sleep(random() * min(turn, 1) * NUMBERING_PAUSE_SECONDS)
                signed = self._signed(call, await self._number(), gas, fees)
                sent = Sent(call, self.wallet.address, (signed,))
                if await self._taken(sent, None, written):
                    self._next = signed.transaction_nonce + 1
                    return sent
        raise ChainUnavailable(f"{self._rpc} takes no transaction number that it gives")

    def _signed(self, call: Call, number: int, gas: int, fees: Fees) -> Signed:
        return self.wallet.sign(call, self._chain_id, number, gas, fees)

    @asynccontextmanager
    async def _turn(self, deadline: float) -> AsyncIterator[None]:
        """This caller's turn to send; whoever waits too long has sent nothing."""
        try:
            async with asyncio.timeout_at(deadline):
                await self._line.acquire()
        except TimeoutError:
            raise ChainUnavailable(f"{self._rpc}: other transactions take too long") from None
        try:
            yield
        finally:
            self._line.release()

    async def _number(self) -> int:
        """The next number. It counts as unknown until it was taken, whatever happens to us."""
        number, self._next = self._next, None
        return await self._post.count("pending") if number is None else number

    async def _taken(self, sent: Sent, before: Sent | None, written: Written | None) -> bool:
        """Submits, and remembers the transaction unless the node surely does not have it."""
        if written is not None:
            await written(sent)
        while len(self._unresolved) >= MAX_UNRESOLVED_TRANSACTIONS:
            self._unresolved.pop(next(iter(self._unresolved)))
        self._unresolved[sent.call] = sent
        try:
            taken = await self._post.submit(sent.latest)
        except (RpcRefused, OutOfGas, Reverted):
            self._restore(sent.call, before)
            raise
        if not taken:
            self._restore(sent.call, before)
        return taken

    def _restore(self, call: Call, before: Sent | None) -> None:
        if before is None:
            self._unresolved.pop(call, None)
        else:
            self._unresolved[call] = before

    # -- Waiting ---------------------------------------------------------------------------------

    async def _outcome(
        self, sent: Sent, deadline: float, written: Written | None
    ) -> Receipt | None:
        """The receipt; None when there never will be one."""
        receipt = await self._mined(sent, deadline, written)
        if receipt is None:
            return None
        self._unresolved.pop(sent.call, None)
        if not receipt.succeeded:
            raise Reverted("the transaction was mined and reverted", receipt.transaction)
        return receipt

    async def _mined(self, sent: Sent, deadline: float, written: Written | None) -> Receipt | None:
        pause, clock = FIRST_POLL_SECONDS, asyncio.get_running_loop().time
        stuck_at = clock() + self._stuck_seconds
        try:
            async with asyncio.timeout_at(deadline):
                while (receipt := await self._confirmed(sent)) is None:
                    await asyncio.sleep(pause)
                    pause = min(1.5 * pause, LAST_POLL_SECONDS)
                    if clock() >= stuck_at:
                        if not await self._look_after(sent, deadline, written):
                            self._forget(sent)
                            return None
                        stuck_at = clock() + self._stuck_seconds
                    sent = self._now(sent)
        except TimeoutError:
            self._next = None  # perhaps the pool forgot it, and its number is free
            latest = self._now(sent).latest.transaction
            raise TransactionPending("sent, and not mined in time", latest) from None
        return receipt

    def _forget(self, sent: Sent) -> None:
        """It is lost, unless somebody who waits for the same has signed it anew."""
        self._next = None
        if self._unresolved.get(sent.call) is sent:
            del self._unresolved[sent.call]

    def _now(self, sent: Sent) -> Sent:
        """With the versions that have replaced it since.

        Somebody else who waits for the same may have seen its end: then what we know is all of it.
        """
        return self._unresolved.get(sent.call, sent)

    async def _confirmed(self, sent: Sent) -> Receipt | None:
        """The receipt once it is deep enough; None when it is not, or nobody says."""
        for version in reversed(sent.versions):
            with suppress(ChainUnavailable):
                if receipt := await self._post.receipt(version, self._confirmations):
                    return receipt
        return None

    async def _look_after(self, sent: Sent, deadline: float, written: Written | None) -> bool:
        """Does what can be done for a transaction that is stuck. Whether it may still be mined.

        Whatever fails, it is waited for. Two that wait for the same take turns, and the second
        finds that it was done.
        """
        try:
            if await self._is_lost(sent):
                return False
            async with self._turn(deadline):
                if (
                    self._unresolved.get(sent.call) is sent
                    and len(sent.versions) < MAX_TRANSACTION_VERSIONS
                ):
                    await self._unstick(sent, written)
        except (ChainUnavailable, Reverted) as error:
            log.warning("a transaction is stuck on %s: %s", self._network, error)
        return True

    async def _is_lost(self, sent: Sent) -> bool:
        """Whether somebody else's transactions were mined under all of its numbers."""
        highest = max(version.transaction_nonce for version in sent.versions)
        if await self._post.count("latest", sent.wallet) <= highest:
            return False
        return not any([await self._post.has(version) for version in sent.versions])

    async def _unstick(self, sent: Sent, written: Written | None) -> None:
        number = sent.latest.transaction_nonce
        if sent.wallet != self.wallet.address or await self._post.count("latest") > number:
            return  # another wallet's, or mined: its receipt will come
        missing = await self._post.count("pending")
        if missing >= number:
            fees = (await self.pricing.fees()).instead_of(sent.latest.fees)
            return await self._replace(sent, number, fees, written)
        self._next = None
        await self._send_again(missing, number)
        if await self._post.count("pending") == missing:
            await self._replace(sent, missing, await self.pricing.fees(), written)

    async def _send_again(self, first: int, last: int) -> None:
        """What we know of these numbers; one that the node will not take does not keep the rest."""
        for other in list(self._unresolved.values()):
            if first <= other.latest.transaction_nonce <= last:
                with suppress(ChainUnavailable, Reverted):
                    await self._post.submit(other.latest)

    async def _replace(self, sent: Sent, number: int, fees: Fees, written: Written | None) -> None:
        """The same call once more: for more under the same number, or under one that is missing."""
        gas = sent.latest.gas
        signed = self._signed(sent.call, number, gas, self.pricing.affordable(fees, gas))
        if await self._taken(sent.also(signed), sent, written):
            log.info("0x%s stands for one that is stuck", signed.transaction.hex())
