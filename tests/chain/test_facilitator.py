"""A provider's chain behind facilitators: it believes the chain, and fails closed (case 25)."""

import asyncio
import gzip
import json
import pickle
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import pytest
from helpers.chain import (
    ASSET,
    DOMAIN,
    NETWORK,
    Payer,
    batch_of,
    funded,
    new_address,
    node_of,
    rich_payer,
)
from helpers.servers import served
from starlette.applications import Starlette
from starlette.responses import RedirectResponse
from starlette.routing import Route

from paywall.chain.devnet import Devnet
from paywall.chain.facilitator import Facilitator
from paywall.chain.node import Node
from paywall.protocol.eip712 import Authorization
from paywall.protocol.errors import (
    ChainUnavailable,
    ConfigurationError,
    Reason,
    Refused,
    Reverted,
    TransactionPending,
)
from paywall.protocol.schemes import exact
from paywall.protocol.schemes.batch import Deposit, sign_voucher
from paywall.protocol.x402 import show_address, show_bytes

URL = "https://one.example/hidden-path"
OTHER = "https://two.example"
KEY = "11" * 32
API_KEY = "a secret of ours"
NOWHERE = "0x" + "ab" * 32
Handler = Callable[[httpx.Request], Awaitable[httpx.Response]]


def answer(message: object, status: int = 200) -> Handler:
    async def handler(_: httpx.Request) -> httpx.Response:
        return httpx.Response(status, json=message)

    return handler


def supported(network: str = NETWORK, authorizer: str | None = None, **kind: Any) -> Handler:
    kinds = []
    for scheme in ("batch-settlement", "exact"):
        one = {"x402Version": 2, "scheme": scheme, "network": network, **kind}
        kinds.append(one | ({"extra": {"receiverAuthorizer": authorizer}} if authorizer else {}))
    return answer({"kinds": kinds, "extensions": [], "signers": {}})


@dataclass
class Fake:
    """Facilitators of our making, by host; it notes who was asked what."""

    handlers: dict[str, Handler] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    headers: list[httpx.Headers] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        name = request.url.host.partition(".")[0] + "/" + request.url.path.rpartition("/")[2]
        self.asked.append(name)
        self.headers.append(request.headers)
        self.bodies.append(request.content)
        verb = name.partition("/")[2]
        handler = self.handlers.get(name) or self.handlers.get(verb)
        made = await (handler or supported())(request)
        # As from a socket: not read yet.
        return httpx.Response(made.status_code, headers=made.headers, stream=made.stream)


@pytest.fixture
async def node(devnet: Devnet) -> AsyncIterator[Node]:
    async with node_of(devnet, key=devnet.accounts[3].key, authorizer_key=KEY) as running:
        yield running


@pytest.fixture
def fake(node: Node) -> Fake:
    return Fake({"supported": supported()})


@pytest.fixture
async def chain(devnet: Devnet, fake: Fake) -> AsyncIterator[Facilitator]:
    async for running in opened(devnet, fake, [URL, OTHER]):
        yield running


async def opened(
    devnet: Devnet, fake: Fake, urls: list[str], **options: Any
) -> AsyncIterator[Facilitator]:
    options = {"authorizer_key": KEY, "timeout_seconds": 1.0, "api_key": API_KEY, **options}
    chain = Facilitator(
        urls,
        reads=devnet.url,
        network=NETWORK,
        transport=httpx.MockTransport(fake),
        **options,
    )
    await chain.open()
    try:
        yield chain
    finally:
        await chain.close()


@pytest.fixture
def payer(devnet: Devnet) -> Payer:
    return rich_payer(devnet)


@pytest.fixture
def deposit(node: Node, payer: Payer) -> Deposit:
    config = payer.config(node.receiver_authorizer)
    return promised(payer, payer.deposit(config))


def promised(payer: Payer, deposit: Deposit) -> Deposit:
    """The deposit with the voucher that it came with."""
    return replace(deposit, voucher=sign_voucher(payer.key, DOMAIN, deposit.channel_id, 1000))


def good(payer: Payer) -> Handler:
    return answer({"isValid": True, "payer": show_address(payer.address)})


def sends(node: Node, deposit: Deposit, told: dict[str, Any] | None = None) -> Handler:
    """Really puts the deposit on chain, and then says so, or something else."""

    async def handler(_: httpx.Request) -> httpx.Response:
        mined = await node.deposit(deposit)
        transaction = show_bytes(mined.transaction) if mined else ""
        good_news = {"success": bool(mined), "transaction": transaction, "network": NETWORK}
        return httpx.Response(200, json=good_news | (told or {}))

    return handler


# -- Opening -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kinds",
    [
        supported(network="eip155:8453"),
        supported(x402Version=1),
        supported(scheme="exact"),
        answer({"kinds": []}),
    ],
    ids=["other network", "version 1", "exact only", "nothing"],
)
async def test_one_that_does_not_serve_our_channels_is_a_mistake_of_the_owner(
    devnet: Devnet, fake: Fake, kinds: Handler
) -> None:
    fake.handlers["supported"] = kinds
    with pytest.raises(ConfigurationError, match=r"https://one\.example does not serve"):
        await anext(opened(devnet, fake, [URL]))


async def test_without_a_key_of_ours_the_facilitator_names_the_authorizer(
    devnet: Devnet, fake: Fake
) -> None:
    named = new_address()
    fake.handlers["supported"] = supported(authorizer=show_address(named))
    chain = Facilitator(URL, reads=devnet.url, transport=httpx.MockTransport(fake))
    assert chain.receiver_authorizer == named  # before it is open, as the terms need it
    async for running in opened(devnet, fake, [URL], authorizer_key=None):
        assert running.receiver_authorizer == named


@pytest.mark.parametrize("named", [None, "0x" + "00" * 20, "nobody"])
async def test_without_any_authorizer_nothing_can_be_claimed(
    devnet: Devnet, fake: Fake, named: str | None
) -> None:
    fake.handlers["supported"] = supported(authorizer=named)
    with pytest.raises(ConfigurationError, match="authorizer_key of your own"):
        await anext(opened(devnet, fake, [URL], authorizer_key=None))


async def test_one_of_several_is_enough_to_open(devnet: Devnet, fake: Fake) -> None:
    fake.handlers["one/supported"] = answer("no", 500)
    async for _ in opened(devnet, fake, [URL, OTHER]):
        assert fake.asked == ["one/supported", "two/supported"]
    fake.handlers["two/supported"] = answer("no", 500)
    with pytest.raises(ChainUnavailable):
        await anext(opened(devnet, fake, [URL, OTHER]))


@pytest.mark.parametrize(
    "url", ["ftp://one.example", "one.example", "https://", "https://a/?key=x"]
)
def test_what_is_no_url_is_refused(devnet: Devnet, url: str) -> None:
    with pytest.raises(ConfigurationError):
        Facilitator(url, reads=devnet.url)


def test_secrets_are_not_shown_and_not_sent_in_the_clear(devnet: Devnet) -> None:
    chain = Facilitator(
        "https://user:word@one.example/hidden-path",
        reads="https://rpc.example/hidden-key",
        api_key=API_KEY,
        authorizer_key=KEY,
    )
    assert repr(chain) == "Facilitator(eip155:84532 by https://one.example)"
    with pytest.raises(TypeError):
        pickle.dumps(chain)
    with pytest.raises(ConfigurationError, match="over https only"):
        Facilitator("http://one.example", reads=devnet.url, api_key=API_KEY)


# -- Deposits ------------------------------------------------------------------------------------


async def test_a_deposit_is_verified_then_settled_and_counts_when_the_chain_shows_it(
    chain: Facilitator, fake: Fake, node: Node, payer: Payer, deposit: Deposit
) -> None:
    fake.handlers |= {"verify": good(payer), "settle": sends(node, deposit)}
    mined = await chain.deposit(deposit)
    assert mined is not None
    assert fake.asked == ["one/supported", "one/verify", "one/settle"]
    assert (await chain.channel(deposit.channel_id)).balance == deposit.amount
    assert {h["authorization"] for h in fake.headers} == {f"Bearer {API_KEY}"}
    asked = json.loads(fake.bodies[-1])
    assert asked["paymentPayload"]["accepted"] == asked["paymentRequirements"]
    assert asked["paymentPayload"]["payload"]["deposit"]["amount"] == str(deposit.amount)
    assert await chain.deposit(deposit) is None
    assert len(fake.asked) == 3, "the chain knows it: nobody is asked"


async def _html(_: httpx.Request) -> httpx.Response:
    return httpx.Response(200, html="<html>all is well</html>")


async def _redirect(_: httpx.Request) -> httpx.Response:
    return httpx.Response(307, headers={"Location": "https://evil.example/verify"})


async def _huge(_: httpx.Request) -> httpx.Response:
    return httpx.Response(200, content=b'{"isValid":' + b" " * 10 * 2**20 + b"true}")


async def _bomb(_: httpx.Request) -> httpx.Response:
    packed = gzip.compress(b'{"isValid": true}' + b" " * 10 * 2**20)
    return httpx.Response(200, content=packed, headers={"Content-Encoding": "gzip"})


async def _slow(_: httpx.Request) -> httpx.Response:
    raise httpx.ReadTimeout("slow")


async def _deep(_: httpx.Request) -> httpx.Response:
    return httpx.Response(200, content=b'{"isValid": true, "extra": ' + b"[" * 100_000)


async def _unreachable(_: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused")


async def _broken(_: httpx.Request) -> httpx.Response:
    raise httpx.RemoteProtocolError("broke off")


BROKEN = {
    "html": _html,
    "redirect": _redirect,
    "10 MiB": _huge,
    "zip bomb": _bomb,
    "slow": _slow,
    "deep": _deep,
    "unreachable": _unreachable,
    "broken off": _broken,
    "html 500": answer("<html>", 500),
    "good news with 500": answer({"isValid": True, "success": True}, 500),
    "turned away": answer({"error": "no key"}, 401),
    "a list": answer([]),
    "null": answer(None),
    "text for a boolean": answer({"isValid": "true", "success": "true"}),
    "other words": answer({"valid": True}),
}


@pytest.mark.parametrize("fault", BROKEN)
async def test_case_25_a_broken_verification_fails_closed(
    chain: Facilitator, fake: Fake, deposit: Deposit, fault: str
) -> None:
    fake.handlers["verify"] = BROKEN[fault]
    with pytest.raises(ChainUnavailable) as failure:
        await chain.deposit(deposit)
    assert "one/settle" not in fake.asked
    assert "two/settle" not in fake.asked
    assert not any(h["host"].startswith("evil") for h in fake.headers)
    told = str(failure.value)
    assert all(secret not in told for secret in (API_KEY, "hidden-path", KEY))


@pytest.mark.parametrize("who", ["0x" + "11" * 20, "", None, 5])
async def test_case_25_who_verifies_another_payer_is_not_believed(
    chain: Facilitator, fake: Fake, deposit: Deposit, who: object
) -> None:
    fake.handlers["verify"] = answer({"isValid": True, "payer": who})
    with pytest.raises(ChainUnavailable):
        await chain.deposit(deposit)
    assert "one/settle" not in fake.asked


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("invalid_batch_settlement_evm_cumulative_exceeds_balance", Reason.EXCEEDS_BALANCE),
        ("invalid_batch_settlement_evm_insufficient_balance", Reason.PAYER_BALANCE),
        ("invalid_batch_settlement_evm_deposit_simulation_failed", Reason.DEPOSIT_FAILED),
        ("invalid_batch_settlement_evm_voucher_signature", Reason.VOUCHER_SIGNATURE),
        ("invalid_batch_settlement_evm_channel_busy", Reason.CHANNEL_BUSY),
    ],
)
@pytest.mark.parametrize("status", [200, 400])
async def test_a_clear_word_refuses_the_payer(
    chain: Facilitator, fake: Fake, deposit: Deposit, word: str, reason: Reason, status: int
) -> None:
    fake.handlers["verify"] = answer({"isValid": False, "invalidReason": word}, status)
    with pytest.raises(Refused) as refusal:
        await chain.deposit(deposit)
    assert refusal.value.reason is reason
    assert fake.asked[1:] == ["one/verify"], "who is refused by one is not tried at another"


@pytest.mark.parametrize(
    "word",
    ["invalid_batch_settlement_evm_rpc_read_failed", "because", "<b>text</b>", "", None],
)
async def test_a_word_that_blames_nobody_is_our_trouble_and_not_shown_unless_it_is_a_word(
    chain: Facilitator, fake: Fake, deposit: Deposit, word: str | None
) -> None:
    fake.handlers["verify"] = answer({"isValid": False, "invalidReason": word})
    with pytest.raises(ChainUnavailable) as failure:
        await chain.deposit(deposit)
    assert "<b>" not in str(failure.value)


# -- Settlements that lie or get lost ------------------------------------------------------------


@pytest.mark.parametrize(
    "lie",
    [
        {"success": True, "transaction": NOWHERE, "network": NETWORK},
        {"success": True, "transaction": "", "network": NETWORK},
        {"success": True, "transaction": NOWHERE, "network": "eip155:1"},
        {"success": False, "transaction": NOWHERE, "network": NETWORK, "errorReason": "x"},
        {"success": False, "transaction": "", "network": "", "errorReason": "settlement_pending"},
    ],
    ids=["made up", "no transaction", "another network", "sent and failed", "pending"],
)
async def test_case_25_a_settlement_that_the_chain_does_not_show_did_not_happen(
    chain: Facilitator, fake: Fake, payer: Payer, deposit: Deposit, lie: dict[str, Any]
) -> None:
    fake.handlers |= {"verify": good(payer), "settle": answer(lie)}
    with pytest.raises(TransactionPending):
        await chain.deposit(deposit)
    assert "two/settle" not in fake.asked, "the first may have sent it"


async def test_case_25_somebody_elses_deposit_is_not_taken_for_this_one(
    chain: Facilitator, fake: Fake, node: Node, payer: Payer, deposit: Deposit
) -> None:
    other = payer.deposit(deposit.config, deposit.amount)
    fake.handlers |= {"verify": good(payer), "settle": sends(node, other)}
    with pytest.raises(ChainUnavailable, match="did not do what"):
        await chain.deposit(deposit)
    assert "two/settle" not in fake.asked


async def test_case_25_an_old_transaction_is_no_proof(
    chain: Facilitator, fake: Fake, node: Node, payer: Payer
) -> None:
    channel = await funded(node, payer, charged=1000)
    await node.claim(batch_of(node, channel))
    old = await node.settle(channel.config.receiver, ASSET.address)
    assert old is not None
    state = await node.channel(channel.channel_id)
    more = payer.channel(channel.config, state, charged=3000)
    await node.claim(batch_of(node, more))
    told = {"success": True, "transaction": show_bytes(old.transaction), "network": NETWORK}
    fake.handlers["settle"] = answer(told)
    with pytest.raises(ChainUnavailable, match="did not do what"):
        await chain.settle(channel.config.receiver, ASSET.address)


LOST = {name: BROKEN[name] for name in ("html", "redirect", "10 MiB", "slow", "html 500", "null")}


@pytest.mark.parametrize("fault", LOST)
async def test_a_deposit_whose_answer_was_lost_is_found_on_chain(
    chain: Facilitator, fake: Fake, node: Node, payer: Payer, deposit: Deposit, fault: str
) -> None:
    really = sends(node, deposit)

    async def settle(request: httpx.Request) -> httpx.Response:
        await really(request)
        return await LOST[fault](request)

    fake.handlers |= {"verify": good(payer), "settle": settle}
    mined = await chain.deposit(deposit)
    assert mined is not None
    assert "two/settle" not in fake.asked
    assert (await chain.channel(deposit.channel_id)).balance == deposit.amount


async def test_case_24_a_lost_settlement_goes_to_nobody_else_and_the_chain_is_read_first(
    chain: Facilitator, fake: Fake, node: Node, payer: Payer, deposit: Deposit
) -> None:
    fake.handlers |= {"verify": good(payer), "settle": _slow}
    with pytest.raises(TransactionPending):
        await chain.deposit(deposit)
    assert fake.asked == ["one/supported", "one/verify", "one/settle"]
    await node.deposit(deposit)  # it was on its way after all
    assert await chain.deposit(deposit) is None
    assert len(fake.asked) == 3


@pytest.mark.parametrize("fault", ["unreachable", "turned away"])
@pytest.mark.parametrize("verb", ["supported", "verify", "settle"])
async def test_the_next_facilitator_is_asked_when_surely_nothing_was_done(
    devnet: Devnet,
    fake: Fake,
    node: Node,
    payer: Payer,
    deposit: Deposit,
    fault: str,
    verb: str,
) -> None:
    fake.handlers |= {"verify": good(payer), "settle": sends(node, deposit)}
    fake.handlers[f"one/{verb}"] = BROKEN[fault]
    async for chain in opened(devnet, fake, [URL, OTHER]):
        assert await chain.deposit(deposit) is not None
    assert fake.asked[-1] == "two/settle"


async def test_a_refusal_that_came_too_late_does_not_refuse(
    chain: Facilitator, fake: Fake, node: Node, payer: Payer, deposit: Deposit
) -> None:
    """Somebody else put the deposit on chain between our reading and the facilitator's."""
    word = "invalid_batch_settlement_evm_deposit_simulation_failed"

    async def verify(_: httpx.Request) -> httpx.Response:
        await node.deposit(deposit)
        return httpx.Response(200, json={"isValid": False, "invalidReason": word})

    fake.handlers["verify"] = verify
    assert await chain.deposit(deposit) is None


async def test_a_payer_without_money_is_refused_before_anybody_is_asked(
    chain: Facilitator, fake: Fake, node: Node
) -> None:
    poor = Payer()
    with pytest.raises(Refused) as refusal:
        await chain.deposit(promised(poor, poor.deposit(poor.config(node.receiver_authorizer))))
    assert refusal.value.reason is Reason.PAYER_BALANCE
    assert fake.asked == ["one/supported"]


# -- What the provider itself wants --------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "error"),
    [
        ("invalid_batch_settlement_evm_claim_simulation_failed", Reverted),
        ("invalid_batch_settlement_evm_rpc_read_failed", ChainUnavailable),
        ("no", ChainUnavailable),
    ],
)
async def test_a_claim_that_the_contract_will_not_have_is_told_from_our_trouble(
    chain: Facilitator, fake: Fake, node: Node, payer: Payer, word: str, error: type[Exception]
) -> None:
    channel = await funded(node, payer, charged=1000)
    no = {"success": False, "transaction": "", "network": NETWORK, "errorReason": word}
    fake.handlers["settle"] = answer(no)
    with pytest.raises(error):
        await chain.claim(batch_of(node, channel))
    with pytest.raises(error) as declined:
        await chain.refund(channel, 5)
    if isinstance(declined.value, Reverted):
        assert declined.value.has_left, "a facilitator has what we signed, whatever it says"


async def test_a_claim_of_fewer_rows_than_were_asked_does_not_count(
    chain: Facilitator, fake: Fake, node: Node, payer: Payer
) -> None:
    first = await funded(node, payer, charged=1000)
    second = await funded(node, payer, charged=2000)

    async def settle(_: httpx.Request) -> httpx.Response:
        mined = await node.claim(batch_of(node, first))
        told = {"success": True, "transaction": show_bytes(mined.transaction), "network": NETWORK}
        return httpx.Response(200, json=told)

    fake.handlers["settle"] = settle
    with pytest.raises(ChainUnavailable, match="did not do what"):
        await chain.claim(batch_of(node, first, second))


async def test_nothing_to_settle_is_nothing(
    chain: Facilitator, fake: Fake, node: Node, payer: Payer
) -> None:
    channel = await funded(node, payer, charged=1000)
    assert await chain.settle(channel.config.receiver, ASSET.address) is None
    assert fake.asked == ["one/supported"]
    await node.claim(batch_of(node, channel))
    word = "invalid_batch_settlement_evm_nothing_to_settle"
    no = {"success": False, "transaction": "", "network": NETWORK, "errorReason": word}
    fake.handlers["settle"] = answer(no)
    assert await chain.settle(channel.config.receiver, ASSET.address) is None


async def test_claims_of_another_authorizer_are_a_mistake(
    chain: Facilitator, node: Node, payer: Payer
) -> None:
    channel = await funded(node, payer, charged=1000)
    with pytest.raises(ConfigurationError):
        await chain.claim(batch_of(node, channel)._replace(receiver_authorizer=new_address()))


# -- exact ---------------------------------------------------------------------------------------


def authorization(payer: Payer, value: int = 1000) -> Authorization:
    soon = int(time.time()) + 3600
    return Authorization(payer.address, new_address(), value, 0, soon, new_address() + bytes(12))


async def test_a_transfer_counts_when_the_token_shows_it(
    chain: Facilitator, fake: Fake, node: Node, payer: Payer
) -> None:
    payment = exact.sign(payer.key, ASSET, authorization(payer))
    told = payment.authorization

    async def settle(_: httpx.Request) -> httpx.Response:
        mined = await node.transfer_with_authorization(told, payment.signature, ASSET.address)
        assert mined is not None
        news = {"success": True, "transaction": show_bytes(mined.transaction), "network": NETWORK}
        return httpx.Response(200, json=news)

    fake.handlers |= {"verify": good(payer), "settle": settle}
    pay = (told, payment.signature, ASSET.address)
    mined = await chain.transfer_with_authorization(*pay)
    assert mined is not None
    assert await chain.token_balance(ASSET.address, told.to) == 1000
    assert await chain.transfer_with_authorization(*pay) is None
    assert await chain.transferred(told, ASSET.address) == mined
    assert (await chain.authorization(told, ASSET.address))[0] is True


async def test_case_25_a_transfer_that_only_the_facilitator_saw_did_not_happen(
    chain: Facilitator, fake: Fake, payer: Payer
) -> None:
    payment = exact.sign(payer.key, ASSET, authorization(payer))
    lie = {"success": True, "transaction": NOWHERE, "network": NETWORK}
    fake.handlers |= {"verify": good(payer), "settle": answer(lie)}
    with pytest.raises(TransactionPending):
        await chain.transfer_with_authorization(
            payment.authorization, payment.signature, ASSET.address
        )


# -- Over a real socket --------------------------------------------------------------------------


async def test_case_25_a_redirect_is_not_followed_over_the_network_either(devnet: Devnet) -> None:
    hits: list[str] = []

    async def elsewhere(request: Any) -> RedirectResponse:
        hits.append(request.url.path)
        return RedirectResponse("/trap")

    routes = [Route("/supported", elsewhere), Route("/trap", elsewhere)]
    with served(Starlette(routes=routes)) as url:
        chain = Facilitator(url, reads=devnet.url, authorizer_key=KEY)
        with pytest.raises(ChainUnavailable):
            await chain.open()
    assert hits == ["/supported"]


async def test_case_25_one_that_drips_is_not_waited_for(
    devnet: Devnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paywall.chain.facilitator_site.QUICK_SECONDS", 0.3)

    done = asyncio.Event()

    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        with suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.1)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        done.set()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    chain = Facilitator(f"http://127.0.0.1:{port}", reads=devnet.url, authorizer_key=KEY)
    began = time.monotonic()
    with pytest.raises(ChainUnavailable, match="in time"):
        await chain.open()
    assert time.monotonic() - began < 1.5
    await asyncio.wait_for(done.wait(), 5)
    server.close()
    await server.wait_closed()
