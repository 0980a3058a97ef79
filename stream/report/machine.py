"""Describes the machine that a report or benchmark ran on."""

import importlib.metadata
import os
import platform
from datetime import UTC, datetime
from pathlib import Path

from stream.report.schema import Machine

_LIBRARIES = ("samstream", "torch", "numpy", "confluent-kafka", "rocksdict")


def this_machine(device: str = "cpu") -> Machine:
    """Describe the machine this runs on."""
    versions = {}
    for library in _LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return Machine(
        cpu=_cpu_name(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_gb=round(memory, 1),
        python=platform.python_version(),
        versions=versions,
        device=device,
    )


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def this_run(command: str) -> dict[str, str]:
    """Return the date (UTC) and the command, to be kept beside the figures."""
    return {"date": datetime.now(UTC).date().isoformat(), "command": command}
