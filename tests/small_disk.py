"""A disk that can be filled up: a tmpfs of some megabytes, for tests of what is told and kept when there is no room."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

_BLOCK = 4096


class SmallDisk:
    """A mounted file system, of which `path` is the root."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"

    def fill(self, leave: int = 0) -> None:
        """Take all the room there is but about `leave` bytes."""
        with self._filler.open("ab", buffering=0) as file:
            with suppress(OSError):
                while file.write(bytes(_BLOCK)) == _BLOCK:
                    pass
            if leave:
                file.truncate(max(0, file.tell() - leave))

    def make_room(self) -> None:
        """Give back what `fill` took."""
        self._filler.unlink()


@contextmanager
def mounted(path: Path, *, megabytes: int = 12) -> Iterator[SmallDisk]:
    """Mount a small disk for as long as the block runs; skips the test where that is not permitted."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("needs a small file system to fill: only root can mount a tmpfs, on Linux")
    path.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(path)], capture_output=True, text=True
    )
    if mount.returncode:
        pytest.skip(f"needs a small file system to fill, and mounting is not permitted here: {mount.stderr.strip()}")
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
