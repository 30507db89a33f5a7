"""The agent's way home: `paywall close | withdraw | recover`."""

from typing import Annotated, Final

import httpx
import typer

import paywall
from paywall.chain.payer import PayerNode
from paywall.cli_keys import Rpc, WalletState, open_wallet, secret
from paywall.closing import Closing, close, withdraw, withdraw_due
from paywall.console import Json, Network, RpcUrl, err, print_rows, run
from paywall.places import origin_of
from paywall.protocol.errors import ConfigurationError
from paywall.protocol.money import Address
from paywall.protocol.x402 import parse_bytes, show_address
from paywall.recovery import Found, recover
from paywall.reviews import Review, review_refused

CLOSE_SECONDS: Final = 120.0
"""How long a refund may take: it is mined before it is confirmed."""


def close_channel(
    url: Annotated[str, typer.Argument(help="Any priced URL of the provider.")],
    rpc: Rpc = None,
    network: Network = "eip155:84532",
    method: Annotated[str, typer.Option("-X", "--request", help="The URL's method.")] = "GET",
    state: WalletState = None,
    as_json: Json = False,
) -> None:
    """Asks a provider for what is left in its channels, and else begins to withdraw it.

    With --rpc, where the provider refuses, is gone or broke the agreement, a withdrawal is begun on
    chain; when its delay is over, `paywall withdraw` takes the money. The key pays for the gas.
    """

    async def work() -> list[Closing]:
        wallet = open_wallet(state)
        try:
            async with paywall.AsyncClient(wallet=wallet, timeout=CLOSE_SECONDS) as client:
                if not rpc:
                    return await close(client, wallet, url, method=method)
                async with PayerNode(rpc, secret(), network=network) as chain:
                    return await close(client, wallet, url, chain, method)
        finally:
            wallet.close()

    print_rows([_closing_row(done) for done in run(work())], as_json, "")


def withdraw_channels(
    rpc: RpcUrl,
    channels: Annotated[
        list[str] | None,
        typer.Argument(help="Channels, as `paywall channels --wallet` names them."),
    ] = None,
    network: Network = "eip155:84532",
    everything: Annotated[
        bool,
        typer.Option("--everything", help="Ask for what the provider has earned, too."),
    ] = False,
    state: WalletState = None,
    as_json: Json = False,
) -> None:
    """Takes an agent's money out of channels, by time and without their providers.

    The first call for a channel begins the delay, a call after it takes the money; calls between
    them say from when on. Without channels: those whose provider broke the agreement, and those
    that are on their way; and the chain is asked whether transfers that were refused were made all
    the same, and what was not is free again. The key pays for the gas.
    """

    async def work() -> list[Closing]:
        wallet = open_wallet(state)
        try:
            async with PayerNode(rpc, secret(), network=network) as chain:
                if not channels:
                    _tell(await review_refused(wallet, chain))
                    return await withdraw_due(wallet, chain)
                ids = [_channel_id(channel) for channel in channels]
                return [await withdraw(wallet, each, chain, everything) for each in ids]
        finally:
            wallet.close()

    print_rows([_closing_row(done) for done in run(work())], as_json, "nothing is to be withdrawn")


def _tell(reviews: list[Review]) -> None:
    for one in reviews:
        fate = "was made all the same: it is not paid any more" if one.was_used else "is free again"
        err.print(f"a transfer of {one.amount} that {one.origin} refused {fate}", markup=False)


def recover_channels(
    rpc: RpcUrl,
    origins: Annotated[
        list[str] | None,
        typer.Argument(
            help="Providers whose channels are to be known by name: https://api.example"
        ),
    ] = None,
    network: Network = "eip155:84532",
    first_block: Annotated[
        int, typer.Option("--since-block", min=0, help="The first block to search.")
    ] = 0,
    state: WalletState = None,
    as_json: Json = False,
) -> None:
    """Finds the channels of this key on chain, when the wallet's file is lost.

    They are used again by the next request to their providers, without another deposit, or brought
    home by `paywall withdraw`. A file that knows less than was claimed of a channel, as after a
    power cut, is caught up.
    """

    async def work() -> list[Found]:
        wallet = open_wallet(state)
        try:
            named = [origin_of(httpx.URL(origin)) for origin in origins or ()]
            async with PayerNode(rpc, secret(), network=network) as chain:
                return await recover(wallet, chain, named, first_block)
        finally:
            wallet.close()

    print_rows([_found_row(found) for found in run(work())], as_json, "no channel holds money")


def _channel_id(text: str) -> bytes:
    try:
        return parse_bytes(text, 32)
    except ValueError as error:
        raise ConfigurationError(f"{text!r} is no channel: {error}") from error


def _closing_row(closing: Closing) -> dict[str, object]:
    return {
        "state": closing.state,
        "amount": closing.amount,
        "ready_at": closing.ready_at or None,
        "transaction": closing.transaction,
        "channel": closing.channel,
    }


def _found_row(found: Found) -> dict[str, object]:
    return {
        "channel": found.channel,
        "origin": found.origin,
        "receiver": show_address(Address(found.receiver)),
        "balance": found.balance,
        "claimed": found.claimed,
        "known": found.known,
    }
