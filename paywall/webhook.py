"""Notices by HTTP: batches of JSON, signed, sent behind the requests, tried again with pauses.

    Paywall(app, on_event=Webhook("https://me.example/hooks", os.environ["HOOK_SECRET"]), ...)

A notice is put into a bounded queue and nobody waits. One task sends what is there, in order, up to
a hundred at a time. A receiver that is down is tried again, then the batch is given up and logged;
when the queue is full, new notices are dropped and counted. A batch may come twice (its answer was
lost), under the same `id`. The books are the ledger.

The body is signed with the time: `Paywall-Signature: t=<Unix seconds>,v1=<hex>`, where the hex is
the HMAC-SHA256 of `t.body` under the secret. `verify` is the receiver's side of it.
"""

import asyncio
import hmac
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import fields
from hashlib import sha256
from secrets import token_hex
from typing import Final
from urllib.parse import urlsplit

import httpx

from paywall.notices import Courier, Notice
from paywall.protocol.errors import ConfigurationError
from paywall.protocol.x402 import encode_json
from paywall.quiet import unsaid

log = logging.getLogger("paywall.webhook")

SIGNATURE: Final = "Paywall-Signature"
MAX_QUEUED: Final = 10_000
MAX_BATCH: Final = 100
PAUSES_SECONDS: Final = (1.0, 5.0, 30.0, 120.0)
TIMEOUT_SECONDS: Final = 10.0
CLOSE_SECONDS: Final = 5.0
"""How long an app that ends waits for what is still queued."""
TOLERANCE_SECONDS: Final = 300
MIN_SECRET_CHARS: Final = 16


class Webhook(Courier):
    """Sends notices to one receiver. For one event loop.

    `pauses_seconds` are between the tries of one batch, and `transport` is for tests and proxies.
    Raises ConfigurationError for a URL that is none, or a secret that is short.
    """

    def __init__(
        self,
        url: str,
        secret: str,
        *,
        pauses_seconds: Sequence[float] = PAUSES_SECONDS,
        max_queued: int = MAX_QUEUED,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise ConfigurationError("a webhook's URL begins with https:// or http://")
        if len(secret) < MIN_SECRET_CHARS:
            raise ConfigurationError(f"a webhook's secret has at least {MIN_SECRET_CHARS} letters")
        self._url = url
        self._secret = secret
        self._pauses_seconds = tuple(pauses_seconds)
        self._queue: deque[Notice] = deque()
        self._max_queued = max_queued
        self._transport = transport
        self._clock = clock
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.dropped = 0
        """Notices that were given up, because the queue was full or the receiver down."""

    def __repr__(self) -> str:
        return f"<Webhook to {urlsplit(self._url).hostname}>"

    def __call__(self, notice: Notice) -> None:
        if len(self._queue) >= self._max_queued:
            self._drop(1, "the queue is full")
            return
        self._queue.append(notice)
        self._idle.clear()
        self._wake.set()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._send_forever())

    async def close(self) -> None:
        """Sends what is queued, for a few seconds; what is left then is dropped."""
        task, self._task = self._task, None
        if task is None:
            return
        waiting = asyncio.ensure_future(self._idle.wait())
        await asyncio.wait([task, waiting], timeout=CLOSE_SECONDS, return_when="FIRST_COMPLETED")
        waiting.cancel()
        task.cancel()
        await asyncio.wait([task])
        if self._queue:
            self._drop(len(self._queue), "the app ends")
            self._queue.clear()

    async def _send_forever(self) -> None:
        async with httpx.AsyncClient(transport=self._transport, timeout=TIMEOUT_SECONDS) as client:
            while True:
                await self._wake.wait()
                while self._queue:
                    count = min(MAX_BATCH, len(self._queue))
                    await self._deliver(client, [self._queue[at] for at in range(count)])
                    for _ in range(count):
                        self._queue.popleft()
                self._wake.clear()
                self._idle.set()

    async def _deliver(self, client: httpx.AsyncClient, batch: list[Notice]) -> None:
        body = encode_json({"id": token_hex(16), "events": [wire(notice) for notice in batch]})
        why = ""
        for pause_seconds in (0.0, *self._pauses_seconds):
            await asyncio.sleep(pause_seconds)
            why = await self._post(client, body)
            if not why:
                return
            log.info("%s did not take %d events: %s", self, len(batch), why)
        self._drop(len(batch), why)

    async def _post(self, client: httpx.AsyncClient, body: bytes) -> str:
        """Why it was not taken; "" when it was."""
        headers = {
            "Content-Type": "application/json",
            SIGNATURE: sign(self._secret, body, int(self._clock())),
        }
        try:
            with unsaid():
                sent = client.stream("POST", self._url, content=body, headers=headers)
                async with sent as answer:
                    return "" if answer.is_success else f"it answered {answer.status_code}"
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            return type(error).__name__
        except Exception as error:  # whatever a receiver does, the next batch is sent
            log.exception("a webhook failed")
            return type(error).__name__

    def _drop(self, count: int, why: str) -> None:
        if not self.dropped or why != "the queue is full":  # that one is said once
            log.warning("%s: %d events are dropped: %s", self, count, why)
        self.dropped += count


def wire(notice: Notice) -> dict[str, object]:
    """A notice as it is sent: its type's name in small letters, and its amounts as text."""
    told: dict[str, object] = {"type": type(notice).__name__.lower()}
    if told["type"] == "rang":
        told["type"] = "alarm"
    for field in fields(notice):
        value = getattr(notice, field.name)
        told[field.name] = str(value) if field.name in ("amount", "fee_wei") else value
    return told


def sign(secret: str, body: bytes, now: int) -> str:
    """The header for a body that is sent now, in Unix seconds."""
    return f"t={now},v1={_digest(secret, body, now)}"


def verify(
    secret: str,
    header: str,
    body: bytes,
    now: float | None = None,
    tolerance_seconds: int = TOLERANCE_SECONDS,
) -> bool:
    """Whether a body with this header is ours, and of these minutes. Raises nothing."""
    parts = dict(part.strip().partition("=")[::2] for part in header.split(","))
    told = parts.get("t", "")
    if not (told.isascii() and told.isdigit() and len(told) <= 12):
        return False
    if abs((time.time() if now is None else now) - int(told)) > tolerance_seconds:
        return False
    signature = parts.get("v1", "").encode()
    return hmac.compare_digest(_digest(secret, body, int(told)).encode(), signature)


def _digest(secret: str, body: bytes, now: int) -> str:
    return hmac.new(secret.encode(), f"{now}.".encode() + body, sha256).hexdigest()
