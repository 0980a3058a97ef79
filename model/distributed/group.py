"""The processes that learn together: how they find each other, and what they exchange with one another."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from model.embedding.shards import Rank
from model.errors import PeerError

Ints = npt.NDArray[np.int64]


def rank_of_environment() -> Rank:
    """Return which rank this process is by `RANK` and `WORLD_SIZE`, as `torchrun` sets them; the only one without.

    Raises:
        PeerError: when they are no such numbers.
    """
    number, ranks = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if not (number.isdecimal() and ranks.isdecimal() and int(number) < int(ranks)):
        raise PeerError(
            f"RANK={number} of WORLD_SIZE={ranks} is no rank: start the trainer with --ranks or with torchrun, or unset"
            " both"
        )
    if int(ranks) > 1 and (missing := [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]):
        raise PeerError(
            f"WORLD_SIZE={ranks}, but {' and '.join(missing)} not set: start the trainer with --ranks or with torchrun"
        )
    return Rank(int(number), int(ranks))


def device_of_rank(device: torch.device) -> torch.device:
    """Return the device of this rank: of several GPUs of a machine the one of `LOCAL_RANK`."""
    if str(device) != "cuda":
        return device
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % max(1, torch.cuda.device_count()))


class Group:
    """Collectives of all ranks, over gloo for CPUs and NCCL for GPUs. All ranks call the same ones in the same order.

    Everything travels by three collectives that take what is empty or unequal: `all_gather` of equal sizes,
    `all_to_all_single` with sizes that both sides know, and `all_reduce` of one dense tensor.

    Args:
        device: of tensors that learn.
        timeout_s: how long a rank that lives may keep the others waiting; one that ends is noticed at once.
        on_exchange: called with its name before each exchange.

    Attributes:
        rank: which one this is.
        sent: name of an exchange → bytes that this rank has put into it.

    Raises:
        PeerError: when not all ranks come together in that time.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        timeout_s: float,
        on_exchange: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.rank = rank_of_environment()
        self.sent: Counter[str] = Counter()
        self._on_exchange = on_exchange
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        if device.type == "cuda":
            torch.cuda.set_device(device)
        with self._exchange("join"):
            dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))

    def close(self) -> None:
        """Leave the others."""
        dist.destroy_process_group()

    def gather(self, name: str, numbers: Sequence[int]) -> Ints:
        """Return (ranks, n): the n whole numbers of each rank."""
        own = torch.tensor(numbers, dtype=torch.int64)
        found = own.new_empty(self.rank.ranks, len(own))
        with self._exchange(name, own):
            dist.all_gather(list(found.unbind()), own)
        gathered: Ints = found.numpy()
        return gathered

    def swap(self, name: str, parts: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
        """Send each rank a one-dimensional tensor; returns what each has sent here.

        Args:
            name: of the exchange.
            parts: what each rank is to have, in rank order; of one type and device.
            sizes: how many numbers each rank sends here.
        """
        outgoing = torch.cat([*parts])
        incoming = outgoing.new_empty(sum(sizes))
        with self._exchange(name, outgoing):
            dist.all_to_all_single(incoming, outgoing, list(sizes), [len(part) for part in parts])
        return list(torch.split(incoming, list(sizes)))

    def swap_counts(self, name: str, counts: Ints) -> Ints:
        """Send each rank a row of the (ranks, n) counts; returns (ranks, n) what each has sent here."""
        outgoing = torch.from_numpy(np.ascontiguousarray(counts))
        incoming = torch.empty_like(outgoing)
        with self._exchange(name, outgoing):
            dist.all_to_all_single(incoming, outgoing)
        received: Ints = incoming.numpy()
        return received

    def add(self, name: str, tensor: Tensor) -> Tensor:
        """Return the sum of a tensor over all ranks: the same bits on each."""
        total = tensor.detach().clone()
        with self._exchange(name, total):
            dist.all_reduce(total)
        return total

    def share(self, name: str, content: bytes) -> list[bytes]:
        """Return what each rank says, in rank order."""
        sizes = self.gather(name, [len(content)])[:, 0].tolist()
        own = torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)
        return [part.numpy().tobytes() for part in self.swap(name, [own] * self.rank.ranks, sizes)]

    @contextmanager
    def _exchange(self, name: str, outgoing: Tensor | None = None) -> Iterator[None]:
        """Count what goes out; what torch raises when another rank has gone becomes one of ours."""
        self._on_exchange(name)
        if outgoing is not None:
            self.sent[name] += outgoing.numel() * outgoing.element_size()
        try:
            yield
        except RuntimeError as error:
            raise PeerError(
                f"rank {self.rank.number} of {self.rank.ranks} has lost another one at {name!r}: {_said(error)}."
                " The logs of the others say why; start all ranks again: they go on from the newest checkpoint"
            ) from None


def _said(error: RuntimeError) -> str:
    """Return what torch says went wrong, without the place in its source and its advice."""
    text = (str(error).splitlines() or [repr(error)])[0]
    return re.sub(r"^\[\S+:\d+\] ", "", text).partition(". ")[0]
