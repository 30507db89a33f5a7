"""Times as text, "2026-01-31T10:30:00.000Z", to and from Unix seconds. Pure; it asks no clock.

Source: RFC 3339 §5.6; the days are counted as in the proleptic Gregorian calendar.
"""

import re
from typing import Final

_TEXT = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.[0-9]{1,9})?"
    r"(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))",
    re.ASCII,
)
_DAY: Final = 86_400
_DAYS_TO_1970: Final = 719_468
"""From 0000-03-01, where counted years begin: so the day that leap years add is the last."""
_ERA_DAYS: Final = 146_097
_MONTH_DAYS: Final = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def parse_instant(text: str) -> int:
    """Unix seconds; fractions are dropped. Raises ValueError."""
    match = _TEXT.fullmatch(text)
    if match is None:
        raise ValueError("not a time as in RFC 3339")
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    if not (1 <= month <= 12 and 1 <= day <= _days_in(year, month)):
        raise ValueError("no such day")
    if hour > 23 or minute > 59 or second > 60:
        raise ValueError("no such time of day")
    shift = 0
    if match[7]:
        if int(match[8]) > 23 or int(match[9]) > 59:
            raise ValueError("no such offset")
        shift = int(f"{match[7]}1") * (3600 * int(match[8]) + 60 * int(match[9]))
    return _days(year, month, day) * _DAY + 3600 * hour + 60 * minute + second - shift


def show_instant(seconds: int) -> str:
    """The text of Unix seconds, in UTC and to the millisecond, as JavaScript writes it."""
    days, rest = divmod(seconds, _DAY)
    year, month, day = _date(days)
    hour, minute = divmod(rest // 60, 60)
    return f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{rest % 60:02}.000Z"


def _days_in(year: int, month: int) -> int:
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return _MONTH_DAYS[month - 1] + (leap and month == 2)


def _days(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01."""
    year -= month <= 2
    era, of_era = divmod(year, 400)
    of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    return era * _ERA_DAYS + of_era * 365 + of_era // 4 - of_era // 100 + of_year - _DAYS_TO_1970


def _date(days: int) -> tuple[int, int, int]:
    """The opposite of `_days`."""
    era, of_era = divmod(days + _DAYS_TO_1970, _ERA_DAYS)
    years = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * years + years // 4 - years // 100)
    turned = (5 * of_year + 2) // 153
    month = turned + 3 if turned < 10 else turned - 9
    return era * 400 + years + (month <= 2), month, of_year - (153 * turned + 2) // 5 + 1
