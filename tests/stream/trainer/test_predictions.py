"""Where predictions are logged, and that two trainers never write to one log."""

from pathlib import Path

import pytest

from stream.errors import TrainerError
from stream.settings import convert
from stream.trainer.predictions import predictions_path, sole_logger


def test_the_logs_of_two_prefixes_lie_apart_and_without_a_prefix_they_lie_in_the_folder() -> None:
    def path(prefix: str) -> str:
        settings = convert({"topics": {"prefix": prefix}, "trainer": {"progressive_log": "/logs"}})
        return str(predictions_path(settings, "sam"))

    assert [path(prefix) for prefix in ("", "shop.", "..")] == [
        "/logs/sam.predictions",
        "/logs/prefix-shop./sam.predictions",
        "/logs/prefix-../sam.predictions",
    ]


def test_a_log_has_one_writer_and_keeps_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "sam.predictions"
    with sole_logger(path):
        path.write_bytes(b"rows")
        with pytest.raises(TrainerError, match=rf"{path}.*trainer\.progressive_log"), sole_logger(path):
            pass
    with sole_logger(path):
        assert path.read_bytes() == b"rows"


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(TrainerError, match=r"trainer\.progressive_log"), sole_logger(tmp_path / "file" / "sam"):
        pass
