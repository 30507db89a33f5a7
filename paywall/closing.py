"""Bringing an agent's money home: a refund by the provider, a withdrawal by time, a lost file.

    await close(client, url, chain)      the provider returns what is left; where it does not (it
                                         refuses, is gone, says so and the chain does not), withdraw
    await withdraw(wallet, channel, chain)   one step: begin, wait, or take. Call it again later
    await recover(wallet, chain)         finds the payer's channels when the wallet's file is lost

A withdrawal needs no provider. It leaves in the channel what the agent owes by its own books, so
that an honest provider can still claim that; `everything=True` asks for all that is unclaimed, and
whatever the provider holds a voucher for it can still claim until the delay is over.

After a recovery nobody knows what was signed and not claimed. Signing a total a second time costs
nothing, for totals are no sums; so a recovered channel begins at what is claimed, and the provider
corrects it with this payer's own signature, as after any loss.

Source: batch-settlement EVM specification, "Refund", "Withdrawal".
"""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import httpx
from msgspec import Raw
from msgspec.structs import replace

from paywall.chain import Mined
from paywall.client import AsyncClient
from paywall.offers import salts_of
from paywall.places import origin_of
from paywall.protocol.channel import ChainState, ChannelConfig
from paywall.protocol.errors import AgentError, PaymentError, Reverted
from paywall.protocol.limits import MAX_CLOCK_SKEW_SECONDS
from paywall.protocol.money import Address
from paywall.protocol.schemes import batch
from paywall.wallet import Wallet
from paywall.walletrows import Account, Withdrawal

log = logging.getLogger("paywall.wallet")

REFUND_SEEN_SECONDS: Final = (0.5, 1.0, 2.0, 4.0)
"""How long a chain may take to show a refund that was told of: an endpoint lags behind others."""
UNKNOWN_ORIGIN: Final = ""
"""Of a channel that was found on chain, and whose provider nobody has named yet."""


class PayerChain(Protocol):
    """What is needed of the chain; `paywall.chain.payer.PayerNode` is it over an RPC."""

    network: str

    async def channel(self, channel_id: bytes) -> ChainState: ...
    async def time(self) -> int: ...
    async def initiate_withdraw(self, config: ChannelConfig, amount: int) -> Mined: ...
    async def finalize_withdraw(self, config: ChannelConfig) -> tuple[Mined, int]: ...
    async def channels_of(self, payer: Address, first: int = 0) -> list[ChannelConfig]: ...


State = Literal["refunded", "withdrawing", "withdrawn", "empty"]


@dataclass(frozen=True, slots=True)
class Closing:
    """How far a channel is on its way home. Amounts are atomic units.

    "refunded" and "withdrawn": `amount` is back. "withdrawing": `amount` can be taken from
    `ready_at` (Unix seconds) on. "empty": there is nothing to take.
    """

    state: State
    channel: str
    amount: int = 0
    transaction: str = ""
    ready_at: int = 0


async def close(
    client: AsyncClient,
    wallet: Wallet,
    url: str,
    chain: PayerChain | None = None,
    method: str = "GET",
) -> list[Closing]:
    """Asks the provider at `url` for what is left in its channels, and else begins to withdraw it.

    Without a `chain` the provider's refusal is raised as it is.
    """
    channels = channels_at(wallet, url)
    if not channels:
        return [await _refund(client, url, method)]
    return [await _close(client, wallet, url, chain, method, channel) for channel in channels]


async def _close(
    client: AsyncClient,
    wallet: Wallet,
    url: str,
    chain: PayerChain | None,
    method: str,
    channel: Account,
) -> Closing:
    salts = salts_of(channel.origin)
    salt = config_of(channel).salt
    try:
        done = await _refund(client, url, method, salts.index(salt) if salt in salts else 0)
    except (AgentError, httpx.TransportError) as error:
        if chain is None:
            raise
        log.warning("no refund from %s, withdrawing instead: %s", channel.origin, error)
    else:
        # A provider that has changed its terms refunds the channel of its new ones.
        if chain is None or await _is_home(wallet, channel, chain):
            return done
        log.warning("%s told of a refund that the chain does not show", channel.origin)
    return await withdraw(wallet, channel.channel_id, chain)


async def _is_home(wallet: Wallet, channel: Account, chain: PayerChain) -> bool:
    """Whether the chain shows that a channel has given back what was left in it.

    It may show that late; what it shows in the end is what the wallet goes by.
    """
    for pause in (*REFUND_SEEN_SECONDS, None):
        state = await chain.channel(channel.channel_id)
        known = _account(wallet, channel.channel_id)
        if state.balance <= max(state.claimed, known.spent):
            return True
        if pause is not None:
            await asyncio.sleep(pause)
    with wallet.file.change():
        wallet.file.put(_as_on_chain(_account(wallet, channel.channel_id), state, wallet.clock()))
    return False


async def _refund(client: AsyncClient, url: str, method: str, lane: int = 0) -> Closing:
    told = await client.refund(url, method=method, lane=lane)
    return Closing("refunded", told.channel or "", told.amount or 0, told.transaction)


async def withdraw(
    wallet: Wallet, channel_id: bytes, chain: PayerChain, everything: bool = False
) -> Closing:
    """One step of a withdrawal: begins it, tells when it is ready, or takes the money.

    Safe to repeat, and by several processes. Raises AgentError for a channel that the wallet does
    not have, Reverted, ChainUnavailable, and ConfigurationError for a key that may not withdraw.
    """
    account = _account(wallet, channel_id)
    config = config_of(account)
    state = await chain.channel(channel_id)
    if not state.withdraw_requested_at:
        return await _begin(wallet, account, config, chain, state, everything)
    ready_at = state.withdraw_requested_at + config.withdraw_delay_seconds
    if await chain.time() < ready_at:
        _note(wallet, account, state.withdraw_amount, ready_at)
        return Closing("withdrawing", _hex(channel_id), state.withdraw_amount, "", ready_at)
    return await _take(wallet, account, config, chain)


async def _begin(
    wallet: Wallet,
    account: Account,
    config: ChannelConfig,
    chain: PayerChain,
    state: ChainState,
    everything: bool,
) -> Closing:
    owed = state.claimed if everything else max(state.claimed, account.spent)
    amount = state.balance - owed
    if amount <= 0:
        _done(wallet, account, state)
        return Closing("empty", _hex(account.channel_id))
    try:
        mined = await chain.initiate_withdraw(config, amount)
    except Reverted:
        if not (await chain.channel(account.channel_id)).withdraw_requested_at:
            raise
        return await withdraw(wallet, account.channel_id, chain)  # somebody else has begun it
    transaction = "0x" + mined.transaction.hex()
    requested_at = (await chain.channel(account.channel_id)).withdraw_requested_at
    ready_at = requested_at + config.withdraw_delay_seconds
    _note(wallet, account, amount, ready_at, transaction)
    return Closing("withdrawing", _hex(account.channel_id), amount, transaction, ready_at)


async def _take(
    wallet: Wallet, account: Account, config: ChannelConfig, chain: PayerChain
) -> Closing:
    channel = _hex(account.channel_id)
    try:
        mined, amount = await chain.finalize_withdraw(config)
    except Reverted:
        state = await chain.channel(account.channel_id)
        if state.withdraw_requested_at:
            raise
        _done(wallet, account, state)  # somebody else has taken it to the payer
        return Closing("empty", channel)
    _done(wallet, account, await chain.channel(account.channel_id))
    return Closing("withdrawn", channel, amount, "0x" + mined.transaction.hex())


async def withdraw_due(wallet: Wallet, chain: PayerChain) -> list[Closing]:
    """A step for every channel that is to be withdrawn: whose provider broke the agreement, or
    whose withdrawal was begun. One that fails is logged, and the others go on."""
    due = [a for a in wallet.file.accounts() if a.withdrawal and not a.withdrawal.done]
    steps = []
    for account in due:
        if account.network != chain.network:
            continue
        try:
            steps.append(await withdraw(wallet, account.channel_id, chain))
        except PaymentError as error:
            log.warning("channel %s is not withdrawn: %s", _hex(account.channel_id), error)
    return steps


# -- A lost file -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Found:
    """A channel that the chain knows and the wallet's file did not. Amounts are atomic units."""

    channel: str
    origin: str
    receiver: Address
    balance: int
    claimed: int
    known: bool
    """Whether the file had it already; then no more was changed than what was claimed since."""


async def recover(
    wallet: Wallet, chain: PayerChain, origins: Iterable[str] = (), first_block: int = 0
) -> list[Found]:
    """Puts the payer's channels that still hold money into the wallet's file.

    The channel of an origin (scheme, host and port) is found again by its name, so whoever names
    `origins` sees which is whose; others are found and used again all the same. What is locked up
    counts against the wallet's total. What was claimed, the contract has checked this wallet's
    signature for: a channel that the file knows with less is caught up, and one that is empty is
    written down too, so that a provider which has lost its proof is paid again.
    """
    names = {salt: origin for origin in origins for salt in salts_of(origin)}
    found = []
    for config in await chain.channels_of(wallet.payer.account, first_block):
        if config.payer_authorizer != wallet.payer.authorizer:
            continue  # its vouchers are signed by a key that this wallet does not have
        channel_id = config.channel_id(chain.network)
        state = await chain.channel(channel_id)
        if not state.balance:
            continue
        origin = names.get(config.salt, UNKNOWN_ORIGIN)
        known = _adopt(wallet, _found_account(config, channel_id, chain.network, origin, state))
        told = Found(_hex(channel_id), origin, config.receiver, state.balance, state.claimed, known)
        if state.balance > state.claimed:  # an empty one is worth knowing, not telling
            found.append(told)
    return found


def _found_account(
    config: ChannelConfig, channel_id: bytes, network: str, origin: str, state: ChainState
) -> Account:
    return Account(
        channel_id=channel_id,
        origin=origin,
        network=network,
        asset=config.token,
        config=bytes(batch.config_wire(config)),
        in_flight=1,
        balance=state.balance,
        charged=state.claimed,
        signed=state.claimed,
        deposited=state.balance,
    )


def _adopt(wallet: Wallet, account: Account) -> bool:
    """Writes a channel that is not there; True when it is. It was spent long ago, not now."""
    with wallet.file.change():
        known = wallet.file.account(account.channel_id)
        if known is None:
            wallet.file.put(account, at=0.0)
        elif known.charged < account.charged:
            wallet.file.put(_caught_up(known, account), at=0.0)
    return known is not None


def _caught_up(known: Account, found: Account) -> Account:
    """A channel of which more was claimed than its file knew."""
    return replace(
        known,
        balance=found.balance,
        charged=found.charged,
        signed=max(known.signed, found.signed),
        deposited=max(known.deposited, found.deposited),
    )


# -- The wallet's own record -----------------------------------------------------------------------


def channels_at(wallet: Wallet, url: str) -> list[Account]:
    """The channels with the origin of a URL that have something left, the fullest first."""
    origin = origin_of(httpx.URL(url))
    found = [
        account
        for account in wallet.file.accounts()
        if account.origin == origin and account.balance > account.spent
    ]
    return sorted(found, key=lambda account: account.spent - account.balance)


def config_of(account: Account) -> ChannelConfig:
    return batch.read_config(Raw(account.config), account.network)


def _account(wallet: Wallet, channel_id: bytes) -> Account:
    account = wallet.file.account(channel_id)
    if account is None:
        raise AgentError(f"this wallet has no channel {_hex(channel_id)}")
    return account


def _note(
    wallet: Wallet, account: Account, amount: int, ready_at: int, transaction: str = ""
) -> None:
    """Writes down what is on its way; why it is, and the evidence, stay as they are."""
    with wallet.file.change():
        now = _account(wallet, account.channel_id)
        before = now.withdrawal or Withdrawal(wanted_since=wallet.clock())
        transaction = transaction or before.transaction or "found on chain"
        wanted = replace(
            before, transaction=transaction, amount=amount, ready_at=float(ready_at), done=False
        )
        wallet.file.put(replace(now, withdrawal=wanted))


def _done(wallet: Wallet, account: Account, state: ChainState) -> None:
    """Takes over what the chain says is left. A provider that was stopped stays stopped."""
    with wallet.file.change():
        now = _account(wallet, account.channel_id)
        ended = replace(now.withdrawal, done=True) if now.withdrawal and now.stopped else None
        wallet.file.put(replace(_as_on_chain(now, state, wallet.clock()), withdrawal=ended))


def _as_on_chain(account: Account, state: ChainState, now: float) -> Account:
    """What is in a channel, and what it has cost, by nobody's word but the chain's.

    A deposit that can no longer be mined is in the balance, or never will be.
    """
    pending = account.deposit
    if pending and pending.valid_before < now - MAX_CLOCK_SKEW_SECONDS:
        account = replace(account, deposit=None, deposit_until=0.0)
    return replace(account, balance=state.balance, deposited=max(account.spent, state.balance))


def _hex(channel_id: bytes) -> str:
    return "0x" + channel_id.hex()
