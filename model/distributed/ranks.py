"""A step of several ranks: rows of tables from their owners and gradients back, sums of what is dense."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from model.distributed.group import Group, Ints
from model.embedding.keys import Keys
from model.embedding.learned import Gathered, Leaf, LearnedTable
from model.embedding.shards import owners

Tables = Mapping[str, LearnedTable]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The distinct keys of a batch, those of the first owner first.

    Attributes:
        keys: (U,) distinct keys other than 0.
        times: (U,) how often each is in the batch.
        counts: (ranks,) how many of them each rank owns.
        positions: (n,) of each of the batch's keys, its place among them, from 1 on; 0 for key 0.
    """

    keys: Keys
    times: npt.NDArray[np.int64]
    counts: Ints
    positions: npt.NDArray[np.int64]

    @classmethod
    def of(cls, keys: Keys, ranks: int) -> Self:
        """Return those of (n,) keys."""
        there = np.flatnonzero(keys)
        distinct, inverse, times = np.unique(keys[there], return_inverse=True, return_counts=True)
        owner = owners(distinct, ranks)
        order = np.argsort(owner, kind="stable")
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(1, len(order) + 1)
        positions = np.zeros(len(keys), np.int64)
        positions[there] = place[inverse]
        return cls(distinct[order], times[order], np.bincount(owner, minlength=ranks), positions)


@dataclass(frozen=True, slots=True)
class _Borrowed(Leaf):
    """Vectors that other ranks own.

    Attributes:
        sent: (ranks,) how many rows each owner has sent.
        lent: (ranks,) how many rows of the own table each rank has got.
        own: what all ranks have taken of the own table, in rank order.
    """

    sent: Ints
    lent: Ints
    own: Gathered


class Ranks:
    """The ranks of a group as `Peers`.

    A step's keys, vectors and gradients travel in one exchange each, of all tables together. Every rank makes all
    exchanges, however little it has. Owners add gradients in rank order, so that a step is the same whenever it is
    taken.

    Args:
        group: of the ranks.
    """

    def __init__(self, group: Group) -> None:
        self.group = group
        self.rank = group.rank

    def total(self, sums: Tensor) -> Tensor:
        """See `Sums.total`."""
        return self.group.add("sums", sums)

    def concatenated(self, rows: Tensor) -> Tensor:
        """See `Sums.concatenated`."""
        counts = self.group.gather("rows", [len(rows)])[:, 0]
        parts = self.group.swap("rows", [rows.flatten()] * self.rank.ranks, (counts * rows.shape[1]).tolist())
        return torch.cat(parts).view(-1, rows.shape[1])

    def take(self, tables: Tables, keys: Mapping[str, Keys]) -> dict[str, _Borrowed]:
        """See `Peers.take`."""
        if not tables:
            return {}
        wanted = {name: _Wanted.of(keys[name], self.rank.ranks) for name in tables}
        sent = np.stack([each.counts for each in wanted.values()], axis=1)
        lent = self.group.swap_counts("counts", sent)
        asked = [torch.from_numpy(np.stack([each.keys.view(np.int64), each.times], axis=1)) for each in wanted.values()]
        received = self._swap_rows("keys", asked, sent, lent)
        own, replies = {}, []
        for (name, table), rows in zip(tables.items(), received, strict=True):
            theirs, times = rows.numpy().T
            own[name] = table.take(np.ascontiguousarray(theirs).view(np.uint64), times)
            replies.append(own[name].embed().detach())
        vectors = self._swap_rows("vectors", replies, lent, sent)
        taken = {}
        for place, (name, table) in enumerate(tables.items()):
            leaf = torch.cat([vectors[place].new_zeros(1, table.dim), vectors[place]]).requires_grad_()
            positions = torch.from_numpy(wanted[name].positions).to(leaf.device)
            taken[name] = _Borrowed(leaf, positions, sent[:, place], lent[:, place], own[name])
        return taken

    @torch.no_grad()
    def collect(self, tables: Tables, taken: Mapping[str, Leaf]) -> dict[str, Gathered]:
        """See `Peers.collect`."""
        borrowed = {name: each for name in tables if isinstance(each := taken[name], _Borrowed)}
        if not borrowed:
            return {}
        sent = np.stack([each.sent for each in borrowed.values()], axis=1)
        lent = np.stack([each.lent for each in borrowed.values()], axis=1)
        gradients = [
            each.vectors[1:].detach() * 0 if each.vectors.grad is None else each.vectors.grad[1:]
            for each in borrowed.values()
        ]
        for each, rows in zip(borrowed.values(), self._swap_rows("gradients", gradients, sent, lent), strict=True):
            gradient = torch.zeros_like(each.own.vectors)
            splits = each.lent.tolist()
            # One rank after the other: of each, a row has at most one gradient.
            for part, at in zip(torch.split(rows, splits), torch.split(each.own.positions, splits), strict=True):
                gradient.index_add_(0, at, part)
            each.own.vectors.grad = gradient
        return {name: each.own for name, each in borrowed.items()}

    def gather(self, tables: Tables, keys: Mapping[str, Keys]) -> dict[str, Tensor]:
        """See `Peers.gather`."""
        return {name: each.embed().detach() for name, each in self.take(tables, keys).items()}

    @torch.no_grad()
    def reduce(self, parameters: Iterable[nn.Parameter], checks: Tensor) -> Tensor:
        """See `Peers.reduce`. One exchange; a parameter that no rank has a gradient of keeps none."""
        learned = list(parameters)
        there = checks.new_tensor([each.grad is not None for each in learned])
        gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in learned]
        flat = self.group.add("dense", torch.cat([checks, there, *(each.flatten() for each in gradients)]))
        sizes = [len(checks), len(learned), *(each.numel() for each in learned)]
        summed, some, *parts = torch.split(flat, sizes)
        for parameter, part, of_some in zip(learned, parts, some.tolist(), strict=True):
            parameter.grad = part.view_as(parameter) if of_some else None
        return summed

    def _swap_rows(self, name: str, tables: Sequence[Tensor], sent: Ints, received: Ints) -> list[Tensor]:
        """Send rows of several tables, and return the rows of each that came, in rank order.

        Args:
            name: of the exchange.
            tables: (U, width) rows of each, those of the first rank first.
            sent: (ranks, tables) how many rows each rank is to have.
            received: (ranks, tables) how many rows each rank sends.
        """
        widths = [rows.shape[1] for rows in tables]
        split = [torch.split(rows, sent[:, place].tolist()) for place, rows in enumerate(tables)]
        parts = [torch.cat([rows[rank].flatten() for rows in split]) for rank in range(self.rank.ranks)]
        came = self.group.swap(name, parts, (received * widths).sum(axis=1).tolist())
        blocks = [torch.split(part, (counts * widths).tolist()) for part, counts in zip(came, received, strict=True)]
        return [torch.cat([of_rank[place] for of_rank in blocks]).view(-1, width) for place, width in enumerate(widths)]
