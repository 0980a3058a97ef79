"""Times as people write them."""

import pytest

from stream.errors import TimeError
from stream.runtime.timestamps import parse_time, time_words


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1970-01-02", 86_400_000),
        ("1970-01-01T00:01", 60_000),
        ("1970-01-01T00:01:00.5Z", 60_500),
        ("1970-01-01 02:00+02:00", 0),
        ("90m", 1_000_000_000 - 5_400_000),
        ("1.5h", 1_000_000_000 - 5_400_000),
        ("7d", 1_000_000_000 - 604_800_000),
        (" 10s ", 1_000_000_000 - 10_000),
    ],
)
def test_dates_times_and_how_long_ago(text: str, ms: int) -> None:
    assert parse_time(text, now=1_000_000) == ms


@pytest.mark.parametrize("text", ["yesterday", "", "2026-13-01", "12", "5w", "-3h", "1960-01-01", "9999d"])
def test_anything_else_says_how_to_write_it(text: str) -> None:
    with pytest.raises(TimeError, match=r"write it as|before 1970"):
        parse_time(text, now=1_000_000)


def test_words_are_utc() -> None:
    assert time_words(86_400_000) == "1970-01-02 00:00:00 UTC"
