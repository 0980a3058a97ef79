"""Opening, refusing, committing, moving a partition."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rocksdict import Options, Rdict

from state.errors import FormatError, LockedError, StateError
from state.layout import META_KEY
from state.partition import FORMAT, Partition
from tests.state.support import dump, records


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "partition-00003"


def test_a_new_one_is_empty_and_knows_its_parameters(path: Path) -> None:
    partition = Partition.open(path, length=70, slack=7)
    assert dict(partition.offsets) == {}
    assert len(partition.pending) == 0
    assert (partition.meta.format, partition.meta.length, partition.meta.slack) == (FORMAT, 70, 7)
    assert partition.sequences.length == 70
    partition.close()


def test_what_was_committed_is_there_again_and_nothing_else(path: Path) -> None:
    partition = Partition.open(path)
    partition.sequences.append("u", records(0, 5))
    partition.pending.put("r1", b"one")
    partition.commit({"behaviors": 5, "clicks": 1})
    partition.sequences.append("u", records(5, 9))
    partition.pending.put("r2", b"two")
    partition.pending.delete("r1")
    partition.close()
    partition = Partition.open(path)
    assert partition.sequences.count("u") == 5
    assert dict(partition.pending.items()) == {"r1": b"one"}
    assert dict(partition.offsets) == {"behaviors": 5, "clicks": 1}
    partition.close()


def test_offsets_of_topics_not_named_stay(path: Path) -> None:
    partition = Partition.open(path)
    partition.commit({"behaviors": 5, "clicks": 1})
    partition.commit({"behaviors": 6})
    assert dict(partition.offsets) == {"behaviors": 6, "clicks": 1}
    with pytest.raises(TypeError):
        partition.offsets["behaviors"] = 0  # type: ignore[index]
    partition.close()


def test_a_closed_one_can_be_moved(path: Path, tmp_path: Path) -> None:
    partition = Partition.open(path)
    partition.sequences.append("u", records(0, 500))
    partition.pending.put("r", b"value")
    partition.commit({"behaviors": 500})
    partition.close()
    elsewhere = tmp_path / "elsewhere"
    shutil.move(path, elsewhere)
    partition = Partition.open(elsewhere)
    assert partition.sequences.read("u").tobytes() == records(0, 500).tobytes()
    assert partition.pending.get("r") == b"value"
    assert partition.sequences.append("u", records(500, 501)) == 501
    partition.commit({"behaviors": 501})
    partition.close()
    assert not path.exists()


@pytest.mark.parametrize("other", [{"length": 500}, {"slack": 100}])
def test_other_parameters_are_refused_and_change_nothing(path: Path, other: dict[str, Any]) -> None:
    Partition.open(path).close()
    before = dump(path)
    with pytest.raises(FormatError, match="Set them as they were"):
        Partition.open(path, **other)
    assert dump(path) == before
    Partition.open(path).close()


@pytest.mark.parametrize(
    "meta",
    [
        msgspec.json.encode({"format": FORMAT + 1, "length": 1000, "slack": 256, "chunk": 64}),
        msgspec.json.encode({"format": FORMAT + 1}),
        b"\xff",
    ],
)
def test_an_unknown_format_is_refused(path: Path, meta: bytes) -> None:
    Partition.open(path).close()
    db = Rdict(str(path), Options(raw_mode=True))
    db[META_KEY] = meta
    db.close()
    with pytest.raises(FormatError, match="Move the directory away"):
        Partition.open(path)


def test_another_database_is_refused(path: Path) -> None:
    path.mkdir(parents=True)
    db = Rdict(str(path), Options(raw_mode=True))
    db[b"mine"] = b"data"
    db.close()
    with pytest.raises(FormatError, match="not the state of a partition"):
        Partition.open(path)
    assert dump(path) == {b"mine": b"data"}


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="cannot open"):
        Partition.open(tmp_path / "file")


@pytest.mark.parametrize("parameters", [{"length": 0}, {"slack": -1}, {"length": 1 << 30}])
def test_impossible_parameters_make_nothing(path: Path, parameters: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        Partition.open(path, **parameters)
    assert not path.exists()


def test_it_is_locked_while_open_in_this_process(path: Path) -> None:
    partition = Partition.open(path)
    with pytest.raises(LockedError, match="in use"):
        Partition.open(path)
    partition.close()
    Partition.open(path).close()


def test_it_is_locked_while_open_in_another_process(path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from state.partition import Partition\n"
        "partition = Partition.open(Path(sys.argv[1])); print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(LockedError, match="in use"):
            Partition.open(path)
        other.kill()
    Partition.open(path).close()


def test_a_commit_that_fails_leaves_the_last_one(path: Path) -> None:
    partition = Partition.open(path)
    partition.sequences.append("u", records(0, 5))
    partition.commit({"behaviors": 5})
    partition.sequences.append("u", records(5, 6))
    partition.close()
    with pytest.raises(StateError, match="open it again"):
        partition.commit({"behaviors": 6})
    assert dict(partition.offsets) == {"behaviors": 5}
    partition = Partition.open(path)
    assert (partition.sequences.count("u"), dict(partition.offsets)) == (5, {"behaviors": 5})
    partition.close()


def test_closing_twice_is_fine(path: Path) -> None:
    partition = Partition.open(path)
    partition.close()
    partition.close()
