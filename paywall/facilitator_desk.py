"""What the desks of our facilitator have in common: what they serve, how they deny, what they sent.

A desk knows one scheme. It answers `/verify` and `/settle` about payments between strangers, and
believes neither of them: all is checked here or by the contracts. A no is `Denied` or `Refused` and
is told in the official words; what is our own fault is `Unavailable`.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Never

import msgspec
from msgspec import UNSET, Raw, UnsetType

from paywall.chain import Mined
from paywall.chain.gas import Receipt
from paywall.chain.node import Node
from paywall.protocol.errors import Reason, TransactionPending
from paywall.protocol.facilitation import (
    INVALID_NETWORK,
    UNSUPPORTED_SCHEME,
    Question,
)
from paywall.protocol.limits import MAX_PENDING_SETTLEMENTS, MIN_AUTHORIZATION_LEFT_SECONDS
from paywall.protocol.money import KNOWN_ASSETS, Address, Asset, parse_address, parse_amount
from paywall.protocol.x402 import Malformed, decode_json, decode_requirements, show_address


class Denied(Exception):
    """A no in one of the official words; `detail` adds what the asker already knows."""

    def __init__(self, word: str, detail: str = "") -> None:
        super().__init__(f"{word} {detail}".rstrip())
        self.word = word
        self.detail = detail


class Served:
    """The tokens that a facilitator moves on its network: others could do anything with its gas."""

    def __init__(self, network: str, assets: Sequence[Asset] | None) -> None:
        self.network = network
        known = KNOWN_ASSETS.values() if assets is None else assets
        self._assets = {asset.address: asset for asset in known if asset.network == network}

    def asset(self, text: str) -> Asset:
        """The token that terms name. Raises Denied."""
        return self.token(address_in(text, "asset"))

    def token(self, address: Address) -> Asset:
        asset = self._assets.get(address)
        if asset is None:
            raise Denied(Reason.OFFER_MISMATCH.code, "This token is not served here.")
        return asset

    def agree(self, question: Question) -> None:
        """Raises Denied unless the payment accepts a scheme and network that is asked for."""
        terms = question.payment_requirements
        try:
            accepted = decode_requirements(question.payment_payload.accepted)
        except Malformed as error:
            raise Denied(Reason.MALFORMED_PAYMENT.code, f"(accepted: {error})") from error
        if accepted.scheme != terms.scheme:
            raise Denied(UNSUPPORTED_SCHEME)
        if accepted.network != terms.network:
            raise Denied(INVALID_NETWORK)


def address_in(text: str, field: str) -> Address:
    """An address of the terms. Raises Denied."""
    try:
        return parse_address(text)
    except ValueError as error:
        _refuse_terms(f"({field}: {error})")


def amount_in(text: str) -> int:
    try:
        return parse_amount(text)
    except ValueError as error:
        _refuse_terms(f"(amount: {error})")


def _refuse_terms(detail: str) -> Never:
    raise Denied(Reason.OFFER_MISMATCH.code, detail)


class Sent:
    """Transactions whose fate was unknown when somebody was told `settlement_pending`.

    Who asks again for the same gets the outcome, once. Everybody else who comes after a settlement
    finds its authorization used: two servers cannot both be paid by it.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._pending: OrderedDict[bytes, bytes] = OrderedDict()

    def knows(self, key: bytes) -> bool:
        return key in self._pending

    def then(self, now: int, valid_before: int) -> int:
        """The time at which something that was sent is judged: it was sent while it was valid."""
        return min(now, valid_before - MIN_AUTHORIZATION_LEFT_SECONDS)

    async def once(
        self,
        key: bytes,
        act: Callable[[], Awaitable[Mined | None]],
        shows: Callable[[Receipt], bool],
    ) -> bytes | None:
        """The transaction that did it; None when it was done before, or by somebody else."""
        try:
            mined = await act()
        except TransactionPending as pending:
            self._pending[key] = pending.transaction
            if len(self._pending) > MAX_PENDING_SETTLEMENTS:
                self._pending.popitem(last=False)
            raise
        remembered = self._pending.pop(key, None)
        if mined:
            return mined.transaction
        receipt = await self._node.relay.receipt(remembered) if remembered else None
        if receipt is None or not receipt.succeeded or not shows(receipt):
            return None
        return receipt.transaction


class _Signer(msgspec.Struct, frozen=True):
    payer: str = msgspec.field(name="from", default="")


class _Config(msgspec.Struct, frozen=True):
    payer: str = ""


class _Payers(msgspec.Struct, frozen=True):
    """Where each scheme says who pays."""

    authorization: _Signer = _Signer()
    config: _Config = msgspec.field(name="channelConfig", default=_Config())


_payers = msgspec.json.Decoder(_Payers)


def payer_of(payload: Raw) -> str | UnsetType:
    """Who a payload says that pays, to be named in an answer; unchecked."""
    try:
        payers = decode_json(_payers, bytes(payload))
        return show_address(parse_address(payers.authorization.payer or payers.config.payer))
    except ValueError:
        return UNSET
