"""A record reads back as the channel that it was, in this version and from an older one."""

import msgspec
import pytest
from helpers.channels import CHANNEL_ID, CONFIG, NETWORK, chain, channel, voucher
from hypothesis import given
from hypothesis import strategies as st

from paywall.protocol.channel import Channel, ChannelConfig, Hold, Refunding, Voucher
from paywall.protocol.errors import StoreUnavailable
from paywall.protocol.limits import (
    MAX_HOLDS,
    REMEMBERED_CHARGES,
    UINT128_MAX,
    UINT256_MAX,
    WINDOW_VOUCHERS,
)
from paywall.protocol.money import Address
from paywall.stores import records

VERSION_1 = bytes.fromhex(
    "9c01c420ed3220d6b8f8d9555453b817f3ca751aa2f7c98b5632576ef72f9a0c5b97996aac6569703135353a"
    "383435333297c41419e7e376e7c213b7e7e7e46cc70a5dd086daff2ac4141563915e194d8cfba1943570603f"
    "7606a3115508c4145cbdd86a2fa8dc4bddd8a8f69dba48572eec07fbc4147564105e977516c53be337314c7e"
    "53838967bdacc414036cbd53842c5426634e7929541ec2318f3dcf7ecd0384c4200000000000000000000000"
    "00000000000000000000000000000000000000000097b6313138303539313632303731373431313330333432"
    "340509ce6b49d2010201cf000001a3185c50001192cd03e8c441000000000000000000000000000000000000"
    "0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
    "03e81b81a9726571756573742d319303cd03e8cf000001a3185d3a60930acd03decffffffffffffffc1f0492"
    "06cf000001a31860e3e0cf000001a3185c507b"
)
"""A record as it was first written, before refunds and charges were remembered by their requests.
Never to be changed, and neither is the next: records like them exist."""
VERSION_1_LATER = bytes.fromhex(
    f"9e{VERSION_1[1:].hex()}a8726566756e642d3192a9726571756573742d30a9726571756573742d32"
)
"""Two more fields at the end."""
VERSION_1_PROOF = bytes.fromhex(f"9f{VERSION_1_LATER[1:].hex()}92cd07d0c441{'07' * 65}")
"""What is written now: the highest voucher of before a refund."""
EXPECTED = Channel(
    CHANNEL_ID,
    NETWORK,
    CONFIG,
    chain(2**70, 5, refund_nonce=2, withdraw_amount=9, withdraw_requested_at=1_800_000_001),
    charged=17,
    voucher=voucher(1000),
    holds={"request-1": Hold(3, 1000, 1_800_000_060_000)},
    seen=(10, 1000, 2**64 + 7),
    floor=4,
    refunding=Refunding(6, 1_800_000_300_000, ""),
    used_at_ms=1_800_000_000_123,
)
EXPECTED_LATER = msgspec.structs.replace(
    EXPECTED,
    refunding=Refunding(6, 1_800_000_300_000, "refund-1"),
    done=("request-0", "request-2"),
)
EXPECTED_PROOF = msgspec.structs.replace(EXPECTED_LATER, proof=Voucher(2000, b"\x07" * 65))

uint128 = st.integers(0, UINT128_MAX)
milliseconds = st.integers(0, 2**50)
addresses = st.binary(min_size=20, max_size=20).map(Address)
configs = st.builds(
    ChannelConfig,
    *[addresses] * 5,
    st.integers(0, 2**40 - 1),
    st.binary(min_size=32, max_size=32),
)
windows = st.lists(uint128, max_size=WINDOW_VOUCHERS, unique=True).map(sorted).map(tuple)
readings = st.builds(
    chain,
    uint128,
    uint128,
    withdraw_amount=uint128,
    withdraw_requested_at=st.integers(0, 2**40),
    refund_nonce=st.integers(0, UINT256_MAX),
    block=st.integers(0, 2**50),
    read_at_ms=milliseconds,
)
channels = st.builds(
    Channel,
    st.binary(min_size=32, max_size=32),
    st.text(max_size=30),
    configs,
    readings,
    charged=uint128,
    voucher=st.none() | st.builds(Voucher, uint128, st.binary(max_size=65)),
    holds=st.dictionaries(
        st.text(max_size=20), st.builds(Hold, uint128, uint128, milliseconds), max_size=5
    ),
    seen=windows,
    floor=uint128,
    refunding=st.none() | st.builds(Refunding, uint128, milliseconds, st.text(max_size=40)),
    used_at_ms=milliseconds,
    done=st.lists(st.text(max_size=40), max_size=REMEMBERED_CHARGES).map(tuple),
)


@given(channels)
def test_any_channel_reads_back_as_it_was(channel: Channel) -> None:
    assert records.decode(records.encode(channel)) == channel


def test_case_43_a_record_of_version_1_is_read() -> None:
    assert records.decode(VERSION_1) == EXPECTED
    assert records.decode(VERSION_1_LATER) == EXPECTED_LATER
    assert records.decode(VERSION_1_PROOF) == EXPECTED_PROOF


def test_what_is_written_now_stays_what_it_is() -> None:
    assert records.encode(EXPECTED_PROOF) == VERSION_1_PROOF


def test_fields_that_a_later_release_appends_are_passed_over() -> None:
    fields = msgspec.msgpack.decode(VERSION_1_PROOF)
    later = msgspec.msgpack.encode([*fields, {"new": 1}, None])
    assert records.decode(later) == EXPECTED_PROOF


def test_a_record_of_a_newer_version_is_not_guessed_at() -> None:
    fields = msgspec.msgpack.decode(VERSION_1)
    for newer in ([2, *fields[1:]], [2], [2, "another", "shape"]):
        with pytest.raises(StoreUnavailable, match="version 2"):
            records.decode(msgspec.msgpack.encode(newer))


@pytest.mark.parametrize(
    "data", [b"", b"\x00", VERSION_1[:-1], VERSION_1 + b"\x00", b"\x91\x00", b"{}"]
)
def test_a_damaged_record_is_unavailable(data: bytes) -> None:
    with pytest.raises(StoreUnavailable, match="damaged"):
        records.decode(data)


def test_a_full_record_is_small() -> None:
    full = msgspec.structs.replace(
        channel(10**12),
        voucher=voucher(10**9),
        seen=tuple(range(10**9 - 100 * WINDOW_VOUCHERS, 10**9, 100)),
        holds={f"{number:08}": Hold(100, 10**9, 10**12) for number in range(MAX_HOLDS)},
        done=tuple(f"{number:08}" for number in range(REMEMBERED_CHARGES)),
    )
    idle = msgspec.structs.replace(full, holds={})
    assert len(records.encode(msgspec.structs.replace(idle, done=()))) < 500
    assert len(records.encode(idle)) < 1200
    assert len(records.encode(full)) < 5000
