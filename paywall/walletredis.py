"""A wallet's rows in Redis, for many agents on many machines with one budget.

    Wallet(state="redis://host/0?prefix=research")   whoever names the same prefix shares a budget

One change at a time, as in a file: whoever changes holds a lock, and the script that writes at the
end writes only while the lock is still its own. So a process that was killed, or stopped for too
long, has changed nothing, and the others wait no longer than the lock lives. A reply that was lost
is asked for again; the script knows what it has done already.

Redis must not throw keys away (`noeviction`), and should keep a log on disk (`appendonly yes`):
what it forgets of a channel the provider's correction brings back, what it forgets of the budget
nothing does. Changes are counted, and who has seen more of them than Redis remembers (it was
emptied, or an old copy took its place) pays no more until it is started again. The clocks of the
machines are taken to agree. All keys share one slot of a cluster.
"""

import logging
import random
import time
from collections.abc import Callable, Sequence
from secrets import token_hex
from typing import Any, Final, TypeVar, cast

import redis
from redis.backoff import ExponentialBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry
from redis.sentinel import Sentinel

from paywall.protocol.errors import ConfigurationError, StoreUnavailable
from paywall.protocol.limits import MAX_QUOTES
from paywall.stores.redis_url import RedisUrl, parse_redis_url

log = logging.getLogger("paywall.wallet")

LOCK_MS: Final = 2_000
"""How long others wait for a change whose process was killed."""
_SCHEMA_VERSION: Final = 1
_LONGEST_PAUSE_SECONDS: Final = 0.004
_PAGE: Final = 1_000
_DISORDER_SECONDS: Final = 3_600.0
"""Entries of the history stand at most so far from their place in time."""

_T = TypeVar("_T")

_ACQUIRE: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return 1 end
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
return 0
"""
_RELEASE: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
"""
_COMMIT: Final = """
local lock, done, changes, rows, index, history = unpack(KEYS)
local token, kept, seen, next_arg = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), 4
local count = tonumber(redis.call('GET', changes) or 0)
if count < seen then return -1 end
if redis.call('GET', done) == token then return count end
if redis.call('GET', lock) ~= token then return 0 end
local function take()
  next_arg = next_arg + 1
  return ARGV[next_arg - 1]
end
for _ = 1, tonumber(take()) do
  local key = take()
  redis.call('HSET', rows, key, take())
  redis.call('ZADD', index, 0, key)
end
for _ = 1, tonumber(take()) do
  local key = take()
  redis.call('HDEL', rows, key)
  redis.call('ZREM', index, key)
end
for _ = 1, tonumber(take()) do
  local at = take()
  redis.call('XADD', history, 'MAXLEN', '~', kept, '*', 't', at, 'e', take())
end
redis.call('SET', done, token)
redis.call('DEL', lock)
return redis.call('INCR', changes)
"""
_PUT_QUOTES: Final = """
local quotes, seen = KEYS[1], KEYS[2]
for number = 4, #ARGV do
  redis.call('HSET', quotes, ARGV[number], ARGV[1])
  redis.call('ZADD', seen, ARGV[2], ARGV[number])
end
local surplus = redis.call('ZCARD', seen) - tonumber(ARGV[3])
if surplus > 0 then
  local oldest = redis.call('ZRANGE', seen, 0, surplus - 1)
  redis.call('HDEL', quotes, unpack(oldest))
  redis.call('ZREM', seen, unpack(oldest))
end
return 1
"""


class RedisRows:
    """Rows under one prefix. Its caller takes care that one thread at a time uses it."""

    def __init__(self, url: RedisUrl, max_history: int) -> None:
        self._url = url
        self._max_history = max_history
        self._redis = _connection(url)
        self._token = ""
        self._seen = 0
        names = ("lock", "done", "changes", "rows", "index", "history", "quotes", "seen", "schema")
        self._keys = {name: f"{{{url.prefix}:wallet}}:{name}" for name in names}
        self._acquire = self._redis.register_script(_ACQUIRE)
        self._release = self._redis.register_script(_RELEASE)
        self._commit = self._redis.register_script(_COMMIT)
        self._put_quotes = self._redis.register_script(_PUT_QUOTES)

    def check(self) -> None:
        """Refuses a Redis that cannot keep a budget. Raises ConfigurationError."""
        shown = self._url.show()
        if self._url.replicas and self._url.kind == "cluster":
            raise ConfigurationError(f"{shown}: a wallet in a cluster waits for no replicas")
        settings = self._settings()
        policy = settings.get("maxmemory-policy", "noeviction")
        if policy != "noeviction":
            raise ConfigurationError(
                f"{shown} may throw away what was promised: set maxmemory-policy to noeviction, "
                f"it is {policy}"
            )
        if settings.get("appendonly") == "no":
            log.warning("%s keeps no log (appendonly no): a restart forgets the budget", shown)
        key = self._keys["schema"]
        self._ask(lambda: self._redis.set(key, _SCHEMA_VERSION, nx=True))
        version = self._ask(lambda: self._redis.get(key))
        if version != str(_SCHEMA_VERSION).encode():
            raise ConfigurationError(f"the wallet at {shown} is of a newer paywall")
        self._seen = int(self._ask(lambda: self._redis.get(self._keys["changes"])) or 0)

    def _settings(self) -> dict[str, str]:
        """Empty when the server keeps them to itself, or is one of a cluster."""
        if self._url.kind == "cluster":
            return {}
        try:
            found = self._redis.config_get("maxmemory-policy", "appendonly")
        except ResponseError:
            return {}
        except RedisError as error:
            raise self._failed(error) from error
        return {_text(name or ""): _text(value or "") for name, value in found.items()}

    def _ask(self, question: Callable[[], Any]) -> Any:
        try:
            return question()
        except RedisError as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> StoreUnavailable:
        return StoreUnavailable(f"the wallet at {self._url.show()}: {type(error).__name__}")

    def close(self) -> None:
        self._redis.close()

    # -- Changes ---------------------------------------------------------------------------------

    def begin(self) -> None:
        self._token = token_hex(16)
        give_up_at = time.monotonic() + self._url.timeout_seconds
        arguments = (self._token, LOCK_MS)
        while not self._ask(lambda: self._acquire([self._keys["lock"]], arguments)):
            if time.monotonic() > give_up_at:
                raise StoreUnavailable(f"the wallet at {self._url.show()} is busy")
            time.sleep(random.random() * _LONGEST_PAUSE_SECONDS)

    def commit(self, rows: dict[str, bytes | None], entries: Sequence[tuple[float, bytes]]) -> None:
        kept = [(key, value) for key, value in rows.items() if value is not None]
        dropped = [key for key, value in rows.items() if value is None]
        arguments: list[str | bytes | int] = [self._token, self._max_history, self._seen]
        arguments.append(len(kept))
        for pair in kept:
            arguments += pair
        arguments += [len(dropped), *dropped, len(entries)]
        for at, entry in entries:
            arguments += [repr(at), entry]
        keys = [
            self._keys[name] for name in ("lock", "done", "changes", "rows", "index", "history")
        ]
        count = int(self._ask(lambda: self._commit(keys, arguments)))
        if count < 0:
            raise StoreUnavailable(
                f"the wallet at {self._url.show()} has forgotten changes: it was emptied, or an"
                " old copy took its place; whoever is started again goes on with what is left"
            )
        if count == 0:
            raise StoreUnavailable(f"the wallet at {self._url.show()}: the change took too long")
        self._token, self._seen = "", count
        self._replicate()

    def rollback(self) -> None:
        token, self._token = self._token, ""
        if not token:
            return
        try:
            self._release([self._keys["lock"]], [token])
        except RedisError as error:
            log.warning("the lock of the wallet at %s ends by itself: %r", self._url.show(), error)

    def _replicate(self) -> None:
        """As many replicas have it as the URL asks for. Raises StoreUnavailable."""
        wanted = self._url.replicas
        if not wanted:
            return
        found = self._ask(lambda: self._redis.wait(wanted, self._url.wait_ms))
        if found < wanted:
            raise StoreUnavailable(f"{found} of {wanted} replicas have the wallet's last change")

    def flush(self) -> None:
        """What Redis has answered is as safe as its settings make it."""

    # -- Reading ---------------------------------------------------------------------------------

    def read(self, keys: Sequence[str]) -> list[bytes | None]:
        found = self._ask(lambda: self._redis.hmget(self._keys["rows"], list(keys)))
        return cast("list[bytes | None]", found)

    def between(self, first: str, last: str) -> list[tuple[str, bytes]]:
        bounds = (self._keys["index"], f"[{first}", f"({last}")
        names = [_text(name) for name in self._ask(lambda: self._redis.zrangebylex(*bounds))]
        values = self.read(names) if names else []
        rows = zip(names, values, strict=True)
        return [(name, value) for name, value in rows if value is not None]

    def entries(self, since: float, until: float, limit: int) -> list[bytes]:
        found: list[bytes] = []
        newest = "+"
        while len(found) < limit:
            page = self._page(newest)
            for at, entry in ((float(told[b"t"]), told[b"e"]) for _, told in page):
                if since <= at < until and len(found) < limit:
                    found.append(entry)
            ended = len(page) < _PAGE
            if ended or float(page[-1][1][b"t"]) < since - _DISORDER_SECONDS:
                break
            newest = "(" + _text(page[-1][0])
        return found[::-1]

    def _page(self, newest: str) -> list[tuple[bytes, dict[bytes, bytes]]]:
        key = self._keys["history"]
        page = self._ask(lambda: self._redis.xrevrange(key, newest, "-", count=_PAGE))
        return cast("list[tuple[bytes, dict[bytes, bytes]]]", page)

    # -- Quotes ----------------------------------------------------------------------------------

    def quote(self, places: Sequence[str]) -> bytes | None:
        found = self._ask(lambda: self._redis.hmget(self._keys["quotes"], list(places)))
        return next((quote for quote in found if quote is not None), None)

    def put_quotes(self, places: Sequence[str], quote: bytes, now: float) -> None:
        keys = [self._keys["quotes"], self._keys["seen"]]
        self._ask(lambda: self._put_quotes(keys, [quote, repr(now), MAX_QUOTES, *places]))


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _connection(url: RedisUrl) -> redis.Redis | RedisCluster:
    common: dict[str, Any] = {
        "username": url.username,
        "password": url.password,
        "socket_timeout": url.timeout_seconds,
        "socket_connect_timeout": url.timeout_seconds,
    }
    if url.tls:
        common |= {
            "ssl": True,
            "ssl_ca_certs": url.ca,
            "ssl_certfile": url.cert,
            "ssl_keyfile": url.key,
        }
    if url.kind == "cluster":
        make: Callable[[str, int], ClusterNode] = ClusterNode
        nodes = [make(host, port) for host, port in url.addresses]
        return RedisCluster(startup_nodes=nodes, **common)
    common |= {"db": url.database, "retry": Retry(ExponentialBackoff(cap=0.5, base=0.01), 3)}
    if url.kind == "sentinel":
        told = {"username": url.sentinel_user, "password": url.sentinel_password}
        sentinel: Any = Sentinel(url.addresses, sentinel_kwargs=told, **common)  # type: ignore[no-untyped-call]
        master: redis.Redis = sentinel.master_for(url.service)
        return master
    host, port = url.addresses[0]
    if not port:
        return redis.Redis(unix_socket_path=host, **common)
    return redis.Redis(host=host, port=port, **common)


def open_rows(url: str, max_history: int) -> RedisRows:
    """Rows behind a URL of `paywall.stores.redis_url`.

    Raises ConfigurationError, or StoreUnavailable when it cannot be reached.
    """
    parsed = parse_redis_url(url)
    try:
        rows = RedisRows(parsed, max_history)
    except RedisError as error:  # a cluster is looked at at once
        raise StoreUnavailable(f"{parsed.show()}: {type(error).__name__}") from error
    try:
        rows.check()
    except Exception:
        rows.close()
        raise
    return rows
