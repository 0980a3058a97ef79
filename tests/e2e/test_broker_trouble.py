"""A broker that freezes, dies, is slow or refuses a record: the jobs wait or say what to do, and lose nothing."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from stream.kafka import topic_admin
from stream.kafka.dead_letters import read_dead_letters
from stream.kafka.offsets import GroupLag
from stream.kafka.producer import ReliableProducer
from stream.kafka.reader import TopicReader
from stream.local.broker import Broker
from stream.schema.events import Candidate
from stream.schema.partitioner import partition_of
from stream.schema.topics import Topics
from tests.conftest import PARTITIONS
from tests.e2e.harness import USERS, Harness, wait_for
from tests.e2e.raw import RawWriter

STATIC = ("--set", "kafka.group.instance.id=one")


@pytest.fixture
def harness(kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path) -> Harness:
    return Harness(kafka, topics, topic_prefix, tmp_path)


@pytest.fixture
def limit(kafka: dict[str, str], broker: Broker) -> Callable[[str, int], None]:
    """Sets how large a record a topic takes."""
    if broker.engine is not None and broker.engine.name == "embedded":
        pytest.skip("the embedded broker takes any record of up to 1 MB, whatever the topic says")
    admin = AdminClient({**kafka})

    def set_limit(topic: str, most: int) -> None:
        entry = ConfigEntry("max.message.bytes", str(most), incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
        for done in admin.incremental_alter_configs([resource]).values():
            done.result(20)

    return set_limit


@contextmanager
def frozen(broker: Broker) -> Iterator[None]:
    """Stop the broker (SIGSTOP) while the block runs."""
    if broker.process is None:
        pytest.skip("the broker runs elsewhere")
    os.kill(broker.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(broker.process.pid, signal.SIGCONT)


def live(seconds: float, *harnesses: Harness) -> None:
    """Let users visit and act for a while, whether anybody answers or not."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for harness in harnesses:
            harness.ask()
            harness.wander(2)
            harness.react(0.02)


def start(harness: Harness, instance: str | None = "one") -> None:
    """Start a trainer and a worker, and have traffic flow."""
    harness.processes.start("trainer", "trainer")
    harness.start_worker("worker", instance=instance)
    harness.wander(300)
    harness.traffic(10)


@contextmanager
def killed(broker: Broker) -> Iterator[None]:
    """Have the broker dead while the block runs."""
    broker.kill()
    try:
        yield
    finally:
        broker.start()


def warnings(harness: Harness, name: str) -> list[str]:
    """Return the lines of a job's log that are no INFO."""
    return [line for line in harness.processes.log(name).read_text().splitlines() if " INFO " not in line]


def told_it_is_over(harness: Harness, name: str) -> bool:
    """Say whether a job has told of trouble, and of the end of each."""
    told = warnings(harness, name)
    begun, over = (sum(f" {event} " in line for line in told) for event in ("kafka_errors", "kafka_recovered"))
    return 1 <= begun == over


@pytest.mark.parametrize(
    ("away", "seconds"),
    [
        # Longer than the session of 6 s, and until a job with nothing to do has noticed: it asks every 5 s.
        (frozen, 11.0),
        pytest.param(frozen, 30.0, marks=pytest.mark.slow),
        pytest.param(killed, 6.0, marks=pytest.mark.durable_broker),
        pytest.param(killed, 15.0, marks=pytest.mark.durable_broker),
    ],
    ids=["frozen", "frozen for long", "killed", "killed for long"],
)
def test_a_broker_that_is_away_is_waited_for_and_told_briefly_and_nothing_is_lost(
    kafka: dict[str, str],
    topic_prefix: str,
    tmp_path: Path,
    broker: Broker,
    away: Callable[[Broker], AbstractContextManager[None]],
    seconds: float,
) -> None:
    """Two systems have the same trouble: one's worker is a static member of its group, the other's is not."""
    # Quick to find the broker again, so that the trouble is over soon.
    properties = kafka | {"session.timeout.ms": "6000", "reconnect.backoff.max.ms": "1000"}
    jobs: list[tuple[Harness, str]] = []
    with ExitStack() as stack:
        harnesses = []
        for name, instance in (("static", "one"), ("dynamic", None)):
            prefix = f"{topic_prefix}{name}-"
            names = Topics(prefix)
            topic_admin.ensure(kafka, names, partitions=PARTITIONS, replication=1)
            harnesses.append(harness := stack.enter_context(Harness(properties, names, prefix, tmp_path / name)))
            jobs += [(harness, "worker"), (harness, "trainer")]
            if instance is None:
                monitor = (f"monitor.directory={tmp_path}/monitor", "monitor.web=", f"monitor.group={prefix}monitor")
                harness.processes.start("monitor", "monitor", *(word for flag in monitor for word in ("--set", flag)))
                jobs.append((harness, "monitor"))
            start(harness, instance)
        with closing(GroupLag(kafka, f"{topic_prefix}dynamic-monitor")) as lag:
            # Before it counts it asks Kafka what it has counted so far, and ends where it gets no answer for 30 s.
            scores, processes = harnesses[-1].topics.scores, harnesses[-1].processes
            wait_for(lambda: not lag.of(scores, PARTITIONS), "the monitor to count", processes=processes)
        live(2.0, *harnesses)
        with away(broker):
            live(seconds, *harnesses)
        for harness in harnesses:
            harness.await_answers()
        for harness, name in jobs:
            wait_for(lambda of=harness, name=name: told_it_is_over(of, name), f"{name} to say it is over")  # type: ignore[misc]
        for harness, name in jobs:
            told = warnings(harness, name)
            # Of a broker that goes on slowly: away and back, twice, and one line each for: no leader, session lost, its
            # partitions lost, fenced by itself, rejoining, and rejoining for want of partitions.
            assert len(told) <= 10, "\n".join(told)
            # A broker that goes on slowly may seem away to one client once more.
            assert sum(" kafka_errors " in line for line in told) <= 2, "\n".join(told)
            assert not [line for line in told if "rdkafka#" in line or " aiokafka" in line], "\n".join(told)
        for harness in harnesses:
            harness.traffic(10)
            harness.settle()


def test_nothing_is_taken_as_done_that_a_frozen_broker_has_not_acknowledged(harness: Harness, broker: Broker) -> None:
    with harness:
        start(harness)
        for number in range(3):
            for _ in range(400):
                harness.ask()
            harness.client.flush()
            answered = len(harness.answers)
            wait_for(lambda before=answered: bool(harness.react(0.01)) or len(harness.answers) > before, "an answer")  # type: ignore[misc]
            with frozen(broker):
                # More than a commit interval: what the worker has in hand is scored meanwhile, and reaches nobody.
                live(1.0, harness)
                harness.kill(f"worker-{number}" if number else "worker")
            harness.start_worker(f"worker-{number + 1}", instance="one")
            harness.await_answers()
        harness.settle()


def test_a_slow_broker_slows_the_answers_and_nothing_else(harness: Harness, broker: Broker) -> None:
    over = threading.Event()

    def halt_now_and_then() -> None:
        while not over.wait(0.05):
            with frozen(broker):
                over.wait(0.4)

    with harness:
        start(harness)
        halting = threading.Thread(target=halt_now_and_then)
        halting.start()
        try:
            live(8.0, harness)
        finally:
            over.set()
            halting.join()
        harness.await_answers()
        harness.settle()


def ends_with_what_to_do(harness: Harness, name: str, topic: str) -> None:
    """See that a job ends by itself, with one line that names the topic and the setting."""
    last = harness.last_words(name)
    assert last.startswith("samstream "), last
    assert not [word for word in (topic, "bytes", "max.message.bytes", "start again") if word not in last], last


def test_an_answer_too_large_for_its_topic_stops_the_worker_and_is_given_when_the_topic_takes_it(
    harness: Harness, limit: Callable[[str, int], None]
) -> None:
    topics, user = harness.topics, USERS[0]
    limit(topics.scores, 3000)
    with harness:
        start(harness)
        for _ in range(200):  # many at once: together far more than the topic takes
            harness.ask()
        harness.await_answers()
        many = [Candidate(os.urandom(100).hex()) for _ in range(40)]
        harness.asked.append(harness.client.impression(user, many, 1))
        ends_with_what_to_do(harness, "worker", topics.scores)
        limit(topics.scores, 1_000_000)
        harness.start_worker("worker-2", instance="one")
        harness.await_answers()
        harness.traffic(5)
        harness.check_answers()


def test_a_sample_too_large_for_its_topic_stops_the_worker_and_is_learned_when_the_topic_takes_it(
    harness: Harness, limit: Callable[[str, int], None]
) -> None:
    topic = harness.topics.samples
    limit(topic, 150)
    with harness:
        harness.processes.start("trainer", "trainer")
        harness.start_worker("worker", instance="one")
        harness.wander(300)
        for _ in range(20):
            harness.ask()
        wait_for(lambda: bool(harness.react(0.05) and harness.clicked), "a click")
        ends_with_what_to_do(harness, "worker", topic)
        limit(topic, 1_000_000)
        harness.start_worker("worker-2", instance="one")
        harness.await_answers()
        harness.traffic(5)
        harness.settle()


def test_updates_are_cut_to_what_their_topic_takes(harness: Harness, limit: Callable[[str, int], None]) -> None:
    limit(harness.topics.model_updates, 9000)
    with harness:
        start(harness)

        def served() -> bool:
            harness.traffic(1)
            return {score.arm for score in harness.answers.values() if score.version > 0} == {"sam", "counts"}

        wait_for(served, "updates to be served", processes=harness.processes)
        sizes = [len(value) for value in harness.read(harness.topics.model_updates)]
        assert 4096 < max(sizes) <= 9000, "no update was large enough to be cut, or none was cut"
        limit(harness.topics.model_updates, 100)
        live(2.0, harness)  # the trainer may end at any time
        ends_with_what_to_do(harness, "trainer", harness.topics.model_updates)


def test_dead_letters_are_cut_to_what_their_topic_takes(
    harness: Harness, kafka: dict[str, str], limit: Callable[[str, int], None]
) -> None:
    topics, user = harness.topics, USERS[0].encode()
    limit(topics.dead_letters, 5000)
    with harness, RawWriter(kafka) as raw:
        harness.start_worker("worker", "--set", "worker.model_wait_s=0")
        values = [os.urandom(100_000), *(os.urandom(1000) for _ in range(100)), os.urandom(4000)]
        sender = ReliableProducer(kafka)
        for value in values:
            sender.send(topics.behaviors, value, key=user, partition=partition_of(user, 4))
        sender.flush()
        raw.write(topics.samples, b"no sample", key=user)
        wait_for(
            lambda: len(list(read_dead_letters(kafka, topics))) >= len(values),
            "all dead letters",
            processes=harness.processes,
        )
        letters = {letter.origin.offset: letter for letter in read_dead_letters(kafka, topics)}
        assert len(letters) == len(values)
        for value, letter in zip(values, (letters[offset] for offset in sorted(letters)), strict=True):
            kept = letter.origin.value or b""
            assert value.startswith(kept)
            assert letter.cut == (len(value) > 3000), len(value)
            assert len(kept) > 900, "less is kept than the topic takes"
        harness.traffic(3)


def test_a_full_producer_is_waited_for_and_what_it_holds_is_bounded(
    kafka: dict[str, str], topics: Topics, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    sender = ReliableProducer(kafka | {"queue.buffering.max.messages": "10"})
    sent: list[int] = []

    def send_all() -> None:
        for number in range(100):
            sender.send(topics.outcomes, b"%d" % number, partition=0)
            sent.append(number)

    sending = threading.Thread(target=send_all, daemon=True)
    with frozen(broker):
        sending.start()
        wait_for(lambda: "wait to be acknowledged" in caplog.text, "a word that the broker is waited for")
        assert sending.is_alive()
        assert len(sent) <= 10
        # What the client has to say counts until it was polled for.
        wait_for(lambda: sender.waiting <= len(sent) <= 10, "the producer to hold what was sent, and nothing else")
    sending.join(60)
    sender.flush()
    tail = TopicReader(kafka, [topics.outcomes], from_beginning=True)
    values: list[bytes | None] = []
    while not tail.at_end():
        values += [message.value() for message in tail.read(0.2)]
    tail.close()
    assert values == [b"%d" % number for number in range(100)]


def test_a_worker_whose_producer_is_always_full_loses_nothing(harness: Harness) -> None:
    with harness:
        harness.processes.start("trainer", "trainer")
        harness.start_worker("worker", "--set", "kafka.queue.buffering.max.messages=3")
        harness.wander(300)
        for _ in range(200):
            harness.ask()
        harness.await_answers()
        harness.settle()


@pytest.mark.durable_broker
def test_of_two_workers_with_one_id_one_ends_and_says_why_and_the_other_serves(harness: Harness) -> None:
    with harness:
        quick = ("--set", "worker.model_wait_s=0")
        workers = {
            name: harness.processes.start(
                name, "worker", *quick, *STATIC, "--set", f"state.directory={harness.directory / name}"
            )
            for name in ("one", "other")
        }
        for name in workers:
            harness.processes.release(name)
        wait_for(lambda: any(worker.poll() is not None for worker in workers.values()), "one of them to end")
        [ended] = [name for name, worker in workers.items() if worker.poll() is not None]
        log = harness.processes.log(ended).read_text()
        assert workers[ended].returncode == 1, log
        assert "group.instance.id" in log.splitlines()[-1], log
        harness.traffic(5)
        assert sum(worker.poll() is None for worker in workers.values()) == 1
        for worker in workers.values():
            worker.terminate()
            worker.wait(30)
