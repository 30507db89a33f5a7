"""Calldata and logs agree with web3's own encoder over the contracts' interfaces."""

from contextlib import suppress
from typing import Any

import pytest
from eth_abi import abi
from hypothesis import given
from hypothesis import strategies as st
from kit import CONFIG_FIELDS, USDC, Kit
from msgspec.structs import astuple
from web3 import Web3

from paywall.chain import contract, events
from paywall.chain.contract import (
    COLLECTOR_ADDRESS,
    MULTICALL3_ADDRESS,
    SETTLEMENT_ADDRESS,
    BadAnswer,
    CallResult,
    ClaimRow,
    Event,
    decode_log,
    decode_revert,
    topic_of,
)
from paywall.chain.contracts import artifact
from paywall.protocol.channel import ChannelConfig
from paywall.protocol.money import Address

addresses = st.binary(min_size=20, max_size=20).map(Address)
words = st.binary(min_size=32, max_size=32)
uint128 = st.integers(0, 2**128 - 1)
uint256 = st.integers(0, 2**256 - 1)
configs = st.builds(
    ChannelConfig,
    payer=addresses,
    payer_authorizer=addresses,
    receiver=addresses,
    receiver_authorizer=addresses,
    token=addresses,
    withdraw_delay_seconds=st.integers(0, 2**40 - 1),
    salt=words,
)
rows = st.builds(ClaimRow, configs, uint128, st.binary(max_size=100), uint128)

WEB3 = Web3()


def by_web3(name: str, function: str, *arguments: Any) -> bytes:
    interface = WEB3.eth.contract(abi=artifact(name).abi)
    return bytes.fromhex(interface.encode_abi(function, arguments)[2:])


def settlement(function: str, *arguments: Any) -> bytes:
    return by_web3("BatchSettlement", function, *arguments)


def row_tuple(row: ClaimRow) -> tuple[Any, ...]:
    return ((astuple(row.config), row.amount), row.signature, row.claimed)


# -- Calls ----------------------------------------------------------------------------------------


@given(configs, uint128, addresses, st.binary(max_size=300))
def test_a_deposit_is_encoded_as_web3_does(
    config: ChannelConfig, amount: int, collector: Address, data: bytes
) -> None:
    ours = contract.encode_deposit(config, amount, collector, data)
    assert ours == settlement("deposit", astuple(config), amount, collector, data)


@given(st.lists(rows, max_size=4), st.binary(max_size=100))
def test_claims_are_encoded_as_web3_does(claims: list[ClaimRow], signature: bytes) -> None:
    tuples = [row_tuple(row) for row in claims]
    assert contract.encode_claim(claims) == settlement("claim", tuples)
    ours = contract.encode_claim_with_signature(claims, signature)
    assert ours == settlement("claimWithSignature", tuples, signature)


@given(configs, uint128, uint256, st.binary(max_size=100))
def test_refunds_and_withdrawals_are_encoded_as_web3_does(
    config: ChannelConfig, amount: int, refund_nonce: int, signature: bytes
) -> None:
    told = astuple(config)
    assert contract.encode_refund(config, amount) == settlement("refund", told, amount)
    ours = contract.encode_refund_with_signature(config, amount, refund_nonce, signature)
    assert ours == settlement("refundWithSignature", told, amount, refund_nonce, signature)
    ours = contract.encode_initiate_withdraw(config, amount)
    assert ours == settlement("initiateWithdraw", told, amount)
    assert contract.encode_finalize_withdraw(config) == settlement("finalizeWithdraw", told)


@given(addresses, addresses, st.lists(st.binary(max_size=80), max_size=4))
def test_settling_and_multicalls_are_encoded_as_web3_does(
    receiver: Address, token: Address, calls: list[bytes]
) -> None:
    assert contract.encode_settle(receiver, token) == settlement("settle", receiver, token)
    assert contract.encode_multicall(calls) == settlement("multicall", calls)


@given(words, addresses, addresses)
def test_reads_are_encoded_as_web3_does(channel_id: bytes, one: Address, two: Address) -> None:
    assert contract.encode_channels(channel_id) == settlement("channels", channel_id)
    ours = contract.encode_pending_withdrawals(channel_id)
    assert ours == settlement("pendingWithdrawals", channel_id)
    assert contract.encode_refund_nonce(channel_id) == settlement("refundNonce", channel_id)
    assert contract.encode_receivers(one, two) == settlement("receivers", one, two)
    assert contract.encode_balance_of(one) == by_web3("Usdc", "balanceOf", one)
    ours = contract.encode_authorization_state(one, channel_id)
    assert ours == by_web3("Usdc", "authorizationState", one, channel_id)


@given(st.tuples(addresses, addresses, uint256, uint256, uint256, words, st.binary(max_size=100)))
def test_a_transfer_by_signature_is_encoded_as_the_form_with_bytes(values: Any) -> None:
    interface = WEB3.eth.contract(abi=artifact("Usdc").abi)
    name = "transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,bytes)"
    expected = interface.encode_abi(name, values)
    assert contract.encode_transfer_with_authorization(*values) == bytes.fromhex(expected[2:])


@given(uint256, uint256, uint256, st.binary(max_size=100))
def test_collector_data_is_four_values(
    after: int, before: int, salt: int, signature: bytes
) -> None:
    types = ("uint256", "uint256", "uint256", "bytes")
    data = contract.erc3009_collector_data(after, before, salt, signature)
    assert abi.decode(types, data) == (after, before, salt, signature)


@given(st.lists(st.tuples(addresses, st.binary(max_size=80)), max_size=4), st.booleans())
def test_aggregates_are_encoded_as_web3_does(
    calls: list[tuple[Address, bytes]], allow_failure: bool
) -> None:
    ours = contract.encode_aggregate3(calls, allow_failure=allow_failure)
    tuples = [(target, allow_failure, data) for target, data in calls]
    assert ours == by_web3("Multicall3", "aggregate3", tuples)


# -- Results --------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=80)), max_size=4))
def test_aggregates_are_read_back(results: list[tuple[bool, bytes]]) -> None:
    encoded = abi.encode(("(bool,bytes)[]",), (results,))
    assert contract.decode_aggregate3(encoded) == tuple(CallResult(*r) for r in results)


def test_results_are_read_back() -> None:
    two = abi.encode(("uint128", "uint128"), (7, 5))
    assert contract.decode_channels(two) == (7, 5)
    assert contract.decode_channels(two).claimed == 5
    assert contract.decode_receivers(two).settled == 5
    assert contract.decode_pending_withdrawals(two).requested_at == 5
    one = abi.encode(("uint256",), (1,))
    assert contract.decode_refund_nonce(one) == 1
    assert contract.decode_balance_of(one) == 1
    assert contract.decode_authorization_state(one) is True


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        bytes(31),
        b"\xff" * 64,
        b"\xff" * 4096,
    ],
)
def test_nonsense_is_a_bad_answer(bad: bytes) -> None:
    for decode in (
        contract.decode_channels,
        contract.decode_pending_withdrawals,
        contract.decode_receivers,
        contract.decode_aggregate3,
    ):
        with pytest.raises(BadAnswer):
            decode(bad)


@given(st.binary(max_size=400))
def test_no_answer_breaks_a_reader(answer: bytes) -> None:
    for decode in (
        contract.decode_channels,
        contract.decode_aggregate3,
        contract.decode_authorization_state,
    ):
        with suppress(BadAnswer):
            decode(answer)


# -- Logs -----------------------------------------------------------------------------------------

SETTLEMENT_EVENTS = (
    events.ChannelCreated,
    events.ChannelClosed,
    events.Deposited,
    events.Claimed,
    events.Settled,
    events.Refunded,
    events.WithdrawInitiated,
    events.WithdrawFinalized,
)
TOKEN_EVENTS = (events.Transfer, events.AuthorizationUsed)


def log_of(name: str, event: type[Event], values: list[Any]) -> tuple[list[bytes], bytes]:
    """A log with these values, laid out by the contract's interface."""
    (entry,) = (e for e in artifact(name).abi if e.get("name") == event.__name__)
    topics, types, data = [topic_of(event)], [], []
    for field, value in zip(entry["inputs"], values, strict=True):
        kind = field["type"]
        if kind == "tuple":
            kind = f"({','.join(t for _, t in CONFIG_FIELDS)})"
            value = astuple(value)
        if field["indexed"]:
            topics.append(abi.encode((kind,), (value,)))
        else:
            types.append(kind)
            data.append(value)
    return topics, abi.encode(types, data)


def value_of(kind: str, data: st.DataObject) -> Any:
    strategy = {
        "tuple": configs,
        "address": addresses,
        "bytes32": words,
        "uint128": uint128,
        "uint256": uint256,
        "uint40": st.integers(0, 2**40 - 1),
    }[kind]
    return data.draw(strategy)


@pytest.mark.parametrize("event", SETTLEMENT_EVENTS)
@given(data=st.data())
def test_every_event_of_the_settlement_contract_is_read_back(
    event: type[Event], data: st.DataObject
) -> None:
    (entry,) = (e for e in artifact("BatchSettlement").abi if e.get("name") == event.__name__)
    values = [value_of(field["type"], data) for field in entry["inputs"]]
    topics, body = log_of("BatchSettlement", event, values)
    assert decode_log(SETTLEMENT_ADDRESS, topics, body) == event(*values)


@pytest.mark.parametrize("event", TOKEN_EVENTS)
@given(data=st.data(), token=addresses)
def test_every_event_of_a_token_is_read_back_with_its_token(
    event: type[Event], data: st.DataObject, token: Address
) -> None:
    (entry,) = (e for e in artifact("Usdc").abi if e.get("name") == event.__name__)
    values = [value_of(field["type"], data) for field in entry["inputs"]]
    topics, body = log_of("Usdc", event, values)
    assert decode_log(token, topics, body) == event(token, *values)


def test_only_the_settlement_contract_tells_of_channels() -> None:
    values = [bytes(32), Address(bytes(20)), 1, 1]
    topics, body = log_of("BatchSettlement", events.Deposited, values)
    assert decode_log(Address(USDC), topics, body) is None
    assert decode_log(SETTLEMENT_ADDRESS, topics, body) is not None


def test_what_does_not_fit_is_no_event() -> None:
    values = [bytes(32), Address(bytes(20)), 1, 1]
    topics, body = log_of("BatchSettlement", events.Deposited, values)
    assert decode_log(SETTLEMENT_ADDRESS, [], body) is None
    assert decode_log(SETTLEMENT_ADDRESS, topics[:2], body) is None
    assert decode_log(SETTLEMENT_ADDRESS, [*topics, bytes(32)], body) is None
    assert decode_log(SETTLEMENT_ADDRESS, topics, body[:40]) is None
    assert decode_log(SETTLEMENT_ADDRESS, topics, b"\xff" * 64) is None
    assert decode_log(SETTLEMENT_ADDRESS, [bytes(32), *topics[1:]], body) is None
    assert decode_log(SETTLEMENT_ADDRESS, [topics[0], b"\xff" * 32, b"\xff" * 32], body) is None
    assert decode_log(SETTLEMENT_ADDRESS, [topics[0], b"short", topics[2]], body) is None


@given(st.lists(words, max_size=5), st.binary(max_size=300))
def test_no_log_breaks_the_reader(topics: list[bytes], data: bytes) -> None:
    for event in (*SETTLEMENT_EVENTS, *TOKEN_EVENTS):
        decode_log(SETTLEMENT_ADDRESS, [topic_of(event), *topics], data)
        decode_log(Address(USDC), [topic_of(event), *topics], data)


# -- Refusals -------------------------------------------------------------------------------------


def test_words_and_names_of_reverts_are_read() -> None:
    error = bytes.fromhex("08c379a0") + abi.encode(("string",), ("no money",))
    assert decode_revert(error) == "no money"
    assert decode_revert(Web3.keccak(text="InvalidSignature()")[:4]) == "InvalidSignature"
    overflow = Web3.keccak(text="ECDSAInvalidSignatureS(bytes32)")[:4] + bytes(32)
    assert decode_revert(overflow) == "ECDSAInvalidSignatureS"
    assert decode_revert(b"") is None
    assert decode_revert(b"\1\2\3\4") is None
    assert decode_revert(bytes.fromhex("08c379a0") + b"\xff" * 40) is None


@pytest.mark.parametrize("name", ["BatchSettlement", "Erc3009DepositCollector"])
def test_every_error_of_the_contracts_has_a_name(name: str) -> None:
    for entry in artifact(name).abi:
        if entry["type"] == "error":
            types = ",".join(i["type"] for i in entry["inputs"])
            selector = Web3.keccak(text=f"{entry['name']}({types})")[:4]
            assert decode_revert(selector) == entry["name"]


# -- On the chain ---------------------------------------------------------------------------------


def test_an_aggregate_reads_a_channel_in_one_round_trip(kit: Kit) -> None:
    config = kit.config()
    kit.deposit(config, 1000)
    channel_id = kit.channel_id(config)
    calls = [
        (SETTLEMENT_ADDRESS, contract.encode_channels(channel_id)),
        (SETTLEMENT_ADDRESS, contract.encode_refund_nonce(channel_id)),
        (COLLECTOR_ADDRESS, b"\0\0\0\0"),
        (Address(USDC), contract.encode_balance_of(Address(kit.payer.raw))),
    ]
    answer = kit.view(contract.encode_aggregate3(calls), MULTICALL3_ADDRESS)
    totals, nonce, broken, balance = contract.decode_aggregate3(answer)
    assert contract.decode_channels(totals.data) == (1000, 0)
    assert contract.decode_refund_nonce(nonce.data) == 0
    assert broken == CallResult(False, b"")
    assert contract.decode_balance_of(balance.data) == kit.devnet.usdc_balance(kit.payer.address)
    strict = contract.encode_aggregate3(calls, allow_failure=False)
    refusal = kit.refusal(kit.stranger, strict, MULTICALL3_ADDRESS)
    assert refusal == "Multicall3: call failed"
