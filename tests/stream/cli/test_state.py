"""`samstream state` looks where the state says that users lie, whatever `topics.partitions` is."""

from pathlib import Path

import pytest

from state.behavior import behaviors
from state.partition import Partition
from stream.cli.main import main
from stream.schema.partitioner import partition_of
from stream.schema.position import LogIdentity, Origin


def test_a_user_is_looked_for_among_as_many_partitions_as_the_topics_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    user = next(user for number in range(100) if partition_of((user := f"user-{number}").encode(), 32) > 8)
    number = partition_of(user.encode(), 32)
    partition = Partition.open(tmp_path / f"partition-{number:05d}")
    partition.sequences.append(user, behaviors([(1, 1, 1, ts) for ts in range(5)]))
    origin = Origin(LogIdentity("cluster", "behaviors", "id", 32))
    partition.commit({"behaviors": 5}, {"behaviors": origin.encode()})
    partition.close()
    where = ("--set", f"state.directory={tmp_path}")
    assert main(["state", "show", "--user", user, *where]) == 0
    assert f"{user}: partition {number}, 5 behaviours so far" in capsys.readouterr().out
    assert main(["state", "list", *where]) == 0
    assert "behaviors 5" in capsys.readouterr().out


def test_the_list_has_standby_copies_beside_states(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, offset in (("partition-00000", 7), ("standby-00001", 9)):
        partition = Partition.open(tmp_path / name)
        partition.commit({"behaviors": offset})
        partition.close()
    assert main(["state", "list", "--set", f"state.directory={tmp_path}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    [state], [copy] = ([line for line in lines if f"behaviors {offset}" in line] for offset in (7, 9))
    assert "state" in state
    assert "standby copy" in copy
