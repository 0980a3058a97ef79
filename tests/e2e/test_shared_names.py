"""Two prefixes that are given the same names, and settings that say another number of partitions than Kafka."""

from pathlib import Path

from stream.kafka import topic_admin
from stream.schema.topics import Topics
from tests.conftest import PARTITIONS
from tests.e2e.harness import Harness, wait_for


def test_workers_of_two_prefixes_in_one_group_answer_and_say_that_they_share_it(
    kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path
) -> None:
    other = f"{topic_prefix}other-"
    topic_admin.ensure(kafka, Topics(other), partitions=PARTITIONS, replication=1)
    for directory in ("mine", "theirs"):
        (tmp_path / directory).mkdir()
    quick = {"model_wait_s": 0.0}
    with (
        Harness(kafka, topics, topic_prefix, tmp_path / "mine", worker=quick) as mine,
        Harness(kafka, Topics(other), other, tmp_path / "theirs", worker=quick) as theirs,
    ):
        mine.start_worker("mine")
        mine.traffic(10)
        theirs.start_worker("theirs", "--set", f"worker.group={mine.settings.worker.group}")
        theirs.traffic(10)
        mine.traffic(10)
        told = theirs.processes.log("theirs").read_text()
        assert f"group_shared group={mine.settings.worker.group}" in told
        assert topics.impressions in told
        assert "give each topics.prefix a worker.group of its own" in told
        assert "group_shared" not in mine.processes.log("mine").read_text()


def test_a_state_directory_of_another_prefix_is_refused_even_before_it_holds_any_state(
    kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path
) -> None:
    """With both prefixes' partitions on several machines, neither need ever meet a state of the other."""
    other = Topics(f"{topic_prefix}other-")
    topic_admin.ensure(kafka, other, partitions=PARTITIONS, replication=1)
    with Harness(kafka, topics, topic_prefix, tmp_path, worker={"model_wait_s": 0.0}) as harness:
        harness.start_worker("mine")
        for path in (tmp_path / "state").glob("partition-*"):
            path.rename(tmp_path / path.name)
        harness.processes.start("theirs", "worker", "--set", f"topics.prefix={topic_prefix}other-")
        last = harness.last_words("theirs")
        assert topics.behaviors in last
        assert other.behaviors in last
        assert f"move {tmp_path / 'state'} away" in last


def test_predictions_of_two_prefixes_lie_apart_and_two_trainers_of_one_do_not_write_over_each_other(
    kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path
) -> None:
    other, folder = f"{topic_prefix}other-", tmp_path / "predictions"
    topic_admin.ensure(kafka, Topics(other), partitions=PARTITIONS, replication=1)

    def start(name: str, *more: str) -> None:
        own = ("--set", f"trainer.directory={tmp_path / name}", "--set", f"trainer.progressive_log={folder}")
        harness.processes.start(name, "trainer", *own, *more)

    def begun(name: str) -> bool:
        return "started arms=" in harness.processes.log(name).read_text()

    with Harness(kafka, topics, topic_prefix, tmp_path) as harness:
        start("mine")
        start("theirs", "--set", f"topics.prefix={other}")
        wait_for(lambda: begun("mine") and begun("theirs"), "both to begin", processes=harness.processes)
        written = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.predictions"))
        assert written == sorted(
            f"prefix-{prefix}/{arm}.predictions" for prefix in (topic_prefix, other) for arm in ("counts", "sam")
        )
        start("second")
        last = harness.last_words("second")
        assert str(folder / f"prefix-{topic_prefix}" / "sam.predictions") in last
        assert "trainer.progressive_log" in last


def test_another_number_of_partitions_in_the_settings_is_said_and_kafkas_holds(
    kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path
) -> None:
    with Harness(kafka, topics, topic_prefix, tmp_path, worker={"model_wait_s": 0.0}) as harness:
        more = ("--set", f"topics.partitions={PARTITIONS + 3}")
        harness.processes.start("trainer", "trainer", *more)
        harness.start_worker("worker", *more)
        harness.traffic(10)
        harness.close_windows()
        wait_for(lambda: harness.trained() >= len(harness.shown()), "all to be trained", processes=harness.processes)
        said = f"partitions_differ configured={PARTITIONS + 3} topics={PARTITIONS}"
        for name in ("trainer", "worker"):
            assert harness.processes.log(name).read_text().count(said) == 1
