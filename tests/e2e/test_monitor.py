"""Monitors on a broker: counts and verdict equal an oracle's, whatever is killed, and everybody is shown the same."""

import html
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import TopicPartition

from stream.experiment.statistics.effect import SHOWN
from stream.experiment.user_sums import UserSums
from stream.experiment.verdict import analyse
from stream.kafka.clients import consumer
from stream.kafka.producer import ReliableProducer
from stream.kafka.reader import TopicReader
from stream.local.broker import Broker
from stream.local.ports import free_port
from stream.monitor.records import ArmWindow, decode_arm_window, encode_json
from stream.schema.events import Outcome, Score, Spent, encode_packed
from stream.schema.topics import Topics
from stream.settings import convert
from tests.conftest import PARTITIONS
from tests.e2e.browser import chromium
from tests.e2e.forked import ForkedProcesses, run_forked
from tests.e2e.harness import wait_for
from tests.near import near
from tests.small_disk import SmallDisk

WINDOW_MS = 2000
CLOSE_S = 6
USERS = 300
Pair = tuple[str, int]


class Traffic:
    """Outcomes as workers write them, in order of time, with repeats; and what they add up to."""

    def __init__(self, kafka: dict[str, str], topics: Topics, *, seed: int = 3) -> None:
        self._sender = ReliableProducer(kafka)
        self._topic = topics.outcomes
        self._scores = topics.scores
        self._random = random.Random(seed)
        self._lately: list[Outcome] = []
        self._requests = 0
        self.ts = round(1000 * time.time()) - 600_000
        self.counted: dict[Pair, list[int]] = defaultdict(lambda: [0, 0, 0])
        """(arm, start of window) → impressions, shown, clicks."""
        self.sums = UserSums()
        self.repeated = 0

    def write(self, visits: int) -> None:
        """Write the outcomes of some visits: clicks at once, the rest of a list beside them; one in ten comes again."""
        for _ in range(visits):
            self.ts += self._random.randrange(20)
            self._requests += 1
            number = self._random.randrange(USERS)
            user, arm = f"user-{number}", "sam" if number % 2 else "counts"
            if number == 0 and self._random.random() < 0.1:
                arm = "sam"  # one user is seen in two arms
            probabilities = [self._random.random() * (0.4 if arm == "sam" else 0.2) for _ in range(4)]
            labels = [int(self._random.random() < probability) for probability in probabilities]
            row = self.counted[arm, self.ts - self.ts % WINDOW_MS]
            row[0] += 1
            row[1] += 4
            row[2] += sum(labels)
            self.sums.add(user, arm, 4, sum(labels), self.ts)
            for label in (1, 0):
                if places := [place for place in range(4) if labels[place] == label]:
                    outcome = Outcome(
                        f"request-{self._requests}",
                        user,
                        arm,
                        self.ts,
                        1,
                        self._requests,
                        [f"item-{place}" for place in places],
                        places,
                        [probabilities[place] for place in places],
                        [label] * len(places),
                    )
                    self._lately = [*self._lately[-50:], outcome]
                    self._send(outcome)
            if self._random.random() < 0.1:
                again = self._random.choice(self._lately)
                self.repeated += len(again.items)
                self._send(again)
        self._sender.flush()

    @property
    def verdict(self) -> Any:
        """The verdict on all that was written, as JSON says it."""
        return json.loads(encode_json(analyse(self.sums, {"sam": 1, "counts": 1}, alpha=0.05, minimum_effect=0.05)))

    @property
    def shown(self) -> int:
        """Items shown to users who were seen in one arm only: those of which the verdict is."""
        moments = [self.sums.moments(arm) for arm in ("sam", "counts")]
        return int(sum(each.total[SHOWN] for each in moments))

    def close_windows(self) -> None:
        """Move event time past all windows so far: one more visit, much later."""
        self.ts += 1000 * CLOSE_S + 2 * WINDOW_MS
        self.write(1)
        del self.counted[max(self.counted, key=lambda where: where[1])]

    def answer(self, requests: int) -> None:
        """Write some answers, as workers do."""
        for number in range(requests):
            user = f"user-{number % USERS}"
            spent = Spent(1.0, 1.0, 1.0)
            score = Score(f"request-{number}", user, self.ts, "sam", 1, 1, ["item"], [0.5], [0], 1, 0, spent)
            self._sender.send(self._scores, encode_json(score), key=user)
        self._sender.flush()

    def _send(self, outcome: Outcome) -> None:
        self._sender.send(self._topic, encode_packed(outcome), key=outcome.user)


class Monitors:
    """Monitors that can be killed, and what they say."""

    def __init__(self, kafka: dict[str, str], topics: Topics, prefix: str, directory: Path) -> None:
        self._kafka = kafka
        self.topics = topics
        self.group = f"{prefix}monitor"
        self.directory = directory
        self._ports: dict[str, int] = {}
        settings = convert(
            {
                "kafka": kafka,
                "topics": {"prefix": prefix, "partitions": PARTITIONS},
                "arms": [{"name": "sam"}, {"name": "counts"}],
                "worker": {"attribution_window_s": CLOSE_S - 1, "allowed_lateness_s": 1, "idle_timeout_s": 1},
                "monitor": {
                    "group": self.group,
                    "window_s": WINDOW_MS / 1000,
                    "write_interval_s": 0.3,
                    "session_timeout_s": 6,
                },
            }
        )
        self.processes = ForkedProcesses(directory, settings)

    def start(self, name: str, *more: str) -> None:
        """Start a monitor under a name that it keeps, with a directory of its own."""
        self._ports.setdefault(name, free_port())
        self.processes.start(
            name,
            "monitor",
            "--set",
            f"kafka.group.instance.id={name}",
            "--set",
            f"monitor.directory={self.directory / name}",
            "--set",
            f"monitor.web=127.0.0.1:{self._ports[name]}",
            *more,
        )

    def kill(self, name: str) -> None:
        """Kill -9."""
        child = self.processes._children[name]
        self.processes.release(name)
        child.kill()
        child.wait()

    def end(self, name: str) -> None:
        """Let it end in order, which it does while there is traffic as well."""
        child = self.processes._children[name]
        self.processes.release(name)
        child.terminate()
        assert child.wait(30) == 0

    def address(self, name: str) -> str:
        """Return HOST:PORT of its page."""
        return f"127.0.0.1:{self._ports[name]}"

    def get(self, name: str, path: str = "/api/state") -> bytes:
        """Return what its web server says; nothing while it does not answer."""
        try:
            with urllib.request.urlopen(f"http://{self.address(name)}{path}", timeout=10) as answer:
                body: bytes = answer.read()
                return body
        except OSError:
            return b""

    def state(self, name: str) -> dict[str, Any]:
        """Return what a monitor's JSON view says; empty while it does not answer."""
        body = self.get(name)
        return dict(json.loads(body)) if body else {}

    def shown(self, name: str) -> int:
        """Return the items of all closed windows, as a monitor says."""
        return sum(arm["shown"] for arm in self.state(name).get("arms", ()))

    def committed(self, topic: str) -> int:
        """Return how many records of a topic the group has committed."""
        asked = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        with closing(consumer(self._kafka, {"group.id": self.group})) as client:
            return sum(max(0, known.offset) for known in client.committed(asked, timeout=10))

    def published(self) -> dict[Pair, ArmWindow]:
        """Return (arm, start) → the newest record of `experiment-metrics`."""
        tail = TopicReader(self._kafka, [self.topics.experiment_metrics], from_beginning=True)
        newest: dict[Pair, ArmWindow] = {}
        deadline = time.monotonic() + 20
        try:
            while not tail.at_end():
                assert time.monotonic() < deadline
                for message in tail.read(0.5):
                    record = decode_arm_window(message.value() or b"")
                    newest[record.arm, record.start] = record
        finally:
            tail.close()
        return newest

    def agree(self, traffic: Traffic) -> bool:
        """Say whether what was published is what was written."""
        said = {where: [each.impressions, each.shown, each.clicks] for where, each in self.published().items()}
        return said == dict(traffic.counted)


@pytest.fixture
def traffic(kafka: dict[str, str], topics: Topics) -> Traffic:
    return Traffic(kafka, topics)


@pytest.fixture
def monitors(kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path) -> Any:
    monitors = Monitors(kafka, topics, topic_prefix, tmp_path)
    yield monitors
    monitors.processes.stop()


@pytest.mark.slow
def test_counts_and_verdict_equal_an_oracle_whatever_is_killed_and_moved(monitors: Monitors, traffic: Traffic) -> None:
    def counted(name: str, some: int) -> None:
        wait_for(lambda: monitors.shown(name) >= some, f"{name} to count {some}", processes=monitors.processes)

    traffic.write(1500)
    monitors.start("a")
    counted("a", 500)
    monitors.kill("a")
    traffic.write(1500)
    monitors.start("a")
    traffic.write(500)
    counted("a", 6000)
    monitors.start("b")
    traffic.write(1000)
    counted("b", 9000)
    monitors.kill("b")
    monitors.kill("a")
    traffic.write(500)
    monitors.start("b")
    monitors.start("a")
    traffic.write(500)
    traffic.close_windows()
    wait_for(lambda: monitors.agree(traffic), "the counts to be the oracle's", processes=monitors.processes)

    total = sum(shown for _, shown, _ in traffic.counted.values())
    for name in ("a", "b"):
        wait_for(lambda name=name: monitors.shown(name) == total, "all to be shown", processes=monitors.processes)  # type: ignore[misc]
        state = monitors.state(name)
        for arm in state["arms"]:
            rows = [row for (whose, _), row in traffic.counted.items() if whose == arm["name"]]
            assert [arm["impressions"], arm["shown"], arm["clicks"]] == [
                sum(column) for column in zip(*rows, strict=True)
            ]
        assert state["counters"]["repeated"] == traffic.repeated
        wait_for(
            lambda name=name: near(monitors.state(name).get("verdict"), traffic.verdict),  # type: ignore[misc]
            "the verdict to be the oracle's",
            processes=monitors.processes,
        )
    assert traffic.verdict["winner"] == "sam"
    assert [doubt["kind"] for doubt in traffic.verdict["doubts"]] == ["crossed"]


@pytest.mark.slow
def test_the_verdict_survives_a_kill_an_orderly_end_and_the_loss_of_the_disk(
    monitors: Monitors, traffic: Traffic
) -> None:
    def judged(name: str) -> None:
        wait_for(
            lambda: near(monitors.state(name).get("verdict"), traffic.verdict),
            f"the verdict of {name} to be the oracle's",
            processes=monitors.processes,
        )

    traffic.write(600)
    monitors.start("a")
    judged("a")
    monitors.kill("a")
    traffic.write(200)
    monitors.start("a")
    judged("a")
    monitors.end("a")
    shutil.rmtree(monitors.directory / "a")
    traffic.write(200)
    monitors.start("a")
    judged("a")
    assert traffic.verdict["winner"] == "sam"


@pytest.mark.slow
def test_a_monitor_without_room_for_its_tables_says_so_and_counts_on_when_there_is(
    monitors: Monitors, traffic: Traffic, small_disk: SmallDisk
) -> None:
    (monitors.directory / "a").symlink_to(small_disk.path / "a")
    (small_disk.path / "a").mkdir()
    traffic.write(600)
    monitors.start("a")
    wait_for(lambda: monitors.shown("a") > 0, "a to count", processes=monitors.processes)
    small_disk.fill()
    monitor = monitors.processes.release("a")

    def ended() -> bool:
        traffic.write(50)
        return monitor.poll() is not None

    wait_for(ended, "the monitor to find no room")
    assert monitor.returncode == 1
    log = monitors.processes.log("a").read_text()
    assert "Traceback" not in log, log
    assert re.fullmatch(
        rf"samstream monitor: cannot keep tables in {monitors.directory}/a: .*No space left.* Make room there .*",
        log.splitlines()[-1],
    ), log
    assert all(re.search(r"\d{4}-\d\d-\d\d \d\d:|samstream monitor: ", line) for line in log.splitlines()), log
    small_disk.make_room()
    monitors.start("a")
    traffic.write(100)
    traffic.close_windows()
    wait_for(lambda: monitors.agree(traffic), "the counts to be the oracle's", processes=monitors.processes)
    wait_for(
        lambda: near(monitors.state("a").get("verdict"), traffic.verdict),
        "the verdict to be the oracle's",
        processes=monitors.processes,
    )


def test_the_page_is_drawn_by_a_browser(monitors: Monitors, traffic: Traffic) -> None:
    browser = chromium()
    traffic.write(600)
    traffic.close_windows()
    monitors.start("a")
    wait_for(lambda: monitors.shown("a") > 0, "a closed window", processes=monitors.processes)
    wait_for(
        lambda: near(monitors.state("a").get("verdict"), traffic.verdict),
        "the verdict to be the oracle's",
        processes=monitors.processes,
    )
    assert monitors.get("a", "/graph") == monitors.get("a", "/stats") == b""
    flags = ["--no-sandbox", "--headless=new", "--dump-dom", "--virtual-time-budget=4000"]
    done = subprocess.run(
        [browser, *flags, f"http://{monitors.address('a')}/"], capture_output=True, text=True, timeout=120, check=False
    )
    assert 'aria-label="click rate of each arm over time"' in done.stdout, done.stderr[-2000:]
    assert 'aria-label="lift of sam over time"' in done.stdout
    assert traffic.verdict["sentence"] in html.unescape(done.stdout)
    assert 'class="note bad"' not in done.stdout


def test_runs_as_faust_applications_do_with_settings_of_the_environment(
    kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path
) -> None:
    port = free_port()
    settings = {
        "KAFKA__BOOTSTRAP_SERVERS": kafka["bootstrap.servers"],
        "TOPICS__PREFIX": topic_prefix,
        "TOPICS__PARTITIONS": str(PARTITIONS),
        "MONITOR__GROUP": f"{topic_prefix}monitor",
        "MONITOR__DIRECTORY": str(tmp_path / "monitor"),
        "MONITOR__WEB": f"127.0.0.1:{port}",
    }
    environment = {**os.environ, **{f"SAMSTREAM_{name}": value for name, value in settings.items()}}
    command = [sys.executable, "-m", "faust", "-A", "stream.monitor.app", "worker", "-l", "error"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:

        def answers() -> bool:
            assert process.poll() is None
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
                    return b"samstream" in answer.read()
            except OSError:
                return False

        try:
            wait_for(answers, "the page")
        finally:
            process.kill()  # asked to end while it joins its group, Faust's own command takes more than a minute


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["monitor.web=127.0.0.1"], "write it as HOST:PORT"),
        (["monitor.web=BUSY"], "cannot be served: "),
        (["kafka.ssl.keystore.location=/x"], "cannot use kafka.ssl.keystore.location"),
    ],
)
def test_what_cannot_work_is_said_in_one_line(
    broker: Broker, topics: Topics, topic_prefix: str, tmp_path: Path, changes: list[str], said: str
) -> None:
    values = [
        f"kafka.bootstrap.servers={broker.bootstrap}",
        f"topics.prefix={topic_prefix}",
        f"topics.partitions={PARTITIONS}",
        f"monitor.directory={tmp_path}",
        *(change.replace("BUSY", broker.bootstrap) for change in changes),
    ]
    words = ["monitor", *(word for value in values for word in ("--set", value))]
    done = run_forked(words, os.environ, timeout=60)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("samstream monitor: ")
    assert said in line
