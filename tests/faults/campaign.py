"""A seeded schedule of faults against real processes under traffic."""

import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil

from stream.kafka import topic_admin as topics_module
from stream.kafka.eraser import erase
from stream.local.broker import Broker
from stream.schema.topics import Topics
from tests.e2e.harness import Harness, wait_for
from tests.faults.accounts import WINDOW_S, Accounts, account

USERS = [f"user-{number}" for number in range(300)]
MORTALS = [f"mortal-{number}" for number in range(12)]
"""Users who act and never ask; now and then one of them is erased."""
WORKER_POINTS = ("produced", "written", "committed")
TRAINER_POINTS = ("part", "saved")
RANK_POINTS = ("part", "saved", "vectors", "gradients", "shard")
_SETTLE_S = 240.0
_END_S = 90.0
_LOG_CHARS = 6000


class Campaign:
    """Two workers, a trainer of one or several ranks and their broker, under traffic and faults.

    Args:
        broker: where it runs; it is killed as well if it would survive that.
        directory: of the run.
        kills: how often each kind of fault happens.
        behaviors: behaviours to be sent, at least.
        impressions: impressions to be sent, at least.
        seed: of traffic and schedule.
        ranks: of the trainer. A fault strikes one of them, and the job ends and is started again.
        tell: takes a line now and then.
    """

    def __init__(
        self,
        broker: Broker,
        directory: Path,
        *,
        kills: int,
        behaviors: int,
        impressions: int,
        seed: int,
        ranks: int = 1,
        tell: Callable[[str], None],
    ) -> None:
        prefix = f"faults-{seed}-{time.time_ns():x}-"
        kafka = {"bootstrap.servers": broker.bootstrap}
        topics = Topics(prefix)
        topics_module.ensure(kafka, topics, partitions=4, replication=1)
        self._broker = broker
        self._ranks = ranks
        self._tell = tell
        self._random = random.Random(seed)
        self._harness = Harness(
            kafka,
            topics,
            prefix,
            directory,
            users=USERS,
            seed=seed,
            state={"slack": 1024, "cache_mb": 4},
            worker={"attribution_window_s": WINDOW_S},
        )
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._lives: Counter[str] = Counter()
        self._sent: Counter[str] = Counter()
        self._done: Counter[str] = Counter()
        self._erased = 0
        faults = self._kinds()
        self._schedule = [kind for kind in faults for _ in range(kills)]
        self._random.shuffle(self._schedule)
        self._behaviors = -(-behaviors // len(self._schedule))
        self._impressions = -(-impressions // len(self._schedule))

    def run(self) -> Accounts:
        """Run the schedule, let everything come to rest, and count."""
        began = time.monotonic()
        with self._harness:
            for name in ("trainer", "worker-1", "worker-2"):
                self._start(name)
            for number, kind in enumerate(self._schedule):
                self._live()
                self._kinds()[kind]()
                self._done[kind] += 1
                self._erase(self._random.choice(MORTALS))
                answers, took = len(self._harness.answers), time.monotonic() - began
                self._tell(f"{number + 1}/{len(self._schedule)} {kind}; {answers} answers; {took:.0f} s")
            self._live()
            self._settle()
        for request, _ in self._harness.clicked:
            self._sent[request.user] += 1  # a click is a behaviour, too
        seconds = time.monotonic() - began
        return account(self._harness, self._sent, dict(self._done), seconds, erased=self._erased)

    def _kinds(self) -> dict[str, Callable[[], None]]:
        """Return the kinds of faults there are, with what does them."""
        kinds: dict[str, Callable[[], None]] = {
            "worker killed": lambda: self._end(self._worker(), signal.SIGKILL),
            "worker asked to end": lambda: self._end(self._worker(), signal.SIGTERM),
            "worker frozen": lambda: self._freeze(self._worker()),
            "worker killed at a bad moment": lambda: self._end_at(self._worker(), WORKER_POINTS),
            "trainer killed": lambda: self._end("trainer", signal.SIGKILL),
            "trainer asked to end": lambda: self._end("trainer", signal.SIGTERM),
            "trainer frozen": lambda: self._freeze("trainer"),
            "trainer killed at a bad moment": lambda: self._end_at("trainer", self._trainer_points()),
        }
        if self._broker.durable:
            kinds["broker killed"] = self._kill_broker
        return kinds

    def _trainer_points(self) -> tuple[str, ...]:
        """Return the bad moments of a trainer; of several ranks, of one of them."""
        if self._ranks == 1:
            return TRAINER_POINTS
        return tuple(f"{rank}/{point}" for rank in range(self._ranks) for point in RANK_POINTS if rank == 0 or
                     point != "saved")  # fmt: skip

    def _struck(self, name: str) -> psutil.Process:
        """Return the process that a fault strikes: the job itself, or any rank of a trainer that has several."""
        job = psutil.Process(self._children[name].pid)
        ranks = job.children() if name == "trainer" and self._ranks > 1 else []
        return self._random.choice(ranks) if ranks else job

    def _worker(self) -> str:
        return self._random.choice(("worker-1", "worker-2"))

    def _start(self, name: str, failpoint: str = "") -> None:
        """Start a job; a static member of the group (KIP-345), which its successor replaces at once."""
        self._lives[name] += 1
        life = f"{name}.{self._lives[name]}"
        job = name.partition("-")[0]
        arguments = ["--set", f"kafka.group.instance.id={name}"] if job == "worker" else ["--ranks", str(self._ranks)]
        self._children[name] = self._harness.processes.start(
            life, job, *arguments, environment={"SAMSTREAM_FAILPOINT": failpoint}
        )

    def _supervise(self) -> None:
        """Start a worker again that Kafka took for a stranger twice: it joined while the broker was killed.

        It must end then, since another one with its id may be at work; whoever runs it starts it again.
        """
        for name, child in list(self._children.items()):
            if child.poll() == 1 and "fenced by other consumer" in self._log(name):
                self._forget(name)
                self._start(name)
                self._done["fenced by the broker after its own crash, started again"] += 1

    def _live(self) -> None:
        """Let users do their share of the traffic, in a random time."""
        self._supervise()
        for user in MORTALS:
            self._harness.client.behavior(user, "item-1", category="category-1")
            self._sent[user] += 1
        pause = self._random.uniform(0.2, 2.5) / self._impressions
        for _ in range(self._impressions):
            self._harness.ask()
            for _ in range(-(-self._behaviors // self._impressions)):
                user = self._harness.random.choice(USERS)
                item = self._harness.random.randrange(60)
                self._harness.client.behavior(user, f"item-{item}", category=f"category-{item % 10}")
                self._sent[user] += 1
            self._harness.react(pause)

    def _erase(self, user: str) -> None:
        """Erase a user, while the jobs are as the last fault has left them."""
        self._harness.client.flush()
        erase(self._harness.settings.kafka, self._harness.topics, [user])
        del self._sent[user]
        self._erased += 1

    def _end(self, name: str, number: signal.Signals, failpoint: str = "") -> None:
        """End a job by a signal, and start its successor."""
        self._supervise()
        self._forget(name)
        child = self._children[name]
        if number == signal.SIGKILL:
            self._struck(name).kill()
        else:
            child.send_signal(number)
        self._await_end(name, child)
        in_order = child.returncode in (0, -signal.SIGTERM) or "fenced by other consumer" in self._log(name)
        assert number != signal.SIGTERM or in_order, f"{name} ended with {child.returncode}: {self._log(name)}"
        self._start(name, failpoint)

    def _await_end(self, name: str, child: subprocess.Popen[bytes]) -> None:
        """Wait for the end of a job; of one that does not end, the log says where its threads are."""
        try:
            child.wait(_END_S)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGABRT)
            child.wait(10)
            raise AssertionError(f"{name} did not end within {_END_S:.0f} s: {self._log(name)}") from None

    def _end_at(self, name: str, points: tuple[str, ...]) -> None:
        """Replace a job by one that kills itself at a chosen point, and that one by one that does not."""
        self._end(name, signal.SIGTERM, f"{self._random.choice(points)}@{self._random.randrange(1, 6)}")
        self._forget(name)
        deadline = time.monotonic() + 60
        while self._children[name].poll() is None:
            self._live_a_little()
            assert time.monotonic() < deadline, f"{name} never came to its point: {self._log(name)}"
        of_ranks = name == "trainer" and self._ranks > 1
        assert self._children[name].returncode == (1 if of_ranks else -signal.SIGKILL), self._log(name)
        self._start(name)

    def _live_a_little(self) -> None:
        self._supervise()
        user = self._harness.random.choice(USERS)
        self._harness.client.behavior(user, "item-1", category="category-1")
        self._sent[user] += 1
        self._harness.ask()
        self._harness.react(0.05)

    def _freeze(self, name: str) -> None:
        """Stop a process for a moment, now and then for longer than its session."""
        child = self._struck(name)
        child.suspend()
        until = time.monotonic() + (8.0 if self._random.random() < 0.2 else self._random.uniform(0.2, 2.0))
        while time.monotonic() < until:
            self._live_a_little()
        child.resume()

    def _kill_broker(self) -> None:
        self._broker.kill()
        self._broker.start()

    def _forget(self, name: str) -> None:
        self._harness.processes.release(f"{name}.{self._lives[name]}")

    def _log(self, name: str) -> str:
        return self._harness.processes.log(f"{name}.{self._lives[name]}").read_text(errors="replace")[-_LOG_CHARS:]

    def _settle(self) -> None:
        """Wait until all is answered, then let everything come to rest."""
        harness = self._harness

        def all_answered() -> bool:
            self._supervise()
            harness.react(0.05)
            return len(harness.answers) == len(harness.asked)

        wait_for(all_answered, "all answers", processes=harness.processes, deadline_s=_SETTLE_S)
        for user in USERS:
            self._sent[user] += 1  # what close_windows writes
        harness.come_to_rest(_SETTLE_S)
