"""Claims and refunds that servers ask of our facilitator, under their signature or under ours.

Source: batch-settlement EVM specification, "Cooperative refund flow", "Facilitator Interface".
"""

from dataclasses import dataclass

from msgspec import UNSET, Raw, UnsetType

from paywall.chain import contract
from paywall.chain.contract import ClaimRow
from paywall.chain.events import Refunded
from paywall.chain.gas import Call, Receipt
from paywall.chain.node import Node
from paywall.chain.relay import events_of
from paywall.facilitator_desk import Denied, Served
from paywall.protocol.channel import ChainState, Channel, Voucher
from paywall.protocol.claims import Batch
from paywall.protocol.eip712 import SETTLEMENT_ADDRESS
from paywall.protocol.errors import ChainUnavailable, Reason, Refused, Reverted
from paywall.protocol.facilitation import (
    AUTHORIZER_MISMATCH,
    AUTHORIZER_MISSING,
    CLAIM_FAILED,
    CLAIM_PAYLOAD,
    CLAIM_SIMULATION,
    REFUND_FAILED,
    REFUND_SIMULATION,
    ClaimAction,
    ClaimWire,
    RefundAction,
    SettleAnswer,
)
from paywall.protocol.limits import MAX_CLAIM_ROWS, UINT128_MAX, UINT256_MAX
from paywall.protocol.money import parse_amount
from paywall.protocol.schemes.batch import RefundPayment, channel_of, channel_state
from paywall.protocol.x402 import encode_json, parse_bytes, show_address, show_bytes


@dataclass(frozen=True, slots=True)
class _Row:
    channel_id: bytes
    row: ClaimRow


class Claims:
    """Carries claims and refunds; signs them itself only when `delegate` allows it."""

    def __init__(self, node: Node, served: Served, delegate: bool) -> None:
        self._node = node
        self._served = served
        self._delegate = delegate

    async def claim(self, action: ClaimAction) -> SettleAnswer:
        if not 0 < len(action.claims) <= MAX_CLAIM_ROWS:
            raise Denied(CLAIM_PAYLOAD, f"A claim has 1 to {MAX_CLAIM_ROWS} rows.")
        rows = [self._row(wire) for wire in action.claims]
        signature = _signature(action.claim_authorizer_signature, CLAIM_PAYLOAD)
        try:
            if signature is None:
                transaction = await self._claim_as_ourselves(rows)
            else:
                data = contract.encode_claim_with_signature([row.row for row in rows], signature)
                transaction = (await self._send(data)).transaction
        except Reverted as error:
            word = CLAIM_FAILED if error.transaction else CLAIM_SIMULATION
            raise Denied(word, f"({error.reason})") from error
        return SettleAnswer(
            success=True,
            transaction=show_bytes(transaction),
            network=self._served.network,
            amount="",
        )

    async def refund(self, action: RefundAction, paid: RefundPayment) -> SettleAnswer:
        """Claims and returns, both or neither."""
        config = paid.payment.config
        try:
            amount = parse_amount(action.amount)
            refund_nonce = parse_amount(action.refund_nonce, UINT256_MAX)
        except ValueError as error:
            raise Denied(Reason.REFUND_PAYLOAD.code, f"({error})") from error
        if len(action.claims) > MAX_CLAIM_ROWS:
            raise Denied(Reason.REFUND_PAYLOAD.code, f"At most {MAX_CLAIM_ROWS} claims.")
        self._served.token(config.token)
        rows = [self._row(wire) for wire in action.claims]
        chain = await self._node.channel(paid.payment.channel_id)
        if chain.balance == 0:
            raise Refused(Reason.CHANNEL_NOT_FOUND)
        owed = [row.row.claimed for row in rows if row.channel_id == paid.payment.channel_id]
        left = chain.balance - max(chain.claimed, *owed, 0)
        if min(amount, left) <= 0:
            raise Refused(Reason.REFUND_NOTHING_LEFT)
        signature = _signature(action.refund_authorizer_signature, Reason.REFUND_PAYLOAD.code)
        try:
            if signature is None:
                if refund_nonce != chain.refund_nonce:
                    raise Denied(REFUND_SIMULATION, "(the refund nonce was used)")
                receipt = await self._refund_as_ourselves(paid, rows, chain, min(amount, left))
            else:
                call = contract.encode_refund_with_signature(
                    config, amount, refund_nonce, signature
                )
                receipt = await self._send(_with_claims(call, rows, action))
        except Reverted as error:
            word = REFUND_FAILED if error.transaction else REFUND_SIMULATION
            raise Denied(word, f"({error.reason})") from error
        return await self._refunded(paid, receipt)

    async def _refunded(self, paid: RefundPayment, receipt: Receipt) -> SettleAnswer:
        channel_id = paid.payment.channel_id
        back = sum(
            event.amount
            for event in events_of(receipt)
            if isinstance(event, Refunded) and event.channel_id == channel_id
        )
        state = channel_state(channel_id, await self._node.channel(channel_id), UNSET)
        return SettleAnswer(
            success=True,
            transaction=show_bytes(receipt.transaction),
            network=self._served.network,
            payer=show_address(paid.payment.config.payer),
            amount=str(back),
            extra=Raw(encode_json({"channelState": state})),
        )

    # -- Under our signature ---------------------------------------------------------------------

    async def _claim_as_ourselves(self, rows: list[_Row]) -> bytes:
        for row in rows:
            self._refuse_to_sign(row.row)
        # The contract knows what each channel holds; it refuses what is above that.
        unread = ChainState(UINT128_MAX, 0, 0, 0, 0, 0, 0)
        channels = tuple(_channel(row, self._served.network, unread) for row in rows)
        claim = Batch(self._served.network, self._node.receiver_authorizer, channels)
        return (await self._node.claim(claim)).transaction

    async def _refund_as_ourselves(
        self, paid: RefundPayment, rows: list[_Row], chain: ChainState, amount: int
    ) -> Receipt:
        payment = paid.payment
        if len(rows) > 1 or any(row.channel_id != payment.channel_id for row in rows):
            raise Denied(Reason.REFUND_PAYLOAD.code, "Only claims of the same channel.")
        row = _Row(
            payment.channel_id,
            ClaimRow(payment.config, payment.voucher.amount, payment.voucher.signature, 0),
        )
        self._refuse_to_sign(row.row)
        if rows:
            channel = _channel(rows[0], self._served.network, chain)
        else:
            channel = _channel(row, self._served.network, chain, charged=chain.claimed)
        mined = await self._node.refund(channel, amount)
        receipt = await self._node.relay.receipt(mined.transaction)
        if receipt is None:
            raise ChainUnavailable("the chain forgot a transaction that it has shown")
        return receipt

    def _refuse_to_sign(self, row: ClaimRow) -> None:
        if not self._delegate:
            raise Denied(AUTHORIZER_MISSING, "Send the receiver authorizer's signature.")
        if row.config.receiver_authorizer != self._node.receiver_authorizer:
            raise Denied(AUTHORIZER_MISMATCH)

    # -- How it is done --------------------------------------------------------------------------

    def _row(self, wire: ClaimWire) -> _Row:
        config, channel_id = channel_of(wire.voucher.channel, self._served.network)
        try:
            amount = parse_amount(wire.voucher.max_claimable_amount)
            claimed = parse_amount(wire.total_claimed)
            signature = parse_bytes(wire.signature, 65)
        except ValueError as error:
            raise Denied(CLAIM_PAYLOAD, f"({error})") from error
        if claimed > amount:
            raise Denied(CLAIM_PAYLOAD, "More is claimed than was promised.")
        return _Row(channel_id, ClaimRow(config, amount, signature, claimed))

    async def _send(self, data: bytes) -> Receipt:
        return await self._node.relay.send(Call(SETTLEMENT_ADDRESS, data))


def _channel(row: _Row, network: str, chain: ChainState, charged: int | None = None) -> Channel:
    """A channel as its server must know it that wants this claimed."""
    told = row.row
    return Channel(
        row.channel_id,
        network,
        told.config,
        chain,
        charged=told.claimed if charged is None else charged,
        voucher=Voucher(told.amount, told.signature),
    )


def _with_claims(call: bytes, rows: list[_Row], action: RefundAction) -> bytes:
    if not rows:
        return call
    signature = _signature(action.claim_authorizer_signature, Reason.REFUND_PAYLOAD.code)
    if signature is None:
        raise Denied(AUTHORIZER_MISSING, "Sign the claims too, or neither.")
    claim = contract.encode_claim_with_signature([row.row for row in rows], signature)
    return contract.encode_multicall([claim, call])


def _signature(text: str | UnsetType | None, word: str) -> bytes | None:
    """A signature, if there is one. Raises Denied."""
    if not isinstance(text, str) or not text:
        return None
    try:
        return parse_bytes(text, 65)
    except ValueError as error:
        raise Denied(word, f"({error})") from error
