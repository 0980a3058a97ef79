"""What the counter takes of `behaviors`, and that counts and offsets are those of the same records."""

import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from model.statistics.primary import StatisticsPrimary
from state.behavior import item_key
from stream.kafka.producer import ReliableProducer
from stream.kafka.reader import TopicReader
from stream.schema.events import Behavior, encode_json
from stream.schema.formats import JsonOnly
from stream.schema.topics import Topics
from stream.trainer.behavior_counter import BehaviorCounter

EVERYTHING = 1 << 32
MANY = 12_000
"""More than is read, and more than is counted, at once."""
NO_BEHAVIORS = [b"", b"{", b'{"user": "ann", "item": "", "ts": 1}', b'{"user": "ann", "item": "tea", "ts": -1}']


@pytest.fixture
def counter(kafka: dict[str, str], topics: Topics) -> Iterator[BehaviorCounter]:
    statistics = StatisticsPrimary((60.0,), max_rows=1000, retention_s=1e9)
    reader = TopicReader(kafka, [topics.behaviors], from_beginning=True)
    counter = BehaviorCounter(statistics, reader, max_future_s=60.0)
    yield counter
    counter.close()


def wait_for_records(counter: BehaviorCounter, records: int) -> None:
    deadline = time.monotonic() + 60
    while counter.counts.total() < records:
        counter.check()
        assert time.monotonic() < deadline, f"{counter.counts} of {records}"
        time.sleep(0.01)


def saved(counter: BehaviorCounter, table: str) -> tuple[dict[int, float], int]:
    """Return key → events ever counted, and the sum of the offsets that are saved with them."""
    state = counter.save()
    keys, sums = state.tensors[f"{table}/keys"], state.tensors[f"{table}/sums"]
    return dict(zip(keys.tolist(), sums[:, 0, -1].tolist(), strict=True)), sum(state.progress["offsets"].values())


def test_what_is_saved_at_any_time_is_the_count_of_its_offsets(
    counter: BehaviorCounter, kafka: dict[str, str], topics: Topics
) -> None:
    sender, now = ReliableProducer(kafka), time.time_ns() // 1_000_000
    items = [f"item-{number % 97}" for number in range(MANY)]
    for number, item in enumerate(items):
        event = Behavior("ann", item, now, f"category-{number % 7}")
        sender.send(topics.behaviors, encode_json(event), partition=number % 4)
    sender.flush()
    counter.start()
    reached = -1
    while reached < MANY:
        counter.check()
        categories, reached = saved(counter, "category")
        assert categories.get(EVERYTHING, 0) == reached
    wait_for_records(counter, MANY)
    assert saved(counter, "item")[0] == Counter(map(item_key, items))
    assert counter.counts == {"behaviors_counted": MANY, "behaviors_not_counted": 0}


def test_what_is_no_behavior_or_of_the_future_is_left_out(
    counter: BehaviorCounter, kafka: dict[str, str], topics: Topics
) -> None:
    sender, now = ReliableProducer(kafka), time.time_ns() // 1_000_000
    good = [encode_json(Behavior("ann", "tea", now)), b'{"user": "bob", "item": "tea", "ts": 1, "category": null}']
    future = encode_json(Behavior("ann", "cup", now + 600_000))
    for value in (*good, *NO_BEHAVIORS, future):
        sender.send(topics.behaviors, value, partition=0)
    for value in (*good, future):  # all of these are behaviours
        sender.send(topics.behaviors, value, partition=1)
    sender.flush()
    counter.start()
    wait_for_records(counter, 10)
    assert saved(counter, "item")[0] == {item_key("tea"): 4}
    assert saved(counter, "category")[0] == {EVERYTHING: 4}
    assert counter.counts == {"behaviors_counted": 4, "behaviors_not_counted": 6}


class Schemas(JsonOnly):
    """Formats that are not ready for one value, and make JSON of values that begin with an `=`."""

    def __init__(self) -> None:
        self.unready: bytes | None = None
        self.asked = threading.Event()

    def reads(self, _topic: str, /) -> bool:
        return True

    def ready(self, _topic: str, value: bytes | None, /) -> bool:
        if value == self.unready:
            self.asked.set()
        return value != self.unready

    def to_json(self, _topic: str, value: bytes, /) -> bytes:
        if value == b"=unknown":
            raise ValueError("no schema")
        return value.removeprefix(b"=")


def test_records_whose_schema_is_not_known_are_waited_for_and_no_offset_goes_beyond_them(
    kafka: dict[str, str], topics: Topics
) -> None:
    sender, now = ReliableProducer(kafka), time.time_ns() // 1_000_000
    values = [b"=" + encode_json(Behavior("ann", item, now)) for item in ("tea", "cup", "pot")]
    for value in (*values, b"=unknown"):
        sender.send(topics.behaviors, value, partition=0)
    sender.flush()
    for answers in (False, True):
        formats = Schemas()
        formats.unready = values[1]
        reader = TopicReader(kafka, [topics.behaviors], from_beginning=True)
        statistics = StatisticsPrimary((60.0,), max_rows=1000, retention_s=1e9)
        counter = BehaviorCounter(statistics, reader, max_future_s=60.0, formats=formats)
        counter.start()
        assert formats.asked.wait(60)
        assert saved(counter, "item")[1] == 0
        if answers:
            formats.unready = None
            wait_for_records(counter, 4)
            assert counter.counts == {"behaviors_counted": 3, "behaviors_not_counted": 1}
        counter.close()
        counter.check()
        assert saved(counter, "item")[1] == (4 if answers else 0)
