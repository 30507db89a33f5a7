"""Finding an agent's channels again when its wallet's file is lost.

    await recover(wallet, chain)         puts what the chain shows of the payer's into the file

Afterwards nobody knows what was signed and not claimed. Signing a total a second time costs
nothing, for totals are no sums; so a recovered channel begins at what is claimed, and the provider
corrects it with this payer's own signature, as after any loss.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from msgspec.structs import replace

from paywall.offers import salts_of
from paywall.protocol.channel import ChainState, ChannelConfig
from paywall.protocol.money import Address
from paywall.protocol.schemes import batch
from paywall.protocol.x402 import show_bytes
from paywall.wallet import Wallet
from paywall.walletrows import Account

UNKNOWN_ORIGIN: Final = ""
"""Of a channel that was found on chain, and whose provider nobody has named yet."""


class ChannelFinder(Protocol):
    """What is needed of the chain; `paywall.chain.payer.PayerNode` is it over an RPC."""

    network: str

    async def channel(self, channel_id: bytes) -> ChainState: ...
    async def channels_of(self, payer: Address, first: int = 0) -> list[ChannelConfig]: ...


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
    wallet: Wallet, chain: ChannelFinder, origins: Iterable[str] = (), first_block: int = 0
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
        told = Found(
            show_bytes(channel_id), origin, config.receiver, state.balance, state.claimed, known
        )
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
