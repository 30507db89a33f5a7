"""httpx and httpx2 as one: what the conversation needs of either, whichever the caller has.

httpx2 is the maintained successor of httpx: the same shapes, and classes of its own. The
conversation is written in httpx's names. Which of the two it meets it learns from the request, so
it loads neither for the sake of the other, and what it makes is of the caller's kind.
"""

import sys
from typing import Final, Protocol, cast
from weakref import WeakValueDictionary

import httpx


class Library(Protocol):
    """The part of httpx, or of httpx2, that is used by name."""

    Request: type[httpx.Request]
    ByteStream: type[httpx.ByteStream]
    TransportError: type[httpx.TransportError]
    ConnectError: type[httpx.ConnectError]
    ConnectTimeout: type[httpx.ConnectTimeout]
    PoolTimeout: type[httpx.PoolTimeout]
    ReadTimeout: type[httpx.ReadTimeout]


def library_of(request: httpx.Request) -> Library:
    """Where this request's class comes from."""
    # Who has made a request of it has loaded it.
    name = "httpx" if isinstance(request, httpx.Request) else "httpx2"
    return cast(Library, sys.modules[name])


def can_be_replayed(request: httpx.Request) -> bool:
    """Whether the body is there to be sent again, and does not run away while it is sent."""
    return isinstance(request.stream, library_of(request).ByteStream)


_sent: Final[WeakValueDictionary[int, object]] = WeakValueDictionary()
"""Bodies that ran away; a redirect comes with the same one again."""


def is_sent_away(request: httpx.Request) -> bool:
    """Whether this body was sent before and is gone; remembers it for the next time."""
    if can_be_replayed(request):
        return False
    known = _sent.get(id(request.stream)) is request.stream
    _sent[id(request.stream)] = request.stream
    return known


def with_header(request: httpx.Request, name: str, value: str) -> httpx.Request:
    """The same request with one more header. The caller's own object is never changed."""
    headers = request.headers.copy()
    headers[name] = value
    return library_of(request).Request(
        request.method,
        request.url,
        headers=headers,
        stream=request.stream,
        extensions=request.extensions,
    )
