"""A node whose endpoint stalls, fails or lies: nothing is believed, and nobody waits long."""

import asyncio
import json
import logging
import time
import traceback

import pytest
from aiohttp import web
from helpers.chain import batch_of, funded, node_of, rich_payer
from helpers.rpc_proxy import Forward, RpcProxy, edited, error, once, result, says

from paywall.chain.devnet import Devnet
from paywall.chain.node import Node
from paywall.protocol.errors import (
    ChainUnavailable,
    ConfigurationError,
    Refused,
)
from paywall.protocol.limits import MAX_RPC_ANSWER_BYTES

BROKEN = {
    "500": says("oops", 500),
    "429": says("slow down", 429),
    "403": says("forbidden", 403),
    "HTML": says("<html>hello</html>"),
    "HTML with JSON type": says("<html>", 200, **{"Content-Type": "application/json"}),
    "empty": says(""),
    "not UTF-8": says(b"\xff\xfe{}"),
    "redirect": says("", 302, Location="http://127.0.0.1:1/"),
    "list": says("[]"),
    "number": says("7"),
    "no result": says('{"jsonrpc": "2.0", "id": 1}'),
    "both": says('{"jsonrpc": "2.0", "id": 1, "result": "0x", "error": {}}'),
    "odd error": says('{"jsonrpc": "2.0", "id": 1, "error": "no"}'),
    "error of nothing": says('{"jsonrpc": "2.0", "id": 1, "error": {"code": 1}}'),
    "deep": says("[" * 100_000),
    "deep behind strings": says('{"a\\"]]": ' + '[{"b": ' * 100_000),
    "wide": says("[" + "[]," * 300_000 + "[]]"),
    "huge": says(b" " * (MAX_RPC_ANSWER_BYTES + 1)),
    "null": result(None),
    "words": result("hello"),
    "half a byte": result("0x123"),
    "nothing": result("0x"),
    "short": result("0x" + "00" * 31),
    "negative": result("-0x1"),
    "object": result({"a": 1}),
    "refusal": error(-32005, "limit exceeded"),
    "endless number": result("0x" + "f" * 100_000),
}


@pytest.mark.parametrize("fault", BROKEN.values(), ids=BROKEN.keys())
async def test_case_25_a_broken_endpoint_is_unavailable(devnet: Devnet, fault: object) -> None:
    async with RpcProxy(devnet.url) as proxy, node_of(devnet, proxy.url) as node:
        proxy.faults["*"] = fault
        began = time.monotonic()
        with pytest.raises(ChainUnavailable):
            await node.channel(bytes(32))
        with pytest.raises(ChainUnavailable):
            await node.settle(node.gas_wallet, node.gas_wallet)
        assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "method",
    [
        "eth_call",
        "eth_estimateGas",
        "eth_getBlockByNumber",
        "eth_maxPriorityFeePerGas",
        "eth_getTransactionCount",
        "eth_sendRawTransaction",
        "eth_getTransactionReceipt",
    ],
)
async def test_case_12_an_endpoint_that_stalls_anywhere_fails_in_bounded_time(
    devnet: Devnet, method: str
) -> None:
    payer = rich_payer(devnet)
    async with (
        RpcProxy(devnet.url) as proxy,
        node_of(devnet, proxy.url, timeout_seconds=1) as node,
    ):
        proxy.faults[method] = proxy.stall
        async with asyncio.timeout(10):  # and not for ever, as the endpoint would have it
            with pytest.raises(ChainUnavailable):
                await node.deposit(payer.deposit(payer.config(node.receiver_authorizer)))


async def test_twenty_deposits_through_a_stalled_endpoint_fail_together(devnet: Devnet) -> None:
    payer = rich_payer(devnet)
    async with (
        RpcProxy(devnet.url) as proxy,
        node_of(devnet, proxy.url, timeout_seconds=0.5) as node,
    ):
        proxy.faults["eth_sendRawTransaction"] = proxy.stall
        deposits = [payer.deposit(payer.config(node.receiver_authorizer)) for _ in range(20)]
        began = time.monotonic()
        outcomes = await asyncio.gather(*map(node.deposit, deposits), return_exceptions=True)
        assert time.monotonic() - began < 6
    assert all(isinstance(outcome, ChainUnavailable) for outcome in outcomes)


async def test_case_25_a_receipt_without_the_deposits_event_is_not_believed(
    devnet: Devnet,
) -> None:
    payer = rich_payer(devnet)
    async with RpcProxy(devnet.url) as proxy, node_of(devnet, proxy.url) as node:
        proxy.faults["eth_getTransactionReceipt"] = edited(lambda receipt: {**receipt, "logs": []})
        with pytest.raises(ChainUnavailable, match="did not move"):
            await node.deposit(payer.deposit(payer.config(node.receiver_authorizer)))


async def test_a_revert_shows_a_short_reason_and_nothing_else(devnet: Devnet) -> None:
    payer = rich_payer(devnet)
    async with RpcProxy(devnet.url) as proxy, node_of(devnet, proxy.url) as node:
        words = "execution reverted: \x1b[31m" + "x" * 5_000
        proxy.faults["eth_estimateGas"] = error(3, words)
        with pytest.raises(Refused) as refusal:
            await node.deposit(payer.deposit(payer.config(node.receiver_authorizer)))
    assert len(str(refusal.value)) < 200
    assert str(refusal.value).isprintable()


async def test_an_endpoint_behind_our_own_receipts_is_asked_again(devnet: Devnet) -> None:
    payer = rich_payer(devnet)
    async with RpcProxy(devnet.url) as proxy, node_of(devnet, proxy.url) as node:
        channel = await funded(node, payer, 100)
        stale: list[bytes] = []

        async def old_news(forward: Forward) -> web.StreamResponse:
            return web.Response(body=stale[0])

        async def record(forward: Forward) -> web.StreamResponse:
            stale.append(json.dumps(await forward()).encode())
            return web.Response(body=stale[0])

        proxy.faults["eth_call"] = record
        await node.channel(channel.channel_id)
        proxy.faults.clear()
        await node.claim(batch_of(node, channel))
        proxy.faults["eth_call"] = once(old_news)
        assert (await node.channel(channel.channel_id)).claimed == 100


async def test_a_network_without_the_contracts_is_a_configuration_error(devnet: Devnet) -> None:
    async with RpcProxy(devnet.url) as proxy:
        proxy.faults["eth_getCode"] = result("0x")
        with pytest.raises(ConfigurationError, match="has no settlement contract at 0x4020"):
            async with node_of(devnet, proxy.url):
                raise AssertionError("opened")


@pytest.mark.parametrize(
    "fault",
    [says("no", 401), says("no", 500), says("<html>"), says("", 302, Location="http://a.b/")],
)
async def test_case_16_and_53_no_error_or_log_shows_the_secrets_of_the_url_or_a_key(
    devnet: Devnet, fault: object, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with RpcProxy(devnet.url) as proxy:
        proxy.faults["*"] = fault
        url = f"http://user:hunter2@127.0.0.1:{proxy.port}/v2/apikey?token=sesame"
        node = Node(url, "ab" * 32)
        with pytest.raises(ChainUnavailable) as failure:
            await node.open()
    shown = "".join(traceback.format_exception(failure.value)) + repr(failure.value)
    logged = "".join(r.getMessage() for r in caplog.records if not r.name.startswith("aiohttp.acc"))
    for secret in ("hunter2", "apikey", "sesame", "abab"):
        assert secret not in shown
        assert secret not in logged


async def test_case_53_an_endpoint_that_is_not_there_is_named_by_host_only() -> None:
    node = Node("http://user:hunter2@127.0.0.1:9/v2/apikey", "ab" * 32)
    with pytest.raises(
        ChainUnavailable, match=r"^http://127\.0\.0\.1 cannot be reached"
    ) as failure:
        await node.open()
    shown = "".join(traceback.format_exception(failure.value))
    assert "hunter2" not in shown
    assert "apikey" not in shown
