"""Commands and scripts as they are sent: what is formatted at once is what a packer would write."""

import re

from helpers.channels import voucher
from hypothesis import given
from hypothesis import strategies as st

from paywall.protocol.channel import Voucher
from paywall.protocol.limits import UINT128_MAX
from paywall.protocol.once import Ticket
from paywall.stores import redis_commands
from paywall.stores.redis_scripts import prelude, scripts, source, whole_text
from paywall.stores.redis_wire import pack

TAG = b"paywall:{ab}:"

amounts = st.integers(0, UINT128_MAX)
ids = st.binary(min_size=32, max_size=32)
tickets = st.none() | st.builds(Ticket, st.text(min_size=1), st.binary(max_size=40))
"""Any words, also such as no payment has: a length that is wrong would become another command."""


@given(
    channel_id=ids,
    signed=st.builds(Voucher, amounts, st.binary(max_size=70)),
    price=amounts,
    request=st.text(),
    ticket=tickets,
)
def test_reserve_is_written_as_a_packer_writes_it(
    channel_id: bytes, signed: Voucher, price: int, request: str, ticket: Ticket | None
) -> None:
    script = scripts()["reserve"]
    key = TAG + channel_id.hex().encode()
    keys = [key, key + b":h", TAG + b"due"]
    words = [b"%d" % signed.amount, signed.signature, b"%d" % price, request]
    if ticket:
        keys.append(key + b":a:" + ticket.payment_id.encode())
        words.append(ticket.fingerprint)
    command = redis_commands.reserve(script, TAG, channel_id, signed, price, request, ticket)
    assert command == pack("EVALSHA", script.sha, len(keys), *keys, *words)


@given(
    channel_id=ids,
    request=st.text(),
    amount=amounts,
    line=st.binary(),
    ticket=tickets,
    answer=st.binary(),
)
def test_charge_is_written_as_a_packer_writes_it(
    channel_id: bytes, request: str, amount: int, line: bytes, ticket: Ticket | None, answer: bytes
) -> None:
    script = scripts()["charge"]
    key = TAG + channel_id.hex().encode()
    keys = [key, key + b":h", TAG + b"due", TAG + b"log"]
    words = [request, b"%d" % amount, channel_id, line]
    if ticket:
        keys.append(key + b":a:" + ticket.payment_id.encode())
        words += [ticket.fingerprint, answer]
    command = redis_commands.charge(script, TAG, channel_id, request, amount, line, ticket, answer)
    assert command == pack("EVALSHA", script.sha, len(keys), *keys, *words)


def test_a_bound_is_in_the_script_and_not_sent() -> None:
    bounds = re.findall(rb"^local ([A-Z_]+) = '?(\d+)'?$", scripts()["reserve"].text, re.MULTILINE)
    assert {
        (b"HOLD_MS", b"60000"),
        (b"MAX_HOLDS", b"64"),
        (b"STARTED_MS", b"360000"),
        (b"WINDOW", b"128"),
    } <= set(bounds)
    command = redis_commands.reserve(scripts()["reserve"], TAG, bytes(32), voucher(5), 5, "r", None)
    assert command.count(b"$") == command.count(b"\r\n$") == 10


def test_a_script_has_all_that_it_names_and_nothing_else() -> None:
    for name, script in scripts().items():
        defined = re.findall(rb"^local (?:function )?(\w+)", script.text, re.MULTILINE)
        own = re.findall(rb"^local (?:function )?(\w+)", source(name), re.MULTILINE)
        pieces = [piece.encode() for piece in prelude() if piece.encode() in defined]
        assert defined == pieces + own, "in the prelude's order, each once"
        for piece in pieces:
            used = re.findall(rb"(?<!\w\.)\b%b\b" % piece, script.text)
            assert len(used) > 1, (name, piece)


def test_a_piece_brings_along_what_it_uses() -> None:
    pieces = {"a": b"local a = 1\n", "b": b"local function b() return a end\n", "c": b"local c\n"}
    spend = source("spend")
    assert whole_text("spend", pieces) == spend
    assert whole_text("spend", {**pieces, "now_ms": b"local function now_ms() b() end\n"}) == (
        pieces["a"] + pieces["b"] + b"local function now_ms() b() end\n" + spend
    )
