"""`paywall channels`: what a provider's store, or an agent's wallet, says of its channels.

It reads that alone and asks no chain.
"""

import time
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from paywall.console import Json, print_rows, run
from paywall.protocol.channel import Channel
from paywall.protocol.errors import ConfigurationError
from paywall.protocol.money import KNOWN_ASSETS
from paywall.protocol.x402 import show_address, show_bytes
from paywall.stores import DEFAULT_STORE, open_store
from paywall.walletrows import Account
from paywall.walletstate import open_state


def channels(
    store: Annotated[
        str | None,
        typer.Option("--store", envvar="PAYWALL_STORE", help="A provider's store."),
    ] = None,
    wallet: Annotated[
        str | None,
        typer.Option(
            "--wallet", envvar="PAYWALL_WALLET", help="An agent's file, or the URL of its Redis."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Lists channels: a provider's (--store) or an agent's (--wallet).

    Amounts are atomic units of the channel's token (a millionth of a dollar for USDC). `charged` is
    what requests have cost, `claimed` what the contract has recorded of it, `signed` how far the
    payer has promised, and `balance` what was ever deposited, less refunds. Reads the store or the
    file alone: no chain is asked.
    """
    if wallet:
        rows = [_account_row(account) for account in _accounts(wallet)]
    else:
        rows = [_channel_row(channel) for channel in run(_all_channels(store or DEFAULT_STORE))]
    print_rows(rows, as_json, "no channels")


def _accounts(wallet: str) -> list[Account]:
    if "://" not in wallet and not Path(wallet).exists():
        raise ConfigurationError(f"there is no wallet file {wallet}")
    with closing(open_state(wallet, time.time)) as state:
        return state.accounts()


async def _all_channels(url: str) -> list[Channel]:
    store = open_store(url)
    await store.open()
    try:
        found: list[Channel] = []
        while page := await store.channels(found[-1].channel_id if found else b""):
            found += page
        return found
    finally:
        await store.close()


def _channel_row(channel: Channel) -> dict[str, object]:
    return {
        "channel": show_bytes(channel.channel_id),
        "payer": show_address(channel.config.payer),
        "network": channel.network,
        "balance": channel.balance,
        "signed": channel.signed,
        "charged": channel.charged,
        "claimed": channel.claimed,
        "unclaimed": channel.unclaimed,
        "in_flight": len(channel.holds),
    }


def _account_row(account: Account) -> dict[str, object]:
    asset = KNOWN_ASSETS.get((account.network, account.asset))
    return {
        "origin": account.origin,
        "channel": show_bytes(account.channel_id),
        "network": account.network,
        "asset": asset.symbol if asset else account.asset.hex(),
        "balance": account.balance,
        "charged": account.charged,
        "signed": account.signed,
        "left": max(0, account.balance - account.spent),
        "withdrawal": _withdrawal(account),
        "stopped": account.stopped,
    }


def _withdrawal(account: Account) -> str | None:
    """How far the channel's money is on its way home, for `paywall withdraw`."""
    found = account.withdrawal
    if found is None:
        return None
    if found.done:
        return "done"
    return f"ready at {found.ready_at:.0f}" if found.transaction else "wanted"
