"""Our facilitator's desk for `batch-settlement`: deposits and vouchers looked at, channels served.

`claim` and `refund` are authorized by a channel's receiver authorizer. A server that has that key
sends its signature along, and the contract checks it: anybody may ask. A server may also leave it
to us, by naming our key as the authorizer of its channels. Then whoever may ask for our signature
can have every channel refunded that names it, and take from its receiver what is not claimed yet.
So we sign only when `delegate` says that the callers are known.

Source: batch-settlement EVM specification, "Verification Rules", "Facilitator Interface".
"""

from collections.abc import Callable

import msgspec
from msgspec import UNSET, Raw

from paywall.chain import contract
from paywall.chain.contract import Event
from paywall.chain.events import Deposited, Settled
from paywall.chain.gas import Call, Receipt
from paywall.chain.node import Node
from paywall.chain.relay import events_of
from paywall.facilitator_claims import Claims
from paywall.facilitator_desk import Denied, Sent, Served, address_in, amount_in
from paywall.protocol.channel import ChainState
from paywall.protocol.eip712 import COLLECTOR_ADDRESS, SETTLEMENT_ADDRESS
from paywall.protocol.errors import ConfigurationError, Reason, Refused, Reverted
from paywall.protocol.facilitation import (
    DELAY_OUT_OF_RANGE,
    DEPOSIT_SIMULATION,
    NOTHING_TO_SETTLE,
    SETTLE_FAILED,
    SETTLE_PAYLOAD,
    SETTLE_SIMULATION,
    Action,
    ClaimAction,
    Kind,
    KindExtra,
    Question,
    RefundAction,
    SettleAction,
    SettleAnswer,
    VerifyAnswer,
)
from paywall.protocol.limits import (
    MAX_WITHDRAW_DELAY_SECONDS,
    MIN_WITHDRAW_DELAY_SECONDS,
    UINT128_MAX,
)
from paywall.protocol.money import parse_address
from paywall.protocol.schemes import batch
from paywall.protocol.schemes.batch import (
    BatchOffer,
    BatchPayment,
    BatchTerms,
    Deposit,
    DepositPayload,
    DepositPayment,
    RefundPayment,
    channel_state,
)
from paywall.protocol.x402 import (
    VERSION,
    Malformed,
    decode_json,
    encode_json,
    show_address,
    show_bytes,
)

_actions: "msgspec.json.Decoder[Action]" = msgspec.json.Decoder(Action)


class BatchDesk:
    """Serves anybody's channels on one network."""

    def __init__(
        self, node: Node, served: Served, clock: Callable[[], float], delegate: bool
    ) -> None:
        self._node = node
        self._served = served
        self._clock = clock
        self._delegate = delegate
        self._sent = Sent(node)
        self._claims = Claims(node, served, delegate)

    @property
    def kind(self) -> Kind:
        signer = show_address(self._node.receiver_authorizer)
        extra = KindExtra(signer) if self._delegate else UNSET
        return Kind(VERSION, batch.SCHEME, self._served.network, extra)

    # -- Verify ----------------------------------------------------------------------------------

    async def verify(self, question: Question) -> VerifyAnswer:
        """Raises Denied, Refused, or Unavailable."""
        paid = self._checked(question, int(self._clock()))
        payment = paid if isinstance(paid, batch.VoucherPayment) else paid.payment
        chain = await self._node.channel(payment.channel_id)
        await self._refuse_unbacked(paid, chain)
        return VerifyAnswer(
            is_valid=True,
            payer=show_address(payment.config.payer),
            extra=Raw(encode_json(channel_state(payment.channel_id, chain, UNSET))),
        )

    def _checked(self, question: Question, now: int) -> BatchPayment:
        self._served.agree(question)
        return self._offer(question).check(question.payment_payload.payload, now)

    def _offer(self, question: Question) -> BatchOffer:
        """The terms as the server says that it offered them."""
        told = question.payment_requirements
        asset = self._served.asset(told.asset)
        try:
            extra = batch.decode_extra(told)
            authorizer = parse_address(extra.receiver_authorizer)
        except ValueError as error:  # Malformed is one
            raise Refused(Reason.RECEIVER_AUTHORIZER_MISMATCH, f"(extra: {error})") from error
        if not MIN_WITHDRAW_DELAY_SECONDS <= extra.withdraw_delay <= MAX_WITHDRAW_DELAY_SECONDS:
            raise Denied(DELAY_OUT_OF_RANGE)
        try:
            terms = BatchTerms(
                asset=asset,
                pay_to=address_in(told.pay_to, "payTo"),
                receiver_authorizer=authorizer,
                withdraw_delay_seconds=extra.withdraw_delay,
                min_deposit=1,
                max_deposit=UINT128_MAX,
            )
        except ConfigurationError as error:
            raise Denied(Reason.OFFER_MISMATCH.code, f"({error})") from error
        return terms.offer(amount_in(told.amount))

    async def _refuse_unbacked(self, paid: BatchPayment, chain: ChainState) -> None:
        """What only the chain can say: is there a channel, and does it hold what was promised?"""
        if isinstance(paid, DepositPayment):
            await self._refuse_unpayable(paid.deposit)
            _refuse_total(paid.payment.voucher.amount, chain, paid.deposit.amount, False)
            await self._rehearse(paid.deposit)
            return
        if chain.balance == 0:
            raise Refused(Reason.CHANNEL_NOT_FOUND)
        zero_charge = isinstance(paid, RefundPayment)
        payment = paid.payment if isinstance(paid, RefundPayment) else paid
        _refuse_total(payment.voucher.amount, chain, 0, zero_charge)

    async def _refuse_unpayable(self, deposit: Deposit) -> None:
        used, balance = await self._node.authorization(
            deposit.authorization(), deposit.config.token
        )
        if used:
            raise Denied(DEPOSIT_SIMULATION, "The authorization was used before, or cancelled.")
        if balance < deposit.amount:
            raise Refused(Reason.PAYER_BALANCE)

    async def _rehearse(self, deposit: Deposit) -> None:
        told = (deposit.valid_after, deposit.valid_before, deposit.salt, deposit.signature)
        data = contract.encode_deposit(
            deposit.config,
            deposit.amount,
            COLLECTOR_ADDRESS,
            contract.erc3009_collector_data(*told),
        )
        try:
            await self._node.relay.rehearse(Call(SETTLEMENT_ADDRESS, data))
        except Reverted as error:
            raise Denied(DEPOSIT_SIMULATION, f"({error.reason})") from error

    # -- Settle ----------------------------------------------------------------------------------

    async def settle(self, question: Question) -> SettleAnswer:
        """Raises Denied, Refused, or Unavailable."""
        self._served.agree(question)
        payload = question.payment_payload.payload
        try:
            action = decode_json(_actions, bytes(payload))
        except Malformed as error:
            raise Denied(Reason.PAYLOAD_TYPE.code, f"({error})") from error
        if isinstance(action, ClaimAction):
            return await self._claims.claim(action)
        if isinstance(action, SettleAction):
            return await self._collect(action)
        now = int(self._clock())
        if isinstance(action, RefundAction):
            wish = self._checked(question, now)
            assert isinstance(wish, RefundPayment)
            return await self._claims.refund(action, wish)
        return await self._deposit(question, action, now)

    async def _deposit(self, question: Question, action: DepositPayload, now: int) -> SettleAnswer:
        told = action.deposit.authorization.erc3009
        key = told.signature.lower().encode() if told else b""
        sent = self._sent.knows(key)
        if told and sent:
            now = self._sent.then(now, int(told.valid_before))
        paid = self._checked(question, now)
        assert isinstance(paid, DepositPayment)
        deposit = paid.deposit
        if not sent:
            await self._refuse_unbacked(paid, await self._node.channel(deposit.channel_id))
        transaction = await self._sent.once(
            key,
            lambda: self._node.deposit(deposit),
            lambda receipt: any(_is_deposit(event, deposit) for event in events_of(receipt)),
        )
        if transaction is None:
            raise Denied(DEPOSIT_SIMULATION, "The authorization was used before, or cancelled.")
        chain = await self._node.channel(deposit.channel_id)
        state = channel_state(deposit.channel_id, chain, UNSET)
        return SettleAnswer(
            success=True,
            transaction=show_bytes(transaction),
            network=self._served.network,
            payer=show_address(deposit.config.payer),
            amount=str(deposit.amount),
            extra=Raw(encode_json({"channelState": state})),
        )

    async def _collect(self, action: SettleAction) -> SettleAnswer:
        try:
            receiver, token = parse_address(action.receiver), parse_address(action.token)
        except ValueError as error:
            raise Denied(SETTLE_PAYLOAD, f"({error})") from error
        self._served.token(token)
        try:
            mined = await self._node.settle(receiver, token)
        except Reverted as error:
            word = SETTLE_FAILED if error.transaction else SETTLE_SIMULATION
            raise Denied(word, f"({error.reason})") from error
        if mined is None:
            raise Denied(NOTHING_TO_SETTLE)
        receipt = await self._node.relay.receipt(mined.transaction)
        return SettleAnswer(
            success=True,
            transaction=show_bytes(mined.transaction),
            network=self._served.network,
            amount=str(_moved(receipt)) if receipt else "",
        )


def _refuse_total(amount: int, chain: ChainState, more: int, zero_charge: bool) -> None:
    """Raises Refused unless the channel holds what a voucher promises, and it is something new."""
    if amount > chain.balance + more:
        raise Refused(Reason.EXCEEDS_BALANCE)
    if amount < chain.claimed or (amount == chain.claimed and not zero_charge):
        raise Refused(Reason.BELOW_CLAIMED)


def _is_deposit(event: Event, deposit: Deposit) -> bool:
    return isinstance(event, Deposited) and (event.channel_id, event.amount) == (
        deposit.channel_id,
        deposit.amount,
    )


def _moved(receipt: Receipt) -> int:
    return sum(event.amount for event in events_of(receipt) if isinstance(event, Settled))
