"""The settlement contract and its token as a value table, block by block, with reorganisations.

A model of what the chain keeps, not of how: balances, totals, withdrawals, refund nonces, pots and
used authorizations, each under a key. Every block remembers what it overwrote, so that it can be
read as of an earlier block and undone. A test runs the same calls here and on the devnet, whose
contract is the real one, and compares what both keep and refuse.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from paywall.protocol import eip712
from paywall.protocol.channel import ChannelConfig
from paywall.protocol.eip712 import Authorization
from paywall.protocol.money import USDC, Address
from paywall.protocol.schemes.batch import Deposit

ASSET: Final = USDC.base_sepolia
NETWORK: Final = ASSET.network
DOMAIN: Final = eip712.settlement_domain(ASSET.chain_id)
TOKEN_DOMAIN: Final = eip712.domain_separator(
    ASSET.name, ASSET.version, ASSET.chain_id, ASSET.address
)
SETTLEMENT: Final = ("token", eip712.SETTLEMENT_ADDRESS)

Key = tuple[object, ...]
Work = Callable[["Contract"], list[bytes]]
"""What a transaction does: it raises `Revert`, or returns the channels that its log names."""


class Revert(Exception):
    """The contract's own word for why not."""


@dataclass(frozen=True)
class Row:
    """One claim: the voucher of a channel, and the total to record."""

    config: ChannelConfig
    amount: int
    signature: bytes
    claimed: int


@dataclass
class Block:
    """`undo` is what stood where this block has written."""

    number: int
    name: bytes
    mined_at: int
    undo: dict[Key, object] = field(default_factory=dict)
    lines: list[bytes] = field(default_factory=list)
    transactions: list["Transaction"] = field(default_factory=list)


@dataclass(eq=False)
class Transaction:
    """Something to do; `block` once it is mined, `reverted` says why it did nothing."""

    name: bytes
    work: Work
    block: Block | None = None
    reverted: str | None = None
    known: bool = True


_ZERO: Final[dict[str, object]] = {
    "channel": (0, 0),
    "withdrawal": (0, 0),
    "refunds": 0,
    "pot": (0, 0),
    "token": 0,
    "used": False,
    "transfer": None,
    "exact": 0,
}


class Contract:
    """The newest state, and the calls that change it. `now` is the time of the block being made."""

    def __init__(self, now: int) -> None:
        self._kept: dict[Key, object] = {}
        self.blocks = [Block(0, b"genesis", now)]
        self._open = self.blocks[0]
        self._forks = 0
        self._purses: set[Key] = set()
        self.configs: dict[bytes, ChannelConfig] = {}
        self.minted = 0

    @property
    def now(self) -> int:
        return self._open.mined_at

    # -- Reading and writing ---------------------------------------------------------------------

    def get(self, kind: str, *key: object, block: int | None = None) -> object:
        """What is kept, as of the end of `block`."""
        name = (kind, *key)
        value = self._kept.get(name, _ZERO[kind])
        if block is not None:
            for made in reversed(self.blocks):
                if made.number <= block:
                    break
                value = made.undo.get(name, value)
        return value

    def amount(self, kind: str, *key: object) -> int:
        value = self.get(kind, *key)
        assert isinstance(value, int)
        return value

    def pair(self, kind: str, *key: object, block: int | None = None) -> tuple[int, int]:
        value = self.get(kind, *key, block=block)
        assert isinstance(value, tuple)
        return value

    def _put(self, value: object, *name: object) -> None:
        self._open.undo.setdefault(name, self._kept.get(name, _ZERO[str(name[0])]))
        self._kept[name] = value
        if name[0] == "token":
            self._purses.add(name)

    def _move(self, source: Key, target: Key, amount: int) -> None:
        self._put(self.amount(*source) - amount, *source)  # type: ignore[arg-type]
        self._put(self.amount(*target) + amount, *target)  # type: ignore[arg-type]

    def fund(self, holder: Address, amount: int) -> None:
        """Money that was always there."""
        self._kept["token", holder] = amount
        self._purses.add(("token", holder))
        self.minted += amount

    def money(self) -> int:
        """All of the token, wherever it is."""
        return sum(self.amount(*purse) for purse in self._purses)  # type: ignore[arg-type]

    # -- Blocks ----------------------------------------------------------------------------------

    def mine(self, transactions: list[Transaction], now: int) -> Block:
        """One block with these transactions; those that revert are in it all the same."""
        number = self.blocks[-1].number + 1
        name = b"%d/%d" % (number, self._forks)
        block = Block(number, name, max(now, self.blocks[-1].mined_at + 1))
        self.blocks.append(block)
        self._open = block
        for transaction in transactions:
            self._run(block, transaction)
        return block

    def _run(self, block: Block, transaction: Transaction) -> None:
        outer, block.undo = block.undo, {}
        transaction.block, transaction.reverted = block, None
        try:
            block.lines += transaction.work(self)
        except Revert as reason:
            self._kept.update(block.undo)
            block.undo = {}
            transaction.reverted = str(reason)
        block.undo = {**block.undo, **outer}
        block.transactions.append(transaction)

    def reorganise(self, depth: int) -> list[Transaction]:
        """Undoes so many blocks, and returns the transactions that are in none now."""
        self._forks += 1
        loose: list[Transaction] = []
        for _ in range(min(depth, len(self.blocks) - 1)):
            block = self.blocks.pop()
            self._kept.update(block.undo)
            loose = block.transactions + loose
        for transaction in loose:
            transaction.block = None
        self._open = self.blocks[-1]
        return loose

    # -- Calls -----------------------------------------------------------------------------------

    def deposit(self, deposit: Deposit) -> list[bytes]:
        told = deposit.authorization()
        payer = deposit.config.payer
        used = ("used", payer, told.authorization_nonce)
        if not told.valid_after < self.now < told.valid_before:
            raise Revert("authorization is expired or not yet valid")
        if self.get(*used):  # type: ignore[arg-type]
            raise Revert("authorization is used")
        if eip712.recover(told.receive_digest(TOKEN_DOMAIN), deposit.signature) != payer:
            raise Revert("invalid signature")
        if self.amount("token", payer) < deposit.amount:
            raise Revert("balance is too low")
        self._put(True, *used)
        self.configs[deposit.channel_id] = deposit.config
        self._move(("token", payer), SETTLEMENT, deposit.amount)
        balance, claimed = self.pair("channel", deposit.channel_id)
        self._put((balance + deposit.amount, claimed), "channel", deposit.channel_id)
        return [deposit.channel_id]

    def claim(self, rows: list[Row]) -> list[bytes]:
        if not rows:
            raise Revert("EmptyBatch")
        return [line for row in rows for line in self._claim(row)]

    def _claim(self, row: Row) -> list[bytes]:
        channel_id = row.config.channel_id(NETWORK)
        balance, claimed = self.pair("channel", channel_id)
        if row.claimed <= claimed:
            return []
        if row.claimed > row.amount:
            raise Revert("ClaimExceedsCeiling")
        if row.claimed > balance:
            raise Revert("ClaimExceedsBalance")
        digest = eip712.voucher_digest(DOMAIN, channel_id, row.amount)
        if eip712.recover(digest, row.signature) != row.config.payer_authorizer:
            raise Revert("InvalidSignature")
        self._put((balance, row.claimed), "channel", channel_id)
        pot = ("pot", row.config.receiver)
        earned, settled = self.pair(*pot)
        self._put((earned + row.claimed - claimed, settled), *pot)
        return [channel_id]

    def transfer(self, told: Authorization, signature: bytes) -> list[bytes]:
        """A payment of `exact`. Whose money it moved, and in which block, can be read later."""
        used = ("used", told.payer, told.authorization_nonce)
        if not told.valid_after < self.now < told.valid_before:
            raise Revert("authorization is expired or not yet valid")
        if self.get(*used):  # type: ignore[arg-type]
            raise Revert("authorization is used")
        if eip712.recover(told.transfer_digest(TOKEN_DOMAIN), signature) != told.payer:
            raise Revert("invalid signature")
        if self.amount("token", told.payer) < told.value:
            raise Revert("balance is too low")
        self._put(True, *used)
        self._put((told.to, told.value, self._open.number), "transfer", *used[1:])
        self._put(self.amount("exact", told.to) + told.value, "exact", told.to)
        self._move(("token", told.payer), ("token", told.to), told.value)
        return []

    def settle(self, receiver: Address) -> list[bytes]:
        earned, settled = self.pair("pot", receiver)
        self._put((earned, earned), "pot", receiver)
        self._move(SETTLEMENT, ("token", receiver), earned - settled)
        return []

    def refund(self, config: ChannelConfig, amount: int, number: int) -> list[bytes]:
        """`number` is the refund nonce that the receiver's side has signed."""
        channel_id = config.channel_id(NETWORK)
        if number != self.amount("refunds", channel_id):
            raise Revert("InvalidRefundNonce")
        if amount == 0:
            raise Revert("ZeroRefund")
        self._put(number + 1, "refunds", channel_id)
        balance, claimed = self.pair("channel", channel_id)
        amount = min(amount, balance - claimed)
        if amount == 0:
            return []
        self._put((balance - amount, claimed), "channel", channel_id)
        pending, since = self.pair("withdrawal", channel_id)
        if pending:
            left = (pending - amount, since) if pending > amount else (0, 0)
            self._put(left, "withdrawal", channel_id)
        self._move(SETTLEMENT, ("token", config.payer), amount)
        return [channel_id]

    def begin_withdrawal(self, config: ChannelConfig, amount: int) -> list[bytes]:
        channel_id = config.channel_id(NETWORK)
        balance, claimed = self.pair("channel", channel_id)
        if amount == 0:
            raise Revert("NothingToWithdraw")
        if self.pair("withdrawal", channel_id)[1]:
            raise Revert("WithdrawalAlreadyPending")
        if amount > balance - claimed:
            raise Revert("WithdrawAmountExceedsAvailable")
        self._put((amount, self.now), "withdrawal", channel_id)
        return [channel_id]

    def end_withdrawal(self, config: ChannelConfig) -> list[bytes]:
        channel_id = config.channel_id(NETWORK)
        amount, since = self.pair("withdrawal", channel_id)
        if not since:
            raise Revert("WithdrawalNotPending")
        if self.now < since + config.withdraw_delay_seconds:
            raise Revert("WithdrawDelayNotElapsed")
        balance, claimed = self.pair("channel", channel_id)
        amount = min(amount, balance - claimed)
        self._put((0, 0), "withdrawal", channel_id)
        self._put((balance - amount, claimed), "channel", channel_id)
        self._move(SETTLEMENT, ("token", config.payer), amount)
        return [channel_id]

    def rehearse(self, work: Work) -> None:
        """What would happen now: raises Revert, and changes nothing."""
        before, self._open = self._open, Block(0, b"", self.blocks[-1].mined_at + 1)
        try:
            work(self)
        finally:
            self._kept.update(self._open.undo)
            self._open = before
