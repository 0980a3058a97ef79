"""The command `samstream` as a user has it: subprocesses, exit statuses, what is printed and what is left behind."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from stream.schema.topics import Topics
from tests.e2e.commands import STOP_S, child, run, running, write_baskets
from tests.e2e.harness import wait_for

DATA = Path("../shared/data/complete_journey")
ENGINE = engine if (engine := os.environ.get("SAMSTREAM_TEST_BROKER")) == "kafka" else "embedded"
"""What a demo or replay starts for itself."""
WITH_SETTINGS = (
    *("demo", "simulate", "worker", "trainer", "monitor", "replay", "topics", "state", "dead-letters"),
    *("backfill", "arms", "export"),
)
COMMANDS = (*WITH_SETTINGS, "experiment", "bench", "lab")

PROMPT_S = 55.0
"""A few seconds on a machine with nothing else to do; a process that does not heed Ctrl-C is killed, which is said."""


def outliving(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Return those that still run a second later; one that nobody has waited for yet (a zombie) does not."""
    alive: list[psutil.Process] = psutil.wait_procs(processes, 1)[1]
    return [process for process in alive if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def check_keys(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """See that `found` has the keys of `wanted` and numbers where it says so, all the way down."""
    assert wanted.keys() <= found.keys(), wanted.keys() - found.keys()
    for key, kind in wanted.items():
        if isinstance(kind, dict):
            check_keys(found[key], kind)
        else:
            assert isinstance(found[key], kind), (key, found[key])


NUMBER = (int, float)


@pytest.mark.broker
def test_the_demo_answers_everything_learns_it_and_writes_its_report(tmp_path: Path) -> None:
    report, scratch = tmp_path / "report", tmp_path / "scratch"
    small = ["--seconds", "6", "--rate", "20", "--users", "60", "--history", "200"]
    for quicker in ("worker.attribution_window_s=10", "worker.idle_timeout_s=1"):
        small += ["--set", quicker]
    done = run("demo", *small, "--plain", "--broker", ENGINE, "--report", report, scratch=scratch, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((report / "report.json").read_text())
    spread = {"p50": NUMBER, "p99": NUMBER}
    check_keys(
        found,
        dict.fromkeys(("impressions", "scores", "clicks", "samples_trained", "dead_letters"), int)
        | {"latency_ms": spread, "freshness_s": spread, "arms": dict},
    )
    assert found["scores"] == found["impressions"] > 40
    assert found["clicks"] > 0
    assert found["dead_letters"] == 0
    assert len(found["arms"]) == 2
    for arm in found["arms"].values():
        check_keys(arm, dict.fromkeys(("impressions", "clicks"), int))
        check_keys(arm, dict.fromkeys(("ctr", "ctr_low", "ctr_high", "log_loss"), NUMBER))
        assert 0 <= arm["ctr_low"] <= arm["ctr"] <= arm["ctr_high"] <= 1
    arms = found["arms"].values()
    assert sum(arm["impressions"] for arm in arms) == found["impressions"]
    assert sum(arm["clicks"] for arm in arms) == found["clicks"]
    assert found["samples_trained"] == sum(arm["shown"] for arm in arms)
    assert 0 < found["latency_ms"]["p50"] <= found["latency_ms"]["p99"]
    assert 0 < found["freshness_s"]["p50"] <= found["freshness_s"]["p99"]
    check_page(report)
    assert str(report / "report.html") in done.stdout.replace("\n", "")
    assert not list(scratch.glob("samstream-*")), "the demo left its scratch directory"


def check_page(report: Path) -> None:
    page = (report / "report.html").read_text()
    assert "</html>" in page
    assert "data:image/png;base64," in page
    pictures = list(report.glob("*.png"))
    assert len(pictures) >= 2
    assert all(picture.read_bytes().startswith(b"\x89PNG\r\n") for picture in pictures)


@pytest.mark.broker
@pytest.mark.parametrize(
    "job", [*(pytest.param(job, marks=pytest.mark.slow) for job in ("worker", "trainer")), "broker"]
)
def test_a_demo_that_loses_a_process_ends_and_names_it(tmp_path: Path, job: str) -> None:
    # The broker goes while the histories are sent, a job while it works.
    small = ("--users", "100" if job == "broker" else "20", "--pre-impressions", "0", "--no-monitor", "--no-gateway")
    arguments = ("demo", *small, "--plain", "--broker", ENGINE, "--report", tmp_path / "report")
    scratch = tmp_path / "scratch"

    def begun() -> bool:
        if process.poll() is not None:
            return True
        logs = scratch.glob("samstream-*/logs/worker-1.log")
        works = job == "broker" or any("assigned partitions=" in log.read_text() for log in logs)
        return works and "warming up" in printed.read_text()

    with running(*arguments, scratch=scratch) as (process, printed):
        wait_for(begun, "the demo to begin")
        victim = child(process, job)
        assert victim is not None, printed.read_text()
        others = psutil.Process(process.pid).children(recursive=True)
        victim.kill()
        assert process.wait(STOP_S + 30) == 1, printed.read_text()
        text = " ".join(printed.read_text().split())
        assert re.search(f"samstream demo: (the [a-z]+ )?{job}[^;]* was killed by SIGKILL;", text), text
        assert not outliving(others), "processes outlived the demo"
        logs = list((tmp_path / "report" / "logs").glob(f"{job}*.log"))
        assert logs or job == "broker", "its log was not kept"


@pytest.mark.broker
def test_ctrl_c_ends_the_demo_within_seconds_and_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    arguments = ("demo", "--plain", "--broker", ENGINE, "--report", tmp_path / "report")
    with running(*arguments, scratch=scratch) as (process, printed):
        wait_for(lambda: "warming up" in printed.read_text() or process.poll() is not None, "the demo to begin")
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 3, "broker, worker and trainer"
        process.send_signal(signal.SIGINT)
        assert process.wait(PROMPT_S) == 130, printed.read_text()
        assert " killed process=" not in printed.read_text()
        assert "Traceback" not in printed.read_text()
        assert not outliving(children), "processes outlived the demo"
        assert not list(scratch.glob("samstream-*")), "the demo left its scratch directory"


@pytest.mark.parametrize("job", ["worker", "trainer"])
def test_a_job_that_is_asked_to_end_while_it_starts_ends_promptly(
    kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path, job: str
) -> None:
    settings = (
        "worker.model_wait_s=240",
        f"topics.prefix={topic_prefix}",
        f"worker.group={topic_prefix}workers",
        f"state.directory={tmp_path / 'state'}",
        f"trainer.directory={tmp_path / 'checkpoints'}",
    )
    flags = [flag for setting in settings for flag in ("--set", setting)]
    arguments = (job, "--bootstrap", kafka["bootstrap.servers"], *flags)
    with running(*arguments, scratch=tmp_path / "scratch") as (process, printed):
        wait_for(lambda: heeds(process.pid, signal.SIGTERM), "the job to begin")
        process.terminate()
        # It finishes its imports first, beside other tests; a worker that heeded nothing would wait for 240 s.
        assert process.wait(120) == 0, printed.read_text()


def heeds(pid: int, number: signal.Signals) -> bool:
    """Say whether a process has a handler of its own for a signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def check_replay(report: Path, arms: set[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((report / "report.json").read_text())
    check_keys(found, {"seconds": NUMBER, "arms": dict})
    assert found["arms"].keys() == arms
    for arm in found["arms"].values():
        check_keys(arm, dict.fromkeys(("samples", "positives"), int))
        assert arm["samples"] > arm["positives"] > 0, "nothing was judged"
        check_keys(arm, dict.fromkeys(("auc", "gauc", "ne", "log_loss", "calibration"), NUMBER))
        assert 0 <= arm["auc"] <= 1
        assert arm["log_loss"] > 0
    assert len({(arm["samples"], arm["positives"]) for arm in found["arms"].values()}) == 1
    check_page(report)
    return found


@pytest.mark.broker
@pytest.mark.slow
def test_a_replay_of_real_baskets_judges_every_arm(tmp_path: Path) -> None:
    if not DATA.is_dir():
        pytest.skip(f"{DATA} is not here: the data set is never committed")
    report = tmp_path / "report"
    arguments = ("complete-journey", "--data", DATA, "--visits", "150", "--broker", ENGINE, "--report", report)
    done = run("replay", *arguments, scratch=tmp_path / "scratch", timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert check_replay(report, {"sam", "din", "counts"})["impressions"] == 150


@pytest.mark.slow
@pytest.mark.broker
def test_a_replay_of_a_small_folder_asks_and_judges_every_arm_the_same(tmp_path: Path) -> None:
    folder, report = tmp_path / "baskets", tmp_path / "report"
    write_baskets(folder, baskets=150)
    arguments: list[str | Path] = ["complete-journey", "--data", folder, "--arms", "counts,mean-20", "--broker", ENGINE]
    for quicker in ("worker.attribution_window_s=1", "worker.idle_timeout_s=0.5", "trainer.update_interval_s=0.2"):
        arguments += ["--set", quicker]
    done = run("replay", *arguments, "--report", report, scratch=tmp_path / "scratch", timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    found = check_replay(report, {"counts", "mean-20"})
    assert found["seconds"] > 0
    assert found["dead_letters"] == 0
    assert found["behaviors"] == 150 * 3
    for name in found["arms"]:
        assert f"{name}: AUC 0." in done.stdout


def test_a_replay_with_early_labels_says_why_there_is_none(tmp_path: Path) -> None:
    write_baskets(tmp_path / "baskets", baskets=150)
    arguments: list[str | Path] = ["--data", tmp_path / "baskets", "--set", "worker.labels=early"]
    done = run("replay", "complete-journey", *arguments, scratch=tmp_path / "scratch")
    assert done.returncode == 1
    assert "it needs worker.labels=window" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_replay_without_its_data_says_what_is_missing(tmp_path: Path) -> None:
    done = run("replay", "complete-journey", "--data", tmp_path / "nowhere", scratch=tmp_path / "scratch")
    assert done.returncode == 1
    assert "events.tsv.xz" in done.stderr
    assert "Traceback" not in done.stderr


def test_topics_are_made_once_checked_and_refused_with_another_partition_count(
    kafka: dict[str, str], topic_prefix: str, tmp_path: Path
) -> None:
    names = Topics(topic_prefix)
    where = ("--bootstrap", kafka["bootstrap.servers"], "--set", f"topics.prefix={topic_prefix}")

    def topics(action: str, partitions: int = 3) -> subprocess.CompletedProcess[str]:
        more = ("--set", f"topics.partitions={partitions}")
        return run("topics", action, *where, *more, scratch=tmp_path / "scratch")

    none = topics("check")
    assert none.returncode == 1
    assert names.behaviors in none.stderr
    assert "samstream topics create" in none.stderr
    made = topics("create")
    assert made.returncode == 0, made.stderr
    assert lines(made)["created"] == {topic.name for topic in names}
    again = topics("create")
    assert again.returncode == 0, again.stderr
    assert lines(again) == {"created": {"none"}, "existing": {topic.name for topic in names}}
    checked = topics("check")
    assert checked.returncode == 0, checked.stderr
    assert "3 partitions" in checked.stdout
    other = topics("create", partitions=5)
    assert other.returncode == 1
    assert f"{names.behaviors}: has 3 partitions, must have 5" in other.stderr
    assert names.model_updates not in other.stderr
    assert topics("check").returncode == 0, "a refused create changed the topics"


def test_topics_check_and_create_say_the_same_of_settings_and_fail_for_what_is_dangerous(
    kafka: dict[str, str], topic_prefix: str, tmp_path: Path
) -> None:
    names = Topics(topic_prefix)
    where = ("--bootstrap", kafka["bootstrap.servers"], "--set", f"topics.prefix={topic_prefix}")
    admin = AdminClient({**kafka, "log_level": 0})
    odd = [
        NewTopic(names.behaviors, 8, 1, config={"cleanup.policy": "compact", "message.timestamp.type": "CreateTime"}),
        NewTopic(names.scores, 8, 1, config={"retention.ms": "60000"}),
        NewTopic(names.clicks, 8, 1, config={"retention.ms": "3600000", "message.timestamp.type": "LogAppendTime"}),
    ]
    for made in admin.create_topics(odd).values():
        made.result()

    def said(action: str, *more: str) -> tuple[int, list[str]]:
        done = run("topics", action, *where, *more, scratch=tmp_path / "scratch")
        assert "Traceback" not in done.stderr, done.stderr
        kinds = ("error: ", "warning: ", "note: ")
        return done.returncode, [line for line in done.stdout.splitlines() if line.startswith(kinds)]

    status, told = said("create")
    assert status == 1
    assert [line.partition("=")[0] for line in told] == [
        f"error: {names.behaviors}: cleanup.policy",
        f"error: {names.behaviors}: message.timestamp.type",
        f"error: {names.scores}: retention.ms",
        f"warning: {names.behaviors}: retention.ms",
        f"warning: {names.clicks}: retention.ms",
    ]
    assert said("check") == (status, told)
    # Windows that are shorter need less.
    status, told = said("check", "--set", "worker.attribution_window_s=10")
    assert status == 1
    assert f"warning: {names.scores}: retention.ms" in {line.partition("=")[0] for line in told}


def lines(done: subprocess.CompletedProcess[str]) -> dict[str, set[str]]:
    """Return what `topics create` printed: created and existing names."""
    parts = (line.partition(": ") for line in done.stdout.splitlines() if not line.startswith("note:"))
    return {word: set(names.split(", ")) for word, _, names in parts}


def test_every_command_explains_itself(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    whole = run("--help", scratch=scratch)
    assert whole.returncode == 0
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda name: run(name, "--help", scratch=scratch), COMMANDS))
    for name, done in zip(COMMANDS, answers, strict=True):
        assert done.returncode == 0, done.stderr
        assert f"samstream {name}" in done.stdout
        assert ("--config FILE" in done.stdout) == (name in WITH_SETTINGS)
        assert name in whole.stdout


def no_file(scratch: Path) -> tuple[str, ...]:
    return ("--config", str(scratch / "absent.toml"))


def unknown_in_file(scratch: Path) -> tuple[str, ...]:
    path = scratch / "settings.toml"
    path.write_text("[worker]\ncommit_intervall_s = 1\n")
    return ("--config", str(path))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (lambda _: ("--set", "worker.comit_interval_s=1"), "comit_interval_s"),
        (lambda _: ("--set", "kafka.group.id=x"), "kafka.group.id"),
        (unknown_in_file, "commit_intervall_s"),
        (no_file, "absent.toml"),
    ],
    ids=["a key", "what is not to be set", "a key in a file", "a file"],
)
def test_a_setting_that_cannot_be_is_named(
    tmp_path: Path, arguments: Callable[[Path], tuple[str, ...]], told: str
) -> None:
    done = run("topics", "check", *arguments(tmp_path), scratch=tmp_path / "scratch")
    assert done.returncode == 1
    assert done.stderr.startswith("samstream topics: ")
    assert told in done.stderr
    assert "Traceback" not in done.stderr
