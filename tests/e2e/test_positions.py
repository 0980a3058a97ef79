"""A position is kept with what it is a position of: topics recreated, other clusters' names, more partitions."""

import re
import shutil
import signal
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, OffsetSpec  # type: ignore[attr-defined]

from model.serialization.checkpoint import load_newest
from stream.client import Client
from stream.kafka import topic_admin
from stream.kafka.offsets import GroupLag
from stream.local.ports import free_port
from stream.schema.events import Candidate, encode_packed
from stream.schema.topics import Topics
from tests.conftest import PARTITIONS
from tests.e2e.harness import Harness, wait_for
from tests.e2e.raw import RawWriter, good_sample
from tests.e2e.served import served


@pytest.fixture
def harness(kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path) -> Harness:
    return Harness(kafka, topics, topic_prefix, tmp_path, worker={"model_wait_s": 0.0})


def delete(kafka: dict[str, str], *names: str) -> None:
    admin = AdminClient({**kafka, "log_level": 0})
    for deleted in admin.delete_topics(list(names)).values():
        deleted.result()
    wait_for(lambda: not set(names) & admin.list_topics(timeout=10).topics.keys(), "the topics to be gone")


def recreate(kafka: dict[str, str], harness: Harness, *names: str) -> None:
    """Delete topics and make them again; what was asked before lies in topics that are no more."""
    harness.client.close()
    delete(kafka, *names)
    topic_admin.ensure(kafka, harness.topics, partitions=PARTITIONS, replication=1)
    # An idempotent producer does not survive the loss of its topic on every broker.
    harness.client = Client(kafka, harness.topics)
    harness.asked.clear()
    harness.answers.clear()
    harness.clicked.clear()


@pytest.mark.parametrize("state", [pytest.param("kept", marks=pytest.mark.slow), "lost"])
@pytest.mark.parametrize("asked_again", [3, pytest.param(60, marks=pytest.mark.slow)])
def test_impressions_that_were_recreated_are_all_answered(
    kafka: dict[str, str], topics: Topics, harness: Harness, state: str, asked_again: int
) -> None:
    """The group's committed offset, and the state's, are of the topic that was; fewer and more came since."""
    with harness:
        harness.start_worker("before")
        harness.traffic(40)
        harness.client.flush()
        harness.processes.stop()
        recreate(kafka, harness, topics.impressions)
        if state == "lost":
            shutil.rmtree(harness.directory / "state")
        for _ in range(asked_again):
            harness.ask()
        harness.client.flush()
        harness.start_worker("after")
        harness.await_answers()
        if state == "kept":
            assert "topic_recreated" in harness.processes.log("after").read_text()


def test_an_answer_to_an_impression_of_a_topic_that_is_gone_answers_none_of_the_new_one(
    kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path
) -> None:
    """Front ends number their requests from "1" again, and offer the same."""
    offered = [Candidate(f"item-{number}") for number in range(8)]
    worker = {"model_wait_s": 0.0, "max_future_s": 0.0}

    def ask_again(harness: Harness) -> None:
        harness.asked.append(harness.client.impression("user-1", offered, 3, request_id="1"))
        harness.client.flush()

    with Harness(kafka, topics, topic_prefix, tmp_path, worker=worker) as harness:
        harness.start_worker("before")
        ask_again(harness)
        harness.await_answers()
        harness.processes.stop()
        recreate(kafka, harness, topics.impressions)
        shutil.rmtree(harness.directory / "state")
        ask_again(harness)
        harness.start_worker("after")
        harness.await_answers()


@pytest.mark.parametrize(
    "visits",
    [
        # Of a topic without an id, a worker may read what lies behind its place, which is then its own.
        1,
        pytest.param(4, marks=pytest.mark.durable_broker),
    ],
)
def test_a_topic_that_is_recreated_under_a_worker_ends_it_and_the_next_one_answers_everything(
    kafka: dict[str, str], topics: Topics, harness: Harness, visits: int
) -> None:
    """With fewer records in each partition than the worker has read, and with more."""
    with harness:
        harness.start_worker("first")
        for user in [*harness.users, *harness.users]:
            harness.ask(user)
        harness.await_answers()
        recreate(kafka, harness, topics.impressions)
        for _ in range(visits):
            for user in harness.users:
                harness.ask(user)
        harness.client.flush()
        assert topics.impressions in harness.last_words("first")
        harness.start_worker("second")
        harness.await_answers()


def test_behaviors_that_were_recreated_end_the_worker_with_what_to_do(
    kafka: dict[str, str], topics: Topics, harness: Harness
) -> None:
    with harness:
        harness.start_worker("before")
        harness.wander(200)
        harness.traffic(3)
        harness.processes.stop()
        recreate(kafka, harness, topics.behaviors)
        harness.wander(300)
        harness.client.flush()
        harness.processes.start("after", "worker")
        last = harness.last_words("after")
        assert topics.behaviors in last
        assert "recreated" in last
        assert f"Move {harness.directory / 'state'} away" in last
        shutil.move(harness.directory / "state", harness.directory / "moved")
        harness.start_worker("afresh")
        harness.traffic(3)
        harness.client.flush()
        with closing(GroupLag(kafka, harness.settings.worker.group)) as lag:
            wait_for(lambda: not lag.of(topics.behaviors, PARTITIONS), "all to be folded", processes=harness.processes)
        harness.processes.stop()
        harness.check_sequences()


def raise_partitions(kafka: dict[str, str], topics: Topics) -> None:
    """Give every topic keyed by user twice as many partitions."""
    admin = AdminClient({**kafka, "log_level": 0})
    keyed = [topic.name for topic in topics if topic.key == "user"]
    for raised in admin.create_partitions([NewPartitions(name, 2 * PARTITIONS) for name in keyed]).values():
        raised.result()


@pytest.mark.parametrize("state", [pytest.param("kept", marks=pytest.mark.slow), "lost"])
def test_more_partitions_end_the_worker_running_or_restarted_and_nothing_is_answered_from_a_foreign_one(
    kafka: dict[str, str], topics: Topics, harness: Harness, state: str
) -> None:
    with harness:
        harness.start_worker("first")
        harness.traffic(20)
        raise_partitions(kafka, topics)
        assert "number of partitions" in harness.last_words("first")
        if state == "lost":
            shutil.rmtree(harness.directory / "state")
        harness.processes.start("second", "worker")
        last = harness.last_words("second")
        assert f"had {PARTITIONS} partitions; now it has {2 * PARTITIONS}" in last
        answered = len(harness.answers)
        assert len(harness.read(topics.scores)) == answered


def test_more_partitions_end_each_of_several_workers_whichever_partitions_it_is_given(
    kafka: dict[str, str], topics: Topics, harness: Harness
) -> None:
    """Raised while all are down: of the partitions of the second one, nothing is kept and nothing committed."""
    with harness:
        harness.start_worker("first")
        harness.traffic(20)
        harness.processes.stop()
        raise_partitions(kafka, topics)
        for _ in range(20):
            harness.ask()
        harness.client.flush()
        answered = len(harness.answers)
        for name in ("a", "b"):
            harness.processes.start(name, "worker", "--set", f"state.directory={harness.directory / name}")
        for name in ("a", "b"):
            assert f"had {PARTITIONS} partitions; now it has {2 * PARTITIONS}" in harness.last_words(name)
        assert len(harness.read(topics.scores)) == answered


def remove_records(kafka: dict[str, str], topic: str, keep: int) -> int:
    """Have Kafka remove all but the newest records of each partition, as retention does; returns how many."""
    admin = AdminClient({**kafka, "log_level": 0})
    ends = {}
    for number in range(PARTITIONS):
        where = TopicPartition(topic, number)
        [latest] = admin.list_offsets({where: OffsetSpec.latest()}).values()  # type: ignore[no-untyped-call]
        ends[number] = latest.result().offset
    asked = [TopicPartition(topic, number, max(0, end - keep)) for number, end in ends.items()]
    try:
        for deleted in admin.delete_records(asked).values():
            deleted.result()
    except KafkaException as error:
        pytest.skip(f"this broker removes no records on demand: {error}")
    return sum(partition.offset for partition in asked)


@pytest.mark.parametrize("state", [pytest.param("kept", marks=pytest.mark.slow), "lost"])
def test_impressions_that_kafka_removed_before_they_were_answered_are_told_at_the_start(
    kafka: dict[str, str], topics: Topics, harness: Harness, state: str
) -> None:
    """Without a state, it is the group's committed offset that says which ones nobody has answered."""
    with harness:
        harness.start_worker("before")
        harness.traffic(40)
        harness.processes.stop()
        for _ in range(40):
            harness.ask()
        harness.client.flush()
        remove_records(kafka, topics.impressions, keep=1)
        if state == "lost":
            shutil.rmtree(harness.directory / "state")
        harness.processes.start("stops", "worker")
        last = harness.last_words("stops")
        assert f"has read {topics.impressions}/" in last
        assert "topics.on_missing_records=skip" in last
        harness.start_worker("skips", "--set", "topics.on_missing_records=skip")
        assert f"records_missing topic={topics.impressions}" in harness.processes.log("skips").read_text()


@pytest.mark.durable_broker  # the embedded one sends a client all that there is, whatever it asks for
@pytest.mark.parametrize("setting", ["stop", "skip"])
def test_records_that_kafka_removed_under_a_running_worker_stop_it_or_are_counted(
    kafka: dict[str, str], topics: Topics, harness: Harness, setting: str
) -> None:
    """A worker is frozen until what it reads next is gone, as one that falls behind retention.

    What was on its way to it may be one batch a partition: that is as much as it asks for at a time.
    """
    with harness:
        worker = harness.start_worker(
            "worker",
            *("--set", f"topics.on_missing_records={setting}"),
            *("--set", "kafka.max.partition.fetch.bytes=1"),
        )
        harness.traffic(20)
        worker.send_signal(signal.SIGSTOP)
        for _ in range(2):
            harness.wander(1000)
            harness.client.flush()
        remove_records(kafka, topics.behaviors, keep=1)
        worker.send_signal(signal.SIGCONT)
        if setting == "stop":
            last = harness.last_words("worker")
            assert topics.behaviors in last
            assert "topics.on_missing_records=skip" in last
        else:
            log = harness.processes.log("worker")
            gap = f"records_missing topic={topics.behaviors}"
            wait_for(lambda: gap in log.read_text(), "the gap to be logged", processes=harness.processes)
            harness.traffic(5)


@pytest.mark.durable_broker  # the embedded one sends a client all that there is, whatever it asks for
@pytest.mark.parametrize("setting", ["stop", "skip"])
def test_records_that_kafka_removed_under_a_running_trainer_stop_it_or_are_counted(
    kafka: dict[str, str], topics: Topics, harness: Harness, setting: str
) -> None:
    """A trainer is frozen while it waits for samples, until all but the newest of what comes then are gone.

    What was on its way to it may be one sample a partition: that is as much as it asks for at a time.
    """
    written = 0

    def write(writer: RawWriter, count: int) -> None:
        nonlocal written
        for number in range(count * PARTITIONS):
            sample = encode_packed(good_sample(f"request-{written}"))
            writer.write(topics.samples, sample, partition=number % PARTITIONS)
            written += 1

    def accounted() -> int:
        """Return how many samples the newest checkpoint has learned, or counted as missing."""
        found = load_newest(harness.directory / "checkpoints").checkpoint
        return found.counts["samples"] // 2 + found.counts.get("records_missing", 0) if found else 0

    with harness, RawWriter(kafka) as writer:
        trainer = harness.processes.start(
            "trainer",
            "trainer",
            *("--set", f"topics.on_missing_records={setting}"),
            *("--set", "kafka.max.partition.fetch.bytes=1"),
        )
        write(writer, 2)
        wait_for(lambda: accounted() == written, "the first samples to be learned", processes=harness.processes)
        trainer.send_signal(signal.SIGSTOP)
        wait_for(lambda: psutil.Process(trainer.pid).status() == psutil.STATUS_STOPPED, "the trainer to be frozen")
        write(writer, 10)
        remove_records(kafka, topics.samples, keep=1)
        trainer.send_signal(signal.SIGCONT)
        if setting == "stop":
            last = harness.last_words("trainer")
            found = re.search(
                rf"{topics.samples}/\d was read up to (\d+), .*: its oldest record is 11\. .*"
                r"topics\.on_missing_records=skip to go on without these (\d+) records",
                last,
            )
            assert found, last
            read, missing = map(int, found.groups())
            assert read in (2, 3)
            assert read + missing == 11
        else:
            write(writer, 1)
            wait_for(lambda: accounted() == written, "all to be learned or counted", processes=harness.processes)
            log = harness.processes.log("trainer").read_text()
            assert log.count(f"records_missing topic={topics.samples}") == PARTITIONS, log
            assert harness.trained() <= 2 * (written - 8 * PARTITIONS)


@pytest.mark.durable_broker
def test_impressions_that_kafka_removed_unread_are_told_also_by_a_worker_that_has_no_state(
    kafka: dict[str, str], topics: Topics, harness: Harness
) -> None:
    """Where the group stands is all that is known: a worker on another machine, or after its disk was lost."""
    with harness:
        harness.start_worker("before")
        harness.traffic(20)
        harness.end("before")
        shutil.rmtree(harness.directory / "state")
        for _ in range(40):
            harness.ask()
        harness.client.flush()
        remove_records(kafka, topics.impressions, keep=1)
        harness.processes.start("stops", "worker")
        last = harness.last_words("stops")
        assert harness.settings.worker.group in last
        assert topics.impressions in last
        assert "topics.on_missing_records=skip" in last
        port = free_port()
        harness.start_worker(
            "skips", "--set", "topics.on_missing_records=skip", "--set", f"worker.metrics=127.0.0.1:{port}"
        )
        gap = rf"records_missing topic={topics.impressions} partition=(\d) missing=(\d+) "

        def lost() -> int:
            """Return how many are told to be missing; a partition may be planned again after a rebalance."""
            found = dict(re.findall(gap, harness.processes.log("skips").read_text()))
            return sum(map(int, found.values()))

        def rest_answered() -> bool:
            harness.react(0.05)
            return len(harness.asked) - len(harness.answers) == lost() > 0

        wait_for(rest_answered, "all but the removed ones to be answered", processes=harness.processes)
        told = "samstream_events_total", "records_missing"
        wait_for(lambda: served(port).get(told, 0) >= lost(), "the metric", processes=harness.processes)


def test_a_trainer_refuses_the_checkpoints_of_another_prefix_and_names_both_topics(
    kafka: dict[str, str], topics: Topics, harness: Harness, topic_prefix: str
) -> None:
    other = Topics(f"{topic_prefix}other-")
    topic_admin.ensure(kafka, other, partitions=PARTITIONS, replication=1)
    with harness:
        harness.processes.start("trainer", "trainer")
        harness.start_worker("worker")
        harness.traffic(20)
        harness.close_windows()
        wait_for(lambda: harness.trained() >= len(harness.shown()), "all to be trained", processes=harness.processes)
        harness.processes.stop()
        harness.processes.start("elsewhere", "trainer", "--set", f"topics.prefix={topic_prefix}other-")
        last = harness.last_words("elsewhere")
        assert topics.samples in last
        assert other.samples in last


def test_a_trainer_reads_samples_that_were_recreated_from_their_beginning(
    kafka: dict[str, str], topics: Topics, harness: Harness
) -> None:
    with harness:
        harness.processes.start("trainer", "trainer")
        harness.start_worker("worker")
        harness.traffic(20)
        harness.close_windows()
        wait_for(lambda: harness.trained() >= len(harness.shown()), "all to be trained", processes=harness.processes)
        learned = harness.trained()
        harness.processes.stop()
        recreate(kafka, harness, topics.samples)
        harness.start_worker("again")
        harness.traffic(60)
        harness.processes.start("afresh", "trainer")
        wait_for(
            lambda: harness.trained() == learned + len(harness.clicked),
            "all that was clicked since to be trained",
            processes=harness.processes,
        )
        assert f"topic_recreated topic={topics.samples}" in harness.processes.log("afresh").read_text()


@pytest.mark.durable_broker  # a producer does not survive that its topic is recreated on the embedded one
def test_updates_that_are_recreated_under_a_trainer_hold_all_parameters_again(
    kafka: dict[str, str], topics: Topics, harness: Harness
) -> None:
    """No sample comes meanwhile, so there is no checkpoint that would be followed by them."""
    with harness:
        harness.processes.start("trainer", "trainer")
        arms = len(harness.settings.arms)

        def hold(records: int) -> None:
            what = f"{records} updates"
            wait_for(lambda: len(harness.read(topics.model_updates)) >= records, what, processes=harness.processes)

        hold(2 * arms)  # of the start, and of the first checkpoint
        recreate(kafka, harness, topics.model_updates)
        hold(arms)
        assert f"topic_recreated topic={topics.model_updates}" in harness.processes.log("trainer").read_text()
