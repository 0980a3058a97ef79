"""A monitor's counts belong to topics: recreated, of another prefix, with more partitions, or removed by Kafka."""

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, OffsetSpec  # type: ignore[attr-defined]

from stream.kafka import topic_admin
from stream.local.broker import Broker
from stream.local.ports import free_port
from stream.schema.topics import Topics
from tests.conftest import PARTITIONS
from tests.e2e.harness import wait_for
from tests.e2e.served import served
from tests.e2e.test_broker_trouble import frozen
from tests.e2e.test_monitor import Monitors, Traffic
from tests.e2e.test_monitor_metrics import written

Monitoring = Callable[[str], tuple[Monitors, Traffic]]


@pytest.fixture
def monitoring(kafka: dict[str, str], topic_prefix: str, tmp_path: Path) -> Iterator[Monitoring]:
    """Make monitors, and the traffic that they count, of a prefix that begins with the test's."""
    made: list[Monitors] = []

    def make(more: str) -> tuple[Monitors, Traffic]:
        prefix = topic_prefix + more
        topics = Topics(prefix)
        topic_admin.ensure(kafka, topics, partitions=PARTITIONS, replication=1)
        directory = tmp_path / (more or "first")
        directory.mkdir()
        made.append(Monitors(kafka, topics, prefix, directory))
        return made[-1], Traffic(kafka, topics)

    yield make
    for monitors in made:
        monitors.processes.stop()


def recreate(kafka: dict[str, str], monitors: Monitors) -> Traffic:
    """Delete `outcomes` and make it again; returns traffic that goes there."""
    topics = monitors.topics
    admin = AdminClient({**kafka, "log_level": 0})
    for deleted in admin.delete_topics([topics.outcomes]).values():
        deleted.result()
    wait_for(lambda: topics.outcomes not in admin.list_topics(timeout=10).topics, "the topic to be gone")
    topic_admin.ensure(kafka, topics, partitions=PARTITIONS, replication=1)
    return Traffic(kafka, topics, seed=5)


def end_of(monitors: Monitors, name: str) -> str:
    """Wait until a monitor has ended with status 1; returns its last log line, which is no stack trace."""
    process = monitors.processes.release(name)
    wait_for(lambda: process.poll() is not None, f"{name} to end", processes=monitors.processes)
    log = monitors.processes.log(name).read_text()
    assert process.returncode == 1, log
    assert "Traceback" not in log, log
    return log.splitlines()[-1]


def judges(monitors: Monitors, name: str, traffic: Traffic) -> None:
    """Wait until a monitor has counted some traffic, and nothing else, and says of it what the oracle says."""
    wait_for(lambda: says(monitors.state(name), traffic), f"{name} to count that", processes=monitors.processes)


def says(state: dict[str, Any], traffic: Traffic) -> bool:
    shown = {arm["name"]: arm["so_far"]["shown"] for arm in state.get("arms", ())}
    told, oracle = state.get("verdict", {}), traffic.verdict
    return sum(shown.values()) == traffic.shown and all(
        told[key] == oracle[key] for key in ("winner", "sentence", "users", "doubts")
    )


def publishes(monitors: Monitors, traffic: Traffic) -> None:
    """Wait until what was published of the windows of some traffic is what was written."""

    def agrees() -> bool:
        said = monitors.published()
        newest = {where: said.get(where) for where in traffic.counted}
        return traffic.counted == {
            where: [each.impressions, each.shown, each.clicks] for where, each in newest.items() if each is not None
        }

    wait_for(agrees, "the counts to be the oracle's", processes=monitors.processes)


@pytest.mark.slow
@pytest.mark.parametrize(("visits", "tables"), [(20, "lost"), (20, "kept"), (500, "kept"), (500, "lost")])
def test_outcomes_that_were_recreated_are_counted_and_none_of_the_old_ones(
    kafka: dict[str, str], monitoring: Monitoring, tables: str, visits: int
) -> None:
    """The committed offsets, the tables and the partials are of the topic that was; fewer and more came since."""
    monitors, old = monitoring("")
    old.write(300)
    monitors.start("a")
    judges(monitors, "a", old)
    monitors.end("a")
    if tables == "lost":
        shutil.rmtree(monitors.directory / "a")
    new = recreate(kafka, monitors)
    new.write(visits)
    monitors.processes.log("a").unlink()
    monitors.start("a")

    def judged() -> bool:
        state = monitors.state("a")
        for arm in state.get("arms", ()):
            assert arm["so_far"]["shown"] <= new.shown
            assert arm["shown"] <= new.shown
        return says(state, new)

    wait_for(judged, "the verdict to be of the new outcomes", processes=monitors.processes)
    new.close_windows()
    publishes(monitors, new)
    log = monitors.processes.log("a").read_text()
    assert log.count(f"topic_recreated topic={monitors.topics.outcomes}") == 1, log
    monitors.end("a")
    monitors.start("a")
    judges(monitors, "a", new)


def test_outcomes_that_are_recreated_under_a_monitor_end_it_and_the_next_one_counts_them(
    broker: Broker, kafka: dict[str, str], monitoring: Monitoring
) -> None:
    monitors, old = monitoring("")
    old.write(200)
    monitors.start("a")
    judges(monitors, "a", old)
    new = recreate(kafka, monitors)
    new.write(300)
    last = end_of(monitors, "a")
    assert monitors.topics.outcomes in last
    assert "recreated" in last
    assert "Start the monitor again" in last
    # Of its own id, it may be given what the group had while the topic was missing: docs/architecture.md, weaknesses.
    embedded = broker.engine is not None and broker.engine.name == "embedded"
    monitors.start("a", "--set", f"kafka.group.instance.id={'a' if embedded else 'next'}")
    judges(monitors, "a", new)
    new.close_windows()
    publishes(monitors, new)


def test_two_prefixes_share_nothing_by_default(monitoring: Monitoring) -> None:
    for more, visits in (("", 200), ("other.", 50)):
        monitors, traffic = monitoring(more)
        traffic.write(visits)
        monitors.start("a", "--set", "monitor.group=")
        judges(monitors, "a", traffic)


@pytest.mark.parametrize("shared", ["monitor.group", pytest.param("monitor.directory", marks=pytest.mark.slow)])
@pytest.mark.parametrize("first", ["running", pytest.param("ended", marks=pytest.mark.slow)])
def test_what_two_prefixes_share_is_refused_and_both_topics_are_named(
    monitoring: Monitoring, topic_prefix: str, shared: str, first: str
) -> None:
    mine, traffic = monitoring("")
    theirs, others = monitoring("other.")
    traffic.write(100)
    others.write(50)
    mine.start("a")
    judges(mine, "a", traffic)
    if first == "ended":
        mine.end("a")
    same = f"{topic_prefix}monitor" if shared == "monitor.group" else f"{mine.directory}/a"
    theirs.start("b", "--set", f"{shared}={same}")
    last = end_of(theirs, "b")
    assert mine.topics.outcomes in last
    assert theirs.topics.outcomes in last
    assert "of its own" in last
    if first == "ended":
        mine.start("a")
    judges(mine, "a", traffic)
    theirs.start("b")
    judges(theirs, "b", others)


@pytest.mark.durable_broker  # the embedded one does not answer when it is asked to delete a group
def test_a_group_whose_offsets_are_gone_is_refused_by_its_tables(
    kafka: dict[str, str], monitoring: Monitoring, topic_prefix: str
) -> None:
    mine, traffic = monitoring("")
    theirs, others = monitoring("other.")
    traffic.write(100)
    others.write(50)
    mine.start("a")
    judges(mine, "a", traffic)
    mine.end("a")
    group = f"{topic_prefix}monitor"
    admin = AdminClient({**kafka, "log_level": 0})

    def deleted() -> bool:
        try:
            admin.delete_consumer_groups([group])[group].result()
        except KafkaException:
            return False  # a static member stays in it for its session timeout
        return True

    wait_for(deleted, "the group to be gone")
    theirs.start("b", "--set", f"monitor.group={group}")
    last = end_of(theirs, "b")
    assert mine.topics.outcomes in last
    assert theirs.topics.outcomes in last


@pytest.mark.slow
def test_more_partitions_end_a_monitor_running_or_started(kafka: dict[str, str], monitoring: Monitoring) -> None:
    monitors, traffic = monitoring("")
    traffic.write(100)
    monitors.start("a")
    judges(monitors, "a", traffic)
    admin = AdminClient({**kafka, "log_level": 0})
    keyed = [topic.name for topic in monitors.topics if topic.key == "user"]
    for raised in admin.create_partitions([NewPartitions(name, 2 * PARTITIONS) for name in keyed]).values():
        raised.result()
    assert "number of partitions" in end_of(monitors, "a")
    monitors.start("a")
    last = end_of(monitors, "a")
    assert f"had {PARTITIONS} partitions; now it has {2 * PARTITIONS}" in last
    assert "another monitor.group" in last
    monitors.start("b", "--set", f"monitor.group={monitors.topics.outcomes}-again")
    judges(monitors, "b", traffic)
    log = monitors.processes.log("b").read_text()
    assert f"partitions_differ configured={PARTITIONS} topics={2 * PARTITIONS}" in log, log


@pytest.mark.slow
def test_a_changelog_that_was_deleted_is_not_believed_to_be_on_disk(
    kafka: dict[str, str], monitoring: Monitoring
) -> None:
    monitors, traffic = monitoring("")
    traffic.write(200)
    monitors.start("a")
    judges(monitors, "a", traffic)
    monitors.end("a")
    admin = AdminClient({**kafka, "log_level": 0})
    [changelog] = [
        name for name in admin.list_topics(timeout=10).topics if name.startswith(f"{monitors.group}-counts-")
    ]
    for deleted in admin.delete_topics([changelog]).values():
        deleted.result()
    wait_for(lambda: changelog not in admin.list_topics(timeout=10).topics, "the changelog to be gone")
    traffic.write(100)
    monitors.start("a")
    judges(monitors, "a", traffic)
    monitors.end("a")
    shutil.rmtree(monitors.directory / "a")
    monitors.start("a")
    judges(monitors, "a", traffic)


@pytest.mark.slow
def test_partials_that_kafka_removed_are_written_again(kafka: dict[str, str], monitoring: Monitoring) -> None:
    """As after a pause that is longer than Kafka keeps them."""
    monitors, traffic = monitoring("")
    traffic.write(100)
    monitors.start("a")
    judges(monitors, "a", traffic)
    monitors.end("a")
    admin = AdminClient({**kafka, "log_level": 0})
    partials = f"{monitors.group}-fragments"
    for deleted in admin.delete_topics([partials]).values():
        deleted.result()
    wait_for(lambda: partials not in admin.list_topics(timeout=10).topics, "the partials to be gone")
    monitors.start("a")
    judges(monitors, "a", traffic)


@pytest.mark.slow
def test_windows_of_another_length_and_back_count_all_that_kafka_has(monitoring: Monitoring, broker: Broker) -> None:
    embedded = broker.engine is not None and broker.engine.name == "embedded"
    monitors, traffic = monitoring("")
    traffic.write(150)
    for life, window_s in enumerate((2, 4, 2, 2)):
        # Of a static member that is back at once, Kafka keeps the assignment, with the other table's changelog; the
        # embedded broker waits for one that does not come back.
        member = f"kafka.group.instance.id={'one' if embedded else life}"
        monitors.start("a", "--set", f"monitor.window_s={window_s}", "--set", member)
        judges(monitors, "a", traffic)
        monitors.end("a")
        traffic.write(30)


def remove(kafka: dict[str, str], topic: str, keep: int) -> dict[int, int]:
    """Have Kafka remove all but the newest records of each partition; returns partition → how many are gone."""
    admin = AdminClient({**kafka, "log_level": 0})
    gone = {}
    for number in range(PARTITIONS):
        where = TopicPartition(topic, number)
        [latest] = admin.list_offsets({where: OffsetSpec.latest()}).values()  # type: ignore[no-untyped-call]
        gone[number] = max(0, latest.result().offset - keep)
    asked = [TopicPartition(topic, number, offset) for number, offset in gone.items()]
    for deleted in admin.delete_records(asked).values():
        deleted.result()
    return gone


@pytest.mark.durable_broker  # the embedded one never removes records
@pytest.mark.parametrize("when", ["ended", "frozen"])
@pytest.mark.parametrize("setting", ["stop", "skip"])
def test_outcomes_that_kafka_removed_unread_stop_a_monitor_or_are_counted_as_missing(
    kafka: dict[str, str], monitoring: Monitoring, setting: str, when: str
) -> None:
    monitors, traffic = monitoring("")
    outcomes, port = monitors.topics.outcomes, free_port()
    more = ("--set", f"topics.on_missing_records={setting}", "--set", f"monitor.metrics=127.0.0.1:{port}")
    traffic.write(100)
    monitors.start("a", *more)
    judges(monitors, "a", traffic)
    before = written(kafka, outcomes)
    if when == "ended":
        monitors.end("a")
        traffic.write(500)
        gone = sum(remove(kafka, outcomes, keep=3).values())
        monitors.start("a", *more)
    else:
        monitor = monitors.processes.release("a")
        monitor.send_signal(signal.SIGSTOP)
        traffic.write(500)
        gone = sum(remove(kafka, outcomes, keep=3).values())
        monitor.send_signal(signal.SIGCONT)
        monitors.processes._children["a"] = monitor
    if setting == "stop":
        last = end_of(monitors, "a")
        assert outcomes in last
        assert "topics.on_missing_records=skip" in last
        return
    log = monitors.processes.log("a")
    gap = f"records_missing topic={outcomes}"
    wait_for(lambda: gap in log.read_text(), "the gap to be logged", processes=monitors.processes)

    def read_on() -> bool:
        told = served(port)
        counted = told.get(("samstream_events_total", "outcomes"), 0) - (before if when == "frozen" else 0)
        missing = told.get(("samstream_events_total", "records_missing"))
        return bool(missing and counted + missing >= written(kafka, outcomes) - before)

    wait_for(read_on, "the rest to be counted", processes=monitors.processes)
    told = served(port)
    if when == "ended":
        assert told["samstream_events_total", "records_missing"] == gone - before
        assert told["samstream_events_total", "outcomes"] == 3 * PARTITIONS


@pytest.mark.durable_broker
def test_answers_that_kafka_removed_unread_are_said_and_stop_no_monitor(
    kafka: dict[str, str], monitoring: Monitoring
) -> None:
    monitors, traffic = monitoring("")
    scores = monitors.topics.scores
    traffic.write(50)
    traffic.answer(200)
    monitors.start("a")
    judges(monitors, "a", traffic)
    wait_for(lambda: monitors.committed(scores) >= 200, "the answers to be read", processes=monitors.processes)
    monitors.end("a")
    traffic.answer(200)
    remove(kafka, scores, keep=1)
    monitors.start("a")
    judges(monitors, "a", traffic)
    assert f"records_missing topic={scores}" in monitors.processes.log("a").read_text()


@pytest.mark.slow
def test_a_monitor_that_stops_while_kafka_does_not_answer_ends_and_the_next_one_counts_on(
    broker: Broker, monitoring: Monitoring
) -> None:
    monitors, traffic = monitoring("")
    traffic.write(100)
    monitors.start("a")
    judges(monitors, "a", traffic)
    traffic.write(100)
    child = monitors.processes.release("a")
    with frozen(broker):
        child.terminate()
        status = child.wait(30)
    log = monitors.processes.log("a").read_text()
    assert "Traceback" not in log
    assert status == 0 or "told to stop" in log
    traffic.write(100)
    monitors.start("a")
    judges(monitors, "a", traffic)
