"""Exactly once: what somebody is told who comes with a payment's id, and how an id is written."""

import json

import msgspec
import pytest
from helpers.channels import NOW_MS
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from paywall.protocol import once
from paywall.protocol.errors import Reason, Refused
from paywall.protocol.limits import (
    ANSWER_SECONDS,
    HOLD_SECONDS,
    MAX_PAYMENT_ID_CHARS,
    MIN_PAYMENT_ID_CHARS,
    UINT128_MAX,
)
from paywall.protocol.once import Answer, AnsweredBefore, Entry, Ticket

TICKET = Ticket("payment-00000001", bytes(32))
OTHER = Ticket("payment-00000001", b"\x01" * 32)
RUNNING = once.started(TICKET, "a", NOW_MS)
ANSWERED = once.answered(TICKET, "a", b"an answer", 700, NOW_MS)


def told(entry: Entry | None, running: bool = False, ticket: Ticket = TICKET) -> str:
    """What a second request `b` is told, when it is not raised."""
    once.check(entry, ticket, "b", running, NOW_MS)
    return "go on"


def refusal(entry: Entry, running: bool = False, ticket: Ticket = TICKET) -> Reason:
    with pytest.raises(Refused) as refused:
        told(entry, running, ticket)
    return refused.value.reason


# -- What a second one is told -------------------------------------------------------------------


def test_a_payment_that_nobody_knows_is_new() -> None:
    assert told(None) == "go on"


def test_while_the_first_runs_a_second_is_told_to_wait() -> None:
    assert refusal(RUNNING, running=True) is Reason.PAYMENT_IN_PROGRESS


def test_after_the_worker_died_the_payment_comes_again() -> None:
    assert told(RUNNING) == "go on"


def test_once_it_was_charged_a_second_gets_the_answer_and_the_total() -> None:
    with pytest.raises(AnsweredBefore) as before:
        told(ANSWERED)
    assert (before.value.answer, before.value.total) == (b"an answer", 700)


def test_an_answer_that_was_not_kept_is_not_given_and_nothing_runs() -> None:
    empty = once.answered(TICKET, "a", b"", 700, NOW_MS)
    assert refusal(empty) is Reason.ANSWER_NOT_KEPT


@pytest.mark.parametrize("entry", [RUNNING, ANSWERED])
@pytest.mark.parametrize("running", [True, False])
def test_an_id_belongs_to_one_payload(entry: Entry, running: bool) -> None:
    assert refusal(entry, running, OTHER) is Reason.PAYMENT_ID_REUSED


@pytest.mark.parametrize("running", [True, False])
def test_the_same_request_asked_again_is_no_second_payment(running: bool) -> None:
    once.check(RUNNING, TICKET, "a", running, NOW_MS)
    with pytest.raises(Refused):
        once.check(RUNNING, OTHER, "a", running, NOW_MS)


# -- How long it is remembered -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "seconds"), [(RUNNING, ANSWER_SECONDS + HOLD_SECONDS), (ANSWERED, ANSWER_SECONDS)]
)
def test_an_entry_is_known_until_it_expires_and_new_afterwards(entry: Entry, seconds: int) -> None:
    last_ms = NOW_MS + 1000 * seconds - 1
    assert once.live(entry, last_ms) is entry
    with pytest.raises(Refused):
        once.check(entry, OTHER, "b", False, last_ms)
    assert once.live(entry, last_ms + 1) is None
    once.check(entry, OTHER, "b", True, last_ms + 1)
    once.check(entry, TICKET, "b", True, last_ms + 1)


def test_a_running_entry_outlives_its_hold_to_recognise_the_payment() -> None:
    assert RUNNING.expires_ms >= NOW_MS + 1000 * (HOLD_SECONDS + ANSWER_SECONDS)


# -- Wire ----------------------------------------------------------------------------------------


def extension(**info: object) -> Raw:
    return Raw(json.dumps({"info": info, "schema": {}}).encode())


def ticket_of(extension: Raw | None, payload: bytes = b"{}", resource: bytes = b"/") -> object:
    return once.ticket_of(extension, payload, resource)


def test_a_payment_without_an_id_has_no_ticket() -> None:
    for nothing in (None, once.ADVERTISED, Raw(b"{}"), extension(), extension(id=None)):
        assert ticket_of(nothing) is None
    assert ticket_of(extension(required=True)) is None


def test_the_id_that_a_client_writes_is_the_one_that_a_provider_reads() -> None:
    found = once.ticket_of(once.with_id("Ab_9-" * 4), b"{}", b"/")
    assert found is not None
    assert found.payment_id == "Ab_9-" * 4


@pytest.mark.parametrize("chars", [MIN_PAYMENT_ID_CHARS, MAX_PAYMENT_ID_CHARS])
def test_an_id_of_the_shortest_and_the_longest_length_is_good(chars: int) -> None:
    assert ticket_of(extension(id="x" * chars)) is not None


@pytest.mark.parametrize(
    "payment_id",
    [
        "x" * (MIN_PAYMENT_ID_CHARS - 1),
        "x" * (MAX_PAYMENT_ID_CHARS + 1),
        *(f"payment-0000000{dirt}" for dirt in (" ", "\n", "\0", "/", ":", "é", "１", "\u212a")),
        "payment-00000000\n",
        5,
        ["payment-00000000"],
    ],
)
def test_case_42_an_id_that_is_not_well_formed_is_refused(payment_id: object) -> None:
    with pytest.raises(Refused) as refused:
        ticket_of(extension(id=payment_id))
    assert refused.value.reason is Reason.PAYMENT_ID


@pytest.mark.parametrize("dirt", [b"[]", b"1", b'"x"', b"null", b'{"info": []}', b'{"info": 1}'])
def test_case_8_an_extension_of_another_shape_is_refused(dirt: bytes) -> None:
    with pytest.raises(Refused) as refused:
        ticket_of(Raw(dirt))
    assert refused.value.reason is Reason.PAYMENT_ID


@given(st.tuples(st.binary(), st.binary()), st.tuples(st.binary(), st.binary()))
def test_a_fingerprint_belongs_to_one_payload_on_one_resource(
    one: tuple[bytes, bytes], other: tuple[bytes, bytes]
) -> None:
    named = once.with_id("payment-00000001")
    same = once.ticket_of(named, *one) == once.ticket_of(named, *other)
    assert same == (one == other)


def test_where_the_payload_ends_and_the_resource_begins_is_part_of_the_fingerprint() -> None:
    named = once.with_id("payment-00000001")
    assert ticket_of(named, b"ab", b"c") != ticket_of(named, b"a", b"bc")
    assert ticket_of(named, b"", b"abc") != ticket_of(named, b"abc", b"")


def test_the_advertised_schema_names_the_bounds_that_are_kept() -> None:
    schema = json.loads(bytes(once.ADVERTISED))["schema"]["properties"]["id"]
    assert (schema["minLength"], schema["maxLength"]) == (
        MIN_PAYMENT_ID_CHARS,
        MAX_PAYMENT_ID_CHARS,
    )


# -- Answers -------------------------------------------------------------------------------------


uint128 = st.integers(0, UINT128_MAX)
answers = st.builds(
    Answer,
    status=st.integers(100, 599),
    headers=st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=50)), max_size=5),
    body=st.binary(max_size=100),
    charged=uint128,
    expected_total=uint128,
    deposited=uint128,
    transaction=st.binary(max_size=32),
)


@given(answers)
def test_an_answer_reads_back_as_it_was_sent(answer: Answer) -> None:
    assert once.decode_answer(once.encode_answer(answer)) == answer


def test_an_answer_is_never_empty_so_empty_means_not_kept() -> None:
    assert once.encode_answer(Answer(200, [], b"", 0, 0, 0, b""))


def test_a_damaged_answer_is_noticed() -> None:
    data = once.encode_answer(Answer(200, [], b"body", 1, 1, 0, b""))
    with pytest.raises(msgspec.DecodeError):
        once.decode_answer(data[:-1])
