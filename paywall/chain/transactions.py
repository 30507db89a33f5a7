"""Transactions of one gas wallet: priced, numbered, sent once, and waited for.

All transactions of a wallet stand in one line, for the chain takes them by number. Numbers are
given and transactions sent one at a time; receipts are awaited side by side. When a number turns
out wrong (another process uses the wallet, the pool forgot one), the line is read from the chain
again.

A transaction is signed once. While its fate is unknown it is remembered by what it does, and
asking for the same again sends the same bytes again: it never becomes two transactions. So the
outcomes are: mined; `Reverted`, when repeating is useless; `TransactionPending`, when it may be on
its way; and other `ChainUnavailable`, when nothing was sent.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from paywall.chain.gas import Call, Fees, GasWallet, Receipt, Signed, base_fee_of, receipt_of
from paywall.chain.rpc import Rpc, RpcRefused, octets, presence, quantity
from paywall.protocol.errors import (
    ChainUnavailable,
    OutOfGas,
    Reverted,
    TransactionPending,
)
from paywall.protocol.money import chain_id_of
from paywall.protocol.x402 import show_address, show_bytes

MAX_GAS: Final = 60_000_000
MAX_UNRESOLVED: Final = 1024
MAX_FEE_PER_GAS_WEI: Final = 10**15
FIRST_POLL_SECONDS: Final = 0.05
LAST_POLL_SECONDS: Final = 1.0
NUMBERINGS: Final = 3
SENDINGS: Final = 2

_ALREADY_KNOWN = re.compile(
    r"already ?known|known transaction|already imported|already exists", re.IGNORECASE
)
_WRONG_NUMBER = re.compile(r"nonce|replac", re.IGNORECASE)
_EMPTY_WALLET = re.compile(
    r"insufficient (?:funds|balance)|enough (?:funds|balance)|gas required exceeds allowance",
    re.IGNORECASE,
)


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
    ) -> None:
        self.wallet = wallet
        self._rpc = rpc
        self._network = network
        self._chain_id = chain_id_of(network)
        self._confirmations = confirmations
        self._timeout_seconds = timeout_seconds
        self._max_fee_wei = max_fee_wei
        self._line = asyncio.Lock()
        self._next: int | None = None
        self._unresolved: dict[Call, Signed] = {}

    async def transact(self, call: Call) -> Receipt:
        """Simulates, sends and waits. Raises Reverted, OutOfGas, TransactionPending, or other
        ChainUnavailable.
        """
        deadline = asyncio.get_running_loop().time() + self._timeout_seconds
        signed = self._unresolved.get(call)
        if signed is None or not await self._alive(signed):
            signed = await self._send(call, deadline, instead_of=signed)
        receipt = await self._mined(signed, deadline)
        self._unresolved.pop(call, None)
        if not receipt.succeeded:
            raise Reverted("the transaction was mined and reverted", signed.transaction)
        return receipt

    async def catch_up(self, call: Call) -> None:
        """Waits for a transaction that does the same and whose fate is unknown, if there is one.

        For calls that mean something new each time. Raises ChainUnavailable.
        """
        if call in self._unresolved:
            with suppress(Reverted):
                await self.transact(call)

    async def _alive(self, signed: Signed) -> bool:
        """Whether a transaction of unknown fate may still be mined; it is sent again if need be."""
        try:
            return await self._known(signed) or await self._submit(signed)
        except (RpcRefused, Reverted):
            return False

    async def _send(self, call: Call, deadline: float, instead_of: Signed | None) -> Signed:
        gas = await self._gas(call)
        fees = self._affordable(await self._fees(), gas)
        async with self._turn(deadline):
            sent = self._unresolved.get(call)
            if sent is not None and sent is not instead_of:
                return sent  # somebody else asked for the same meanwhile
            for _ in range(NUMBERINGS):
                signed = self.wallet.sign(call, self._chain_id, await self._number(), gas, fees)
                if await self._taken(call, signed):
                    self._next = signed.transaction_nonce + 1
                    return signed
        raise ChainUnavailable(f"{self._rpc} takes no transaction number that it gives")

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
        if number is not None:
            return number
        holder = show_address(self.wallet.address)
        return await self._rpc.ask(quantity, "eth_getTransactionCount", holder, "pending")

    async def _taken(self, call: Call, signed: Signed) -> bool:
        """Submits, and remembers the transaction unless the node surely does not have it."""
        while len(self._unresolved) >= MAX_UNRESOLVED:
            self._unresolved.pop(next(iter(self._unresolved)))
        self._unresolved[call] = signed
        try:
            taken = await self._submit(signed)
        except (RpcRefused, OutOfGas, Reverted):
            self._unresolved.pop(call, None)
            raise
        if not taken:
            self._unresolved.pop(call, None)
        return taken

    async def _submit(self, signed: Signed) -> bool:
        """Hands the transaction to the node; False when its number is wrong.

        A reply that was lost says nothing, so the same bytes are sent once more.
        """
        for _ in range(SENDINGS):
            try:
                await self._rpc.ask(octets, "eth_sendRawTransaction", show_bytes(signed.raw))
                return True
            except RpcRefused as refusal:
                if _ALREADY_KNOWN.search(refusal.text) or await self._known(signed):
                    return True
                if _WRONG_NUMBER.search(refusal.text):
                    return False
                if refusal.reverted:
                    raise Reverted(refusal.reason) from None
                await self._raise_if_empty(refusal, signed.ceiling_wei)
                raise
            except ChainUnavailable:
                continue
        raise TransactionPending(f"{self._rpc} may have a transaction", signed.transaction)

    async def _known(self, signed: Signed) -> bool:
        try:
            return await self._rpc.ask(
                presence, "eth_getTransactionByHash", show_bytes(signed.transaction)
            )
        except ChainUnavailable:
            return False

    async def _gas(self, call: Call) -> int:
        """Gas with a fifth to spare. This is the simulation too: what would revert is not sent."""
        question = {
            "from": show_address(self.wallet.address),
            "to": show_address(call.to),
            "data": show_bytes(call.data),
        }
        try:
            gas = await self._rpc.ask(quantity, "eth_estimateGas", question)
        except RpcRefused as refusal:
            if refusal.reverted:
                raise Reverted(refusal.reason) from None
            await self._raise_if_empty(refusal, 1)
            raise
        if not 21_000 <= gas <= MAX_GAS:
            raise ChainUnavailable(f"{self._rpc} estimates {gas} units of gas")
        return gas * 6 // 5

    async def _fees(self) -> Fees:
        """Twice the base fee, for it may rise while we wait, and what block makers ask on top."""
        base = await self._rpc.ask(base_fee_of, "eth_getBlockByNumber", "latest", False)
        if base is None:
            return Fees(await self._rpc.ask(quantity, "eth_gasPrice"), None)
        try:
            tip = await self._rpc.ask(quantity, "eth_maxPriorityFeePerGas")
        except RpcRefused:
            tip = max(0, await self._rpc.ask(quantity, "eth_gasPrice") - base)
        return Fees(2 * base + tip, tip)

    def _affordable(self, fees: Fees, gas: int) -> Fees:
        """The fees, unless the owner's ceiling for one transaction forbids them."""
        if fees.max_wei > MAX_FEE_PER_GAS_WEI:
            raise ChainUnavailable(f"{self._rpc} names an absurd price of gas")
        if self._max_fee_wei is not None and gas * fees.max_wei > self._max_fee_wei:
            raise ChainUnavailable(
                f"gas is too dear on {self._network}: up to {gas * fees.max_wei} wei,"
                f" and {self._max_fee_wei} are allowed"
            )
        return fees

    async def _raise_if_empty(self, refusal: RpcRefused, needed_wei: int) -> None:
        """Raises OutOfGas when the wallet cannot pay; otherwise the refusal had another cause."""
        wallet = show_address(self.wallet.address)
        balance = await self._rpc.ask(quantity, "eth_getBalance", wallet, "latest")
        if balance < needed_wei or _EMPTY_WALLET.search(refusal.text):
            raise OutOfGas(f"the gas wallet {wallet} is empty on {self._network}") from None

    async def _mined(self, signed: Signed, deadline: float) -> Receipt:
        pause = FIRST_POLL_SECONDS
        try:
            async with asyncio.timeout_at(deadline):
                while (receipt := await self._confirmed(signed)) is None:
                    await asyncio.sleep(pause)
                    pause = min(1.5 * pause, LAST_POLL_SECONDS)
        except TimeoutError:
            self._next = None  # perhaps the pool forgot it, and its number is free
            raise TransactionPending("sent, and not mined in time", signed.transaction) from None
        return receipt

    async def _confirmed(self, signed: Signed) -> Receipt | None:
        """The receipt once it is deep enough; None when it is not, or nobody says."""
        try:
            receipt = await self._rpc.ask(
                receipt_of, "eth_getTransactionReceipt", show_bytes(signed.transaction)
            )
            if receipt is None or receipt.transaction != signed.transaction:
                return None
            if self._confirmations == 1:
                return receipt
            head = await self._rpc.ask(quantity, "eth_blockNumber")
        except ChainUnavailable:
            return None
        return receipt if head - receipt.block + 1 >= self._confirmations else None
