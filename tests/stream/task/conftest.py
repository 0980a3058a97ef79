"""A directory for a partition, and a task on it."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.stream.task.support import Bench


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "partition"


@pytest.fixture
def bench(path: Path) -> Iterator[Bench]:
    with closing(Bench(path)) as bench:
        yield bench
