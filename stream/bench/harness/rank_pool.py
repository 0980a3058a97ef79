"""Ranks as processes that live as long as what uses them: a start takes seconds, a step milliseconds."""

import os
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import torch

from model.device import configure_torch
from model.distributed.group import Group
from model.distributed.ranks import Ranks
from model.peers import ALONE, Peers
from stream.local.ports import free_port


class RankPool:
    """So many ranks on this machine, with one thread each; one has no process group at all, as a trainer of one rank.

    Args:
        ranks: how many.
        wait_s: how long a task may take.
    """

    def __init__(self, ranks: int, *, wait_s: float = 60.0) -> None:
        context, port = get_context("spawn"), free_port()
        self._wait_s = wait_s
        self._pipes: list[Connection] = []
        self._processes = []
        for rank in range(ranks):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, rank, ranks, port, wait_s), daemon=True)
            process.start()
            self._pipes.append(ours)
            self._processes.append(process)

    def run(self, task: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Call `task(peers, *arguments of the rank)` on all at once; returns what each returns.

        Raises:
            RuntimeError: when one has raised anything, or takes too long.
        """
        for pipe, given in zip(self._pipes, arguments, strict=True):
            pipe.send((task, given))
        results = []
        for rank, pipe in enumerate(self._pipes):
            if not pipe.poll(self._wait_s):
                raise RuntimeError(f"rank {rank} has not answered for {self._wait_s:.0f} s")
            failed, result = pipe.recv()
            if failed:
                raise RuntimeError(f"rank {rank}: {result}")
            results.append(result)
        return results

    def close(self) -> None:
        """End all."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(10)
            process.kill()


def _serve(pipe: Connection, rank: int, ranks: int, port: int, wait_s: float) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    configure_torch(threads=1)
    peers: Peers = ALONE if ranks == 1 else Ranks(Group(torch.device("cpu"), timeout_s=wait_s))
    while True:
        try:
            task, arguments = pipe.recv()
        except (EOFError, ConnectionResetError):
            return
        try:
            pipe.send((False, task(peers, *arguments)))
        except Exception:
            pipe.send((True, traceback.format_exc()))
