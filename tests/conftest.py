"""Shared fixtures: one broker for each process that runs tests, and names of its own for each test.

`SAMSTREAM_TEST_BOOTSTRAP=HOST:PORT` takes a broker that runs already; `SAMSTREAM_TEST_BROKER` starts one of
an engine: `embedded` (the default), `kafka` (needs `KAFKA_HOME` and Java) or `docker` (testcontainers). Tests
that use a broker get the marker `broker`; those marked `durable_broker` kill it, and are skipped where it
would not survive that.
"""

import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import hypothesis
import pytest
from confluent_kafka.admin import AdminClient

from stream.errors import EngineMissingError
from stream.kafka import topic_admin as topics_module
from stream.local import ports
from stream.local.broker import Broker, local_broker
from stream.local.engines import ENGINES
from stream.schema.topics import Topics
from tests.small_disk import SmallDisk, mounted

# Before torch is imported, as the command does: its threads that wait keep no core from the other processes.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# Between the choice of a port and its use, no other process of pytest-xdist may choose it.
ports.PORTS = ports.PORTS[
    int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) :: int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
]

# A busy machine is no error: pytest's own timeout ends what hangs.
hypothesis.settings.register_profile("samstream", deadline=None)
hypothesis.settings.load_profile("samstream")

PARTITIONS = 4
"""Of the topics keyed by user that the fixture `topics` makes."""


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "broker" in getattr(item, "fixturenames", ()):
            item.add_marker("broker")
        # xdist 3.8 writes groups where pytest from 9.2 on does not look, and none holds together (pytest-xdist 1386).
        group = item.get_closest_marker("xdist_group")
        if group is not None and hasattr(item, "_id") and item.config.getoption("loadgroup", False):
            item._id = type(item._id).parse(f"{item.nodeid}@{group.args[0]}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    wanted = _wanted()
    if item.get_closest_marker("durable_broker") and not (wanted in ENGINES and ENGINES[wanted].durable):
        pytest.skip(f"needs a local broker that survives kill -9: {wanted} is none, SAMSTREAM_TEST_BROKER=kafka is")


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """Undo what commands that ran in this process have made of the root logger."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """The broker of this process (pytest-xdist has several); a test that kills it starts it again."""
    with ExitStack() as stack:
        wanted = _wanted()
        if wanted == "docker":
            wanted = stack.enter_context(_container())
        try:
            running = stack.enter_context(local_broker(wanted, tmp_path_factory.mktemp("broker")))
        except EngineMissingError as error:
            pytest.skip(str(error))
        yield running


@pytest.fixture
def kafka(broker: Broker) -> dict[str, str]:
    """Properties for librdkafka that reach the broker."""
    return {"bootstrap.servers": broker.bootstrap}


@pytest.fixture
def topic_prefix(kafka: dict[str, str]) -> Iterator[str]:
    """A prefix that no other test has; topics with it are deleted afterwards."""
    prefix = f"test-{uuid.uuid4().hex[:12]}-"
    yield prefix
    admin = AdminClient({**kafka, "log_level": 0})
    if made := [name for name in admin.list_topics(timeout=10).topics if name.startswith(prefix)]:
        for deleted in admin.delete_topics(made).values():
            deleted.result()


@pytest.fixture
def topics(kafka: dict[str, str], topic_prefix: str) -> Topics:
    """Topics of this test alone, made on the broker with `PARTITIONS` partitions."""
    names = Topics(topic_prefix)
    topics_module.ensure(kafka, names, partitions=PARTITIONS, replication=1)
    return names


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A disk of 12 MB of this test alone, to be filled up."""
    with mounted(tmp_path / "small") as disk:
        yield disk


@contextmanager
def _container() -> Iterator[str]:
    """Apache Kafka in Docker; yields its address."""
    from docker.errors import DockerException
    from testcontainers.community.kafka import KafkaContainer

    try:
        container = KafkaContainer("confluentinc/cp-kafka:7.9.0").with_kraft()
    except DockerException as error:
        pytest.skip(f"SAMSTREAM_TEST_BROKER=docker: no Docker engine answers ({error})")
    with container:
        yield container.get_bootstrap_server()


def _wanted() -> str:
    return os.environ.get("SAMSTREAM_TEST_BOOTSTRAP") or os.environ.get("SAMSTREAM_TEST_BROKER") or "embedded"
