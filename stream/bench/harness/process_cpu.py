"""CPU time of other processes, user and system, as Linux tells it in /proc."""

import os
from collections import defaultdict
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of a process so far, with those of threads that have ended."""
    return _seconds(Path(f"/proc/{pid}/stat"))


def cpu_seconds_by_thread_name(pid: int) -> dict[str, float]:
    """Return the name of a thread → the CPU seconds so far of the threads with that name that live."""
    seconds: defaultdict[str, float] = defaultdict(float)
    for thread in Path(f"/proc/{pid}/task").iterdir():
        try:
            seconds[(thread / "comm").read_text().strip()] += _seconds(thread / "stat")
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
    return seconds


def _seconds(stat: Path) -> float:
    # Behind the name in parentheses, which may hold spaces: the state is field 3, user and system time 14 and 15.
    user, system = stat.read_text().rpartition(")")[2].split()[11:13]
    return _TICK_S * (int(user) + int(system))
