"""The provider's commands on chain: `paywall claim | settle | refund`."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Annotated

import typer

from paywall.chain import Mined, claimer
from paywall.chain.claimer import Claimer
from paywall.chain.node import Node
from paywall.chain.preview import preview_claim, preview_refund, preview_settle
from paywall.chain.returns import give_back
from paywall.console import (
    Json,
    Network,
    RpcUrl,
    StoreUrl,
    err,
    key,
    print_rows,
    progress,
    run,
    steps,
)
from paywall.protocol.channel import Channel
from paywall.protocol.claims import ClaimPolicy
from paywall.protocol.errors import ConfigurationError
from paywall.protocol.money import KNOWN_ASSETS
from paywall.protocol.x402 import show_address, show_bytes
from paywall.stores import DEFAULT_STORE, Store, open_store

DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be sent and what it costs.")
]
NativePrice = Annotated[
    str, typer.Option(help="What the network's coin, which pays for gas, costs in the token.")
]
_POLICY = ClaimPolicy()


def claim(
    rpc: RpcUrl,
    store: StoreUrl = DEFAULT_STORE,
    network: Network = "eip155:84532",
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on, by the policy below, until Ctrl-C.")
    ] = False,
    dry_run: DryRun = False,
    max_at_risk: Annotated[
        str, typer.Option(help="What may be owed to a receiver while gas is dear.")
    ] = _POLICY.max_at_risk,
    fee_share_ppm: Annotated[
        int, typer.Option(help="The share of a sum that its claim may cost, in millionths.")
    ] = _POLICY.fee_share_ppm,
    max_age: Annotated[
        int, typer.Option(help="Seconds after which everything is claimed.")
    ] = _POLICY.max_age_seconds,
    min_amount: Annotated[str | None, typer.Option(help="Less than this is never claimed.")] = None,
    native_price: NativePrice = _POLICY.native_price,
    refund_idle: Annotated[
        int | None,
        typer.Option(help="Seconds without a request or deposit after which deposits go back."),
    ] = None,
    poll: Annotated[int, typer.Option(help="Seconds between two looks.")] = _POLICY.poll_seconds,
    max_fee_wei: Annotated[
        int | None, typer.Option(min=1, help="The most that one transaction may cost.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Claims on chain what the channels owe: the contract records it, and nobody can withdraw it.

    Nothing moves yet: `paywall settle` brings it home. Without --watch all that is owed is claimed
    now, in transactions of up to 100 channels; a channel that the contract refuses is left out and
    named. With --watch it goes on until Ctrl-C or SIGTERM, follows the contract's log, claims and
    settles by the policy of the options below, and at once where a payer withdraws. Any number may
    run on one store: one works, the others stand by.

    --dry-run sends nothing and says what each transaction would claim and cost; with --watch also
    what would wait, and why.

    PAYWALL_KEY is the key of the receiver authorizer and pays for gas.
    """
    policy = ClaimPolicy(
        max_at_risk, fee_share_ppm, max_age, min_amount, native_price, refund_idle, poll
    )
    node = Node(rpc, key(), network=network, max_fee_wei=max_fee_wei)
    if watch and not dry_run:
        return run(_watch(store, node, policy))
    rows = run(_preview(store, node, policy, watch) if dry_run else _claim(store, node))
    print_rows(rows, as_json, "nothing to claim")


def settle(
    rpc: RpcUrl,
    store: StoreUrl = DEFAULT_STORE,
    network: Network = "eip155:84532",
    dry_run: DryRun = False,
    native_price: NativePrice = _POLICY.native_price,
    as_json: Json = False,
) -> None:
    """Moves everything that was claimed to the wallets that earned it, one transaction each.

    It needs nobody's signature: PAYWALL_KEY only pays for gas. --dry-run sends nothing and says
    what would move and what it would cost.
    """

    async def work() -> list[dict[str, object]]:
        async with _open(store, Node(rpc, key(), network=network)) as (books, node):
            if dry_run:
                return await preview_settle(books, node, native_price)
            moved = await claimer.settle(books, node)
        return [
            {
                "receiver": show_address(receiver),
                "token": show_address(token),
                **_costs(mined),
            }
            for receiver, token, mined in moved
        ]

    print_rows(run(work()), as_json, "nothing to settle")


def refund(
    channel: Annotated[str, typer.Argument(help="The channel's id, as `paywall channels` shows.")],
    rpc: RpcUrl,
    store: StoreUrl = DEFAULT_STORE,
    network: Network = "eip155:84532",
    amount: Annotated[
        str | None, typer.Option(help='Such as "$0.50"; without it, all that is left.')
    ] = None,
    dry_run: DryRun = False,
    native_price: NativePrice = _POLICY.native_price,
    as_json: Json = False,
) -> None:
    """Claims what a channel owes and gives the rest of its deposit, or a part of it, back.

    Both happen in one transaction, or neither. A channel whose payer has promised more than it was
    charged is not refunded: the payer may still use the difference, and asks for it itself.
    --dry-run sends nothing and says what would go back and what it would cost.

    PAYWALL_KEY is the key of the receiver authorizer and pays for gas.
    """

    async def work() -> list[dict[str, object]]:
        async with _open(store, Node(rpc, key(), network=network)) as (books, node):
            found = await books.channel(_channel_id(channel))
            if found is None or found.network != network:
                raise ConfigurationError(f"the store knows no channel {channel} on {network}")
            units = _units(found, amount)
            if dry_run:
                return await preview_refund(books, node, found, units, native_price)
            before = found.balance
            mined = await give_back(books, node, found, units)
            after = await books.channel(found.channel_id)
        assert after is not None
        back = before - after.balance
        return [{"channel": channel, "refunded": back, **_costs(mined)}]

    print_rows(run(work()), as_json, "nothing refunded")


# -- How it is done ------------------------------------------------------------------------------


async def _claim(store: str, node: Node) -> list[dict[str, object]]:
    async with _open(store, node) as (books, chain):
        with progress() as bar:
            step = steps(bar)
            done = await claimer.claim(
                books, chain, progress=lambda at, of: step("claiming", at, of)
            )
    return [
        {
            "channels": len(item.batch.channels),
            "claimed": item.batch.amount,
            **_costs(item.mined),
        }
        for item in done
    ]


async def _preview(
    store: str, node: Node, policy: ClaimPolicy, by_policy: bool
) -> list[dict[str, object]]:
    async with _open(store, node) as (books, chain):
        return await preview_claim(books, chain, policy, by_policy)


async def _watch(store: str, node: Node, policy: ClaimPolicy) -> None:
    """Rounds until a signal; what is under way then is taken up at the next start."""
    async with _open(store, node) as (books, chain):
        worker = Claimer(books, chain, policy)
        task = asyncio.create_task(worker.run(policy.poll_seconds))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)
        err.print(f"claiming on {chain.network} every {policy.poll_seconds} s", highlight=False)
        with suppress(asyncio.CancelledError):
            await task
        await worker.close()


@asynccontextmanager
async def _open(url: str, node: Node) -> AsyncIterator[tuple[Store, Node]]:
    """A store and a node, opened together and closed together."""
    store = open_store(url)
    await store.open()
    try:
        await node.open()
        try:
            yield store, node
        finally:
            await node.close()
    finally:
        await store.close()


def _channel_id(text: str) -> bytes:
    try:
        channel_id = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        channel_id = b""
    if len(channel_id) != 32:
        raise ConfigurationError(f"{text!r} is not the id of a channel: 64 hex digits")
    return channel_id


def _units(channel: Channel, amount: str | None) -> int | None:
    if amount is None:
        return None
    asset = KNOWN_ASSETS.get((channel.network, channel.config.token))
    if asset is None:
        raise ConfigurationError("the decimals of this channel's token are not known: refund all")
    return asset.units(amount)


def _costs(mined: Mined) -> dict[str, object]:
    return {
        "transaction": show_bytes(mined.transaction),
        "gas": mined.gas,
        "fee_wei": mined.fee_wei,
    }
