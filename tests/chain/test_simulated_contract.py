"""The simulator's contract keeps and refuses what the real one does, call for call.

A seeded play of deposits, claims, refunds, withdrawals and settlements, good ones and bad, goes to
both; after each call both must have taken or refused it, and must show the same channel.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import pytest
from coincurve import PrivateKey
from kit import FAR, Kit, sign
from simulate.contract import TOKEN_DOMAIN, Contract, Revert, Row, Transaction, Work

from paywall.chain.contract import (
    ClaimRow,
    decode_balance_of,
    decode_pending_withdrawals,
    decode_receivers,
    encode_balance_of,
    encode_claim,
    encode_finalize_withdraw,
    encode_initiate_withdraw,
    encode_pending_withdrawals,
    encode_receivers,
    encode_refund_with_signature,
    encode_settle,
)
from paywall.chain.exact import transfer_call
from paywall.protocol import eip712
from paywall.protocol.channel import ChannelConfig
from paywall.protocol.eip712 import SETTLEMENT_ADDRESS
from paywall.protocol.money import Address
from paywall.protocol.schemes.batch import Deposit

CALLS = 110


@dataclass
class Twins:
    """One channel on the devnet and in the model, and the calls that go to both."""

    kit: Kit
    random: Random
    config: ChannelConfig
    model: Contract = field(init=False)
    salts: list[int] = field(default_factory=lambda: [1])
    outcomes: list[tuple[str, bool]] = field(default_factory=list)
    before: int = field(init=False)

    def __post_init__(self) -> None:
        self.model = Contract(self.time())
        self.model.fund(Address(self.kit.payer.raw), 10**9)
        self.before = self.earned()

    def earned(self) -> int:
        """What the receiver has on the devnet."""
        question = encode_balance_of(Address(self.config.receiver))
        return decode_balance_of(self.kit.view(question, self.config.token))

    def time(self) -> int:
        return int(self.kit.ask("eth_getBlockByNumber", "latest", False)["result"]["timestamp"], 16)

    def both(
        self, name: str, sender: object, call: bytes, work: Work, to: bytes = SETTLEMENT_ADDRESS
    ) -> None:
        """Sends to both; each says whether it took it."""
        try:
            self.kit.send(sender, call, to)  # type: ignore[arg-type]
            taken = True
        except Exception:
            self.kit.ask("evm_mine")
            taken = False
        transaction = Transaction(b"", work)
        self.model.mine([transaction], self.time())
        assert (transaction.reverted is None) == taken, (name, transaction.reverted)
        self.outcomes.append((name, taken))

    def compare(self) -> None:
        channel_id = self.kit.channel_id(self.config)
        totals = self.kit.totals(self.config)
        assert self.model.pair("channel", channel_id) == tuple(totals)
        assert self.model.amount("refunds", channel_id) == self.kit.refund_nonce(self.config)
        pending = decode_pending_withdrawals(self.kit.view(encode_pending_withdrawals(channel_id)))
        amount, since = self.model.pair("withdrawal", channel_id)
        assert (amount, bool(since)) == (pending[0], bool(pending[1]))
        pot = decode_receivers(
            self.kit.view(encode_receivers(self.config.receiver, self.config.token))
        )
        assert self.model.pair("pot", self.config.receiver) == tuple(pot)
        receiver = Address(self.config.receiver)
        assert self.model.amount("token", receiver) == self.earned() - self.before

    # -- Calls -----------------------------------------------------------------------------------

    def deposit(self) -> None:
        salt = self.random.choice((self.salts[-1], self.salts[-1] + 1))
        amount = self.random.randrange(1, 1000)
        self.salts.append(salt)
        unsigned = Deposit(self.kit.channel_id(self.config), self.config, amount, 0, FAR, salt, b"")
        digest = unsigned.authorization().receive_digest(TOKEN_DOMAIN)
        key = PrivateKey(bytes.fromhex(self.kit.payer.key[2:]))
        signature = eip712.sign(key, digest)
        signed = Deposit(unsigned.channel_id, self.config, amount, 0, FAR, salt, signature)
        call = self.kit.deposit_call(self.config, amount, salt)
        self.both("deposit", self.kit.relayer, call, lambda c: c.deposit(signed))

    def transfer(self) -> None:
        """A payment of `exact`, sometimes a second time, sometimes by another's signature."""
        payer, receiver = Address(self.kit.payer.raw), Address(self.config.receiver)
        nonce = eip712.keccak(b"%d" % self.random.randrange(6))
        told = eip712.Authorization(payer, receiver, self.random.randrange(1, 900), 0, FAR, nonce)
        signer = self.random.choice((self.kit.payer, self.kit.payer, self.kit.stranger))
        digest = told.transfer_digest(TOKEN_DOMAIN)
        signature = eip712.sign(PrivateKey(bytes.fromhex(signer.key[2:])), digest)
        call = transfer_call(Address(self.config.token), told, signature)
        work: Work = lambda c: c.transfer(told, signature)  # noqa: E731
        self.both("transfer", self.kit.relayer, call.data, work, to=call.to)

    def claim(self) -> None:
        total = self.random.randrange(1, 3000)
        promised = total + self.random.choice((0, 0, 5, -1))
        signer = self.random.choice((None, None, None, self.kit.stranger))
        row = self.kit.row(self.config, total, max(1, promised), signer)
        ours = Row(self.config, row.amount, row.signature, row.claimed)
        call = encode_claim([ClaimRow(self.config, row.amount, row.signature, row.claimed)])
        self.both("claim", self.kit.authorizer, call, lambda c: c.claim([ours]))

    def refund(self) -> None:
        amount, number = self.random.randrange(0, 500), self.kit.refund_nonce(self.config)
        number += self.random.choice((0, 0, 0, 1))
        digest = self.kit.refund_digest(self.config, number, amount)

        signature = sign(self.kit.authorizer, digest)
        call = encode_refund_with_signature(self.config, amount, number, signature)
        self.both("refund", self.kit.relayer, call, lambda c: c.refund(self.config, amount, number))

    def begin(self) -> None:
        amount = self.random.randrange(0, 800)
        call = encode_initiate_withdraw(self.config, amount)
        work: Work = lambda c: c.begin_withdrawal(self.config, amount)  # noqa: E731
        self.both("begin", self.kit.payer_authorizer, call, work)

    def end(self) -> None:
        if self.random.random() < 0.6:
            self.kit.devnet.travel(self.config.withdraw_delay_seconds)
        call = encode_finalize_withdraw(self.config)
        work: Work = lambda c: c.end_withdrawal(self.config)  # noqa: E731
        self.both("end", self.kit.payer_authorizer, call, work)

    def settle(self) -> None:
        call = encode_settle(self.config.receiver, self.config.token)
        receiver = Address(self.config.receiver)
        self.both("settle", self.kit.relayer, call, lambda c: c.settle(receiver))


def moves(twins: Twins) -> list[Callable[[], None]]:
    often = [twins.deposit, twins.claim, twins.claim, twins.refund]
    return [*often, twins.begin, twins.end, twins.settle, twins.transfer]


def test_the_model_and_the_contract_agree(kit: Kit) -> None:
    twins = Twins(kit, Random(7), kit.config())
    for _ in range(CALLS):
        twins.random.choice(moves(twins))()
        twins.compare()
    seen = set(twins.outcomes)
    both_ways = {name for name, taken in seen if (name, not taken) in seen}
    wanted = {"deposit", "claim", "refund", "begin", "end", "transfer"}
    assert both_ways >= wanted, "the play was too tame"
    assert twins.model.money() == twins.model.minted


def test_what_is_undone_is_as_it_was() -> None:
    model = Contract(1000)
    model.fund(Address(bytes([1]) * 20), 500)

    def pay(contract: Contract) -> list[bytes]:
        contract._move(("token", Address(bytes([1]) * 20)), ("token", Address(bytes([2]) * 20)), 50)
        return []

    def fail(contract: Contract) -> list[bytes]:
        pay(contract)
        raise Revert("no")

    first = Transaction(b"1", pay)
    model.mine([first, Transaction(b"2", fail)], 1001)
    model.mine([Transaction(b"3", pay)], 1002)
    assert model.amount("token", Address(bytes([2]) * 20)) == 100
    assert model.get("token", Address(bytes([2]) * 20), block=1) == 50
    loose = model.reorganise(2)
    assert [transaction.name for transaction in loose] == [b"1", b"2", b"3"]
    assert first.block is None
    assert model.amount("token", Address(bytes([2]) * 20)) == 0
    assert model.money() == model.minted
    with pytest.raises(Revert):
        model.rehearse(fail)
    assert model.amount("token", Address(bytes([2]) * 20)) == 0
