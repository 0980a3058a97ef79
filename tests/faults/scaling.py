"""`python -m tests.faults.scaling`: 1 → 3 → 1 workers under traffic; what was lost, and how long partitions paused.

The pause of a partition around a change is the longest time from an impression produced to its answer among those that
fell into the change: from the request to join or leave until every partition answers again. Beside it stands the usual
latency, the median of the quiet time before.
"""

import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from stream.kafka import topic_admin as topics_module
from stream.local.broker import Broker
from stream.schema.events import Candidate, RequestKey
from stream.schema.partitioner import partition_of
from stream.schema.topics import Topics
from tests.e2e.harness import ITEMS, SLOTS, Harness, wait_for
from tests.faults.accounts import Accounts, account
from tests.faults.command import broker_and_directory, conclude, parser, tell

PARTITIONS = 4
USERS = [f"user-{number}" for number in range(120)]
_TICK_S = 0.05
_SETTLE_S = 120.0


@dataclass(frozen=True, slots=True)
class Change:
    """What one change of the number of workers did.

    Attributes:
        name: such as `1 → 2 workers`.
        pauses: of each partition, the longest time from impression to answer, seconds.
        usual: the median of that time in the quiet before, seconds.
    """

    name: str
    pauses: tuple[float, ...]
    usual: float

    def line(self) -> str:
        """Return it for a person to read."""
        each = " ".join(f"{pause:.2f}" for pause in self.pauses)
        middle, longest = statistics.median(self.pauses), max(self.pauses)
        return f"{self.name:24} pause median {middle:.2f} s, max {longest:.2f} s; usual {self.usual:.3f} s; each {each}"


class Scaling:
    """Workers that come and go, under traffic to every partition.

    Args:
        broker: where it runs.
        directory: of the run.
        static: whether workers are static members of their group (KIP-345).
        quiet_s: how long traffic flows undisturbed before each change.
        tell: takes a line now and then.
        arguments: more for every worker.
    """

    def __init__(
        self,
        broker: Broker,
        directory: Path,
        *,
        static: bool = False,
        quiet_s: float = 5.0,
        tell: Callable[[str], None] = lambda _: None,
        arguments: Sequence[str] = (),
    ) -> None:
        prefix = f"scaling-{time.time_ns():x}-"
        kafka = {"bootstrap.servers": broker.bootstrap}
        topics = Topics(prefix)
        topics_module.ensure(kafka, topics, partitions=PARTITIONS, replication=1)
        self.harness = Harness(kafka, topics, prefix, directory, users=USERS, state={"slack": 1024})
        self._static = static
        self._quiet_s = quiet_s
        self._tell = tell
        self._arguments = arguments
        self._residents: list[list[str]] = [[] for _ in range(PARTITIONS)]
        for user in USERS:
            self._residents[partition_of(user.encode(), PARTITIONS)].append(user)
        self._workers: dict[str, subprocess.Popen[bytes]] = {}
        self._sent: Counter[str] = Counter()
        self._asked_at: dict[RequestKey, tuple[int, float]] = {}
        self._latencies: list[tuple[int, float, float]] = []
        """(partition, asked at, seconds until the answer)"""
        self.changes: list[Change] = []

    def run(self) -> Accounts:
        """Go from one worker to three and back to one, let everything come to rest, and count."""
        began = time.monotonic()
        with self.harness:
            self.harness.processes.start("trainer", "trainer")
            self._join("a")
            for name in ("b", "c"):
                self._change(lambda name=name: self._join(name), "join")  # type: ignore[misc]
            for name in ("a", "b"):  # the first goes first: what it had moves to workers that never had it
                self._change(lambda name=name: self._leave(name), "leave")  # type: ignore[misc]
            self._settle()
        for request, _ in self.harness.clicked:
            self._sent[request.user] += 1  # a click is a behaviour, too
        return account(self.harness, self._sent, {}, time.monotonic() - began)

    def _change(self, act: Callable[[], float], what: str) -> None:
        """Do something to the group between two quiet times, and measure what traffic felt."""
        quiet = time.time()
        self._flow_until(lambda: time.time() - quiet > self._quiet_s)
        before = len(self._workers)
        began = act()
        # All partitions answer again: each has an answer to something that was asked after the change was over.
        done = time.time()
        self._flow_until(lambda: {number for number, asked, _ in self._latencies if asked > done} == set(range(4)))
        pauses = [0.0] * PARTITIONS
        for number, asked, latency in self._latencies:
            if asked + latency >= began:
                pauses[number] = max(pauses[number], latency)
        usual = statistics.median(latency for _, asked, latency in self._latencies if quiet <= asked < began)
        change = Change(f"{before} → {len(self._workers)} workers ({what})", tuple(pauses), usual)
        self.changes.append(change)
        self._tell(change.line())

    def _join(self, name: str) -> float:
        """Start a worker and wait until it has partitions; returns when it asked to join."""
        static = ["--set", f"kafka.group.instance.id={name}"] if self._static else []
        processes = self.harness.processes
        self._workers[name] = processes.start(name, "worker", *static, *self._arguments)
        log = processes.log(name)
        self._flow_until(lambda: " started group=" in log.read_text())
        began = time.time()
        self._flow_until(lambda: " assigned partitions=" in log.read_text())
        return began

    def _leave(self, name: str) -> float:
        """Ask a worker to end and wait until it has; returns when it was asked."""
        worker = self._workers.pop(name)
        self.harness.processes.release(name)
        began = time.time()
        worker.terminate()
        self._flow_until(lambda: worker.poll() is not None)
        assert worker.returncode == 0, self.harness.processes.log(name).read_text()[-3000:]
        return began

    def _flow_until(self, condition: Callable[[], bool]) -> None:
        """Let traffic flow to every partition until a condition holds."""

        def flowing() -> bool:
            for residents in self._residents:
                self._live(self.harness.random.choice(residents))
            self._react(_TICK_S)
            return condition()

        wait_for(flowing, "the change", processes=self.harness.processes, deadline_s=_SETTLE_S)

    def _live(self, user: str) -> None:
        """Let a user do two things and visit."""
        harness = self.harness
        for item in harness.random.sample(ITEMS, 2):
            harness.client.behavior(user, item, category=f"category-{item[-1]}")
            self._sent[user] += 1
        offered = [Candidate(item, f"category-{item[-1]}") for item in harness.random.sample(ITEMS, 8)]
        asked = time.time()
        request = harness.client.impression(user, offered, SLOTS)
        harness.asked.append(request)
        self._asked_at[request] = partition_of(user.encode(), PARTITIONS), asked

    def _react(self, timeout_s: float) -> None:
        """Take answers, with the time that they took."""
        for request, received in self.harness.react(timeout_s):
            number, asked = self._asked_at.pop(request)
            self._latencies.append((number, asked, received - asked))

    def _settle(self) -> None:
        """Wait until all is answered, then let everything come to rest."""
        harness = self.harness

        def all_answered() -> bool:
            self._react(0.05)
            return not self._asked_at

        wait_for(all_answered, "all answers", processes=harness.processes, deadline_s=_SETTLE_S)
        self._sent.update(USERS)  # what close_windows writes
        harness.come_to_rest(_SETTLE_S)


def main() -> int:
    """Run it; returns 1 when the accounts do not balance."""
    flags = parser("python -m tests.faults.scaling", __doc__)
    flags.add_argument("--static", action="store_true", help="workers are static members (group.instance.id)")
    flags.add_argument("--quiet", type=float, default=5.0, metavar="S", help="undisturbed traffic before each change")
    flags.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the workers")
    arguments = flags.parse_args()
    with broker_and_directory(arguments) as (broker, directory):
        scaling = Scaling(
            broker,
            directory,
            static=arguments.static,
            quiet_s=arguments.quiet,
            tell=tell,
            arguments=[word for change in arguments.set for word in ("--set", change)],
        )
        accounts = scaling.run()
    found = {"accounts": accounts.as_dict(), "changes": [asdict(change) for change in scaling.changes]}
    return conclude(arguments, accounts, found)


if __name__ == "__main__":
    sys.exit(main())
