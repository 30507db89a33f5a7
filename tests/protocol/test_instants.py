"""Times as text, against Python's own calendar."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paywall.protocol.instants import parse_instant, show_instant


@given(st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)))
def test_every_second_of_the_calendar_is_that_of_python(when: datetime) -> None:
    whole = when.replace(microsecond=0, tzinfo=UTC)
    seconds = int(whole.timestamp())
    assert parse_instant(whole.isoformat()) == seconds
    assert show_instant(seconds) == whole.isoformat().replace("+00:00", ".000Z")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2000-02-29T12:00:00.999Z", 951_825_600),
        ("2024-01-15T10:30:00.000+02:00", 1_705_307_400),
        ("2024-01-15t08:30:00-00:30z"[:25], 1_705_309_200),
    ],
)
def test_known_instants(text: str, seconds: int) -> None:
    assert parse_instant(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        *("", "2024-01-15", "2024-01-15T10:30:00", "2024-1-15T10:30:00Z", "2024-02-30T00:00:00Z"),
        *("2023-02-29T00:00:00Z", "2024-13-01T00:00:00Z", "2024-01-15T24:00:00Z"),
        *("2024-01-15T10:60:00Z", "2024-01-15T10:30:00+24:00", "２024-01-15T10:30:00Z"),
        *("2024-01-15T10:30:00Z\n", "-024-01-15T10:30:00Z", "2024-00-01T00:00:00Z"),
    ],
)
def test_anything_else_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match=r"no |not a time"):
        parse_instant(text)
