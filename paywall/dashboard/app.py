"""The dashboard as an ASGI app: a page, its data, and metrics, all behind one token.

    paywall dashboard --store redis://…                 # on its own
    app.mount("/dashboard", Dashboard("redis://…", token))    # in an app of yours

The page itself holds nothing and may be seen by anybody; data and metrics are given to whoever has
the token, in `Authorization: Bearer …` or, for a browser, by a form that sets a cookie which no
script can read and no other site can send. The token is never part of an address. Nothing here
changes anything in the store.
"""

import asyncio
import hmac
import logging
from collections.abc import Iterable, Mapping
from hashlib import sha256
from http.cookies import CookieError, SimpleCookie
from importlib import import_module
from types import MappingProxyType
from typing import Final
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from paywall.dashboard.view import NATIVE_PRICE, Shown, View
from paywall.page import Skeleton
from paywall.protocol.errors import ConfigurationError, PaymentError, Unavailable
from paywall.protocol.money import Asset
from paywall.stores import DEFAULT_STORE, Store, open_store

log = logging.getLogger("paywall.dashboard")

MIN_TOKEN_CHARS: Final = 16
FRESH_SECONDS: Final = 2.0
"""However many look, the store is asked this often."""
COOKIE: Final = "paywall_dashboard"
_COOKIE_SECONDS: Final = 30 * 86_400
_MAX_FORM_BYTES: Final = 4096
_PAGE: Final = Skeleton.of("dashboard", connect_src="'self'", form_action="'self'")
_PRIVATE: Final[Mapping[str, str]] = MappingProxyType(
    {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
)


class Dashboard:
    """The app. `store` is a URL, opened by the first look, or a Store that somebody has opened.

    `native_price` is what the network's coin costs in the token, to show fees in it; `assets` are
    tokens besides USDC. Raises ConfigurationError for a token that could be guessed.
    """

    def __init__(
        self,
        store: str | Store = DEFAULT_STORE,
        token: str = "",
        *,
        native_price: str = NATIVE_PRICE,
        assets: Iterable[Asset] = (),
    ) -> None:
        if len(token) < MIN_TOKEN_CHARS:
            raise ConfigurationError(
                f"the dashboard's token has at least {MIN_TOKEN_CHARS} letters that nobody guesses"
            )
        self._token = token.encode()
        self._session = hmac.new(self._token, b"paywall dashboard session", sha256).hexdigest()
        self._own = isinstance(store, str)
        self._store = open_store(store) if isinstance(store, str) else store
        self.view = View(self._store, native_price, assets)
        self._lock = asyncio.Lock()
        self._opened = not self._own
        self._seen: Shown | None = None
        self._seen_at = 0.0

    async def open(self) -> None:
        """Opens the store; the first look does it, too. Raises StoreUnavailable."""
        if not self._opened:
            await self._store.open()
            self._opened = True

    async def close(self) -> None:
        if self._own and self._opened:
            self._opened = False
            await self._store.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._lifespan(receive, send)
        if scope["type"] != "http":
            await receive()
            return await send({"type": "websocket.close", "code": 1008})
        request = Request(scope, receive)
        answer = await self._answer(request)
        answer.headers.update(_PRIVATE)
        await answer(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            async with self._lock:
                await self.open()
        except PaymentError as error:
            return await send({"type": "lifespan.startup.failed", "message": str(error)})
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _answer(self, request: Request) -> Response:
        root = request.scope.get("root_path", "").rstrip("/")
        path = request.scope["path"].removeprefix(root).rstrip("/")
        route = (request.method if request.method != "HEAD" else "GET", path)
        if route == ("GET", ""):
            return self._page(root)
        if route == ("POST", "/login"):
            return await self._login(request, root)
        if route == ("POST", "/logout"):
            gone = RedirectResponse(f"{root}/", 303)
            gone.delete_cookie(COOKIE, path=root or "/")
            return gone
        if route not in (("GET", "/data"), ("GET", "/metrics")):
            return PlainTextResponse("There is nothing here.\n", 404)
        if not self._may_see(request):
            return PlainTextResponse(
                "Say the token.\n", 401, headers={"WWW-Authenticate": 'Bearer realm="paywall"'}
            )
        return await (self._data() if path == "/data" else self._metrics())

    # -- Who may see -----------------------------------------------------------------------------

    def _may_see(self, request: Request) -> bool:
        kind, _, told = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return self._is_token(told.strip())
        cookies: SimpleCookie = SimpleCookie()
        try:
            cookies.load(request.headers.get("cookie", ""))
        except CookieError:
            return False
        session = cookies[COOKIE].value if COOKIE in cookies else ""
        return hmac.compare_digest(session.encode(), self._session.encode())

    def _is_token(self, told: str) -> bool:
        """In a time that tells nothing of the token, nor of its length."""
        said = sha256(told.encode("utf-8", "surrogateescape")).digest()
        return hmac.compare_digest(said, sha256(self._token).digest())

    async def _login(self, request: Request, root: str) -> Response:
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > _MAX_FORM_BYTES:
                return PlainTextResponse("That is no token.\n", 413)
        told = parse_qs(body.decode("utf-8", "replace")).get("token", [""])[0]
        if not self._is_token(told.strip()):
            return RedirectResponse(f"{root}/#wrong", 303)
        answer = RedirectResponse(f"{root}/", 303)
        answer.set_cookie(
            COOKIE,
            self._session,
            max_age=_COOKIE_SECONDS,
            path=root or "/",
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )
        return answer

    # -- What is seen ----------------------------------------------------------------------------

    def _page(self, root: str) -> Response:
        page = Response(_PAGE.filled({"root": _attribute(root)}), media_type="text/html")
        page.headers.update({name.decode(): value.decode() for name, value in _PAGE.headers})
        return page

    async def _data(self) -> Response:
        try:
            return JSONResponse(await self._look())
        except Unavailable as error:
            return self._unavailable(error)

    async def _metrics(self) -> Response:
        try:
            metrics = import_module("paywall.metrics")
        except ModuleNotFoundError:
            return PlainTextResponse("Metrics need: pip install 'paywall[metrics]'\n", 501)
        try:
            await self._look()
        except Unavailable as error:
            return self._unavailable(error)
        body: bytes = metrics.exposition(self.view)
        return Response(body, media_type=metrics.CONTENT_TYPE)

    def _unavailable(self, error: Unavailable) -> Response:
        log.warning("the store cannot be looked at: %s", error)
        return PlainTextResponse("The store does not answer just now.\n", 503)

    async def _look(self) -> Shown:
        """One look for all who ask at the same time."""
        async with self._lock:
            now = asyncio.get_running_loop().time()
            if self._seen is None or now - self._seen_at >= FRESH_SECONDS:
                await self.open()
                self._seen = await self.view.look()
                self._seen_at = now
            return self._seen


def _attribute(text: str) -> str:
    return "".join(letter for letter in text if letter.isalnum() or letter in "/-._~")
