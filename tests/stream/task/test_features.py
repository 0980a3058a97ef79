"""Features of callers in one partition's work: what was served is what is learned, and one bad object loses nothing."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from state.behavior import category_key, item_key
from state.feature_layout import parse_layout
from state.partition import Partition
from state.records import Records
from stream.schema.events import Behavior, Candidate, Impression, Sample, encode_packed
from stream.schema.features import FeatureDefinition, FeatureSchema, Given
from stream.schema.position import LogIdentity
from stream.task.decode import RecordDecoder
from stream.task.paced_fold import PacedFold
from tests.stream.task.support import (
    LATER,
    LENGTH,
    PARTITIONS,
    SETTINGS,
    SLACK,
    T0,
    TOPICS,
    USER,
    Bench,
    Log,
    batches,
    beginning,
    click,
    mixing,
)

DEFINITIONS = {
    "price": FeatureDefinition(of="item", kind="number"),
    "brand": FeatureDefinition(of="item", kind="category"),
    "dwell": FeatureDefinition(of="behavior", kind="number"),
    "hour": FeatureDefinition(of="context", kind="number"),
}
SCHEMA = FeatureSchema(DEFINITIONS)


def raw(values: dict[str, Any]) -> Given:
    return msgspec.Raw(json.dumps(values).encode())


def behavior(item: str, ts: int, **features: Any) -> Behavior:
    return Behavior(USER, item, T0 + ts, features=raw(features))


def impression(request_id: str = "r", ts: int = 0, *, size: int = 4, slots: int = 2, hour: float = 7) -> Impression:
    candidates = [Candidate(f"c{place}", features=raw({"price": place, "brand": f"b{place}"})) for place in range(size)]
    return Impression(request_id, USER, T0 + ts, candidates, slots, features=raw({"hour": hour}))


def attributes(sample: Sample) -> dict[int, Any]:
    """Item key → the features of that candidate."""
    records: Records = np.frombuffer(sample.attributes, parse_layout(sample.layout).item)
    return dict(zip(np.frombuffer(sample.items, "<u8").tolist(), records, strict=True))


def check(sample: Sample, *, hour: float = 7) -> None:
    """See that a sample has the features of each item as `impression` gave them."""
    [context] = np.frombuffer(sample.context, parse_layout(sample.layout).context)
    assert context["hour"] == hour
    expected = {item_key(f"c{place}"): place for place in range(8)}
    for key, record in attributes(sample).items():
        assert (record["price"], record["brand"]) == (expected[key], category_key(f"b{expected[key]}"))


def test_features_reach_the_model_and_the_sample(path: Path) -> None:
    with closing(Bench(path, features=SCHEMA)) as bench:
        log = Log(behavior("a", -20, price=3.5, brand="x", dwell=9), behavior("b", -10), impression())
        [request] = bench.turn(*log.records)
        asked = request.example
        assert asked.sequence["price"].tolist()[0] == [3.5]
        assert asked.sequence["brand"].tolist() == [[category_key("x")], [0]]
        assert np.isnan(asked.sequence["dwell"][1]).all()
        assert asked.context is not None
        assert asked.attributes is not None
        assert asked.context["hour"].tolist() == [[7]]
        assert asked.attributes["price"].ravel().tolist() == [0, 1, 2, 3]
        bench.turn(log.write(click("c2", 10)), log.write(behavior("later", 20, price=8)))
        bench.turn(log.write(behavior("x", LATER)))
        assert len(bench.samples) == 2
        for sample in bench.samples:
            check(sample)
            assert bench.named(sample).tobytes() == asked.sequence.tobytes()
            for key, record in attributes(sample).items():
                assert record == asked.attributes[asked.items.tolist().index(key)]
        assert not bench.refused
        assert bench.task.counts["feature_missing:dwell"] == 3


BAD: list[tuple[bytes, str]] = [
    (b'{"price": "cheap"}', ".price"),
    (b'{"price": 1e308}', ".price"),
    (b'{"price": NaN}', ".price"),
    (b'{"price": [Infinity]}', ".price[0]"),
    (b'{"brand": "\\ud800"}', ".brand"),
    (b'{"brand": "\xff"}', ".brand"),
    (b'{"brand": {"a": {"b": []}}}', ".brand"),
    (b"[]", ""),
    (b'{"x": "' + b"y" * 65_536 + b'"}', ""),
]


@pytest.mark.parametrize(("content", "field"), BAD)
@pytest.mark.parametrize("where", ["$.features", "$.candidates[1].features"])
def test_what_cannot_be_used_is_refused_by_its_path_and_nothing_else_is_lost(
    path: Path, content: bytes, field: str, where: str
) -> None:
    with closing(Bench(path, features=SCHEMA)) as bench:
        log = Log(behavior("a", -20, price=1), behavior("bad", -15), behavior("b", -10, price=2), impression())
        if where == "$.features":
            topic, event = TOPICS.behaviors, b'{"user": "%b", "item": "bad", "ts": %d, "features": %b}'
        else:
            topic = TOPICS.impressions
            event = (
                b'{"user": "%b", "request_id": "bad", "ts": %d, "candidates": [{"item": "a"}, {"item": "b",'
                b' "features": %b}]}'
            )
        changed = [
            each._replace(value=event % (USER.encode(), T0, content)) if b'"bad"' in (each.value or b"") else each
            for each in log.records
        ]
        if topic == TOPICS.impressions:
            changed[1] = log.records[1]
            changed.append(log.put(topic, event % (USER.encode(), T0, content)))
        bench.turn(*changed)
        [reason] = bench.reasons()
        assert f"`{where}{field}`" in reason
        assert len(reason) < 300
        assert bench.scores.keys() == {impression().request}
        expected = [1, 2] if topic == TOPICS.behaviors else [1, None, 2]
        found = bench.task.sequence(USER)["price"].ravel().tolist()
        assert [None if price != price else price for price in found] == expected
        assert bench.task.offsets[topic] == (3 if topic == TOPICS.behaviors else 2)


def test_unknown_names_are_ignored_or_refused(path: Path) -> None:
    log = Log(behavior("a", -20, price=1, **{f"u{number}": 1 for number in range(1000)}))
    for place, (definitions, refused) in enumerate([(DEFINITIONS, 1), ({}, 1), (DEFINITIONS, 0), ({}, 0)]):
        schema = FeatureSchema(definitions, refuse_unknown=bool(refused))
        with closing(Bench(path.with_name(f"partition-{place}"), features=schema)) as bench:
            bench.turn(*log.records)
            assert len(bench.refused) == refused
            assert all("unknown field `" in reason and "`$.features`" in reason for reason in bench.reasons())
            assert len(bench.task.sequence(USER)) == 1 - refused


def test_what_was_served_is_learned_after_a_crash_between_answer_and_label(path: Path) -> None:
    log = Log(behavior("a", -5, price=3), impression(size=6, slots=4))
    rest = [log.write(click("c5", 10)), log.write(click("c0", 20)), log.write(behavior("x", LATER))]
    lives = []
    with closing(Bench(path, features=SCHEMA)) as bench:
        bench.turn(*log.records[:2])
        bench.turn(*rest)
        lives.append([encode_packed(each) for each in bench.samples])
        given = bench.given
    # Nothing was committed, but the answer is in Kafka.
    start = beginning(answers=given, scores_end=1, impressions_end=1)
    with closing(Bench(path, start, version=9, features=SCHEMA)) as bench:
        assert not bench.turn(*log.records[:2])
        bench.task.commit()
    # The open request is in the state now.
    with closing(Bench(path, version=9, features=SCHEMA)) as bench:
        bench.turn(*rest)
        lives.append([encode_packed(each) for each in bench.samples])
        for sample in bench.samples:
            check(sample)
            assert bench.named(sample)["price"].tolist() == [[3]]
    assert lives[0] == lives[1]


OTHER = FeatureSchema(
    {name: DEFINITIONS[name] for name in ("price", "hour")}
    | {
        "size": FeatureDefinition(of="item", kind="number", default=5.0),
        "tier": FeatureDefinition(of="user", kind="category", default="gold"),
    }
)


@pytest.mark.parametrize("then", [OTHER, FeatureSchema({})], ids=["others", "none"])
def test_an_open_request_is_learned_by_the_features_that_there_still_are(path: Path, then: FeatureSchema) -> None:
    log = Log(behavior("a", -5, price=3, brand="x"), impression())
    with closing(Bench(path, features=SCHEMA)) as bench:
        bench.turn(*log.records)
        bench.task.commit()
    with closing(Bench(path, features=then)) as bench:
        bench.turn(log.write(click("c3", 10)), log.write(behavior("x", LATER, price=1)))
        assert len(bench.samples) == 2
        for sample in bench.samples:
            assert sample.layout == then.layout.text
            if not then:
                assert (sample.context, sample.attributes) == (b"", b"")
                assert bench.named(sample).nbytes == 22
                continue
            [context] = np.frombuffer(sample.context, then.layout.context)
            assert (context["hour"], context["tier"]) == (7, 0), "the default was not served"
            for key, record in attributes(sample).items():
                assert record["price"] == {item_key("c2"): 2, item_key("c3"): 3}[key]
                assert np.isnan(record["size"])
            assert bench.named(sample)["price"].tolist() == [[3]]


def test_a_request_that_was_open_when_features_came_is_learned_with_them_missing(path: Path) -> None:
    log = Log(behavior("a", -5, price=3), impression())
    with closing(Bench(path)) as bench:
        bench.turn(*log.records)
        bench.task.commit()
    with closing(Bench(path, features=SCHEMA)) as bench:
        bench.turn(log.write(click("c3", 10)), log.write(behavior("x", LATER)))
        for sample in bench.samples:
            for records in (bench.named(sample), *(record for record in attributes(sample).values())):
                assert np.isnan(records["price"]).all()
                assert not np.any(records["brand"])


def test_each_team_of_an_interleaved_list_gets_the_features_of_its_items(path: Path) -> None:
    with closing(Bench(path, answering=mixing, features=SCHEMA)) as bench:
        log = Log(impression(size=8, slots=6), click("c7", 10))
        bench.turn(*log.records, log.write(behavior("x", LATER)))
        assert {sample.arm for sample in bench.samples} == {"reversing", "forward"}
        assert sum(len(attributes(sample)) for sample in bench.samples) == 6
        for sample in bench.samples:
            check(sample)


def test_early_labels_bring_features_with_both_labels(path: Path) -> None:
    with closing(Bench(path, features=SCHEMA, labels="early", label_wait_s=0.1)) as bench:
        log = Log(impression())
        bench.turn(*log.records, log.write(behavior("x", 200)))
        bench.turn(log.write(click("c3", 300)), log.write(behavior("y", LATER)))
        assert [np.frombuffer(sample.labels, "u1").tolist() for sample in bench.samples] == [[0, 0], [1]]
        for sample in bench.samples:
            check(sample)


def test_a_standby_copy_folds_features_as_the_owner_does(path: Path) -> None:
    log = Log(behavior("a", 0, price=1.5, brand="x"), behavior("b", 1, dwell=3), behavior("c", 2))
    log.put(TOPICS.behaviors, json.dumps({"user": USER, "item": "d", "ts": T0, "features": {"price": "x"}}).encode())
    with closing(Bench(path, features=SCHEMA)) as bench:
        bench.turn(*log.records)
        expected = bench.task.sequence(USER).tobytes()
    partition = Partition.open(path.with_name("standby"), length=LENGTH, slack=SLACK, record=SCHEMA.layout.behavior)
    now = LogIdentity("cluster", TOPICS.behaviors, "id", PARTITIONS)
    with closing(PacedFold(partition, TOPICS, SETTINGS, now, 0, SCHEMA, partitions=PARTITIONS)) as copy:
        for batch in batches(log.records):
            copy.add(batch)
        copy.fold(len(log.records))
        copy.commit()
        assert partition.sequences.read(USER).tobytes() == expected
        assert len(expected) == 3 * SCHEMA.layout.behavior.itemsize


def test_what_is_no_json_at_all_has_no_place() -> None:
    decoder = RecordDecoder(TOPICS, SETTINGS, SCHEMA, partitions=PARTITIONS)
    log = Log()
    for value in (b"", b"{", b"\xff", b"[" * 100_000, b"nul"):
        with pytest.raises((ValueError, RecursionError)) as refused:
            decoder.decode(log.put(TOPICS.behaviors, value))
        assert "at `" not in str(refused.value)
