"""What a process, a directory and a job's metrics say of themselves at one moment."""

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from stream.errors import StreamError

_SCRAPE_S = 5.0


@dataclass(frozen=True, slots=True)
class ProcessReading:
    """The resident memory (MB), open file descriptors and threads of a process and those that it has started."""

    memory: float
    descriptors: int
    threads: int


def read_process(pid: int) -> ProcessReading | None:
    """Read a process, and those that it has started, from /proc; None when it has ended.

    Raises:
        StreamError: where there is no /proc.
    """
    process = Path("/proc", str(pid))
    if not process.parent.is_dir():
        raise StreamError("processes are measured on Linux alone: run this benchmark there")
    try:
        lines = (process / "status").read_text().splitlines()
        descriptors = sum(1 for _ in (process / "fd").iterdir())
        children: list[str] = []
        for of_thread in process.glob("task/*/children"):
            with suppress(FileNotFoundError, ProcessLookupError):  # a thread may end while the process goes on
                children += of_thread.read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    status = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    if "VmRSS" not in status:
        return None  # it has ended, and nobody has waited for it
    parts = [ProcessReading(int(status["VmRSS"][0]) * 1024 / 1e6, descriptors, int(status["Threads"][0]))]
    parts += [part for child in children if (part := read_process(int(child))) is not None]
    return ProcessReading(
        sum(part.memory for part in parts),
        sum(part.descriptors for part in parts),
        sum(part.threads for part in parts),
    )


def disk_megabytes(directories: Iterable[Path]) -> float:
    """Return the size of all files in some directories; a file with several names counts once."""
    sizes: dict[int, int] = {}
    for directory in directories:
        for folder, _, names in os.walk(directory):
            for name in names:
                with suppress(FileNotFoundError):  # RocksDB may have removed it meanwhile
                    found = Path(folder, name).stat()
                    sizes[found.st_ino] = found.st_size
    return sum(sizes.values()) / 1e6


def read_metric(address: str, name: str) -> float | None:
    """Return the sum of a metric over its labels, as a job serves it at HOST:PORT; None when it does not answer."""
    try:
        with urlopen(f"http://{address}/metrics", timeout=_SCRAPE_S) as response:
            text = response.read().decode()
    except OSError:
        return None
    samples = [each for family in text_string_to_metric_families(text) for each in family.samples if each.name == name]
    return sum(sample.value for sample in samples) if samples else None
