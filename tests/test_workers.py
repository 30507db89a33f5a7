"""Exactly once, with real worker processes under real uvicorn: lost answers, and `kill -9`.

Cases 10, 39, 49 and 52. The agent of most tests signs by hand, so that the very same payment can
be sent again, or another one under the same id; in the last part our own client pays, through a
network that loses answers.
"""

import asyncio
import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from secrets import token_bytes, token_hex
from typing import Any, Final

import httpx
import pytest
from helpers.channels import TERMS, config
from helpers.cutter import cutting
from helpers.fleet import Fleet
from helpers.provider import Agent
from helpers.redis_server import RedisServer, shared_server
from helpers.worker_app import PRICE, digest_of
from msgspec import Raw

from paywall import AsyncClient, PaymentLost, Wallet, open_store, receipt, sending
from paywall.protocol import once
from paywall.protocol.channel import Channel
from paywall.protocol.limits import MAX_ANSWER_BYTES, RETRY_AFTER_SECONDS
from paywall.protocol.schemes import batch
from paywall.protocol.x402 import VERSION, PaymentPayload, encode_header, encode_json

PATIENCE_SECONDS: Final = 20
HOLD_SECONDS: Final = 2
_numbers = count(1)


def _store_of(name: str, folder: Path) -> str:
    if name == "memory":
        return "memory://"
    if name == "sqlite":
        return f"sqlite:///{folder}/store.db"
    server: RedisServer = shared_server()
    return f"{server.url}?prefix=w{token_hex(8)}"


@pytest.fixture(scope="module", params=["memory", "sqlite", "redis"])
def fleet(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    """Two workers; one for a store that lives in its process."""
    folder = tmp_path_factory.mktemp("fleet")
    workers = 1 if request.param == "memory" else 2
    with Fleet(folder, _store_of(request.param, folder), workers) as running:
        yield running


@pytest.fixture(params=["sqlite", "redis"])
def mortal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    """Two workers to kill, whose holds expire while a test waits."""
    store = _store_of(request.param, tmp_path)
    with Fleet(tmp_path, store, 2, hold_seconds=HOLD_SECONDS) as running:
        yield running


# -- An agent that signs by hand -----------------------------------------------------------------


class Payer(Agent):
    """Somebody with a funded channel of its own."""

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(config(next(_numbers)))
        fleet.chain.fund(self.channel_id, 50_000)

    def payment(self, total: int, payment_id: str | None) -> str:
        """A payment header; the same arguments give the same bytes."""
        wire = batch.config_wire(self.config)
        extensions = {once.EXTENSION: once.with_id(payment_id)} if payment_id else {}
        return encode_header(
            PaymentPayload(
                x402_version=VERSION,
                accepted=Raw(encode_json(TERMS.offer(PRICE).requirements)),
                payload=batch.voucher_payload(wire, self.channel_id, self.sign(total)),
                extensions=extensions,
            )
        )


@dataclass
class Wire:
    """A plain client that sends payments; a connection of its own for each, as strangers have."""

    fleet: Fleet

    async def send(self, payment: str, path: str = "/item/a") -> httpx.Response:
        async with httpx.AsyncClient(base_url=self.fleet.url, verify=False) as client:
            return await client.get(path, headers={"payment-signature": payment})

    async def charged(self, payer: Payer) -> int:
        """The provider's own count, from its refusal of a voucher that was used before."""
        refusal = await self.send(payer.payment(PRICE, None))
        assert refusal.status_code == 402
        (offer,) = read(refusal, "payment-required")["accepts"]
        return int(offer["extra"]["channelState"]["chargedCumulativeAmount"])

    def runs(self, payment: str) -> int:
        return len(self.fleet.runs(digest_of(payment.encode())))

    async def until_it_runs(self, payment: str, times: int = 1) -> int:
        """The process that serves a payment."""
        await until(lambda: self.runs(payment) >= times)
        return self.fleet.runs(digest_of(payment.encode()))[-1].pid


def read(response: httpx.Response, header: str) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(base64.b64decode(response.headers[header], validate=True))
    return message


def reason(response: httpx.Response) -> str:
    return str(response.json()["error"])


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not holds():  # noqa: ASYNC110 - it happens in other processes
            await asyncio.sleep(0.005)


def new_id() -> str:
    return "pay_" + token_hex(16)


async def record_of(fleet: Fleet, channel_id: bytes) -> Channel:
    store = open_store(fleet.store)
    await store.open()
    try:
        found = await store.channel(channel_id)
        assert found is not None
        return found
    finally:
        await store.close()


# -- The same payment again ----------------------------------------------------------------------


async def test_an_answer_that_was_lost_is_given_again(fleet: Fleet) -> None:
    payer, wire = Payer(fleet), Wire(fleet)
    payment = payer.payment(PRICE, new_id())
    first = await wire.send(payment)
    again = [await wire.send(payment) for _ in range(3)]
    assert first.status_code == 200
    for other in again:
        assert (other.status_code, other.content) == (200, first.content)
        assert read(other, "payment-response") == read(first, "payment-response")
    assert wire.runs(payment) == 1
    assert await wire.charged(payer) == PRICE


async def test_a_payment_that_is_being_served_is_asked_to_wait(fleet: Fleet) -> None:
    payer, wire = Payer(fleet), Wire(fleet)
    payment, held = payer.payment(PRICE, new_id()), token_hex(4)
    first = asyncio.create_task(wire.send(payment, f"/item/a?held={held}"))
    await wire.until_it_runs(payment)
    early = await wire.send(payment, f"/item/a?held={held}")
    assert (early.status_code, reason(early)) == (503, "payment_in_progress")
    assert early.headers["retry-after"] == str(RETRY_AFTER_SECONDS)
    assert read(early, "payment-response")["errorReason"] == "payment_in_progress"
    assert "payment-required" not in early.headers, "a quote would invite a second payment"

    (fleet.folder / held).touch()
    late = await wire.send(payment, f"/item/a?held={held}")
    while late.status_code == 503:
        late = await wire.send(payment, f"/item/a?held={held}")
    assert (late.status_code, late.content) == (200, (await first).content)
    assert wire.runs(payment) == 1
    assert await wire.charged(payer) == PRICE


async def test_many_of_one_payment_at_once_are_one_grant(fleet: Fleet) -> None:
    payer, wire = Payer(fleet), Wire(fleet)
    payment = payer.payment(PRICE, new_id())
    answers = await asyncio.gather(*(wire.send(payment) for _ in range(20)))
    assert {answer.status_code for answer in answers} <= {200, 503}
    assert len({answer.content for answer in answers if answer.status_code == 200}) == 1
    assert wire.runs(payment) == 1
    assert await wire.charged(payer) == PRICE


async def test_an_id_belongs_to_one_payment_for_one_thing(fleet: Fleet) -> None:
    payer, wire, name = Payer(fleet), Wire(fleet), new_id()
    payment, other = payer.payment(PRICE, name), payer.payment(2 * PRICE, name)
    assert (await wire.send(payment)).status_code == 200
    for conflict in (
        await wire.send(other),
        await wire.send(payment, "/item/b"),
        await wire.send(payment, "/item/a?bytes=1"),
    ):
        assert (conflict.status_code, reason(conflict)) == (409, "payment_identifier_conflict")
        assert "payment-required" not in conflict.headers
    assert (wire.runs(payment), wire.runs(other)) == (1, 0)
    assert await wire.charged(payer) == PRICE


async def test_an_id_is_the_payers_own(fleet: Fleet) -> None:
    """Somebody else's payment under the same id is another payment."""
    wire, name = Wire(fleet), new_id()
    answers = [await wire.send(Payer(fleet).payment(PRICE, name)) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json()["run"] != answers[1].json()["run"]


async def test_a_payment_whose_request_failed_runs_again(fleet: Fleet) -> None:
    payer, wire = Payer(fleet), Wire(fleet)
    payment, failing = payer.payment(PRICE, new_id()), fleet.folder / token_hex(4)
    failing.touch()
    path = f"/item/a?failing={failing.name}"
    assert [(await wire.send(payment, path)).status_code for _ in range(2)] == [500, 500]
    failing.unlink()
    answers = [await wire.send(payment, path) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].content == answers[1].content
    assert wire.runs(payment) == 3
    assert await wire.charged(payer) == PRICE


@pytest.mark.parametrize("path", [f"/item/a?bytes={MAX_ANSWER_BYTES}", "/item/a?stream=1"])
async def test_an_answer_that_is_not_kept_is_charged_once(fleet: Fleet, path: str) -> None:
    payer, wire = Payer(fleet), Wire(fleet)
    payment = payer.payment(PRICE, new_id())
    assert (await wire.send(payment, path)).status_code == 200
    again = await wire.send(payment, path)
    assert (again.status_code, reason(again)) == (409, "payment_already_answered")
    assert wire.runs(payment) == 1
    assert await wire.charged(payer) == PRICE


# -- A worker dies -------------------------------------------------------------------------------


async def _die_while_serving(wire: Wire, payment: str, path: str) -> None:
    request = asyncio.create_task(wire.send(payment, path))
    wire.fleet.kill(await wire.until_it_runs(payment))
    with pytest.raises(httpx.TransportError):
        await request


async def test_a_worker_that_dies_blocks_nobody(mortal: Fleet) -> None:
    """Its hold lives on, and the channel serves the next request all the same; when the hold has
    expired, the payment of the dead one is good again, once."""
    payer, wire, held = Payer(mortal), Wire(mortal), token_hex(4)
    path = f"/item/a?held={held}"
    lost = payer.payment(PRICE, new_id())
    await _die_while_serving(wire, lost, path)
    record = await record_of(mortal, payer.channel_id)
    assert (record.charged, record.held, len(record.holds)) == (0, PRICE, 1)

    following = await wire.send(payer.payment(2 * PRICE, new_id()))
    assert following.status_code == 200
    early = await wire.send(lost, path)
    assert (early.status_code, reason(early)) == (503, "payment_in_progress")

    (mortal.folder / held).touch()
    answer = early
    async with asyncio.timeout(PATIENCE_SECONDS):
        while answer.status_code == 503:
            await asyncio.sleep(0.05)
            answer = await wire.send(lost, path)
    assert answer.status_code == 200
    assert (await wire.send(lost, path)).content == answer.content
    assert wire.runs(lost) == 2
    record = await record_of(mortal, payer.channel_id)
    assert (record.charged, record.holds) == (2 * PRICE, {})


async def test_a_serial_client_goes_on_after_a_worker_died(mortal: Fleet) -> None:
    """It counts as the specification says, and knows no ids: it signs what was charged plus the
    price, and after a corrective 402 what that shows plus the price."""
    payer, wire = Payer(mortal), Wire(mortal)
    await _die_while_serving(wire, payer.payment(PRICE, None), f"/item/a?held={token_hex(4)}")
    refusal = await wire.send(payer.payment(PRICE, None))
    assert refusal.status_code == 402
    (offer,) = read(refusal, "payment-required")["accepts"]
    total = int(offer["extra"]["channelState"]["chargedCumulativeAmount"])
    proof = int(offer["extra"]["voucherState"]["signedMaxClaimable"])
    assert (total, proof) == (PRICE, PRICE), "what is held counts, and our own signature proves it"
    corrected = await wire.send(payer.payment(total + PRICE, None))
    assert corrected.status_code == 200
    record = await record_of(mortal, payer.channel_id)
    assert (record.charged, record.held) == (PRICE, PRICE), "the dead one's hold is still there"


async def test_a_charge_after_its_hold_expired_is_fenced(mortal: Fleet) -> None:
    """Case 39. A worker that was stopped for too long wakes up; another has served its payment."""
    payer, wire, held = Payer(mortal), Wire(mortal), token_hex(4)
    path = f"/item/a?held={held}"
    payment = payer.payment(PRICE, new_id())
    request = asyncio.create_task(wire.send(payment, path))
    sleeper = await wire.until_it_runs(payment)
    mortal.stop(sleeper)
    (mortal.folder / held).touch()
    answer = await _answer_of_another(wire, payment, path)
    mortal.go_on(sleeper)
    late = await request
    assert answer.status_code == 200
    assert late.status_code == 503
    assert (await record_of(mortal, payer.channel_id)).charged == PRICE


async def _answer_of_another(wire: Wire, payment: str, path: str) -> httpx.Response:
    """Sends until a worker that is awake has answered; one that sleeps says nothing."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            try:
                async with asyncio.timeout(0.3):
                    answer = await wire.send(payment, path)
            except TimeoutError:
                continue
            if answer.status_code != 503:
                return answer


# -- Our client over a network that loses answers ------------------------------------------------


@pytest.fixture
def wallet(tmp_path: Path) -> Iterator[Wallet]:
    wallet = Wallet(token_bytes(32), state=tmp_path / "wallet.db")
    yield wallet
    wallet.close()


async def _warm(client: AsyncClient, url: str) -> None:
    """The deposit, so that what follows is about vouchers."""
    assert (await client.get(f"{url}/item/first")).status_code == 200


async def _charged(client: AsyncClient, url: str) -> int:
    """What the provider's count was before this request, from its receipt."""
    confirmed = receipt(await client.get(f"{url}/item/last"))
    assert confirmed is not None
    assert confirmed.total is not None
    return confirmed.total - PRICE


async def test_the_client_gets_the_answer_that_was_cut_off(fleet: Fleet, wallet: Wallet) -> None:
    async with cutting(fleet.url) as network, AsyncClient(wallet=wallet, verify=False) as client:
        await _warm(client, network.url)
        network.cuts = 2
        answer = await client.get(f"{network.url}/item/a")
        assert (answer.status_code, network.lost) == (200, 2)
        assert len([one for one in fleet.events() if one.run == answer.json()["run"]]) > 1
        assert await _charged(client, network.url) == 2 * PRICE
        assert wallet.spent() == 3 * PRICE


async def test_the_client_asks_again_after_a_timeout(fleet: Fleet, wallet: Wallet) -> None:
    """Its hanging up released the first run; the second one is the one that is paid."""
    held = fleet.folder / token_hex(4)
    async with AsyncClient(wallet=wallet, verify=False, timeout=0.5) as client:
        await _warm(client, fleet.url)
        before = {event.payment for event in fleet.events()}
        request = asyncio.create_task(client.get(f"{fleet.url}/item/a?held={held.name}"))
        await until(lambda: _told_to_wait(fleet, before))
        held.touch()
        assert (await request).status_code == 200
        assert await _charged(client, fleet.url) == 2 * PRICE
        assert wallet.spent() == 3 * PRICE


def _told_to_wait(fleet: Fleet, before: set[str]) -> bool:
    """Whether a payment that is not one of those came again while it was being served."""
    return any(one.status == 503 for one in fleet.events() if one.payment not in before)


async def test_a_payment_is_lost_only_when_everything_failed(
    fleet: Fleet, wallet: Wallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Case 49: the same payment each time, never another one, and it was charged once."""
    pauses = (0.01, 0.02, 0.03)
    monkeypatch.setattr(sending, "RESEND_PAUSES_SECONDS", pauses)
    async with cutting(fleet.url) as network, AsyncClient(wallet=wallet, verify=False) as client:
        await _warm(client, network.url)
        before = {event.payment for event in fleet.events()}
        network.cuts = 100
        with pytest.raises(PaymentLost):
            await client.get(f"{network.url}/item/a")
        network.cuts = 0
        assert network.lost == 1 + len(pauses)
        (payment,) = {event.payment for event in fleet.events()} - before
        assert len(fleet.runs(payment)) == 1
        assert await _charged(client, network.url) == 2 * PRICE
        assert wallet.spent() == 3 * PRICE


async def test_the_client_outlives_a_worker(mortal: Fleet, wallet: Wallet) -> None:
    """Its next request is served at once, and the one that died when its hold has expired."""
    held = mortal.folder / token_hex(4)
    async with AsyncClient(wallet=wallet, verify=False) as client:
        await _warm(client, mortal.url)
        before = {event.run for event in mortal.events()}
        request = asyncio.create_task(client.get(f"{mortal.url}/item/a?held={held.name}"))
        await until(lambda: {event.run for event in mortal.events()} - before)
        (run,) = (one for one in mortal.events() if one.run not in before)
        mortal.kill(run.pid)
        assert (await client.get(f"{mortal.url}/item/b")).status_code == 200
        assert not request.done(), "its hold has not expired"
        held.touch()
        assert (await request).status_code == 200
        assert len(mortal.runs(run.payment)) == 2
        assert await _charged(client, mortal.url) == 3 * PRICE
