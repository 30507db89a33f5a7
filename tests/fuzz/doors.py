"""The provider's doors: payment headers, and spellings of paths.

Behind each stands the real middleware over the memory store. The oracle counts what the handler
did: nothing is ever served that was not charged, nothing is charged that the payer did not sign,
and whatever comes in, the answer is never a 500.
"""

from collections.abc import Sequence
from typing import Final
from urllib.parse import quote, unquote

from helpers.channels import DOMAIN
from helpers.exact import Signer
from helpers.provider import PRICE, PRICED, Agent, Client, Ledger, provider, scope_of
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from fuzz.target import LOOP, close_at_end, promise
from paywall.protocol import eip712
from paywall.protocol.channel import Channel
from paywall.stores.memory import MemoryStore

_FINE: Final = (200, 400, 402, 404, 405, 409, 431)
_SIGNED_UP_TO: Final = 40
BALANCE: Final = 10**9


class PaymentHeaders:
    """Any bytes as the payment of a request, `exact` or by voucher."""

    name = "payment headers"

    def __init__(self) -> None:
        self._agent = Agent()
        self._served = 0
        self._store = MemoryStore()
        ledger = Ledger()
        ledger.fund(self._agent.channel_id, BALANCE)
        self._wall = provider(self._serve, chain=ledger, store=self._store)
        close_at_end(self._wall.close)
        self.run(self._agent.pay(PRICE).encode())  # so that later totals are not taken as evidence

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._served += 1
        await PlainTextResponse("served")(scope, receive, send)

    def seeds(self) -> Sequence[bytes]:
        agent = self._agent
        headers = [agent.pay(PRICE * number) for number in range(1, _SIGNED_UP_TO)]
        headers += [agent.fill(PRICE, amount) for amount in (10_000, 50_000)]
        headers += [agent.refund(PRICE), agent.refund(PRICE, 1), Signer().pay()]
        return [header.encode() for header in headers]

    def run(self, data: bytes) -> str:
        served, before = self._served, self._record()
        client = Client()
        scope = scope_of(headers=[(b"payment-signature", data)])
        LOOP.run_until_complete(self._wall(scope, client.receive, client.send))
        status = client.answer.status
        promise(status in _FINE, f"answered {status}")
        after = self._record()
        charged = (after.charged if after else 0) - (before.charged if before else 0)
        promise(
            charged == PRICE * (self._served - served), "served and not charged, or the reverse"
        )
        answered = client.answer.body == b"served"
        promise(answered == (charged > 0), f"{status}, and {charged} was charged")
        if after and after.voucher:
            self._must_be_signed(after)
            promise(after.charged <= after.voucher.amount <= BALANCE, "above the signature")
            promise(not after.holds, "a hold was left")
        return str(status)

    def _must_be_signed(self, channel: Channel) -> None:
        assert channel.voucher is not None
        digest = eip712.voucher_digest(DOMAIN, channel.channel_id, channel.voucher.amount)
        signer = eip712.recover(digest, channel.voucher.signature)
        promise(signer == channel.config.payer_authorizer, "a voucher that nobody signed")

    def _record(self) -> Channel | None:
        return self._store._records.get(self._agent.channel_id)


async def _item(request: Request) -> Response:
    return PlainTextResponse("priced" if "payment" in request.scope else "free")


def _apps() -> dict[str, ASGIApp]:
    """Applications that find their handlers in different ways."""
    routes = [
        Route("/priced/{name}", _item, methods=["GET", "POST"]),
        Route("/v1/models", _item),
        Mount("/files", routes=[Route("/{rest:path}", _item)]),
    ]
    return {"starlette": Starlette(routes=routes), "tidy": _Tidy(Starlette(routes=routes))}


class _Tidy:
    """Decodes, folds and resolves what it is given before it looks for a handler."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = unquote(scope["path"]).lower().replace("\\", "/").replace("//", "/")
        await self._app({**scope, "path": path, "raw_path": path.encode()}, receive, send)


class Paths:
    """Any bytes as the path of a request that brings no payment."""

    name = "paths"

    def __init__(self) -> None:
        prices = {"GET /priced/{name}": PRICED, "/v1/*": PRICED, "/files/*": PRICED}
        self._walls = [provider(app, prices) for app in _apps().values()]
        for wall in self._walls:
            close_at_end(wall.close)

    def seeds(self) -> Sequence[bytes]:
        plain = ("/priced/a", "/v1/models", "/files/a/b.txt", "/files/../v1/models", "/PRICED/a")
        odd = (
            "/priced%2Fa",
            "/priced/%2e%2e/priced/a",
            "//v1//models",
            "/v1/models;x=1",
            "/v1%5cmodels",
        )
        return [path.encode() for path in plain + odd]

    def run(self, data: bytes) -> str:
        raw = b"/" + data.removeprefix(b"/")
        path = unquote(raw.decode("latin-1"), "utf-8", "replace")
        words = []
        for wall in self._walls:
            client = Client()
            scope = scope_of(path, raw_path=quote(raw, safe="/%:;@&=+$,!*'()~.-_\\").encode())
            LOOP.run_until_complete(wall(scope, client.receive, client.send))
            promise(client.answer.body != b"free", f"{path!r} is free by its spelling")
            promise(client.answer.status != 500, f"{path!r} answers 500")
            words.append(str(client.answer.status))
        return " ".join(words)
