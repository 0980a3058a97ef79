"""Most records of a topic in another unit are told in one line, and again while it lasts; a few are not."""

import logging
from collections.abc import Iterator

import pytest

from stream.task.decode import UnitCensus
from stream.worker.unit_warnings import UnitWarnings

SECONDS, MILLIS = 1_767_225_600, 1_767_225_600_000


@pytest.fixture(autouse=True)
def _hear(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.INFO, "samstream.worker"):
        yield


def note(census: UnitCensus, topic: str, ts: int, count: int) -> None:
    for _ in range(count):
        census.note(topic, ts)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    told = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return told


def test_most_records_in_seconds_are_told_once_in_half_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    censuses, warnings = [UnitCensus(), UnitCensus()], UnitWarnings()
    for census in censuses:
        note(census, "behaviors", SECONDS, 4)
    warnings.consider(censuses, 0.0)
    assert lines(caplog) == [], "too few to say"
    note(censuses[0], "behaviors", MILLIS, 2)
    note(censuses[0], "clicks", MILLIS, 50)
    warnings.consider(censuses, 1.0)
    [line] = lines(caplog)
    assert line.startswith("ts_unit topic=behaviors unit=seconds records=8 of=10 ")
    assert "milliseconds since 1970" in line
    note(censuses[1], "behaviors", SECONDS, 40)
    warnings.consider(censuses, 2.0)
    assert lines(caplog) == []
    warnings.consider(censuses, 31.1)
    [line] = lines(caplog)
    assert line.startswith("ts_unit topic=behaviors unit=seconds records=40 of=40 ")
    warnings.consider(censuses, 100.0)
    assert lines(caplog) == [], "it is over"


def test_a_few_among_many_are_not_told(caplog: pytest.LogCaptureFixture) -> None:
    census, warnings = UnitCensus(), UnitWarnings()
    for second in range(50):
        note(census, "behaviors", MILLIS, 100)
        note(census, "behaviors", SECONDS, 99)
        note(census, "behaviors", 5, 10)  # of no unit
        warnings.consider([census], float(second))
    assert lines(caplog) == []


def test_what_was_right_for_long_hides_no_change(caplog: pytest.LogCaptureFixture) -> None:
    census, warnings = UnitCensus(), UnitWarnings()
    note(census, "clicks", MILLIS, 1_000_000)
    warnings.consider([census], 0.0)
    note(census, "clicks", 1_767_225_600_000_000, 20)
    warnings.consider([census], 1.0)
    [line] = lines(caplog)
    assert line.startswith("ts_unit topic=clicks unit=microseconds records=20 of=20 ")


def test_partitions_that_went_away_hide_no_change(caplog: pytest.LogCaptureFixture) -> None:
    gone, here, warnings = UnitCensus(), UnitCensus(), UnitWarnings()
    note(gone, "clicks", MILLIS, 2000)
    warnings.consider([gone, here], 0.0)
    note(here, "clicks", MILLIS, 5)
    warnings.consider([here], 1.0)
    note(here, "clicks", SECONDS, 20)
    warnings.consider([here], 2.0)
    [line] = lines(caplog)
    assert line.startswith("ts_unit topic=clicks unit=seconds records=20 of=20 ")
