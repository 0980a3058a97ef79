"""Ranks as processes that live as long as the tests that use them: a start takes seconds, a step milliseconds."""

import os
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import torch

from model.distributed.group import Group
from model.distributed.ranks import Ranks
from stream.local.ports import free_port

_WAIT_S = 60.0


class RankPool:
    """So many ranks on this machine."""

    def __init__(self, ranks: int) -> None:
        context, port = get_context("spawn"), free_port()
        self._pipes: list[Connection] = []
        self._processes = []
        for rank in range(ranks):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, rank, ranks, port), daemon=True)
            process.start()
            self._pipes.append(ours)
            self._processes.append(process)

    def run(self, task: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Call `task(ranks, *arguments of the rank)` on all at once; returns what each returns.

        What is raised on any of them is raised here.
        """
        for pipe, given in zip(self._pipes, arguments, strict=True):
            pipe.send((task, given))
        results = []
        for rank, pipe in enumerate(self._pipes):
            assert pipe.poll(_WAIT_S), f"rank {rank} does not answer"
            failed, result = pipe.recv()
            assert not failed, f"rank {rank}: {result}"
            results.append(result)
        return results

    def close(self) -> None:
        """End all."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(10)
            process.kill()


def _serve(pipe: Connection, rank: int, ranks: int, port: int) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    group = Group(torch.device("cpu"), timeout_s=_WAIT_S)
    while True:
        try:
            task, arguments = pipe.recv()
        except (EOFError, ConnectionResetError):
            return
        try:
            pipe.send((False, task(Ranks(group), *arguments)))
        except Exception:
            pipe.send((True, traceback.format_exc()))
