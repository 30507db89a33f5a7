"""What paying costs the one who pays: processor time, and HTTP exchanges, for each paid request.

    python -m bench.client_cost            JSON on standard output

Our client and the official Python one buy the same thing, one request after the other, from a
server in a process of its own that takes every payment and answers with a true receipt, so that no
provider is part of what is measured. Ours writes each payment to a wallet's file first; the
official one keeps its state in memory. A free request by plain httpx is what HTTP itself costs.
"""

import argparse
import asyncio
import json
import os
import secrets
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final

import httpx
from eth_account import Account
from helpers.agent import ASSET, PRICE, Json, encode, offer, quote_header, read_json
from x402 import x402Client
from x402.http.clients import wrapHttpxWithPayment
from x402.mechanisms.evm import EthAccountSigner
from x402.mechanisms.evm.batch_settlement.client import BatchSettlementEvmScheme

import paywall

REQUESTS: Final = 300
ROUNDS: Final = 5
_START_SECONDS: Final = 30
_IDS: Final = {"payment-identifier": {"info": {"required": False}}}

Buy = Callable[[], Awaitable[httpx.Response]]


# -- The server ------------------------------------------------------------------------------------


class Till:
    """A raw HTTP server that takes every payment. It checks nothing and counts requests."""

    def __init__(self) -> None:
        self._exchanges = 0
        told = offer(PRICE, extra={"minDeposit": "500000"})
        quote = quote_header(told, extensions=_IDS, resource={"url": "http://127.0.0.1/item"})
        self._quote = _answer("402 Payment Required", f"payment-required: {quote}\r\n")
        self._balances: dict[str, int] = {}

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                writer.write(self._respond(await reader.readuntil(b"\r\n\r\n")))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def _respond(self, head: bytes) -> bytes:
        if head.startswith(b"GET /exchanges"):
            return _answer("200 OK", "", str(self._exchanges).encode())
        self._exchanges += 1
        if head.startswith(b"GET /free"):
            return _answer("200 OK", "", b"{}")
        for line in head.split(b"\r\n"):
            name, _, value = line.partition(b": ")
            if name.lower() == b"payment-signature":
                return _answer("200 OK", f"payment-response: {self._receipt(value)}\r\n", b"{}")
        return self._quote

    def _receipt(self, header: bytes) -> str:
        payload = read_json(header.decode())["payload"]
        voucher = payload["voucher"]
        channel, total = voucher["channelId"], voucher["maxClaimableAmount"]
        deposit = payload["deposit"]["amount"] if payload["type"] == "deposit" else ""
        balance = self._balances[channel] = self._balances.get(channel, 0) + int(deposit or 0)
        state: Json = {"channelId": channel, "balance": str(balance), "totalClaimed": "0"}
        state |= {"withdrawRequestedAt": 0, "refundNonce": "0", "chargedCumulativeAmount": total}
        made = "0x" + "ab" * 32 if deposit else ""
        told = {"success": True, "transaction": made, "network": ASSET.network, "amount": deposit}
        return encode({**told, "extra": {"channelState": state, "chargedAmount": str(PRICE)}})


def _answer(status: str, headers: str = "", body: bytes = b"{}") -> bytes:
    return f"HTTP/1.1 {status}\r\n{headers}content-length: {len(body)}\r\n\r\n".encode() + body


async def _serve() -> None:
    server = await asyncio.start_server(Till(), "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    async with server:
        await server.serve_forever()


@asynccontextmanager
async def _till() -> AsyncIterator[str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.client_cost", "--serve"),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(_START_SECONDS):
            port = int(await process.stdout.readline())
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


# -- The clients -----------------------------------------------------------------------------------


@asynccontextmanager
async def _clients(url: str, folder: Path) -> AsyncIterator[dict[str, Buy]]:
    """Each buys one thing; the channels are open."""
    wallet = paywall.Wallet(
        secrets.token_bytes(32), total="$1000", deposit="$100", state=folder / "agent.db"
    )
    scheme = BatchSettlementEvmScheme(EthAccountSigner(Account.create()))
    official = x402Client().register(ASSET.network, scheme)
    async with (
        httpx.AsyncClient(base_url=url) as plain,
        paywall.AsyncClient(wallet=wallet, base_url=url) as ours,
        wrapHttpxWithPayment(official, base_url=url) as theirs,
    ):
        yield {
            "free": lambda: plain.get("/free"),
            "ours": lambda: ours.get("/item"),
            "x402_python": lambda: theirs.get("/item"),
        }
    wallet.close()


async def client_cost(requests: int = REQUESTS, rounds: int = ROUNDS) -> dict[str, object]:
    """Microseconds of the client's processor per paid request, and exchanges per paid request.

    Rounds take turns, and each figure is the median of its rounds.
    """
    spent: dict[str, list[float]] = {}
    exchanges: dict[str, list[float]] = {}
    with TemporaryDirectory(prefix="paywall-bench-") as folder:
        async with _till() as url, _clients(url, Path(folder)) as clients:
            for buy in clients.values():
                await _buy(buy, 3)  # deposits, connections, what is compiled on first use
            for _ in range(rounds):
                for name, buy in clients.items():
                    before = await _exchanges(url)
                    spent.setdefault(name, []).append(await _buy(buy, requests))
                    more = await _exchanges(url) - before
                    exchanges.setdefault(name, []).append(more / requests)
    cpu = {name: round(median(figures), 1) for name, figures in spent.items()}
    return {
        "client_cpu_us_per_payment": {n: us for n, us in cpu.items() if n != "free"},
        "client_cpu_us_per_free_request": cpu["free"],
        "client_exchanges_per_payment": {
            name: round(median(figures), 3) for name, figures in exchanges.items() if name != "free"
        },
        "requests": requests,
        "rounds": rounds,
    }


async def _buy(buy: Buy, requests: int) -> float:
    """Microseconds of this process for each of so many requests."""
    began = time.process_time()
    for _ in range(requests):
        answer = await buy()
        assert answer.status_code == 200, answer.status_code
    return (time.process_time() - began) / requests * 1e6


async def _exchanges(url: str) -> int:
    async with httpx.AsyncClient() as client:
        return int((await client.get(f"{url}/exchanges")).text)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.client_cost", description="what paying costs")
    parser.add_argument("--requests", type=int, default=REQUESTS, help="per round")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.serve:
        return asyncio.run(_serve())
    print(json.dumps(asyncio.run(client_cost(told.requests, told.rounds)), indent=2))


if __name__ == "__main__":
    main()
