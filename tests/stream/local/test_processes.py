"""Child processes: those that die are named with the end of their log, and all end when they are told to."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import psutil
import pytest

from stream.errors import ChildDiedError
from stream.local.system import Processes
from stream.schema.topics import Topics
from stream.settings import Settings, convert
from tests.conftest import PARTITIONS

DEADLINE_S = 60.0


@pytest.fixture
def settings(kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path) -> Settings:
    return convert(
        {
            "kafka": kafka,
            "topics": {"prefix": topic_prefix},
            "arms": [{"name": "counts", "preset": "counts-10"}],
            "trainer": {"directory": str(tmp_path / "checkpoints")},
        }
    )


def wait_for_text(path: Path, text: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while text not in path.read_text():
        assert time.monotonic() < deadline, f"no {text!r} in {path.read_text()}"
        time.sleep(0.02)


def test_a_child_that_cannot_start_is_named_with_the_end_of_its_log(settings: Settings, tmp_path: Path) -> None:
    with Processes(tmp_path / "run", settings) as processes:
        child = processes.start("worker-7", "no-such-command")
        assert child.wait(DEADLINE_S) == 2
        with pytest.raises(ChildDiedError, match="worker-7 ended with status 2") as caught:
            processes.check()
    assert str(processes.log("worker-7")) in str(caught.value)
    assert "invalid choice: 'no-such-command'" in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 16


def test_only_a_child_that_is_dead_is_named_and_the_others_end_in_order(settings: Settings, tmp_path: Path) -> None:
    """The other one is a trainer, which steps back behind what answers."""
    with Processes(tmp_path / "run", settings) as processes:
        trainer = processes.start("teacher", "trainer")
        for _ in range(2):
            assert processes.start("checker", "topics", "check").wait(DEADLINE_S) == 0
        with pytest.raises(ChildDiedError, match="checker ended with status 0") as caught:
            processes.check()
        told = f"those keyed by user have {PARTITIONS} partitions"
        assert str(caught.value).count(told) == 2, "the log of the one before stays"
        processes.release("checker")
        wait_for_text(processes.log("teacher"), "started")
        assert psutil.Process(trainer.pid).nice() == min(19, psutil.Process().nice() + settings.trainer.nice)
        processes.check()
        processes.stop()
        assert trainer.returncode == 0, "it was asked to end, and ended in order"
        processes.check()


def test_an_optional_child_steps_back_and_may_end(settings: Settings, tmp_path: Path) -> None:
    wanted = min(19, psutil.Process().nice() + 10)
    with Processes(tmp_path / "run", settings) as processes:
        page = processes.start("page", "trainer", "--set", "trainer.nice=0", optional=True)
        wait_for_text(processes.log("page"), "started ")
        assert psutil.Process(page.pid).nice() == wanted
        assert processes.ended_optional() == []
        page.kill()
        page.wait(DEADLINE_S)
        processes.check()
        assert processes.ended_optional() == ["page"]


def test_a_child_that_does_not_end_when_it_is_asked_is_killed_and_that_is_said(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("stream.local.system._STOP_S", 0.1)
    with Processes(tmp_path / "run", settings) as processes:
        child = processes.start("teacher", "trainer")
        child.send_signal(signal.SIGSTOP)
        os.waitpid(child.pid, os.WUNTRACED)  # until it stands still
        processes.stop()
    assert child.returncode == -signal.SIGKILL
    assert "killed process=teacher " in caplog.text


def test_a_child_that_was_killed_is_named_with_the_signal(settings: Settings, tmp_path: Path) -> None:
    with Processes(tmp_path / "run", settings) as processes:
        child = processes.start("teacher", "trainer")
        processes.check()
        child.kill()
        child.wait(DEADLINE_S)
        with pytest.raises(ChildDiedError, match="teacher was killed by SIGKILL"):
            processes.check()


def test_children_have_the_settings_they_were_given_and_not_those_of_the_environment(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAMSTREAM_TOPICS__PREFIX", "elsewhere-")
    monkeypatch.setenv("SAMSTREAM_NO_SUCH__SETTING", "1")
    with Processes(tmp_path / "run", settings) as processes:
        assert processes.start("checker", "topics", "check").wait(DEADLINE_S) == 0
    [written] = (tmp_path / "run").rglob("settings.json")
    assert json.loads(written.read_text())["topics"]["prefix"] == settings.topics.prefix
    assert written.stat().st_mode & 0o077 == 0, "passwords may be in it"


def test_children_do_not_outlive_a_parent_that_is_killed(settings: Settings, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from stream.settings import load\n"
        "from stream.local.system import Processes\n"
        "processes = Processes(Path(sys.argv[1]) / 'run', load(Path(sys.argv[1]) / 'given.json', environ={}))\n"
        "print(processes.start('teacher', 'trainer').pid, flush=True); sys.stdin.read()"
    )
    (tmp_path / "given.json").write_bytes(msgspec.json.encode(settings))
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        assert child.is_running()
        parent.send_signal(signal.SIGKILL)
        parent.wait(DEADLINE_S)
    gone, alive = psutil.wait_procs([child], timeout=DEADLINE_S)
    assert not alive
    assert gone == [child]


def test_stopping_nothing_is_fine(settings: Settings, tmp_path: Path) -> None:
    processes = Processes(tmp_path / "run", settings)
    processes.check()
    processes.stop()
    processes.stop()
