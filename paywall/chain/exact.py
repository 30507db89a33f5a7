"""Transfers of the scheme `exact`: a payer's EIP-3009 authorization, submitted by us.

The token remembers every authorization that it used, so a transfer may be asked for again without
being made twice. It counts only when the token's own event shows payer, receiver and value: a token
may say that all went well and move nothing.

Sources: EIP-3009; exact EVM specification, "Phase 3: Settlement Logic".
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

from eth_abi import abi

from paywall.chain import Mined
from paywall.chain.events import Transfer
from paywall.chain.gas import Call, Receipt
from paywall.chain.relay import Relay, events_of
from paywall.protocol.eip712 import Authorization, keccak
from paywall.protocol.errors import Reason, Refused, Reverted
from paywall.protocol.money import Address

_ARGUMENTS: Final = (
    *("address", "address", "uint256", "uint256", "uint256", "bytes32"),
    *("uint8", "bytes32", "bytes32"),
)
_SELECTOR: Final = keccak(f"transferWithAuthorization({','.join(_ARGUMENTS)})".encode())[:4]


def transfer_call(token: Address, authorization: Authorization, signature: bytes) -> Call:
    """The form with v, r and s, which every token of EIP-3009 has."""
    told = authorization
    arguments = (
        *(told.payer, told.to, told.value, told.valid_after, told.valid_before),
        *(told.authorization_nonce, signature[64], signature[:32], signature[32:64]),
    )
    return Call(token, _SELECTOR + abi.encode(_ARGUMENTS, arguments))


def shows_transfer(receipt: Receipt, token: Address, authorization: Authorization) -> bool:
    """Whether the token tells that just this money moved."""
    told = authorization
    return Transfer(token, told.payer, told.to, told.value) in events_of(receipt)


class Transfers:
    """Makes transfers, one of each authorization; `alone` keeps its copies waiting."""

    def __init__(
        self, relay: Relay, alone: Callable[[bytes], AbstractAsyncContextManager[None]]
    ) -> None:
        self._relay = relay
        self._alone = alone

    async def make(
        self, token: Address, authorization: Authorization, signature: bytes
    ) -> Mined | None:
        """None when the authorization was used up before, by whomever and for whatever.

        Raises Refused, TransactionPending, or ChainUnavailable.
        """
        async with self._alone(authorization.authorization_nonce):
            if await self._is_used_up(token, authorization):
                return None
            try:
                receipt = await self._relay.send(transfer_call(token, authorization, signature))
            except Reverted as error:
                if await self._is_used_up(token, authorization):
                    return None
                detail = f"({error.reason})" if error.reason else ""
                raise Refused(Reason.EXACT_SIMULATION, detail) from error
        if not shows_transfer(receipt, token, authorization):
            raise Refused(Reason.EXACT_NO_TRANSFER)
        return Mined(receipt.transaction, receipt.block, receipt.gas, receipt.fee_wei)

    async def _is_used_up(self, token: Address, authorization: Authorization) -> bool:
        used, balance = await self._relay.authorization(token, authorization)
        if not used and balance < authorization.value:
            raise Refused(Reason.EXACT_BALANCE)
        return used
