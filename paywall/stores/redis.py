"""Channels in Redis: for many workers and hosts. One Lua script per verb, one round trip per verb.

A script restates a rule of `paywall.protocol.channel` and runs alone on its server, so it is atomic
without a lock. Redis's own clock decides every deadline: workers' clocks may differ. What a verb
returns is what its script saw; a refusal brings the whole record along in the same answer.

The keys of a channel, `paywall:{b}:<id>`, carry its bucket `b`, the first byte of its id, and so do
the indexes of the bucket: `paywall:{b}:due`, who owes, and `paywall:{b}:all`, and its part of the
ledger, `paywall:{b}:log`. Whatever a payer
chose stands in a key only as hexadecimal digits, or as a payment's id, whose letters are checked.

How the servers are found and how failures are outlasted is in `redis_nodes` and `redis_calls`.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from hashlib import sha256
from typing import Final, Never, cast

from paywall.protocol.channel import (
    ChainState,
    Channel,
    ChannelConfig,
    NeedsChain,
    RefusedByChannel,
    Standing,
    Voucher,
)
from paywall.protocol.errors import HoldLost, Reason, Refused, StoreUnavailable
from paywall.protocol.ledger import Row
from paywall.protocol.once import AnsweredBefore, RefusedBefore, Ticket
from paywall.stores import redis_commands, redis_index, redis_records
from paywall.stores.redis_calls import Calls
from paywall.stores.redis_check import check
from paywall.stores.redis_leases import RedisLeases
from paywall.stores.redis_ledger import RedisLedger
from paywall.stores.redis_nodes import BUCKETS, slot_of
from paywall.stores.redis_records import Flat
from paywall.stores.redis_scripts import Script, scripts
from paywall.stores.redis_tallies import RedisTallies
from paywall.stores.redis_url import RedisUrl, parse_redis_url
from paywall.stores.redis_wire import Reply

_REFUSALS: Final = {
    b"conflict": Reason.PAYMENT_ID_REUSED,
    b"not kept": Reason.ANSWER_NOT_KEPT,
    b"progress": Reason.PAYMENT_IN_PROGRESS,
}
_CHAIN: Final = {
    b"unknown": "no record of this channel",
    b"stale": "what the chain said last is too old",
    b"overdue": "a refund was sent and never confirmed",
}


class RedisStore(RedisLeases, RedisTallies):
    """`redis://` and its relatives, as `redis_url` reads them. For one event loop."""

    def __init__(self, url: RedisUrl) -> None:
        self._url = url
        self._scripts = scripts()
        self._tags = [f"{url.prefix}:{{{bucket:02x}}}:".encode() for bucket in range(BUCKETS)]
        self._logs = [tag + b"log" for tag in self._tags]
        self._slots = [slot_of(b"%02x" % bucket) for bucket in range(BUCKETS)]
        self._calls: Calls | None = None

    @classmethod
    def from_url(cls, url: str) -> "RedisStore":
        return cls(parse_redis_url(url))

    async def open(self) -> None:
        assert self._calls is None, "this store is open already"
        calls = Calls(self._url, self._scripts)
        try:
            await check(calls, self._url)
        except BaseException:
            await calls.close()
            raise
        self._calls = calls

    async def close(self) -> None:
        """Waits a moment for what was asked before, and hangs up. Safe to repeat."""
        calls, self._calls = self._calls, None
        if calls is not None:
            await calls.close()

    # -- Requests --------------------------------------------------------------------------------

    async def look_up(self, channel_id: bytes, ticket: Ticket) -> None:
        key, holds = self._pair(channel_id)
        keys = (key, holds, _entry(key, ticket))
        words = await self._run("look_up", channel_id, keys, (ticket.fingerprint,))
        if words != [b"ok"]:
            _raise(words, channel_id)

    async def refuse(self, channel_id: bytes, ticket: Ticket) -> None:
        key, holds = self._pair(channel_id)
        keys = (key, holds, _entry(key, ticket))
        words = await self._run("refuse", channel_id, keys, (ticket.fingerprint,))
        if words != [b"ok"]:
            _raise(words, channel_id)

    async def reserve(
        self,
        channel_id: bytes,
        voucher: Voucher,
        price: int,
        request: str,
        ticket: Ticket | None = None,
    ) -> Standing:
        assert price > 0
        script, bucket = self._script("reserve"), channel_id[0]
        command = redis_commands.reserve(
            script, self._tags[bucket], channel_id, voucher, price, request, ticket
        )
        reply = await self._opened().send(command, self._slots[bucket], script)
        if isinstance(reply, bytes):
            return redis_records.standing(reply)
        _raise(cast("list[bytes]", reply), channel_id)

    async def charge(
        self,
        channel_id: bytes,
        request: str,
        amount: int,
        ticket: Ticket | None = None,
        answer: bytes = b"",
        line: bytes = b"",
    ) -> Standing:
        assert amount >= 0
        script, bucket = self._script("charge"), channel_id[0]
        command = redis_commands.charge(
            script, self._tags[bucket], channel_id, request, amount, line, ticket, answer
        )
        reply = await self._opened().send(command, self._slots[bucket], script)
        if isinstance(reply, bytes):
            return redis_records.standing(reply)
        assert reply != [b"above"], "a charge is never above its price"
        raise HoldLost("the hold of this request is gone")

    async def release(self, channel_id: bytes, request: str, ticket: Ticket | None = None) -> None:
        key, holds = self._pair(channel_id)
        keys = (key, holds, _entry(key, ticket)) if ticket else (key, holds)
        await self._run("release", channel_id, keys, (request,))

    async def renew(self, holds: list[tuple[bytes, str]]) -> None:
        requests: dict[bytes, list[str]] = defaultdict(list)
        for channel_id, request in holds:
            requests[channel_id].append(request)
        renewals = (
            self._run("renew", channel_id, self._pair(channel_id), names)
            for channel_id, names in requests.items()
        )
        await asyncio.gather(*renewals)

    async def spend(self, key: bytes, owner: str, ttl_ms: int) -> bool:
        digest = sha256(key).digest()
        spent = self._tags[digest[0]] + b"n:" + digest.hex().encode()
        return bool(await self._ask(self._script("spend"), digest, (spent,), (owner, ttl_ms)))

    # -- Channels --------------------------------------------------------------------------------

    async def channel(self, channel_id: bytes) -> Channel | None:
        words = await self._run("channel", channel_id, self._pair(channel_id), ())
        return _whole(channel_id, words[1:]) if words[0] == b"ok" else None

    async def record(
        self,
        channel_id: bytes,
        network: str,
        config: ChannelConfig,
        chain: ChainState,
        evidence: int,
        proof: Voucher | None = None,
    ) -> Channel:
        static = redis_records.pack_static(network, config)
        return await self._change(
            "record",
            channel_id,
            (*redis_records.chain_words(chain), static),
            (config.withdraw_delay_seconds, str(evidence)),
            (str(proof.amount), proof.signature) if proof else ("", ""),
            keys=(self._logs[channel_id[0]], self._tags[channel_id[0]] + b"all"),
        )

    async def begin_refund(
        self, channel_id: bytes, voucher: Voucher | None, amount: int | None, request: str
    ) -> Channel:
        wanted = "" if amount is None else str(max(amount, 0))
        shown = (str(voucher.amount), voucher.signature) if voucher else ("", b"")
        arguments = (*shown, wanted, request)
        return await self._change("begin_refund", channel_id, arguments)

    async def end_refund(
        self, channel_id: bytes, request: str, chain: ChainState | None
    ) -> Channel:
        words = redis_records.chain_words(chain) if chain else ()
        log = (self._logs[channel_id[0]],)
        return await self._change("end_refund", channel_id, (request, *words), keys=log)

    async def _change(
        self,
        name: str,
        channel_id: bytes,
        *arguments: Sequence[str | bytes | int],
        keys: tuple[bytes, ...] = (),
    ) -> Channel:
        """A verb whose answer is the whole channel."""
        keys = (*self._pair(channel_id), self._tags[channel_id[0]] + b"due", *keys)
        flat = (channel_id, *(word for words in arguments for word in words))
        words = await self._run(name, channel_id, keys, flat)
        if words[0] == b"ok":
            return _whole(channel_id, words[1:])
        _raise(words, channel_id)

    async def channels(self, after: bytes = b"", limit: int = 1000) -> list[Channel]:
        index = redis_index.Index(self._opened(), self._tags, self._slots)
        return await self._read(await index.page(after, limit))

    async def claimable(self, limit: int = 1000) -> list[Channel]:
        index = redis_index.Index(self._opened(), self._tags, self._slots)
        found = await self._read(await index.largest(limit))
        owing = (channel for channel in found if channel.unclaimed > 0)
        return sorted(owing, key=lambda channel: (-channel.unclaimed, channel.channel_id))

    async def ledger(self, after: str, until_ms: int, limit: int = 1000) -> list[Row]:
        book = RedisLedger(self._opened(), self._tags, self._slots)
        return await book.read(after, until_ms, limit)

    async def trim_ledger(self, through: str) -> int:
        return await RedisLedger(self._opened(), self._tags, self._slots).trim(through)

    async def _read(self, ids: list[bytes]) -> list[Channel]:
        found = await asyncio.gather(*(self.channel(channel_id) for channel_id in ids))
        return [channel for channel in found if channel]

    # -- Calls -----------------------------------------------------------------------------------

    def _key(self, channel_id: bytes) -> bytes:
        return self._tags[channel_id[0]] + channel_id.hex().encode()

    def _pair(self, channel_id: bytes) -> tuple[bytes, bytes]:
        key = self._key(channel_id)
        return key, key + b":h"

    def _opened(self) -> Calls:
        if self._calls is None:
            raise StoreUnavailable("the store is not open")
        return self._calls

    def _prefix(self) -> str:
        return self._url.prefix

    def _script(self, name: str) -> Script:
        return self._scripts[name]

    def _ask(
        self,
        script: Script,
        channel_id: bytes,
        keys: Sequence[bytes],
        arguments: Sequence[str | bytes | int],
    ) -> "asyncio.Future[Reply]":
        slot = self._slots[channel_id[0]]
        return self._opened().run(script, slot, keys, arguments)

    async def _run(
        self,
        name: str,
        channel_id: bytes,
        keys: Sequence[bytes],
        arguments: Sequence[str | bytes | int],
    ) -> list[bytes]:
        """The words that a script answers."""
        return cast("list[bytes]", await self._ask(self._script(name), channel_id, keys, arguments))


def _entry(key: bytes, ticket: Ticket) -> bytes:
    """Where a payment's id is remembered."""
    return key + b":a:" + ticket.payment_id.encode()


def _whole(channel_id: bytes, rest: Sequence[object], now_ms: int = 0) -> Channel:
    record, holds = cast("tuple[bytes, Flat]", rest)
    return redis_records.channel(channel_id, record, holds, now_ms)


def _raise(words: list[bytes], channel_id: bytes) -> Never:
    """What a script says instead of yes."""
    word, *rest = words
    if word == b"refused":
        *whole, reason, now_ms = rest
        raise RefusedByChannel(Reason[reason.decode()], _whole(channel_id, whole, int(now_ms)))
    if word == b"answer":
        answer, total = rest
        raise AnsweredBefore(answer, int(total))
    if word == b"refused before":
        raise RefusedBefore
    if word in _REFUSALS:
        raise Refused(_REFUSALS[word])
    raise NeedsChain(_CHAIN[word])
