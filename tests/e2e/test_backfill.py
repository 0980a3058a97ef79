"""History from files: what a worker then serves is the fold of it, each row is there once, whatever is killed."""

import json
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from confluent_kafka.admin import AdminClient

from state.behavior import action_key, behaviors, category_key, checksum, item_key
from state.partition import Partition
from stream.backfill.position import POSITION, REFUSED
from stream.backfill.writer import HEADER
from stream.cli.main import main
from stream.kafka import topic_admin
from stream.schema.events import decode_behavior, decode_click, decode_impression, decode_sample
from stream.schema.topics import Topics
from tests.e2e.commands import environment
from tests.e2e.harness import ITEMS, LENGTH, USERS, Harness, wait_for

pa = pytest.importorskip("pyarrow", reason="the extra parquet is not installed")

import pyarrow.feather as feather  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

pytestmark = pytest.mark.broker

Row = tuple[str, str, int, str]
"""User, item, ts, category."""
HOUR_MS = 3_600_000
NOW_MS = round(time.time() * 1000)


@pytest.fixture
def harness(kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path) -> Harness:
    # What lies in Kafka since before the worker was started is answered all the same.
    return Harness(kafka, topics, topic_prefix, tmp_path, worker={"max_impression_age_s": 1e6})


def drawn(count: int, seed: int = 1) -> list[Row]:
    """Rows in no order, many at the same time, of which the order in the files decides."""
    rng = random.Random(seed)
    begin = NOW_MS - 48 * HOUR_MS
    return [
        (
            rng.choice(USERS),
            item := rng.choice(ITEMS),
            begin + 1000 * rng.randrange(count // 2 + 1),
            f"category-{item[-1]}",
        )
        for _ in range(count)
    ]


def write(path: Path, rows: list[Row]) -> Path:
    user, item, ts, category = zip(*rows, strict=True)
    table = pa.table({"uid": user, "item": item, "ts": pa.array(ts, pa.timestamp("ms")), "category": category})
    if path.suffix == ".feather":
        feather.write_feather(table, path)
    else:
        pq.write_table(table, path, row_group_size=5000)
    return path


def by_user(rows: list[Row]) -> dict[str, list[tuple[str, int, str]]]:
    """Return what each user did, in the order of time; of equal times, in the order of the rows."""
    found: dict[str, list[tuple[str, int, str]]] = defaultdict(list)
    for user, item, ts, category in sorted(rows, key=lambda row: row[2]):
        found[user].append((item, ts, category))
    return dict(found)


def written(harness: Harness) -> dict[str, list[tuple[str, int, str]]]:
    found: dict[str, list[tuple[str, int, str]]] = defaultdict(list)
    for record in harness.records(harness.topics.behaviors):
        event = decode_behavior(record.value or b"")
        assert record.key == event.user.encode()
        found[event.user].append((event.item, event.ts, event.category))
    return dict(found)


def arguments(harness: Harness, *more: str | Path) -> list[str]:
    config, work = harness.directory / "settings.json", harness.directory / "work"
    return ["backfill", "--config", str(config), "--work", str(work), *map(str, more)]


@pytest.mark.long
def test_a_worker_serves_what_was_backfilled(harness: Harness, capsys: pytest.CaptureFixture[str]) -> None:
    rows = drawn(4000)
    folder = harness.directory / "history"
    folder.mkdir()
    write(folder / "a.parquet", rows[:2500])
    write(folder / "b.feather", rows[2500:])
    with harness:
        command = arguments(harness, "--parquet", folder, "--columns", "user=uid", "--set", "kafka.linger.ms=5")
        assert main(command) == 0
        assert f"{harness.topics.behaviors}: 4000 records written" in capsys.readouterr().out
        expected = by_user(rows)
        assert written(harness) == expected
        assert main(command) == 0  # it is done: nothing is written again
        assert written(harness) == expected
        assert not list((harness.directory / "work").glob("run-*"))
        assert (harness.directory / "work" / REFUSED).read_bytes() == b""
        harness.processes.start("trainer", "trainer")
        harness.start_worker("worker")
        harness.traffic(20)
        for request, score in harness.answers.items():
            assert score.seen >= len(expected[request.user]), "it was answered before its history was folded"
        harness.settle()
        # The harness folds the topic; here, what the files say.
        found: dict[str, list[int]] = {}
        for path in sorted((harness.directory / "state").glob("partition-*")):
            partition = Partition.open(path, length=LENGTH, slack=harness.settings.state.slack)
            found |= {
                user: partition.sequences.read(user)["item"].tolist()
                for user in expected
                if partition.sequences.count(user)
            }
            partition.close()
        later = {user: len(all_rows) - len(expected.get(user, ())) for user, all_rows in written(harness).items()}
        for user, did in expected.items():
            keys = [item_key(item) for item, _, _ in did[-(LENGTH - later[user]) :]]
            assert found[user][: len(keys)] == keys


@pytest.mark.slow
def test_a_killed_backfill_goes_on_and_writes_nothing_twice(harness: Harness) -> None:
    rows = drawn(40_000, seed=2)
    path = write(harness.directory / "history.parquet", rows)
    words = [sys.executable, "-m", "stream.cli", *arguments(harness, "--parquet", path, "--columns", "user=uid")]
    clean = environment(harness.directory / "scratch")
    position = harness.directory / "work" / POSITION
    position.parent.mkdir()
    (position.parent / "run-00000-behaviors.arrow").write_bytes(b"of a run that was killed while it sorted")

    def slices() -> int:
        return int(json.loads(position.read_bytes())["slices"]) if position.exists() else 0

    with harness:
        # Killed when a slice is in Kafka, and the position is not behind it yet.
        done = subprocess.run(
            words, env=clean | {"SAMSTREAM_FAILPOINT": "backfilled@2"}, capture_output=True, timeout=60
        )
        assert done.returncode == -signal.SIGKILL
        assert slices() == 1
        count = len(harness.records(harness.topics.behaviors))
        assert count > 2 * 8000
        # Killed in the middle of one.
        child = subprocess.Popen(words, env=clean, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(lambda: slices() > 2, "another slice", deadline_s=60)
        child.kill()
        child.wait()
        assert not json.loads(position.read_bytes())["done"]
        last = subprocess.run(words, env=clean, capture_output=True, timeout=120, text=True)
        assert last.returncode == 0, last.stderr
        assert written(harness) == by_user(rows)
        assert len(harness.records(harness.topics.behaviors)) == len(rows)
        assert json.loads(position.read_bytes())["records"] == {harness.topics.behaviors: len(rows)}


def test_rows_that_no_worker_would_take_are_kept_with_the_reason(
    harness: Harness, capsys: pytest.CaptureFixture[str]
) -> None:
    now = NOW_MS
    table = pa.table(
        {
            "user": ["u", None, "u", "", "u", "u"],
            "item": ["i", "i", None, "i", "i", "i" * 300],
            "ts": pa.array([now - 5, now, now, now, now + 10**9, now], pa.int64()),
        }
    )
    path = harness.directory / "bad.parquet"
    pq.write_table(table, path)
    with harness:
        assert main(arguments(harness, "--parquet", path)) == 0
        refused = harness.directory / "work" / REFUSED
        assert f"5 of 6 rows refused: they are in {refused}" in capsys.readouterr().out
        kept = {row["row"]: row for row in map(json.loads, refused.read_text().splitlines())}
        assert kept.keys() == {1, 2, 3, 4, 5}
        assert {row["file"] for row in kept.values()} == {str(path)}
        assert kept[1]["reason"] == "`user` is missing"
        assert kept[1]["values"] == {"user": None, "item": "i", "ts": now, "category": None, "action": None}
        assert "Expected `str`" in kept[2]["reason"]
        assert "$.user" in kept[3]["reason"]
        assert "ahead of the record's timestamp" in kept[4]["reason"]
        assert "$.item" in kept[5]["reason"]
        assert list(written(harness)) == ["u"]


def test_times_in_another_unit_are_told_before_anything_is_written(
    harness: Harness, capsys: pytest.CaptureFixture[str]
) -> None:
    path = harness.directory / "seconds.parquet"
    pq.write_table(pa.table({"user": ["u", "v"], "item": ["i", "i"], "when": [NOW_MS // 1000, None]}), path)
    with harness:
        command = arguments(harness, "--parquet", path, "--columns", "ts=when")
        assert main(command) == 1
        assert f"{path}: column 'when' looks like seconds: give --ts-unit s" in capsys.readouterr().err
        assert written(harness) == {}
        assert main([*command, "--ts-unit", "s"]) == 0
        assert written(harness) == {"u": [("i", NOW_MS // 1000 * 1000, "")]}


def test_a_position_of_something_else_is_refused(
    harness: Harness, topic_prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(harness.directory / "history.parquet", drawn(50))
    command = arguments(harness, "--parquet", path, "--columns", "user=uid")
    with harness:
        assert main(command) == 0
        before = written(harness)
        write(path, drawn(60))
        assert main(command) == 1
        assert f"{path} has changed since. To begin another one, give it a folder of its own" in capsys.readouterr().err
        write(path, drawn(50))
        other = write(harness.directory / "more.parquet", drawn(5))
        assert main([*command, "--parquet", str(other)]) == 1
        assert f"it did not read {other}" in capsys.readouterr().err
        assert main([*command, "--ts-unit", "s"]) == 1
        assert "--ts-unit was another" in capsys.readouterr().err
        assert main([*command, "--set", "features.price={of='item',kind='number'}"]) == 1
        assert "[features] was another" in capsys.readouterr().err
        assert main([*command[:3], "--columns", "user=uid"]) == 1
        assert "name files to read: --parquet PATH of behaviours" in capsys.readouterr().err
        assert main([*command, "--columns", "person=uid"]) == 1
        assert "there is no 'person'; there are user, item" in capsys.readouterr().err
        assert written(harness) == before
        position = harness.directory / "work" / POSITION
        said = json.loads(position.read_bytes())
        said["job"]["logs"][harness.topics.behaviors]["topic_id"] = "of one that was deleted"
        position.write_text(json.dumps(said))
        assert main(command) == 1
        assert f"{harness.topics.behaviors} is another one now (deleted and recreated" in capsys.readouterr().err


def test_a_topic_that_was_recreated_since_is_not_taken_for_done(
    harness: Harness, capsys: pytest.CaptureFixture[str]
) -> None:
    command = arguments(harness, "--parquet", write(harness.directory / "history.parquet", drawn(50)))
    command += ["--columns", "user=uid"]
    with harness:
        assert main(command) == 0
        admin, topic = AdminClient({**harness.settings.kafka}), harness.topics.behaviors
        admin.delete_topics([topic])[topic].result()
        wait_for(lambda: topic not in admin.list_topics(timeout=5).topics, "the topic to be gone")
        topic_admin.ensure(harness.settings.kafka, harness.topics, partitions=4, replication=1)
        assert main(command) == 1
        told = capsys.readouterr().err
        assert "recreated" in told
        assert f"remove {harness.directory / 'work'}" in told


def test_features_of_columns_are_features_of_events(harness: Harness) -> None:
    now = NOW_MS
    table = pa.table(
        {
            "user": ["u", "v"],
            "item": [1, 2],
            "ts": [now - 10, now - 5],
            "price": [2.5, float("nan")],
            "labels": [["x", "y"], None],
            "brand": pa.array(["a", None], pa.dictionary(pa.int8(), pa.string())),
            "other": [1, 2],
        }
    )
    path = harness.directory / "featured.arrow"
    feather.write_feather(table, path)
    features = "features={price={of='item',kind='number'},brand={of='item',kind='category'},tags={of='behavior',kind='categories',size=2}}"  # noqa: E501
    with harness:
        assert main(arguments(harness, "--parquet", path, "--set", features, "--columns", "tags=labels")) == 0
        found = {}
        for value in harness.read(harness.topics.behaviors):
            event = decode_behavior(value)
            found[event.user] = json.loads(bytes(event.features)) if isinstance(event.features, msgspec.Raw) else None
        assert found == {"u": {"price": 2.5, "brand": "a", "tags": ["x", "y"]}, "v": None}


@pytest.mark.slow
@pytest.mark.long
def test_labelled_impressions_become_samples_with_the_sequence_before_them(harness: Harness) -> None:
    rng = random.Random(5)
    start = NOW_MS - 24 * HOUR_MS
    did = [(rng.choice(USERS), rng.choice(ITEMS), start + 1000 * number, "") for number in range(600)]
    shown: list[dict[str, Any]] = []
    for number in range(60):
        items = rng.sample(ITEMS, 5)
        labels = [int(rng.random() < 0.3) for _ in items]
        ts = start + 10_000 * number + 500
        shown.append({"user": rng.choice(USERS), "ts": ts, "items": items, "labels": labels, "request_id": None})
    shown[0]["request_id"] = "of the caller"
    rng.shuffle(shown)
    wrong = {"user": "u", "ts": start, "items": ["a", "b"], "labels": [1], "request_id": "short"}
    impressions = harness.directory / "impressions.parquet"
    pq.write_table(pa.Table.from_pylist([*shown, wrong]), impressions)
    history = write(harness.directory / "history.parquet", did)
    with harness:
        names = "behaviors.user=uid"
        assert main(arguments(harness, "--parquet", history, "--impressions", impressions, "--columns", names)) == 0
        asked = [decode_impression(value) for value in harness.read(harness.topics.impressions)]
        clicked = {(click.request, click.item) for click in map(decode_click, harness.read(harness.topics.clicks))}
        assert len(asked) == len({event.request for event in asked}) == len(shown)
        [kept] = (harness.directory / "work" / REFUSED).read_text().splitlines()
        assert json.loads(kept)["reason"] == "`items` has 2 entries and `labels` 1: they must have as many"
        by_time = {(event.user, event.ts): event for event in asked}
        for row in shown:
            event = by_time[row["user"], row["ts"]]
            assert [candidate.item for candidate in event.candidates] == row["items"]
            assert event.slots == 5
            assert [int((event.request, item) in clicked) for item in row["items"]] == row["labels"]
        assert "of the caller" in {event.request_id for event in asked}
        harness.start_worker("worker")
        keys = {item_key(item): item for item in ITEMS}
        expected = {(event.request, candidate.item) for event in asked for candidate in event.candidates}

        def samples() -> dict[Any, int]:
            found = {}
            for sample in map(decode_sample, harness.read(harness.topics.samples)):
                for key, label in zip(np.frombuffer(sample.items, "<u8").tolist(), sample.labels, strict=True):
                    found[sample.request, keys[key]] = label
                before = [row for row in did if row[0] == sample.user and row[2] < sample.ts][-LENGTH:]
                rows = [(item_key(item), category_key(""), action_key("view"), ts) for _, item, ts, _ in before]
                assert sample.sequence.checksum == checksum(behaviors(rows)), "not what was known when it was shown"
            return found

        # The last windows close a minute after the last event, by the clock; here, a later one closes them.
        harness.close_windows()
        wait_for(lambda: samples().keys() == expected, "all samples", processes=harness.processes)
        found = samples()
        assert {pair for pair, label in found.items() if label} == clicked


def test_records_say_which_backfill_wrote_them_and_a_topic_in_use_is_told(
    harness: Harness, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(harness.directory / "history.parquet", drawn(10))
    with harness:
        harness.wander(3)
        harness.client.flush()
        assert main(arguments(harness, "--parquet", path, "--columns", "user=uid")) == 0
        assert f"topic_not_empty topic={harness.topics.behaviors} records=3" in capsys.readouterr().err
        names = [dict(message.headers() or ()) for message in harness.messages(harness.topics.behaviors)]
        assert len({headers[HEADER] for headers in names if headers}) == 10


def test_topics_that_are_missing_and_a_second_backfill_are_told(
    harness: Harness, capsys: pytest.CaptureFixture[str]
) -> None:
    from stream.backfill.position import sole_backfill

    path = write(harness.directory / "history.parquet", drawn(10))
    with harness:
        with sole_backfill(harness.directory / "work"):
            assert main(arguments(harness, "--parquet", path, "--columns", "user=uid")) == 1
        assert "another backfill works in" in capsys.readouterr().err
        nowhere = arguments(harness, "--parquet", path, "--columns", "user=uid", "--set", "topics.prefix=nobodys-")
        assert main(nowhere) == 1
        assert "samstream topics create" in capsys.readouterr().err
        assert topic_admin.verify(harness.settings.kafka, harness.topics) == 4
