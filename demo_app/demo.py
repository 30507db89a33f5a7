"""The two together on an embedded chain: what `paywall demo` runs, and how it checks the sums.

A chain, a provider in a process of its own, and an agent. The agent makes one deposit and then
many paid requests at once on one channel; the provider claims and settles; what is left goes back.
Every sum is compared to the unit, with what the chain itself says of everybody's balance.
"""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory
from typing import Final

import httpx

import paywall
from paywall import USDC
from paywall.chain import claimer
from paywall.chain.devnet import Devnet
from paywall.chain.node import Node
from paywall.confirmations import Receipt
from paywall.protocol.errors import AgentError
from paywall.stores import open_store

ASSET: Final = USDC.base_sepolia
PRICE: Final = ASSET.units("$0.001")
START_SECONDS: Final = 30
GAS_PRICE_ETH: Final = 0.01e-9
"""0.01 gwei, a usual price of gas on an L2."""
ETH_USD: Final = 3000

Progress = Callable[[str, int, int], None]


async def run(requests: int, in_flight: int, progress: Progress) -> dict[str, object]:
    """The whole demonstration; returns what happened, in atomic units and milliseconds."""
    with TemporaryDirectory(prefix="paywall-demo-") as folder, Devnet() as devnet:
        progress("devnet", 1, 1)
        gas_account, provider, agent = devnet.accounts[:3]
        store = f"sqlite:///{folder}/provider.db"
        before = [devnet.usdc_balance(account.address) for account in (provider, agent)]
        with serve_provider(devnet, gas_account.key, provider.address, store) as url:
            progress("provider", 1, 1)
            wallet = paywall.Wallet(
                agent.key, per_request="$0.01", total="$2", state=f"{folder}/agent.db"
            )
            limits = httpx.Limits(max_connections=in_flight)
            async with paywall.AsyncClient(wallet=wallet, base_url=url, limits=limits) as client:
                receipts, latencies = await _buy(client, requests, in_flight, progress)
                earned = await _collect(devnet, gas_account.key, store, progress)
                back = await client.refund("/weather/paris")
                progress("refund", 1, 1)
            wallet.close()
        after = [devnet.usdc_balance(account.address) for account in (provider, agent)]
        gas = {**earned, **_gas_of(devnet, receipts, back)}
        latency_ms = _quantiles_ms(latencies)
        return _summary(requests, in_flight, receipts, back, gas, latency_ms, before, after)


async def _buy(
    client: paywall.AsyncClient, requests: int, in_flight: int, progress: Progress
) -> tuple[list[Receipt], list[float]]:
    """The paid requests: one to open the channel, the others `in_flight` at a time."""
    room = asyncio.Semaphore(in_flight)
    receipts: list[Receipt] = []
    latencies: list[float] = []

    async def buy(number: int) -> None:
        async with room:
            started = time.perf_counter()
            answer = await client.get(f"/weather/city-{number}")
            latencies.append((time.perf_counter() - started) * 1000)
        if answer.is_error:
            raise AgentError(f"the provider answered {answer.status_code}: {answer.text}")
        receipt = paywall.receipt(answer)
        assert receipt is not None, "a paid answer has a receipt"
        receipts.append(receipt)
        progress("requests", len(receipts), requests)

    await buy(0)
    del latencies[:]  # the first one waited for the deposit
    await asyncio.gather(*(buy(number) for number in range(1, requests)))
    return receipts, latencies


async def _collect(devnet: Devnet, key: str, store_url: str, progress: Progress) -> dict[str, int]:
    """The provider's side of the chain: claim what was charged, then settle. Gas and sums."""
    store = open_store(store_url)
    node = Node(devnet.url, key, network=ASSET.network)
    await store.open()
    await node.open()
    try:
        claimed = await claimer.claim(store, node)
        progress("claim", 1, 1)
        settled = await claimer.settle(store, node)
        progress("settle", 1, 1)
        channels = await store.channels()
        return {
            "channels": len(channels),
            "charged": sum(channel.charged for channel in channels),
            "claimed": sum(channel.claimed for channel in channels),
            "claim": sum(done.mined.gas for done in claimed),
            "settle": sum(mined.gas for _, _, mined in settled),
        }
    finally:
        await node.close()
        await store.close()


def _gas_of(devnet: Devnet, receipts: list[Receipt], back: Receipt) -> dict[str, int]:
    deposits = [receipt.transaction for receipt in receipts if receipt.transaction]
    return {
        "deposits": len(deposits),
        "deposit": sum(_gas_used(devnet, transaction) for transaction in deposits),
        "refund": _gas_used(devnet, back.transaction),
    }


def _gas_used(devnet: Devnet, transaction: str) -> int:
    question = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "eth_getTransactionReceipt",
        "params": [transaction],
    }
    return int(httpx.post(devnet.url, json=question).json()["result"]["gasUsed"], 16)


def _quantiles_ms(latencies: list[float]) -> dict[str, float]:
    if len(latencies) < 2:
        return {"p50": 0.0, "p99": 0.0}
    cuts = quantiles(latencies, n=100)
    return {"p50": round(cuts[49], 2), "p99": round(cuts[98], 2)}


def _summary(
    requests: int,
    in_flight: int,
    receipts: list[Receipt],
    back: Receipt,
    sums: dict[str, int],
    latency_ms: dict[str, float],
    before: list[int],
    after: list[int],
) -> dict[str, object]:
    gas = {kind: sums[kind] for kind in ("deposit", "claim", "settle", "refund")}
    fees_usd = sum(gas.values()) * GAS_PRICE_ETH * ETH_USD
    return {
        "requests": len(receipts),
        "in_flight": in_flight,
        "channels": sums["channels"],
        "deposits": sums["deposits"],
        "price": PRICE,
        "charged": sums["charged"],
        "claimed": sums["claimed"],
        "settled": after[0] - before[0],
        "refunded": back.amount,
        "deposited": sum(receipt.amount or 0 for receipt in receipts),
        "receipts_charged": sum(receipt.charged or 0 for receipt in receipts),
        "latency_ms": latency_ms,
        "gas": gas,
        "fee_per_request_usd_at_0_01_gwei": round(fees_usd / requests, 10),
        "provider_balance_change": after[0] - before[0],
        "agent_balance_change": after[1] - before[1],
    }


def differences(result: dict[str, object]) -> list[str]:
    """Every sum that is off, in words; empty when all is right."""
    due = int(str(result["requests"])) * PRICE
    expected: dict[str, object] = {
        "channels": 1,
        "deposits": 1,
        "charged": due,
        "receipts_charged": due,
        "claimed": due,
        "settled": due,
        "provider_balance_change": due,
        "agent_balance_change": -due,
        "refunded": int(str(result["deposited"])) - due,
    }
    return [
        f"{name} is {result[name]}, and should be {value}"
        for name, value in expected.items()
        if result[name] != value
    ]


@contextmanager
def serve_provider(devnet: Devnet, key: str, pay_to: str, store: str) -> Iterator[str]:
    """The provider under uvicorn, in a process of its own."""
    port = _free_port()
    log = Path(store.removeprefix("sqlite:///")).with_suffix(".log")
    command = [sys.executable, "-m", "uvicorn", "demo_app.provider:app", "--port", str(port)]
    environment = {
        **os.environ,
        "RPC_URL": devnet.url,
        "PAYWALL_KEY": key,
        "PAY_TO": pay_to,
        "PAYWALL_STORE": store,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--log-level", "warning"], env=environment, stdout=output, stderr=output
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_for(url, process, log)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=START_SECONDS)


def _wait_for(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            httpx.get(url)
            return
        except httpx.TransportError:
            time.sleep(0.05)
    raise RuntimeError(f"the provider did not start:\n{log.read_text()}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
