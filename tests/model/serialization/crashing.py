"""A crash in the middle of writing files."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def dying_after(steps: int) -> Iterator[None]:
    """Let so many flushes and renames be done while the block runs, and raise KeyboardInterrupt at the next one."""
    done = 0
    real_fsync, real_rename = os.fsync, Path.rename

    def step() -> None:
        nonlocal done
        done += 1
        if done > steps:
            raise KeyboardInterrupt

    def fsync(descriptor: int) -> None:
        step()
        real_fsync(descriptor)

    def rename(self: Path, target: Path) -> Path:
        step()
        return real_rename(self, target)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        patched.setattr(Path, "rename", rename)
        yield
