"""Removes checkpoints by their age."""

import re
import shutil
from pathlib import Path


def remove_before(directory: Path, time_ms: int) -> list[Path]:
    """Remove the checkpoints that were written before a time (ms since the epoch), but never the newest one.

    Those that were set aside as damaged (`.refused`) go as well: nobody can say what they hold.

    Args:
        directory: of the checkpoints.
        time_ms: by the clock of the disk.

    Returns:
        What was removed.

    Raises:
        OSError: when one cannot be removed.
    """
    found = sorted(path for path in directory.iterdir() if re.fullmatch(r"[0-9]{8}(\.refused)?", path.name))
    whole = [path for path in found if not path.suffix]
    old = [path for path in found if path not in whole[-1:] and 1000 * path.stat().st_mtime < time_ms]
    for path in old:
        shutil.rmtree(path)
    return old
