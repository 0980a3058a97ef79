"""Checkpoints that are too old go; the newest stays, whatever its age."""

import os
from pathlib import Path

from stream.trainer.old_checkpoints import remove_before


def test_old_ones_and_damaged_ones_go_and_the_newest_stays(tmp_path: Path) -> None:
    for name, written in (("00000001", 10), ("00000002.refused", 10), ("00000003", 30), ("00000004", 15)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").touch()
        os.utime(tmp_path / name, (written, written))
    (tmp_path / "sequences").mkdir()
    os.utime(tmp_path / "sequences", (1, 1))
    removed = remove_before(tmp_path, 20_000)
    assert [path.name for path in removed] == ["00000001", "00000002.refused"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000003", "00000004", "sequences"]
