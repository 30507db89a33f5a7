"""What is asked of Redis servers before the first verb: can they keep money safe?

A server that may throw keys away to make room (`maxmemory-policy` other than `noeviction`) would
forget what was charged, and is refused. One that keeps too little on disk, or none, is warned of,
with what could be lost: the record of a channel that is gone or old is restored from the payer's
own next voucher, so what is lost is what payers owe who never come again, and, in an old record,
the charges since.
"""

import asyncio
import logging
from contextlib import suppress
from typing import Final, cast

import hiredis
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    NoPermissionError,
    ResponseError,
)

from paywall.clock import steady_time
from paywall.protocol.errors import ConfigurationError, PaymentError, StoreUnavailable
from paywall.protocol.limits import MAX_CLOCK_SKEW_SECONDS
from paywall.stores.redis_calls import Calls, code_of, sentence
from paywall.stores.redis_lane import Lane
from paywall.stores.redis_nodes import slot_of
from paywall.stores.redis_records import SCHEMA_VERSION
from paywall.stores.redis_url import RedisUrl
from paywall.stores.redis_wire import FAILURES

log = logging.getLogger("paywall.stores")

_OLDEST: Final = (6, 2)
_PAUSE_SECONDS: Final = 0.1
_REFUSALS: Final = (AuthenticationError, AuthorizationError, NoPermissionError)
_SETTINGS: Final = ("maxmemory-policy", "appendonly", "appendfsync", "save")

_LOST: Final = (
    "what payers owe who do not come again is then lost; everybody else's next payment restores it"
)


async def check(calls: Calls, url: RedisUrl) -> None:
    """Refuses servers that cannot work. Raises ConfigurationError or StoreUnavailable."""
    give_up_at = asyncio.get_running_loop().time() + url.timeout_seconds
    while True:
        try:
            return await _check(calls, url)
        except FAILURES as error:
            if not _loading(error) or asyncio.get_running_loop().time() >= give_up_at:
                raise _complaint(url, error) from error
        await asyncio.sleep(_PAUSE_SECONDS)


async def _check(calls: Calls, url: RedisUrl) -> None:
    await calls.nodes.find()
    for lane in calls.nodes.lanes():
        await _check_server(lane, url)
    await _check_schema(calls, url)


def _loading(error: Exception) -> bool:
    return isinstance(error, BusyLoadingError) or code_of(error) == "LOADING"


def _complaint(url: RedisUrl, error: Exception) -> PaymentError:
    if isinstance(error, _REFUSALS) or code_of(error) in ("NOAUTH", "WRONGPASS", "NOPERM"):
        said = f" ({error})" if "permission" in str(error).lower() else ""
        return ConfigurationError(
            f"{url.show()}: Redis does not accept the user or password, or wants one{said}"
        )
    if code_of(error) == "WRONGTYPE":
        return ConfigurationError(
            f"{url.show()}: the key {url.prefix}:schema is somebody else's; choose another prefix="
        )
    if "cluster support disabled" in str(error):
        right = url.scheme.partition("+")[0]
        return ConfigurationError(f"{url.show()} is not a cluster: write {right}://")
    if isinstance(error, ResponseError | hiredis.ReplyError) and not _loading(error):
        return ConfigurationError(f"{url.show()}: Redis refuses us ({error})")
    return StoreUnavailable(f"{url.show()} cannot be reached: {sentence(error)}")


async def _info(lane: Lane) -> dict[str, str]:
    text = await lane.ask("INFO")
    assert isinstance(text, bytes)
    lines = (line.partition(":") for line in text.decode().splitlines())
    return {name: value for name, colon, value in lines if colon}


async def _check_server(lane: Lane, url: RedisUrl) -> None:
    """One master: its version, its role, its memory, its disk."""
    info, shown = await _info(lane), url.show(lane.place)
    if info.get("cluster_enabled") == "1" and url.kind != "cluster":
        scheme = "rediss" if url.tls else "redis"
        raise ConfigurationError(f"{shown} is a node of a cluster: write {scheme}+cluster://")
    version = tuple(map(int, info["redis_version"].split(".")[:2]))
    if version < _OLDEST:
        raise ConfigurationError(
            f"{shown} is Redis {info['redis_version']}; it must be 6.2 or newer"
        )
    if info.get("role") == "slave":
        raise ConfigurationError(f"{shown} is a read-only replica: name its master")
    settings = await _settings(lane)
    if not settings:
        log.warning("%s does not show its settings: eviction and persistence unchecked", shown)
        return
    policy = settings["maxmemory-policy"]
    if policy != "noeviction":
        raise ConfigurationError(
            f"{shown} may throw away what was charged: set maxmemory-policy to noeviction, "
            f"it is {policy}"
        )
    if warning := _doubt(settings):
        log.warning("%s: %s; %s", shown, warning, _LOST)
    await _compare_clocks(lane, shown)
    if url.replicas > int(info.get("connected_slaves", "0")):
        log.warning("%s has fewer than %d replicas: payments will wait", shown, url.replicas)


async def _compare_clocks(lane: Lane, shown: str) -> None:
    seconds, _ = map(int, cast("list[bytes]", await lane.ask("TIME")))
    if abs(ahead := round(seconds - steady_time())) > MAX_CLOCK_SKEW_SECONDS:
        log.warning("the clock of %s is %+d s off ours: it decides when a hold ends", shown, ahead)


async def _settings(lane: Lane) -> dict[str, str]:
    """Empty when the server keeps them to itself."""
    found = {}
    for asked in [lane.ask("CONFIG", "GET", name) for name in _SETTINGS]:
        with suppress(hiredis.ReplyError, ValueError):
            name, value = cast("list[bytes]", await asked)
            found[name.decode()] = value.decode()
    return found if len(found) == len(_SETTINGS) else {}


def _doubt(settings: dict[str, str]) -> str:
    """What a crash of the server would cost, if it would cost anything."""
    if settings["appendonly"] != "yes":
        if not settings["save"]:
            return "nothing is kept on disk (appendonly no), a restart forgets every channel"
        return (
            f"only snapshots are kept (appendonly no, save {settings['save']}), "
            "a crash forgets everything since the last one"
        )
    if settings["appendfsync"] == "everysec":
        return "appendfsync is everysec, a crash may forget the last one or two seconds"
    if settings["appendfsync"] == "no":
        return "appendfsync is no, a crash of the machine may forget half a minute"
    return ""


async def _check_schema(calls: Calls, url: RedisUrl) -> None:
    """Are the keys under our prefix ours, and can we read them?"""
    key = f"{url.prefix}:schema"
    lane = calls.nodes.lane(slot_of(key.encode()))
    await lane.ask("SET", key, str(SCHEMA_VERSION), "NX")
    text = await lane.ask("GET", key)
    assert isinstance(text, bytes)
    if not text.isdigit():
        raise ConfigurationError(
            f"{url.show()}: the key {key} is somebody else's; choose another prefix="
        )
    if int(text) > SCHEMA_VERSION:
        raise ConfigurationError(
            f"{url.show()}: its channels have schema version {int(text)}, written by a newer "
            f"paywall; this one reads up to {SCHEMA_VERSION}"
        )
    if int(text) < SCHEMA_VERSION:  # an older one could not read what this one writes
        await lane.ask("SET", key, str(SCHEMA_VERSION))
