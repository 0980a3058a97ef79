"""A process that hangs while it stops is ended, and one that has stopped is not."""

import subprocess
import sys

HANGS = """
import threading, time
from stream.monitor.stop_limit import StopLimit
limit = StopLimit(0.2, lambda: "it hung")
limit.begin()
limit.begin()
threading.Thread(target=time.sleep, args=(60,)).start()
{then}
"""


def run(then: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", HANGS.format(then=then)], capture_output=True, text=True, timeout=30, check=False
    )


def test_a_process_that_hangs_ends_with_its_last_words() -> None:
    ended = run("time.sleep(60)")
    assert ended.returncode == 1
    assert ended.stderr == "samstream monitor: it hung\n"


def test_a_process_that_has_stopped_goes_on() -> None:
    ended = run("limit.cancel(); time.sleep(1); import os; os._exit(7)")
    assert ended.returncode == 7
    assert not ended.stderr
