"""The trainer learns from the sequences that samples name, as they were: whoever dies, starts late or loses a disk."""

import shutil
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from xxhash import xxh3_64_intdigest

from model.example import Example
from model.learner import Learner
from model.serialization.checkpoint import Checkpoint, load_newest
from model.statistics.item_statistics import unpack_numbers
from state.behavior import checksum
from stream.kafka.offsets import GroupLag
from stream.schema.events import Sample, SequenceName, decode_sample, encode_packed
from stream.schema.topics import Topics
from stream.trainer.predictions import predictions_path, read_predictions
from tests.e2e.harness import LENGTH, USERS, Harness, wait_for
from tests.e2e.raw import RawWriter, good_sample

MODEL = {"item_dim": 4, "category_dim": 4, "statistics": []}
ARM = {"name": "sam", "preset": f"sam-{LENGTH}", "model": MODEL}
FROZEN = (
    f"arms=[{{name='sam', preset='sam-{LENGTH}', learn=false, model={{item_dim=4, category_dim=4, statistics=[]}}}}]"
)
SHORT_S = 120.0
"""An attribution window that the end of all others, as `Harness` has it, is well behind."""


@pytest.fixture
def harness(kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path) -> Harness:
    trainer = {"progressive_log": str(tmp_path / "predictions")}
    worker = {"attribution_window_s": SHORT_S}
    return Harness(kafka, topics, topic_prefix, tmp_path, arms=[ARM], trainer=trainer, worker=worker)


def newest(harness: Harness) -> Checkpoint:
    found = load_newest(harness.directory / "checkpoints").checkpoint
    assert found is not None
    return found


def await_processed(harness: Harness, topic: str) -> None:
    """Wait until the workers have processed a topic."""
    harness.client.flush()
    with closing(GroupLag(harness.settings.kafka, harness.settings.worker.group)) as lag:
        wait_for(lambda: not lag.of(topic, 4), f"all of {topic}", processes=harness.processes)


def wander(harness: Harness, count: int) -> None:
    """Let users do `count` things, and have them folded: all who ask then are scored with them, in any order."""
    harness.wander(count)
    await_processed(harness, harness.topics.behaviors)


def close_windows(harness: Harness, ahead_s: float) -> None:
    """Move event time on, once all clicks are processed; not as far as `Harness.close_windows` does."""
    await_processed(harness, harness.topics.clicks)
    for user in USERS:
        harness.client.behavior(user, "item-0", round(1000 * (time.time() + ahead_s)))


def nothing_missing(harness: Harness) -> bool:
    return not newest(harness).counts.get("samples_without_sequence", 0)


Row = tuple[int, int, int, float]
"""`ts`, hash of the user, label, probability."""


def expected_rows(harness: Harness, learner: Learner, after: Checkpoint) -> list[Row]:
    """What a frozen model predicts of the samples behind a checkpoint, on sequences folded in plain Python; sorted."""
    everything, seen, rows = harness.folded(), set[tuple[str, str, int]](), list[Row]()
    for record in harness.records(harness.topics.samples):
        sample = decode_sample(record.value or b"")
        items = np.frombuffer(sample.items, "<u8")
        new = [place for place, item in enumerate(items.tolist()) if (*sample.request, item) not in seen]
        seen |= {(*sample.request, item) for item in items.tolist()}
        if record.offset < after.offsets[record.partition] or not new:
            continue
        stop = sample.sequence.seen
        example = Example(
            everything[sample.user][max(0, stop - LENGTH) : stop],
            sample.ts,
            items[new],
            np.frombuffer(sample.categories, "<u4")[new],
            np.frombuffer(sample.labels, "u1")[new].astype(np.float32),
            numbers=unpack_numbers(sample.numbers, len(items), 0),
            positions=np.frombuffer(sample.positions, "<u2")[new],
        )
        labels, [probabilities] = example.labels, learner.predict([example])
        assert labels is not None
        user = xxh3_64_intdigest(sample.user.encode())
        for label, probability in zip(labels.tolist(), probabilities.tolist(), strict=True):
            rows.append((sample.ts, user, int(label), probability))
    return sorted(rows)


@pytest.mark.long
def test_predictions_are_those_on_the_sequences_of_then_once_each_whoever_is_killed(harness: Harness) -> None:
    with harness:
        harness.processes.start("teacher", "trainer", "--set", "trainer.checkpoint_interval_s=0.5")
        harness.start_worker("worker-1", instance="one")
        harness.wander(300)
        harness.traffic(40)
        close_windows(harness, SHORT_S + 10)
        shown = len(harness.shown())
        wait_for(lambda: harness.trained() >= shown, "the arm to learn", processes=harness.processes)
        harness.end("teacher")
        begun = newest(harness)
        # From here on the arm is frozen: what it predicts depends on the sequence alone, and is in the log.
        harness.processes.start("trainer-0", "trainer", "--set", FROZEN)
        harness.traffic(20)
        for number in range(3):
            before = harness.trained()
            harness.traffic(15)
            wait_for(lambda: harness.trained() > before, "a checkpoint", processes=harness.processes)  # noqa: B023
            harness.replace_worker_after_an_answer(f"worker-{number + 1}", f"worker-{number + 2}")
            harness.kill(f"trainer-{number}")
            harness.traffic(5)
            harness.processes.start(f"trainer-{number + 1}", "trainer", "--set", FROZEN)
        harness.settle()
        assert nothing_missing(harness)
    [arm] = harness.settings.models
    learner = Learner(harness.settings.spec(arm), arm.optim, seed=harness.settings.seed)
    learner.load_state(begun.arms["sam"].tensors)
    rows = read_predictions(predictions_path(harness.settings, "sam"))[begun.arms["sam"].progress["predictions"] :]
    found, expected = sorted(rows.tolist()), expected_rows(harness, learner, begun)
    assert len({round(probability, 4) for *_, probability in found}) > 50, "the model tells sequences apart"
    assert [row[:3] for row in found] == [row[:3] for row in expected]
    # Computed in other batches. In the log they are float32; a sort among those of one request may differ by that only.
    np.testing.assert_allclose([row[3] for row in found], [row[3] for row in expected], atol=1e-5)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("snapshots", [pytest.param(False, id="log"), pytest.param(True, id="snapshots")])
def test_a_trainer_that_starts_late_or_has_lost_its_sequences_has_them_as_of_each_sample(
    kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path, snapshots: bool
) -> None:
    state = {"snapshots": str(tmp_path / "snapshots") if snapshots else "", "snapshot_interval_s": 0.5, "slack": 0}
    state |= {"snapshots_kept": 1000}
    worker = {"labels": "early", "label_wait_s": 0.05, "model_wait_s": 0.0}
    harness = Harness(kafka, topics, topic_prefix, tmp_path, state=state, arms=[ARM], worker=worker)
    with harness:
        harness.start_worker("worker")
        for phase in range(1, 5):  # each user does more than the ring holds beyond what a sample of before had read
            wander(harness, 1500)
            harness.traffic(10)
            close_windows(harness, phase)
        harness.processes.start("late", "trainer")
        harness.traffic(10)
        wait_for(lambda: harness.trained() > 20, "learning", processes=harness.processes)
        harness.kill("late")
        lost = [*tmp_path.glob("checkpoints/*/sequences"), tmp_path / "checkpoints" / "sequences"]
        assert len(lost) > 1
        for path in lost:
            shutil.rmtree(path)
        close_windows(harness, 5)
        wander(harness, 300)
        harness.traffic(10)
        harness.processes.start("again", "trainer")
        harness.settle()
        log = harness.processes.log("again").read_text()
        assert ("restored partition=" in log) == snapshots, log
        assert nothing_missing(harness)


def test_a_sample_whose_sequence_cannot_be_had_is_counted_and_holds_up_nothing(harness: Harness) -> None:
    with harness, RawWriter(harness.settings.kafka) as raw:
        user, begun = USERS[0], round(1000 * time.time()) - 10_000
        for number in range(20 + 4 * LENGTH + harness.settings.state.slack):
            harness.client.behavior(user, f"item-{number % 60}", begun + number)
        harness.client.flush()
        [all_of_it] = harness.folded().values()
        partition = next(record.partition for record in harness.records(harness.topics.behaviors))
        end = len(all_of_it)
        first, last = checksum(all_of_it[:20]), checksum(all_of_it[-LENGTH:])

        def write(request_id: str, name: SequenceName) -> None:
            sample = good_sample(request_id)
            values = {field: getattr(sample, field) for field in Sample.__struct_fields__} | {"sequence": name}
            raw.write(harness.topics.samples, encode_packed(Sample(**values)), key=user.encode(), partition=partition)

        # Nothing is folded for what Kafka does not have: it would overwrite what comes next.
        write("of another topic", SequenceName(10**6, 10**6, last + 1))
        write("as of then", SequenceName(20, 20, first))
        write("the newest", SequenceName(end, end, last))
        write("overwritten", SequenceName(20, end, first))
        write("never was", SequenceName(end, end, last + 1))
        write("counted elsewhere", SequenceName(10**6, 10**6, last))
        harness.processes.start("trainer", "trainer")
        log = harness.processes.log("trainer")
        wait_for(lambda: "checkpoint " in log.read_text() and harness.trained() >= 6, "the rest to be learned")
        harness.end("trainer")
        counts = newest(harness).counts
        assert (counts["samples"], counts["samples_without_sequence"]) == (6, 6), counts
        assert "sequence_missing seen=1000000 read_to=1000000" in log.read_text(), log.read_text()
