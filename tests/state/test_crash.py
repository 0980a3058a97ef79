"""A process that folds a log is killed again and again; state and offsets always belong together."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.state.folding import LENGTH, TOPIC, USERS, expected_pending, fold, grouped, open_state
from tests.state.support import dump


def run_and_kill(path: Path, lines: int) -> int:
    """Start the process, kill it after some lines; returns the last offset it said was committed."""
    committed = 0
    with subprocess.Popen(
        [sys.executable, "-m", "tests.state.folding", str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for _ in range(lines):
            word, offset = process.stdout.readline().split()
            if word == "committed":
                committed = int(offset)
        process.kill()
        for line in process.stdout:
            # A line may be cut where the kill came.
            if line.startswith("committed") and line.endswith("\n"):
                committed = int(line.split()[1])
    return committed


@pytest.mark.long
def test_a_killed_process_leaves_state_that_matches_its_offsets(tmp_path: Path) -> None:
    path = tmp_path / "state"
    dice = random.Random(5)
    for _ in range(6):
        committed = run_and_kill(path, lines=dice.randint(1, 60))
        partition = open_state(path)
        offset = partition.offsets.get(TOPIC, 0)
        assert offset >= committed
        assert dict(partition.pending.items()) == expected_pending(offset)
        whole = dict(grouped(0, offset))
        for user in USERS:
            expected = whole[user][-LENGTH:].tobytes() if user in whole else b""
            assert partition.sequences.read(user).tobytes() == expected
        partition.close()
    assert offset > 4_000

    again = open_state(tmp_path / "again")
    fold(again, 0, offset)
    again.commit({TOPIC: offset})
    again.close()
    assert dump(path) == dump(tmp_path / "again")
