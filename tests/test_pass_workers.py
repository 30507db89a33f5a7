"""Passes and free requests with four real workers on one store: to the second, and to the call."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from secrets import token_hex
from typing import Final

import httpx
import pytest
from coincurve import PrivateKey
from helpers.fleet import Fleet
from helpers.redis_server import shared_server
from helpers.worker_app import FREE, PASS_PRICE, PRICE
from msgspec import Raw

from paywall import AsyncClient, Wallet, open_store, receipt
from paywall.protocol import eip712, sign_in
from paywall.protocol.x402 import decode_required

PASS_SECONDS: Final = 2
WORKERS: Final = 4


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def fleet(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    store = f"sqlite:///{folder}/store.db"
    if request.param == "redis":
        store = f"{shared_server().url}?prefix=p{token_hex(8)}"
    with Fleet(folder, store, WORKERS, pass_seconds=PASS_SECONDS) as running:
        yield running


@pytest.fixture
def key() -> PrivateKey:
    return PrivateKey()


@pytest.fixture
async def client(key: PrivateKey, tmp_path: Path) -> AsyncIterator[AsyncClient]:
    wallet = Wallet(key.secret, state=tmp_path / "agent.db")
    async with AsyncClient(wallet=wallet, verify=False, timeout=30) as paying:
        yield paying
    wallet.close()


def plain() -> httpx.AsyncClient:
    """Pays nothing, and takes another connection for each request, so that all workers are met."""
    limits = httpx.Limits(max_keepalive_connections=0)
    return httpx.AsyncClient(verify=False, timeout=30, limits=limits)


async def proofs(url: str, key: PrivateKey, count: int) -> list[str]:
    async with plain() as http:
        quote = decode_required((await http.get(url)).headers["payment-required"])
    assert quote.extensions
    asked = sign_in.read_challenge(Raw(quote.extensions[sign_in.EXTENSION]))
    assert asked is not None
    origin = sign_in.parse_origin(url)
    made = [
        sign_in.sign(
            lambda digest: eip712.sign(key, digest),
            eip712.address_of(key),
            asked,
            origin,
            url,
            token_hex(16),
            int(time.time()),
        )
        for _ in range(count)
    ]
    return [one for one in made if one]


async def statuses(url: str, headers: list[str]) -> Counter[int]:
    async with plain() as http:
        sent = (http.get(url, headers={sign_in.HEADER: header}) for header in headers)
        return Counter(answer.status_code for answer in await asyncio.gather(*sent))


async def charged(fleet: Fleet) -> int:
    store = open_store(fleet.store)
    await store.open()
    try:
        return sum(channel.charged for channel in await store.channels())
    finally:
        await store.close()


async def test_a_pass_opens_for_its_time_on_every_worker_and_not_a_second_longer(
    fleet: Fleet, client: AsyncClient
) -> None:
    url, before = f"{fleet.url}/pass/a", await charged(fleet)
    asked_at = time.time()
    sold = await client.get(url)
    sold_at = time.time()
    told = receipt(sold)
    assert told is not None
    assert told.charged == PASS_PRICE
    token = sold.headers["paywall-pass"]
    opened, shut = [], []
    async with plain() as http:
        while time.time() < sold_at + PASS_SECONDS + 0.5:
            sent_at = time.time()
            answer = await http.get(url, headers={"Authorization": f"Bearer {token}"})
            if answer.status_code == 200:
                opened.append(sent_at)
            else:
                assert answer.status_code == 402
                shut.append(time.time())
            await asyncio.sleep(0.02)
    assert max(opened) <= sold_at + PASS_SECONDS
    assert min(shut) >= asked_at + PASS_SECONDS
    assert {event.pid for event in fleet.events() if event.kind == "run"} == set(fleet.pids)
    assert await charged(fleet) == before + PASS_PRICE


async def test_a_sign_in_is_good_once_on_all_workers_together(
    fleet: Fleet, client: AsyncClient, key: PrivateKey
) -> None:
    url = f"{fleet.url}/pass/b"
    (header,) = await proofs(url, key, 1)
    assert (await client.get(url)).status_code == 200
    assert await statuses(url, [header] * 24) == {200: 1, 402: 23}


async def test_free_requests_are_exact_under_64_at_once(fleet: Fleet, key: PrivateKey) -> None:
    url = f"{fleet.url}/some/a"
    headers = await proofs(url, key, 64)
    assert await statuses(url, headers) == {200: FREE, 402: 64 - FREE}


async def test_our_client_signs_in_where_it_has_a_pass_and_pays_once(
    fleet: Fleet, client: AsyncClient
) -> None:
    url, before = f"{fleet.url}/pass/c", await charged(fleet)
    seen = {event.run for event in fleet.events()}
    receipts = [receipt(await client.get(f"{url}{number}")) for number in range(6)]
    assert [told and told.charged for told in receipts] == [PASS_PRICE, *[None] * 5]
    assert await charged(fleet) == before + PASS_PRICE
    runs = [event for event in fleet.events() if event.kind == "run" and event.run not in seen]
    assert sorted(bool(event.payment) for event in runs) == [False] * 5 + [True]


async def test_our_client_uses_what_is_free_and_then_pays_on_the_first_try(
    fleet: Fleet, client: AsyncClient
) -> None:
    url, before = f"{fleet.url}/some/b", await charged(fleet)
    answers = [await client.get(f"{url}{number}") for number in range(FREE + 3)]
    told = [receipt(answer) for answer in answers]
    assert [answer.status_code for answer in answers] == [200] * (FREE + 3)
    assert [one and one.charged for one in told] == [*[None] * FREE, *[PRICE] * 3]
    assert await charged(fleet) == before + 3 * PRICE
