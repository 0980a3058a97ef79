"""An experiment as a user runs it: from its file to its report, and the same report again from live outcomes."""

import json
import re
import subprocess
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.commands import child, run, running
from tests.e2e.harness import wait_for

FILE = """
name = "short-or-shorter"
salt = "short-1"
minimum_effect = 0.2
alpha = 0.1

[[arms]]
name = "mean"
preset = "mean"
length = 30
share = 3

[[arms]]
name = "counts"
preset = "counts-20"
learn = false

[[arms]]
name = "mixed"
interleave = ["mean", "counts"]

[[guardrails]]
metric = "latency_p99_ms"
at_most = 1000

[[guardrails]]
metric = "unanswered"
at_most = 0.01

[[guardrails]]
metric = "calibration"
at_least = 0.01

[[guardrails]]
metric = "action"
action = "view"
within_s = 0.5
at_least = -0.9
relative_to = "counts"
"""

SMALL = ("--rate", "25", "--users", "80", "--history", "60", "--plain")


def file(directory: Path) -> Path:
    path = directory / "experiment.toml"
    path.write_text(FILE)
    return path


def read(report: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((report / "report.json").read_text())
    return found


@pytest.mark.broker
def test_a_run_and_a_report_from_its_outcomes_say_the_same(
    kafka: dict[str, str], topic_prefix: str, tmp_path: Path
) -> None:
    address, scratch = kafka["bootstrap.servers"], tmp_path / "scratch"
    mine = [f"topics.prefix={topic_prefix}", f"worker.group={topic_prefix}w", f"monitor.group={topic_prefix}m"]
    quicker = ("worker.attribution_window_s=10", "worker.allowed_lateness_s=0.2", "worker.idle_timeout_s=1")
    flags = [flag for setting in (*mine, *quicker) for flag in ("--set", setting)]
    ran, reported = tmp_path / "ran", tmp_path / "reported"
    done = run(
        "experiment", "run", file(tmp_path), "--seconds", "6", *SMALL, "--no-gateway", *flags, "--broker", address,
        "--report", ran, scratch=scratch, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"live page: http://127\.0\.0\.1:\d+", done.stdout)
    truth = read(ran)
    assert (truth["name"], truth["alpha"], truth["minimum_effect"]) == ("short-or-shorter", 0.1, 0.2)
    assert truth["plan"]["mean"] == {"share": 0.6, "model": "mean", "length": 30, "learns": "from its own users"}
    assert truth["plan"]["counts"]["learns"] == "no"
    assert truth["samples_trained"] == sum(arm["shown"] for arm in truth["arms"].values())
    assert truth["verdict"]["alpha"] == 0.1
    assert truth["verdict"]["pairs"][0]["variance_left"] < 1, "the time before was not used"
    for arm in truth["arms"].values():
        assert 0 <= arm["regret"] < 10
        assert 0 < arm["cpu_s"] < 100
        assert 0 < arm["latency_ms"]["p50"] <= arm["latency_ms"]["p99"]

    other = tmp_path / "other.toml"
    other.write_text(FILE.replace("short-1", "other"))

    def report(path: Path, directory: Path, *more: str) -> subprocess.CompletedProcess[str]:
        where = ("--bootstrap", address, *flags[:2])
        return run("experiment", "report", path, *where, "--report", directory, *more, scratch=scratch)

    with ThreadPoolExecutor() as pool:
        reporting = pool.submit(report, file(tmp_path), reported)
        of_nothing = pool.submit(report, file(tmp_path), tmp_path / "nothing", "--since", "1s")
        of_another = pool.submit(report, other, tmp_path / "another")
    done = reporting.result()
    assert done.returncode == 0, done.stdout + done.stderr
    live = read(reported)
    for name, arm in truth["arms"].items():
        for number in ("users", "impressions", "shown", "clicks", "ctr", "ctr_low", "ctr_high"):
            assert live["arms"][name][number] == pytest.approx(arm[number]), (name, number)
        assert live["arms"][name]["log_loss"] == pytest.approx(arm["log_loss"], rel=1e-4)
        assert live["arms"][name]["cpu_s"] == pytest.approx(arm["cpu_s"], rel=1e-4)
        assert live["arms"][name]["timed"] == arm["impressions"]
        assert live["arms"][name]["regret"] is None
    assert live["verdict"]["sentence"] == truth["verdict"]["sentence"]
    assert live["verdict"]["mismatch_p"] == pytest.approx(truth["verdict"]["mismatch_p"])
    [mixed] = truth["interleaving"]
    assert (mixed["arm"], {mixed["first"], mixed["second"]}) == ("mixed", {"mean", "counts"})
    assert mixed["requests"] > 0
    assert live["interleaving"] == truth["interleaving"]
    assert mixed["sentence"] in done.stdout
    assert [(each["arm"], each["state"]) for each in live["guardrails"]][:4] == [
        ("mean", "unknown"), ("counts", "unknown"), ("mean", "unknown"), ("counts", "unknown")
    ]  # fmt: skip
    assert live["guardrails"][4:] == truth["guardrails"][4:]
    assert "units (worth" in live["guardrails"][0]["text"]
    states = {check["name"]: check["state"] for check in live["checks"]}
    assert (states["assigned"], states["complete"]) == ("fine", "fine")
    page = (reported / "report.html").read_text()
    assert "This is live traffic" in page
    assert "What must not get worse" in page
    assert "unknown" in page

    none = of_nothing.result()
    assert none.returncode == 0, none.stderr
    assert "Nothing was shown" in none.stdout
    assert read(tmp_path / "nothing")["impressions"] == 0

    done = of_another.result()
    assert done.returncode == 0, done.stderr
    assert {check["name"]: check["state"] for check in read(tmp_path / "another")["checks"]}["assigned"] == "note"


@pytest.mark.slow
@pytest.mark.broker
def test_the_live_page_of_a_run_is_served_and_the_run_goes_on_without_it(tmp_path: Path) -> None:
    quicker = ("monitor.window_s=1", "worker.attribution_window_s=1", "worker.allowed_lateness_s=0")
    flags = [flag for setting in quicker for flag in ("--set", setting)]
    arguments = (
        "--seconds",
        "180",
        "--pre-impressions",
        "0",
        "--no-gateway",
        *SMALL,
        *flags,
        "--report",
        str(tmp_path / "report"),
    )
    with running("experiment", "run", file(tmp_path), *arguments, scratch=tmp_path / "scratch") as (process, printed):

        def served() -> bool:
            address = re.search(r"http://127\.0\.0\.1:\d+", printed.read_text())
            if address is None:
                assert process.poll() is None, printed.read_text()
                return False
            try:
                with urllib.request.urlopen(f"{address[0]}/api/state", timeout=5) as answer:
                    return bool(json.load(answer)["windows"]["closed"])
            except OSError:
                return False

        wait_for(served, "the page to show a window", deadline_s=90)
        monitor = child(process, "monitor")
        assert monitor is not None
        monitor.kill()
        lines = printed.read_text().count("s traffic")
        wait_for(lambda: printed.read_text().count("s traffic") >= lines + 2, "the run to go on without its monitor")
        assert process.poll() is None
        assert not served()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("run", "nowhere.toml"), "nowhere.toml"),
        (("run", "bad.toml"), "lenght"),
        (("run", "good.toml", "--set", "salt=mine"), "state them in one place"),
        (("run", "good.toml", "--set", 'arms=[{name="counts"},{name="b"}]'), "state them in one place"),
        (("run", "good.toml", "--set", "topics.partition=3"), "partition"),
        (("report", "nowhere.toml"), "nowhere.toml"),
        (("report", "good.toml", "--since", "yesterday"), "'yesterday' is not a time: write it as"),
        (("report", "good.toml", "--since", "1h", "--until", "2h"), "nothing lies between them"),
        (("report", "good.toml", "--before", "1h"), "--since"),
        (("report", "good.toml", "--before", "1h", "--since", "2h"), "nothing lies between them"),
    ],
)
def test_files_settings_and_times_that_cannot_be_are_one_clear_line(
    tmp_path: Path, arguments: tuple[str, ...], told: str
) -> None:
    (tmp_path / "good.toml").write_text(FILE)
    (tmp_path / "bad.toml").write_text(FILE.replace("length", "lenght"))
    action, name, *rest = arguments
    done = run("experiment", action, tmp_path / name, *rest, scratch=tmp_path / "scratch")
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.startswith("samstream experiment: ")
    assert told in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.broker
def test_a_report_without_topics_says_what_makes_them(kafka: dict[str, str], topic_prefix: str, tmp_path: Path) -> None:
    where = ("--bootstrap", kafka["bootstrap.servers"], "--set", f"topics.prefix={topic_prefix}")
    done = run("experiment", "report", file(tmp_path), *where, scratch=tmp_path / "scratch")
    assert done.returncode == 1
    assert f"{topic_prefix}outcomes" in done.stderr
    assert "samstream topics create" in done.stderr
