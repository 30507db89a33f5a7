"""The provider's commands in processes of their own: what they say, what they would send, and
`claim --watch` from its start to a clean stop."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from helpers.chain import ASSET, eventually, node_of, rich_payer
from helpers.channels import voucher
from helpers.collecting import Customer, Provider, claimer_of
from helpers.rpc_proxy import RpcProxy, says
from typer.testing import CliRunner

from paywall import open_store
from paywall.chain.devnet import Devnet
from paywall.cli import app
from paywall.protocol.x402 import show_address, show_bytes

ROOT: Final = Path(__file__).parent.parent
STOP_SECONDS: Final = 20

Rows = list[dict[str, Any]]


@dataclass
class Scene:
    """A provider whose store is a file, and the settings of its commands."""

    provider: Provider
    environment: dict[str, str]

    async def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "paywall.cli", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )

    async def rows(self, *arguments: str) -> Rows:
        """The same in this process, for there are many; what it prints is read."""
        invoke = partial(CliRunner().invoke, app, arguments, env=self.environment)
        done = await asyncio.to_thread(invoke)
        assert done.exit_code == 0, (done.stderr, done.exception)
        rows: Rows = json.loads(done.stdout)
        return rows

    @asynccontextmanager
    async def watching(self, *options: str) -> AsyncIterator["Watching"]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "paywall.cli", "claim", "--watch", "--poll", "1", *options),
            env=self.environment,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            yield Watching(process)
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    async def claimed(self, customer: Customer, amount: int) -> None:
        """Waits until the contract shows it."""
        async with asyncio.timeout(60):
            while await self.provider.claimed(customer) != amount:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def sent(self) -> int:
        """How many transactions the gas wallet has made."""
        return await self.provider.node._sender._post.count("latest")


@dataclass
class Watching:
    """A running `paywall claim --watch`."""

    process: asyncio.subprocess.Process

    async def says(self, words: str) -> None:
        assert self.process.stderr
        async with asyncio.timeout(60):
            while line := await self.process.stderr.readline():
                if words in line.decode():
                    return
        raise AssertionError(f"it ended, and did not say {words!r}")

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        async with asyncio.timeout(STOP_SECONDS):
            return await self.process.wait()


@asynccontextmanager
async def scene(devnet: Devnet, folder: Path, rpc: str | None = None) -> AsyncIterator[Scene]:
    url = f"sqlite:///{folder}/provider.db"
    store = open_store(url)
    await store.open()
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "200",
        "RPC_URL": rpc or devnet.url,
        "PAYWALL_KEY": devnet.accounts[0].key,
        "PAYWALL_STORE": url,
    }
    try:
        async with node_of(devnet) as node:
            yield Scene(Provider(store, node), environment)
    finally:
        await store.close()


# -- What they say of themselves -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (
            "claim",
            ("--dry-run", "--watch", "RPC_URL", "PAYWALL_KEY", "SIGTERM", "at once", "named"),
        ),
        ("settle", ("--dry-run", "RPC_URL", "PAYWALL_KEY", "wallets that earned it")),
        ("refund", ("--dry-run", "--amount", "PAYWALL_KEY", "promised more")),
        ("channels", ("--store", "--wallet", "atomic units", "no chain is asked")),
    ],
)
def test_each_command_explains_itself(command: str, words: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, [command, "--help"], terminal_width=200)
    assert done.exit_code == 0
    shown = " ".join(done.stdout.split())
    assert [word for word in words if word not in shown] == []


# -- Dry runs ------------------------------------------------------------------------------------


async def test_a_dry_run_says_what_a_claim_and_a_settlement_would_send_and_cost(
    devnet: Devnet, tmp_path: Path
) -> None:
    async with scene(devnet, tmp_path) as at:
        provider, payer = at.provider, rich_payer(devnet)
        customers = [await provider.customer(payer) for _ in range(3)]
        for number, customer in enumerate(customers):
            await provider.serve(customer, 1_000 * (number + 1))
        before = await at.sent()
        (row,) = await at.rows("claim", "--dry-run")
        assert (row["action"], row["channels"], row["amount"]) == ("claim", 3, 6_000)
        assert row["fee_wei"] > 0
        assert row["fee"].startswith("$0.")
        assert await at.rows("settle", "--dry-run") == []
        assert await at.sent() == before, "nothing was sent"
        (claimed,) = await at.rows("claim")
        assert (claimed["channels"], claimed["claimed"]) == (3, 6_000)
        (row,) = await at.rows("settle", "--dry-run")
        assert row["receiver"] == show_address(provider.receiver)
        assert (row["action"], row["amount"]) == ("settle", 6_000)
        assert await provider.node.token_balance(ASSET.address, provider.receiver) == 0


async def test_case_34_a_dry_run_names_the_row_that_would_be_refused_and_why(
    devnet: Devnet, tmp_path: Path
) -> None:
    async with scene(devnet, tmp_path) as at:
        provider, payer = at.provider, rich_payer(devnet)
        good, bad = await provider.customer(payer), await provider.customer(payer)
        await provider.serve(good, 1_000)
        await provider.store.reserve(bad.channel_id, voucher(5_000), 5_000, "r")
        await provider.store.charge(bad.channel_id, "r", 5_000)
        claim, refused = await at.rows("claim", "--dry-run")
        assert (claim["action"], claim["channels"], claim["amount"]) == ("claim", 1, 1_000)
        assert refused["action"].startswith("refused: ECDSAInvalidSignature")
        assert show_bytes(bad.channel_id) in refused["action"]


async def test_a_dry_run_by_policy_says_what_would_wait(devnet: Devnet, tmp_path: Path) -> None:
    async with scene(devnet, tmp_path) as at:
        customer = await at.provider.customer(rich_payer(devnet))
        await at.provider.serve(customer, 20_000)
        (row,) = await at.rows("claim", "--dry-run", "--watch")
        assert row["action"] == f"waits (dear): {show_bytes(customer.channel_id)}"
        (row,) = await at.rows("claim", "--dry-run", "--watch", "--native-price", "$1")
        assert (row["action"], row["amount"]) == ("claim", 20_000)


async def test_a_dry_run_of_a_refund_sends_nothing_and_the_refund_does_what_it_said(
    devnet: Devnet, tmp_path: Path
) -> None:
    async with scene(devnet, tmp_path) as at:
        provider = at.provider
        customer = await provider.customer(rich_payer(devnet), deposit=50_000)
        await provider.serve(customer, 1_000)
        name, before = show_bytes(customer.channel_id), await at.sent()
        (row,) = await at.rows("refund", name, "--dry-run")
        assert (row["action"], row["channel"]) == ("refund", name)
        assert (row["amount"], row["claimed_first"]) == (49_000, 1_000)
        assert row["fee_wei"] > 0
        (part,) = await at.rows("refund", name, "--dry-run", "--amount", "$0.02")
        assert part["amount"] == 20_000
        too_much = await at.run("refund", name, "--dry-run", "--amount", "$0.05")
        assert too_much.returncode == 1
        assert "49000 units are left" in too_much.stderr
        assert await at.sent() == before
        assert (await provider.record(customer)).refunding is None
        (refunded,) = await at.rows("refund", name)
        assert refunded["refunded"] == 49_000
        assert await provider.claimed(customer) == 1_000


async def test_a_channel_that_nobody_knows_is_wrong_use(devnet: Devnet, tmp_path: Path) -> None:
    async with scene(devnet, tmp_path) as at:
        done = await at.run("refund", "0x" + "ab" * 32, "--dry-run")
        assert done.returncode == 2
        assert "knows no channel" in done.stderr


# -- claim --watch -------------------------------------------------------------------------------


async def test_it_watches_claims_settles_and_stops_cleanly(devnet: Devnet, tmp_path: Path) -> None:
    async with scene(devnet, tmp_path) as at:
        provider = at.provider
        customer = await provider.customer(rich_payer(devnet))
        await provider.serve(customer, 1_000)
        async with at.watching("--native-price", "$1", "--fee-share-ppm", "1000000") as watching:
            await watching.says("claiming on eip155:84532 every 1 s")
            await at.claimed(customer, 1_000)
            await provider.serve(customer, 500)
            await at.claimed(customer, 1_500)
            assert await watching.stop() == 0
        done = await claimer_of(provider).run_once()
        assert done is not None, "the lease was given back"
        assert done.claimed == [], "what it had sent is known"
        earned = await provider.node.token_balance(ASSET.address, provider.receiver)
        assert earned == 1_500


async def test_case_35_stopped_while_it_waits_for_a_claim_it_leaves_that_to_the_next(
    devnet: Devnet, tmp_path: Path
) -> None:
    async with RpcProxy(devnet.url) as proxy, scene(devnet, tmp_path, proxy.url) as at:
        customer = await at.provider.customer(rich_payer(devnet))
        await at.provider.serve(customer, 1_000)
        proxy.faults["eth_getTransactionReceipt"] = proxy.stall
        async with at.watching("--native-price", "$1", "--fee-share-ppm", "1000000") as watching:
            await eventually(lambda: "eth_getTransactionReceipt" in proxy.asked, 60)
            assert await watching.stop() == 0
        before = await at.sent()
        done = await claimer_of(at.provider).run_once()
        assert done is not None
        assert (len(done.resumed), done.claimed) == (1, [])
        assert await at.sent() == before + 1, "a settlement"
        assert await at.provider.claimed(customer) == 1_000


async def test_it_goes_on_when_its_chain_was_away(devnet: Devnet, tmp_path: Path) -> None:
    async with RpcProxy(devnet.url) as proxy, scene(devnet, tmp_path, proxy.url) as at:
        customer = await at.provider.customer(rich_payer(devnet))
        async with at.watching("--native-price", "$1", "--fee-share-ppm", "1000000") as watching:
            await watching.says("claiming on")
            await at.provider.serve(customer, 1_000)
            proxy.faults["*"] = says("", 500)
            await watching.says("ChainUnreachable")
            proxy.faults.clear()
            await watching.says("over: ChainUnreachable")
            await at.claimed(customer, 1_000)
            assert await watching.stop(signal.SIGINT) == 0
