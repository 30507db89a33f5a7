"""All is logged, at the lowest level, while a provider works and fails: no secret is in it."""

import asyncio
import logging
import threading
import traceback
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from helpers.chain import ASSET, FUNDS, NETWORK, new_address
from helpers.redis_server import RedisServer
from helpers.rpc_proxy import RpcProxy, says
from helpers.servers import served
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from paywall import AgentError, AsyncClient, Client, Facilitator, Node, Paywall, Wallet, pass_for
from paywall.chain.devnet import Devnet
from paywall.notices import Refused
from paywall.protocol.errors import ConfigurationError, PaymentError
from paywall.protocol.x402 import show_address
from paywall.proxy import Upstream
from paywall.webhook import Webhook

IN_URLS = ("hunter2", "apikey", "sesame", "opensesame", "hooktoken")
HOOK_SECRET = "a secret for webhooks"


class Written(logging.Handler):
    """What a provider's threads have logged; the agents of a test live in the main one."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.threadName != threading.main_thread().name:
            self.text.append(f"{record.name} {self.format(record)}")


@pytest.fixture
def written() -> Iterator[Written]:
    handler, root = Written(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)


class Overheard:
    """The payments that reach an app, and the tokens that it gives out."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.secrets: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def listening(message: Message) -> None:
            for name, value in message.get("headers", ()):
                if name == b"paywall-pass":
                    self.secrets.append(value.decode().split("pw_")[1][:20])
            await send(message)

        for name, value in scope.get("headers", ()):
            if name == b"payment-signature":
                self.secrets += [value.decode(), *_signatures(b64decode(value).decode())]
        await self._app(scope, receive, listening)


def _signatures(payment: str) -> list[str]:
    """The hex of every signature in a payment, without its prefix."""
    parts = payment.split('"signature":"0x')[1:]
    assert parts, "a payment is signed"
    return [part[:130] for part in parts]


def agent_of(devnet: Devnet, number: int) -> Wallet:
    wallet = Wallet(f"{number:02x}" * 12 + new_address().hex(), state=":memory:")
    devnet.fund_usdc(wallet.address, FUNDS)
    return wallet


async def served_and_failing(devnet: Devnet, url: str, proxy: RpcProxy, redis: RedisServer) -> None:
    """A deposit, a voucher, a pass; a deposit while the endpoint fails; a voucher without Redis."""
    wallet, other = agent_of(devnet, 0x61), agent_of(devnet, 0x62)
    async with AsyncClient(wallet=wallet, timeout=30) as client:
        for path in ("/fixed", "/fixed", "/pass"):
            assert (await client.get(url + path)).status_code == 200
        proxy.faults["*"] = says("no", 500)
        async with AsyncClient(wallet=other, timeout=30) as stranger:
            assert (await stranger.get(f"{url}/fixed")).status_code == 503
        redis.kill()
        assert (await client.get(f"{url}/fixed")).status_code == 503
    proxy.faults.clear()  # so that it may end in order
    redis.start()
    wallet.close()
    other.close()


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    server = RedisServer("--requirepass", "opensesame").start()
    yield server
    server.stop()


async def test_cases_16_and_53_a_provider_that_works_and_fails_logs_no_secret(
    devnet: Devnet, redis: RedisServer, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paywall.sending.RESEND_PAUSES_SECONDS", (0.1,))
    key = devnet.accounts[0].key
    async with RpcProxy(devnet.url) as proxy:
        hook = Webhook("http://127.0.0.1:9/hooktoken", HOOK_SECRET, pauses_seconds=(0.0,))
        wall = Paywall(
            Starlette(routes=[Route(path, served_text) for path in ("/fixed", "/pass")]),
            prices={"GET /fixed": "$0.001", "GET /pass": pass_for("$0.001", hours=1)},
            pay_to=show_address(new_address()),
            asset=ASSET,
            chain=Node(
                f"http://user:hunter2@127.0.0.1:{proxy.port}/v2/apikey?token=sesame",
                key,
                network=NETWORK,
                timeout_seconds=5,
            ),
            store=f"redis://:opensesame@127.0.0.1:{redis.port}?timeout=1",
            on_event=hook,
        )
        app = Overheard(wall)
        serving = served(app)
        url = await asyncio.to_thread(serving.__enter__)  # the endpoint answers meanwhile
        try:
            await served_and_failing(devnet, url, proxy, redis)
        finally:
            await asyncio.to_thread(serving.__exit__, None, None, None)
    logged = "\n".join(written.text)
    for telling in ("not processed: redis:", "answered 500", "events are dropped"):
        assert telling in logged  # it did log, and of these troubles
    assert len(app.secrets) >= 8
    secrets = (*IN_URLS, HOOK_SECRET, key.removeprefix("0x"), *app.secrets)
    assert [one for one in secrets if one.lower() in logged.lower()] == []


async def served_text(request: Request) -> PlainTextResponse:
    return PlainTextResponse("served")


async def test_case_53_httpx_does_not_log_where_webhooks_and_facilitators_are(
    caplog: pytest.LogCaptureFixture, devnet: Devnet
) -> None:
    caplog.set_level(logging.DEBUG)

    async def takes(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, text="no")

    transport = httpx.MockTransport(takes)
    hook = Webhook("https://me.example/hooktoken", HOOK_SECRET, transport=transport)
    hook(Refused(1.0, "GET /fixed", "a_reason"))
    await hook.close()
    site = "https://user:hunter2@pay.example/v2/apikey"
    chain = Facilitator(site, reads=devnet.url, network=NETWORK, transport=transport)
    with pytest.raises(PaymentError) as failure:
        await chain.open()
    told = caplog.text + "".join(traceback.format_exception(failure.value)) + repr(chain)
    assert [one for one in IN_URLS if one in told] == []
    async with httpx.AsyncClient(transport=transport) as others:
        await others.get("https://somebody.example/else")
    assert "https://somebody.example/else" in caplog.text  # whose log is none of our business


def test_case_53_an_agents_error_shows_no_password_and_no_query(tmp_path: Path) -> None:
    wallet = Wallet("61" * 32, state=tmp_path / "w.db")
    free = httpx.MockTransport(lambda request: httpx.Response(200))
    url = "https://user:hunter2@api.example/free?key=sesame"
    with Client(wallet=wallet, transport=free) as client, pytest.raises(AgentError) as failure:
        client.refund(url)
    told = "".join(traceback.format_exception(failure.value))
    assert "https://api.example:443/free asks for no payment" in told
    assert [one for one in IN_URLS if f"{one}@" in told or f"={one}" in str(failure.value)] == []
    wallet.close()


def test_case_53_an_upstream_with_a_password_is_refused_unshown() -> None:
    with pytest.raises(ConfigurationError) as failure:
        Upstream("http://user:hunter2@127.0.0.1:3000")
    assert "hunter2" not in str(failure.value)
