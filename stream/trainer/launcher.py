"""Runs the ranks of a trainer as processes of this machine: one that ends, ends all."""

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from stream.local.ports import free_port
from stream.local.processes import describe_exit, kill_with_parent
from stream.runtime.logs import log

_logger = logging.getLogger("samstream.trainer")

_LOOK_S = 0.1
_END_S = 10.0
"""How long ranks have to end by themselves when another one has: they notice it, and say so in their logs."""
_THREADS = "OMP_NUM_THREADS"


def run_ranks(ranks: int, arguments: Sequence[str], stop: threading.Event) -> int:
    """Run `samstream trainer ARGUMENTS` so many times, as torchrun would; returns the exit status.

    Args:
        ranks: how many processes.
        arguments: of each.
        stop: ends all in order.
    """
    shared = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1"}
    shared["MASTER_PORT"] = str(free_port())
    if sys.platform == "linux":
        shared["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME", "lo")
    children: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(ranks):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank), _THREADS: os.environ.get(_THREADS, "1")}
            children.append(
                subprocess.Popen(
                    [sys.executable, "-m", "stream.cli", "trainer", *arguments],
                    stdin=subprocess.DEVNULL,
                    env={**os.environ, **shared, **own},
                    preexec_fn=kill_with_parent,
                    start_new_session=True,  # Ctrl-C reaches them through this process
                )
            )
        return _watch(children, stop)
    finally:
        for child in children:
            child.kill()
            child.wait()


def _watch(children: Sequence[subprocess.Popen[bytes]], stop: threading.Event) -> int:
    """Wait until all have ended; those that do not when another one has failed are killed."""
    asked, deadline, status = False, None, 0
    while any(child.poll() is None for child in children):
        if stop.wait(_LOOK_S) and not asked:
            asked = True
            for child in children:
                child.terminate()
        elif asked:
            time.sleep(_LOOK_S)  # the event stays set
        failed = [rank for rank, child in enumerate(children) if child.poll() not in (None, 0)]
        if failed and deadline is None:
            deadline = time.monotonic() + _END_S
            how = describe_exit(children[failed[0]].returncode)
            log(_logger, "rank_ended", logging.ERROR, rank=failed[0], how=how, remedy="all ranks end; start them again")
        if deadline is not None and time.monotonic() > deadline:
            for child in children:
                child.kill()
    for child in children:
        status = status or (1 if child.returncode else 0)
    return status
