"""Our facilitator over HTTP: shapes as recorded, verdicts at their boundaries, and who may ask."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
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
from msgspec import UNSET

from paywall.chain import Mined
from paywall.chain.devnet import Devnet
from paywall.chain.exact import Transfers
from paywall.chain.facilitator_asks import Asks
from paywall.chain.gas import Receipt, parse_key
from paywall.chain.node import Node
from paywall.facilitator import facilitator_app
from paywall.protocol import eip712
from paywall.protocol.channel import ChainState, Channel
from paywall.protocol.eip712 import Authorization
from paywall.protocol.errors import ConfigurationError, Reason, Refused, TransactionPending
from paywall.protocol.limits import MAX_CALLERS
from paywall.protocol.money import USDC, ZERO_ADDRESS
from paywall.protocol.schemes import exact
from paywall.protocol.schemes.batch import (
    config_wire,
    deposit_payload,
    refund_payload,
    sign_voucher,
    voucher_payload,
)
from paywall.protocol.x402 import show_address, show_bytes
from paywall.throttle import Throttle, caller_of

VECTORS = Path(__file__).parent / "vectors"
KEY = "22" * 32
OTHER_KEY = "33" * 32
EVM = "invalid_batch_settlement_evm_"
EXACT = "invalid_exact_evm_"
N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


@pytest.fixture
async def node(devnet: Devnet) -> AsyncIterator[Node]:
    async with node_of(devnet, key=devnet.accounts[4].key, authorizer_key=KEY) as running:
        yield running


@pytest.fixture
async def deaf() -> AsyncIterator[Node]:
    """A node that reaches no chain: whoever asks it gets a 503."""
    running = Node("http://127.0.0.1:9/hidden", KEY, network=NETWORK)
    yield running
    await running.close()


@pytest.fixture
def payer(devnet: Devnet) -> Payer:
    return rich_payer(devnet)


def at(node: Node, client: str = "192.0.2.1", **options: Any) -> httpx.AsyncClient:
    """Somebody who asks the facilitator."""
    options.setdefault("rate", 10_000)
    app = facilitator_app(node, **options)
    return door(app, client)


def door(app: Any, client: str) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=app, client=(client, 1))
    return httpx.AsyncClient(transport=transport, base_url="http://facilitator")


def recorded(sdk: str) -> dict[str, Any]:
    vectors: dict[str, Any] = json.loads((VECTORS / f"facilitator_{sdk}.json").read_text())
    return vectors


def shape(value: Any) -> Any:
    """The names and types of a message, without its values."""
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in value.items()}
    return type(value).__name__


# -- exact ---------------------------------------------------------------------------------------


def authorization(payer: Payer, **changes: Any) -> Authorization:
    fields: dict[str, Any] = {
        "payer": payer.address,
        "to": new_address(),
        "value": 1000,
        "valid_after": 0,
        "valid_before": int(time.time()) + 300,
        "authorization_nonce": new_address() + bytes(12),
    }
    return Authorization(**(fields | changes))


def question(told: Authorization, signature: bytes, **terms: Any) -> dict[str, Any]:
    """The question about an `exact` payment, under terms that may differ from it."""
    body: dict[str, Any] = json.loads(
        Asks(NETWORK, None, ()).transfer(told, signature, ASSET.address)
    )
    body["paymentRequirements"] |= terms
    return body


def paid(payer: Payer, told: Authorization, **terms: Any) -> dict[str, Any]:
    return question(told, exact.sign(payer.key, ASSET, told).signature, **terms)


async def verdict(client: httpx.AsyncClient, body: Any, verb: str = "verify") -> Any:
    answer = await client.post(f"/{verb}", json=body)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    return told.get("invalidReason") or told.get("errorReason")


async def test_an_exact_payment_has_the_recorded_shapes_and_moves_just_its_value(
    devnet: Devnet, node: Node, payer: Payer
) -> None:
    told = authorization(payer)
    async with at(node) as client:
        verified = (await client.post("/verify", json=paid(payer, told))).json()
        settled = (await client.post("/settle", json=paid(payer, told))).json()
        assert await verdict(client, paid(payer, told), "settle") == EXACT + "nonce_already_used"
        assert await verdict(client, paid(payer, told)) == EXACT + "nonce_already_used"
    assert devnet.usdc_balance(show_address(told.to)) == told.value
    assert verified["payer"] == settled["payer"] == show_address(payer.address)
    for sdk in ("py", "ts"):
        vectors = recorded(sdk)
        assert shape(verified) == shape(vectors["verify:exact:ok"]["response"])
        assert shape(settled) == shape(vectors["settle:exact:ok"]["response"])


NOW = 1_800_000_000


@pytest.mark.parametrize(
    ("after", "before", "word"),
    [
        (0, NOW + 6, None),
        (0, NOW + 5, "valid_before"),
        (0, NOW - 1, "valid_before"),
        (0, 2**256 - 1, None),
        (NOW, NOW + 60, None),
        (NOW - 1, NOW + 60, None),
        (NOW + 1, NOW + 60, "valid_after"),
        (2**256 - 1, 2**256 - 1, "valid_after"),
    ],
)
async def test_case_20_times_have_sharp_boundaries(
    deaf: Node, after: int, before: int, word: str | None
) -> None:
    payer = Payer()
    body = paid(payer, authorization(payer, valid_after=after, valid_before=before))
    async with at(deaf, clock=lambda: float(NOW)) as client:
        answer = await client.post("/verify", json=body)
    if word is None:
        assert answer.status_code == 503, "good as far as can be seen without the chain"
    else:
        assert answer.json()["invalidReason"] == f"{EXACT}payload_authorization_{word}"


OTHER = "0x" + "77" * 20


@pytest.mark.parametrize(
    ("terms", "word"),
    [
        ({"payTo": OTHER}, EXACT + "payload_recipient_mismatch"),
        ({"amount": "1001"}, EXACT + "payload_authorization_value_mismatch"),
        ({"amount": "999"}, EXACT + "payload_authorization_value_mismatch"),
        ({"amount": "0"}, "invalid_payment_requirements"),
        ({"amount": "1e3"}, "invalid_payment_requirements"),
        ({"asset": OTHER}, "invalid_payment_requirements"),
        ({"asset": "USDC"}, "invalid_payment_requirements"),
        ({"network": "eip155:8453"}, "invalid_network"),
        ({"network": "eip155:1"}, "invalid_network"),
        ({"scheme": "upto"}, "unsupported_scheme"),
        ({"scheme": "batch-settlement"}, "unsupported_scheme"),
        ({"extra": {}}, "invalid_payment_requirements"),
        ({"extra": {"name": "USD Coin", "version": "2"}}, EXACT + "token_name_mismatch"),
        ({"extra": {"name": "USDC", "version": "1"}}, EXACT + "token_version_mismatch"),
        (
            {"extra": {"name": "USDC", "version": "2", "assetTransferMethod": "permit2"}},
            "invalid_payment_requirements",
        ),
    ],
)
async def test_case_19_other_terms_are_refused_before_the_chain_is_asked(
    deaf: Node, terms: dict[str, Any], word: str
) -> None:
    """Case 19."""
    payer = Payer()
    body = paid(payer, authorization(payer), **terms)
    async with at(deaf) as client:
        assert await verdict(client, body) == word
        assert await verdict(client, body, "settle") == word


def high_s(signature: bytes) -> bytes:
    s = N - int.from_bytes(signature[32:64], "big")
    return signature[:32] + s.to_bytes(32, "big") + bytes([55 - signature[64]])


BROKEN = {
    "empty": lambda s: b"",
    "64 bytes": lambda s: s[:64],
    "66 bytes": lambda s: s + b"\0",
    "compact": lambda s: s[:32] + bytes([s[32] | (s[64] - 27) << 7]) + s[33:64],
    "r of 0": lambda s: bytes(32) + s[32:],
    "s of 0": lambda s: s[:32] + bytes(32) + s[64:],
    "r of n": lambda s: N.to_bytes(32, "big") + s[32:],
    "s of n": lambda s: s[:32] + N.to_bytes(32, "big") + s[64:],
    "v of 29": lambda s: s[:64] + bytes([29]),
    "v of 0 or 1": lambda s: s[:64] + bytes([s[64] - 27]),
    "high s": high_s,
    "other v": lambda s: s[:64] + bytes([55 - s[64]]),
    "somebody else's": lambda s: s[:1] + bytes([s[1] ^ 1]) + s[2:],
}


@pytest.mark.parametrize("how", BROKEN)
async def test_case_21_broken_signatures_are_refused(deaf: Node, how: str) -> None:
    """Cases 18 and 21: the token would refuse them too, or take them for the same claim."""
    payer = Payer()
    told = authorization(payer)
    signature = BROKEN[how](exact.sign(payer.key, ASSET, told).signature)
    async with at(deaf) as client:
        assert await verdict(client, question(told, signature)) == EXACT + "payload_signature"


async def test_case_21_a_zero_payer_and_another_domains_signature_are_refused(deaf: Node) -> None:
    payer = Payer()
    nobody = replace(authorization(payer), payer=ZERO_ADDRESS)
    elsewhere = exact.sign(payer.key, USDC.base, authorization(payer))
    async with at(deaf) as client:
        for body in (
            paid(payer, nobody),
            question(elsewhere.authorization, elsewhere.signature),
        ):
            assert await verdict(client, body) == EXACT + "payload_signature"


async def test_case_17_case_18_one_authorization_fifty_times_in_all_spellings_pays_once(
    devnet: Devnet, node: Node, payer: Payer
) -> None:
    """Cases 17 and 18."""
    told = authorization(payer)
    plain = paid(payer, told)
    upper = json.loads(json.dumps(plain))
    inner = upper["paymentPayload"]["payload"]
    inner["signature"] = "0x" + inner["signature"][2:].upper()
    for name in ("from", "to", "nonce"):
        text = inner["authorization"][name]
        inner["authorization"][name] = "0X" + text[2:].upper()
    inner["authorization"] = dict(reversed(inner["authorization"].items()))
    async with at(node) as client:
        answers = await asyncio.gather(
            *(client.post("/settle", json=body) for body in [plain, upper] * 25)
        )
    assert sum(answer.json()["success"] for answer in answers) == 1
    assert {a.json().get("errorReason") for a in answers} == {None, EXACT + "nonce_already_used"}
    assert devnet.usdc_balance(show_address(told.to)) == told.value


async def test_case_22_money_that_left_after_verification_is_not_counted(
    devnet: Devnet, node: Node, payer: Payer
) -> None:
    """Case 22."""
    balance = devnet.usdc_balance(show_address(payer.address))
    first, second = authorization(payer, value=balance), authorization(payer, value=1)
    async with at(node) as client:
        assert await verdict(client, paid(payer, first)) is None
        assert await verdict(client, paid(payer, second), "settle") is None
        assert await verdict(client, paid(payer, first), "settle") == EXACT + "insufficient_balance"
        assert await verdict(client, paid(payer, first)) == EXACT + "insufficient_balance"


async def test_case_23_a_token_that_shows_no_transfer_was_not_paid_with(
    node: Node, payer: Payer
) -> None:
    """Case 23: the transaction succeeds, and the token says nothing."""
    told = authorization(payer)

    class Silent:
        async def authorization(self, *_: object) -> tuple[bool, int]:
            return False, 10**9

        async def send(self, _: object) -> Receipt:
            return Receipt(bytes(32), 1, True, 1, 1, ())

    transfers = Transfers(Silent(), node._alone)  # type: ignore[arg-type]
    with pytest.raises(Refused) as refusal:
        await transfers.make(ASSET.address, told, bytes(65))
    assert refusal.value.reason is Reason.EXACT_NO_TRANSFER


async def test_case_24_what_was_sent_and_not_seen_is_pending_and_then_paid_once(
    devnet: Devnet, node: Node, payer: Payer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Case 24: asked again, it is found; its authorization may have expired meanwhile."""
    told = authorization(payer)
    really, now = node.transfer_with_authorization, [time.time()]
    calls: list[bytes] = []

    async def slowly(*arguments: Any) -> Mined | None:
        mined = await really(*arguments)
        if not calls:
            assert mined is not None
            calls.append(mined.transaction)
            raise TransactionPending("sent, and not mined in time", mined.transaction)
        return mined

    monkeypatch.setattr(node, "transfer_with_authorization", slowly)
    async with at(node, clock=lambda: now[0]) as client:
        pending = (await client.post("/settle", json=paid(payer, told))).json()
        assert (pending["success"], pending["errorReason"]) == (False, "settlement_pending")
        assert pending["transaction"] == show_bytes(calls[0])
        now[0] = told.valid_before + 100
        paid_now = (await client.post("/settle", json=paid(payer, told))).json()
        assert (paid_now["success"], paid_now["transaction"]) == (True, pending["transaction"])
        assert await verdict(client, paid(payer, told), "settle") is not None
    assert devnet.usdc_balance(show_address(told.to)) == told.value


@pytest.mark.parametrize(
    "payload",
    [{}, [], None, "0x", {"signature": "0x"}, {"signature": 5, "authorization": {}}],
)
async def test_malformed_exact_payloads_are_refused(deaf: Node, payload: Any) -> None:
    payer = Payer()
    body = paid(payer, authorization(payer))
    body["paymentPayload"]["payload"] = payload
    async with at(deaf) as client:
        assert await verdict(client, body) == "invalid_payload"


# -- batch-settlement ----------------------------------------------------------------------------


def about(channel: Channel, payload: Any) -> dict[str, Any]:
    """The question about a payload of a channel, under the channel's own terms."""
    terms = Asks(NETWORK, None, ())._channel_terms(channel.config, 1000)
    told = {
        "scheme": terms.scheme,
        "network": terms.network,
        "asset": terms.asset,
        "amount": terms.amount,
        "payTo": terms.pay_to,
        "maxTimeoutSeconds": 300,
        "extra": json.loads(bytes(terms.extra)),
    }
    paid = {"x402Version": 2, "accepted": told, "payload": json.loads(bytes(payload))}
    return {"x402Version": 2, "paymentPayload": paid, "paymentRequirements": told}


def voucher(payer: Payer, channel: Channel, amount: int) -> Any:
    signed = sign_voucher(payer.key, DOMAIN, channel.channel_id, amount)
    return voucher_payload(config_wire(channel.config), channel.channel_id, signed)


def refund(payer: Payer, channel: Channel, amount: int) -> Any:
    signed = sign_voucher(payer.key, DOMAIN, channel.channel_id, amount)
    return refund_payload(config_wire(channel.config), channel.channel_id, signed, None)


def deposit(payer: Payer, channel: Channel, amount: int, promised: int) -> Any:
    signed = sign_voucher(payer.key, DOMAIN, channel.channel_id, promised)
    told = payer.deposit(channel.config, amount)
    return deposit_payload(config_wire(channel.config), signed, told)


@pytest.mark.parametrize(
    ("make", "amount", "word"),
    [
        (voucher, 3000, "cumulative_below_claimed"),
        (voucher, 2999, "cumulative_below_claimed"),
        (voucher, 3001, None),
        (voucher, 10_000, None),
        (voucher, 10_001, "cumulative_exceeds_balance"),
        (refund, 3000, None),
        (refund, 2999, "cumulative_below_claimed"),
        (refund, 10_001, "cumulative_exceeds_balance"),
        (lambda p, c, n: deposit(p, c, 500, n), 10_500, None),
        (lambda p, c, n: deposit(p, c, 500, n), 10_501, "cumulative_exceeds_balance"),
        (lambda p, c, n: deposit(p, c, 500, n), 3000, "cumulative_below_claimed"),
        (lambda p, c, n: deposit(p, c, n, 4000), 10**9, "insufficient_balance"),
    ],
)
async def test_totals_have_sharp_boundaries(
    node: Node, payer: Payer, make: Any, amount: int, word: str | None
) -> None:
    """Balance 10,000, of which 3,000 are claimed."""
    channel = await funded(node, payer, charged=3000, deposit=10_000)
    await node.claim(batch_of(node, channel))
    async with at(node) as client:
        answer = await client.post("/verify", json=about(channel, make(payer, channel, amount)))
    told = answer.json()
    assert told.get("invalidReason") == (word and EVM + word)
    assert told["payer"] == show_address(payer.address)
    if word is None:
        state = {"balance": "10000", "totalClaimed": "3000", "refundNonce": "0"}
        state |= {"channelId": show_bytes(channel.channel_id), "withdrawRequestedAt": 0}
        assert told["extra"] == state


async def test_a_deposit_has_the_recorded_shapes_and_fills_the_channel_once(
    node: Node, payer: Payer
) -> None:
    config = payer.config(node.receiver_authorizer)
    empty = Channel(config.channel_id(NETWORK), NETWORK, config, await node.channel(bytes(32)))
    body = about(empty, deposit(payer, empty, 10_000, 1000))
    async with at(node) as client:
        assert await verdict(client, about(empty, voucher(payer, empty, 1))) == (
            EVM + "channel_not_found"
        )
        verified = (await client.post("/verify", json=body)).json()
        settled = (await client.post("/settle", json=body)).json()
        again = await verdict(client, body, "settle")
    assert again == EVM + "deposit_simulation_failed"
    assert settled["extra"]["channelState"]["balance"] == settled["amount"] == "10000"
    assert (await node.channel(empty.channel_id)).balance == 10_000
    for sdk in ("py", "ts"):
        vectors = recorded(sdk)
        assert shape(verified) == shape(vectors["verify:deposit:ok"]["response"])
        assert shape(settled) == shape(vectors["settle:deposit:ok"]["response"])


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"payTo": OTHER}, "receiver_mismatch"),
        ({"extra.receiverAuthorizer": OTHER}, "receiver_authorizer_mismatch"),
        ({"extra.receiverAuthorizer": "nobody"}, "receiver_authorizer_mismatch"),
        ({"extra.withdrawDelay": 901}, "withdraw_delay_mismatch"),
        ({"extra.withdrawDelay": 899}, "withdraw_delay_out_of_range"),
        ({"extra.withdrawDelay": 2_592_001}, "withdraw_delay_out_of_range"),
    ],
)
async def test_terms_that_the_channel_does_not_have_are_refused_before_the_chain_is_asked(
    deaf: Node, change: dict[str, Any], word: str
) -> None:
    payer = Payer()
    config = payer.config(new_address())
    channel = Channel(config.channel_id(NETWORK), NETWORK, config, UNSET)  # type: ignore[arg-type]
    body = about(channel, voucher(payer, channel, 1000))
    for path, value in change.items():
        target, _, name = path.rpartition(".")
        terms = body["paymentRequirements"]
        (terms[target] if target else terms)[name] = value
    async with at(deaf) as client:
        assert await verdict(client, body) == EVM + word


async def test_a_claim_with_the_servers_signature_is_carried_for_anybody(
    devnet: Devnet, node: Node, payer: Payer
) -> None:
    asks = Asks(NETWORK, parse_key(OTHER_KEY, "authorizer"), ())
    theirs = eip712.address_of(parse_key(OTHER_KEY, "authorizer"))
    config = payer.config(theirs)
    await node.deposit(payer.deposit(config, 10_000))
    channel = payer.channel(config, await node.channel(config.channel_id(NETWORK)), 3000)
    async with at(node) as client:
        claim = asks.claim(batch_of(node, channel))
        claimed = (await client.post("/settle", content=claim)).json()
        assert claimed == {
            "success": True,
            "transaction": claimed["transaction"],
            "network": NETWORK,
            "amount": "",
        }
        settle = asks.settle(config.receiver, ASSET.address)
        settled = (await client.post("/settle", content=settle)).json()
        assert settled["amount"] == "3000"
        nothing = (await client.post("/settle", content=settle)).json()
        assert nothing["errorReason"] == EVM + "nothing_to_settle"

        state = await node.channel(channel.channel_id)
        later = payer.channel(config, state, 5000)
        refunded = (await client.post("/settle", content=asks.refund(later, 4000))).json()
        assert (refunded["success"], refunded["amount"]) == (True, "4000")
        stale = (await client.post("/settle", content=asks.refund(later, 1000))).json()
        assert stale["errorReason"] == EVM + "refund_simulation_failed"
    after = await node.channel(channel.channel_id)
    assert (after.balance, after.claimed, after.refund_nonce) == (6000, 5000, 1)
    assert devnet.usdc_balance(show_address(config.receiver)) == 3000
    for sdk in ("py", "ts"):
        assert shape(refunded) == shape(recorded(sdk)["settle:refund:ok"]["response"])
    assert shape(settled) == shape(recorded("py")["settle:settle:ok"]["response"])


async def test_nobodys_refund_is_signed_by_us_unless_the_callers_are_known(
    node: Node, payer: Payer
) -> None:
    """Otherwise a payer could take back what a receiver has not claimed yet."""
    channel = await funded(node, payer, charged=3000, deposit=10_000)
    asks = Asks(NETWORK, None, ())
    claim, back = asks.claim(batch_of(node, channel)), asks.refund(channel, 7000)
    async with at(node) as client:
        for body in (claim, back):
            told = (await client.post("/settle", content=body)).json()
            assert told["errorReason"] == EVM + "authorizer_not_configured"
    async with at(node, api_keys=["k"]) as client:
        assert (await client.post("/settle", content=back)).status_code == 401
        client.headers["X-API-Key"] = "k"
        told = (await client.post("/settle", content=back)).json()
        assert (told["success"], told["amount"]) == (True, "7000")
    after = await node.channel(channel.channel_id)
    assert (after.balance, after.claimed) == (3000, 3000)


async def test_we_sign_for_channels_that_name_us_only(node: Node, payer: Payer) -> None:
    config = payer.config(new_address())
    await node.deposit(payer.deposit(config, 10_000))
    channel = payer.channel(config, await node.channel(config.channel_id(NETWORK)), 3000)
    asks = Asks(NETWORK, None, ())
    async with at(node, delegate=True) as client:
        for body in (asks.claim(batch_of(node, channel)), asks.refund(channel, 10)):
            told = (await client.post("/settle", content=body)).json()
            assert told["errorReason"] == EVM + "authorizer_address_mismatch"


@pytest.mark.parametrize("rows", [0, 101])
async def test_a_claim_has_one_to_a_hundred_rows(deaf: Node, rows: int) -> None:
    payer = Payer()
    config = payer.config(new_address())
    channel = payer.channel(config, ChainState(10_000, 0, 0, 0, 0, 0, 0), 3000)
    body = json.loads(Asks(NETWORK, None, ()).claim(batch_of(deaf, channel)))
    payload = body["paymentPayload"]["payload"]
    payload["claims"] = payload["claims"] * rows
    async with at(deaf) as client:
        assert await verdict(client, body, "settle") == EVM + "claim_payload"


async def test_what_no_contract_would_take_is_told_by_its_simulation(
    node: Node, payer: Payer
) -> None:
    channel = await funded(node, payer, charged=3000, deposit=10_000)
    forged = payer.channel(channel.config, channel.chain, 3000)
    body = json.loads(Asks(NETWORK, parse_key(OTHER_KEY, "x"), ()).claim(batch_of(node, forged)))
    async with at(node) as client:
        assert await verdict(client, body, "settle") == EVM + "claim_simulation_failed"
        body["paymentPayload"]["payload"] = {"type": "voucher"}
        assert await verdict(client, body, "settle") == EVM + "payload_type"
        body["paymentPayload"]["payload"] = {"type": "settle", "receiver": "x", "token": "y"}
        assert await verdict(client, body, "settle") == EVM + "settle_payload"
    assert (await node.channel(channel.channel_id)).claimed == 0


RECORDED_REFUSALS = {
    "verify:exact:fail:invalid_exact_evm_signature": EXACT + "payload_signature",
    "verify:exact:fail:invalid_exact_evm_payload_authorization_value_mismatch": None,
    "verify:exact:fail:invalid_exact_evm_payload_authorization_valid_before": None,
    "verify:exact:fail:invalid_exact_evm_payload_authorization_valid_after": None,
    "verify:exact:fail:invalid_exact_evm_transaction_simulation_failed": (
        EXACT + "payload_signature"  # v of 0 or 1: seen before it is simulated
    ),
    "verify:foo:fail:invalid_batch_settlement_evm_payload_type": None,
    "verify:voucher:fail:invalid_batch_settlement_evm_channel_not_found": None,
    "verify:deposit:fail:invalid_batch_settlement_evm_receiver_authorizer_mismatch": None,
}


@pytest.mark.parametrize("name", RECORDED_REFUSALS)
async def test_what_the_official_facilitator_refused_we_refuse_by_the_same_word(
    node: Node, name: str
) -> None:
    vector = recorded("ts")[name]
    their = vector["response"]
    told = vector["request"]["paymentPayload"]["payload"].get("authorization", {})
    recorded_at = 1_795_354_408.0 if "validBefore" in told else time.time()
    async with at(node, clock=lambda: recorded_at) as client:
        answer = (await client.post("/verify", json=vector["request"])).json()
    assert answer["isValid"] is False
    assert answer["invalidReason"] == (RECORDED_REFUSALS[name] or their["invalidReason"])
    if "payer" in their:
        assert answer["payer"].lower() == their["payer"].lower()


# -- Who may ask, and how ------------------------------------------------------------------------


async def test_supported_names_kinds_signers_and_whom_we_sign_as(node: Node) -> None:
    async with at(node) as client:
        plain = (await client.get("/supported")).json()
    async with at(node, delegate=True) as client:
        signing = (await client.get("/supported")).json()
    exact_kind = {"x402Version": 2, "scheme": "exact", "network": NETWORK}
    batch_kind = {"x402Version": 2, "scheme": "batch-settlement", "network": NETWORK}
    assert plain == {
        "kinds": [batch_kind, exact_kind],
        "extensions": [],
        "signers": {"eip155:*": [show_address(node.gas_wallet)]},
    }
    extra = {"receiverAuthorizer": show_address(node.receiver_authorizer)}
    assert signing["kinds"] == [batch_kind | {"extra": extra}, exact_kind]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "Bearer "}, 401),
        ({"Authorization": "Basic right"}, 401),
        ({"X-API-Key": "righ"}, 401),
        ({"Authorization": "Bearer right"}, 503),
        ({"Authorization": "bearer other"}, 503),
        ({"X-API-Key": "right"}, 503),
    ],
)
async def test_an_api_key_is_needed_where_one_is_set(
    deaf: Node, headers: dict[str, str], status: int
) -> None:
    payer = Payer()
    body = paid(payer, authorization(payer))
    async with at(deaf, api_keys=["right", "other"]) as client:
        for verb in ("verify", "settle"):
            answer = await client.post(f"/{verb}", json=body, headers=headers)
            assert answer.status_code == status
            assert answer.json()[{"verify": "isValid", "settle": "success"}[verb]] is False
        assert (await client.get("/supported")).status_code == 200
    assert "right" not in answer.text


def test_an_empty_key_is_no_key(deaf: Node) -> None:
    with pytest.raises(ConfigurationError):
        facilitator_app(deaf, api_keys=["good", ""])


async def test_callers_are_slowed_down_each_for_itself(deaf: Node) -> None:
    app = facilitator_app(deaf, api_keys=["k"], rate=0.01, burst=2)
    body = {"anything": True}
    async with door(app, "192.0.2.1") as client, door(app, "192.0.2.2") as other:
        answers = [await client.post("/verify", json=body) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [401, 401, 429]
        assert 90 <= int(answers[-1].headers["Retry-After"]) <= 100
        assert answers[-1].json()["isValid"] is False
        assert (await client.get("/supported")).status_code == 429
        assert (await other.post("/settle", json=body)).status_code == 401
        keyed = await client.post("/settle", json=body, headers={"X-API-Key": "k"})
        assert keyed.status_code == 400, "whoever has a key is counted by it"


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"<html>", 400),
        (b"[]", 400),
        (b"{}", 400),
        (b'{"paymentPayload": {}, "paymentRequirements": {}}', 400),
        (b"[" * 100_000, 400),
        (b'{"a":' * 5_000, 400),
        (b" " * (256 * 1024 + 1), 413),
    ],
    ids=["empty", "html", "list", "nothing", "no fields", "deep", "deep objects", "too large"],
)
async def test_what_cannot_be_read_is_the_askers_fault(
    deaf: Node, content: bytes, status: int
) -> None:
    async with at(deaf) as client:
        verify = await client.post("/verify", content=content)
        settle = await client.post("/settle", content=content)
    assert (verify.status_code, settle.status_code) == (status, status)
    assert verify.json()["invalidReason"] == settle.json()["errorReason"] == "invalid_payload"
    assert (settle.json()["transaction"], settle.json()["network"]) == ("", NETWORK)


async def test_version_1_is_not_spoken(deaf: Node) -> None:
    body = recorded("ts")["verify:exact:fail:No facilitator registered for x402 version: 1"]
    async with at(deaf) as client:
        assert await verdict(client, body["request"]) == "invalid_x402_version"


async def test_our_own_trouble_is_a_503_that_blames_nobody_and_shows_nothing(deaf: Node) -> None:
    payer = Payer()
    body = paid(payer, authorization(payer))
    async with at(deaf) as client:
        verify = await client.post("/verify", json=body)
        settle = await client.post("/settle", json=body)
    assert verify.status_code == settle.status_code == 503
    assert verify.headers["Retry-After"] == "2"
    assert verify.json()["invalidReason"] == "unexpected_verify_error"
    assert settle.json()["errorReason"] == "unexpected_settle_error"
    assert "hidden" not in verify.text + settle.text


# -- The throttle --------------------------------------------------------------------------------


def test_a_bucket_fills_again_up_to_its_burst() -> None:
    now = [0.0]
    throttle = Throttle(2, 3, lambda: now[0])
    assert [throttle.wait_seconds("a") for _ in range(4)] == [0, 0, 0, 0.5]
    now[0] = 0.5
    assert [throttle.wait_seconds("a") for _ in range(2)] == [0, 0.5]
    now[0] = 1000.0
    assert [throttle.wait_seconds("a") for _ in range(4)] == [0, 0, 0, 0.5]
    now[0] = 900.0  # a clock that steps back takes nothing away and gives nothing
    assert throttle.wait_seconds("a") == 0.5


def test_the_memory_of_callers_is_bounded() -> None:
    throttle = Throttle(1, 1, lambda: 0.0)
    for number in range(MAX_CALLERS + 500):
        assert throttle.wait_seconds(str(number)) == 0
    assert len(throttle._buckets) == MAX_CALLERS
    assert throttle.wait_seconds(str(MAX_CALLERS + 499)) > 0


def test_an_ipv6_network_is_one_caller() -> None:
    assert caller_of("2001:db8::1") == caller_of("2001:db8::ffff:1")
    assert caller_of("2001:db8:0:1::1") != caller_of("2001:db8::1")
    assert caller_of("192.0.2.1") != caller_of("192.0.2.2")
    assert caller_of("") == ""
