"""Which Redis server keeps which bucket: one server, the master that sentinels name, or a cluster.

A bucket is the first byte of a channel's id. All keys of a channel, and the two indexes of its
bucket, carry the bucket as their hash tag, so they share one of the cluster's slots: every script
runs on one node, and an index changes together with the record. 256 buckets spread over a cluster
well enough, and few enough to ask them all when channels are listed.
"""

from binascii import crc_hqx
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, Final, Protocol, cast

from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as Unreachable

from paywall.stores.redis_lane import Lane
from paywall.stores.redis_url import Place, RedisUrl
from paywall.stores.redis_wire import FAILURES

BUCKETS: Final = 256
SLOTS: Final = 16384

MakeLane = Callable[[Place], Lane]


def slot_of(tag: bytes) -> int:
    """The cluster's slot of keys with this hash tag."""
    return crc_hqx(tag, 0) % SLOTS


class Nodes(Protocol):
    """Where the masters are."""

    async def find(self) -> None:
        """Looks again. Raises one of FAILURES."""

    def lane(self, slot: int) -> Lane:
        """The way to the master of a slot."""

    def moved(self, slot: int, place: Place) -> None:
        """A server said that the slot is there now."""

    def at(self, place: Place) -> Lane: ...

    def lanes(self) -> list[Lane]:
        """The ways to all masters."""

    def all(self) -> Iterable[Lane]:
        """Every way that was ever taken, to be closed."""


class OneServer:
    """`redis://`, or the master of `redis+sentinel://`."""

    def __init__(self, url: RedisUrl, make: MakeLane) -> None:
        self._lanes: dict[Place, Lane] = {}
        self._make = make
        self._master = self.at(url.addresses[0])

    async def find(self) -> None:
        """It is where it always was."""

    def lane(self, slot: int) -> Lane:
        return self._master

    def moved(self, slot: int, place: Place) -> None:
        """Only a cluster says so."""

    def at(self, place: Place) -> Lane:
        if place not in self._lanes:
            self._lanes[place] = self._make(place)
        return self._lanes[place]

    def lanes(self) -> list[Lane]:
        return [self.lane(0)]

    def all(self) -> Iterable[Lane]:
        return self._lanes.values()


class SentinelMaster(OneServer):
    """The master that most sentinels agree on."""

    def __init__(self, url: RedisUrl, make: MakeLane) -> None:
        super().__init__(url, make)
        self._service = url.service
        seconds = url.timeout_seconds / 4
        options: dict[str, Any] = {
            "username": url.sentinel_user,
            "password": url.sentinel_password,
            "socket_timeout": seconds,
            "socket_connect_timeout": seconds,
            "retry": Retry(NoBackoff(), 0),
            "ssl": url.tls,
        }
        if url.tls:
            options |= {"ssl_ca_certs": url.ca, "ssl_certfile": url.cert, "ssl_keyfile": url.key}
        self._sentinel = Sentinel(url.addresses, sentinel_kwargs=options)  # type: ignore[no-untyped-call]

    async def find(self) -> None:
        try:
            host, port = await self._sentinel.discover_master(self._service)
        finally:
            for sentinel in self._sentinel.sentinels:
                await sentinel.aclose()
        self._master = self.at((host, int(port)))


class Cluster:
    """The masters of a cluster, and which slots each has."""

    def __init__(self, url: RedisUrl, make: MakeLane) -> None:
        self._lanes: dict[Place, Lane] = {}
        self._make = make
        self._seeds = url.addresses
        self._places: list[Place] = [url.addresses[0]] * SLOTS
        self._masters: list[Place] = []
        self._replicas: list[Place] = []

    async def find(self) -> None:
        """Asks one node after the other what it knows; the masters first."""
        error: Exception = Unreachable("no node of the cluster answers")
        for place in dict.fromkeys(chain(self._masters, self._replicas, self._seeds)):
            try:
                self._learn(place, await self.at(place).ask("CLUSTER", "SLOTS"))
                return
            except FAILURES as failure:
                error = failure
        raise error

    def _learn(self, asked: Place, reply: object) -> None:
        ranges = cast("list[tuple[int, int, *tuple[tuple[bytes, int], ...]]]", reply)
        masters: dict[Place, None] = {}
        replicas: dict[Place, None] = {}
        for first, last, *nodes in ranges:
            master, *others = ((node[0].decode() or asked[0], node[1]) for node in nodes)
            masters[master] = None
            replicas.update(dict.fromkeys(others))
            self._places[first : last + 1] = [master] * (last + 1 - first)
        if not masters:
            raise Unreachable("no node of the cluster has any slots")
        self._masters, self._replicas = list(masters), list(replicas)

    def lane(self, slot: int) -> Lane:
        return self.at(self._places[slot])

    def moved(self, slot: int, place: Place) -> None:
        self._places[slot] = place

    def at(self, place: Place) -> Lane:
        if place not in self._lanes:
            self._lanes[place] = self._make(place)
        return self._lanes[place]

    def lanes(self) -> list[Lane]:
        return [self.at(place) for place in self._masters]

    def all(self) -> Iterable[Lane]:
        return self._lanes.values()


def nodes_of(url: RedisUrl, make: MakeLane) -> Nodes:
    """What the URL's scheme says."""
    if url.kind == "cluster":
        return Cluster(url, make)
    if url.kind == "sentinel":
        return SentinelMaster(url, make)
    return OneServer(url, make)
