"""TLS and SASL on Apache Kafka: who is let in works, who is not is told why and soon, and no secret is ever said."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import pytest

from stream.client import Client
from stream.errors import EngineMissingError, KafkaClientError
from stream.kafka.topic_admin import ensure, verify
from stream.schema.topics import Topics
from tests.e2e.commands import command, write_baskets
from tests.e2e.harness import Harness, wait_for
from tests.e2e.secured import MARKER, WRONG, Secured, as_environment, secured_broker

pytestmark = [pytest.mark.broker, pytest.mark.xdist_group("secured")]  # one broker and one set of attempts for all

TOPICS = Topics("secured-")
COMMANDS = {
    "worker": ("worker",),
    "trainer": ("trainer",),
    "topics": ("topics", "check"),
    "dead-letters": ("dead-letters", "list"),
    "simulate": ("simulate", "--plain", "--seconds", "1", "--users", "3", "--history", "3"),
    "replay": ("replay", "complete-journey", "--arms", "counts"),
}
WORDS = {
    "listener": r"closes connections without a word.*kafka\.security\.protocol",
    "password": r"refuses this client: .*Invalid username or password\. Check .*kafka\.sasl\.password",
    "certificate": r"refuses this client: .*certificate verify failed.* Check kafka\.ssl\.ca\.location",
}
"""What is wrong → what is said."""
BOUND_S = 100.0
"""30 s of waiting for a Kafka that may be starting, and a start of many processes at once on a busy machine."""


class Ended(NamedTuple):
    code: int
    output: str
    seconds: float


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    if os.environ.get("SAMSTREAM_TEST_BOOTSTRAP") or os.environ.get("SAMSTREAM_TEST_BROKER") != "kafka":
        pytest.skip("needs Apache Kafka with listeners of its own: SAMSTREAM_TEST_BROKER=kafka")
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl, which makes the certificates")
    try:
        with secured_broker(tmp_path_factory.mktemp("secured")) as running:
            ensure(running.sasl(), TOPICS, partitions=4, replication=1)
            yield running
    except EngineMissingError as error:
        pytest.skip(str(error))


def wrong(secured: Secured, what: str) -> dict[str, str]:
    """Properties with which nobody comes in."""
    if what == "listener":
        return {"bootstrap.servers": secured.address("SASL_SSL")}
    return secured.sasl(password=WRONG) if what == "password" else secured.sasl(ca="other")


@pytest.fixture(scope="module")
def attempts(secured: Secured) -> Iterator[dict[tuple[str, str], Future[Ended]]]:
    """All commands with all that can be wrong, at once: most of their time they wait."""
    baskets = secured.directory / "baskets"
    write_baskets(baskets, baskets=30)

    def attempt(what: str, name: str) -> Ended:
        kafka = wrong(secured, what)
        place = secured.directory / "said" / f"{what}-{name}"
        place.mkdir(parents=True)
        more = ("--data", baskets, "--broker", kafka["bootstrap.servers"]) if name == "replay" else ()
        began = time.monotonic()
        with (place / "printed.txt").open("wb") as printed:
            done = subprocess.run(
                command(*COMMANDS[name], *more, "--set", f"topics.prefix={TOPICS.behaviors[:-9]}"),
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.STDOUT,
                env=as_environment(kafka),
                cwd=place,
                timeout=BOUND_S,
                check=False,
            )
        return Ended(done.returncode, (place / "printed.txt").read_text(), time.monotonic() - began)

    with ThreadPoolExecutor(len(COMMANDS) + 2) as pool:
        yield {(what, name): pool.submit(attempt, what, name) for what in WORDS for name in COMMANDS}


@pytest.fixture(scope="module")
def system(secured: Secured) -> Iterator[Harness]:
    """A worker and a trainer that came in over SASL_SSL; the worker says all that it can."""
    quick = {"attribution_window_s": 1.0, "allowed_lateness_s": 0.0, "idle_timeout_s": 1.0}
    directory = secured.directory / "said" / "system"
    kafka = secured.sasl() | {"debug": "security,conf"}
    with Harness(kafka, TOPICS, TOPICS.behaviors[:-9], directory, worker=quick) as harness:
        harness.processes.start("trainer", "trainer")
        harness.start_worker("worker", "--log-level", "DEBUG")
        yield harness


@pytest.mark.usefixtures("attempts")
def test_a_worker_answers_over_tls_to_who_has_the_password(system: Harness) -> None:
    system.wander(10)
    system.traffic(3)
    system.check_answers()


def test_a_certificate_lets_in_as_well(secured: Secured) -> None:
    assert verify(secured.mutual(), TOPICS) == 4
    ours = ("ssl.certificate.location", "ssl.key.location", "ssl.key.password")
    anonymous = {key: value for key, value in secured.mutual().items() if key not in ours}
    with pytest.raises(KafkaClientError, match=r"refuses this client.*Check .*kafka\.ssl\.certificate\.location"):
        verify(anonymous, TOPICS)


@pytest.mark.parametrize("what", WORDS)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_is_not_let_in_says_why_in_one_line_and_ends(
    attempts: dict[tuple[str, str], Future[Ended]], what: str, name: str
) -> None:
    ended = attempts[what, name].result(BOUND_S)
    assert ended.code == 1, ended.output
    lines = ended.output.splitlines()
    assert re.fullmatch(f"samstream {name}: .*{WORDS[what]}.*", lines[-1]), ended.output
    assert "Traceback" not in ended.output
    assert [line for line in lines[:-1] if not re.match(r"reading|starting|\d{4}-", line)] == []


@pytest.mark.parametrize("what", WORDS)
def test_a_front_end_that_is_not_let_in_is_told(secured: Secured, what: str) -> None:
    with pytest.raises(KafkaClientError, match=WORDS[what]):
        Client(wrong(secured, what), TOPICS, wait_s=3.0)


@pytest.mark.usefixtures("attempts")
def test_a_broker_that_goes_away_and_comes_back_is_waited_for(secured: Secured, system: Harness) -> None:
    log = system.processes.log("worker")
    before = log.read_text().count("kafka_errors")
    secured.broker.kill()
    wait_for(lambda: log.read_text().count("kafka_errors") > before, "the worker to say so", processes=system.processes)
    secured.broker.start()
    system.traffic(2)
    system.processes.check()


def test_no_secret_is_ever_said(
    secured: Secured, attempts: dict[tuple[str, str], Future[Ended]], system: Harness
) -> None:
    assert all(attempt.result(BOUND_S) for attempt in attempts.values())
    small = ("--plain", "--seconds", "2", "--rate", "3", "--users", "4", "--history", "5")
    report = system.directory / "report"
    simulation = system.processes.start("simulate", "simulate", *small, "--report", str(report))
    assert simulation.wait(BOUND_S) == 0, system.processes.log("simulate").read_text()
    system.processes.release("simulate")
    assert "sasl.password = [redacted]" in system.processes.log("worker").read_text()
    assert MARKER not in repr(system.settings) + str(system.settings.kafka)
    settings = system.directory / "settings.json"
    assert settings.stat().st_mode & 0o077 == 0, "what children are told is for nobody else"
    said = [path for path in (secured.directory / "said").rglob("*") if path.is_file() and path != settings]
    assert {path.name for path in said} >= {"report.json", "report.html", "worker.log", "trainer.log", "printed.txt"}
    assert not [path for path in said if MARKER.encode() in path.read_bytes()]


@pytest.mark.slow
def test_a_password_that_is_no_longer_good_ends_a_worker_that_works(secured: Secured, system: Harness) -> None:
    secured.change_password(WRONG)
    secured.broker.stop()
    secured.broker.start()
    worker = system.processes._children["worker"]
    assert worker.wait(BOUND_S) == 1
    last = system.processes.log("worker").read_text().splitlines()[-1]
    assert re.fullmatch(f"samstream worker: .*{WORDS['password']}.*", last), last
