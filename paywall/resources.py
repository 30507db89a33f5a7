"""The URL under which a request is quoted, as its client wrote it.

The host is the one that was asked, never a forwarded one on its word: a server that trusts its
proxy has put the true one into the scope. A URL is put together once; strangers choose hosts and
paths, so only so many are kept, and no long ones.
"""

from functools import lru_cache
from typing import Final
from urllib.parse import quote as quote_path

from starlette.datastructures import URL
from starlette.types import Scope

from paywall.protocol.x402 import Resource

_PATH_SIGNS: Final = "/:@!$&'()*+,;=~"
_KEPT: Final = 1024
_MAX_KEPT_BYTES: Final = 512

Server = tuple[str, int | None] | None


class Resources:
    """What one paywall sells, as it is named in quotes."""

    def __init__(self, public_url: str | None, description: str | None) -> None:
        self._public_url = public_url.rstrip("/") if public_url else None
        self._description = description
        self._kept = lru_cache(maxsize=_KEPT)(self._named)

    def of(self, scope: Scope) -> Resource:
        host = next((value for name, value in scope["headers"] if name == b"host"), b"")
        path, server = scope["path"], scope.get("server")
        named = self._kept if len(host) + len(path) <= _MAX_KEPT_BYTES else self._named
        return named(scope.get("scheme", "http"), server and tuple(server), host, path)

    def _named(self, scheme: str, server: Server, host: bytes, path: str) -> Resource:
        path = quote_path(path, safe=_PATH_SIGNS)
        url = self._public_url + path if self._public_url else _url(scheme, server, host, path)
        return Resource(url) if self._description is None else Resource(url, self._description)


def _url(scheme: str, server: Server, host: bytes, path: str) -> str:
    headers = [(b"host", host)] if host else []
    return str(URL(scope={"scheme": scheme, "server": server, "path": path, "headers": headers}))
