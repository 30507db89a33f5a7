"""Bringing an agent's money home: a refund by the provider, a withdrawal by time, a lost file.

    await close(client, url, chain)      the provider returns what is left; where it does not (it
                                         refuses, is gone, says so and the chain does not), withdraw
    await withdraw(wallet, channel, chain)   one step: begin, wait, or take. Call it again later
    await recover(wallet, chain)         finds the payer's channels when the wallet's file is lost;
                                         it is of `paywall.recovery`, and shown here too

A withdrawal needs no provider. It leaves in the channel what the agent owes by its own books, so
that an honest provider can still claim that; `everything=True` asks for all that is unclaimed, and
whatever the provider holds a voucher for it can still claim until the delay is over.

Source: batch-settlement EVM specification, "Refund", "Withdrawal".
"""

import asyncio
import logging
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
from paywall.protocol.schemes import batch
from paywall.protocol.x402 import show_bytes
from paywall.recovery import Found, recover
from paywall.wallet import Wallet
from paywall.walletrows import Account, Withdrawal

log = logging.getLogger("paywall.wallet")

REFUND_SEEN_SECONDS: Final = (0.5, 1.0, 2.0, 4.0)
"""How long a chain may take to show a refund that was told of: an endpoint lags behind others."""


class PayerChain(Protocol):
    """What is needed of the chain; `paywall.chain.payer.PayerNode` is it over an RPC."""

    network: str

    async def channel(self, channel_id: bytes) -> ChainState: ...
    async def time(self) -> int: ...
    async def initiate_withdraw(self, config: ChannelConfig, amount: int) -> Mined: ...
    async def finalize_withdraw(self, config: ChannelConfig) -> tuple[Mined, int]: ...


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
        return Closing("withdrawing", show_bytes(channel_id), state.withdraw_amount, "", ready_at)
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
        return Closing("empty", show_bytes(account.channel_id))
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
    return Closing("withdrawing", show_bytes(account.channel_id), amount, transaction, ready_at)


async def _take(
    wallet: Wallet, account: Account, config: ChannelConfig, chain: PayerChain
) -> Closing:
    channel = show_bytes(account.channel_id)
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
            log.warning("channel %s is not withdrawn: %s", show_bytes(account.channel_id), error)
    return steps


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
        raise AgentError(f"this wallet has no channel {show_bytes(channel_id)}")
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


__all__ = [
    "Closing",
    "Found",
    "PayerChain",
    "State",
    "close",
    "recover",
    "withdraw",
    "withdraw_due",
]
