"""Users who are erased: nothing of them is left in any file that is written afterwards, and they begin anew."""

import json
import os
import re
import shutil
from collections.abc import Iterable
from contextlib import closing
from functools import partial
from pathlib import Path

import msgspec
import pytest
from confluent_kafka.admin import AdminClient

from model.serialization.checkpoint import load_newest
from state.partition import Partition
from state.snapshots import Manifest
from stream.kafka.offsets import GroupLag
from stream.schema.erasures import decode_erasure, decode_marker
from stream.schema.events import Score, decode_sample
from stream.schema.partitioner import partition_of
from stream.schema.topics import Topics
from tests.e2e.harness import LENGTH, USERS, Harness, wait_for

VICTIM = "victim-4711"
NUMBER = partition_of(VICTIM.encode(), 4)
STANDING = {"standbys": 1, "model_wait_s": 0}


@pytest.fixture
def harness(kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path) -> Harness:
    state = {"snapshots": str(tmp_path / "snapshots"), "snapshot_interval_s": 1.0}
    harness = Harness(kafka, topics, topic_prefix, tmp_path, state=state, worker=STANDING)
    harness.quiet.add(VICTIM)  # does what a test says, and nothing after it was erased
    return harness


def log(harness: Harness, name: str) -> str:
    return harness.processes.log(name).read_text()


def act(harness: Harness, times: int) -> None:
    """Let the victim do `times` things that nobody else does, so that their bytes are found nowhere else."""
    for number in range(times):
        harness.client.behavior(VICTIM, f"own-{number}", category=f"category-{number % 10}")
    harness.client.flush()


def score(harness: Harness, user: str = VICTIM) -> Score:
    """Ask for a user, and return the answer."""
    request = harness.ask(user)
    harness.await_answers()
    return harness.answers[request]


def seen(harness: Harness, count: int) -> None:
    """Wait until the victim is answered with so many behaviours."""
    wait_for(lambda: score(harness).seen == count, f"{count} behaviours to be folded", processes=harness.processes)


def sample_of(harness: Harness, answer: Score) -> None:
    """Let the victim click, and wait for the sample."""
    harness.client.click(answer.request, answer.items[answer.order[0]])
    harness.client.flush()
    wait_for(
        lambda: any(record.key == VICTIM.encode() for record in harness.records(harness.topics.samples)),
        "a sample of the user",
        processes=harness.processes,
    )


def erase(harness: Harness, *arguments: str, users: Iterable[str] = (VICTIM,)) -> None:
    """Run the command while others go on; with `--wait` until it says that all is done."""
    named = [each for user in users for each in ("--user", user)]
    child = harness.processes.start("erase", "erase", *named, *arguments)

    def ended() -> bool:
        harness.wander(5)
        harness.ask(harness.random.choice(USERS))
        harness.react(0.05)
        return child.poll() is not None

    wait_for(ended, "the command to end")
    harness.processes.release("erase")
    assert child.returncode == 0, log(harness, "erase")


def holding(directories: Iterable[Path], needles: Iterable[bytes]) -> list[Path]:
    """Return the files that hold the user or one of the behaviours."""
    wanted = list(needles)
    found = []
    for directory in directories:
        # Folders come and go meanwhile, which `Path.rglob` does not bear.
        for path in (Path(folder) / name for folder, _, names in os.walk(directory) for name in names):
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                continue  # RocksDB has removed it meanwhile
            if any(needle in content for needle in wanted):
                found.append(path)
    return found


def newest_snapshots(harness: Harness) -> dict[int, tuple[Manifest, list[Path]]]:
    """Return partition → the newest snapshot and its files."""
    found = {}
    for place in (harness.directory / "snapshots").glob("partition-*"):
        if (newest := max(place.glob("*.json"), default=None)) is None:
            continue  # its files are being written
        try:
            manifest = msgspec.json.decode(newest.read_bytes(), type=Manifest)
        except msgspec.DecodeError:
            continue  # it is being written
        paths = [place / "files" / file.checksum for file in manifest.files.values()]
        found[int(place.name[-5:])] = manifest, paths
    return found


def snapshots_under_traffic(harness: Harness) -> dict[int, tuple[Manifest, list[Path]]]:
    """Return the same after some visits: snapshots follow commits."""
    harness.traffic(2)
    return newest_snapshots(harness)


def current(harness: Harness) -> set[int]:
    told = log(harness, "a") + log(harness, "b")
    return {int(number) for number in re.findall(r"standby_current partition=(\d+)", told)}


@pytest.mark.long
def test_no_file_written_afterwards_holds_an_erased_user_and_later_behaviours_begin_anew(harness: Harness) -> None:
    topics, home = harness.topics, harness.directory
    with harness:
        harness.processes.start("trainer", "trainer")
        monitor = {"monitor.web": "", "monitor.directory": str(home / "monitor")}
        sets = [each for key, value in monitor.items() for each in ("--set", f"{key}={value}")]
        harness.processes.start("monitor", "monitor", *sets)
        for name in ("a", "b"):
            harness.start_worker(name, "--set", f"state.directory={home / name}")
        harness.wander(300)
        act(harness, LENGTH + 10)
        harness.traffic(20)
        seen(harness, LENGTH + 10)
        sample_of(harness, score(harness))
        needles = [VICTIM.encode(), harness.oracle()[VICTIM][-3:-2].tobytes(), harness.oracle()[VICTIM][-1:].tobytes()]
        wait_for(lambda: current(harness) >= {0, 1, 2, 3}, "standby copies", processes=harness.processes)
        wait_for(lambda: NUMBER in snapshots_under_traffic(harness), "a snapshot")
        # Both the owner of the partition and the one with the copy have it, and others' copies as well.
        kept = [home / "a", home / "b"]
        wait_for(lambda: len({path.parts[-3] for path in holding(kept, needles)}) == 2, "both to have it")
        wait_for(lambda: bool(holding([home / "monitor"], needles[:1])), "the monitor to have the user's row")
        erase(harness, "--wait", "worker", "trainer", "monitor", "--timeout", "50")

        contents: list[bytes] = []

        def read_afterwards() -> bool:
            """Read the newest snapshot, if it is one that was made afterwards."""
            manifest, files = newest_snapshots(harness).get(NUMBER, (None, []))
            if manifest is None or not manifest.offsets.get(topics.erasures, 0):
                return False
            try:
                contents[:] = [path.read_bytes() for path in files]
            except FileNotFoundError:
                return False  # there is a newer one
            return True

        wait_for(read_afterwards, "a snapshot afterwards", processes=harness.processes)
        # A state that somebody has open for a moment just then is looked at again a minute later.
        left: list[Path] = []

        def gone() -> bool:
            left[:] = holding(kept, needles)
            return not left

        try:
            wait_for(gone, "the copies' files", processes=harness.processes, deadline_s=90)
        except AssertionError as error:
            raise AssertionError(f"{left}") from error
        assert not holding([home / "checkpoints" / "sequences", home / "monitor"], needles)
        newest = load_newest(home / "checkpoints").path
        assert newest is not None
        assert not holding([newest], needles)
        wait_for(read_afterwards, "the newest snapshot", processes=harness.processes)
        assert contents
        assert not [content for content in contents if any(needle in content for needle in needles)]

        act(harness, 7)
        seen(harness, 7)
        # What Kafka holds is what docs/erasure.md says.
        for topic in (topics.behaviors, topics.impressions, topics.scores, topics.samples, topics.erasures):
            assert any(record.key == VICTIM.encode() for record in harness.records(topic)), topic
        harness.close_windows()
        harness.await_answers()
        with closing(GroupLag(harness.settings.kafka, harness.settings.worker.group)) as lag:
            wait_for(lambda: not lag.of(topics.behaviors, 4), "all to be folded", processes=harness.processes)
        harness.processes.stop()
        expected = harness.oracle()
        found: dict[str, tuple[int, bytes]] = {}
        # What the first worker had before the second one came lies there still: the further one is the owner's.
        for path in [*(home / "a").glob("partition-*"), *(home / "b").glob("partition-*")]:
            partition = Partition.open(path, length=LENGTH, slack=harness.settings.state.slack)
            for user in expected:
                if count := partition.sequences.count(user):
                    sequence = partition.sequences.read(user).tobytes()
                    found[user] = max(found.get(user, (0, b"")), (count, sequence))
            partition.close()
        assert {user: each for user, (_, each) in found.items()} == {u: each.tobytes() for u, each in expected.items()}
        assert len(expected[VICTIM]) == 7


@pytest.mark.slow
def test_a_worker_that_is_killed_while_it_erases_is_followed_by_one_that_ends_it(harness: Harness) -> None:
    home = harness.directory
    with harness:
        # After the commit that deletes the user, before the bytes are out of the files.
        environment = {"SAMSTREAM_FAILPOINT": "erased"}
        harness.processes.start("dies", "worker", "--set", "kafka.group.instance.id=one", environment=environment)
        wait_for(lambda: "assigned partitions=" in log(harness, "dies"), "partitions")
        act(harness, 20)
        seen(harness, 20)
        needles = [VICTIM.encode(), harness.oracle()[VICTIM][-1:].tobytes()]
        erase(harness)
        child = harness.processes.release("dies")
        assert child.wait(30) != 0
        assert holding([home / "state"], needles)
        harness.start_worker("ends", instance="one")
        erase(harness, "--wait", "worker", users=[USERS[0]])
        wait_for(lambda: not holding([home / "state"], needles), "it to be done", processes=harness.processes)
        act(harness, 3)
        seen(harness, 3)


@pytest.mark.parametrize("begins_with", ["the log", pytest.param("an older snapshot", marks=pytest.mark.slow)])
def test_a_rebuilt_state_honours_an_erasure_that_came_while_nobody_ran(harness: Harness, begins_with: str) -> None:
    home = harness.directory
    with harness:
        harness.start_worker("before")
        act(harness, 20)
        harness.traffic(5)
        seen(harness, 20)
        wait_for(lambda: len(snapshots_under_traffic(harness)) == 4, "snapshots")
        needles = [VICTIM.encode(), harness.oracle()[VICTIM][-1:].tobytes()]
        harness.end("before")
        shutil.rmtree(home / "state")
        if begins_with == "the log":
            shutil.rmtree(home / "snapshots")
        harness.processes.start("erase", "erase", "--user", VICTIM)
        assert harness.processes.release("erase").wait(30) == 0
        act(harness, 4)
        harness.start_worker("after")
        seen(harness, 4)
        assert ("restored partition=" in log(harness, "after")) == (begins_with == "an older snapshot")
        wait_for(lambda: not holding([home / "state"], needles[1:]), "it to be done", processes=harness.processes)
        # Samples that are written again name the new sequence, and nothing of before is a sample.
        harness.close_windows()
        harness.await_answers()
        cut = [decode_erasure(record.value or b"") for record in harness.records(harness.topics.erasures)][-1]
        after = [decode_sample(value) for value in harness.read(harness.topics.samples)]
        assert all(
            each.sequence.seen <= 4
            for each in after
            if each.user == VICTIM and each.sequence.read_to > cut.behaviors.offset
        )


@pytest.mark.slow
def test_a_trainer_of_two_ranks_has_erased_when_each_has_erased_its_users(harness: Harness) -> None:
    # Rank r keeps the partitions p with p mod 2 = r.
    of_rank = {partition_of(user.encode(), 4) % 2: user for user in (f"victim-{number}" for number in range(20))}
    victims = of_rank[0], of_rank[1]
    harness.quiet.update(victims)
    checkpoints = harness.directory / "checkpoints"
    with harness:
        harness.processes.start("trainer", "trainer", "--ranks", "2")
        harness.start_worker("worker")
        for user in victims:
            for number in range(LENGTH):
                harness.client.behavior(user, f"own-{number}", category=f"category-{number % 10}")
        harness.client.flush()

        def kept(user: str) -> bool:
            harness.traffic(1)
            newest = load_newest(checkpoints).path
            return newest is not None and bool(holding([newest], [user.encode()]))

        for user in victims:
            wait_for(partial(kept, user), f"a checkpoint with {user}", processes=harness.processes)
        erase(harness, "--wait", "trainer", "--timeout", "50", users=victims)
        newest = load_newest(checkpoints).path
        assert newest is not None
        assert not holding([newest, checkpoints / "sequences"], [user.encode() for user in victims])


@pytest.mark.slow
def test_samples_of_before_are_left_out_and_counted(harness: Harness) -> None:
    with harness:
        harness.start_worker("worker")
        act(harness, 10)
        seen(harness, 10)
        harness.traffic(5)
        sample_of(harness, score(harness))
        erase(harness, "--wait", "worker")
        harness.processes.start("trainer", "trainer")

        def left_out() -> bool:
            found = load_newest(harness.directory / "checkpoints").checkpoint
            return found is not None and found.counts.get("samples_of_erased_users", 0) > 0

        wait_for(left_out, "the trainer to leave it out", processes=harness.processes)


def test_an_installation_without_the_topic_is_told_what_to_do(
    harness: Harness, kafka: dict[str, str], topics: Topics
) -> None:
    admin = AdminClient({**kafka})
    for deleted in admin.delete_topics([topics.erasures]).values():
        deleted.result()
    with harness:
        for job, arguments in (("worker", []), ("trainer", []), ("erase", ["--user", VICTIM])):
            harness.processes.start(job, job, *arguments)
            said = harness.last_words(job)
            assert topics.erasures in said
            assert "samstream topics create" in said


def test_bad_input_of_the_command_says_what_is_wrong(harness: Harness) -> None:
    bad = harness.directory / "users.txt"
    bad.write_bytes(b"\xff\xfe")
    with harness:
        for arguments, wanted in (
            ([], "name users with --user ID or --file PATH"),
            (["--user", "u" * 257], "1 to 256 characters"),
            (["--file", str(bad)], "one a line, UTF-8"),
        ):
            harness.processes.start("erase", "erase", *arguments)
            assert wanted in harness.last_words("erase")


def test_users_of_a_file_are_erased_also_those_that_nobody_knows(harness: Harness) -> None:
    users = harness.directory / "users.txt"
    users.write_text(f"{VICTIM}\nnobody\n\n{VICTIM}\n")
    with harness:
        harness.start_worker("worker")
        act(harness, 5)
        seen(harness, 5)
        erase(harness, "--file", str(users), "--wait", "worker", users=[])
        seen(harness, 0)
        told = log(harness, "worker")
        known = sum(int(each) for each in re.findall(r" erased users=\d+ sequences=(\d+)", told))
        markers = [each for each in map(decode_marker, harness.read(harness.topics.behaviors)) if each is not None]
        assert [marker.user for marker in sorted(markers, key=lambda each: each.user)] == ["nobody", VICTIM]
        assert json.loads(harness.read(harness.topics.erasures)[0])["user"] in {"nobody", VICTIM}
        assert known <= 1
