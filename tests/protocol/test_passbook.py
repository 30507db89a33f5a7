"""A payer's passes: what is bought adds up, ends on time, and is opened by its tokens alone."""

import msgspec
import pytest

from paywall.protocol import passbook
from paywall.protocol.limits import MAX_PASSES
from paywall.protocol.money import Address
from paywall.protocol.passbook import Opening, Passbook, bought, decode, encode, key_of, opens

NOW = 1_800_000_000_000
HOUR = 3_600_000
NOTHING = Passbook()


def test_a_pass_for_a_time_ends_to_the_millisecond() -> None:
    book = bought(NOTHING, "a", HOUR, None, b"secret", NOW)
    assert book.openings == (Opening("a", NOW + HOUR),)
    kept = encode(book)
    assert decode(kept, NOW + HOUR - 1) == book
    assert decode(kept, NOW + HOUR) == NOTHING == decode(None, NOW)


def test_another_purchase_adds_its_time_to_the_end() -> None:
    book = bought(NOTHING, "a", HOUR, None, b"1", NOW)
    book = bought(book, "b", HOUR, None, b"2", NOW + 1)
    assert book.openings == (Opening("b", NOW + 2 * HOUR),)
    assert opens(decode(encode(book), NOW + HOUR - 1), b"1")
    later = decode(encode(book), NOW + HOUR)
    assert (opens(later, b"1"), opens(later, b"2")) == (False, True)


def test_calls_are_kept_apart_from_each_other_and_from_time() -> None:
    book = bought(NOTHING, "a", HOUR, 3, b"1", NOW)
    book = bought(book, "b", HOUR, None, b"2", NOW)
    book = bought(book, "c", HOUR, 5, b"3", NOW + 1)
    book = bought(book, "d", HOUR, None, b"4", NOW + 2)
    assert book.openings == (
        Opening("a", NOW + HOUR, 3),
        Opening("c", NOW + 1 + HOUR, 5),
        Opening("d", NOW + 2 * HOUR),
    )


def test_a_purchase_that_is_repeated_is_one() -> None:
    book = bought(NOTHING, "a", HOUR, None, b"1", NOW)
    assert bought(book, "a", HOUR, None, b"1", NOW + 5) == book


def test_only_its_tokens_open_it_and_only_their_hashes_are_kept() -> None:
    book = bought(NOTHING, "a", HOUR, None, b"secret", NOW)
    assert (opens(book, b"secret"), opens(book, b"other"), opens(NOTHING, b"")) == (
        True,
        False,
        False,
    )
    assert b"secret" not in encode(book)


def test_a_book_is_bounded() -> None:
    book = NOTHING
    for number in range(MAX_PASSES + 5):
        book = bought(book, f"{number}", HOUR, 1, b"%d" % number, NOW)
    assert (len(book.openings), len(book.tokens)) == (MAX_PASSES, MAX_PASSES)
    assert book.until_ms == NOW + HOUR


def test_a_newer_book_with_more_fields_is_read() -> None:
    rows = [[["a", NOW + 1, None, "more"]], [], "more"]
    assert decode(msgspec.msgpack.encode(rows), NOW).openings == (Opening("a", NOW + 1),)


@pytest.mark.parametrize("names", [("a", "b"), ("a\0b", "a"), ("", "\ud800")])
def test_case_42_every_payer_and_every_part_has_a_key_of_its_own(names: tuple[str, str]) -> None:
    payers = (Address(bytes(20)), Address(b"\1" * 20))
    keys = {
        key_of(kind, name, who) for kind in ("pass", "free") for name in names for who in payers
    }
    assert len(keys) == 8
    assert passbook.TOKEN_BYTES == 16
