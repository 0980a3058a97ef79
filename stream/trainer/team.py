"""The ranks of a trainer in step: what they agree on before each turn, and that they are set alike."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Protocol

import msgspec
import numpy as np

from model.distributed.group import Group
from model.embedding.shards import ONLY, Rank
from model.peers import WholeStep
from stream.errors import SettingsError, TrainerError
from stream.settings import Settings
from stream.trainer.arm_trainer import ArmStep

_OWN = "trainer.metrics"
"""The only setting that may differ from rank to rank."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What is to be done in a turn of all ranks: what any of them wants.

    Attributes:
        learn: take a step on what was gathered.
        publish: publish what has changed.
        save: write a checkpoint.
        restart: publish everything, since the topic of updates was recreated.
        stop: learn, publish, save, and end.
    """

    learn: bool = False
    publish: bool = False
    save: bool = False
    restart: bool = False
    stop: bool = False

    def __bool__(self) -> bool:
        """Return whether anything is to be done."""
        return any(astuple(self))


@dataclass(frozen=True, slots=True)
class Agreed:
    """What all ranks do now.

    Attributes:
        turn: what is done.
        steps: for each arm, what all ranks have gathered.
        samples: distinct labelled items that all have learned.
    """

    turn: Turn
    steps: Sequence[ArmStep]
    samples: int


class Team(Protocol):
    """The ranks of a trainer, as one of them sees them.

    Attributes:
        rank: which one this is.
        step: turns taken together.
    """

    rank: Rank
    step: int

    def agree(self, wanted: Turn, steps: Sequence[ArmStep], samples: int, failure: Exception | None) -> Agreed:
        """Say what this rank wants and has, and return what all do; an error of any rank ends all.

        Args:
            wanted: by this rank.
            steps: for each arm, what this rank has gathered.
            samples: that this rank has learned.
            failure: what has gone wrong on this rank.

        Raises:
            Exception: `failure`.
            TrainerError: when another rank has failed.
        """

    def share(self, content: bytes) -> list[bytes]:
        """Return what each rank says, in rank order; also waits until all have come so far."""


class Solo:
    """One rank: what it wants is done."""

    rank = ONLY
    step = 0

    def agree(self, wanted: Turn, steps: Sequence[ArmStep], samples: int, failure: Exception | None) -> Agreed:
        """See `Team.agree`."""
        if failure is not None:
            raise failure
        return Agreed(wanted, steps, samples)

    def share(self, content: bytes) -> list[bytes]:
        """See `Team.share`."""
        return [content]


SOLO = Solo()


class RankTeam:
    """The ranks of a group: each turn begins with one small all_gather, in which all come to the same decisions.

    Args:
        group: of the ranks.
    """

    def __init__(self, group: Group) -> None:
        self._group = group
        self.rank = group.rank
        self.step = 0

    def agree(self, wanted: Turn, steps: Sequence[ArmStep], samples: int, failure: Exception | None) -> Agreed:
        """See `Team.agree`."""
        flags = [failure is not None, *astuple(wanted)]
        own = [(sum(each.examples), each.whole.labels, each.whole.now) for each in steps]
        found = self._group.gather("agree", [self.step, samples, *flags, *(number for arm in own for number in arm)])
        if failure is not None:
            raise failure
        if failed := np.flatnonzero(found[:, 2]).tolist():
            raise TrainerError(
                f"rank {failed[0]} has failed, and its log says why: all ranks end. Start them again: they go on from"
                " the newest checkpoint"
            )
        if len(set(found[:, 0].tolist())) > 1:
            raise TrainerError(f"the ranks are at different turns, {found[:, 0].tolist()}: start all of them again")
        self.step += 1
        first = 2 + len(flags)
        turn: list[bool] = np.any(found[:, 3:first], axis=0, keepdims=True)[0].tolist()
        arms = found[:, first:].reshape(len(found), len(own), 3)
        return Agreed(
            Turn(*turn),
            [
                ArmStep(tuple(arm[:, 0].tolist()), WholeStep(int(arm[:, 1].sum()), int(arm[:, 2].max())))
                for arm in arms.swapaxes(0, 1)
            ],
            int(found[:, 1].sum()),
        )

    def share(self, content: bytes) -> list[bytes]:
        """See `Team.share`."""
        return self._group.share("share", content)


def partitions_of(rank: Rank, count: int) -> list[int]:
    """Return which of so many partitions a rank reads.

    >>> partitions_of(Rank(1, 3), 8)
    [1, 4, 7]
    """
    return list(range(rank.number, count, rank.ranks))


def address_of_rank(address: str, rank: Rank) -> str:
    """Return HOST:PORT for the metrics of a rank: the port of the first one, and those after it.

    >>> address_of_rank("0.0.0.0:9102", Rank(1, 2)), address_of_rank("", Rank(1, 2))
    ('0.0.0.0:9103', '')
    """
    host, colon, port = address.rpartition(":")
    if not rank.number or not port.isdecimal() or port == "0":
        return address
    return f"{host}{colon}{int(port) + rank.number}"


def check_settings(settings: Settings, team: Team) -> None:
    """Refuse to start with other settings than the first rank; they are compared by checksums, so no secret travels.

    Raises:
        SettingsError: names the ranks and what they have set differently; the same on all ranks.
    """
    first, *others = [msgspec.json.decode(said, type=dict[str, str]) for said in team.share(_summary(settings))]
    for rank, theirs in enumerate(others, start=1):
        if differing := sorted(key for key in first.keys() | theirs.keys() if first.get(key) != theirs.get(key)):
            raise SettingsError(
                f"rank {rank} has other settings than rank 0: {', '.join(differing)}. Give all ranks the same, but for"
                f" {_OWN}, then start them again"
            )


def _summary(settings: Settings) -> bytes:
    flat = dict(_flat("", msgspec.to_builtins(settings)))
    flat.pop(_OWN)
    return msgspec.json.encode({key: hashlib.sha256(repr(value).encode()).hexdigest() for key, value in flat.items()})


def _flat(name: str, value: Any) -> Iterator[tuple[str, object]]:
    """Yield the names and values of all settings; arms by their names."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _flat(f"{name}.{key}" if name else key, each)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for place, each in enumerate(value):
            yield from _flat(f"{name}.{each.get('name', place)}", each)
    else:
        yield name, value
