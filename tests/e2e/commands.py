"""The command `samstream` in processes of its own, and a small data set for it.

`run` forks them from one that has imported everything; `running` starts them as a user does.
"""

import lzma
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.e2e.forked import run_forked

STOP_S = 20.0


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "stream.cli", *map(str, arguments)]


def environment(scratch: Path) -> dict[str, str]:
    """Return an environment without settings, whose temporary files lie in `scratch`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SAMSTREAM_")}
    scratch.mkdir(exist_ok=True)
    return kept | {"TMPDIR": str(scratch)}


def run(*arguments: str | Path, scratch: Path, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Run the command to its end, in a fork."""
    return run_forked([str(each) for each in arguments], environment(scratch), timeout)


@contextmanager
def running(*arguments: str | Path, scratch: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Yield a running command and the file of what it prints; end what is left of it and of its children."""
    printed = scratch.with_name("printed.txt")
    with printed.open("wb") as output:
        process = subprocess.Popen(
            command(*arguments),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(scratch),
            # As in a terminal, whatever has started the tests: Python heeds Ctrl-C only where it is not ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    try:
        yield process, printed
    finally:
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.kill()
        process.wait()
        psutil.wait_procs(children, STOP_S)


def child(process: subprocess.Popen[bytes], job: str) -> psutil.Process | None:
    """Return the child that runs `samstream JOB`, or the broker, when there is one by now."""
    for each in psutil.Process(process.pid).children():
        try:
            line = each.cmdline()
        except psutil.NoSuchProcess:
            continue
        if line[1:4] == ["-m", "stream.cli", job] or (job == "broker" and "stream.cli" not in line):
            return each
    return None


def write_baskets(folder: Path, *, baskets: int) -> None:
    """Write a folder in the form of the data set: few items, so that all have sold often enough to be asked about."""
    rng = random.Random(3)
    folder.mkdir()
    rows = [
        (1 + basket % 7, item, 1_500_000_000 + 3600 * basket, basket)
        for basket in range(1, baskets + 1)
        for item in rng.sample(range(1, 16), 3)
    ]
    with lzma.open(folder / "events.tsv.xz", "wt") as out:
        out.write("user_id\titem_id\ttimestamp\tbasket_id\n")
        out.writelines("\t".join(map(str, row)) + "\n" for row in rows)
    with lzma.open(folder / "items.tsv.xz", "wt") as out:
        out.write("product_id\tproduct_type\n")
        out.writelines(f"{item}\ttype-{item % 4}\n" for item in range(1, 16))
